use std::time::Duration;

use super::*;

fn plain(text: &str) -> Scalar {
    Scalar { text: text.to_owned(), quoted: false }
}

/// Whether `Q` reads each text as the value beside it; `None` is a fault.
fn check<Q: Quantity>(table: &[(&str, Option<Q::Value>)])
where
    Q::Value: std::fmt::Debug + PartialEq,
{
    for (text, expected) in table {
        let found = Q::parse(&plain(text));
        if let Err(fault) = &found {
            assert!(!fault.help.is_empty() && !fault.message.is_empty(), "{text}");
        }
        assert_eq!(found.ok().as_ref(), expected.as_ref(), "{text:?}");
    }
}

#[test]
fn a_duration_has_a_unit_and_an_end() {
    let ms = |ms| Some(Duration::from_millis(ms));
    check::<Span>(&[
        ("200ms", ms(200)),
        ("1.5s", ms(1500)),
        ("5m", ms(300_000)),
        ("1h30m", ms(5_400_000)),
        ("1d", None),
        ("168h", ms(604_800_000)),
        ("250us", Some(Duration::from_micros(250))),
        ("169h", None),
        ("0s", None),
        ("5", None),
        ("1e3", None),
        ("-5s", None),
        ("+5s", None),
        ("5s ago", None),
        ("5x", None),
        ("PT5S", None),
        ("1ns", None),
        ("inf", None),
        ("", None),
        ("99999999999999999999s", None),
    ]);
    check::<SpanOrZero>(&[("0s", ms(0)), ("30s", ms(30_000)), ("0", None)]);
}

#[test]
fn a_percentage_is_exact_and_never_beyond_its_ends() {
    use crate::units::Ratio;
    let ratio = Ratio::new;
    check::<Percent>(&[
        ("25%", ratio(0.25)),
        ("25", ratio(0.25)),
        ("0.1%", ratio(0.001)),
        ("0%", ratio(0.0)),
        ("100 %", ratio(1.0)),
        ("100.1%", None),
        ("-1%", None),
        ("1e1%", None),
        ("NaN", None),
        ("%", None),
        (".5%", None),
        ("1%%", None),
    ]);
    check::<Rate>(&[
        ("1%", ratio(0.01)),
        ("0.25%", ratio(0.0025)),
        ("99.9%", ratio(0.999)),
        ("0%", None),
        ("100%", None),
        ("0.01", None),
        ("1", None),
    ]);
}

#[test]
fn a_bare_rate_is_told_what_it_may_have_meant() {
    for (text, help) in [
        ("0.01", "write `1%`, or `0.01%` if that is what you mean"),
        ("1", "write `1%`"),
        ("x", "write a percentage such as `1%` or `0.25%`"),
    ] {
        assert_eq!(Rate::parse(&plain(text)).unwrap_err().help, help, "{text}");
    }
}

#[test]
fn a_size_has_a_known_unit() {
    check::<Size>(&[
        ("0", Some(0)),
        ("512B", Some(512)),
        ("64KiB", Some(65_536)),
        ("1MiB", Some(1 << 20)),
        ("1 MiB", Some(1 << 20)),
        ("1MB", Some(1_000_000)),
        ("1GiB", Some(1 << 30)),
        ("2GiB", None),
        ("1M", None),
        ("1.5MiB", None),
        ("-1", None),
        ("99999999999999999999", None),
        ("MiB", None),
    ]);
}

#[test]
fn a_count_is_a_plain_number_within_its_limits() {
    check::<Count<1, 1024>>(&[
        ("1", Some(1)),
        ("1024", Some(1024)),
        ("0", None),
        ("1025", None),
        ("1.0", None),
        ("0x10", None),
        ("1_000", None),
        ("+1", None),
        ("99999999999999999999", None),
    ]);
}

#[test]
fn a_flag_is_true_or_false_and_nothing_else() {
    check::<Flag>(&[("true", Some(true)), ("FALSE", Some(false)), ("yes", None), ("on", None)]);
    assert!(Flag::parse(&Scalar { text: "true".to_owned(), quoted: true }).is_err());
}

#[test]
fn an_endpoint_is_an_address_that_can_be_connected_to() {
    check::<Endpoint>(&[
        ("127.0.0.1:9000", "127.0.0.1:9000".parse().ok()),
        ("[::1]:9000", "[::1]:9000".parse().ok()),
        ("127.0.0.1", None),
        ("127.0.0.1:0", None),
        ("0.0.0.0:9000", None),
        ("[::]:9000", None),
        ("model:9000", None),
        ("http://127.0.0.1:9000", None),
        ("127.0.0.1:70000", None),
    ]);
    let fault = Endpoint::parse(&plain("model.svc:9000")).unwrap_err();
    assert!(fault.message.ends_with("is a hostname, not an IP address"));
}

#[test]
fn names_are_short_and_plain() {
    let ok = |text: &str| Some(text.to_owned());
    check::<Name>(&[
        ("v1", ok("v1")),
        ("1.2_3-x", ok("1.2_3-x")),
        (&"a".repeat(63), ok(&"a".repeat(63))),
        (&"a".repeat(64), None),
        ("", None),
        ("-a", None),
        ("a/b", None),
        ("a b", None),
        ("ä", None),
    ]);
}

#[test]
fn a_method_is_written_in_capitals() {
    check::<MethodName>(&[
        ("POST", Some(::http::Method::POST)),
        ("PURGE", ::http::Method::from_bytes(b"PURGE").ok()),
        ("post", None),
        ("GET POST", None),
        ("", None),
    ]);
}

#[test]
fn a_pattern_has_a_size_that_requests_can_bear() {
    for (text, good) in [
        ("(?i)android|iphone", true),
        ("(", false),
        ("(?=a)", false),
        (r"(\w{1000}){1000}", false),
        (&"a".repeat(4097), false),
    ] {
        assert_eq!(Pattern::parse(&plain(text)).is_ok(), good);
    }
}

#[test]
fn a_refused_header_value_is_never_repeated() {
    let fault = FieldValue::parse(&plain("Bearer s3cret\n")).unwrap_err();
    assert!(!format!("{fault:?}").contains("s3cret"));
}
