//! The one task that owns the snapshot: slots, reloads and people's words, in order.
//!
//! Never does two things at once: a reload and a rollback are both events of this loop,
//! and a reload applies every rollout's state before it publishes.

mod asked;
mod rotation;
mod saving;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::Config;
use crate::config::defect::{Code, Defect, Defects, Place};
use crate::config::load::{Loaded, Options, Source};
use crate::control::controller::rotation::Reports;
use crate::control::journal::Journal;
use crate::control::ledger::Ledger;
use crate::control::notify::Notifier;
use crate::control::roster::Roster;
use crate::control::running::{Counting, Reconfigured, Running};
use crate::control::{Command, ReloadResult, Status, build, report};
use crate::rollout::judge::SLOT;
use crate::rollout::machine::Effect;
use crate::rollout::record::{Change, Packed, Record, What};
use crate::snapshot::{Publisher, Reader};
use crate::telemetry::counts::Alarm;
use crate::telemetry::metrics::Gauges;
use crate::telemetry::registry::Registry;
use crate::units::Tick;

/// How often the evidence of running rollouts is put on disk.
const SAVE_EVERY: Duration = Duration::from_secs(10);

/// Pause between two looks into open slots: failures of one burst are seen together.
const LOOK_PAUSE: Duration = Duration::from_millis(10);

/// The one task that owns the snapshot.
#[derive(Debug)]
pub struct Controller {
    clock: Clock,
    path: PathBuf,
    config: Arc<Config>,
    hash: String,
    generation: u64,
    loaded_at: String,
    /// Defects of the last reload, if it failed.
    last_error: Vec<Defect>,
    registry: Arc<Registry>,
    publisher: Publisher,
    status: watch::Sender<Arc<Status>>,
    ledger: Ledger,
    journal: Journal,
    notifier: Notifier,
    /// Something ended that is not on disk yet.
    unsaved: bool,
    alarm: Arc<Alarm>,
    rollouts: Vec<Running>,
    roster: Roster,
    reports: Reports,
}

impl Controller {
    /// Publishes the first snapshot. Rollouts go on as `ledger` remembers them.
    pub fn new(
        clock: Clock,
        path: PathBuf,
        loaded: Loaded,
        registry: Arc<Registry>,
        ledger: Ledger,
    ) -> Self {
        let alarm = Arc::new(Alarm::default());
        let config = Arc::new(loaded.config);
        let now = (clock.now(), rfc3339(clock));
        let (roster, reported) = Roster::new(&config, registry.workers(), &alarm, clock);
        let counting = Counting { alarm: &alarm, registry: &registry, roster: &roster };
        let rollouts = config.rollouts.iter().map(|plan| {
            let remembered = ledger.find(&plan.name, &plan.version);
            Running::new(plan, &config, remembered, (now.0, &now.1), counting)
        });
        let rollouts: Vec<_> = rollouts.collect();
        let standing: Vec<_> = rollouts.iter().filter_map(Running::standing).collect();
        let publisher = Publisher::new(build::snapshot(&config, 1, counting, &standing));
        drop(standing);
        let status = Status {
            config: Arc::clone(&config),
            origin: path.display().to_string(),
            hash: loaded.hash.clone(),
            generation: 1,
            loaded_at: now.1.clone(),
            last_error: Vec::new(),
            rollouts: Vec::new(),
            told: Arc::default(),
            gauges: Gauges::default(),
        };
        let journal = Journal::open(config.state_file.as_deref());
        let mut controller = Self {
            clock,
            path,
            config,
            hash: loaded.hash,
            generation: 1,
            loaded_at: now.1,
            last_error: Vec::new(),
            registry,
            publisher,
            status: watch::channel(Arc::new(status)).0,
            ledger,
            journal,
            notifier: Notifier::default(),
            unsaved: false,
            alarm,
            rollouts,
            roster,
            reports: Reports::new(reported),
        };
        for rollout in controller.rollouts.iter().filter(|one| one.state().has_ended()) {
            tracing::warn!(
                rollout = %rollout.plan().name, version = %rollout.plan().version,
                state = rollout.state_name(), since = %rollout.since,
                "the ledger says that this version has ended; a new version or `serin reset` \
                 starts it afresh"
            );
        }
        controller.begin_all();
        controller.tell();
        controller
    }

    /// A reader of the snapshot, for a worker.
    pub fn reader(&self) -> Reader {
        self.publisher.reader()
    }

    /// What the admin port shows.
    pub fn status(&self) -> watch::Receiver<Arc<Status>> {
        self.status.subscribe()
    }

    /// Judges and obeys until told to stop; then puts the evidence on disk.
    pub async fn run(mut self, mut commands: mpsc::Receiver<Command>, stop: CancellationToken) {
        let mut slots = tokio::time::interval(SLOT);
        slots.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut saves = tokio::time::interval(SAVE_EVERY);
        saves.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let alarm = Arc::clone(&self.alarm);
        self.roster.ask();
        loop {
            tokio::select! {
                _ = slots.tick() => self.close_slot(),
                () = alarm.heard() => {
                    self.look();
                    tokio::time::sleep(LOOK_PAUSE).await;
                }
                Some(report) = self.reports.next() => self.hear(report),
                _ = saves.tick() => self.save_all(),
                Some(command) = commands.recv() => self.obey(command),
                () = stop.cancelled() => break,
            }
        }
        // What came since the last slot's end may be what decides.
        self.close_slot();
        self.save_all();
    }

    /// What a record of `rollout` is, `now`.
    fn record(&self, index: usize, now: Tick, what: What) -> Record {
        let plan = self.rollouts[index].plan();
        Record {
            at: rfc3339(self.clock),
            tick: u64::try_from(now.since_start().as_millis()).unwrap_or(u64::MAX),
            rollout: plan.name.to_string(),
            version: plan.version.to_string(),
            what,
        }
    }

    fn write(&mut self, index: usize, now: Tick, what: What) {
        let record = self.record(index, now, what);
        self.journal.write(record);
    }

    /// What has to be known of a rollout if nothing before is.
    fn begin(&mut self, index: usize, now: Tick) {
        let release = self.rollouts[index].release();
        let what = What::Begins {
            plan: Box::new(release.plan().clone()),
            configured: release.configured(),
            config: self.hash.clone(),
            state: release.state().to_string(),
            saved: release.save(),
        };
        self.write(index, now, what);
    }

    fn begin_all(&mut self) {
        let now = self.now();
        for index in 0..self.rollouts.len() {
            self.begin(index, now);
        }
    }

    fn close_slot(&mut self) {
        let now = self.now();
        for index in 0..self.rollouts.len() {
            let before = self.rollouts[index].state().as_str();
            let Some((counts, effect)) = self.rollouts[index].close_slot(now) else { continue };
            let head = self.record(index, now, What::Slots { slots: Vec::new() });
            self.journal.slot(head, Packed::new(now, &counts));
            if effect.is_none() && self.rollouts[index].state().as_str() != before {
                self.note(index, now);
            }
            self.act(index, now, effect);
        }
        self.measure_bodies();
        self.roster.look(now);
        self.rotate(now);
        if self.unsaved {
            self.save();
        }
        self.tell();
    }

    /// Where enough of stable was seen, the body objective counts from here on.
    fn measure_bodies(&mut self) {
        let mut measured = false;
        let counting =
            Counting { alarm: &self.alarm, registry: &self.registry, roster: &self.roster };
        for rollout in &mut self.rollouts {
            if let Some(threshold) = rollout.has_measured_body() {
                rollout.new_epoch(counting);
                measured = true;
                tracing::info!(
                    rollout = %rollout.plan().name, ?threshold,
                    "stable's p90 is measured: what takes longer is slow to the body objective"
                );
            }
        }
        if measured {
            self.publish();
        }
    }

    /// Between slots, only a rollback matters, and an endpoint that fails all the time.
    fn look(&mut self) {
        let now = self.now();
        self.roster.look(now);
        self.rotate(now);
        for index in 0..self.rollouts.len() {
            if let Some((counts, effect)) = self.rollouts[index].look(now) {
                self.write(index, now, What::Looked { slot: Packed::new(now, &counts) });
                self.act(index, now, effect);
                self.tell();
            }
        }
    }

    /// Weights first, then the ledger, then words.
    fn act(&mut self, index: usize, now: Tick, effect: Option<Effect>) {
        let Some(effect) = effect else { return };
        let counting =
            Counting { alarm: &self.alarm, registry: &self.registry, roster: &self.roster };
        let rollout = &mut self.rollouts[index];
        rollout.since = rfc3339(self.clock);
        match effect {
            Effect::Restarted => {
                rollout.forget_epochs();
                rollout.new_epoch(counting);
            }
            Effect::Stepped | Effect::Promoted => {
                rollout.freeze_body();
                rollout.new_epoch(counting);
            }
            _ => {}
        }
        self.publish();
        self.ledger.remember(self.rollouts[index].entry());
        self.unsaved = true;
        self.save();
        if effect == Effect::Restarted {
            self.begin(index, now);
        }
        self.note(index, now);
        report::change(&self.rollouts[index].view(&self.config), effect);
    }

    /// Writes down how a rollout stands, and tells who wants to know.
    fn note(&mut self, index: usize, now: Tick) {
        let failing = self.rollouts[index].failing();
        let change = Change { failing, ..Change::of(self.rollouts[index].release()) };
        let record = self.record(index, now, What::Changed(change));
        let rollout = &self.rollouts[index].plan().name;
        if let Some(around) = self.config.around(rollout) {
            self.notifier.tell(&around.webhooks, &record);
        }
        self.journal.write(record);
    }

    /// In whole milliseconds, so that a moment survives being written down.
    fn now(&self) -> Tick {
        let since_start = self.clock.now().since_start().as_millis();
        Tick::new(Duration::from_millis(u64::try_from(since_start).unwrap_or(u64::MAX)))
    }

    fn publish(&mut self) {
        let standing: Vec<_> = self.rollouts.iter().filter_map(Running::standing).collect();
        let counting =
            Counting { alarm: &self.alarm, registry: &self.registry, roster: &self.roster };
        let next = build::snapshot(&self.config, self.generation, counting, &standing);
        drop(standing);
        self.publisher.publish(next);
    }

    /// Reads the file; what is wrong with it leaves everything as it is.
    fn reload(&mut self) -> ReloadResult {
        let read = Source::read(&self.path).and_then(|source| {
            if source.hash() == self.hash { Ok(None) } else { source.load(Options::RUN).map(Some) }
        });
        let result = match read {
            Ok(None) => {
                self.last_error.clear();
                ReloadResult::Unchanged
            }
            Ok(Some(loaded)) => match self.needs_restart(&loaded.config) {
                None => {
                    // Under the old plan and the old chances.
                    self.close_slot();
                    self.take_over(loaded);
                    ReloadResult::Reloaded
                }
                Some(defect) => self.refuse(vec![defect]),
            },
            Err(Defects { list, .. }) => self.refuse(list),
        };
        self.tell();
        result
    }

    fn refuse(&mut self, mut defects: Vec<Defect>) -> ReloadResult {
        defects.retain(Defect::is_error);
        for defect in &defects {
            tracing::error!(
                file = %self.path.display(), line = defect.place.line, code = defect.code.as_str(),
                help = %defect.help, "{}; the old config stays", defect.message
            );
        }
        self.last_error.clone_from(&defects);
        ReloadResult::Refused(defects)
    }

    /// Sockets, threads and the state file are made once.
    fn needs_restart(&self, next: &Config) -> Option<Defect> {
        let now = &self.config;
        let changed = [
            ("listeners", now.listeners != next.listeners),
            ("admin", now.admin != next.admin),
            ("metrics", now.metrics != next.metrics),
            ("state", now.state_file != next.state_file),
            ("workers", now.workers != next.workers),
        ];
        let (key, _) = changed.into_iter().find(|(_, changed)| *changed)?;
        Some(Defect {
            code: Code::NeedsRestart,
            place: Place::START,
            path: key.to_owned(),
            message: format!("`{key}` cannot be changed by a reload"),
            help: format!("restart Serin to change `{key}`, or put it back as it was"),
        })
    }

    fn take_over(&mut self, loaded: Loaded) {
        let now = (self.now(), rfc3339(self.clock));
        let now = (now.0, now.1.as_str());
        let config = Arc::new(loaded.config);
        self.roster.take_over(&config, now.0);
        self.roster.settle(now.0);
        self.roster.ask();
        let counting =
            Counting { alarm: &self.alarm, registry: &self.registry, roster: &self.roster };
        let mut before = std::mem::take(&mut self.rollouts);
        let mut changes = Vec::new();
        for plan in &config.rollouts {
            let same = before.iter().position(|rollout| {
                rollout.plan().name == plan.name && rollout.plan().version == plan.version
            });
            let rollout = if let Some(index) = same {
                let mut rollout = before.swap_remove(index);
                changes.push(rollout.reconfigure(plan, &config, now, counting).map(Some));
                rollout
            } else {
                let remembered = self.ledger.find(&plan.name, &plan.version);
                changes.push(Some(None));
                Running::new(plan, &config, remembered, now, counting)
            };
            self.rollouts.push(rollout);
        }
        for gone in before.iter().filter(|rollout| rollout.is_out()) {
            tracing::warn!(
                rollout = %gone.plan().name, version = %gone.plan().version,
                "a rollout that took its canary out is gone from the config: its rule has the \
                 weights of the file again"
            );
        }
        self.config = config;
        self.hash = loaded.hash;
        self.generation += 1;
        now.1.clone_into(&mut self.loaded_at);
        self.last_error.clear();
        self.publish();
        let tick = now.0;
        for (index, change) in changes.into_iter().enumerate() {
            match change {
                Some(None) => self.begin(index, tick),
                Some(Some(change)) => self.note_reload(index, tick, change),
                None => {}
            }
        }
        tracing::info!(generation = self.generation, hash = %self.hash, "config reloaded");
        for warning in &loaded.warnings {
            tracing::warn!(line = warning.place.line, "{}", warning.message);
        }
    }

    fn note_reload(&mut self, index: usize, now: Tick, change: Reconfigured) {
        let release = self.rollouts[index].release();
        let configured = release.configured();
        let what = match change {
            Reconfigured::Share => What::Shared { configured },
            Reconfigured::Plan => What::Replanned {
                plan: Box::new(release.plan().clone()),
                configured,
                config: self.hash.clone(),
            },
        };
        self.write(index, now, what);
    }

    /// Shows how things stand.
    fn tell(&mut self) {
        let config = &self.config;
        let views: Vec<_> = self.rollouts.iter().map(|one| one.view(config)).collect();
        let pairs = self.rollouts.iter().zip(&views);
        let gauges = pairs.map(|(rollout, view)| rollout.gauges(view)).collect();
        let status = Status {
            config: Arc::clone(&self.config),
            origin: self.path.display().to_string(),
            hash: self.hash.clone(),
            generation: self.generation,
            loaded_at: self.loaded_at.clone(),
            last_error: self.last_error.clone(),
            rollouts: views,
            told: self.journal.told(),
            gauges: Gauges {
                reload_successful: self.last_error.is_empty(),
                generation: self.generation,
                rollouts: gauges,
                endpoints: self.roster.gauges(),
            },
        };
        self.status.send_replace(Arc::new(status));
    }
}

/// Now, for people: UTC with seconds.
fn rfc3339(clock: Clock) -> String {
    let wall = i64::try_from(clock.wall().as_secs()).unwrap_or_default();
    jiff::Timestamp::from_second(wall).unwrap_or_default().to_string()
}
