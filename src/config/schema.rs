//! The JSON Schema of the file, for editors.
//!
//! Never says more than `raw` does, but how many entries lists and maps have.

use schemars::SchemaGenerator;
use serde_json::Value;

use crate::config::raw::File;

/// How many entries a list or a map has at least and at most, for the JSON Schema alone:
/// the checks say it in words.
const COUNTS: [(&str, u32, Option<u32>); 18] = [
    ("/properties/listeners", 1, None),
    ("/properties/backends", 1, None),
    ("/properties/routes", 1, None),
    ("/$defs/Backend/properties/endpoints", 0, Some(1024)),
    ("/$defs/Route/properties/hostnames", 1, None),
    ("/$defs/Route/properties/rules", 1, None),
    ("/$defs/Rule/properties/matches", 1, None),
    ("/$defs/Rule/properties/backends", 1, None),
    ("/$defs/Mirror/properties/methods", 1, None),
    ("/$defs/Rollout/properties/objectives", 1, Some(8)),
    ("/$defs/Rollout/properties/steps", 1, Some(50)),
    ("/$defs/Step", 1, None),
    ("/$defs/Step/properties/methods", 1, None),
    ("/$defs/Objective/properties/latency/anyOf/1", 1, Some(1)),
    ("/$defs/ListenerTls/properties/certificates", 1, Some(64)),
    ("/$defs/ClientMatch", 1, Some(1)),
    ("/$defs/Path", 1, Some(1)),
    ("/$defs/Sticky", 1, Some(1)),
];

/// The JSON Schema of the file.
pub(super) fn schema() -> Value {
    let mut schema = SchemaGenerator::default().into_root_schema_for::<File>().to_value();
    schema["title"] = "Serin config".into();
    for (pointer, min, max) in COUNTS {
        let Some(part) = schema.pointer_mut(pointer) else {
            debug_assert!(false, "the schema has no {pointer}");
            continue;
        };
        let what = if part["type"] == "array" { "Items" } else { "Properties" };
        part[format!("min{what}")] = min.into();
        if let Some(max) = max {
            part[format!("max{what}")] = max.into();
        }
    }
    schema
}
