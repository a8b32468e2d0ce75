//! From the tree to the file as written: which keys there are, and which are missing.
//!
//! Never stops at a defect and never judges a value: a part that cannot be read is
//! marked as broken, and the rest is read on.

use std::borrow::Cow;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::config::defect::Code;
use crate::config::quantity::Quantity;
use crate::config::tree::{Content, Key, Node, NodeId, Report, Scalar, shown};

/// Reads a part of the file as written.
pub(super) trait Read: Sized {
    /// `None` when a defect was reported and nothing is left to check.
    fn read(node: &Node, report: &mut Report) -> Option<Self>;
}

/// Something written at a place.
pub(super) struct At<T> {
    /// The value's node; of what is absent, the map's.
    pub id: NodeId,
    pub given: Given<T>,
}

/// Whether and what something was written.
pub(super) enum Given<T> {
    /// The key is not there. If it had to be, that was reported.
    Absent,
    /// It is there and was reported as a defect.
    Broken,
    /// It is there.
    Is(T),
}

impl<T> At<T> {
    /// Something that was written at `id`.
    pub fn is(id: NodeId, value: T) -> Self {
        Self { id, given: Given::Is(value) }
    }

    /// What was written, if it could be read.
    pub fn get(&self) -> Option<&T> {
        match &self.given {
            Given::Is(value) => Some(value),
            Given::Absent | Given::Broken => None,
        }
    }

    /// What was written with its place, if it could be read.
    pub fn found(&self) -> Option<(NodeId, &T)> {
        self.get().map(|value| (self.id, value))
    }

    /// Whether the key is there, whatever its value.
    pub fn is_there(&self) -> bool {
        !matches!(self.given, Given::Absent)
    }
}

impl<T> At<Vec<T>> {
    /// The items; none when the list is absent or broken.
    pub fn items(&self) -> &[T] {
        self.get().map_or(&[], Vec::as_slice)
    }
}

impl<T: Read> At<T> {
    pub fn read(node: &Node, report: &mut Report) -> Self {
        let id = node.id;
        if matches!(node.content, Content::Nothing) {
            let help = "give it one, or leave the key out";
            report.add(id, Code::WrongKind, "there is no value here", help);
            return Self { id, given: Given::Broken };
        }
        Self { id, given: T::read(node, report).map_or(Given::Broken, Given::Is) }
    }
}

/// A scalar that `Q` will be read from.
pub(super) struct As<Q> {
    pub scalar: Scalar,
    kind: PhantomData<Q>,
}

impl<Q> Clone for As<Q> {
    fn clone(&self) -> Self {
        Self { scalar: self.scalar.clone(), kind: PhantomData }
    }
}

impl<Q> Read for As<Q> {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        match &node.content {
            Content::Scalar(scalar) => Some(Self { scalar: scalar.clone(), kind: PhantomData }),
            _ => wrong_kind(node, "a single value", report),
        }
    }
}

impl<T: Read> Read for Vec<At<T>> {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        match &node.content {
            Content::List(items) => Some(items.iter().map(|item| At::read(item, report)).collect()),
            _ => wrong_kind(node, "a list", report),
        }
    }
}

/// Either a single value or a map: `path: /x` or `path: { exact: /x }`.
pub(super) enum Form<S, L> {
    Short(S),
    Long(L),
}

impl<S: Read, L: Read> Read for Form<S, L> {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        match &node.content {
            Content::Scalar(_) => S::read(node, report).map(Self::Short),
            Content::Map(_) => L::read(node, report).map(Self::Long),
            _ => wrong_kind(node, "a single value or a map", report),
        }
    }
}

/// A map whose keys are the user's: header names, quantiles. `K` says what a key may be.
pub(super) struct Pairs<K, V> {
    pub entries: Vec<(At<As<K>>, At<V>)>,
}

impl<K, V: Read> Read for Pairs<K, V> {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        let Content::Map(entries) = &node.content else {
            return wrong_kind(node, "a map", report);
        };
        let entries = entries.iter().map(|(key, value)| {
            let scalar = Scalar { text: key.text.clone(), quoted: true };
            let given = Given::Is(As { scalar, kind: PhantomData });
            (At { id: key.id, given }, At::read(value, report))
        });
        Some(Self { entries: entries.collect() })
    }
}

/// Reports another kind of node than `wanted`.
pub(super) fn wrong_kind<T>(node: &Node, wanted: &str, report: &mut Report) -> Option<T> {
    let found = match &node.content {
        Content::Scalar(scalar) => &*format!("`{}`", shown(&scalar.text)),
        Content::List(_) => "a list",
        Content::Map(_) => "a map",
        Content::Nothing => "nothing",
        Content::Broken => return None,
    };
    let message = format!("{wanted} is wanted here, not {found}");
    let help = match (wanted, &node.content) {
        ("a list", Content::Scalar(_)) => "put it in brackets, or in a line of its own after `- `",
        ("a list", Content::Map(_)) => "start each item with `- `",
        ("a map", _) => "write `key: value` pairs, indented below the key",
        _ => "docs/configuration.md shows what this key takes",
    };
    report.add(node.id, Code::WrongKind, message, help);
    None
}

/// The keys of one map, taken out one by one.
pub(super) struct Keys<'n> {
    id: NodeId,
    entries: &'n [(Key, Node)],
    /// Keys that are there, but not as one would write them: not missed as well.
    meant: Vec<&'static str>,
    /// An unknown or unsupported key was reported.
    pub faulty: bool,
}

impl<'n> Keys<'n> {
    /// Reports every key that is neither in `known` nor in `later`.
    pub fn of(
        node: &'n Node,
        known: &[&'static str],
        later: &[&'static str],
        report: &mut Report,
    ) -> Option<Self> {
        let Content::Map(entries) = &node.content else {
            return wrong_kind(node, "a map", report);
        };
        let mut keys = Self { id: node.id, entries, meant: Vec::new(), faulty: false };
        for (Key { id, text }, _) in entries {
            if known.contains(&text.as_str()) {
                continue;
            }
            keys.faulty = true;
            if later.contains(&text.as_str()) {
                not_supported(*id, text, report);
                continue;
            }
            let near = similar(text, known.iter().chain(later).copied());
            keys.meant.extend(near);
            let help = match near {
                _ if text == "<<" => "YAML 1.2 has no merge keys: write the keys out".to_owned(),
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("the keys here are {}", listed(known)),
            };
            let message = format!("`{}` is not a key that Serin knows here", shown(text));
            report.add(*id, Code::UnknownKey, message, help);
        }
        Some(keys)
    }

    /// The value of `key`; what must be there and is not is reported.
    pub fn take<T: Read>(&self, key: &'static str, must: bool, report: &mut Report) -> At<T> {
        if let Some((key, node)) = self.entries.iter().find(|(one, _)| one.text == key) {
            let At { id, given } = At::read(node, report);
            // A list or a map starts at its first entry; what is wrong with all of it is
            // better seen at its key.
            let scalar = matches!(node.content, Content::Scalar(_));
            return At { id: if scalar { id } else { key.id }, given };
        }
        if must && !self.meant.contains(&key) {
            missing(self.id, key, report);
        }
        At { id: self.id, given: Given::Absent }
    }
}

/// Reports that the map `id` lacks `key`.
pub(super) fn missing(id: NodeId, key: &str, report: &mut Report) {
    report.add(id, Code::MissingKey, format!("`{key}` is missing here"), format!("add `{key}:`"));
}

/// Reports what is known and planned, but does not work yet.
pub(super) fn not_supported(id: NodeId, what: &str, report: &mut Report) {
    let help = "leave it out: this version of Serin would not do what it says";
    report.add(id, Code::NotSupported, format!("`{what}` is not supported yet"), help);
}

/// The candidate that was probably meant by `text`, if one is near enough.
pub(super) fn similar<'c>(
    text: &str,
    candidates: impl Iterator<Item = &'c str>,
) -> Option<&'c str> {
    // A third of the letters may be wrong; a swap of two counts as one.
    let far = (text.chars().count() / 3).clamp(1, 4);
    if text.len() > 256 {
        return None;
    }
    let text = text.to_lowercase();
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(&text, candidate), candidate))
        .filter(|(distance, _)| *distance <= far)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `` `a`, `b` and `c` ``.
pub(super) fn listed(names: &[&str]) -> String {
    let quoted: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.as_slice() {
        [] => "none".to_owned(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

impl<T: JsonSchema> JsonSchema for At<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        generator.subschema_for::<T>()
    }
}

impl<S: JsonSchema, L: JsonSchema> JsonSchema for Form<S, L> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("{}Or{}", S::schema_name(), L::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (short, long) = (generator.subschema_for::<S>(), generator.subschema_for::<L>());
        json_schema!({ "anyOf": [short, long] })
    }
}

impl<K: Quantity, V: JsonSchema> JsonSchema for Pairs<K, V> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("{}Pairs", V::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (key, value) = (K::schema(), generator.subschema_for::<V>());
        json_schema!({ "type": "object", "propertyNames": key, "additionalProperties": value })
    }
}

impl<Q: Quantity> JsonSchema for As<Q> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        // Never shown: it is always inlined.
        std::any::type_name::<Q>().into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        Q::schema()
    }
}

/// Declares maps of the file: their keys in order, what each takes, and its default. One
/// declaration gives the type, the reader and the JSON Schema, so that they cannot differ.
///
/// `must` keys are reported when they are missing. `later` names keys that will come.
macro_rules! maps {
    ($(
        $(#[doc = $doc:literal])*
        $name:ident later [$($later:literal)*] {
            $($(#[doc = $key_doc:literal])* $need:ident $key:ident: $kind:ty $(= $default:tt)?,)*
        }
    )*) => {$(
        $(#[doc = $doc])*
        pub struct $name {
            $($(#[doc = $key_doc])* pub $key: At<$kind>,)*
            /// A key of it was reported as unknown or not supported yet.
            #[allow(dead_code, reason = "only checks of missing keys ask")]
            pub faulty: bool,
        }

        impl Read for $name {
            fn read(node: &Node, report: &mut Report) -> Option<Self> {
                let known = &[$(crate::config::read::plain(stringify!($key))),*];
                let keys = Keys::of(node, known, &[$($later),*], report)?;
                Some(Self {
                    $($key: keys.take(
                        crate::config::read::plain(stringify!($key)),
                        matches!(stringify!($need).as_bytes(), b"must"), report,
                    ),)*
                    faulty: keys.faulty,
                })
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                let mut object = ObjectSchema::new(&[$($doc),*]);
                $(object.add(
                    crate::config::read::plain(stringify!($key)),
                    stringify!($need) == "must",
                    &[$($key_doc),*],
                    None $(.or(Some(serde_json::json!($default))))?,
                    generator.subschema_for::<$kind>(),
                );)*
                object.finish()
            }
        }
    )*};
}
pub(super) use maps;

/// A key that is a word of Rust's is declared as `r#for`.
pub(super) fn plain(key: &'static str) -> &'static str {
    key.strip_prefix("r#").unwrap_or(key)
}

/// The JSON Schema of a map, put together key by key.
pub(super) struct ObjectSchema {
    doc: String,
    properties: serde_json::Map<String, serde_json::Value>,
    required: Vec<&'static str>,
}

impl ObjectSchema {
    pub fn new(doc: &[&str]) -> Self {
        Self { doc: joined(doc), properties: serde_json::Map::new(), required: Vec::new() }
    }

    pub fn add(
        &mut self,
        key: &'static str,
        must: bool,
        doc: &[&str],
        default: Option<serde_json::Value>,
        mut schema: Schema,
    ) {
        schema.insert("description".to_owned(), joined(doc).into());
        if let Some(default) = default {
            schema.insert("default".to_owned(), default);
        }
        self.properties.insert(key.to_owned(), schema.to_value());
        if must {
            self.required.push(key);
        }
    }

    pub fn finish(self) -> Schema {
        let Self { doc, properties, required } = self;
        json_schema!({
            "type": "object",
            "description": doc,
            "properties": properties,
            "required": required,
            "additionalProperties": false,
        })
    }
}

/// Lines of a doc comment as one text.
fn joined(doc: &[&str]) -> String {
    doc.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
}
