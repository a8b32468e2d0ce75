//! A YAML file as a tree whose every node knows where it stands.
//!
//! Never knows what a key means, and never makes a number or a truth value of a scalar:
//! `1.20` stays the text that was written. Goes on after a defect where it can.

use std::collections::{HashMap, HashSet};
use std::fmt::Write;

use granit_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span, Tag};

use crate::config::defect::{Code, Defect, Place};

/// Lists and maps within each other; the config needs ten.
const DEPTH_MAX: usize = 64;
/// Nodes that all aliases of a file may copy together.
const COPIES_MAX: usize = 10_000;

/// Finds a node's place and path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NodeId(usize);

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub id: NodeId,
    pub content: Content,
}

/// What stands there.
#[derive(Clone, Debug)]
pub(super) enum Content {
    Scalar(Scalar),
    List(Vec<Node>),
    /// In the file's order; no key twice.
    Map(Vec<(Key, Node)>),
    /// Nothing after the colon, `~` or `null`.
    Nothing,
    /// A defect was reported here already.
    Broken,
}

/// A scalar as written, escapes resolved.
#[derive(Clone, Debug)]
pub(super) struct Scalar {
    pub text: String,
    /// In quotes or as a block: never to be taken for a number or a truth value.
    pub quoted: bool,
}

/// A key of a map.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub id: NodeId,
    pub text: String,
}

/// One YAML document.
#[derive(Debug)]
pub(super) struct Document {
    pub start: Place,
    pub root: Node,
}

/// Where the nodes stand, and what was found wrong so far.
#[derive(Debug, Default)]
pub(super) struct Report {
    nodes: Vec<Standing>,
    /// With the node whose path it will have, once the tree stands.
    defects: Vec<(Option<NodeId>, Defect)>,
}

/// Where a node stands: in the file, and in the tree.
#[derive(Debug)]
struct Standing {
    place: Place,
    parent: Option<NodeId>,
    step: Step,
}

/// What leads from a node's parent to it.
#[derive(Clone, Debug)]
enum Step {
    Root,
    Index(usize),
    Key(String),
}

impl Report {
    /// Records a defect at a node.
    pub fn add(
        &mut self,
        id: NodeId,
        code: Code,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.add_at(self.place(id), code, message, help);
        if let Some((node, _)) = self.defects.last_mut() {
            *node = Some(id);
        }
    }

    /// Where a node stands.
    pub fn place(&self, id: NodeId) -> Place {
        self.nodes[id.0].place
    }

    /// `rollouts[0].objectives[1]`.
    fn path(&self, id: NodeId) -> String {
        let mut steps = Vec::new();
        let mut next = Some(id);
        while let Some(Standing { parent, step, .. }) = next.map(|id| &self.nodes[id.0]) {
            steps.push(step);
            next = *parent;
        }
        let mut path = String::new();
        for step in steps.into_iter().rev() {
            match step {
                Step::Root => {}
                Step::Index(index) => _ = write!(path, "[{index}]"),
                Step::Key(key) if path.is_empty() => path += &shown(key),
                Step::Key(key) => _ = write!(path, ".{}", shown(key)),
            }
        }
        path
    }

    /// Where the node with this path stands; of a map's entry, its key.
    pub fn find(&self, path: &str) -> Option<Place> {
        let mut nodes = (0..self.nodes.len()).map(NodeId);
        nodes.find(|id| self.path(*id) == path).map(|id| self.place(id))
    }

    /// Records a defect that has no node.
    pub fn add_at(
        &mut self,
        place: Place,
        code: Code,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        let (path, message, help) = (String::new(), message.into(), help.into());
        self.defects.push((None, Defect { code, place, path, message, help }));
    }

    /// Whether a defect found so far refuses the file.
    pub fn refuses(&self) -> bool {
        self.defects.iter().any(|(_, defect)| defect.is_error())
    }

    /// Moves every place, for a file that stands within another.
    pub fn shift(&mut self, shift: impl Fn(Place) -> Place) {
        self.nodes.iter_mut().for_each(|node| node.place = shift(node.place));
        self.defects.iter_mut().for_each(|(_, defect)| defect.place = shift(defect.place));
    }

    /// All of them, in the file's order and each once.
    pub fn into_defects(mut self) -> Vec<Defect> {
        let found = std::mem::take(&mut self.defects).into_iter();
        let mut defects: Vec<_> = found
            .map(|(node, defect)| {
                let path = node.map_or_else(String::new, |id| self.path(id));
                Defect { path, ..defect }
            })
            .collect();
        defects.sort_by(|a, b| {
            (a.place, a.code, &a.path, &a.message).cmp(&(b.place, b.code, &b.path, &b.message))
        });
        // What an alias copies is reported where it stands, once.
        defects.dedup_by(|a, b| (a.place, &a.message) == (b.place, &b.message));
        defects
    }

    fn node(&mut self, place: Place) -> NodeId {
        self.nodes.push(Standing { place, parent: None, step: Step::Root });
        NodeId(self.nodes.len() - 1)
    }

    /// Tells every node below `node` how it is reached.
    fn connect(&mut self, node: &Node) {
        let parent = Some(node.id);
        match &node.content {
            Content::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    let standing = &mut self.nodes[item.id.0];
                    (standing.parent, standing.step) = (parent, Step::Index(index));
                    self.connect(item);
                }
            }
            Content::Map(entries) => {
                for (key, value) in entries {
                    for id in [key.id, value.id] {
                        let standing = &mut self.nodes[id.0];
                        (standing.parent, standing.step) = (parent, Step::Key(key.text.clone()));
                    }
                    self.connect(value);
                }
            }
            Content::Scalar(_) | Content::Nothing | Content::Broken => {}
        }
    }
}

/// A text for a message: what is long is cut, for a file may be one line of a megabyte.
pub(super) fn shown(text: &str) -> String {
    const MAX: usize = 64;
    let clean = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    let mut shown: String = text.chars().take(MAX).map(clean).collect();
    if text.chars().nth(MAX).is_some() {
        shown.push('…');
    }
    shown
}

/// Reads all documents of `text`. A syntax error ends it: what follows is guesswork.
pub(super) fn parse(text: &str, report: &mut Report) -> Vec<Document> {
    let mut options = granit_parser::options! {
        emit_unresolved_aliases: true,
        flow_nesting_limit: DEPTH_MAX,
        block_nesting_limit: DEPTH_MAX,
    };
    options.set_emit_comments(false);
    let mut builder = Builder {
        report,
        open: Vec::new(),
        anchors: HashMap::new(),
        copies_left: COPIES_MAX,
        start: Place::START,
        documents: Vec::new(),
    };
    for event in Parser::new_from_str_with_options(text, options) {
        match event {
            Ok((event, span)) => builder.take(event, span),
            Err(error) => {
                builder.syntax_error(&error);
                return Vec::new();
            }
        }
    }
    let documents = builder.documents;
    for document in &documents {
        report.connect(&document.root);
    }
    documents
}

struct Builder<'r> {
    report: &'r mut Report,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    copies_left: usize,
    start: Place,
    documents: Vec<Document>,
}

/// A list or a map whose end has not come.
struct Open {
    id: NodeId,
    anchor: usize,
    inside: Inside,
}

enum Inside {
    List(Vec<Node>),
    Map { entries: Vec<(Key, Node)>, seen: HashSet<String>, key: Option<Node> },
}

impl Builder<'_> {
    fn take(&mut self, event: Event<'_>, span: Span) {
        match event {
            Event::DocumentStart(..) => {
                self.start = place(span);
                self.anchors.clear();
            }
            Event::Scalar(text, style, anchor, tag) => {
                let quoted = style != ScalarStyle::Plain || is_string(tag.as_deref());
                let nothing = matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                let content = if self.refuses(tag.as_deref(), span) {
                    Content::Broken
                } else if nothing && !quoted {
                    Content::Nothing
                } else {
                    Content::Scalar(Scalar { text: text.into_owned(), quoted })
                };
                let id = self.report.node(place(span));
                self.close(Node { id, content }, anchor);
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.refuses(tag.as_deref(), span);
                self.open(Inside::List(Vec::new()), anchor, span);
            }
            Event::MappingStart(_, anchor, tag) => {
                self.refuses(tag.as_deref(), span);
                let (entries, seen) = (Vec::new(), HashSet::new());
                self.open(Inside::Map { entries, seen, key: None }, anchor, span);
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(Open { id, anchor, inside }) = self.open.pop() else { return };
                let content = match inside {
                    Inside::List(items) => Content::List(items),
                    Inside::Map { entries, .. } => Content::Map(entries),
                };
                self.close(Node { id, content }, anchor);
            }
            Event::Alias(anchor) => {
                let node = self.copy_of(anchor, span);
                self.close(node, 0);
            }
            Event::UnresolvedAlias(name) => {
                let id = self.report.node(place(span));
                let name = shown(&name);
                let message = format!("`*{name}` is an alias, and no `&{name}` stands above it");
                self.report.add(
                    id,
                    Code::Alias,
                    message,
                    "a text that starts with `*` needs quotes",
                );
                self.close(Node { id, content: Content::Broken }, 0);
            }
            // Stream and document ends, and what later versions of the parser may add.
            _ => {}
        }
    }

    fn open(&mut self, inside: Inside, anchor: usize, span: Span) {
        let id = self.report.node(Place { len: 0, ..place(span) });
        self.open.push(Open { id, anchor, inside });
    }

    /// Puts a whole node where it belongs.
    fn close(&mut self, node: Node, anchor: usize) {
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let Some(Open { inside, .. }) = self.open.last_mut() else {
            self.documents.push(Document { start: self.start, root: node });
            return;
        };
        match inside {
            Inside::List(items) => items.push(node),
            Inside::Map { key: key @ None, .. } => *key = Some(node),
            Inside::Map { entries, seen, key } => {
                let Some(Node { id, content }) = key.take() else { return };
                let Some(text) = key_text(content) else {
                    let message = "a key has to be a text of its own";
                    self.report.add(id, Code::WrongKind, message, "write `key: value`");
                    return;
                };
                if seen.insert(text.clone()) {
                    entries.push((Key { id, text }, node));
                    return;
                }
                let first = entries.iter().find(|(key, _)| key.text == text);
                let line = first.map_or(0, |(key, _)| self.report.place(key.id).line);
                let message = format!("`{}` stands twice in one map", shown(&text));
                let help = format!("keep one of the two; the first is in line {line}");
                self.report.add(id, Code::DuplicateKey, message, help);
            }
        }
    }

    /// Reports a tag that is not YAML's own.
    fn refuses(&mut self, tag: Option<&Tag>, span: Span) -> bool {
        const KNOWN: [&str; 7] = ["str", "int", "float", "bool", "null", "seq", "map"];
        let Some(tag) = tag else { return false };
        if tag.core_suffix().is_some_and(|suffix| KNOWN.contains(&suffix)) {
            return false;
        }
        let place = place(span.tag_span().unwrap_or(span));
        let message = format!("the tag `{}` means nothing here", shown(&tag.original()));
        let help = "leave the tag out; a text that starts with `!` needs quotes";
        self.report.add_at(place, Code::Tag, message, help);
        true
    }

    /// What an alias stands for, if the file's budget allows.
    fn copy_of(&mut self, anchor: usize, span: Span) -> Node {
        let broken = |id| Node { id, content: Content::Broken };
        let id = self.report.node(place(span));
        let Some(original) = self.anchors.get(&anchor) else {
            let message = "an alias within its own anchor has no end";
            self.report.add(id, Code::Alias, message, "write the value out");
            return broken(id);
        };
        let depth = DEPTH_MAX.saturating_sub(self.open.len());
        if !fits(original, depth, &mut self.copies_left) {
            let message = format!("the file's aliases copy more than {COPIES_MAX} values");
            self.report.add(id, Code::Alias, message, "write the values out, or fewer of them");
            return broken(id);
        }
        let mut copy = original.clone();
        renumber(&mut copy, self.report);
        copy
    }

    fn syntax_error(&mut self, error: &ScanError) {
        let place = Place { len: 0, ..at(*error.marker()) };
        let help = "look at indentation, colons and quotes here and in the lines above";
        self.report.add_at(place, Code::Syntax, format!("not YAML: {}", error.info()), help);
    }
}

/// Whether a node is no deeper than `depth` and within the budget, which it uses up.
fn fits(node: &Node, depth: usize, copies_left: &mut usize) -> bool {
    if depth == 0 || *copies_left == 0 {
        return false;
    }
    *copies_left -= 1;
    match &node.content {
        Content::List(items) => items.iter().all(|item| fits(item, depth - 1, copies_left)),
        Content::Map(entries) => entries.iter().all(|(_, v)| fits(v, depth - 1, copies_left)),
        Content::Scalar(_) | Content::Nothing | Content::Broken => true,
    }
}

/// Gives a copy ids of its own: it has another path than its original.
fn renumber(node: &mut Node, report: &mut Report) {
    node.id = report.node(report.place(node.id));
    match &mut node.content {
        Content::List(items) => items.iter_mut().for_each(|item| renumber(item, report)),
        Content::Map(entries) => {
            for (key, value) in entries {
                key.id = report.node(report.place(key.id));
                renumber(value, report);
            }
        }
        Content::Scalar(_) | Content::Nothing | Content::Broken => {}
    }
}

fn key_text(content: Content) -> Option<String> {
    match content {
        Content::Scalar(scalar) => Some(scalar.text),
        Content::Nothing => Some("null".to_owned()),
        Content::List(_) | Content::Map(_) | Content::Broken => None,
    }
}

fn is_string(tag: Option<&Tag>) -> bool {
    tag.and_then(Tag::core_suffix) == Some("str")
}

fn at(marker: Marker) -> Place {
    Place { line: marker.line().max(1), column: marker.col() + 1, len: 0 }
}

/// The part of a span on its first line.
fn place(span: Span) -> Place {
    let one_line = span.start.line() == span.end.line();
    let len = if one_line { span.end.col().saturating_sub(span.start.col()) } else { 0 };
    Place { len, ..at(span.start) }
}
