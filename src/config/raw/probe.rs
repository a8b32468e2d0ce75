//! Requests of Serin's own, as written.
//!
//! Never says whether it makes sense.

use schemars::{JsonSchema, Schema, SchemaGenerator};

use crate::config::quantity::{FieldName, FieldValue, MethodName, Span, Target, Text};
use crate::config::read::{As, At, Keys, ObjectSchema, Pairs, Read, maps};
use crate::config::tree::{Node, Report};

maps! {
    /// Requests of Serin's own to both versions, for a canary that few users reach.
    Probe later ["objectives"] {
        /// From one to the next; at least 1s.
        may every: As<Span> = "10s",
        /// What is sent.
        must request: ProbeRequest,
    }

    /// A request of Serin's own.
    ProbeRequest later [] {
        /// In capitals. One that changes something is sent all the same: that is for you to know.
        may method: As<MethodName> = "GET",
        /// With a query, if it is to have one.
        must path: As<Target>,
        /// Headers and their values, beside those that every request gets.
        may headers: Pairs<FieldName, As<FieldValue>>,
        /// Its body; at most 64 KiB. Default: none.
        may body: As<Text>,
    }
}
