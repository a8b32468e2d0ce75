//! Where fields lie in a head: found while it is still being read.
//!
//! Never holds a byte of it.

use std::ops::Range;

use crate::traffic::fields::known::Known;

/// Lines that are added on the way, usually.
pub const ADDED_LINES_USUAL: usize = 8;

/// Where a field lies: in the head that came, or among what was added.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// Its name, if it is one that is asked for.
    pub known: Known,
    /// It lies among what was added.
    pub is_added: bool,
    /// It lies there as it is written: `name: value` and the end of the line.
    pub is_plain: bool,
    /// Bytes of its name.
    pub name_bytes: u16,
    /// Where its name begins.
    pub at: u32,
    /// Where its value begins.
    pub value_at: u32,
    /// Bytes of its value.
    pub value_bytes: u32,
}

/// Where fields lie in a head that is still being read.
#[derive(Debug)]
pub struct Places {
    pub(super) lines: Vec<Line>,
    /// Each lies as it is written, one behind the other.
    are_plain: bool,
}

impl Places {
    /// Of `fields`, names and values that are slices of `head`. A head has less than 4 GiB and
    /// a name less than 64 KiB.
    pub fn of<'h>(
        head: &'h [u8],
        fields: impl ExactSizeIterator<Item = (&'h [u8], &'h [u8])>,
    ) -> Self {
        let start = head.as_ptr().addr();
        let mut lines = Vec::with_capacity(fields.len() + ADDED_LINES_USUAL);
        let (mut are_plain, mut end) = (true, None);
        lines.extend(fields.map(|(name, value)| {
            let at = name.as_ptr().addr() - start;
            let name_end = at + name.len();
            // Where an empty value lies is not told.
            let value_at = if value.is_empty() { name_end } else { value.as_ptr().addr() - start };
            let value_end = value_at + value.len();
            let is_plain = value_at == name_end + 2
                && head[name_end..value_at] == *b": "
                && head[value_end..].starts_with(b"\r\n");
            are_plain &= is_plain && end.is_none_or(|end| end == at);
            end = Some(value_end + 2);
            Line {
                known: Known::Other,
                is_added: false,
                is_plain,
                name_bytes: name.len() as u16,
                at: at as u32,
                value_at: value_at as u32,
                value_bytes: value.len() as u32,
            }
        }));
        Self { lines, are_plain }
    }

    /// Whether some line of `head`, all of it, ends without a carriage return: what one parser
    /// takes for the end of a field another takes for a part of it.
    pub fn have_bare_line_feed(&self, head: &[u8]) -> bool {
        let is_bare = |head: &[u8]| {
            memchr::memchr_iter(b'\n', head).any(|at| at == 0 || head[at - 1] != b'\r')
        };
        match (self.lines.first(), self.lines.last()) {
            // No other line ends in between, for neither names nor values hold a line feed.
            (Some(first), Some(last)) if self.are_plain => {
                is_bare(&head[..first.at as usize]) || head[last.whole().end..] != *b"\r\n"
            }
            _ => is_bare(head),
        }
    }
}

impl Line {
    /// Its name.
    pub fn name(self) -> Range<usize> {
        self.at as usize..self.at as usize + usize::from(self.name_bytes)
    }

    /// Its value.
    pub fn value(self) -> Range<usize> {
        self.value_at as usize..self.value_at as usize + self.value_bytes as usize
    }

    /// With its end; of one that lies as it is written.
    pub fn whole(self) -> Range<usize> {
        self.at as usize..self.value().end + 2
    }
}

/// A name, which is ASCII, in lower case: eight bytes at once, for many names are longer.
pub fn make_lower_case(name: &mut [u8]) {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let mut words = name.chunks_exact_mut(8);
    for bytes in &mut words {
        let Ok(word) = <[u8; 8]>::try_from(&*bytes) else { continue };
        let word = u64::from_ne_bytes(word);
        // The top bit of each byte tells whether it is a capital: at least `A`, at most `Z`.
        let from_a = word.wrapping_add((0x80 - u64::from(b'A')) * EACH);
        let above_z = word.wrapping_add((0x7f - u64::from(b'Z')) * EACH);
        let capitals = (from_a & !above_z) & (0x80 * EACH);
        bytes.copy_from_slice(&(word | capitals >> 2).to_ne_bytes());
    }
    words.into_remainder().make_ascii_lowercase();
}
