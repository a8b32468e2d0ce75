//! A `ConfigMap` manifest that holds a config file.
//!
//! Never knows Kubernetes beyond that: what else a manifest holds is not looked at.

use crate::config::defect::{Code, Place};
use crate::config::tree::{Content, Document, Key, Node, Report};

/// The key of a `ConfigMap` under which the file stands, unless it is the only one.
const KEY: &str = "serin.yaml";

/// A config file found in a manifest, and how its places become the manifest's.
pub(super) struct Inner {
    pub text: String,
    shift: Shift,
}

enum Shift {
    /// A block: so many lines above it, so many columns before each of its lines.
    Block { lines: usize, columns: usize },
    /// Folded or quoted: there is but one place for all of it.
    Whole(Place),
}

impl Inner {
    /// A place of the file in the manifest.
    pub fn place(&self, place: Place) -> Place {
        match self.shift {
            Shift::Block { lines, columns } => {
                Place { line: place.line + lines, column: place.column + columns, ..place }
            }
            Shift::Whole(whole) => whole,
        }
    }
}

/// Whether the documents are manifests: no config file has these two keys.
pub(super) fn is_manifest(documents: &[Document]) -> bool {
    documents.first().is_some_and(|first| {
        entry(&first.root, "apiVersion").is_some() && entry(&first.root, "kind").is_some()
    })
}

/// The config files in the `ConfigMap`s among `documents`; none is a defect.
pub(super) fn config_files(
    documents: &[Document],
    manifest: &str,
    report: &mut Report,
) -> Vec<Inner> {
    let maps = documents.iter().map(|document| &document.root).filter(
        |root| matches!(entry(root, "kind"), Some((_, node)) if text(node) == Some("ConfigMap")),
    );
    let inners: Vec<_> = maps
        .filter_map(|root| {
            let (_, data) = entry(root, "data")?;
            let Content::Map(entries) = &data.content else { return None };
            let (key, node) = match entries.as_slice() {
                [(key, node)] => (key, node),
                _ => entry(data, KEY)?,
            };
            Some(inner(key, node, text(node)?, manifest, report))
        })
        .collect();
    if inners.is_empty() {
        let place = documents.first().map_or(Place::START, |first| first.start);
        let message = "the manifest holds no config file";
        let help = format!("put it into a ConfigMap's `data` under `{KEY}`, or as the only key");
        report.add_at(place, Code::Manifest, message, help);
    }
    inners
}

fn inner(key: &Key, node: &Node, text: &str, manifest: &str, report: &Report) -> Inner {
    let above = report.place(key.id).line;
    let below: Vec<_> = manifest.lines().skip(above).take(text.lines().count()).collect();
    let first = below.iter().find(|line| !line.trim().is_empty()).copied().unwrap_or_default();
    let columns = first.len() - first.trim_start_matches(' ').len();
    // Only a literal block has its lines one by one where they can be pointed at.
    let block = below.iter().map(|line| line.get(columns..).unwrap_or_default());
    let shift = if columns > 0 && block.eq(text.lines()) {
        Shift::Block { lines: above, columns }
    } else {
        Shift::Whole(report.place(node.id))
    };
    Inner { text: text.to_owned(), shift }
}

fn entry<'n>(node: &'n Node, key: &str) -> Option<(&'n Key, &'n Node)> {
    let Content::Map(entries) = &node.content else { return None };
    entries.iter().find(|(one, _)| one.text == key).map(|(key, node)| (key, node))
}

fn text(node: &Node) -> Option<&str> {
    match &node.content {
        Content::Scalar(scalar) => Some(&scalar.text),
        _ => None,
    }
}
