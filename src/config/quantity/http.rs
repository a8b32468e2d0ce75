//! Parts of requests: names and values of fields, methods, hostnames, paths, patterns.
//!
//! Never repeats a header's value: it may be a token.

use http::{HeaderName, HeaderValue, Method};
use regex::bytes::{Regex, RegexBuilder};
use schemars::{Schema, json_schema};

use crate::config::defect::Code;
use crate::config::quantity::{Fault, Quantity, text_schema};
use crate::config::tree::Scalar;
use crate::traffic::matching::{HostPattern, PathMatch};

/// Bytes that a compiled pattern may take: a pattern runs on every request.
const REGEX_BYTES_MAX: usize = 1 << 20;
/// Bytes of a pattern as written.
const PATTERN_BYTES_MAX: usize = 4096;

/// A header's name; case does not matter.
pub struct FieldName;

impl Quantity for FieldName {
    type Value = HeaderName;

    fn parse(scalar: &Scalar) -> Result<HeaderName, Fault> {
        HeaderName::from_bytes(scalar.text.as_bytes()).map_err(|_| {
            let help = match scalar.text.strip_prefix(':') {
                Some("method") => "match a method with `method`",
                Some("path") => "match a path with `path`",
                Some("authority") => "match a host with `hostnames`",
                _ => "letters, digits and `-`, as in `x-user-id`",
            };
            Fault::of(Code::Field, scalar, "is not a header name", help)
        })
    }

    fn schema() -> Schema {
        text_schema(TOKEN_PATTERN, "x-user-id")
    }
}

const TOKEN_PATTERN: &str = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$";

/// A header's value.
pub struct FieldValue;

impl Quantity for FieldValue {
    type Value = HeaderValue;

    fn parse(scalar: &Scalar) -> Result<HeaderValue, Fault> {
        let text = scalar.text.as_str();
        HeaderValue::from_str(text).ok().filter(|_| text.trim() == text).ok_or_else(|| {
            let help = "write one line of visible ASCII, without spaces around it";
            Fault::silent(Code::Field, "this is not a header value", help)
        })
    }

    fn schema() -> Schema {
        json_schema!({ "type": ["string", "number", "boolean"] })
    }
}

/// A cookie's name; case matters.
pub struct CookieName;

impl Quantity for CookieName {
    type Value = String;

    fn parse(scalar: &Scalar) -> Result<String, Fault> {
        // RFC 6265 takes a token, which is what a header's name is.
        HeaderName::from_bytes(scalar.text.as_bytes()).map(|_| scalar.text.clone()).map_err(|_| {
            let help = "letters, digits, `-` and `_`, as in `cohort`";
            Fault::of(Code::Field, scalar, "is not a cookie name", help)
        })
    }

    fn schema() -> Schema {
        text_schema(TOKEN_PATTERN, "cohort")
    }
}

/// A query parameter's name, decoded; case matters.
pub struct Parameter;

impl Quantity for Parameter {
    type Value = String;

    fn parse(scalar: &Scalar) -> Result<String, Fault> {
        if scalar.text.is_empty() {
            let help = "write the parameter's name, as in `debug`";
            return Err(Fault::of(Code::Field, scalar, "is not a parameter name", help));
        }
        Ok(scalar.text.clone())
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "minLength": 1 })
    }
}

/// A request method, in capitals.
pub struct MethodName;

impl Quantity for MethodName {
    type Value = Method;

    fn parse(scalar: &Scalar) -> Result<Method, Fault> {
        let text = scalar.text.as_str();
        let upper = text.to_ascii_uppercase();
        let Ok(method) = Method::from_bytes(upper.as_bytes()) else {
            let help = "write one method, as in `POST`";
            return Err(Fault::of(Code::Method, scalar, "is not a method", help));
        };
        if upper != text {
            let help = format!("methods are written in capitals: `{method}`");
            return Err(Fault::of(Code::Method, scalar, "is not a method", help));
        }
        Ok(method)
    }

    fn schema() -> Schema {
        text_schema(r"^[!#$%&'*+.^_`|~0-9A-Z-]+$", "POST")
    }
}

/// A hostname: `example.com` or `*.example.com`.
pub struct Hostname;

impl Quantity for Hostname {
    type Value = HostPattern;

    fn parse(scalar: &Scalar) -> Result<HostPattern, Fault> {
        HostPattern::parse(&scalar.text).map_err(|error| {
            let help = "write a name such as `example.com` or `*.example.com`";
            Fault::of(Code::Hostname, scalar, error.to_string(), help)
        })
    }

    fn schema() -> Schema {
        text_schema(r"^(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?$", "*.example.com")
    }
}

/// A path prefix of whole segments.
pub struct PathPrefix;

impl Quantity for PathPrefix {
    type Value = PathMatch;

    fn parse(scalar: &Scalar) -> Result<PathMatch, Fault> {
        PathMatch::prefix(&scalar.text).map_err(|error| bad_path(scalar, &error.to_string()))
    }

    fn schema() -> Schema {
        text_schema("^/[^?#]*$", "/v2/models/sentiment")
    }
}

/// A whole path.
pub struct PathExact;

impl Quantity for PathExact {
    type Value = PathMatch;

    fn parse(scalar: &Scalar) -> Result<PathMatch, Fault> {
        PathMatch::exact(&scalar.text).map_err(|error| bad_path(scalar, &error.to_string()))
    }

    fn schema() -> Schema {
        text_schema("^/[^?#]*$", "/v2/models/sentiment/infer")
    }
}

/// What a health check asks for: a path, with a query if need be.
pub struct Target;

impl Quantity for Target {
    type Value = String;

    fn parse(scalar: &Scalar) -> Result<String, Fault> {
        let text = scalar.text.as_str();
        let is_target = text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic());
        if is_target && text.parse::<::http::uri::PathAndQuery>().is_ok() {
            return Ok(text.to_owned());
        }
        let help = "write a path such as `/v2/health/ready`";
        Err(Fault::of(Code::Path, scalar, "is not a path", help))
    }

    fn schema() -> Schema {
        text_schema("^/[!-~]*$", "/v2/health/ready")
    }
}

fn bad_path(scalar: &Scalar, why: &str) -> Fault {
    let help = if scalar.text.starts_with(['^', '(']) {
        "write a pattern as `path: { regex: … }`"
    } else {
        "write a path such as `/v2/models/sentiment`"
    };
    Fault::of(Code::Path, scalar, why, help)
}

/// A regular expression, searched for anywhere.
pub struct Pattern;

impl Quantity for Pattern {
    type Value = Regex;

    fn parse(scalar: &Scalar) -> Result<Regex, Fault> {
        let text = scalar.text.as_str();
        if text.len() > PATTERN_BYTES_MAX {
            let what = format!("is longer than {PATTERN_BYTES_MAX} bytes");
            return Err(Fault::of(Code::Regex, scalar, what, "split it over several matches"));
        }
        let built = RegexBuilder::new(text)
            .size_limit(REGEX_BYTES_MAX)
            .dfa_size_limit(REGEX_BYTES_MAX)
            .build();
        built.map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => {
                let help = "use smaller repetitions, or split it over several matches";
                Fault::of(Code::Regex, scalar, "compiles to more than 1MiB", help)
            }
            error => {
                // The last line of a syntax error says what is wrong; the others draw it.
                let text = error.to_string();
                let why = text.lines().last().unwrap_or_default();
                let why = why.trim_start_matches("error: ").to_owned();
                let help = "see https://docs.rs/regex for the syntax; there is no look-around";
                Fault::of(Code::Regex, scalar, format!("is no regular expression: {why}"), help)
            }
        })
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "maxLength": PATTERN_BYTES_MAX })
    }
}
