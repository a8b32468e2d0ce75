//! `serin demo`: a complete world on loopback in which a new model version turns bad.
//!
//! Never needs anything installed, and never counts for Serin: what it prints is what the
//! users, the model servers and the judge counted.

pub mod sample;
pub mod scenario;
pub mod screen;
pub mod story;
pub mod words;
pub mod world;

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::demo::sample::{Recent, Sample};
use crate::cli::demo::scenario::Scenario;
use crate::cli::demo::screen::{Screen, Tone};
use crate::cli::demo::story::{News, PROOF_REQUESTS, Story};
use crate::cli::demo::words::Setting;
use crate::cli::demo::world::World;
use crate::clock::Clock;
use crate::units::Tick;

/// What `serin demo` takes.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Scenarios:
  errors         v2 starts to fail: Serin takes it out
  latency        v2 becomes slow: Serin takes it out
  shared-outage  v1 and v2 fail together: Serin sees that v2 is not the cause
  good           nothing goes wrong: Serin leaves v2 alone

The exit code is 0 when the scenario ended as it should, and 1 when not.

Examples:
  serin demo
  serin demo --scenario latency --rps 300 --duration 30s
  serin demo --hold")]
pub struct DemoArgs {
    /// What goes wrong: errors, latency, shared-outage or good
    #[arg(long, value_name = "NAME", env = "SERIN_SCENARIO", default_value = "errors",
          value_parser = scenario::Names, hide_possible_values = true)]
    pub scenario: Scenario,
    /// Requests of users per second, 1 to 5000
    #[arg(long, value_name = "NUMBER", env = "SERIN_RPS", default_value = "150",
          value_parser = rps)]
    pub rps: f64,
    /// The whole run takes no longer, 4s to 1h. Default: 20s, and more at few requests per
    /// second
    #[arg(long, value_name = "TIME", env = "SERIN_DURATION", value_parser = duration)]
    pub duration: Option<Duration>,
    /// Equal seeds bring requests at the same times and give each version the same fate; which
    /// version a request goes to is Serin's own draw
    #[arg(long, value_name = "NUMBER", env = "SERIN_SEED", default_value_t = 1)]
    pub seed: u64,
    /// Keep everything running after the end, to play with it, until Ctrl-C
    #[arg(long, env = "SERIN_HOLD")]
    pub hold: bool,
}

/// From the start to the turn; less in a short run.
const HEALTHY: Duration = Duration::from_secs(5);
/// From a rollback to the end, to see that the canary stays out.
const LINGER: Duration = Duration::from_secs(5);
/// Kept of the duration for the last answers and for stopping.
const WIND_DOWN: Duration = Duration::from_millis(700);
/// How often a plain line is printed, and how often when the demo is held.
const LINE_EVERY: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(10)];
/// How often it is looked whether the last answers have come.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Tells the scenario's story, and says by the exit code whether it ended as it should.
pub fn run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(Show::run(args))
}

/// The demo while it runs.
struct Show<'a> {
    args: &'a DemoArgs,
    clock: Clock,
    turn_at: Tick,
    end_at: Tick,
    stops: Stops,
    world: World,
    screen: Screen,
    story: Story,
    recent: Recent,
    /// When the next plain line is due.
    line_at: Tick,
    held: bool,
}

impl<'a> Show<'a> {
    async fn run(args: &'a DemoArgs) -> anyhow::Result<ExitCode> {
        let clock = Clock::start();
        let duration = args.duration.unwrap_or_else(|| enough(args.rps));
        let mut show = Self {
            args,
            clock,
            turn_at: Tick::new(HEALTHY.min(duration / 4)),
            end_at: Tick::new(duration.saturating_sub(WIND_DOWN)),
            stops: Stops::new()?,
            world: World::start(args.scenario, args.seed)?,
            screen: Screen::stdout(),
            story: Story::new(args.scenario),
            recent: Recent::default(),
            line_at: Tick::ZERO.after(LINE_EVERY[0]),
            held: false,
        };
        show.introduce(duration)?;
        show.world.open(args.rps, args.seed.wrapping_add(2))?;
        if let Some(code) = show.until(Some(show.end_at)).await? {
            let last = show.world.sample(clock.now())?;
            let summary = words::summary(&show.story, &last, args.seed);
            show.screen.say(&format!("\nStopped before the end.\n{summary}"))?;
            return Ok(ExitCode::from(code));
        }
        let well = show.conclude().await?;
        if args.hold {
            show.hold().await?;
        }
        Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn introduce(&mut self, duration: Duration) -> anyhow::Result<()> {
        let title = format!("Serin demo: {}", self.args.scenario.title());
        let title = self.screen.paint(Tone::Bold, &title);
        let [stable, canary] = self.world.models().map(|address| address.to_string());
        let text = words::introduction(&Setting {
            scenario: self.args.scenario,
            rps: self.args.rps,
            proxy: &self.world.proxy.to_string(),
            admin: &self.world.admin.to_string(),
            models: [&stable, &canary],
            config: &self.world.config().display().to_string(),
            turn: self.turn_at.since_start(),
            end: duration,
        });
        self.screen.say(&title)?;
        self.screen.say(&text)?;
        if !self.screen.is_live() {
            self.screen.say(&words::line_heading())?;
        }
        Ok(())
    }

    /// Goes on until `end` or the end of the story; `Some` is the exit code when it was
    /// stopped from outside.
    async fn until(&mut self, end: Option<Tick>) -> anyhow::Result<Option<u8>> {
        let quit = self.world.quit.clone();
        loop {
            let end = [end, self.story.end(LINGER).filter(|_| !self.held)];
            let end = end.into_iter().flatten().min();
            let turn =
                (self.story.scenario.turns() && self.story.turn.is_none()).then_some(self.turn_at);
            let wake = end.into_iter().chain(turn).min();
            tokio::select! {
                () = self.world.next_look() => {}
                () = sleep_until(self.clock, wake) => {}
                code = self.stops.next() => return Ok(Some(code)),
                () = quit.cancelled() => return Ok(Some(0)),
            }
            let sample = self.world.sample(self.clock.now())?;
            self.show(&sample)?;
            if turn.is_some_and(|turn| turn <= sample.at) {
                self.world.turn_bad();
                let heading = words::turn(&self.story, sample.at);
                self.announce(Tone::Red, &heading, words::UNTOLD)?;
                self.recent.clear();
                self.story.turn_bad(sample);
            } else if end.is_some_and(|end| end <= sample.at) {
                return Ok(None);
            }
        }
    }

    fn show(&mut self, sample: &Sample) -> anyhow::Result<()> {
        if let Some(news) = self.story.take(sample) {
            let (heading, text) = words::news(news, &self.story, sample);
            self.announce(tone(news), &heading, &text)?;
            if news.changes_traffic() {
                self.recent.clear();
            }
        }
        let recent = self.recent.push(sample);
        if self.screen.is_live() {
            self.screen.draw(&words::block(sample, &recent))?;
        } else if sample.at >= self.line_at && !self.recent.is_fresh() {
            self.screen.say(&words::line(sample, &recent))?;
            let pause = LINE_EVERY[usize::from(self.held)];
            while self.line_at <= sample.at {
                self.line_at = self.line_at.after(pause);
            }
        }
        Ok(())
    }

    fn announce(&mut self, tone: Tone, heading: &str, text: &str) -> io::Result<()> {
        let heading = self.screen.paint(tone, heading);
        // What there is nothing to say about is not worth an empty line either.
        let lines = if text.is_empty() { heading } else { format!("\n{heading}\n{text}\n") };
        self.screen.say(&lines)
    }

    /// Sums up, and returns whether it ended as it should.
    async fn conclude(&mut self) -> anyhow::Result<bool> {
        if !self.args.hold {
            self.world.close();
            let latest = self.clock.now().after(WIND_DOWN);
            while self.world.is_busy() && self.clock.now() < latest {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        let last = self.world.sample(self.clock.now())?;
        let checks = self.story.checks(&last);
        let mut text = words::summary(&self.story, &last, self.args.seed);
        for check in &checks {
            let (mark, found) = words::check(check);
            let tone = if check.holds { Tone::Green } else { Tone::Red };
            text += "\n  ";
            text += &self.screen.paint(tone, mark);
            text += "  ";
            text += found;
        }
        self.screen.say(&text)?;
        let well = checks.iter().all(|check| check.holds);
        let verdict = if well {
            self.screen.paint(Tone::Green, "It ended as it should.")
        } else {
            self.screen.paint(Tone::Red, "It did NOT end as it should.")
        };
        self.screen.say(&format!("\n{verdict}"))?;
        Ok(well)
    }

    async fn hold(&mut self) -> anyhow::Result<()> {
        let (proxy, admin) = (self.world.proxy.to_string(), self.world.admin.to_string());
        self.screen.say(&words::suggestions(&proxy, &admin))?;
        self.held = true;
        self.until(None).await?;
        self.screen.say("Stopped.")?;
        Ok(())
    }
}

const fn tone(news: News) -> Tone {
    match news {
        News::RolledBack | News::Aborted => Tone::Red,
        News::Suspicious | News::SharedCause => Tone::Yellow,
        News::Reset => Tone::Bold,
    }
}

async fn sleep_until(clock: Clock, wake: Option<Tick>) {
    match wake {
        Some(tick) => tokio::time::sleep_until(clock.instant(tick)).await,
        None => std::future::pending().await,
    }
}

/// What ends the demo from outside.
struct Stops {
    interrupt: Signal,
    terminate: Signal,
}

impl Stops {
    fn new() -> io::Result<Self> {
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self { interrupt, terminate: signal(SignalKind::terminate())? })
    }

    /// The exit code that goes with the next signal: 128 and its number, as shells have it.
    async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => 130,
            _ = self.terminate.recv() => 143,
        }
    }
}

/// 20 s, or as long as the canary's tenth of the requests needs to be proven bad.
fn enough(rps: f64) -> Duration {
    let proof = Duration::from_secs_f64(PROOF_REQUESTS / (rps * 0.1));
    (HEALTHY + proof + LINGER).max(Duration::from_secs(20))
}

fn rps(text: &str) -> Result<f64, String> {
    let rps: Option<f64> = text.parse().ok().filter(|rps| (1.0..=5000.0).contains(rps));
    rps.ok_or_else(|| "not a number from 1 to 5000".to_owned())
}

/// Parses `20s`, `1.5m` or `1h`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("not a number with its unit: 20s, 1.5m or 1h".to_owned()),
    };
    let seconds = digits.parse::<f64>().map(|number| number * unit);
    match seconds {
        Ok(seconds) if (4.0..=3600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        Ok(_) => Err("not from 4s to 1h".to_owned()),
        Err(_) => Err("not a number with its unit: 20s, 1.5m or 1h".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_a_unit_and_bounds() {
        for (text, millis) in [("4s", 4_000), ("20s", 20_000), ("0.5m", 30_000), ("5000ms", 5_000)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "20", "s", "3s", "2h", "-5s", "NaNs", "20 s", "20d"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_rate_is_within_what_the_demo_can_do() {
        assert_eq!(rps("50"), Ok(50.0));
        for text in ["", "0", "-1", "NaN", "inf", "5001"] {
            assert!(rps(text).is_err(), "{text}");
        }
    }

    #[test]
    fn few_requests_get_more_time() {
        assert_eq!(enough(1000.0), Duration::from_secs(20));
        assert_eq!(enough(50.0), Duration::from_secs(25));
    }
}
