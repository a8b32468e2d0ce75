//! What is told of single requests.

use serde_json::{Value, json};

use crate::config::{AccessLog, LineFormat, OtlpProtocol, Tracing};
use crate::control::dump::{list, map};

pub(super) fn access_log(log: &AccessLog) -> Value {
    let AccessLog { file, format, share, headers, members } = log;
    let format = match format {
        LineFormat::Json => "json",
        LineFormat::Text => "text",
    };
    map([
        ("file", json!(file)),
        ("format", format.into()),
        ("sample", share.to_string().into()),
        ("headers", list(headers, |name| name.as_str().into())),
        ("fields", list(members, |member| member.as_str().into())),
    ])
}

pub(super) fn tracing(tracing: &Tracing) -> Value {
    let Tracing { otlp, protocol, share, bad_per_second, service } = tracing;
    let protocol = match protocol {
        OtlpProtocol::Http => "http",
        OtlpProtocol::Grpc => "grpc",
    };
    map([
        ("otlp", otlp.to_string().into()),
        ("protocol", protocol.into()),
        ("sample", share.to_string().into()),
        ("bad_per_second", (*bad_per_second).into()),
        ("service", service.as_str().into()),
    ])
}
