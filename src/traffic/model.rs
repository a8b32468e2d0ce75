//! The `model` that a JSON body asks for, as chat APIs have it, and the same body under another
//! name.
//!
//! Never guesses: a body that names two models names none that a request could be sent by.

use std::borrow::Cow;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::traffic::fields::{Fields, Known};

/// What a body says of the model that it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// A JSON object whose `model` is a text.
    Once {
        /// The text, without its escapes.
        name: String,
        /// Where it stands in the body, in bytes, with its quotes.
        at: Range<usize>,
    },
    /// Nothing that could be read so.
    Never,
    /// The key stands there more than once: who reads the first and who reads the last would
    /// not agree (RFC 8259, section 4).
    Twice,
}

/// Whether a body under `fields` may name its model: it is JSON, and not compressed.
pub fn may_be_named(fields: &Fields) -> bool {
    let plain = fields.get(Known::ContentEncoding).is_none_or(|coding| coding == b"identity");
    let is_json = |kind: &str| {
        let kind = kind.split(';').next().unwrap_or_default().trim();
        let (major, minor) = kind.split_once('/').unwrap_or_default();
        let minor = minor.to_ascii_lowercase();
        // `grpc+json` is a stream of messages.
        let is_json = minor == "json" || (minor.ends_with("+json") && !minor.starts_with("grpc"));
        major.eq_ignore_ascii_case("application") && is_json
    };
    let kind = fields.text(Known::ContentType);
    plain && kind.is_some_and(is_json)
}

impl Named {
    /// Reads a whole body. Only the object itself is looked at, not what lies within its values.
    pub fn of(body: &[u8]) -> Self {
        let Ok(Found { values }) = serde_json::from_slice(body) else { return Self::Never };
        match values[..] {
            [] => Self::Never,
            [value] => match serde_json::from_str(value.get()) {
                Ok(name) => {
                    // The value is a part of the body.
                    let start = value.get().as_ptr().addr() - body.as_ptr().addr();
                    Self::Once { name, at: start..start + value.get().len() }
                }
                Err(_) => Self::Never,
            },
            [..] => Self::Twice,
        }
    }

    /// The name, if there is one.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Once { name, .. } => Some(name),
            Self::Never | Self::Twice => None,
        }
    }
}

/// `name` as it stands in JSON.
pub fn quoted(name: &str) -> String {
    serde_json::Value::from(name).to_string()
}

/// The values of all keys called `model`.
struct Found<'b> {
    values: Vec<&'b RawValue>,
}

impl<'de> Deserialize<'de> for Found<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(Object)
    }
}

struct Object;

impl<'de> Visitor<'de> for Object {
    type Value = Found<'de>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut values = Vec::new();
        while let Some(key) = map.next_key::<Key<'de>>()? {
            // Two are as bad as a thousand.
            if key.0 == "model" && values.len() < 2 {
                values.push(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(Found { values })
    }
}

/// A key without its escapes; most have none.
#[derive(Deserialize)]
struct Key<'b>(#[serde(borrow)] Cow<'b, str>);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn once(name: &str, at: Range<usize>) -> Named {
        Named::Once { name: name.to_owned(), at }
    }

    #[test]
    fn the_name_is_the_objects_own() {
        for (body, named) in [
            (r#"{"model":"chat"}"#, once("chat", 9..15)),
            (r#" { "a": [1, {"model": "no"}] , "model" : "ch\u0061t" } "#, once("chat", 41..52)),
            (r#"{"mod\u0065l":"chat"}"#, once("chat", 14..20)),
            (r#"{"model":""}"#, once("", 9..11)),
            ("", Named::Never),
            ("{", Named::Never),
            ("[]", Named::Never),
            (r#""model""#, Named::Never),
            (r#"{"model":1}"#, Named::Never),
            (r#"{"model":{"model":"chat"}}"#, Named::Never),
            (r#"{"Model":"chat"}"#, Named::Never),
            (r#"{"model":"chat"} x"#, Named::Never),
            (r#"{"model":"chat",}"#, Named::Never),
            (r#"{"model":"a","model":"b"}"#, Named::Twice),
            (r#"{"model":"a","mod\u0065l":"a","model":1}"#, Named::Twice),
        ] {
            assert_eq!(Named::of(body.as_bytes()), named, "{body}");
        }
        assert_eq!(Named::of(b"{\"model\":\"\xff\"}"), Named::Never);
        // However deep it is.
        let deep = format!("{{\"model\":\"chat\",\"a\":{}{}}}", "[".repeat(9999), "]".repeat(9999));
        assert_eq!(Named::of(deep.as_bytes()), once("chat", 9..15));
    }

    #[test]
    fn only_json_that_is_not_compressed_is_read() {
        for (kind, coding, read) in [
            (Some("application/json"), None, true),
            (Some("Application/JSON; charset=utf-8"), Some("identity"), true),
            (Some("application/vnd.api+json"), None, true),
            (Some("application/json"), Some("gzip"), false),
            (Some("application/jsonl"), None, false),
            (Some("application/grpc+json"), None, false),
            (Some("text/plain"), None, false),
            (Some("multipart/form-data; boundary=x"), None, false),
            (None, None, false),
        ] {
            let kinds = kind.map(|kind| (Known::ContentType, kind));
            let codings = coding.map(|coding| (Known::ContentEncoding, coding));
            let fields = kinds.into_iter().chain(codings).collect();
            assert_eq!(may_be_named(&fields), read, "{kind:?} {coding:?}");
        }
    }

    fn put_together(body: &[u8], at: &Range<usize>, name: &str) -> Vec<u8> {
        [&body[..at.start], quoted(name).as_bytes(), &body[at.end..]].concat()
    }

    proptest! {
        #[test]
        fn a_new_name_changes_nothing_else(
            before in "[a-z]{0,9}", old in any::<String>(), new in any::<String>(),
            rest in any::<Vec<i32>>(),
        ) {
            let body = serde_json::json!({ "a": before, "model": old, "rest": rest });
            let text = body.to_string();
            let Named::Once { name, at } = Named::of(text.as_bytes()) else { panic!("{text}") };
            prop_assert_eq!(&name, &old);
            let other = put_together(text.as_bytes(), &at, &new);
            let mut wanted = body;
            wanted["model"] = new.clone().into();
            let got: serde_json::Value = serde_json::from_slice(&other).unwrap();
            prop_assert_eq!(got, wanted);
            prop_assert_eq!(put_together(text.as_bytes(), &at, &old), text.into_bytes());
        }

        #[test]
        fn no_bytes_are_too_strange(body in any::<Vec<u8>>()) {
            let _ = Named::of(&body);
        }
    }
}
