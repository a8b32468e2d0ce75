//! Server-sent events that say when they were sent.
//!
//! Never minds how they are framed below (chunks, TLS records): it looks for stamps.

use memchr::memmem;

const MARK: &[u8] = b"data: ";
const STAMP_DIGITS: usize = 20;
/// As long as a token of a model with its JSON around it.
const FILLING: &str = r#"{"choices":[{"index":0,"delta":{"content":" word"}}]}"#;

/// The event of this moment, in nanoseconds of the machine's clock, as a chunk of HTTP/1.1.
pub fn chunk(now: u64) -> String {
    let event = format!("data: {now:020} {FILLING}\n\n");
    format!("{:x}\r\n{event}\r\n", event.len())
}

/// Finds stamps in what comes, in pieces of any size.
#[derive(Debug, Default)]
pub struct Stamps {
    kept: Vec<u8>,
}

impl Stamps {
    /// Calls `stamp` with each that is complete.
    pub fn feed(&mut self, bytes: &[u8], mut stamp: impl FnMut(u64)) {
        let kept = !self.kept.is_empty();
        if kept {
            self.kept.extend_from_slice(bytes);
        }
        let all = if kept { &self.kept[..] } else { bytes };
        let mut done = 0;
        while let Some(at) = memmem::find(&all[done..], MARK) {
            let digits = done + at + MARK.len();
            let Some(digits) = all.get(digits..digits + STAMP_DIGITS) else {
                done += at;
                break;
            };
            if let Some(sent) = std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok())
            {
                stamp(sent);
            }
            done += at + MARK.len() + STAMP_DIGITS;
        }
        // No more than a mark with its stamp can be incomplete.
        let keep = all.len() - done.max(all.len().saturating_sub(MARK.len() + STAMP_DIGITS));
        let rest = all[all.len() - keep..].to_vec();
        // Only what may go on into the next piece is copied.
        self.kept = if may_begin_a_mark(&rest) { rest } else { Vec::new() };
    }
}

fn may_begin_a_mark(rest: &[u8]) -> bool {
    memmem::find(rest, MARK).is_some()
        || (1..MARK.len()).any(|length| rest.ends_with(&MARK[..length]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stamp_is_found_once_in_whatever_pieces_it_comes() {
        let sent: Vec<u64> = (0..5).map(|n| n * 1_000_000_007 + 3).collect();
        let bytes: Vec<u8> = sent.iter().flat_map(|now| chunk(*now).into_bytes()).collect();
        for size in 1..=bytes.len() {
            let (mut stamps, mut found) = (Stamps::default(), Vec::new());
            for piece in bytes.chunks(size) {
                stamps.feed(piece, |stamp| found.push(stamp));
            }
            assert_eq!(found, sent, "in pieces of {size}");
        }
    }

    #[test]
    fn other_bytes_are_not_kept() {
        let mut stamps = Stamps::default();
        stamps.feed(&[b'x'; 4_096], |_| unreachable!());
        assert!(stamps.kept.is_empty());
    }
}
