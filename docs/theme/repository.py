#!/usr/bin/env python3
"""A preprocessor of mdBook: links that leave docs/ lead to the repository, links to a README to
the index that mdBook makes of it.

The pages link to files by relative paths, so that they work on a forge and in an editor.
"""

import json
import posixpath
import re
import sys

LINK = re.compile(r"\]\((\.\./[^)\s]*)\)")
README = re.compile(r"\]\(((?:[^)\s:]*/)?)README\.md(#[^)\s]*)?\)")


def outside(page, repository):
    """What to put in place of a link of `page` (a path below docs/)."""

    def put(match):
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), match[1]))
        return match[0] if path.startswith("docs/") else f"]({repository}/blob/main/{path})"

    return put


def walk(items, repository):
    for item in items:
        chapter = item.get("Chapter") if isinstance(item, dict) else None
        if chapter:
            page = chapter.get("path") or ""
            content = LINK.sub(outside(page, repository), chapter["content"])
            chapter["content"] = README.sub(r"](\1index.md\2)", content)
            walk(chapter["sub_items"], repository)


if sys.argv[1:2] == ["supports"]:
    sys.exit(0 if sys.argv[2] == "html" else 1)
context, book = json.load(sys.stdin)
# `sections` before mdBook 0.5.
walk(book.get("items", book.get("sections")), context["config"]["output"]["html"]["git-repository-url"])
json.dump(book, sys.stdout)
