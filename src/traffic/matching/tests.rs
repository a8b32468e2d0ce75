use super::*;

#[test]
fn hosts_ignore_case_port_and_a_trailing_dot() {
    for (authority, name) in [
        ("example.com", "example.com"),
        ("Example.COM:8080", "example.com"),
        ("example.com.", "example.com"),
        ("example.com.:443", "example.com"),
        ("[::1]:8080", "[::1]"),
        ("[::1]", "[::1]"),
        ("127.0.0.1:80", "127.0.0.1"),
    ] {
        assert_eq!(host_name(authority), name, "{authority}");
    }
}

#[test]
fn a_wildcard_takes_one_label_or_more() {
    let pattern = HostPattern::parse("*.Example.com").unwrap();
    for (host, fits) in [
        ("a.example.com", true),
        ("a.b.example.com", true),
        ("example.com", false),
        (".example.com", false),
        ("aexample.com", false),
        ("example.com.evil.org", false),
    ] {
        assert_eq!(pattern.fits(host), fits, "{host}");
    }
}

#[test]
fn what_is_no_hostname_says_why() {
    for (text, error) in [
        ("", HostError::Everything),
        ("*", HostError::Everything),
        ("a.*.com", HostError::Star),
        ("*a.com", HostError::Star),
        ("a.com:80", HostError::Port),
        ("a..com", HostError::Label),
        ("a b.com", HostError::Label),
    ] {
        assert_eq!(HostPattern::parse(text), Err(error), "{text}");
    }
}

#[test]
fn dot_segments_are_resolved_and_nothing_else() {
    for (path, resolved) in [
        ("/", Some("/")),
        ("/a/b", Some("/a/b")),
        ("/a/./b", Some("/a/b")),
        ("/a/../b", Some("/b")),
        ("/a/b/..", Some("/a/")),
        ("/a/.", Some("/a/")),
        ("/a/%2e%2E/b", Some("/b")),
        ("/a/.%2e/b", Some("/b")),
        ("/.hidden/...", Some("/.hidden/...")),
        ("/a//b", Some("/a//b")),
        ("/a//../b", Some("/a/b")),
        ("/a%2F..%2Fb", Some("/a%2F..%2Fb")),
        ("/a/..", Some("/")),
        ("/..", None),
        ("/a/../../b", None),
        ("/%2e%2e/etc", None),
        ("*", Some("*")),
    ] {
        assert_eq!(resolve_path(path).ok().as_deref(), resolved, "{path}");
    }
}

#[test]
fn a_prefix_takes_whole_segments() {
    for (prefix, path, fits) in [
        ("/v2/models/sentiment", "/v2/models/sentiment", true),
        ("/v2/models/sentiment", "/v2/models/sentiment/infer", true),
        ("/v2/models/sentiment", "/v2/models/sentiments", false),
        ("/v2/", "/v2", true),
        ("/v2/", "/v2/x", true),
        ("/", "/anything", true),
        ("/", "*", true),
    ] {
        assert_eq!(PathMatch::prefix(prefix).unwrap().fits(path), fits, "{prefix} {path}");
    }
}

#[test]
fn paths_that_no_request_can_have_are_refused() {
    for (path, error) in
        [("v2", PathError::NoSlash), ("/a?b=1", PathError::Query), ("/a/../b", PathError::Dots)]
    {
        assert_eq!(PathMatch::prefix(path).unwrap_err(), error, "{path}");
        assert_eq!(PathMatch::exact(path).unwrap_err(), error, "{path}");
    }
}

fn fits(condition: &Match, headers: &[(&str, &str)], query: Option<&str>) -> bool {
    condition.fits(&RequestView {
        method: &Method::GET,
        host: None,
        path: "/",
        query,
        fields: &Fields::of(headers),
        client: None,
        model: ModelView::Unread,
    })
}

fn exact(value: &str) -> ValueMatch {
    ValueMatch::Exact(value.to_owned())
}

#[test]
fn a_header_fits_when_one_of_its_lines_does() {
    let name = HeaderName::from_static("x-cohort");
    let condition = Match { headers: vec![(name.clone(), exact("beta"))], ..Match::default() };
    assert!(fits(&condition, &[("x-cohort", "alpha"), ("X-Cohort", "beta")], None));
    assert!(!fits(&condition, &[("x-cohort", "betas")], None));
    assert!(!fits(&condition, &[], None));

    let regex = ValueMatch::Regex(Regex::new("(?i)android|iphone").unwrap());
    let condition = Match { headers: vec![(name.clone(), regex)], ..Match::default() };
    assert!(fits(&condition, &[("x-cohort", "Mozilla (Android 9)")], None));

    let absent = Match { headers: vec![(name, ValueMatch::Present(false))], ..Match::default() };
    assert!(fits(&absent, &[], None));
    assert!(!fits(&absent, &[("x-cohort", "")], None));
}

#[test]
fn a_cookie_is_found_among_others() {
    let condition =
        Match { cookies: vec![("cohort".to_owned(), exact("beta"))], ..Match::default() };
    assert!(fits(&condition, &[("cookie", "a=1; cohort=beta; b=2")], None));
    assert!(fits(&condition, &[("cookie", "a=1"), ("cookie", "cohort=beta")], None));
    assert!(!fits(&condition, &[("cookie", "xcohort=beta; Cohort=beta; cohort")], None));
}

#[test]
fn a_query_is_decoded_and_its_first_value_counts() {
    let condition = Match { query: vec![("q".to_owned(), exact("a b"))], ..Match::default() };
    assert!(fits(&condition, &[], Some("x=1&q=a%20b")));
    assert!(fits(&condition, &[], Some("q=a+b&q=c")));
    assert!(!fits(&condition, &[], Some("q=c&q=a%20b")));
    assert!(!fits(&condition, &[], None));
}
