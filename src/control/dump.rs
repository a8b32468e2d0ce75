//! The config in force as JSON, in the shape of the file.
//!
//! Never tells a secret.

use serde_json::{Value, json};

use crate::control::Status;

/// `GET /config_dump`.
pub fn config_dump(status: &Status) -> Value {
    json!({ "generation": status.generation })
}
