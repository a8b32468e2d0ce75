//! Writes down everything that moves a rollout, so that it can be told and lived through again.
//!
//! Never grows without bound, and never stops a rollout: a journal that cannot be written is
//! reported, and the judge goes on. A crash at any byte costs the line that it hit, no more.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::control::disk::{Disk, Job};
use crate::rollout::record::{Packed, Record, What};

/// A file is put aside when it is larger, and the one put aside before is deleted: a busy
/// rollout fills it in two days, in one where the counts of a fleet are judged.
pub const FILE_BYTES_MAX: u64 = 32 << 20;

/// Changes and words that are kept in memory, for `serin why`. When full, the oldest goes.
pub const TOLD_MAX: usize = 200;

/// Slots that wait to be written, of one rollout.
const SLOTS_MAX: usize = 40;

/// Writes down everything that moves a rollout.
#[derive(Debug)]
pub struct Journal {
    place: Place,
    bytes: u64,
    bytes_max: u64,
    /// Judged, but not yet written.
    slots: Vec<(Record, Vec<Packed>)>,
    /// After these slots.
    later: Vec<Record>,
    told: Arc<VecDeque<Record>>,
    /// Lines were left out: what comes next has to stand for itself.
    lost: bool,
    counts: Arc<Counts>,
}

/// What became of lines since the start.
#[derive(Debug, Default)]
struct Counts {
    written: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
}

/// What comes next in a journal has to stand for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotated {
    /// The file was put aside, with everything in it.
    Whole,
    /// Lines were left out.
    WithGap,
}

/// Where lines go.
#[derive(Debug)]
enum Place {
    /// Nowhere: memory only.
    Memory,
    /// Into a file, here and now.
    File(JournalFile),
    /// To the thread that writes.
    Disk(Disk),
}

/// The file of a journal.
#[derive(Debug)]
pub struct JournalFile {
    path: PathBuf,
    file: Option<File>,
    bytes: u64,
    bytes_max: u64,
    /// Of the last write, so that a full disk is told once.
    failed: bool,
    counts: Arc<Counts>,
}

impl Journal {
    /// Goes on with the file beside the state file `state`; `None` is memory only.
    pub fn open(state: Option<&Path>) -> Self {
        Self::open_bounded(state.map(path_of), FILE_BYTES_MAX)
    }

    fn open_bounded(path: Option<PathBuf>, bytes_max: u64) -> Self {
        let mut journal = Self {
            place: Place::Memory,
            bytes: 0,
            bytes_max,
            slots: Vec::new(),
            later: Vec::new(),
            told: Arc::default(),
            lost: false,
            counts: Arc::default(),
        };
        if let Some(path) = path {
            for path in [aside(&path), path.clone()] {
                // One that is not there yet, or cannot be read, has nothing to tell.
                let _ = journal.recall(&path);
            }
            let file = JournalFile::open(path, bytes_max);
            journal.counts = Arc::clone(&file.counts);
            journal.bytes = file.bytes;
            journal.place = Place::File(file);
        }
        journal
    }

    /// From here on `start` is given the file, and its thread does the writing.
    pub fn hand_over<E>(
        &mut self,
        start: impl FnOnce(JournalFile) -> Result<Disk, E>,
    ) -> Result<(), E> {
        match std::mem::replace(&mut self.place, Place::Memory) {
            Place::File(file) => self.place = Place::Disk(start(file)?),
            other => self.place = other,
        }
        Ok(())
    }

    /// Lines since the start, by what became of them.
    pub fn results(&self) -> Vec<(&'static str, u64)> {
        let Counts { written, failed, dropped } = &*self.counts;
        let all = [("written", written), ("failed", failed), ("dropped", dropped)];
        all.into_iter().map(|(result, count)| (result, count.load(Relaxed))).collect()
    }

    /// Changes and words, oldest first.
    pub fn told(&self) -> Arc<VecDeque<Record>> {
        Arc::clone(&self.told)
    }

    /// A slot was judged, alone or as a sum of all replicas. It is written with the next record of
    /// its rollout, or with a few more slots.
    pub fn slot(&mut self, head: Record, slot: Packed) {
        if !self.later.is_empty() {
            self.flush();
        }
        let of = |one: &Record| {
            let is_pooled = matches!(one.what, What::Pooled { .. });
            (one.rollout.clone(), one.version.clone(), is_pooled)
        };
        let key = of(&head);
        if self.slots.iter().any(|(one, _)| of(one) == key && one.what != head.what) {
            // Of what is judged otherwise.
            self.flush();
        }
        let same = |one: &&mut (Record, Vec<Packed>)| of(&one.0) == key;
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
            let what = match head.what {
                What::Pooled { is_missing, .. } => What::Pooled { is_missing, slots },
                _ => What::Slots { slots },
            };
            self.append(&Record { what, ..head });
        }
        for record in std::mem::take(&mut self.later) {
            self.append(&record);
        }
    }

    /// Writes `record` with the next one, after everything that came before it: the ledger has
    /// to know what it leads to.
    pub fn write_later(&mut self, record: Record) {
        self.later.push(record);
    }

    /// What comes next may not be written: it has to stand for itself.
    pub fn leave_out(&mut self) {
        self.lost = true;
    }

    /// Writes `record` after everything that came before it, and keeps it to be told.
    pub fn write(&mut self, record: Record) {
        self.append_after_slots(&record);
        self.keep(record);
    }

    /// Writes `record` after everything that came before it. It is told when it is
    /// [kept](Self::keep).
    pub fn append_after_slots(&mut self, record: &Record) {
        self.flush();
        self.append(record);
    }

    /// Puts a full file aside. If anything is returned, it is for the caller to write how every
    /// rollout begins.
    #[must_use]
    pub fn rotate(&mut self) -> Option<Rotated> {
        let mut anew = std::mem::take(&mut self.lost).then_some(Rotated::WithGap);
        if self.bytes >= self.bytes_max {
            let rotated = match &mut self.place {
                Place::Memory => false,
                Place::File(file) => {
                    file.rotate();
                    true
                }
                Place::Disk(disk) => disk.ask(Job::Rotate),
            };
            if rotated {
                self.bytes = 0;
                anew = anew.or(Some(Rotated::Whole));
            }
        }
        anew
    }

    /// What was told before a restart; most of the file is slots, which nobody asks for.
    fn recall(&mut self, path: &Path) -> io::Result<()> {
        // Larger is not ours.
        let file = File::open(path)?.take(2 * self.bytes_max);
        for line in BufReader::new(file).split(b'\n') {
            let line = line?;
            let has = |kind: &[u8]| memchr::memmem::find(&line, kind).is_some();
            if !has(br#""kind":"slots""#)
                && !has(br#""kind":"pooled""#)
                && let Ok(record) = serde_json::from_slice(&line)
            {
                self.keep(record);
            }
        }
        Ok(())
    }

    fn append(&mut self, record: &Record) {
        // Records are made of texts and finite numbers.
        let Ok(mut text) = serde_json::to_string(record) else { return };
        text.push('\n');
        self.bytes += text.len() as u64;
        let sync = matches!(record.what, What::Changed(_));
        match &mut self.place {
            Place::Memory => {}
            Place::File(file) => {
                file.append(&text);
                if sync {
                    file.sync();
                }
            }
            Place::Disk(disk) => {
                if !disk.ask(Job::Lines { text, sync }) {
                    if !self.lost {
                        tracing::error!(
                            event = "journal_gap",
                            "the disk is too slow: the journal has a gap"
                        );
                    }
                    self.lost = true;
                    self.counts.dropped.fetch_add(1, Relaxed);
                }
            }
        }
    }

    /// Keeps a change or a word, to be told.
    pub fn keep(&mut self, record: Record) {
        if matches!(record.what, What::Changed(_) | What::Told { .. }) {
            let told = Arc::make_mut(&mut self.told);
            told.push_back(record);
            if told.len() > TOLD_MAX {
                told.pop_front();
            }
        }
    }
}

impl JournalFile {
    /// Goes on with the file at `path`; what is wrong with it is logged.
    pub fn open(path: PathBuf, bytes_max: u64) -> Self {
        let mut file =
            Self { path, file: None, bytes: 0, bytes_max, failed: false, counts: Arc::default() };
        let reopened = file.reopen();
        file.check(reopened);
        file
    }

    /// Adds whole lines. A file that is far too large, because it cannot be put aside, gets no
    /// more.
    pub fn append(&mut self, text: &str) {
        let Some(file) = &mut self.file else { return };
        if self.bytes > 2 * self.bytes_max {
            self.check(Err(io::Error::other("it is full and cannot be put aside")));
            return;
        }
        self.bytes += text.len() as u64;
        let written = file.write_all(text.as_bytes());
        let Counts { written: good, failed, .. } = &*self.counts;
        if written.is_ok() { good } else { failed }.fetch_add(1, Relaxed);
        self.check(written);
    }

    /// What was added is on disk afterwards.
    pub fn sync(&mut self) {
        let synced = self.file.as_ref().map_or(Ok(()), File::sync_data);
        self.check(synced);
    }

    /// Puts the file aside and begins another.
    pub fn rotate(&mut self) {
        let renamed = fs::rename(&self.path, aside(&self.path)).and_then(|()| self.reopen());
        self.check(renamed);
    }

    fn reopen(&mut self) -> io::Result<()> {
        let mut file = OpenOptions::new().create(true).append(true).read(true).open(&self.path)?;
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

    fn check(&mut self, result: io::Result<()>) {
        match result {
            Ok(()) => self.failed = false,
            Err(error) => {
                if !self.failed {
                    let path = self.path.display();
                    tracing::error!(
                        event = "journal_failed", %path, %error, "the journal is not written"
                    );
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
