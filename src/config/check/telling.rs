//! What is told of single requests: access log and traces.
//!
//! Never lets a secret into a log: fields that hold one are refused by name.

use http::HeaderName;

use crate::config::check::Checker;
use crate::config::defect::Code;
use crate::config::read::At;
use crate::config::{AccessLog, OtlpProtocol, Tracing, raw};
use crate::traffic::fields::holds_a_secret;
use crate::units::Ratio;

/// Fields of a line; more would be the request itself.
const HEADERS_MAX: usize = 16;

impl Checker<'_> {
    pub(super) fn access_log(&mut self, at: &At<raw::AccessLog>) -> Option<AccessLog> {
        let raw = at.get()?;
        let file = self.value(&raw.file);
        let format = self.value(&raw.format).unwrap_or_default();
        let share = self.value(&raw.sample).unwrap_or(Ratio::ONE);
        let mut members = Vec::new();
        for item in raw.fields.items() {
            let Some((id, member)) = self.placed(item) else { continue };
            if members.contains(&member) {
                let message = format!("`{}` stands here twice", member.as_str());
                self.report.add(id, Code::DuplicateName, message, "keep one of the two");
            } else {
                members.push(member);
            }
        }
        self.at_most(&raw.headers, HEADERS_MAX, "keep those that people look for");
        let mut headers: Vec<HeaderName> = Vec::new();
        for item in raw.headers.items() {
            let Some((id, name)) = self.placed(item) else { continue };
            if holds_a_secret(name.as_str()) {
                let message = format!("`{name}` holds secrets and is never logged");
                let help = "leave it out; `x-request-id` and `client` tell who asked";
                self.report.add(id, Code::Secret, message, help);
            } else if headers.contains(&name) {
                let message = format!("`{name}` stands here twice");
                self.report.add(id, Code::DuplicateName, message, "keep one of the two");
            } else {
                headers.push(name);
            }
        }
        Some(AccessLog { file, format, share, headers, members })
    }

    pub(super) fn tracing(&mut self, at: &At<raw::Tracing>) -> Option<Tracing> {
        let raw = at.get()?;
        let otlp = self.placed(&raw.otlp);
        let protocol = self.value(&raw.protocol).unwrap_or_default();
        if let Some((id, url)) = otlp.as_ref().filter(|_| protocol == OtlpProtocol::Grpc)
            && url.path().len() > 1
        {
            let message = format!("gRPC has a path of its own: `{}` would be left out", url.path());
            let help = "write `http://host:4317`, or `protocol: http`";
            self.report.add(*id, Code::Address, message, help);
        }
        let share = self.value(&raw.sample).unwrap_or(Tracing::SHARE);
        let bad = self.value(&raw.bad_per_second).unwrap_or(Tracing::BAD_PER_SECOND);
        let service = self.value(&raw.service).unwrap_or_else(|| Tracing::SERVICE.to_owned());
        let (_, otlp) = otlp?;
        Some(Tracing { otlp, protocol, share, bad_per_second: bad, service })
    }
}
