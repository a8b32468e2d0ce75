//! Writes down everything that moves a rollout, so that it can be told and lived through again.
//!
//! Never grows without bound, and never stops a rollout: a journal that cannot be written is
//! reported, and the judge goes on. A crash at any byte costs the line that it hit, no more.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::rollout::record::{Packed, Record, What};

/// A file is put aside when it is larger, and the one put aside before is deleted: a busy
/// rollout fills it in two days.
pub const FILE_BYTES_MAX: u64 = 32 << 20;

/// Changes and words that are kept in memory, for `serin why`. When full, the oldest goes.
pub const TOLD_MAX: usize = 200;

/// Slots that wait to be written, of one rollout.
const SLOTS_MAX: usize = 40;

/// Writes down everything that moves a rollout.
#[derive(Debug)]
pub struct Journal {
    /// `None` is memory only.
    path: Option<PathBuf>,
    file: Option<File>,
    bytes: u64,
    bytes_max: u64,
    /// Judged, but not yet written.
    slots: Vec<(Record, Vec<Packed>)>,
    told: Arc<VecDeque<Record>>,
    /// Of the last write, so that a full disk is told once.
    failed: bool,
}

impl Journal {
    /// Goes on with the file beside the state file `state`; `None` is memory only.
    pub fn open(state: Option<&Path>) -> Self {
        Self::open_bounded(state.map(path_of), FILE_BYTES_MAX)
    }

    fn open_bounded(path: Option<PathBuf>, bytes_max: u64) -> Self {
        let mut journal = Self {
            path,
            file: None,
            bytes: 0,
            bytes_max,
            slots: Vec::new(),
            told: Arc::default(),
            failed: false,
        };
        if let Some(path) = journal.path.clone() {
            for path in [aside(&path), path] {
                // One that is not there yet, or cannot be read, has nothing to tell.
                let _ = journal.recall(&path);
            }
            let reopened = journal.reopen();
            journal.check(reopened);
        }
        journal
    }

    /// Changes and words, oldest first.
    pub fn told(&self) -> Arc<VecDeque<Record>> {
        Arc::clone(&self.told)
    }

    /// A slot was judged. It is written with the next record of its rollout, or with a few more
    /// slots.
    pub fn slot(&mut self, head: Record, slot: Packed) {
        let same = |one: &&mut (Record, Vec<Packed>)| {
            (&one.0.rollout, &one.0.version) == (&head.rollout, &head.version)
        };
        let full = if let Some((_, slots)) = self.slots.iter_mut().find(same) {
            slots.push(slot);
            slots.len() >= SLOTS_MAX
        } else {
            self.slots.push((head, vec![slot]));
            false
        };
        if full {
            self.flush();
        }
    }

    /// Writes what waits.
    pub fn flush(&mut self) {
        for (head, slots) in std::mem::take(&mut self.slots) {
            self.append(&Record { what: What::Slots { slots }, ..head });
        }
    }

    /// Writes `record` after everything that came before it. A change is on disk afterwards.
    pub fn write(&mut self, record: Record) {
        self.flush();
        self.append(&record);
        if matches!(record.what, What::Changed(_)) {
            let synced = self.file.as_ref().map_or(Ok(()), File::sync_data);
            self.check(synced);
        }
        self.keep(record);
    }

    /// Puts a full file aside. Then it is for the caller to write how every rollout begins.
    #[must_use]
    pub fn rotate(&mut self) -> bool {
        let Some(path) = &self.path else { return false };
        if self.bytes < self.bytes_max {
            return false;
        }
        let renamed = fs::rename(path, aside(path)).and_then(|()| self.reopen());
        self.check(renamed);
        !self.failed
    }

    /// What was told before a restart; most of the file is slots, which nobody asks for.
    fn recall(&mut self, path: &Path) -> io::Result<()> {
        // Larger is not ours.
        let file = File::open(path)?.take(2 * self.bytes_max);
        for line in BufReader::new(file).split(b'\n') {
            let line = line?;
            if memchr::memmem::find(&line, br#""kind":"slots""#).is_none()
                && let Ok(record) = serde_json::from_slice(&line)
            {
                self.keep(record);
            }
        }
        Ok(())
    }

    fn reopen(&mut self) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let mut file = OpenOptions::new().create(true).append(true).read(true).open(path)?;
        self.bytes = file.seek(SeekFrom::End(0))?;
        let mut last = [b'\n'];
        if self.bytes > 0 {
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
        }
        if last != *b"\n" {
            // The line that a crash has cut must not swallow the next one.
            file.write_all(b"\n")?;
        }
        self.file = Some(file);
        Ok(())
    }

    fn append(&mut self, record: &Record) {
        let Some(file) = &mut self.file else { return };
        let line = serde_json::to_string(record).map_err(io::Error::from);
        let written = line.and_then(|line| {
            self.bytes += line.len() as u64 + 1;
            file.write_all(format!("{line}\n").as_bytes())
        });
        self.check(written);
    }

    fn keep(&mut self, record: Record) {
        if matches!(record.what, What::Changed(_) | What::Told { .. }) {
            let told = Arc::make_mut(&mut self.told);
            told.push_back(record);
            if told.len() > TOLD_MAX {
                told.pop_front();
            }
        }
    }

    fn check(&mut self, result: io::Result<()>) {
        match result {
            Ok(()) => self.failed = false,
            Err(error) => {
                if !self.failed {
                    let path = self.path.as_deref().unwrap_or(Path::new("")).display();
                    tracing::error!(%path, %error, "the journal is not written");
                }
                self.failed = true;
            }
        }
    }
}

/// `serin-state.json` has its journal in `serin-state.journal`.
pub fn path_of(state: &Path) -> PathBuf {
    state.with_extension("journal")
}

/// Where a full file goes.
fn aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

#[cfg(test)]
mod tests;
