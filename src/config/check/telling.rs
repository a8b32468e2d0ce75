//! What is told of single requests: access log and traces.
//!
//! Never lets a secret into a log: fields that hold one are refused by name.

use http::HeaderName;

use crate::config::check::Checker;
use crate::config::defect::Code;
use crate::config::read::At;
use crate::config::{AccessLog, OtlpProtocol, Tracing, raw};
use crate::units::Ratio;

/// Fields of a line; more would be the request itself.
const HEADERS_MAX: usize = 16;

/// Fields that hold what lets somebody in, or may, beside those that say so in their names.
const SECRET: [&str; 3] = ["x-forwarded-client-cert", "x-functions-key", "x-amz-security-token"];

/// Parts of the names of such fields, and their ends.
const SECRET_PARTS: [&str; 8] =
    ["authorization", "cookie", "secret", "password", "passwd", "credential", "api-key", "apikey"];
const SECRET_ENDS: [&str; 2] = ["token", "jwt"];

fn holds_a_secret(name: &str) -> bool {
    SECRET.contains(&name)
        || SECRET_PARTS.iter().any(|part| name.contains(part))
        || SECRET_ENDS.iter().any(|end| name.ends_with(end))
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lets_somebody_in_is_known_by_its_name() {
        for (name, secret) in [
            ("authorization", true),
            ("proxy-authorization", true),
            ("set-cookie", true),
            ("x-api-key", true),
            ("x-goog-api-key", true),
            ("x-auth-token", true),
            ("x-amz-security-token", true),
            ("x-vault-token", true),
            ("x-client-secret", true),
            ("x-forwarded-client-cert", true),
            ("user-agent", false),
            ("idempotency-key", false),
            ("x-tokens-used", false),
        ] {
            assert_eq!(holds_a_secret(name), secret, "{name}");
        }
    }
}
