//! The thread that writes ledger and journal: a disk that hangs must not keep the judge waiting.
//!
//! Never decides what is written, and writes it in the order in which it was asked to: what the
//! journal tells is in the ledger before.

use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use tokio::sync::watch;

use crate::control::journal::JournalFile;
use crate::control::ledger;

/// What waits to be written. When full, lines of the journal are left out, which is logged, and
/// the ledger is written later.
pub const JOBS_MAX: usize = 256;

/// Something to write.
#[derive(Debug)]
pub enum Job {
    /// The ledger, as it was last given.
    Ledger,
    /// Lines of the journal.
    Lines {
        /// With their ends.
        text: String,
        /// Whether they are to be on disk afterwards.
        sync: bool,
    },
    /// The journal's file is full: put it aside.
    Rotate,
}

/// How far the ledger is on disk.
#[derive(Clone, Debug, Default)]
pub struct Done {
    /// The number of the last one that was tried.
    pub number: u64,
    /// Why it is not on disk.
    pub error: Option<String>,
}

/// The way to the thread, which ends when all of these are gone and everything is written.
#[derive(Clone, Debug)]
pub struct Disk {
    jobs: SyncSender<Job>,
    /// The ledger's number and content, if it is yet to be written. A later one takes an
    /// earlier one's place, so that however long the disk hangs there is one.
    ledger: Arc<Mutex<Option<(u64, String)>>>,
    done: watch::Receiver<Done>,
}

impl Disk {
    /// Starts the thread.
    pub fn start(ledger: PathBuf, journal: JournalFile) -> io::Result<Self> {
        let (jobs, asked) = sync_channel(JOBS_MAX);
        let (tell, done) = watch::channel(Done::default());
        let latest = Arc::<Mutex<_>>::default();
        let (path, taken) = (ledger, Arc::clone(&latest));
        let thread = thread::Builder::new().name("serin-disk".to_owned());
        thread.spawn(move || work((&path, &taken), journal, &asked, &tell))?;
        Ok(Self { jobs, ledger: latest, done })
    }

    /// Asks for `job`. Never waits; `false` when too much is waiting, or the thread is gone.
    pub fn ask(&self, job: Job) -> bool {
        self.jobs.try_send(job).is_ok()
    }

    /// Asks for the ledger to be on disk before whatever is asked for after this; `number` rises
    /// by one with each. Never waits for the disk; `false` when too much is waiting.
    pub fn ask_for_ledger(&self, number: u64, content: String) -> bool {
        *lock(&self.ledger) = Some((number, content));
        self.ask(Job::Ledger)
    }

    /// Tells how far the ledger is on disk; closed when the thread has ended.
    pub fn done(&self) -> watch::Receiver<Done> {
        self.done.clone()
    }
}

/// Nobody panics between taking and giving back.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn work(
    (path, ledger): (&std::path::Path, &Mutex<Option<(u64, String)>>),
    mut journal: JournalFile,
    asked: &Receiver<Job>,
    tell: &watch::Sender<Done>,
) {
    for job in asked {
        match job {
            Job::Ledger => {
                // It may have gone with an earlier job.
                let Some((number, content)) = lock(ledger).take() else { continue };
                let written = ledger::replace(path, content.as_bytes());
                let error = written.err().map(|e| format!("state file {}: {e}", path.display()));
                tell.send_replace(Done { number, error });
            }
            Job::Lines { text, sync } => {
                journal.append(&text);
                if sync {
                    journal.sync();
                }
            }
            Job::Rotate => journal.rotate(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everything_is_written_in_order_before_the_thread_ends() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let journal = JournalFile::open(path("s.journal"), 1000);
        let disk = Disk::start(path("s.json"), journal).unwrap();
        let mut done = disk.done();
        for number in 1..=3 {
            assert!(disk.ask_for_ledger(number, format!("{number}")));
            assert!(disk.ask(Job::Lines { text: format!("line {number}\n"), sync: true }));
        }
        drop(disk);
        while done.changed().await.is_ok() {}
        assert_eq!((done.borrow().number, done.borrow().error.clone()), (3, None));
        let text = |name: &str| std::fs::read_to_string(path(name)).unwrap();
        assert_eq!((text("s.json").as_str(), text("s.journal").lines().count()), ("3", 3));
    }

    #[test]
    fn a_line_is_written_after_the_ledger_that_was_asked_for_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let (jobs, asked) = sync_channel(JOBS_MAX);
        let (tell, done) = watch::channel(Done::default());
        let disk = Disk { jobs, ledger: Arc::default(), done };
        let line = || Job::Lines { text: "line\n".to_owned(), sync: false };
        // Two changes before the disk does anything: one ledger, and it holds both.
        assert!(disk.ask_for_ledger(1, "one".to_owned()) && disk.ask(line()));
        assert!(disk.ask_for_ledger(2, "two".to_owned()) && disk.ask(line()));
        let journal = JournalFile::open(path("s.journal"), 1000);
        let (ledger, done) = (Arc::clone(&disk.ledger), disk.done());
        // One job at a time, as a crash would cut them.
        let jobs: Vec<_> = asked.try_iter().collect();
        let mut journal = Some(journal);
        for (index, job) in jobs.into_iter().enumerate() {
            let (send, one) = sync_channel(1);
            send.send(job).unwrap();
            drop(send);
            let file = journal.take().unwrap_or_else(|| JournalFile::open(path("s.journal"), 1000));
            work((&path("s.json"), &ledger), file, &one, &tell);
            let lines = std::fs::read_to_string(path("s.journal")).unwrap().lines().count();
            let text = std::fs::read_to_string(path("s.json")).unwrap();
            assert_eq!((text.as_str(), lines), ("two", index.div_ceil(2)), "after job {index}");
        }
        assert_eq!(done.borrow().number, 2);
    }

    #[tokio::test]
    async fn a_ledger_that_cannot_be_written_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let journal = JournalFile::open(folder.path().join("s.journal"), 1000);
        let disk = Disk::start(PathBuf::from("/proc/none/s.json"), journal).unwrap();
        let mut done = disk.done();
        assert!(disk.ask_for_ledger(1, String::new()));
        done.changed().await.unwrap();
        assert!(done.borrow().error.as_ref().unwrap().contains("/proc/none/s.json"));
    }
}
