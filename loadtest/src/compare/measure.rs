//! One measurement of one proxy, for each thing that can be measured.
//!
//! Never reports a run in which requests failed, or in which the canary did not get its share.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::time::sleep;

use super::figures::{Figures, RAW};
use super::peer::{Peer, Setting};
use super::process::{self, Cores, Generator, Process, READY_WITHIN};
use super::scenario::{MORE, Scenario};
use crate::commands::drive::Protocol;
use crate::wire::answers::Messages;
use crate::wire::backend::COUNT_PATH;
use crate::wire::drive::Driven;

/// What every peer is asked for.
pub(super) const PATH: &str = "/v2/models/sentiment";
/// The same, answered by events.
const STREAM_PATH: &str = "/v2/models/sentiment/stream";
/// With which the generator asks for that.
pub(super) const STREAM_OPTIONS: [&str; 3] = ["--events", "--path", STREAM_PATH];
/// The header that the rule of every peer sends to the canary.
const RULE_HEADER: &str = "x-cohort: beta";
/// Requests with which each peer's split is checked before it is measured, unless their answers
/// are more bytes than these.
const SPLIT_CHECKED_OVER: u64 = 6_400;
const SPLIT_CHECKED_BYTES: u64 = 256 << 20;
/// Connections that are quiet for so long are idle. nginx, HAProxy and Envoy free nothing
/// later; Serin is done after a second.
const SETTLE: Duration = Duration::from_secs(2);
/// No line of an access log is shorter.
const LINE_BYTES_MIN: u64 = 100;

/// Where the load comes from, and how long.
pub(super) struct Bench<'a> {
    pub(super) scenario: &'a Scenario,
    pub(super) cores: &'a Cores,
    pub(super) duration: Duration,
    pub(super) warm_up: Duration,
    pub(super) backend: &'a Backend,
}

/// The endpoints: one process, three ports.
pub(super) struct Backend {
    pub(super) process: Process,
    pub(super) stable: SocketAddr,
    pub(super) canary: SocketAddr,
    pub(super) shadow: SocketAddr,
}

/// A proxy that runs.
pub(super) struct Racer {
    /// The peer's name, with `+mirror` or another word where it does more.
    pub(super) label: String,
    /// What it does more.
    more: Option<&'static str>,
    /// Where it writes a line for each request, if it does.
    access_log: PathBuf,
    pub(super) splits: bool,
    pub(super) process: Process,
    /// Where it is asked in HTTP/1.1.
    pub(super) plain: SocketAddr,
    /// Where it is asked in the scenario's protocol.
    pub(super) target: SocketAddr,
}

impl Racer {
    /// Starts a proxy and waits until it answers. `setting` says where.
    pub(super) async fn start(
        peer: &Peer,
        setting: &Setting,
        protocol: Protocol,
        cores: &Cores,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let more = MORE.into_iter().find(|word| setting.conditions.contains(word));
        let label = more.map(|word| format!("{}+{word}", peer.name));
        let label = label.unwrap_or_else(|| peer.name.to_owned());
        let access_log = folder.join("access.log");
        let arguments = peer.prepare(setting, folder)?;
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let log = folder.join(format!("{label}.log"));
        let process = Process::start(cores, &peer.program, &arguments, log)?;
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let plain = at(setting.listen);
        let target = match (protocol, peer.name) {
            (Protocol::Tls, _) => at(setting.tls),
            // These two need a port of its own for HTTP/2 that is known beforehand.
            (Protocol::Http2, "nginx" | "haproxy") => at(setting.http2),
            _ => plain,
        };
        let ready = process.wait_until_it_answers(plain, PATH, READY_WITHIN);
        ready.await.with_context(|| label.clone())?;
        let splits = peer.name != "relay";
        Ok(Self { label, more, access_log, splits, process, plain, target })
    }

    /// That it did what it is to do more, for so many requests: the shadow, which is the
    /// collector too, got so many messages, and the log so many lines.
    fn check_more(&self, requests: u64, messages: u64) -> anyhow::Result<()> {
        let (label, least) = (&self.label, requests * 99 / 100);
        match self.more {
            Some("mirror") => {
                ensure!(messages >= least, "{label} copied {messages} of {requests} requests");
            }
            Some("tracing" | "telling") => ensure!(messages > 0, "{label} sent no spans"),
            _ => {}
        }
        if matches!(self.more, Some("access_log" | "telling")) {
            let log = std::fs::OpenOptions::new().write(true).open(&self.access_log)?;
            let bytes = log.metadata()?.len();
            ensure!(bytes >= least * LINE_BYTES_MIN, "{label} wrote {bytes} bytes of log");
            // It is appended to: the next run begins at the beginning.
            log.set_len(0)?;
        }
        Ok(())
    }
}

impl Backend {
    async fn count(&self, address: SocketAddr) -> anyhow::Result<u64> {
        let (_, body) = process::get(address, COUNT_PATH).await?;
        Ok(body.trim().parse()?)
    }

    /// Requests to stable and to the canary so far.
    async fn counts(&self) -> anyhow::Result<[u64; 2]> {
        Ok([self.count(self.stable).await?, self.count(self.canary).await?])
    }
}

impl Bench<'_> {
    /// Asks with the rule's header and without, and counts what the canary got.
    pub(super) async fn check_split(&self, racer: &Racer) -> anyhow::Result<()> {
        if !racer.splits {
            return Ok(());
        }
        let each = self.scenario.answer_bytes.max(1) as u64;
        let asked = SPLIT_CHECKED_OVER.min(SPLIT_CHECKED_BYTES / each);
        for (headers, share) in [(Some(RULE_HEADER), 1.0), (None, 0.1)] {
            let before = self.backend.counts().await?;
            let mut arguments = Scenario::default().drive(racer.plain, Duration::from_secs(30));
            arguments.extend(["--requests".to_owned(), asked.to_string()]);
            arguments.extend(headers.into_iter().flat_map(|one| ["-H".to_owned(), one.to_owned()]));
            let (seen, _) = self.run(&arguments, None).await?;
            ensure!(seen.requests == asked, "{} lost requests", racer.label);
            self.check_share(before, share).await.with_context(|| racer.label.clone())?;
        }
        Ok(())
    }

    async fn check_share(&self, before: [u64; 2], share: f64) -> anyhow::Result<()> {
        let after = self.backend.counts().await?;
        let [stable, canary] = [after[0] - before[0], after[1] - before[1]].map(|n| n as f64);
        let all = stable + canary;
        let sigma = (all * share * (1.0 - share)).sqrt();
        ensure!(
            (canary - all * share).abs() <= 4.0 * sigma,
            "{canary} of {all} went to the canary, {} were expected",
            all * share
        );
        Ok(())
    }

    /// As fast as answers come.
    pub(super) async fn saturate(
        &self,
        round: u32,
        racer: &Racer,
        figures: &mut Figures,
    ) -> anyhow::Result<()> {
        let before = self.backend.counts().await?;
        let shadowed = self.backend.count(self.backend.shadow).await?;
        let (seen, cpu) = self.run(&self.asking(racer.target), Some(racer)).await?;
        let label = &racer.label;
        if racer.splits {
            self.check_share(before, 0.1).await.with_context(|| label.clone())?;
        }
        let shadowed = self.backend.count(self.backend.shadow).await? - shadowed;
        racer.check_more(seen.requests, shadowed)?;
        figures.add(round, label, "CPU µs per request", micros_each(cpu, seen));
        figures.add(round, label, "requests per second", seen.requests as f64 / seen.seconds);
        figures.add(round, label, "MiB resident", racer.process.resident_mib()?);
        Ok(())
    }

    /// The generator straight against the backend: the most that a proxy could show.
    pub(super) async fn saturate_direct(
        &self,
        round: u32,
        figures: &mut Figures,
    ) -> anyhow::Result<()> {
        let (seen, _) = self.run(&self.asking(self.backend.stable), None).await?;
        figures.add(round, "direct", "requests per second", seen.requests as f64 / seen.seconds);
        Ok(())
    }

    /// At one rate after the other, beside the backend alone. `racers` in their order.
    pub(super) async fn rate(
        &self,
        round: u32,
        racers: &[Racer],
        figures: &mut Figures,
    ) -> anyhow::Result<()> {
        for rps in &self.scenario.rates {
            let thousands = f64::from(*rps) / 1e3;
            let asking = |target| {
                let mut arguments = self.asking(target);
                arguments.extend(["--rps".to_owned(), rps.to_string()]);
                arguments.extend(["--seed".to_owned(), round.to_string()]);
                arguments
            };
            let (direct, _) = self.run(&asking(self.backend.stable), None).await?;
            let at = |figure: &str| format!("{RAW}{figure} µs at {thousands}k rps");
            for (figure, value) in
                latencies(direct).into_iter().chain([("lag p99", direct.lag_p99)])
            {
                figures.add(round, "direct", &at(figure), value);
            }
            for racer in racers {
                let (seen, cpu) = self.run(&asking(racer.target), Some(racer)).await?;
                let label = &racer.label;
                for ((figure, value), (_, alone)) in
                    latencies(seen).into_iter().zip(latencies(direct))
                {
                    figures.add(round, label, &at(figure), value);
                    let added = format!("{figure} added µs at {thousands}k rps");
                    figures.add(round, label, &added, value - alone);
                }
                let what = format!("CPU µs per request at {thousands}k rps");
                figures.add(round, label, &what, micros_each(cpu, seen));
            }
        }
        Ok(())
    }

    /// All streams at once.
    pub(super) async fn stream(
        &self,
        round: u32,
        racers: &[Racer],
        figures: &mut Figures,
    ) -> anyhow::Result<()> {
        let asking = |target| {
            let mut arguments = self.asking(target);
            arguments.extend(STREAM_OPTIONS.map(str::to_owned));
            arguments
        };
        let (direct, _) = self.run(&asking(self.backend.stable), None).await?;
        for (figure, value) in latencies(direct) {
            figures.add(round, "direct", &format!("{RAW}{figure} µs"), value);
        }
        let expected = self.scenario.connections as f64 * direct.seconds * 1e3
            / self.scenario.event_every_ms as f64;
        for racer in racers {
            let (seen, cpu) = self.run(&asking(racer.target), Some(racer)).await?;
            let label = &racer.label;
            figures.add(round, label, &format!("{RAW}events"), seen.requests as f64);
            // Less than all is late on a busy machine; less than half is held back.
            ensure!(
                seen.requests as f64 >= expected * 0.5,
                "{label} passed on {} of {expected:.0} events",
                seen.requests
            );
            figures.add(round, label, "CPU µs per event", micros_each(cpu, seen));
            for ((figure, value), (_, alone)) in latencies(seen).into_iter().zip(latencies(direct))
            {
                figures.add(round, label, &format!("{RAW}{figure} µs"), value);
                figures.add(round, label, &format!("{figure} added µs"), value - alone);
            }
        }
        Ok(())
    }

    /// Memory after each number of connections has asked once and then nothing, or has a stream
    /// open.
    pub(super) async fn idle(
        &self,
        round: u32,
        racer: &Racer,
        figures: &mut Figures,
    ) -> anyhow::Result<()> {
        let (open, kind): (fn(SocketAddr) -> _, _) =
            if self.scenario.streaming { (open_stream, "streams") } else { (ask_once, "idle") };
        let (mut connections, mut first) = (Vec::new(), None);
        for count in &self.scenario.idle {
            while connections.len() < *count {
                connections.push(open(racer.plain).with_context(|| racer.label.clone())?);
            }
            sleep(SETTLE).await;
            let mib = racer.process.resident_mib()?;
            figures.add(round, &racer.label, &format!("MiB with {count} {kind}"), mib);
            let (least, before) = *first.get_or_insert((*count, mib));
            if Some(count) == self.scenario.idle.last() && *count > least {
                let each = (mib - before) * 1024.0 / (count - least) as f64;
                figures.add(round, &racer.label, "KiB for each", each);
            }
        }
        Ok(())
    }

    /// How one process with several threads shares its work.
    pub(super) async fn share(
        &self,
        round: u32,
        workers: u32,
        racer: &Racer,
        figures: &mut Figures,
    ) -> anyhow::Result<()> {
        let label = format!("{} x {workers}", racer.label);
        let before = racer.process.thread_times()?;
        let (seen, cpu) = self.run(&self.asking(racer.target), Some(racer)).await?;
        let after = racer.process.thread_times()?;
        let busy: Vec<f64> = after
            .iter()
            .filter(|(name, _)| name.contains("worker"))
            .map(|(name, time)| {
                let earlier = before.iter().find(|(other, _)| other == name);
                time.saturating_sub(earlier.map_or(Duration::ZERO, |(_, time)| *time)).as_secs_f64()
            })
            .collect();
        figures.add(round, &label, "CPU µs per request", micros_each(cpu, seen));
        figures.add(round, &label, "requests per second", seen.requests as f64 / seen.seconds);
        let mean = busy.iter().sum::<f64>() / busy.len().max(1) as f64;
        let most = busy.iter().copied().fold(0.0, f64::max);
        if busy.len() > 1 {
            figures.add(
                round,
                &label,
                "% that the busiest worker is above the mean",
                (most / mean - 1.0) * 1e2,
            );
        }
        Ok(())
    }

    /// The generator's arguments for this scenario.
    fn asking(&self, target: SocketAddr) -> Vec<String> {
        let mut all = self.scenario.drive(target, self.duration);
        all.extend(["--warm-up".to_owned(), format!("{}ms", self.warm_up.as_millis())]);
        all
    }

    /// One run of the generator, and the time that the racer's threads ran meanwhile.
    async fn run(
        &self,
        arguments: &[String],
        racer: Option<&Racer>,
    ) -> anyhow::Result<(Driven, Duration)> {
        let cpu_time = || racer.map_or(Ok(Duration::ZERO), |racer| racer.process.cpu_time());
        let what = racer.map_or("direct", |racer| &racer.label);
        let generator = Generator::start(self.cores, arguments).await.context(what.to_owned())?;
        let before = cpu_time()?;
        let output = generator.run().await.context(what.to_owned())?;
        let cpu = cpu_time()?.saturating_sub(before);
        let seen: Driven = serde_json::from_str(&output).context("output of loadtest drive")?;
        ensure!(seen.errors == 0 && seen.broken == 0, "{what} failed requests: {seen:?}");
        ensure!(seen.requests > 0, "{what} answered nothing");
        Ok((seen, cpu))
    }
}

fn micros_each(cpu: Duration, seen: Driven) -> f64 {
    cpu.as_secs_f64() * 1e6 / seen.requests.max(1) as f64
}

fn latencies(seen: Driven) -> [(&'static str, f64); 3] {
    [("p50", seen.p50), ("p99", seen.p99), ("p99.9", seen.p999)]
}

/// A connection over which one request was answered.
fn ask_once(target: SocketAddr) -> anyhow::Result<TcpStream> {
    let mut stream = ask(target, PATH)?;
    let (mut answer, mut ended, mut chunk) = (Messages::default(), false, [0; 4096]);
    while !ended {
        let count = stream.read(&mut chunk)?;
        ensure!(count > 0, "closed in the middle of an answer");
        let fed = answer.feed(&chunk[..count], true, |_| (), || ended = true);
        ensure!(fed.is_ok(), "an answer without a content-length");
    }
    Ok(stream)
}

/// A connection over which events come. They are not read: a few fit into the sockets.
fn open_stream(target: SocketAddr) -> anyhow::Result<TcpStream> {
    let mut stream = ask(target, STREAM_PATH)?;
    let mut begin = [0; 12];
    stream.read_exact(&mut begin)?;
    ensure!(begin == *b"HTTP/1.1 200", "no stream: {}", String::from_utf8_lossy(&begin));
    Ok(stream)
}

fn ask(target: SocketAddr, path: &str) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(target)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let head = format!("GET {path} HTTP/1.1\r\nhost: {target}\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    Ok(stream)
}
