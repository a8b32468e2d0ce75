use http::{HeaderName, Method};
use proptest::prelude::*;

use super::*;
use crate::traffic::fields::{Fields, Name};
use crate::traffic::matching::{ModelView, ValueMatch};

/// One rule of a table: `host` (`-` is every host), then path (`=/x` exact, `~x` regex,
/// `/x` prefix, `-` none), then method, `header=value` and `?name=value` conditions.
fn rule(text: &str) -> (Vec<HostPattern>, Match) {
    let mut words = text.split(' ');
    let hosts = match words.next().unwrap() {
        "-" => Vec::new(),
        host => vec![HostPattern::parse(host).unwrap()],
    };
    let mut condition = Match {
        path: match words.next().unwrap() {
            "-" => None,
            path if path.starts_with('=') => Some(PathMatch::exact(&path[1..]).unwrap()),
            path if path.starts_with('~') => {
                Some(PathMatch::Regex(Regex::new(&path[1..]).unwrap()))
            }
            path => Some(PathMatch::prefix(path).unwrap()),
        },
        ..Match::default()
    };
    for word in words {
        if let Some((name, value)) = word.strip_prefix('?').and_then(|word| word.split_once('=')) {
            condition.query.push((name.to_owned(), ValueMatch::Exact(value.to_owned())));
        } else if let Some((name, value)) = word.split_once('=') {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            condition.headers.push((name, ValueMatch::Exact(value.to_owned())));
        } else {
            condition.method = Some(word.parse().unwrap());
        }
    }
    (hosts, condition)
}

fn table(rules: &[(Vec<HostPattern>, Match)]) -> Table {
    Table::new(rules.iter().enumerate().map(|(rule, (hostnames, condition))| Entry {
        hostnames,
        matches: std::slice::from_ref(condition),
        rule,
    }))
}

/// Rules as [`rule`] reads them; a request as `METHOD host path?query header=value…`.
fn check(rules: &[&str], requests: &[(&str, Option<usize>)]) {
    let rules: Vec<_> = rules.iter().map(|text| rule(text)).collect();
    let table = table(&rules);
    for (text, expected) in requests {
        let mut words = text.split(' ');
        let method: Method = words.next().unwrap().parse().unwrap();
        let host = words.next().unwrap();
        let target = words.next().unwrap();
        let (path, query) = target.split_once('?').map_or((target, None), |(p, q)| (p, Some(q)));
        let fields: Vec<_> = words.filter_map(|word| word.split_once('=')).collect();
        let request = RequestView {
            method: &method,
            host: Some(host),
            path,
            query,
            fields: &Fields::of(&fields),
            client: None,
            model: ModelView::Unread,
        };
        assert_eq!(table.find(&request).map(|found| found.rule), *expected, "{text}");
    }
}

#[test]
fn hostname_comes_before_path() {
    check(
        &["- =/a", "*.example.com /a", "*.b.example.com /", "a.example.com /"],
        &[
            ("GET a.example.com /a", Some(3)),
            ("GET A.Example.com.:80 /a", Some(3)),
            ("GET x.example.com /a", Some(1)),
            ("GET x.b.example.com /a", Some(2)),
            ("GET b.example.com /a", Some(1)),
            ("GET example.com /a", Some(0)),
            ("GET example.com /b", None),
        ],
    );
}

#[test]
fn a_wildcard_serves_a_name_whose_exact_route_has_no_fitting_rule() {
    check(
        &["a.example.com /a", "*.example.com /", "- /"],
        &[("GET a.example.com /b", Some(1)), ("GET other.org /b", Some(2))],
    );
}

#[test]
fn exact_comes_before_the_longest_prefix_and_regex_comes_last() {
    check(
        &["- /", "- ~^/a", "- /a", "- /a/b", "- =/a/b/c"],
        &[
            ("GET h /a/b/c", Some(4)),
            ("GET h /a/b/c/", Some(3)),
            ("GET h /a/b", Some(3)),
            ("GET h /a", Some(2)),
            ("GET h /ab", Some(0)),
        ],
    );
    check(
        &["- ~^/a", "- /b"],
        &[("GET h /ab", Some(0)), ("GET h /b", Some(1)), ("GET h /c", None)],
    );
}

#[test]
fn method_comes_before_headers_before_queries_before_order() {
    check(
        &["- /", "- / ?a=1", "- / x=1", "- / x=1 y=2", "- / POST", "- /"],
        &[
            ("POST h /?a=1 x=1 y=2", Some(4)),
            ("GET h /?a=1 x=1 y=2", Some(3)),
            ("GET h /?a=1 x=1", Some(2)),
            ("GET h /?a=1", Some(1)),
            ("GET h /", Some(0)),
        ],
    );
}

#[test]
fn the_asterisk_form_goes_to_the_root() {
    check(&["- /a", "- /"], &[("OPTIONS h *", Some(1))]);
    check(&["- /a"], &[("OPTIONS h *", None)]);
}

/// The precedence list as it is written, over every rule.
fn find_slowly(rules: &[(Vec<HostPattern>, Match)], request: &RequestView<'_>) -> Option<usize> {
    let host = host_name(request.host.unwrap());
    let host_rank = |hosts: &[HostPattern]| {
        if hosts.is_empty() {
            return Some((0, 0));
        }
        let fitting = hosts.iter().filter(|pattern| pattern.fits(&host));
        fitting
            .map(|pattern| match pattern {
                HostPattern::Exact(_) => (2, 0),
                HostPattern::Wildcard(parent) => (1, parent.len()),
            })
            .max()
    };
    let path_rank = |condition: &Match| match &condition.path {
        Some(PathMatch::Exact(_)) => (2, 0),
        Some(PathMatch::Prefix(prefix)) => (1, prefix.len()),
        None => (1, 0),
        Some(PathMatch::Regex(_)) => (0, 0),
    };
    let ranked = rules.iter().enumerate().filter_map(|(index, (hosts, condition))| {
        let host = host_rank(hosts)?;
        let rank = (host, path_rank(condition), Specificity::of(condition));
        condition.fits(request).then_some((rank, std::cmp::Reverse(index)))
    });
    ranked.max().map(|(_, std::cmp::Reverse(index))| index)
}

proptest! {
    #[test]
    fn the_index_finds_what_the_list_says(
        rules in prop::collection::vec(
            "(-|a|b\\.a|\\*\\.a|\\*\\.b\\.a) (-|/|/x|/x/y|=/x|=/x/y|~x|~\\^/y)( GET)?( h=1)?( i=1)?( \\?q=1)?",
            1..12,
        ),
        method in "GET|PUT", host in "a|b\\.a|c\\.b\\.a|z", path in "(/|/x|/x/y|/y|/x/y/z|/xy)",
        h: bool, i: bool, query: bool,
    ) {
        let rules: Vec<_> = rules.iter().map(|text| rule(text)).collect();
        let mut fields = Fields::default();
        for (name, _) in [("h", h), ("i", i)].into_iter().filter(|(_, there)| *there) {
            fields.insert(Name::other(name), "1");
        }
        let method: Method = method.parse().unwrap();
        let query = query.then_some("q=1");
        let request =
            RequestView { method: &method, host: Some(&host), path: &path, query, fields: &fields, client: None,
                model: ModelView::Unread };
        prop_assert_eq!(
            table(&rules).find(&request).map(|found| found.rule),
            find_slowly(&rules, &request)
        );
    }
}
