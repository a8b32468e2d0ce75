//! The thread that appends the lines of the access log to a file, or to stdout.
//!
//! Never waited for: a disk, or a reader of stdout, that takes nothing costs the lines that find
//! no room, which are counted, and neither spans nor the end of the process.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::time::sleep;

use crate::clock::Clock;
use crate::telemetry::story::Outlets;
use crate::units::Tick;

/// Text that waits to be written. When full, later lines are left out, and counted.
const WAITING_BYTES_MAX: usize = 8 << 20;

/// Pieces of it; one is made every 25 ms at most.
const WAITING_MAX: usize = 256;

/// How often a file is looked at, whether it was put aside.
const LOOK: Duration = Duration::from_secs(1);

/// How long the end waits for what is being written, and how often it looks.
const LAST_LINES_MAX: Duration = Duration::from_secs(2);
const END_LOOK: Duration = Duration::from_millis(5);

/// The way to the thread.
#[derive(Debug)]
pub struct Writer {
    queue: SyncSender<Lines>,
    /// Bytes that wait, or are being written.
    waiting: Arc<AtomicUsize>,
    outlets: Arc<Outlets>,
    thread: JoinHandle<()>,
}

/// Some whole lines.
#[derive(Debug)]
pub struct Lines {
    /// `None` is stdout.
    pub path: Option<PathBuf>,
    /// Each with its end.
    pub text: Vec<u8>,
    /// How many.
    pub count: u64,
}

impl Writer {
    /// Starts the thread.
    pub fn start(outlets: Arc<Outlets>, clock: Clock) -> io::Result<Self> {
        let (queue, lines) = sync_channel(WAITING_MAX);
        let waiting = Arc::<AtomicUsize>::default();
        let mut paper = Paper { open: None, failed: false, outlets: Arc::clone(&outlets), clock };
        let taken = Arc::clone(&waiting);
        let thread = thread::Builder::new().name("serin-access-log".to_owned());
        let thread = thread.spawn(move || paper.write_all(&lines, &taken))?;
        Ok(Self { queue, waiting, outlets, thread })
    }

    /// Has `lines` written; from one thread only.
    pub fn write(&self, lines: Lines) {
        let (bytes, count) = (lines.text.len(), lines.count);
        let waiting = self.waiting.load(Relaxed);
        // One piece may be larger than all that may wait.
        let has_room = waiting == 0 || waiting + bytes <= WAITING_BYTES_MAX;
        self.waiting.fetch_add(bytes, Relaxed);
        if !has_room || self.queue.try_send(lines).is_err() {
            self.waiting.fetch_sub(bytes, Relaxed);
            self.outlets.lines_late.add(count);
        }
    }

    /// Waits for what was to be written, but not for long.
    pub async fn finish(self) {
        let Self { queue, thread, .. } = self;
        drop(queue);
        for _ in 0..LAST_LINES_MAX.as_millis() / END_LOOK.as_millis() {
            if thread.is_finished() {
                return;
            }
            sleep(END_LOOK).await;
        }
    }
}

/// What is written on.
struct Paper {
    open: Option<Open>,
    /// Of the last write, so that a full disk is told once.
    failed: bool,
    outlets: Arc<Outlets>,
    clock: Clock,
}

struct Open {
    path: PathBuf,
    file: File,
    looked: Tick,
}

impl Paper {
    fn write_all(&mut self, queue: &Receiver<Lines>, waiting: &AtomicUsize) {
        for lines in queue {
            self.write(&lines);
            waiting.fetch_sub(lines.text.len(), Relaxed);
        }
    }

    fn write(&mut self, lines: &Lines) {
        let written = match &lines.path {
            None => io::stdout().lock().write_all(&lines.text),
            Some(path) => self.file(path).and_then(|mut file| file.write_all(&lines.text)),
        };
        match written {
            Ok(()) => {
                self.outlets.lines_written.add(lines.count);
                self.failed = false;
            }
            Err(error) => {
                self.outlets.lines_failed.add(lines.count);
                if !self.failed {
                    let path = lines.path.as_deref().unwrap_or(Path::new("stdout")).display();
                    tracing::error!(
                        event = "access_log_failed", %path, %error, "the access log is not written"
                    );
                }
                // Perhaps it can be opened again.
                self.open = None;
                self.failed = true;
            }
        }
    }

    /// The file at `path`, opened anew when it was put aside.
    fn file(&mut self, path: &Path) -> io::Result<&File> {
        let now = self.clock.now();
        let is_same = self.open.as_mut().is_some_and(|open| {
            if open.path != path {
                return false;
            }
            if now.since(open.looked) < LOOK {
                return true;
            }
            open.looked = now;
            let there = std::fs::metadata(path).map(|found| (found.dev(), found.ino()));
            let ours = open.file.metadata().map(|found| (found.dev(), found.ino()));
            there.ok().zip(ours.ok()).is_some_and(|(there, ours)| there == ours)
        });
        if !is_same {
            self.open = None;
            let file = OpenOptions::new().create(true).append(true).open(path)?;
            self.open = Some(Open { path: path.to_owned(), file, looked: now });
        }
        self.open.as_ref().map(|open| &open.file).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}
