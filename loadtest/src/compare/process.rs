//! Child processes: pinned to a core, ended by id, their CPU time read.

use std::ffi::OsStr;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{sleep, timeout};

/// A proxy that does not answer this long after its start is given up.
pub(super) const READY_WITHIN: Duration = Duration::from_secs(10);
/// A generator that takes longer for one measurement is given up.
const GENERATOR_WITHIN: Duration = Duration::from_mins(5);

/// The cores a process may run on, as `taskset` lists them: `0`, `0,1`, `2-3`.
#[derive(Clone, Debug)]
pub(super) struct Cores(pub(super) String);

impl Cores {
    /// Of the machine, as many as this process may use.
    pub(super) fn all() -> Self {
        let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self(format!("0-{}", count - 1))
    }
}

/// A running child. Dropping it kills it.
pub(super) struct Process {
    child: Child,
    id: u32,
    log: PathBuf,
}

impl Process {
    /// Starts a program on one core, its output going to the file `log`.
    pub(super) fn start(
        cores: &Cores,
        program: &Path,
        arguments: &[&str],
        log: PathBuf,
    ) -> anyhow::Result<Self> {
        let output = File::create(&log)?;
        let child = pinned(cores, program, arguments)
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        // Both helpers replace themselves by the program, so this is the program's id.
        let id = child.id().context("ended at once")?;
        Ok(Self { child, id, log })
    }

    /// Waits for a 2xx, however long within `within` the program takes to listen.
    pub(super) async fn wait_until_it_answers(
        &self,
        address: SocketAddr,
        path: &str,
        within: Duration,
    ) -> anyhow::Result<()> {
        let answered = async {
            while !matches!(get(address, path).await, Ok((200..300, _))) {
                sleep(Duration::from_millis(20)).await;
            }
        };
        if timeout(within, answered).await.is_err() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            bail!("no good answer within {within:?}; its output:\n{log}");
        }
        Ok(())
    }

    /// Time that the process's threads have run, to the nanosecond. The time of
    /// threads that have ended is not in it.
    pub(super) fn cpu_time(&self) -> anyhow::Result<Duration> {
        let total = self.thread_times()?.into_iter().map(|(_, time)| time).sum::<Duration>();
        ensure!(!total.is_zero(), "this kernel does not account run time in schedstat");
        Ok(total)
    }

    /// Each thread's name and the time that it has run.
    pub(super) fn thread_times(&self) -> anyhow::Result<Vec<(String, Duration)>> {
        let mut threads = Vec::new();
        for task in std::fs::read_dir(format!("/proc/{}/task", self.id))? {
            let folder = task?.path();
            // A thread may end between the list and the look.
            let Ok(text) = std::fs::read_to_string(folder.join("schedstat")) else { continue };
            let name = std::fs::read_to_string(folder.join("comm")).unwrap_or_default();
            let run_time = text.split_whitespace().next().context("empty schedstat")?;
            threads.push((name.trim().to_owned(), Duration::from_nanos(run_time.parse()?)));
        }
        Ok(threads)
    }

    /// Memory of the process that is in RAM, in MiB.
    pub(super) fn resident_mib(&self) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()).context("no VmRSS")?;
        Ok(kib.parse::<f64>()? / 1024.0)
    }

    /// Waits until the process has ended by itself, and well.
    pub(super) async fn wait(mut self, within: Duration) -> anyhow::Result<()> {
        let status = timeout(within, self.child.wait()).await??;
        ensure!(status.success(), "ended with {status}");
        Ok(())
    }

    /// Kills the process and waits until it is gone.
    pub(super) async fn end(mut self) {
        // Fails only when it has ended already.
        let _ = self.child.kill().await;
    }
}

/// This program with other arguments, which waits before it measures.
pub(super) struct Generator {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Generator {
    /// Starts it and waits until its connections are open and warm.
    pub(super) async fn start(cores: &Cores, arguments: &[String]) -> anyhow::Result<Self> {
        let program = std::env::current_exe()?;
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut command = pinned(cores, &program, &arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let mut output = BufReader::new(child.stdout.take().context("no stdout")?);
        let mut line = String::new();
        timeout(GENERATOR_WITHIN, output.read_line(&mut line)).await??;
        ensure!(line.trim() == "ready", "loadtest {} failed", arguments.join(" "));
        Ok(Self { child, output })
    }

    /// Lets it measure and returns what it printed.
    pub(super) async fn run(mut self) -> anyhow::Result<String> {
        let mut input = self.child.stdin.take().context("no stdin")?;
        input.write_all(b"go\n").await?;
        let mut line = String::new();
        timeout(GENERATOR_WITHIN, self.output.read_line(&mut line)).await??;
        ensure!(!line.is_empty(), "the generator failed");
        self.child.wait().await?;
        Ok(line)
    }
}

/// `taskset` pins, `setpriv` has the kernel end the child when its parent is killed.
fn pinned(cores: &Cores, program: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "taskset", "-c", &cores.0].map(OsStr::new));
    command.arg(program).args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Status and body of a GET on a connection of its own.
pub(super) async fn get(address: SocketAddr, path: &str) -> anyhow::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let head = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    // The backend does not close, so its content-length says where the answer ends.
    loop {
        let count = timeout(READY_WITHIN, stream.read(&mut chunk)).await??;
        answer.extend_from_slice(&chunk[..count]);
        let text = String::from_utf8_lossy(&answer);
        if let Some((status, body)) = parse(&text, count == 0) {
            return Ok((status, body.to_owned()));
        }
        ensure!(count > 0, "closed in the middle of an answer");
    }
}

fn parse(text: &str, closed: bool) -> Option<(u16, &str)> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    (closed || length.is_some_and(|length: usize| body.len() >= length)).then_some((status, body))
}
