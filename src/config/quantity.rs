//! Single values: how a duration, a percentage or a header name is written, and its limits.
//!
//! Never knows which key a value belongs to, and never repeats what may be a secret.

mod http;
mod net;
mod number;
mod tls;
mod word;

use schemars::Schema;

pub(super) use self::http::{
    CookieName, FieldName, FieldValue, Hostname, MethodName, Parameter, PathExact, PathPrefix,
    Pattern, Target,
};
pub(super) use self::net::{
    CidrText, CollectorUrl, DnsTarget, Endpoint, FilePath, KubernetesName, ListenAddress,
    ServerUrl, ServicePort, WebhookUrl,
};
pub(super) use self::number::{Count, Flag, Percent, Rate, RatioNumber, Size, Span, SpanOrZero};
pub(super) use self::tls::{ClientAuthWord, ServerNameText, SpiffeId, TlsVersionWord};
pub(super) use self::word::{
    BalanceWord, ErrorLimit, HoldWord, InFlightWord, LatencyWord, Limit, LineFormatWord,
    LineMemberWord, ModelName, Name, ObjectiveBreach, OffWord, OtlpProtocolWord, Protocol,
    QuantileKey, Relative, RetryWord, RolloutBreach, RuleRef, ServiceName, StreamsWord, Text,
    UntilWord, VersionText,
};

use crate::config::defect::Code;
use crate::config::tree::{Scalar, shown};

/// A kind of single value.
pub(super) trait Quantity {
    /// What it means.
    type Value;

    /// Reads it; a fault says what to write instead.
    fn parse(scalar: &Scalar) -> Result<Self::Value, Fault>;

    /// What an editor may know about it.
    fn schema() -> Schema;
}

/// Why a value is none.
#[derive(Debug)]
pub(super) struct Fault {
    pub code: Code,
    pub message: String,
    pub help: String,
}

impl Fault {
    /// `` `text` is no … ``.
    fn of(code: Code, scalar: &Scalar, what: impl AsRef<str>, help: impl Into<String>) -> Self {
        let what = what.as_ref();
        let message = match scalar.text.as_str() {
            "" => format!("an empty text {what}"),
            text => format!("`{}` {what}", shown(text)),
        };
        Self { code, message, help: help.into() }
    }

    /// Without the text itself.
    fn silent(code: Code, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { code, message: message.into(), help: help.into() }
    }
}

/// A text of a JSON Schema with a pattern and an example.
fn text_schema(pattern: &str, example: &str) -> Schema {
    schemars::json_schema!({ "type": "string", "pattern": pattern, "examples": [example] })
}

#[cfg(test)]
mod tests;
