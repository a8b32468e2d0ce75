//! The fields of a message's head: what came goes on as it came, beside an index of where
//! each field lies.
//!
//! Never copies or hashes a field that nobody asks for, and never holds a value that could
//! end its line.

mod known;
mod places;
mod secret;

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

pub use known::Known;
pub use places::Places;
use places::{ADDED_LINES_USUAL, Line, make_lower_case};
pub use secret::holds_a_secret;

/// Room for what is added on the way: a request id, a trace, where the request came from.
const ADDED_BYTES_USUAL: usize = 320;

/// The fields of a message, in their order; names in lower case.
#[derive(Clone, Default)]
pub struct Fields {
    /// The head as it came.
    came: Bytes,
    /// Lines that were added to it since, each as it is written.
    added: Vec<u8>,
    lines: Vec<Line>,
    /// One bit for each known name that is, or was, among them.
    seen: u64,
}

/// The name of a field, in lower case.
#[derive(Clone, Copy, Debug)]
pub struct Name<'n> {
    known: Known,
    text: &'n str,
}

impl Name<'static> {
    /// `text` is a token in lower case, and none of the known ones.
    pub const fn other(text: &'static str) -> Self {
        Self { known: Known::Other, text }
    }
}

impl Name<'_> {
    /// Whether it is one of the known `names`, as bits of [`Known::bit`].
    pub fn is_among(self, names: u64) -> bool {
        self.known.bit() & names != 0
    }
}

impl From<Known> for Name<'static> {
    fn from(known: Known) -> Self {
        Self { known, text: known.as_str() }
    }
}

impl<'n> From<&'n HeaderName> for Name<'n> {
    fn from(name: &'n HeaderName) -> Self {
        Self { known: Known::of(name.as_str().as_bytes()), text: name.as_str() }
    }
}

/// The values of a field, each line on its own.
#[derive(Clone, Debug)]
pub struct Values<'f, 'n> {
    fields: &'f Fields,
    name: Name<'n>,
    next: usize,
}

/// Lines that lie one behind the other, each as it is written.
#[derive(Default)]
struct Run {
    is_added: bool,
    place: Range<usize>,
}

impl Run {
    /// Whether `line` lies behind the last one, and is now the last.
    fn goes_on_with(&mut self, line: &Line) -> bool {
        let is_next = line.is_added == self.is_added && line.at as usize == self.place.end;
        if is_next {
            self.place.end = line.whole().end;
        }
        is_next
    }
}

impl<'f> Iterator for Values<'f, '_> {
    type Item = &'f [u8];

    fn next(&mut self) -> Option<&'f [u8]> {
        let at = self.fields.find(self.name, self.next)?;
        self.next = at + 1;
        Some(self.fields.value_of(self.fields.lines[at]))
    }
}

impl Fields {
    /// Those of the `head` in which they are at `places`.
    pub fn read(mut head: BytesMut, places: Places) -> Self {
        let Places { mut lines, .. } = places;
        let mut seen = 0;
        for line in &mut lines {
            let name = &mut head[line.name()];
            make_lower_case(name);
            line.known = Known::of(name);
            seen |= line.known.bit();
        }
        Self { came: head.freeze(), added: Vec::new(), lines, seen }
    }

    /// Lets go of the buffer in which the head came, for what is kept longer than that.
    pub fn detach(&mut self) {
        self.came = Bytes::copy_from_slice(&self.came);
    }

    /// The head that came, of which what has been read is a part.
    pub fn came(&self) -> &Bytes {
        &self.came
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Whether one of the `names`, as bits of [`Known::bit`], may be there: `false` is certain.
    pub fn may_have(&self, names: u64) -> bool {
        self.seen & names != 0
    }

    /// The first value of the field `name`.
    pub fn get<'n>(&self, name: impl Into<Name<'n>>) -> Option<&[u8]> {
        let line = self.lines[self.find(name.into(), 0)?];
        Some(self.value_of(line))
    }

    /// The value of the field `name`, if it is there once.
    pub fn sole<'n>(&self, name: impl Into<Name<'n>>) -> Option<&[u8]> {
        let mut values = self.all(name);
        let first = values.next();
        first.filter(|_| values.next().is_none())
    }

    /// The first value of the field `name`, if it is ASCII.
    pub fn text<'n>(&self, name: impl Into<Name<'n>>) -> Option<&str> {
        std::str::from_utf8(self.get(name)?).ok().filter(|text| text.is_ascii())
    }

    /// The first value of the field `name` as a number, if it is digits alone.
    pub fn number<'n>(&self, name: impl Into<Name<'n>>) -> Option<u64> {
        digits(self.get(name)?)
    }

    /// The first value of the field `name`, to keep.
    pub fn value<'n>(&self, name: impl Into<Name<'n>>) -> Option<HeaderValue> {
        // A copy: what is kept may be kept for long, and would keep the whole head.
        HeaderValue::from_bytes(self.get(name)?).ok()
    }

    /// All values of the field `name`, each line on its own.
    pub fn all<'f, 'n>(&'f self, name: impl Into<Name<'n>>) -> Values<'f, 'n> {
        Values { fields: self, name: name.into(), next: 0 }
    }

    /// Whether there is a field `name`.
    pub fn contains<'n>(&self, name: impl Into<Name<'n>>) -> bool {
        self.find(name.into(), 0).is_some()
    }

    /// Names and values, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.lines.iter().map(|line| (self.name_of(*line), self.value_of(*line)))
    }

    /// Makes `value` the only one of the field `name`, where the first was or at the end.
    /// Bytes that would end the line become spaces (RFC 9110, section 5.5).
    pub fn insert<'n>(&mut self, name: impl Into<Name<'n>>, value: impl AsRef<[u8]>) {
        let name = name.into();
        let first = self.find(name, 0);
        let line = self.add(name, &[value.as_ref()]);
        self.replace(name, first, line);
    }

    /// The same for a number.
    pub fn insert_number<'n>(&mut self, name: impl Into<Name<'n>>, number: u64) {
        let mut digits = [0; 20];
        let mut at = digits.len();
        let mut rest = number;
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        self.insert(name, &digits[at..]);
    }

    /// Puts one more line of the field `name` behind all.
    pub fn append<'n>(&mut self, name: impl Into<Name<'n>>, value: impl AsRef<[u8]>) {
        let line = self.add(name.into(), &[value.as_ref()]);
        self.lines.push(line);
    }

    /// Appends `value` to the list in the field `name`, whose lines become one.
    pub fn append_to_list<'n>(&mut self, name: impl Into<Name<'n>>, value: impl AsRef<[u8]>) {
        let name = name.into();
        let first = self.find(name, 0);
        let line = if first.is_some() {
            let mut list = self.all(name).collect::<Vec<_>>().join(&b", "[..]);
            list.extend_from_slice(b", ");
            self.add(name, &[&list, value.as_ref()])
        } else {
            self.add(name, &[value.as_ref()])
        };
        self.replace(name, first, line);
    }

    /// Appends the first value of the field `of`, if that is not empty, to the list in the field
    /// `name`.
    pub fn append_copy_to_list(&mut self, name: Known, of: Known) {
        let value = self.get(of).filter(|value| !value.is_empty()).map(<[u8]>::to_vec);
        if let Some(value) = value {
            self.append_to_list(name, value);
        }
    }

    /// Removes every line of the field `name`; whether there was one.
    pub fn remove<'n>(&mut self, name: impl Into<Name<'n>>) -> bool {
        let name = name.into();
        if self.find(name, 0).is_none() {
            return false;
        }
        self.retain(|line, fields| !fields.is(line, name));
        true
    }

    /// Removes every line of the known `names`, as bits of [`Known::bit`].
    pub fn remove_all(&mut self, names: u64) {
        if self.may_have(names) {
            self.retain(|line, _| line.known.bit() & names == 0);
            self.seen &= !names;
        }
    }

    /// Removes every line whose name is `meant`.
    pub fn remove_where(&mut self, meant: impl Fn(&str) -> bool) {
        self.retain(|line, fields| !meant(fields.name_of(*line)));
    }

    /// Writes all of them behind `output`, as HTTP/1.1 does: what lies together goes together.
    pub fn encode(&self, output: &mut BytesMut) {
        let mut run = Run::default();
        for line in &self.lines {
            if line.is_plain && run.goes_on_with(line) {
                continue;
            }
            output.extend_from_slice(self.text_of_run(&run));
            if line.is_plain {
                run = Run { is_added: line.is_added, place: line.whole() };
                continue;
            }
            run = Run::default();
            output.extend_from_slice(self.name_of(*line).as_bytes());
            output.extend_from_slice(b": ");
            output.extend_from_slice(self.value_of(*line));
            output.extend_from_slice(b"\r\n");
        }
        output.extend_from_slice(self.text_of_run(&run));
    }

    /// As HTTP/2 wants them.
    pub fn to_map(&self) -> HeaderMap {
        let mut map = HeaderMap::with_capacity(self.lines.len());
        for line in &self.lines {
            let name = line
                .known
                .header_name()
                .or_else(|| HeaderName::from_bytes(self.name_of(*line).as_bytes()).ok());
            if let Some((name, value)) = name.zip(self.to_keep(*line)) {
                map.append(name, value);
            }
        }
        map
    }

    fn to_keep(&self, line: Line) -> Option<HeaderValue> {
        if line.is_added {
            HeaderValue::from_bytes(&self.added[line.value()]).ok()
        } else {
            HeaderValue::from_maybe_shared(self.came.slice(line.value())).ok()
        }
    }

    fn text_of(&self, is_added: bool) -> &[u8] {
        if is_added { &self.added } else { &self.came }
    }

    fn text_of_run(&self, run: &Run) -> &[u8] {
        &self.text_of(run.is_added)[run.place.clone()]
    }

    fn value_of(&self, line: Line) -> &[u8] {
        &self.text_of(line.is_added)[line.value()]
    }

    fn name_of(&self, line: Line) -> &str {
        let name = &self.text_of(line.is_added)[line.name()];
        // Names are tokens, which are ASCII.
        std::str::from_utf8(name).unwrap_or_default()
    }

    fn is(&self, line: &Line, name: Name<'_>) -> bool {
        line.known == name.known
            && (name.known.is_one_name()
                || (usize::from(line.name_bytes) == name.text.len()
                    && self.text_of(line.is_added)[line.name()] == *name.text.as_bytes()))
    }

    /// The first line of the field `name` from the line `from` on.
    /// Inlined, as most names that are asked for are not there: one bit says so.
    #[inline]
    fn find(&self, name: Name<'_>, from: usize) -> Option<usize> {
        if name.known != Known::Other && !self.may_have(name.known.bit()) {
            return None;
        }
        self.seek(name, from)
    }

    #[inline(never)]
    fn seek(&self, name: Name<'_>, from: usize) -> Option<usize> {
        let rest = self.lines.get(from..)?;
        rest.iter().position(|line| self.is(line, name)).map(|at| from + at)
    }

    fn retain(&mut self, mut keep: impl FnMut(&Line, &Self) -> bool) {
        let mut lines = std::mem::take(&mut self.lines);
        lines.retain(|line| keep(line, self));
        self.lines = lines;
    }

    /// Writes a line among what was added, its value in `parts`.
    fn add(&mut self, name: Name<'_>, parts: &[&[u8]]) -> Line {
        self.seen |= name.known.bit();
        let value_bytes = parts.iter().map(|part| part.len()).sum::<usize>();
        if self.added.capacity() == 0 {
            self.added.reserve(ADDED_BYTES_USUAL);
        }
        let at = self.added.len();
        if name.known.is_one_name() {
            self.added.extend_from_slice(name.known.beginning().as_bytes());
        } else {
            self.added.extend_from_slice(name.text.as_bytes());
            self.added.extend_from_slice(b": ");
        }
        let value_at = self.added.len();
        for part in parts {
            self.added.extend_from_slice(part);
        }
        if may_end_line(&self.added[value_at..]) {
            self.added[value_at..].iter_mut().filter(|b| ends_line(**b)).for_each(|b| *b = b' ');
        }
        self.added.extend_from_slice(b"\r\n");
        Line {
            known: name.known,
            is_added: true,
            is_plain: true,
            name_bytes: name.text.len() as u16,
            at: at as u32,
            value_at: value_at as u32,
            value_bytes: value_bytes as u32,
        }
    }

    /// Puts `line` where the `first` of the field `name` is, and removes the others of it.
    fn replace(&mut self, name: Name<'_>, first: Option<usize>, line: Line) {
        let Some(first) = first else {
            self.lines.push(line);
            return;
        };
        self.lines[first] = line;
        if self.find(name, first + 1).is_some() {
            let mut index = 0..;
            self.retain(|line, fields| index.next() <= Some(first) || !fields.is(line, name));
        }
    }
}

/// Whether a value may not have `byte`: what reads it might take it for the end of the line.
fn ends_line(byte: u8) -> bool {
    (byte < b' ' && byte != b'\t') || byte == 0x7f
}

/// Whether one of the bytes may be such a one: `false` is certain. Eight at once, as hardly any is.
fn may_end_line(value: &[u8]) -> bool {
    const EACH: u64 = u64::MAX / 0xff;
    let below_space = |word: u64| word.wrapping_sub(EACH * 0x20) & !word;
    let is_delete = |word: u64| (word ^ (EACH * 0x7f)).wrapping_sub(EACH) & !(word ^ (EACH * 0x7f));
    let (words, rest) = value.as_chunks::<8>();
    let mut last = [b' '; 8];
    last[..rest.len()].copy_from_slice(rest);
    let words = words.iter().chain([&last]).map(|word| u64::from_ne_bytes(*word));
    let found = words.fold(0, |found, word| found | below_space(word) | is_delete(word));
    found & (EACH * 0x80) != 0
}

/// The number that `text` is in digits, with nothing else about it.
pub fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |number, byte| {
        let digit = byte.wrapping_sub(b'0');
        let next = number.checked_mul(10)?.checked_add(digit.into())?;
        (digit <= 9).then_some(next)
    })
}

impl std::fmt::Debug for Fields {
    /// Without what lets somebody in.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = self.iter().map(|(name, value)| {
            let value = if holds_a_secret(name) { b"[redacted]" } else { value };
            (name, String::from_utf8_lossy(value))
        });
        f.debug_map().entries(shown).finish()
    }
}

impl PartialEq for Fields {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl From<&HeaderMap> for Fields {
    fn from(map: &HeaderMap) -> Self {
        let mut fields = Self::default();
        fields.lines.reserve(map.len() + ADDED_LINES_USUAL);
        let bytes = map.iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
        fields.added.reserve(bytes.sum::<usize>() + ADDED_BYTES_USUAL);
        for (name, value) in map {
            fields.append(name, value);
        }
        fields
    }
}

impl<'n, N: Into<Name<'n>>, V: AsRef<[u8]>> FromIterator<(N, V)> for Fields {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(all: I) -> Self {
        let mut fields = Self::default();
        for (name, value) in all {
            fields.append(name, value);
        }
        fields
    }
}

#[cfg(test)]
mod tests;
