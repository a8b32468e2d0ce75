//! Requests of Serin's own.
//!
//! Never sends one.

use http::Method;
use http::uri::PathAndQuery;

use crate::config::check::mirrors::NOT_TO_SET;
use crate::config::check::{Checker, Seen};
use crate::config::defect::Code;
use crate::config::raw;
use crate::config::read::At;
use crate::rollout::objective::Objective;
use crate::rollout::plan::is_probed;
use crate::traffic::probe::{PROBE_EVERY_DEFAULT, PROBE_EVERY_MIN, Probe};
use crate::units::duration_text;

/// A longer body is no probe.
const BODY_BYTES_MAX: usize = 64 << 10;

impl Checker<'_> {
    /// What a rollout's `probe` sends.
    pub(super) fn probe(&mut self, at: &At<raw::probe::Probe>) -> Option<Probe> {
        let raw = at.get()?;
        let every = self.placed(&raw.every);
        if let Some((id, every)) = every
            && every < PROBE_EVERY_MIN
        {
            let message = format!("`{}` is shorter than 1s", duration_text(every));
            self.report.add(id, Code::Duration, message, "write at least `1s`: it is no load test");
        }
        let request = raw.request.get()?;
        let method = self.value(&request.method).unwrap_or(Method::GET);
        let target = self.value(&request.path);
        let target: Option<PathAndQuery> = target.and_then(|path| path.parse().ok());
        let mut seen = Seen::of(Code::DuplicateName, "case does not matter: keep one");
        let mut headers = Vec::new();
        for (key, value) in request.headers.get().map_or(&[][..], |pairs| &pairs.entries) {
            let value = self.value(value);
            let Some((id, name)) = self.placed(key) else { continue };
            if NOT_TO_SET.contains(&name.as_str()) && name != http::header::HOST {
                self.framing(id, &name);
            }
            self.once(&mut seen, id, name.as_str(), &format!("`{name}` is set twice"));
            headers.extend(value.map(|value| (name, value)));
        }
        let body = self.placed(&request.body);
        if let Some((id, body)) = &body
            && body.len() > BODY_BYTES_MAX
        {
            let message = format!("the body has {} bytes", body.len());
            self.report.add(*id, Code::TooMany, message, "write at most 64 KiB");
        }
        Some(Probe {
            every: every.map_or(PROBE_EVERY_DEFAULT, |(_, every)| every),
            method,
            target: target?,
            headers,
            body: body.map(|(_, body)| body.into_bytes()).unwrap_or_default(),
        })
    }

    /// Probes are judged by a limit on errors alone.
    pub(super) fn probe_has_limit(&mut self, at: &At<raw::probe::Probe>, all: &[Objective]) {
        if at.get().is_some() && !all.iter().any(is_probed) {
            let message = "there is no objective that a probe could breach";
            let help = "add `errors: 1%` to `objectives`: probes are judged by a limit on errors";
            self.report.add(at.id, Code::Objective, message, help);
        }
    }
}
