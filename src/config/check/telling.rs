//! What is told of single requests: access log and traces.
//!
//! Never lets a secret into a log: fields that hold one are refused by name.

use http::HeaderName;

use crate::config::check::Checker;
use crate::config::defect::Code;
use crate::config::read::At;
use crate::config::{AccessLog, Tracing, raw};
use crate::units::Ratio;

/// Fields of a line; more would be the request itself.
const HEADERS_MAX: usize = 16;

/// Fields that hold what lets somebody in, or may.
const SECRET: [&str; 14] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "set-cookie",
    "x-api-key",
    "api-key",
    "x-auth-token",
    "x-access-token",
    "x-csrf-token",
    "x-xsrf-token",
    "x-amz-security-token",
    "x-goog-api-key",
    "x-forwarded-client-cert",
    "x-functions-key",
];

impl Checker<'_> {
    pub(super) fn access_log(&mut self, at: &At<raw::AccessLog>) -> Option<AccessLog> {
        let raw = at.get()?;
        let file = self.value(&raw.file);
        let share = self.value(&raw.sample).unwrap_or(Ratio::ONE);
        self.at_most(&raw.headers, HEADERS_MAX, "keep those that people look for");
        let mut headers: Vec<HeaderName> = Vec::new();
        for item in raw.headers.items() {
            let Some((id, name)) = self.placed(item) else { continue };
            if SECRET.contains(&name.as_str()) {
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
        Some(AccessLog { file, share, headers })
    }

    pub(super) fn tracing(&mut self, at: &At<raw::Tracing>) -> Option<Tracing> {
        let raw = at.get()?;
        let otlp = self.value(&raw.otlp);
        let share = self.value(&raw.sample).unwrap_or(Tracing::SHARE);
        let bad = self.value(&raw.bad_per_second).unwrap_or(Tracing::BAD_PER_SECOND);
        let service = self.value(&raw.service).unwrap_or_else(|| Tracing::SERVICE.to_owned());
        Some(Tracing { otlp: otlp?, share, bad_per_second: bad, service })
    }
}
