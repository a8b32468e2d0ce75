//! Whether a request is copied to a shadow, and what the copy looks like.
//!
//! Never decides by how the shadow fares: a budget that is used up is the
//! shell's to find.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method};

use crate::names::BackendName;
use crate::traffic::fields::Fields;
use crate::units::Ratio;

/// One shadow of a rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Mirror {
    /// Gets the copies; its answers are read and dropped.
    pub backend: BackendName,
    /// The share of requests that is copied.
    pub share: Ratio,
    /// Only these are copied: a copy of another method may have side effects.
    pub methods: Vec<Method>,
    /// A request with a larger body is not copied.
    pub body_bytes_max: u64,
    /// Copies under way at once, over all workers; one more is dropped.
    pub in_flight_max: u32,
    /// Removed from the copy's head, before `set`.
    pub remove: Vec<HeaderName>,
    /// Set in the copy's head.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// The name that the shadow knows its model by; `None` is the one that was asked for.
    pub model: Option<Arc<str>>,
}

impl Mirror {
    /// Share, where the config names none.
    pub const SHARE: Ratio = Ratio::ONE;
    /// Bytes, where the config names none.
    pub const BODY_BYTES_MAX: u64 = 1 << 20;
    /// Copies, where the config names none.
    pub const IN_FLIGHT_MAX: u32 = 64;

    /// Whether a request with `method` is copied under `draw`, any number.
    pub fn wants(&self, method: &Method, draw: u64) -> bool {
        self.share.takes(draw) && self.methods.contains(method)
    }

    /// Makes the head of a request the head of its copy.
    pub fn dress(&self, fields: &mut Fields) {
        for name in &self.remove {
            fields.remove(name);
        }
        for (name, value) in &self.set {
            fields.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirror(percent: f64) -> Mirror {
        Mirror {
            backend: "shadow".into(),
            share: Ratio::new(percent / 100.0).unwrap(),
            methods: vec![Method::GET, Method::HEAD],
            body_bytes_max: Mirror::BODY_BYTES_MAX,
            in_flight_max: Mirror::IN_FLIGHT_MAX,
            remove: vec![http::header::AUTHORIZATION],
            set: vec![(HeaderName::from_static("x-shadow"), HeaderValue::from_static("true"))],
            model: None,
        }
    }

    #[test]
    fn the_share_of_draws_is_the_share_of_copies() {
        let copied = (0..1000u64)
            .filter(|step| {
                mirror(25.0).wants(&Method::GET, step * (u64::MAX / 1000) + u64::MAX / 2000)
            })
            .count();
        assert_eq!(copied, 250);
    }

    #[test]
    fn a_method_that_is_not_named_is_never_copied() {
        assert!(mirror(100.0).wants(&Method::HEAD, u64::MAX));
        assert!(!mirror(100.0).wants(&Method::POST, 0));
    }

    #[test]
    fn a_copy_wears_what_the_rule_says() {
        let mut fields = Fields::of(&[
            ("authorization", "secret"),
            ("x-shadow", "a client's"),
            ("x-shadow", "another"),
        ]);
        mirror(100.0).dress(&mut fields);
        assert_eq!(fields, Fields::of(&[("x-shadow", "true")]));
    }
}
