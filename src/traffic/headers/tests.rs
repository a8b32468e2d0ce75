use super::*;

#[track_caller]
fn check(fields: &[(&str, &str)], left: &[(&str, &str)]) {
    let mut headers = Fields::of(fields);
    strip_hop_by_hop(&mut headers);
    assert_eq!(headers, Fields::of(left));
}

#[test]
fn fields_of_this_hop_do_not_pass() {
    check(
        &[
            ("host", "a"),
            ("connection", "keep-alive"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("proxy-connection", "keep-alive"),
            ("accept", "*/*"),
        ],
        &[("host", "a"), ("accept", "*/*")],
    );
}

#[test]
fn what_is_only_spelled_like_a_proxys_word_does_not_pass() {
    check(
        &[
            ("x_forwarded_for", "9.9.9.9"),
            ("x-forwarded_for", "9.9.9.9"),
            ("x-forwarded-for", "8.8.8.8"),
            ("x_forwarded-host", "other"),
            ("x_forwarded_proto", "https"),
            ("x-forwarded-host", "h"),
            ("accept-language", "de"),
        ],
        &[("x-forwarded-for", "8.8.8.8"), ("x-forwarded-host", "h"), ("accept-language", "de")],
    );
}

#[test]
fn what_connection_nominates_does_not_pass() {
    check(
        &[
            ("connection", "close, X-One"),
            ("connection", "x-two,,"),
            ("x-one", "1"),
            ("x-two", "2"),
            ("x-three", "3"),
        ],
        &[("x-three", "3")],
    );
}

#[test]
fn however_much_is_nominated_what_is_there_and_named_goes() {
    let many: Vec<_> = (0..20_000).map(|number| format!("N{number}")).collect();
    let list =
        many.join(", ") + ", keep-alive,X_One ,host,x-forwarded_for,TE,x-request-ID,traceparent";
    check(
        &[
            ("connection", &list),
            ("n7", "1"),
            ("n20000", "2"),
            ("x_one", "3"),
            ("x-one", "4"),
            ("n7", "5"),
            ("x-request-id", "6"),
            ("content_length", "7"),
            ("date", "8"),
        ],
        &[("n20000", "2"), ("x-one", "4"), ("content_length", "7"), ("date", "8")],
    );
    check(
        &[("connection", "content_length"), ("content_length", "7"), ("transfer_encoding", "8")],
        &[("transfer_encoding", "8")],
    );
}

#[test]
fn framing_and_host_stay_even_when_they_are_nominated() {
    check(
        &[("connection", "host, content-length"), ("host", "a"), ("content-length", "3")],
        &[("host", "a"), ("content-length", "3")],
    );
}

#[test]
fn te_trailers_is_told() {
    let strip = |value: &str| strip_hop_by_hop(&mut Fields::of(&[("te", value)])).te_trailers;
    assert!(strip("trailers"));
    assert!(strip("deflate, Trailers"));
    assert!(!strip("deflate"));
    assert!(!strip_hop_by_hop(&mut Fields::of(&[("accept", "trailers")])).te_trailers);
}

#[test]
fn lists_grow_into_one_line() {
    let name = "x-forwarded-for";
    let mut fields = Fields::of(&[(name, "1.1.1.1"), ("a", "b"), (name, "2.2.2.2")]);
    fields.append_to_list(Known::XForwardedFor, "3.3.3.3");
    assert_eq!(fields, Fields::of(&[(name, "1.1.1.1, 2.2.2.2, 3.3.3.3"), ("a", "b")]));
    fields.append_to_list(Known::XForwardedProto, "http");
    assert_eq!(fields.text(Known::XForwardedProto), Some("http"));
}

#[test]
fn ids_have_their_standard_form() {
    assert_eq!(
        &request_id(0x0123_4567_89ab_cdef, 0x0123_4567_89ab_cdef),
        b"01234567-89ab-4def-8123-456789abcdef"
    );
    assert_eq!(&traceparent(0, 0, 0), b"00-00000000000000000000000000000001-0000000000000001-00");
    assert!(keeps_traceparent(&traceparent(u64::MAX, 5, 7)));
    assert!(keeps_request_id(&request_id(1, 2)));
}

#[test]
fn malformed_ids_are_not_kept() {
    for value in [
        "00-00000000000000000000000000000000-0000000000000001-00",
        "00-00000000000000000000000000000001-0000000000000000-00",
        "00-0000000000000000000000000000000G-0000000000000001-00",
        "ff-00000000000000000000000000000001-0000000000000001-00",
        "00-00000000000000000000000000000001-0000000000000001-00-x",
        "00-1-1-00",
        "",
    ] {
        assert!(!keeps_traceparent(value.as_bytes()), "{value}");
    }
    let later = "01-00000000000000000000000000000001-0000000000000001-00-x";
    assert!(keeps_traceparent(later.as_bytes()));
    for value in ["", "a b", &"x".repeat(129)] {
        assert!(!keeps_request_id(value.as_bytes()), "{value}");
    }
}

#[test]
fn a_host_is_a_name_or_an_address_and_a_port_at_the_most() {
    for host in [
        "",
        "a",
        "A.example.com",
        "a_b",
        "a~b",
        "a%20-b",
        "0z",
        "a:80",
        "a:",
        "[::1]",
        "[::1]:8080",
        "1.2.3.4:0",
    ] {
        assert!(is_host(host.as_bytes()), "{host}");
    }
    for host in [
        ":80", "a b", "a,b", "u@a", "u:p@a", "a:b", "a:1:2", "a:123456", "[::1", "[]", "[::1]x",
        "[g]", "a/b", "a?", "a#", "a\\b", "ü",
    ] {
        assert!(!is_host(host.as_bytes()), "{host}");
    }
}

#[test]
fn nobody_says_by_a_field_whose_certificate_they_have() {
    for name in ["x-forwarded-client-cert", "X-Forwarded-Client-Cert", "x_forwarded_client-cert"] {
        let kept = ("x-forwarded-client-certs", "kept");
        let mut fields = Fields::of(&[(name, "a"), (name, "b"), kept]);
        strip_hop_by_hop(&mut fields);
        assert_eq!(fields, Fields::of(&[kept]), "{name}");
    }
}

#[test]
fn nobody_says_in_a_trailer_where_they_come_from() {
    let mut trailers = HeaderMap::new();
    for name in ["x-forwarded-for", "x_forwarded-client-cert", "forwarded", "x-request-id"] {
        trailers.insert(HeaderName::from_static(name), "a".parse().unwrap());
    }
    trailers.insert("x-checksum", "kept".parse().unwrap());
    strip_trailers(&mut trailers);
    assert_eq!(trailers.len(), 1, "{trailers:?}");
}

#[test]
fn every_field_of_one_hop_is_found_by_its_name() {
    for name in [
        "connection",
        "Keep-Alive",
        "te",
        "TRANSFER-ENCODING",
        "upgrade",
        "proxy-connection",
        "expect",
    ] {
        check(&[(name, "a"), ("accept", "b"), (name, "c")], &[("accept", "b")]);
    }
}
