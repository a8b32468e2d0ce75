"""Every link of the site that mdBook made leads somewhere: to a file of it, and to an anchor there.

    book.py target/book

Links to elsewhere are not asked. Started by `just book`.
"""

import html.parser
import pathlib
import sys
import urllib.parse

# Made by mdBook of all pages at once, or shown at any path.
NOT_PAGES = {"print.html", "404.html", "toc.html"}


class Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.anchors, self.links = set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.anchors.add(attributes.get("id"))
        self.links += [attributes[name] for name in ("href", "src") if attributes.get(name)]


def main(folder):
    root = pathlib.Path(folder).resolve()
    pages = {path: Page(path.read_text()) for path in root.rglob("*.html")}
    count, faults = 0, []
    for path, page in pages.items():
        if path.name in NOT_PAGES:
            continue
        for link in page.links:
            url = urllib.parse.urlsplit(link)
            if url.scheme or url.netloc:
                continue
            count += 1
            to = (path.parent / urllib.parse.unquote(url.path)).resolve() if url.path else path
            where = f"{path.relative_to(root)}: {link}"
            if not to.is_file():
                faults.append(f"{where}: is not there")
            elif to in pages and url.fragment:
                if urllib.parse.unquote(url.fragment) not in pages[to].anchors:
                    faults.append(f"{where}: no such anchor")
    print(f"{len(pages)} pages, {count} links within the site, {len(faults)} faults")
    for fault in faults:
        print(fault, file=sys.stderr)
    if count < 500:
        sys.exit(f"FAILED: only {count} links: is {root} the site?")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
