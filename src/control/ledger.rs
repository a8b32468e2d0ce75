//! Remembers rollouts across restarts: what ended stays ended, what runs goes on.
//!
//! Never trusts a file that is not whole: it is replaced in one rename, after it and
//! before its folder is on disk.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::control::api::SaidView;
use crate::names::{RolloutName, Version};
use crate::rollout::machine::Cause;
use crate::rollout::release::Saved;

/// Entries that are kept. When full, the oldest ended one is forgotten: a version that was
/// rolled back a thousand rollouts ago is not applied again by accident.
pub const ENTRIES_MAX: usize = 1000;

/// The form of the file; another one is refused, not guessed at.
const FORMAT: u32 = 1;

/// A larger file is not ours.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// What remembers ended rollouts across restarts.
#[derive(Debug)]
pub struct Ledger {
    /// `None` is memory only.
    path: Option<PathBuf>,
    entries: Vec<Entry>,
    /// Held for as long as the process lives: two of them would undo each other's rollbacks.
    lock_held: Option<File>,
}

/// One rollout at one version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// With `version` the key.
    pub rollout: String,
    /// With `rollout` the key.
    pub version: String,
    /// When it came into this state, RFC 3339.
    pub since: String,
    /// The last word of a person that was followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said: Option<SaidView>,
    /// The era of the fleet's latch in which it came there, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub era: Option<u64>,
    /// Where it stands.
    pub state: Remembered,
}

/// What is remembered of a rollout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Remembered {
    /// It runs, in this step and with this evidence.
    Progressing(Saved),
    /// Its canary has all the traffic.
    Promoted,
    /// The judge ended it.
    RolledBack(Cause),
    /// A person ended it.
    Aborted,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format: u32,
    rollouts: Vec<Entry>,
}

/// Why the state file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The file cannot be read or written.
    #[error("state file {}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process uses the file.
    #[error(
        "state file {} belongs to another Serin that runs: two would undo each other's \
         rollbacks; give this one a file of its own, or stop the other first",
        path.display()
    )]
    Locked {
        /// Which file.
        path: PathBuf,
    },
    /// The file is not one of Serin's.
    #[error(
        "state file {} is not readable: {what}; it remembers what was rolled back, so it is not \
         overwritten: restore it, or move it away to start without a memory",
        path.display()
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

impl Ledger {
    /// Reads the file, which need not exist yet but must be writable; `None` is memory only.
    pub fn open(path: Option<PathBuf>) -> Result<Self, LedgerError> {
        let mut ledger = Self { path, entries: Vec::new(), lock_held: None };
        let Some(path) = ledger.path.clone() else { return Ok(ledger) };
        ledger.lock_held = Some(lock(&path)?);
        let damaged = |what: String| LedgerError::Damaged { path: path.clone(), what };
        match fs::metadata(&path) {
            Ok(meta) if meta.len() > FILE_BYTES_MAX => {
                return Err(damaged("it is too large".to_owned()));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(LedgerError::Io { path, source }),
            Ok(_) => {
                let text = fs::read_to_string(&path)
                    .map_err(|source| LedgerError::Io { path: path.clone(), source })?;
                let document: Document =
                    serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
                if document.format != FORMAT {
                    return Err(damaged(format!("its format is {}", document.format)));
                }
                ledger.entries = document.rollouts;
            }
        }
        // Better to fail now than to forget a rollback later.
        ledger.save()?;
        Ok(ledger)
    }

    /// What is remembered of a rollout at a version.
    pub fn find(&self, rollout: &RolloutName, version: &Version) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.is_for(rollout, version))
    }

    /// Remembers `entry` instead of what was remembered under its key. Call [`Self::save`].
    pub fn remember(&mut self, entry: Entry) {
        self.entries.retain(|old| (&old.rollout, &old.version) != (&entry.rollout, &entry.version));
        // A running entry of another version of the same rollout is over.
        self.entries.retain(|old| {
            old.rollout != entry.rollout || !matches!(old.state, Remembered::Progressing(_))
        });
        self.entries.push(entry);
        if self.entries.len() > ENTRIES_MAX {
            self.entries.remove(0);
        }
    }

    /// Forgets a rollout at a version. Call [`Self::save`].
    pub fn forget(&mut self, rollout: &RolloutName, version: &Version) {
        self.entries.retain(|entry| !entry.is_for(rollout, version));
    }

    /// Puts everything on disk. The file is whole at every moment: written beside it,
    /// synced, renamed over it, and the folder synced.
    pub fn save(&self) -> Result<(), LedgerError> {
        let Some(path) = &self.path else { return Ok(()) };
        replace(path, self.content().as_bytes())
            .map_err(|source| LedgerError::Io { path: path.clone(), source })
    }

    /// Where it lies; `None` is memory only.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// What the file is to hold.
    pub fn content(&self) -> String {
        let document = Document { format: FORMAT, rollouts: self.entries.clone() };
        // Entries are made of texts and finite numbers.
        serde_json::to_string_pretty(&document).unwrap_or_default()
    }
}

impl Entry {
    fn is_for(&self, rollout: &RolloutName, version: &Version) -> bool {
        self.rollout == rollout.as_str() && self.version == version.as_str()
    }
}

/// Takes the lock beside the file, which the system lets go of when the process ends.
fn lock(path: &Path) -> Result<File, LedgerError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let io = |source| LedgerError::Io { path: path.to_owned(), source };
    let file = File::create(Path::new(&name)).map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(LedgerError::Locked { path: path.to_owned() }),
        Err(TryLockError::Error(error)) => Err(io(error)),
    }
}

/// Puts `content` on disk in place of what `path` holds: whole, or not at all.
pub(super) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = folder.join(name);
    let mut file = File::create(&beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(rollout: &str, version: &str) -> Entry {
        Entry {
            rollout: rollout.to_owned(),
            version: version.to_owned(),
            since: "2026-11-21T10:00:00Z".to_owned(),
            said: None,
            era: None,
            state: Remembered::Aborted,
        }
    }

    #[test]
    fn what_was_remembered_is_found_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        let mut ledger = Ledger::open(Some(path.clone())).unwrap();
        ledger.remember(entry("chat", "1"));
        ledger.save().unwrap();
        drop(ledger);
        let ledger = Ledger::open(Some(path)).unwrap();
        assert!(ledger.find(&"chat".into(), &"1".into()).is_some());
        assert!(ledger.find(&"chat".into(), &"2".into()).is_none());
        // The file and its lock, nothing half written.
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_damaged_file_is_refused_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        for content in ["{\"format\": 1, \"rollo", "{\"format\": 9, \"rollouts\": []}", ""] {
            fs::write(&path, content).unwrap();
            let error = Ledger::open(Some(path.clone())).unwrap_err().to_string();
            assert!(error.contains("move it away"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
    }

    #[test]
    fn two_processes_do_not_share_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        let first = Ledger::open(Some(path.clone())).unwrap();
        let error = Ledger::open(Some(path.clone())).unwrap_err();
        assert!(matches!(error, LedgerError::Locked { .. }), "{error}");
        drop(first);
        assert!(Ledger::open(Some(path)).is_ok());
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_found_at_the_start() {
        let path = PathBuf::from("/proc/no-such-folder/state.json");
        assert!(matches!(Ledger::open(Some(path)), Err(LedgerError::Io { .. })));
    }

    #[test]
    fn it_does_not_grow_without_bound() {
        let mut ledger = Ledger::open(None).unwrap();
        for version in 0..ENTRIES_MAX + 10 {
            ledger.remember(entry("chat", &version.to_string()));
        }
        assert_eq!(ledger.entries.len(), ENTRIES_MAX);
        assert!(ledger.find(&"chat".into(), &"0".into()).is_none());
        ledger.remember(entry("chat", "500"));
        assert_eq!(ledger.entries.len(), ENTRIES_MAX);
    }
}
