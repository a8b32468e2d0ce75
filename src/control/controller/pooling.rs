//! What the holder of the fleet's lease does: judges the counts of all replicas as one, takes a
//! version out by them, and proposes where a rollout goes on.
//!
//! Never goes on by itself: what is proposed is followed when it comes back from the fleet.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::control::api::{FleetView, PooledView, RolloutView};
use crate::control::controller::{Controller, rfc3339};
use crate::control::fleet::counts::Head;
use crate::control::fleet::pulls::Pulled;
use crate::control::fleet::{Fleet, Proposal};
use crate::control::running::Running;
use crate::rollout::fleet::End;
use crate::rollout::fleet::attendance::Attendance;
use crate::rollout::fleet::course::Position;
use crate::rollout::fleet::pool::{Measured, Pool, Positions, Report, Slot, Source};
use crate::rollout::judge::SlotCounts;
use crate::rollout::machine::State;
use crate::rollout::plan::Plan;
use crate::rollout::record::{BY_COUNTS, Packed, What};
use crate::rollout::release::{Release, Replanned, Saved};
use crate::rollout::verdict::Verdict;
use crate::telemetry::metrics::FleetGauges;
use crate::units::Tick;

/// What is proposed is written down within this time, or proposed again.
const PROPOSAL_LASTS: Duration = Duration::from_secs(2);

/// Replicas are not missed for so long after they had to follow.
const FOLLOW_TIME: Duration = Duration::from_secs(3);

/// A replica is led for so many slots after the holder has asked for its counts, 20 s: longer
/// than the fleet may be without one.
const LED_SLOTS: u64 = 80;

/// How often evidence is left for the next holder.
const LEAVE_EVERY: Duration = Duration::from_secs(2);

/// The longest that is left: an object of the API has 256 KiB for such things.
const LEFT_BYTES_MAX: usize = 128 << 10;

/// Starts of replicas whose positions are left. With more of them, the next holder judges what
/// comes from then on.
const POSITIONS_MAX: usize = 64;

/// The holder's view of the fleet.
#[derive(Debug)]
pub struct Pooling {
    /// By name and version.
    pools: BTreeMap<(String, String), Pooled>,
    inherited: Vec<Left>,
    left_at: Tick,
    /// There are more replicas than there should ever be.
    is_over: bool,
}

/// One version, as all replicas see it.
#[derive(Debug)]
struct Pooled {
    pool: Pool,
    release: Release,
    turn: u64,
    /// Since when it is in that turn.
    since: Tick,
    /// A proposal is not repeated before this.
    proposed_until: Tick,
    missing: bool,
    /// What it began with is not in the journal yet.
    is_begun: bool,
}

/// What a holder leaves to the next one.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Left {
    rollout: String,
    version: String,
    era: u64,
    saved: Saved,
    positions: Option<Positions>,
}

/// Of another plan counts say nothing.
fn plan_hash(plan: &Plan) -> String {
    let text = serde_json::to_string(&plan.pooled()).unwrap_or_default();
    format!("{:016x}", xxh3_64(text.as_bytes()))
}

impl Pooling {
    fn new(inherited: Option<&str>, now: Tick) -> Self {
        let inherited = inherited.and_then(|text| serde_json::from_str(text).ok());
        let inherited = inherited.unwrap_or_default();
        Self { pools: BTreeMap::new(), inherited, left_at: now, is_over: false }
    }

    /// A rollout as all replicas see it.
    fn view(&self, plan: &Plan, who: &Attendance, now: Tick) -> Option<PooledView> {
        let key = (plan.name.to_string(), plan.version.to_string());
        let release = &self.pools.get(&key)?.release;
        let found = release.findings();
        Some(PooledView {
            replicas: u64::try_from(who.expected()).unwrap_or(u64::MAX),
            missing: who.missing(now),
            verdict: found.map_or(Verdict::Hold, |found| found.decision.verdict()),
            hold_reason: release.state().hold().map(|hold| hold.reason.to_string()),
            objectives: found.map(Into::into).unwrap_or_default(),
        })
    }

    /// The pool of a running rollout, begun or brought up to where the rollout stands.
    fn pooled(&mut self, rollout: &Running, (era, turn): (u64, u64), now: Tick) -> &mut Pooled {
        let (plan, configured) = (rollout.plan(), rollout.release().configured());
        let key = (plan.name.to_string(), plan.version.to_string());
        let is_begun = self.pools.get(&key).is_none_or(|one| one.pool.era() != era);
        if is_begun {
            let pooled = self.begin(plan, configured, (era, turn), now);
            self.pools.insert(key.clone(), pooled);
        }
        let pooled = self.pools.get_mut(&key).expect("it is there");
        let is_new = is_begun || pooled.turn != turn;
        match pooled.release.bring_up_to(rollout.release(), is_new, now) {
            Replanned::Same => {}
            Replanned::Afresh => {
                let (hash, measured) = (plan_hash(plan), Measured::of(plan));
                pooled.pool = Pool::new((era, hash), measured, None, now);
            }
            Replanned::InPlace | Replanned::Moved => pooled.pool.set_plan(plan_hash(plan)),
        }
        if pooled.turn != turn {
            (pooled.turn, pooled.since, pooled.proposed_until) = (turn, now, now);
        }
        pooled
    }

    /// With what the holder before has left; from now, where that cannot be known.
    fn begin(&self, plan: &Plan, configured: f64, of: (u64, u64), now: Tick) -> Pooled {
        let (era, turn) = of;
        let is_it = |left: &&Left| {
            (left.rollout.as_str(), left.version.as_str(), left.era)
                == (plan.name.as_str(), plan.version.as_str(), era)
        };
        let left = self.inherited.iter().find(is_it);
        let restore = |left: &Left| Release::restore(plan.pooled(), configured, now, &left.saved);
        let release = left.map(restore).filter(|(_, same)| *same);
        let is_restored = release.is_some();
        let release = release
            .map_or_else(|| Release::new(plan.pooled(), configured, now), |(release, _)| release);
        // Whoever held the lease before may have judged what is there, but for a version that
        // nobody has held it for.
        let positions = match left {
            Some(left) if is_restored => left.positions.clone(),
            Some(_) => None,
            None => Some(Positions::new()),
        };
        let pool = Pool::new((era, plan_hash(plan)), Measured::of(plan), positions, now);
        Pooled {
            pool,
            release,
            turn,
            since: now,
            proposed_until: now,
            missing: true,
            is_begun: true,
        }
    }

    /// Hashes of the plans that are judged by, with commas between them.
    fn plans(&self) -> String {
        let plans: Vec<_> = self.pools.values().map(|pooled| pooled.pool.plan()).collect();
        plans.join(",")
    }

    /// For the next holder.
    fn leave(&self, now: Tick) -> String {
        let left = self.pools.iter().filter_map(|((rollout, version), pooled)| {
            Some(Left {
                rollout: rollout.clone(),
                version: version.clone(),
                era: pooled.pool.era(),
                saved: pooled.release.save(now)?,
                positions: pooled.pool.positions(POSITIONS_MAX, now),
            })
        });
        let mut all: Vec<_> = left.collect();
        loop {
            let text = serde_json::to_string(&all).unwrap_or_default();
            // What does not fit begins anew with the next one.
            if text.len() <= LEFT_BYTES_MAX || all.pop().is_none() {
                return text;
            }
        }
    }
}

impl Pooled {
    fn begins(&self, now: Tick, continues: bool) -> What {
        let plan = Box::new(self.release.plan().clone());
        let configured = self.release.configured();
        What::Pooling { continues, plan, configured, saved: self.release.save(now) }
    }
}

impl Controller {
    /// Above half of the traffic who is led leaves it to the fleet what is the version's fault.
    pub(super) fn follow_lead(&mut self) {
        let fleet = self.fleet.as_ref().filter(|one| one.is_pooled && one.is_connected());
        let holder = fleet.map(Fleet::holding_boot);
        let mut begins = false;
        for rollout in &mut self.rollouts {
            let plan = plan_hash(rollout.plan());
            let leads = |holder: &String| self.published.is_led((holder, &plan), LED_SLOTS);
            // Whoever is cut off does not hear where it is led.
            begins |= rollout.set_led(holder.as_ref().is_some_and(leads));
        }
        if begins {
            self.agree_anew();
        }
    }

    /// Another slot has ended: what it brought is told to who asks.
    pub(super) fn publish_slot(&self, counts: &[(usize, Tick, SlotCounts)]) {
        let Some(fleet) = self.fleet.as_ref().filter(|fleet| fleet.is_pooled) else { return };
        let known = fleet.known();
        // Of what is out the others are told, with what it has counted until then.
        let is_told = |one: &&Running| !matches!(one.state(), State::Promoted { .. });
        let told = || self.rollouts.iter().filter(is_told);
        let number = self.published.next_slot(|head| {
            told().any(|one| {
                let plan = one.plan();
                (head.rollout.as_str(), head.version.as_str())
                    == (plan.name.as_str(), plan.version.as_str())
            })
        });
        for (index, rollout) in self.rollouts.iter().enumerate() {
            if !is_told(&rollout) {
                continue;
            }
            let plan = rollout.plan();
            let of = (plan.name.as_str(), plan.version.as_str());
            let (era, turn) = (known.era(of), known.turn(of));
            let [rollout_name, version] = [of.0, of.1].map(ToOwned::to_owned);
            let (rollout_name, plan, end) =
                (rollout_name, plan_hash(plan), End::of(rollout.state()));
            let head = Head { rollout: rollout_name, version, era, plan, turn, end };
            let found = counts.iter().find(|(one, ..)| *one == index);
            let slot = found.map(|(_, now, counts)| Slot {
                slot: number,
                turn,
                share: rollout.release().share(),
                counts: Packed::new(*now, counts),
            });
            self.published.tell(head, slot);
        }
    }

    /// What a replica has told, if anybody asked for it.
    pub(super) fn pulled(&mut self, pulled: Pulled) {
        let now = self.now();
        match pulled {
            Pulled::Expected(addresses, pause) => {
                self.attendance.expect(&addresses, pause, now);
            }
            Pulled::Answered(address, report) => {
                let Report { source, rollouts, .. } = report.sound();
                let is_own = self.attendance.answered(address, source.clone(), now);
                let pools = self.pooling.as_mut().map(|pooling| &mut pooling.pools);
                let Some(pools) = pools.filter(|_| is_own) else { return };
                for counts in &rollouts {
                    let key = (counts.rollout.clone(), counts.version.clone());
                    if let Some(pooled) = pools.get_mut(&key) {
                        pooled.pool.take(&source, counts, now);
                    }
                }
                for counts in &rollouts {
                    self.hear_of_end(counts, &source.replica, now);
                }
            }
        }
    }

    /// Tells once when there are more replicas than each leaves a part of the allowed error to.
    fn has_places(&mut self, count: usize) {
        let max = self.config.fleet.as_ref().map(|fleet| fleet.replicas_max);
        let Some((max, pooling)) = max.zip(self.pooling.as_mut()) else { return };
        let is_over = u32::try_from(count).is_ok_and(|count| count > max);
        if is_over && !std::mem::replace(&mut pooling.is_over, is_over) {
            tracing::warn!(
                event = "fleet_too_large",
                count,
                max_replicas = max,
                "there are more replicas than `fleet.max_replicas`: by themselves, some of them \
                 may be wrong more often than `false_rollback` says"
            );
        }
        pooling.is_over = is_over;
    }

    /// Judges what has come from all replicas, if it is this one's turn to.
    pub(super) fn close_fleet_slot(&mut self, now: Tick) {
        let Some(fleet) = self.fleet.as_ref().filter(|fleet| fleet.is_pooled) else { return };
        if !fleet.holds(now) {
            if self.pooling.take().is_some() {
                // It would be old when this one holds the lease again.
                fleet.leave_evidence(String::new());
                fleet.judges_by("");
                tracing::info!(event = "lease_lost", "this replica judges for the fleet no more");
            }
            return;
        }
        let (source, known) = (fleet.source.clone(), fleet.known());
        if self.pooling.is_none() {
            tracing::info!(event = "lease_held", "this replica judges for the fleet");
            let inherited = fleet.state().inherited;
            self.pooling = Some(Pooling::new(inherited.as_deref(), now));
        }
        self.has_places(self.attendance.expected());
        for index in 0..self.rollouts.len() {
            let rollout = &self.rollouts[index];
            let plan = rollout.plan();
            let of = (plan.name.to_string(), plan.version.to_string());
            let era_and_turn = {
                let of = (of.0.as_str(), of.1.as_str());
                (known.era(of), known.turn(of))
            };
            let Some(pooling) = &mut self.pooling else { return };
            if rollout.state().has_ended() {
                pooling.pools.remove(&of);
                continue;
            }
            let who = &self.attendance;
            let absent = !who.is_whole(&source) || !who.missing(now).is_empty();
            let present: Vec<_> = who.present(now).cloned().collect();
            let pooled = pooling.pooled(rollout, era_and_turn, now);
            let late = now.since(pooled.since) > FOLLOW_TIME;
            let turn = if late { pooled.turn } else { 0 };
            let lasts = (now, who.lasts());
            let is_beside = |one: &Source| pooled.pool.is_beside(one, turn, lasts);
            pooled.missing = absent || present.iter().any(is_beside);
            let slots = pooled.pool.close(pooled.turn, pooled.release.share(), now);
            let begun = std::mem::take(&mut pooled.is_begun).then(|| pooled.begins(now, false));
            let is_missing = pooled.missing;
            let wish = pooled.release.close_fleet_slots(now, &slots, is_missing);
            if let Some(begun) = begun {
                let record = self.record(index, now, begun);
                self.journal.append_after_slots(&record);
            }
            for counts in &slots {
                let what = What::Pooled { is_missing, slots: Vec::new() };
                let head = self.record(index, now, what);
                self.journal.slot(head, Packed::new(now, counts));
            }
            if let Some(wish) = wish {
                self.wish(index, now, &wish);
            }
        }
        if let Some((fleet, pooling)) = self.fleet.as_ref().zip(self.pooling.as_ref()) {
            fleet.judges_by(&pooling.plans());
        }
        self.leave_evidence(now);
    }

    /// Does what was judged for the fleet: takes a version out, or proposes where it goes.
    fn wish(&mut self, index: usize, now: Tick, wish: &State) {
        let Some((fleet, pooling)) = self.fleet.as_ref().zip(self.pooling.as_mut()) else { return };
        let plan = self.rollouts[index].plan();
        let (rollout, version) = (plan.name.to_string(), plan.version.to_string());
        if let State::RolledBack { cause, .. } = wish {
            let end = End::RolledBack(cause.clone());
            self.take_out(index, now, &end, BY_COUNTS.to_owned());
            return;
        }
        let key = (rollout.clone(), version.clone());
        let to = Position::of(plan, wish);
        let Some((pooled, to)) = pooling.pools.get_mut(&key).zip(to) else { return };
        if now < pooled.proposed_until {
            return;
        }
        pooled.proposed_until = now.after(PROPOSAL_LASTS);
        let (era, turn) = (pooled.pool.era(), pooled.turn);
        let (by, since) = (fleet.source.replica.clone(), rfc3339(self.clock));
        let until = now.after(PROPOSAL_LASTS);
        let what = What::Proposed { to: to.clone() };
        fleet.propose(Proposal { rollout, version, era, turn, to, by, since, until });
        let record = self.record(index, now, what);
        self.journal.append_after_slots(&record);
    }

    /// What has to be known of what is judged for the fleet if nothing before is.
    pub(super) fn begin_pool(&mut self, index: usize, now: Tick, continues: bool) {
        let plan = self.rollouts[index].plan();
        let key = (plan.name.to_string(), plan.version.to_string());
        let pooled = self.pooling.as_ref().and_then(|pooling| pooling.pools.get(&key));
        if let Some(what) = pooled.map(|pooled| pooled.begins(now, continues)) {
            let record = self.record(index, now, what);
            self.journal.append_after_slots(&record);
        }
    }

    /// How a rollout stands in the fleet. What holds the fleet holds it here as well.
    pub(super) fn show_fleet(&self, rollout: &Running, view: &mut RolloutView) {
        let Some(fleet) = self.fleet.as_ref().filter(|fleet| fleet.is_pooled) else { return };
        let pooling = self.pooling.as_ref();
        let pooled =
            pooling.and_then(|pooling| pooling.view(rollout.plan(), &self.attendance, self.now()));
        let is_calm = rollout.state().hold().is_none_or(|hold| !hold.reason.is_alarm());
        if let Some(pooled) = pooled.as_ref().filter(|_| is_calm && view.state == "progressing") {
            view.hold_reason.clone_from(&pooled.hold_reason);
        }
        view.fleet =
            Some(FleetView { connected: fleet.is_connected(), holder: fleet.holder(), pooled });
    }

    /// For the metrics.
    pub(super) fn fleet_gauges(&self) -> Option<FleetGauges> {
        let fleet = self.fleet.as_ref()?;
        let now = self.now();
        let who = self.pooling.as_ref().map(|_| &self.attendance);
        let missing = who.map_or(0, |who| who.missing(now).len());
        Some(FleetGauges {
            is_connected: fleet.is_connected(),
            is_holder: fleet.holds(now),
            seen: who.map_or(0, |who| who.present(now).count()),
            missing,
        })
    }

    fn leave_evidence(&mut self, now: Tick) {
        let Some((fleet, pooling)) = self.fleet.as_ref().zip(self.pooling.as_mut()) else { return };
        if now.since(pooling.left_at) >= LEAVE_EVERY {
            pooling.left_at = now;
            fleet.leave_evidence(pooling.leave(now));
        }
    }
}
