//! Child processes: pinned to a core, ended by id, their CPU time read.

use std::ffi::OsStr;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

/// A proxy that does not answer this long after its start is given up.
const READY_WITHIN: Duration = Duration::from_secs(10);

/// The core a process may run on.
#[derive(Clone, Copy)]
pub(super) struct Core(pub(super) u32);

/// A running child. Dropping it kills it.
pub(super) struct Process {
    child: Child,
    id: u32,
    log: PathBuf,
}

impl Process {
    /// Starts a program on one core, its output going to the file `log`.
    pub(super) fn start(
        core: Core,
        program: &Path,
        arguments: &[&str],
        log: PathBuf,
    ) -> anyhow::Result<Self> {
        let output = File::create(&log)?;
        let child = pinned(core, program, arguments)
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        // Both helpers replace themselves by the program, so this is the program's id.
        let id = child.id().context("ended at once")?;
        Ok(Self { child, id, log })
    }

    /// Waits for a 2xx, however long the program takes to listen.
    pub(super) async fn wait_until_it_answers(
        &self,
        address: SocketAddr,
        path: &str,
    ) -> anyhow::Result<()> {
        let answered = async {
            while !matches!(get(address, path).await, Ok((200..300, _))) {
                sleep(Duration::from_millis(20)).await;
            }
        };
        if timeout(READY_WITHIN, answered).await.is_err() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            bail!("no good answer within {READY_WITHIN:?}; its output:\n{log}");
        }
        Ok(())
    }

    /// Time that the process's threads have run, to the nanosecond. The time of
    /// threads that have ended is not in it.
    pub(super) fn cpu_time(&self) -> anyhow::Result<Duration> {
        let mut total = Duration::ZERO;
        for task in std::fs::read_dir(format!("/proc/{}/task", self.id))? {
            let file = task?.path().join("schedstat");
            let text = std::fs::read_to_string(&file)?;
            let run_time = text.split_whitespace().next().context("empty schedstat")?;
            total += Duration::from_nanos(run_time.parse()?);
        }
        ensure!(!total.is_zero(), "this kernel does not account run time in schedstat");
        Ok(total)
    }

    /// Kills the process and waits until it is gone.
    pub(super) async fn end(mut self) {
        // Fails only when it has ended already.
        let _ = self.child.kill().await;
    }
}

/// Runs this program with other arguments and returns what it printed.
pub(super) async fn run_self(core: Core, arguments: &[&str]) -> anyhow::Result<String> {
    let program = std::env::current_exe()?;
    let output = pinned(core, &program, arguments).stderr(Stdio::inherit()).output().await?;
    ensure!(output.status.success(), "loadtest {} failed", arguments.join(" "));
    Ok(String::from_utf8(output.stdout)?)
}

/// `taskset` pins, `setpriv` has the kernel end the child when its parent is killed.
fn pinned(core: Core, program: &Path, arguments: &[&str]) -> Command {
    let core = core.0.to_string();
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "taskset", "-c", &core].map(OsStr::new));
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
