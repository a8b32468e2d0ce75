//! A program as users run it: with arguments, an exit code, signals.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::time::eventually;

/// How often one that is not read is looked at, whether it has ended.
const DEAF_LOOK: Duration = Duration::from_millis(10);

/// A running program. Killed when dropped.
#[derive(Debug)]
pub struct Program {
    child: Child,
    said: Arc<Mutex<String>>,
    deaf: Arc<AtomicBool>,
    readers: Vec<JoinHandle<()>>,
}

/// What a program left behind.
#[derive(Clone, Debug)]
pub struct Output {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// What it wrote on stdout.
    pub stdout: String,
    /// What it wrote on stderr.
    pub stderr: String,
}

impl Output {
    /// Itself, when it ended with `code`.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }
}

fn command(path: &str, args: &[&str]) -> Command {
    let mut command = Command::new(path);
    command.args(args).stdin(Stdio::null());
    // What the test's own surroundings say must not change what it sees.
    let own = std::env::vars_os().map(|(name, _)| name);
    for name in own.filter(|name| name.to_string_lossy().starts_with("SERIN_")) {
        command.env_remove(name);
    }
    command.env_remove("NO_COLOR");
    command
}

impl Program {
    /// Where a program lies that users may have.
    pub fn find(name: &str) -> Option<PathBuf> {
        let paths = std::env::var_os("PATH")?;
        std::env::split_paths(&paths).map(|folder| folder.join(name)).find(|path| path.is_file())
    }

    /// Runs `path` to its end, with `input` on stdin, while the test goes on.
    pub async fn output_with(path: &str, args: &[&str], input: &[u8]) -> Output {
        let (mut command, input) = (command(path, args), input.to_vec());
        let run = tokio::task::spawn_blocking(move || {
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command.spawn().expect("a program");
            let mut stdin = child.stdin.take();
            let writer = thread::spawn(move || {
                // It may well end without reading it.
                let _ = stdin.as_mut().map(|stdin| stdin.write_all(&input));
            });
            let output = child.wait_with_output().expect("its output");
            let _ = writer.join();
            output
        });
        let output = run.await.expect("a thread");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let (stdout, stderr) = (text(output.stdout), text(output.stderr));
        Output { code: output.status.code(), stdout, stderr }
    }

    /// Runs `path` to its end, while the test goes on.
    pub async fn output(path: &str, args: &[&str]) -> Output {
        Self::output_with(path, args, b"").await
    }

    /// Starts `path`.
    pub fn start(path: &str, args: &[&str]) -> Self {
        let mut command = command(path, args);
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a program");
        let said = Arc::new(Mutex::new(String::new()));
        let stdout = child.stdout.take().map(|out| Box::new(out) as Box<dyn Read + Send>);
        let stderr = child.stderr.take().map(|out| Box::new(out) as Box<dyn Read + Send>);
        let deaf = Arc::<AtomicBool>::default();
        let listen = |out: Box<dyn Read + Send>| {
            let (said, deaf) = (Arc::clone(&said), Arc::clone(&deaf));
            thread::spawn(move || {
                for line in BufReader::new(out).lines().map_while(Result::ok) {
                    let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
                    said.push_str(&line);
                    said.push('\n');
                    drop(said);
                    while deaf.load(Relaxed) {
                        thread::sleep(DEAF_LOOK);
                    }
                }
            })
        };
        let readers = stdout.into_iter().chain(stderr).map(listen).collect();
        Self { child, said, deaf, readers }
    }

    /// Nobody reads what it writes any more: its pipes fill up, and stay open, until it has
    /// ended.
    pub fn read_no_more(&self) {
        self.deaf.store(true, Relaxed);
    }

    /// What it has said so far on stdout and stderr.
    pub fn said(&self) -> String {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for a line that contains `what`.
    pub async fn says(&self, what: &str) -> String {
        eventually(&format!("the program says {what}"), async || {
            self.said().lines().find(|line| line.contains(what)).map(ToOwned::to_owned)
        })
        .await
    }

    /// The address in the line with `what`, after `address=`.
    pub async fn address(&self, what: &str) -> SocketAddr {
        let line = self.says(what).await;
        let address = line.split("address=").nth(1).and_then(|rest| rest.split(' ').next());
        let address = address.and_then(|text| text.parse().ok());
        address.unwrap_or_else(|| panic!("no address in {line}"))
    }

    /// Its number among processes.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal: `TERM`, `HUP`, `INT`.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args([&format!("-{name}"), &pid]).status();
        assert!(status.is_ok_and(|status| status.success()), "cannot send {name} to {pid}");
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end; stdout and stderr are together in `stdout`.
    pub async fn ended(mut self) -> Output {
        let status =
            eventually("the program ends", async || self.child.try_wait().ok().flatten()).await;
        self.deaf.store(false, Relaxed);
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        Output { code: status.code(), stdout: self.said(), stderr: String::new() }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.deaf.store(false, Relaxed);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An argument of a command line.
pub fn arg(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}
