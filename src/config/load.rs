//! Where a config file lies, and everything that may be wrong with it.
//!
//! Never reads more than a config file may hold, and never waits: a pipe that says
//! nothing is the caller's to close.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use xxhash_rust::xxh3::xxh3_128;

use crate::config::check::check;
use crate::config::defect::{Code, Defect, Defects, Place};
use crate::config::read::{Read as _, missing};
use crate::config::tree::{Content, Document, Report, parse};
use crate::config::{Config, manifest, raw};

/// Bytes of a config file: what a `ConfigMap` may hold.
pub const FILE_BYTES_MAX: usize = 1 << 20;

/// How to read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Whether files that the config names are looked at: a token file and the like.
    pub touch_files: bool,
    /// Whether a `ConfigMap` manifest that holds the file will do.
    pub manifests: bool,
}

impl Options {
    /// As `serin run` reads it.
    pub const RUN: Self = Self { touch_files: true, manifests: false };
    /// As a running Serin reads it: what its files were made of before may still be good, so
    /// they are looked at where they are used.
    pub const RELOAD: Self = Self { touch_files: false, manifests: false };
    /// As `serin check` reads it.
    pub const CHECK: Self = Self { touch_files: true, manifests: true };
}

/// The bytes of a file, not looked at yet.
#[derive(Clone, Debug)]
pub struct Source {
    /// The file's name as given; `-` is standard input.
    pub origin: String,
    bytes: Vec<u8>,
}

/// A file as meant.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What it means.
    pub config: Config,
    /// Of its bytes: [`Source::hash`].
    pub hash: String,
    /// Its text, for snippets of warnings.
    pub text: String,
    /// What is probably not meant.
    pub warnings: Vec<Defect>,
}

/// Reads the file at `path` as `serin run` does.
pub fn load(path: &Path) -> Result<Loaded, Defects> {
    Source::read(path)?.load(Options::RUN)
}

impl Source {
    /// Takes at most [`FILE_BYTES_MAX`] bytes and one more; a larger file is a defect.
    pub fn read(path: &Path) -> Result<Self, Defects> {
        let origin = path.display().to_string();
        match File::open(path) {
            Ok(file) => Self::take(&origin, file),
            Err(error) => Err(unreadable(&origin, &error)),
        }
    }

    /// Reads standard input to its end, as [`Source::read`] does a file.
    pub fn stdin() -> Result<Self, Defects> {
        Self::take("-", std::io::stdin().lock())
    }

    /// A file that is in memory already.
    pub fn of(origin: &str, bytes: impl Into<Vec<u8>>) -> Result<Self, Defects> {
        Self::take(origin, &*bytes.into())
    }

    fn take(origin: &str, from: impl Read) -> Result<Self, Defects> {
        let mut bytes = Vec::new();
        let limit = FILE_BYTES_MAX as u64 + 1;
        from.take(limit).read_to_end(&mut bytes).map_err(|error| unreadable(origin, &error))?;
        let source = Self { origin: origin.to_owned(), bytes };
        if source.bytes.len() > FILE_BYTES_MAX {
            let message = "the file is larger than 1MiB, which is what a ConfigMap may hold";
            let help = "is it the right file? If it is, split it over several proxies";
            return Err(source.refused(Code::TooLarge, Place::START, message, help));
        }
        Ok(source)
    }

    /// A hash of the content, in hexadecimal: equal hashes are equal files.
    pub fn hash(&self) -> String {
        format!("{:032x}", xxh3_128(&self.bytes))
    }

    /// Reads it, with every defect that it has.
    pub fn load(&self, options: Options) -> Result<Loaded, Defects> {
        let text = self.text()?;
        let (config, mut list) = read(&text, options);
        let hash = self.hash();
        list.sort_by_key(|defect| defect.place);
        match config {
            Some(config) => Ok(Loaded { config, hash, text, warnings: list }),
            None => Err(Defects { origin: self.origin.clone(), text, hash: Some(hash), list }),
        }
    }

    /// Where the keys at these paths stand, as defects have them; of a manifest in the first
    /// config file that it holds. The start of the file, for what is not there.
    pub fn places(&self, paths: &[&str]) -> Vec<Place> {
        let text = self.text().unwrap_or_default();
        let mut report = Report::default();
        let documents = parse(&text, &mut report);
        let inner = manifest::is_manifest(&documents)
            .then(|| manifest::config_files(&documents, &text, &mut report).into_iter().next())
            .flatten();
        if let Some(inner) = inner {
            report = Report::default();
            parse(&inner.text, &mut report);
            report.shift(|place| inner.place(place));
        }
        paths.iter().map(|path| report.find(path).unwrap_or(Place::START)).collect()
    }

    /// The text without byte order mark, its lines ending in `\n`.
    fn text(&self) -> Result<String, Defects> {
        let bytes = self.bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&self.bytes);
        let help = "is it the right file? If it is, save it as UTF-8";
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let good = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
            let byte = bytes.get(error.valid_up_to()).copied().unwrap_or_default();
            let message = format!("the byte 0x{byte:02X} here is not UTF-8");
            self.refused(Code::NotText, end_of(&good), message, help)
        })?;
        let strange = |c: char| c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{85}');
        if let Some((at, c)) = text.char_indices().find(|(_, c)| strange(*c)) {
            let message = format!("the character U+{:04X} here is not text", u32::from(c));
            return Err(self.refused(Code::NotText, end_of(&text[..at]), message, help));
        }
        if text.contains('\r') {
            return Ok(text.replace("\r\n", "\n").replace('\r', "\n"));
        }
        Ok(text.to_owned())
    }

    fn refused(&self, code: Code, place: Place, message: impl Into<String>, help: &str) -> Defects {
        let (path, message, help) = (String::new(), message.into(), help.to_owned());
        let list = vec![Defect { code, place, path, message, help }];
        let (origin, text, hash) = (self.origin.clone(), String::new(), Some(self.hash()));
        Defects { origin, text, hash, list }
    }
}

/// The place after `text`.
fn end_of(text: &str) -> Place {
    let last = text.rsplit(['\n', '\r']).next().unwrap_or_default();
    let breaks = text.replace("\r\n", "\n").matches(['\n', '\r']).count();
    Place { line: breaks + 1, column: last.chars().count() + 1, len: 0 }
}

fn unreadable(origin: &str, error: &std::io::Error) -> Defects {
    let help = match error.kind() {
        std::io::ErrorKind::NotFound => "give the path of a config file",
        std::io::ErrorKind::IsADirectory => "give the path of a file, not of its folder",
        std::io::ErrorKind::PermissionDenied => "let Serin's user read it",
        _ => "give the path of a readable file",
    };
    let defect = Defect {
        code: Code::Unreadable,
        place: Place::START,
        path: String::new(),
        message: format!("the file cannot be read: {error}"),
        help: help.to_owned(),
    };
    let (origin, text) = (origin.to_owned(), String::new());
    Defects { origin, text, hash: None, list: vec![defect] }
}

/// A config when nothing refuses it, and all defects.
fn read(text: &str, options: Options) -> (Option<Config>, Vec<Defect>) {
    let mut report = Report::default();
    let documents = parse(text, &mut report);
    if !manifest::is_manifest(&documents) {
        let config = one_file(&documents, options, &mut report);
        return (config, report.into_defects());
    }
    if !options.manifests {
        let message = "this is a Kubernetes manifest, not a config file";
        let help = "give the file that it holds; `serin check` takes the manifest too";
        report.add_at(Place::START, Code::Manifest, message, help);
        return (None, report.into_defects());
    }
    let inners = manifest::config_files(&documents, text, &mut report);
    let refused = report.refuses();
    let mut defects = report.into_defects();
    let mut configs = Vec::new();
    for inner in inners {
        let mut report = Report::default();
        let documents = parse(&inner.text, &mut report);
        configs.push(one_file(&documents, options, &mut report));
        report.shift(|place| inner.place(place));
        defects.extend(report.into_defects());
    }
    let whole = !refused && configs.iter().all(Option::is_some);
    (configs.into_iter().next().flatten().filter(|_| whole), defects)
}

fn one_file(documents: &[Document], options: Options, report: &mut Report) -> Option<Config> {
    if let [_, second, ..] = documents {
        let message = "a second YAML document starts here";
        let help = "one file is one document: remove the line `---`, or what follows";
        report.add_at(second.start, Code::SecondDocument, message, help);
    }
    let Some(document) = documents.first() else {
        if !report.refuses() {
            empty(report);
        }
        return None;
    };
    if matches!(document.root.content, Content::Nothing) {
        missing(document.root.id, "listeners", report);
        return None;
    }
    let file = raw::File::read(&document.root, report)?;
    check(&file, options.touch_files, report)
}

fn empty(report: &mut Report) {
    let help = "config/canary.yaml is a small file to start from";
    report.add_at(Place::START, Code::MissingKey, "the file is empty", help);
}

#[cfg(test)]
mod tests;
