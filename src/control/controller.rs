//! The one task that owns the snapshot: slots, reloads and people's words, in order.
//!
//! Never does two things at once: a reload and a rollback are both events of this loop,
//! and a reload applies every rollout's state before it publishes.

mod agreeing;
mod asked;
mod pooling;
mod reloading;
mod rotation;
mod saving;
mod telling;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::Config;
use crate::config::defect::Defect;
use crate::config::load::Loaded;
use crate::control::certificates::{self, Certificates};
use crate::control::controller::pooling::Pooling;
use crate::control::controller::rotation::Reports;
use crate::control::controller::saving::{Reply, Saving};
use crate::control::disk::Disk;
use crate::control::events::Events;
use crate::control::fleet::counts::Published;
use crate::control::fleet::{self, Fleet};
use crate::control::journal::Journal;
use crate::control::ledger::Ledger;
use crate::control::notify::Notifier;
use crate::control::roster::Roster;
use crate::control::running::{Counting, Running};
use crate::control::{Command, Status, build, report};
use crate::rollout::fleet::attendance::Attendance;
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

/// What outlives the process.
#[derive(Debug)]
pub struct Memory {
    /// How rollouts stand.
    pub ledger: Ledger,
    /// How they came there.
    pub journal: Journal,
    /// Who writes both; `None` is memory only.
    pub disk: Option<Disk>,
}

impl Memory {
    /// Starts the thread that writes, if there is something to write to.
    pub fn start(ledger: Ledger) -> std::io::Result<Self> {
        let mut journal = Journal::open(ledger.path());
        let mut disk = None;
        if let Some(path) = ledger.path().map(ToOwned::to_owned) {
            journal.hand_over(|file| {
                let started = Disk::start(path, file)?;
                disk = Some(started.clone());
                std::io::Result::Ok(started)
            })?;
        }
        Ok(Self { ledger, journal, disk })
    }
}

/// The one task that owns the snapshot.
#[derive(Debug)]
pub struct Controller {
    clock: Clock,
    path: PathBuf,
    config: Arc<Config>,
    certificates: watch::Sender<Arc<Certificates>>,
    /// What is to be looked at beside the config file.
    files: watch::Sender<Vec<PathBuf>>,
    hash: String,
    generation: u64,
    loaded_at: String,
    /// The same, in seconds since the Unix epoch.
    loaded_wall: u64,
    /// Reloads since the start: taken, refused.
    reloads: [u64; 2],
    /// Defects of the last reload, if it failed.
    last_error: Vec<Defect>,
    registry: Arc<Registry>,
    publisher: Publisher,
    status: watch::Sender<Arc<Status>>,
    ledger: Ledger,
    journal: Journal,
    notifier: Notifier,
    saving: Saving,
    alarm: Arc<Alarm>,
    rollouts: Vec<Running>,
    roster: Roster,
    reports: Reports,
    /// The replicas that this one decides with.
    fleet: Option<Fleet>,
    /// For `kubectl get events`, where the config wants it.
    events: Events,
    /// What this one counted, for them.
    published: Arc<Published>,
    /// What they counted, while this one judges for all.
    pooling: Option<Pooling>,
    /// Who should be there, and who has answered.
    attendance: Attendance,
}

impl Controller {
    /// Publishes the first snapshot. Rollouts go on as they are remembered.
    pub fn new(
        clock: Clock,
        path: PathBuf,
        loaded: Loaded,
        registry: Arc<Registry>,
        memory: Memory,
        certificates: Certificates,
    ) -> Self {
        let Memory { ledger, journal, disk } = memory;
        let alarm = Arc::new(Alarm::default());
        let config = Arc::new(loaded.config);
        let now = (clock.now(), rfc3339(clock));
        let certificates = watch::channel(Arc::new(certificates)).0;
        let (roster, reported) =
            Roster::new(&config, registry.workers(), &alarm, clock, certificates.subscribe());
        let counting = Counting { alarm: &alarm, registry: &registry, roster: &roster };
        let rollouts = config.rollouts.iter().map(|plan| {
            let remembered = ledger.find(&plan.name, &plan.version);
            Running::new(plan, &config, remembered, (now.0, &now.1), counting)
        });
        let rollouts: Vec<_> = rollouts.collect();
        let standing: Vec<_> = rollouts.iter().filter_map(Running::standing).collect();
        let first = build::snapshot(&config, 1, counting, &certificates.borrow(), &standing);
        let publisher = Publisher::new(first);
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
        let files = watch::channel(certificates::files(&config)).0;
        let mut controller = Self {
            clock,
            path,
            config,
            certificates,
            files,
            hash: loaded.hash,
            generation: 1,
            loaded_at: now.1,
            loaded_wall: clock.wall().as_secs(),
            reloads: [0, 0],
            last_error: Vec::new(),
            registry,
            publisher,
            status: watch::channel(Arc::new(status)).0,
            ledger,
            journal,
            notifier: Notifier::default(),
            saving: Saving::new(disk),
            alarm,
            rollouts,
            roster,
            reports: Reports::new(reported),
            fleet: None,
            events: Events::default(),
            published: Arc::new(Published::new(fleet::own_source())),
            pooling: None,
            attendance: Attendance::default(),
        };
        for rollout in controller.rollouts.iter().filter(|one| one.state().has_ended()) {
            tracing::warn!(
                event = "rollout_remembered",
                rollout = %rollout.plan().name, version = %rollout.plan().version,
                state = rollout.state_name(), since = %rollout.since,
                "the ledger says that this version has ended; a new version or `serin reset` \
                 starts it afresh"
            );
        }
        controller.begin_all(false);
        controller.tell();
        controller
    }

    /// A reader of the snapshot, for a worker.
    pub fn reader(&self) -> Reader {
        self.publisher.reader()
    }

    /// What this replica counted, for the others of its fleet.
    pub fn published(&self) -> Arc<Published> {
        Arc::clone(&self.published)
    }

    /// What the admin port shows.
    pub fn status(&self) -> watch::Receiver<Arc<Status>> {
        self.status.subscribe()
    }

    /// Files whose change is worth a reload, beside the config's.
    pub fn files(&self) -> watch::Receiver<Vec<PathBuf>> {
        self.files.subscribe()
    }

    /// Judges and obeys until told to stop; then puts the evidence on disk.
    pub async fn run(mut self, mut commands: mpsc::Receiver<Command>, stop: CancellationToken) {
        let mut slots = tokio::time::interval(SLOT);
        slots.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut saves = tokio::time::interval(SAVE_EVERY);
        saves.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let alarm = Arc::clone(&self.alarm);
        self.roster.ask();
        let mut disk = self.saving.done();
        let replica = self.published.source().replica;
        self.events.start(&self.config, &replica, self.clock);
        let mut inbox = self.join();
        loop {
            tokio::select! {
                _ = slots.tick() => self.close_slot(),
                () = alarm.heard() => {
                    self.look();
                    tokio::time::sleep(LOOK_PAUSE).await;
                }
                Some(report) = self.reports.next() => self.hear(report),
                done = saving::next(&mut disk) => self.disk_did(&done),
                told = fleet::next(&mut inbox) => self.hear_fleet(told),
                _ = saves.tick() => self.save_all(),
                Some(command) = commands.recv() => self.obey(command),
                () = stop.cancelled() => break,
            }
        }
        // What came since the last slot's end may be what decides.
        self.close_slot();
        let now = self.now();
        if let Some(fleet) = self.fleet.take().filter(|fleet| fleet.holds(now)) {
            fleet.leave().await;
        }
        self.save_at_the_end(disk).await;
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
    fn begin(&mut self, index: usize, now: Tick, continues: bool) {
        let release = self.rollouts[index].release();
        let what = What::Begins {
            continues,
            plan: Box::new(release.plan().clone()),
            configured: release.configured(),
            config: self.hash.clone(),
            state: release.state().to_string(),
            saved: release.save(now),
        };
        self.write(index, now, what);
    }

    /// `continues` if nothing of what was before is missing.
    fn begin_all(&mut self, continues: bool) {
        let now = self.now();
        for index in 0..self.rollouts.len() {
            self.begin(index, now, continues);
            self.begin_pool(index, now, continues);
        }
    }

    fn close_slot(&mut self) {
        let now = self.now();
        if !self.has_settled(now) {
            return;
        }
        self.follow_lead();
        let mut closed = Vec::new();
        for index in 0..self.rollouts.len() {
            let Some((counts, effect)) = self.rollouts[index].close_slot(now) else { continue };
            let head = self.record(index, now, What::Slots { slots: Vec::new() });
            self.journal.slot(head, Packed::new(now, &counts));
            self.act(index, now, effect, None);
            self.note(index, now);
            closed.push((index, now, counts));
        }
        self.publish_slot(&closed);
        self.close_fleet_slot(now);
        self.measure_bodies();
        self.roster.look(now);
        self.roster.throttle(now);
        self.rotate(now);
        self.go_on_saving(now);
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
                    event = "body_measured", rollout = %rollout.plan().name,
                    threshold_ms = threshold.as_secs_f64() * 1e3,
                    "stable's p90 is measured: what takes longer is slow to the body objective"
                );
            }
        }
        if measured {
            self.publish();
        }
    }

    /// Between slots, only a proven breach matters, and an endpoint that fails all the time.
    fn look(&mut self) {
        let now = self.now();
        self.roster.look(now);
        self.rotate(now);
        for index in 0..self.rollouts.len() {
            if let Some((counts, effect)) = self.rollouts[index].look(now) {
                let what = What::Looked { slot: Packed::new(now, &counts) };
                let record = self.record(index, now, what);
                self.journal.write_later(record);
                self.act(index, now, effect, None);
                self.note(index, now);
                self.tell();
            }
        }
    }

    /// Does what was decided here, and tells the fleet of it.
    fn act(&mut self, index: usize, now: Tick, effect: Option<Effect>, reply: Option<Reply>) {
        self.act_alone(index, now, effect, reply);
        if let Some(effect) = effect {
            self.tell_fleet_of_course(index, effect);
        }
    }

    /// Weights first, then the ledger, then words.
    fn act_alone(&mut self, index: usize, now: Tick, effect: Option<Effect>, reply: Option<Reply>) {
        let Some(effect) = effect else { return };
        let counting =
            Counting { alarm: &self.alarm, registry: &self.registry, roster: &self.roster };
        let rollout = &mut self.rollouts[index];
        rollout.since = rfc3339(self.clock);
        match effect {
            Effect::Restarted => {
                rollout.forget_epochs();
                rollout.new_step(counting);
            }
            Effect::Stepped | Effect::Promoted => {
                rollout.freeze_body();
                rollout.new_step(counting);
            }
            _ => {}
        }
        self.publish();
        if matches!(effect, Effect::RolledBack | Effect::Aborted) {
            self.rollouts[index].cut_streams();
            self.tell_fleet(index);
        }
        self.ledger.remember(self.rollouts[index].entry(now));
        // Before the journal: what that tells, the ledger knows.
        let number = self.save();
        if effect == Effect::Restarted {
            self.begin(index, now, false);
        }
        let record = self.change(index, now);
        self.rollouts[index].is_told();
        let name = self.rollouts[index].plan().name.clone();
        self.tell_when_saved((name, number, now), (record, effect), reply);
    }

    /// Writes down how a rollout stands.
    fn change(&mut self, index: usize, now: Tick) -> Record {
        let failing = self.rollouts[index].failing();
        let config = self.hash.clone();
        let change = Change { config, failing, ..Change::of(self.rollouts[index].release()) };
        let record = self.record(index, now, What::Changed(change));
        self.journal.append_after_slots(&record);
        record
    }

    /// Writes down how a rollout stands, if that has changed without an effect, and tells who
    /// wants to know.
    fn note(&mut self, index: usize, now: Tick) {
        let Some(news) = self.rollouts[index].news(now) else { return };
        let record = self.change(index, now);
        let rollout = &self.rollouts[index].plan().name;
        if let Some(around) = self.config.around(rollout).filter(|_| news.is_loud) {
            self.notifier.tell(&around.webhooks, &record);
            self.events.tell(&record);
        }
        self.journal.keep(record);
        report::held(&self.rollouts[index].view(&self.config));
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
        let (config, certificates) = (&self.config, &self.certificates.borrow());
        let next = build::snapshot(config, self.generation, counting, certificates, &standing);
        drop(standing);
        self.publisher.publish(next);
    }
}

/// Now, for people: UTC with seconds.
fn rfc3339(clock: Clock) -> String {
    let wall = i64::try_from(clock.wall().as_secs()).unwrap_or_default();
    jiff::Timestamp::from_second(wall).unwrap_or_default().to_string()
}
