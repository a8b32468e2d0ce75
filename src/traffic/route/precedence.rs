//! Why one rule goes before another that fits as well, in words.
//!
//! Never finds a rule: `Table` does, and what is said here is held to it by a test.

use crate::traffic::matching::{HostPattern, Match, PathMatch, host_name};
use crate::traffic::route::Specificity;

/// A rule's hostnames, and the match of it that fits; `None` where it has none.
pub type Fitting<'a> = (&'a [HostPattern], Option<&'a Match>);

/// The first point of the precedence list on which `winner` and `loser` differ. Both fit a
/// request for `host`.
pub fn decided_by(winner: Fitting<'_>, loser: Fitting<'_>, host: Option<&str>) -> &'static str {
    let (won, lost) = (host_rank(winner.0, host), host_rank(loser.0, host));
    if won != lost {
        return match won {
            (2, _) => "an exact hostname goes before any other",
            (1, _) if lost.0 == 0 => "a hostname goes before none",
            _ => "a longer hostname goes before a shorter one",
        };
    }
    let (won, lost) = (path_rank(winner.1), path_rank(loser.1));
    if won != lost {
        return match won {
            (2, _) => "an exact path goes before a prefix, and that before a regex",
            (1, _) if lost.0 == 0 => "a prefix goes before a regex",
            _ => "a longer prefix goes before a shorter one",
        };
    }
    let specificity = |one: Option<&Match>| one.map(Specificity::of).unwrap_or_default();
    let (won, lost) = (specificity(winner.1), specificity(loser.1));
    if won.method != lost.method {
        "a match that names a method goes before one that does not"
    } else if won.headers != lost.headers {
        "more headers (cookies, client and model among them) go before fewer"
    } else if won.query != lost.query {
        "more query parameters go before fewer"
    } else {
        "nothing else tells them apart, so the first in the file goes first"
    }
}

fn host_rank(patterns: &[HostPattern], host: Option<&str>) -> (u8, usize) {
    let Some(host) = host.map(host_name) else { return (0, 0) };
    let fitting = patterns.iter().filter(|pattern| pattern.fits(&host));
    let rank = |pattern: &HostPattern| match pattern {
        HostPattern::Exact(name) => (2, name.len()),
        HostPattern::Wildcard(parent) => (1, parent.len()),
    };
    fitting.map(rank).max().unwrap_or_default()
}

fn path_rank(one: Option<&Match>) -> (u8, usize) {
    match one.and_then(|one| one.path.as_ref()) {
        Some(PathMatch::Exact(path)) => (2, path.len()),
        Some(PathMatch::Prefix(path)) => (1, path.len()),
        Some(PathMatch::Regex(_)) => (0, 0),
        None => (1, 0),
    }
}

#[cfg(test)]
mod tests {
    use http::Method;
    use regex::bytes::Regex;

    use super::*;
    use crate::traffic::fields::Fields;
    use crate::traffic::matching::{ModelView, RequestView, ValueMatch};
    use crate::traffic::route::{Entry, Table};

    #[test]
    fn what_is_said_is_what_the_table_does() {
        let host = |text: &str| vec![HostPattern::parse(text).unwrap()];
        let path = |path: PathMatch| Match { path: Some(path), ..Match::default() };
        let prefix = |text: &str| path(PathMatch::prefix(text).unwrap());
        let absent = ValueMatch::Present(false);
        let header = Match { headers: vec![("x".parse().unwrap(), absent.clone())], ..prefix("/") };
        let query = Match { query: vec![("x".to_owned(), absent)], ..prefix("/") };
        // From the best to the last, each beaten by the one before for the reason beside it.
        let order = [
            (host("a.b.c"), Some(prefix("/")), ""),
            (host("*.b.c"), Some(prefix("/")), "an exact hostname"),
            (host("*.c"), Some(prefix("/")), "a longer hostname"),
            (vec![], Some(path(PathMatch::exact("/p/q").unwrap())), "a hostname"),
            (vec![], Some(prefix("/p/q")), "an exact path"),
            (vec![], Some(prefix("/p")), "a longer prefix"),
            (vec![], Some(Match { method: Some(Method::GET), ..prefix("/") }), "a longer prefix"),
            (vec![], Some(header), "a match that names a method"),
            (vec![], Some(query), "more headers"),
            (vec![], None, "more query parameters"),
            (vec![], Some(prefix("/")), "nothing else"),
            (vec![], Some(path(PathMatch::Regex(Regex::new("q").unwrap()))), "a prefix"),
        ];
        let (fields, host) = (Fields::default(), Some("a.b.c"));
        let request = RequestView {
            method: &Method::GET,
            host,
            path: "/p/q",
            query: None,
            fields: &fields,
            client: None,
            model: ModelView::Read(None),
        };
        for pair in order.windows(2) {
            let [better, worse] = pair else { unreachable!("windows of two") };
            // Where only the order of the file decides, it is not turned round.
            let turned = if worse.2 == "nothing else" { [better, worse] } else { [worse, better] };
            let entries = turned.iter().enumerate().map(|(rule, (hostnames, one, _))| Entry {
                hostnames,
                matches: one.as_slice(),
                rule,
            });
            let found = Table::new(entries).find(&request).unwrap().rule;
            assert!(std::ptr::eq(turned[found], better), "{better:?} before {worse:?}");
            let (won, lost) = ((&*better.0, better.1.as_ref()), (&*worse.0, worse.1.as_ref()));
            let said = decided_by(won, lost, host);
            assert!(said.starts_with(worse.2), "{said}, not {}", worse.2);
        }
    }
}
