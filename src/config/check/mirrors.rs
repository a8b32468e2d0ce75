//! Mirrors: what is copied, and what the copies look like.
//!
//! Never repeats the value of a header: it may be a token.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method};

use crate::config::Backend;
use crate::config::check::{Checker, Seen};
use crate::config::defect::Code;
use crate::config::raw;
use crate::config::read::At;
use crate::config::tree::NodeId;
use crate::traffic::mirror::Mirror;

/// Fields that belong to one connection or to the message's framing (RFC 9110, section
/// 7.6.1): Serin sees to those itself.
pub(super) const NOT_TO_SET: [&str; 11] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// What a message cannot do without. The others are never in a copy anyway.
const NOT_TO_REMOVE: [&str; 3] = ["content-length", "host", "transfer-encoding"];

impl Checker<'_> {
    pub(super) fn mirrors(&mut self, rule: &raw::Rule, backends: &[Backend]) -> Vec<Mirror> {
        let mut seen = Seen::of(Code::DuplicateName, "keep one mirror for each backend");
        let mut mirrors = Vec::new();
        for raw in rule.mirrors.items().iter().filter_map(At::get) {
            let percent = self.value(&raw.percent);
            let methods: Vec<_> =
                raw.methods.items().iter().filter_map(|one| self.value(one)).collect();
            self.not_empty(&raw.methods, "a method, or leave the key out for GET and HEAD");
            let body_bytes_max = self.value(&raw.max_body);
            let in_flight_max = self.value(&raw.max_in_flight);
            let model = self.value(&raw.model).map(Arc::from);
            let (remove, set) =
                raw.headers.get().map_or_else(Default::default, |raw| self.dress(raw));
            let Some(backend) = self.backend_name(&raw.backend, backends) else { continue };
            let message = format!("this rule has a mirror to `{backend}` already");
            self.once(&mut seen, raw.backend.id, backend.as_str(), &message);
            self.not_serving(rule, raw, backend.as_str());
            mirrors.push(Mirror {
                backend,
                share: percent.unwrap_or(Mirror::SHARE),
                methods: if raw.methods.is_there() {
                    methods
                } else {
                    vec![Method::GET, Method::HEAD]
                },
                body_bytes_max: body_bytes_max.unwrap_or(Mirror::BODY_BYTES_MAX),
                in_flight_max: in_flight_max.unwrap_or(Mirror::IN_FLIGHT_MAX),
                remove,
                set,
                model,
            });
        }
        mirrors
    }

    fn not_serving(&mut self, rule: &raw::Rule, mirror: &raw::Mirror, backend: &str) {
        let mut serving = rule.backends.items().iter().filter_map(At::get);
        if serving.any(|one| one.name.get().is_some_and(|name| name.scalar.text == backend)) {
            let message = format!("`{backend}` serves this rule too: it would get copies on top");
            let help = "mirror to a backend of its own";
            self.report.add(mirror.backend.id, Code::MirrorToServing, message, help);
        }
    }

    fn dress(
        &mut self,
        raw: &raw::MirrorHeaders,
    ) -> (Vec<HeaderName>, Vec<(HeaderName, HeaderValue)>) {
        let mut remove = Vec::new();
        for at in raw.remove.items() {
            let Some((id, name)) = self.placed(at) else { continue };
            if NOT_TO_REMOVE.contains(&name.as_str()) {
                self.framing(id, &name);
            }
            remove.push(name);
        }
        let mut seen = Seen::of(Code::DuplicateName, "case does not matter: keep one");
        let mut set = Vec::new();
        for (key, value) in raw.set.get().map_or(&[][..], |pairs| &pairs.entries) {
            let value = self.value(value);
            let Some((id, name)) = self.placed(key) else { continue };
            if NOT_TO_SET.contains(&name.as_str()) {
                self.framing(id, &name);
            }
            self.once(&mut seen, id, name.as_str(), &format!("`{name}` is set twice"));
            set.extend(value.map(|value| (name, value)));
        }
        (remove, set)
    }

    pub(super) fn framing(&mut self, id: NodeId, name: &HeaderName) {
        let message = format!("`{name}` belongs to the connection or the message's framing");
        self.report.add(id, Code::HopByHop, message, "leave it out: Serin sees to it");
    }
}
