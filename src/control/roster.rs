//! Which endpoints of which backend may get requests: discovery, health checks and ejection,
//! put together.
//!
//! Never on the way of a request: workers have what the last snapshot says. Never publishes:
//! it says what changed, the controller acts.

mod ejections;
mod standing;
mod telling;

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::clock::Clock;
use crate::config::{self, Config};
use crate::control::certificates::Certificates;
use crate::control::discovery::{self, Found};
use crate::control::health::{self, TlsOfNow};
use crate::control::roster::ejections::Ejections;
use crate::control::roster::standing::{known_elsewhere, stay_for_now};
use crate::control::throttle::Throttle;
use crate::names::BackendName;
use crate::snapshot::Endpoint;
use crate::telemetry::counts::Alarm;
use crate::telemetry::gate::Gate;
use crate::telemetry::metrics::{EndpointGauge, LimitGauge};
use crate::telemetry::signs::{Read, Signs};
use crate::traffic::ejection::{Candidate, Record, in_rotation, look};
use crate::traffic::health::Health;
use crate::traffic::warm_up::WarmUp;
use crate::units::Tick;

/// What came of asking, in the background.
#[derive(Debug)]
pub enum Report {
    /// Whether an endpoint is well.
    Health(health::Answer),
    /// Which endpoints there are.
    Found(Found),
}

/// Reports that wait for the controller. When full, whoever asks an endpoint waits.
const REPORTS_MAX: usize = 1024;

/// The endpoints of all backends.
#[derive(Debug)]
pub struct Roster {
    workers: usize,
    alarm: Arc<Alarm>,
    clock: Clock,
    certificates: watch::Receiver<Arc<Certificates>>,
    kubernetes: config::Kubernetes,
    pools: Vec<Pool>,
    reports: mpsc::Sender<Report>,
    /// Of the next asking.
    next_id: u64,
    gauges: Arc<Vec<EndpointGauge>>,
    ejections: Ejections,
}

#[derive(Debug)]
struct Pool {
    settings: config::Backend,
    members: Vec<Member>,
    throttle: Option<Throttle>,
    search: Search,
}

/// The search for a backend's endpoints; idle where the config lists them.
#[derive(Debug, Default)]
struct Search {
    asking: Option<(u64, AbortOnDropHandle<()>)>,
    /// It was there at Serin's start.
    is_old: bool,
    /// Asked at least once, whatever came of it.
    is_known: bool,
    /// The last answer was none.
    failed: bool,
}

#[derive(Debug)]
struct Member {
    address: SocketAddr,
    /// It was there at Serin's start, and was never known to be unwell or out.
    is_old: bool,
    /// Since when it serves; `None` is since Serin's start.
    since: Option<Tick>,
    signs: Arc<Signs>,
    read: Read,
    health: Health,
    /// What the last bad answer was.
    complaint: String,
    record: Record,
    serves: bool,
    asking: Option<(u64, AbortOnDropHandle<()>)>,
    /// It is named no more, and serves on until one that is named is known to be well.
    leaves: bool,
}

impl Roster {
    /// The endpoints of `config`, and where reports on them arrive. Nobody is asked yet.
    pub fn new(
        config: &Config,
        workers: usize,
        alarm: &Arc<Alarm>,
        clock: Clock,
        certificates: watch::Receiver<Arc<Certificates>>,
    ) -> (Self, mpsc::Receiver<Report>) {
        let (reports, reported) = mpsc::channel(REPORTS_MAX);
        let alarm = Arc::clone(alarm);
        let (pools, gauges) = (Vec::new(), Arc::default());
        let (next_id, kubernetes) = (0, config.kubernetes.clone());
        let mut roster = Self {
            workers,
            alarm,
            clock,
            certificates,
            kubernetes,
            pools,
            reports,
            next_id,
            gauges,
            ejections: Ejections::default(),
        };
        let now = clock.now();
        roster.take_over(config, now);
        for pool in &mut roster.pools {
            pool.search.is_old = true;
            pool.members.iter_mut().for_each(Member::set_old);
        }
        roster.settle(now);
        (roster, reported)
    }

    /// Takes over another config. Endpoints that stay keep what is known of them.
    pub fn take_over(&mut self, config: &Config, now: Tick) {
        let other_api = self.kubernetes != config.kubernetes;
        self.kubernetes.clone_from(&config.kubernetes);
        let mut before = std::mem::take(&mut self.pools);
        for settings in &config.backends {
            let old = before.iter().position(|pool| pool.settings.name == settings.name);
            let mut old = old.map(|index| before.swap_remove(index));
            let same_check = old.as_ref().is_some_and(|old| old.settings.health == settings.health);
            let same_question = old.as_ref().is_some_and(|old| old.settings.asks_as(settings));
            let same_name = old.as_ref().is_some_and(|old| {
                let same = (&old.settings.dns, &old.settings.service);
                same == (&settings.dns, &settings.service)
            });
            if let Some(old) = &mut old
                && (old.settings.dns_refresh != settings.dns_refresh || other_api)
            {
                // Asked from now on as often, and where, it is said now.
                old.search.asking = None;
            }
            let addresses = match (settings.is_found(), &old) {
                (true, Some(old)) => old.members.iter().map(|one| one.address).collect(),
                (true, None) => Vec::new(),
                (false, _) => settings.endpoints.clone(),
            };
            let members = addresses.iter().map(|address| {
                let known = old.as_mut().and_then(|pool| pool.leave(*address));
                let mut member =
                    known.unwrap_or_else(|| Member::new(*address, self.signs(settings), now));
                if !same_check {
                    // It serves on until it was asked in the new way.
                    member.asking = None;
                }
                if !same_question {
                    let others = before.iter().chain(&self.pools);
                    member.health = known_elsewhere(others, settings, *address);
                }
                if settings.ejection.is_none() {
                    // Nobody would bring it back.
                    member.record = Record::new(now);
                }
                member.leaves = false;
                member
            });
            let mut members: Vec<_> = members.collect();
            if let Some(old) = &mut old {
                old.members.retain(|_| settings.health.is_some());
                stay_for_now(&mut members, std::mem::take(&mut old.members));
            }
            let (throttle, search) = old.map(|pool| (pool.throttle, pool.search)).unzip();
            let throttle = throttle.flatten();
            let throttle = settings.limits.map(|limits| match throttle {
                Some(throttle) => throttle.with(limits, now),
                None => Throttle::new(limits, self.workers, now),
            });
            // What another name led to serves until this one has an answer.
            let search = search.filter(|_| same_name).unwrap_or_default();
            self.pools.push(Pool { settings: settings.clone(), members, throttle, search });
        }
    }

    fn signs(&self, settings: &config::Backend) -> Arc<Signs> {
        let row = settings.ejection.map_or(u32::MAX, |rules| rules.consecutive_failures);
        Arc::new(Signs::new(self.workers, row, Arc::clone(&self.alarm)))
    }

    /// Begins to ask who is to be asked and is not. Within the control plane's runtime only.
    pub fn ask(&mut self) {
        for pool in &mut self.pools {
            if pool.settings.is_found() && pool.search.asking.is_none() {
                let (id, every) = (self.next_id, pool.settings.dns_refresh);
                let (reports, kubernetes) = (self.reports.clone(), self.kubernetes.clone());
                let dns = pool.settings.dns.clone();
                let by_name = dns.map(|name| discovery::start(id, name, every, reports.clone()));
                let service = pool.settings.service.clone();
                let asking = by_name.or_else(|| {
                    service.map(|service| discovery::follow(id, service, kubernetes, reports))
                });
                self.next_id += 1;
                pool.search.asking = asking.map(|asking| (id, asking));
            }
            let Some(check) = &pool.settings.health else { continue };
            for member in pool.members.iter_mut().filter(|member| member.asking.is_none()) {
                let (id, reports) = (self.next_id, self.reports.clone());
                self.next_id += 1;
                let tls = TlsOfNow {
                    backend: pool.settings.name.clone(),
                    certificates: self.certificates.clone(),
                };
                let (check, address) = (check.clone(), member.address);
                let asking = health::start(id, check, address, tls, reports, self.clock);
                member.asking = Some((id, asking));
            }
        }
    }

    /// Whether everyone who is to be asked has answered once, or has not.
    pub fn is_known(&self) -> bool {
        self.pools.iter().all(|pool| {
            let is_found = !pool.settings.is_found() || pool.search.is_known;
            let is_asked = pool.settings.health.is_some();
            is_found && pool.members.iter().all(|member| !is_asked || member.health.is_known())
        })
    }

    /// Takes in what came of asking. Call [`Self::ask`] then: there may be new ones.
    pub fn take_in(&mut self, report: Report, now: Tick) {
        match report {
            Report::Health(answer) => self.take_in_health(answer),
            Report::Found(found) => self.take_in_found(found, now),
        }
    }

    fn take_in_health(&mut self, answer: health::Answer) {
        for pool in &mut self.pools {
            let Some(check) = &pool.settings.health else { continue };
            let of = |member: &Member| member.asking.as_ref().map(|(id, _)| *id);
            let found = pool.members.iter_mut().find(|member| of(member) == Some(answer.id));
            if let Some(member) = found {
                member.hear(answer.well, check, &pool.settings);
                pool.let_go();
                return;
            }
        }
    }

    fn take_in_found(&mut self, found: Found, now: Tick) {
        let of = |pool: &Pool| pool.search.asking.as_ref().map(|(id, _)| *id);
        let Some(index) = self.pools.iter().position(|pool| of(pool) == Some(found.id)) else {
            return;
        };
        let signs = || self.signs(&self.pools[index].settings);
        let addresses = match found.answer {
            Ok(addresses) => addresses,
            Err(error) => return self.pools[index].not_found(&error),
        };
        let known = |address| self.pools[index].members.iter().any(|one| one.address == address);
        let new = addresses.iter().filter(|address| !known(**address));
        let new: Vec<_> = new.map(|address| Member::new(*address, signs(), now)).collect();
        let pool = &mut self.pools[index];
        let members = std::mem::take(&mut pool.members);
        let (stay, mut leave): (Vec<_>, Vec<_>) =
            members.into_iter().partition(|member| addresses.contains(&member.address));
        pool.members.extend(stay.into_iter().map(|member| Member { leaves: false, ..member }));
        pool.members.extend(new);
        for gone in leave.iter().filter(|gone| !gone.leaves) {
            telling::is_gone(&pool.settings.name, gone.address);
        }
        leave.retain(|_| pool.settings.health.is_some());
        stay_for_now(&mut pool.members, leave);
        if pool.search.is_old && !pool.search.is_known {
            pool.members.iter_mut().for_each(Member::set_old);
        }
        if pool.search.failed {
            telling::found_again(&pool.settings.name, pool.members.len());
        }
        (pool.search.is_known, pool.search.failed) = (true, false);
    }

    /// Looks at how long answers took, and gives backends as much as they can do. Call at the
    /// end of each slot.
    pub fn throttle(&mut self, now: Tick) {
        for throttle in self.pools.iter_mut().filter_map(|pool| pool.throttle.as_mut()) {
            throttle.look(now);
        }
    }

    /// What lets requests of `backend` through, if it has limits.
    pub fn gate(&self, backend: &BackendName) -> Option<Arc<Gate>> {
        let pool = self.pools.iter().find(|pool| pool.settings.name == *backend)?;
        Some(Arc::clone(pool.throttle.as_ref()?.gate()))
    }

    /// For the metrics: of each backend with limits, what may be under way and what waits.
    pub fn limits(&self) -> Vec<LimitGauge> {
        let pools = self.pools.iter();
        let gauge = |pool: &Pool| {
            let gate = pool.throttle.as_ref()?.gate();
            let backend = pool.settings.name.clone();
            Some(LimitGauge { backend, in_flight_max: gate.limit(), waiting: gate.waiting() })
        };
        pools.filter_map(gauge).collect()
    }

    /// Looks at what workers saw, and takes out or brings back.
    pub fn look(&mut self, now: Tick) {
        for pool in &mut self.pools {
            let Some(rules) = &pool.settings.ejection else { continue };
            let is_asked = pool.settings.health.is_some();
            let candidates = pool.members.iter_mut().map(|member| Candidate {
                record: member.record,
                news: member.signs.news(&mut member.read),
                is_well: !is_asked || member.health.is_well(),
            });
            let candidates: Vec<_> = candidates.collect();
            for (member, record) in pool.members.iter_mut().zip(look(rules, now, &candidates)) {
                member.record = record;
            }
        }
    }

    /// Decides anew who serves. Whether that has changed.
    pub fn settle(&mut self, now: Tick) -> bool {
        let mut changed = false;
        for index in 0..self.pools.len() {
            let serving = self.pools[index].serving();
            for (at, serves) in serving.into_iter().enumerate() {
                let member = &self.pools[index].members[at];
                let is_asked = self.pools[index].settings.health.is_some();
                let is_judged = !is_asked || member.health.is_known();
                let is_news = member.serves != serves;
                let came_back = is_news && serves && !member.is_old;
                let signs = came_back.then(|| self.signs(&self.pools[index].settings));
                let Pool { settings, members, .. } = &mut self.pools[index];
                let member = &mut members[at];
                if let Some(signs) = signs {
                    (member.signs, member.read, member.since) = (signs, Read::default(), Some(now));
                }
                if is_news {
                    member.tell(settings, serves);
                }
                member.is_old &= serves || !is_judged;
                member.serves = serves;
                changed |= is_news;
            }
        }
        let gauges: Vec<_> = self.pools.iter().flat_map(Pool::gauges).collect();
        changed |= gauges != *self.gauges;
        if changed {
            self.ejections.note(&self.gauges, &gauges);
            self.gauges = Arc::new(gauges);
        }
        changed
    }

    /// Those of `backend` that may get requests.
    pub fn serving(&self, backend: &BackendName) -> Vec<Endpoint> {
        let members = self.members(backend).filter(|member| member.serves);
        let endpoint = |member: &Member| Endpoint {
            address: member.address,
            since: member.since,
            signs: Arc::clone(&member.signs),
        };
        members.map(endpoint).collect()
    }

    /// Whether any of `backend` may.
    pub fn is_ready(&self, backend: &BackendName) -> bool {
        self.members(backend).any(|member| member.serves)
    }

    /// Whether one of `backend` that may has just come, so that its latency says little.
    pub fn has_young(&self, backend: &BackendName, warm_up: WarmUp, now: Tick) -> bool {
        self.members(backend).filter(|member| member.serves).any(|member| {
            let age = member.since.map(|since| now.since(since));
            warm_up.covers(age, member.signs.ended())
        })
    }

    fn members(&self, backend: &BackendName) -> impl Iterator<Item = &Member> {
        let pool = self.pools.iter().find(|pool| pool.settings.name == *backend);
        pool.into_iter().flat_map(|pool| &pool.members)
    }

    /// For the metrics: of each backend whose endpoints are searched for, whether that works.
    pub fn searches(&self) -> Vec<(BackendName, bool)> {
        let found = self.pools.iter().filter(|pool| pool.settings.is_found());
        found.map(|pool| (pool.settings.name.clone(), !pool.search.failed)).collect()
    }

    /// For the metrics.
    pub fn gauges(&self) -> Arc<Vec<EndpointGauge>> {
        Arc::clone(&self.gauges)
    }

    /// For the metrics: of each backend, how often its endpoints failed too often.
    pub fn ejections(&self) -> Vec<(BackendName, u64)> {
        self.ejections.counts()
    }
}

impl Pool {
    /// Who serves, by health and record.
    fn serving(&self) -> Vec<bool> {
        let is_well = |member: &Member| match self.settings.health {
            None => true,
            // Asked in a new way and not answered yet: as before.
            Some(_) if !member.health.is_known() => member.serves,
            Some(_) => member.health.is_well(),
        };
        let pairs = self.members.iter().map(|member| (is_well(member), member.record.is_out()));
        let pairs: Vec<_> = pairs.collect();
        in_rotation(&self.settings.ejection.unwrap_or_default(), &pairs)
    }

    /// Lets go of those who are named no more, once one that is named is well, or all that are
    /// named have been asked.
    fn let_go(&mut self) {
        let named = || self.members.iter().filter(|member| !member.leaves);
        let one_is_well = named().any(|member| member.health.is_known() && member.health.is_well());
        if one_is_well || named().all(|member| member.health.is_known()) {
            self.members.retain(|member| !member.leaves);
        }
    }

    /// Keeps what is known.
    fn not_found(&mut self, error: &str) {
        self.search.is_known = true;
        if !std::mem::replace(&mut self.search.failed, true) {
            telling::not_found(&self.settings.name, self.members.len(), error);
        }
    }

    /// Takes a member out of here.
    fn leave(&mut self, address: SocketAddr) -> Option<Member> {
        let index = self.members.iter().position(|member| member.address == address)?;
        Some(self.members.swap_remove(index))
    }

    fn gauges(&self) -> impl Iterator<Item = EndpointGauge> {
        self.members.iter().map(|member| EndpointGauge {
            backend: self.settings.name.clone(),
            endpoint: member.address,
            serves: member.serves,
            is_out: member.record.is_out(),
        })
    }
}

impl Member {
    fn new(address: SocketAddr, signs: Arc<Signs>, now: Tick) -> Self {
        Self {
            address,
            is_old: false,
            since: Some(now),
            signs,
            read: Read::default(),
            health: Health::default(),
            complaint: String::new(),
            record: Record::new(now),
            leaves: false,
            serves: false,
            asking: None,
        }
    }

    /// It has been there since Serin's start.
    fn set_old(&mut self) {
        self.is_old = true;
        self.since = None;
    }
}

#[cfg(test)]
mod tests;
