//! Access log, traces and webhooks, as written.

use schemars::{JsonSchema, Schema, SchemaGenerator};

use crate::config::quantity::{
    CollectorUrl, Count, FieldName, FilePath, LineFormatWord, LineMemberWord, OtlpProtocolWord,
    Percent, ServiceName, WebhookUrl,
};
use crate::config::read::{As, At, Keys, ObjectSchema, Read, maps};
use crate::config::tree::{Node, Report};

maps! {
    /// A line for each request.
    AccessLog later [] {
        /// Where lines are appended. Default: stdout.
        may file: As<FilePath>,
        /// `json`, an object a line, or `text`, pairs of names and values.
        may format: As<LineFormatWord> = "json",
        /// The share of requests that have a line. What ends badly always has one.
        may sample: As<Percent> = "100%",
        /// The members of a line. Default: all that there are.
        may fields: Vec<At<As<LineMemberWord>>>,
        /// Fields of the request that are told, at most 16; none that hold secrets.
        may headers: Vec<At<As<FieldName>>>,
    }

    /// Spans of requests and their attempts, for an OpenTelemetry collector.
    Tracing later ["headers" "tls"] {
        /// The collector: `http://host:4318`. `/v1/traces` is added, but for gRPC, which has no
        /// paths of its own: `http://host:4317`.
        must otlp: As<CollectorUrl>,
        /// What OTLP is spoken over: `http` or `grpc`, protobuf either way.
        may protocol: As<OtlpProtocolWord> = "http",
        /// The share of the traces that begin here. Who sends a `traceparent` decides for its own.
        may sample: As<Percent> = "1%",
        /// Requests that end badly, a second and worker, that are told although their trace is
        /// not sampled; 0 to 1000.
        may bad_per_second: As<Count<0, 1000>> = 10,
        /// What this proxy is called there, in `service.name`.
        may service: As<ServiceName> = "serin",
    }

    /// Who is told.
    Notify later ["secret"] {
        /// Where a JSON message is posted: `https://host/path` or `http://host:port/path`.
        must webhook: As<WebhookUrl>,
    }
}
