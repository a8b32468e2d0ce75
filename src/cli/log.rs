//! The log of `serin run`, on stderr.
//!
//! Never waits for whoever reads it: lines go through a queue with an end, and those that find
//! no room there are counted, in `serin_log_lines_dropped_total`.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal, Write};
use std::panic::PanicHookInfo;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Lines that wait for stderr. When full, later ones are left out, and counted.
const QUEUE_MAX: usize = 4096;

/// How long the end waits for stderr to take what is in the queue.
const LAST_LINES_MAX: Duration = Duration::from_secs(1);

/// How often the end looks for room in the queue.
const END_LOOK: Duration = Duration::from_millis(5);

/// How it is written, and of what.
#[derive(Debug, clap::Args)]
pub struct LogArgs {
    /// Form of the log on stderr
    #[arg(long, value_name = "FORM", env = "SERIN_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// What is logged: error, warn, info, debug, or a filter such as `serin=debug`
    #[arg(long, value_name = "FILTER", env = "SERIN_LOG", default_value = "info")]
    pub log: String,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The log of this process. Let go of it last: what waits is written then, as far as stderr
/// takes it within a second.
#[derive(Debug)]
pub struct Log(Queue);

impl Log {
    /// Starts it for the whole process; panics are told in it, too.
    pub fn start(args: &LogArgs) -> anyhow::Result<Self> {
        let filter = EnvFilter::try_new(&args.log)
            .map_err(|error| anyhow::anyhow!("--log {}: {error}", args.log))?;
        let queue = Queue::to(io::stderr())?;
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(queue.clone())
            .with_target(false)
            .with_ansi(colours());
        match args.log_format {
            LogFormat::Text => log.init(),
            LogFormat::Json => log.json().flatten_event(true).init(),
        }
        // What Rust does by itself writes to stderr, and waits for it.
        std::panic::set_hook(Box::new(tell_panic));
        Ok(Self(queue))
    }

    /// Asks for the lines that did not get to stderr so far.
    pub fn dropped(&self) -> impl Fn() -> u64 + Send + Sync + 'static {
        let dropped = Arc::clone(&self.0.dropped);
        move || dropped.load(Relaxed)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.0.finish();
    }
}

/// Whether messages on stderr may have colours.
pub fn colours() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// What a writer's thread is sent.
enum Piece {
    Line(Vec<u8>),
    /// Whoever waits for all before is told.
    End(SyncSender<()>),
}

/// The way to a writer that may not take anything.
#[derive(Clone, Debug)]
struct Queue {
    pieces: SyncSender<Piece>,
    dropped: Arc<AtomicU64>,
}

impl Queue {
    fn to(writer: impl Write + Send + 'static) -> io::Result<Self> {
        let (pieces, waiting) = sync_channel(QUEUE_MAX);
        let dropped = Arc::<AtomicU64>::default();
        let lost = Arc::clone(&dropped);
        let thread = thread::Builder::new().name("serin-log".to_owned());
        thread.spawn(move || write_all(&waiting, writer, &lost))?;
        Ok(Self { pieces, dropped })
    }

    /// Waits for all that is in it, but not for long.
    fn finish(&self) {
        let (written, all_written) = sync_channel(1);
        for _ in 0..LAST_LINES_MAX.as_millis() / END_LOOK.as_millis() {
            match self.pieces.try_send(Piece::End(written.clone())) {
                Ok(()) => {
                    let _ = all_written.recv_timeout(LAST_LINES_MAX);
                    return;
                }
                Err(TrySendError::Full(_)) => thread::sleep(END_LOOK),
                Err(TrySendError::Disconnected(_)) => return,
            }
        }
    }
}

fn write_all(waiting: &Receiver<Piece>, mut writer: impl Write, lost: &AtomicU64) {
    for piece in waiting {
        match piece {
            Piece::Line(line) => {
                if writer.write_all(&line).is_err() {
                    lost.fetch_add(1, Relaxed);
                }
            }
            Piece::End(all_written) => {
                let _ = writer.flush();
                let _ = all_written.try_send(());
            }
        }
    }
}

impl Write for Queue {
    /// `line` is a whole one: that is how `tracing` writes.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.pieces.try_send(Piece::Line(line.to_vec())).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Queue {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

fn tell_panic(panic: &PanicHookInfo<'_>) {
    let here = std::thread::current();
    let place = panic.location().map(ToString::to_string);
    let backtrace = Backtrace::capture();
    let backtrace =
        (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    let message = panic.payload_as_str().unwrap_or("no message");
    tracing::error!(
        event = "panic",
        thread = here.name(),
        place,
        backtrace,
        "a thread panicked: {message}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::mpsc::SyncSender;

    /// Takes nothing before it is told to.
    struct Stuck {
        go_on: Receiver<()>,
        taken: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // A sender that is gone lets everything through.
            let _ = self.go_on.recv();
            self.taken.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn stuck() -> (Stuck, SyncSender<()>, Arc<Mutex<Vec<u8>>>) {
        let ((sender, go_on), taken) = (sync_channel(1), Arc::<Mutex<Vec<u8>>>::default());
        (Stuck { go_on, taken: Arc::clone(&taken) }, sender, taken)
    }

    #[test]
    fn what_finds_no_room_is_counted_and_what_found_some_is_written_at_the_end() {
        let (writer, sender, taken) = stuck();
        let mut queue = Queue::to(writer).unwrap();
        let lines = QUEUE_MAX as u64 + 100;
        for _ in 0..lines {
            queue.write_all(b"line\n").unwrap();
        }
        let dropped = queue.dropped.load(Relaxed);
        // One may be in the writer's hands already.
        assert!((99..=100).contains(&dropped), "{dropped}");
        drop(sender);
        queue.finish();
        let taken = taken.lock().unwrap().len() / b"line\n".len();
        assert_eq!(taken as u64 + dropped, lines);
    }

    #[test]
    fn a_panic_is_a_line_with_its_thread_and_place() {
        let (writer, sender, taken) = stuck();
        drop(sender);
        let queue = Queue::to(writer).unwrap();
        let log = tracing_subscriber::fmt().with_writer(queue.clone()).with_ansi(false).json();
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(tell_panic));
        tracing::subscriber::with_default(log.flatten_event(true).finish(), || {
            assert!(std::panic::catch_unwind(|| panic!("no luck")).is_err());
        });
        std::panic::set_hook(before);
        queue.finish();
        let taken = taken.lock().unwrap();
        let line: serde_json::Value = serde_json::from_slice(&taken).unwrap();
        assert_eq!(line["event"], "panic", "{line}");
        assert_eq!(line["message"], "a thread panicked: no luck");
        assert!(line["place"].as_str().unwrap().starts_with("src/cli/log.rs:"), "{line}");
        assert!(line["thread"].is_string(), "{line}");
    }
}
