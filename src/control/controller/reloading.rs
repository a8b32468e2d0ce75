//! Another config: what the file says now, or why the old one stays.
//!
//! Never publishes half of one: what a file names is there before anything is changed.

use std::sync::Arc;

use crate::config::Config;
use crate::config::defect::{Code, Defect, Defects, Place};
use crate::config::load::{Loaded, Options, Source};
use crate::control::ReloadResult;
use crate::control::certificates::{self, Renewed};
use crate::control::controller::{Controller, rfc3339};
use crate::control::running::{Counting, Reconfigured, Running};
use crate::rollout::record::What;
use crate::units::Tick;

impl Controller {
    /// Reads the file; what is wrong with it leaves everything as it is.
    pub(super) fn reload(&mut self) -> ReloadResult {
        let read = Source::read(&self.path).and_then(|source| {
            let same = source.hash() == self.hash;
            if same { Ok(None) } else { source.load(Options::RELOAD).map(Some) }
        });
        let (taken, mut defects) = match read {
            Ok(None) => (false, Vec::new()),
            Ok(Some(loaded)) => match self.take_over_whole(loaded) {
                Ok(kept) => (true, kept),
                Err(defects) => (false, defects),
            },
            Err(Defects { list, .. }) => (false, list),
        };
        // A config file that is wrong must not keep an old certificate in force.
        let renewed = if taken { false } else { self.renew(&mut defects) };
        defects.retain(Defect::is_error);
        self.report(&defects);
        let news = defects.iter().find(|one| !self.last_error.contains(one)).cloned();
        if let Some(defect) = news {
            let Defect { code, place, path, message, .. } = defect;
            let line = place.line;
            self.events
                .tell_refused(&format!("{} at line {line}, {path}: {message}", code.as_str()));
        }
        if !taken && defects.is_empty() && !self.last_error.is_empty() {
            tracing::info!(
                event = "config_whole",
                generation = self.generation,
                "nothing is wrong with the files any more"
            );
        }
        self.last_error.clone_from(&defects);
        self.reloads[0] += u64::from(taken || (renewed && defects.is_empty()));
        self.reloads[1] += u64::from(!taken && !defects.is_empty());
        self.tell();
        match (taken, defects.is_empty()) {
            (true, _) => ReloadResult::Reloaded,
            (false, false) => ReloadResult::Refused(defects),
            (false, true) if renewed => ReloadResult::Reloaded,
            (false, true) => ReloadResult::Unchanged,
        }
    }

    /// Reads everything once more if files of TLS could not be used. Nobody has asked for it, so
    /// that what is still wrong is not counted anew.
    pub(super) fn look_again(&mut self) {
        if self.last_error.iter().any(|one| one.code == Code::NotTaken) {
            let refused = self.reloads[1];
            self.reload();
            self.reloads[1] = refused;
        }
    }

    /// Makes another config the one in force. Returns the files that it was not taken over
    /// with, or why it is none.
    fn take_over_whole(&mut self, loaded: Loaded) -> Result<Vec<Defect>, Vec<Defect>> {
        if let Some(defect) = self.needs_restart(&loaded.config) {
            return Err(vec![defect]);
        }
        let Renewed { certificates, kept, refused, .. } =
            self.certificates.borrow().renew(&loaded.config, self.wall());
        let mut files = certificates::files(&loaded.config);
        if !refused.is_empty() {
            // Once they are whole, it is tried again.
            files.extend(certificates::files(&self.config));
            self.files.send_replace(files);
            return Err(refused);
        }
        // Under the old plan and the old chances.
        self.close_slot();
        self.certificates.send_replace(Arc::new(certificates));
        self.files.send_replace(files);
        self.take_over(loaded);
        self.agree_anew();
        Ok(kept)
    }

    /// Takes over the files of TLS that have changed. Returns whether one has; what cannot be
    /// used goes to `defects`.
    fn renew(&mut self, defects: &mut Vec<Defect>) -> bool {
        let Renewed { certificates, changed, kept, refused } =
            self.certificates.borrow().renew(&self.config, self.wall());
        defects.extend(kept.into_iter().chain(refused));
        self.certificates.send_replace(Arc::new(certificates));
        if changed {
            self.publish();
            tracing::info!(event = "certificates_renewed", "certificates renewed");
        }
        changed
    }

    /// Seconds since the Unix epoch.
    fn wall(&self) -> i64 {
        i64::try_from(self.clock.wall().as_secs()).unwrap_or(i64::MAX)
    }

    /// Says what is wrong, but not what was said before.
    fn report(&self, defects: &[Defect]) {
        for defect in defects.iter().filter(|one| !self.last_error.contains(one)) {
            let stays = match defect.code {
                Code::NotTaken => "",
                _ => "; the old config stays",
            };
            tracing::error!(
                event = "config_refused",
                file = %self.path.display(), line = defect.place.line, key = %defect.path,
                code = defect.code.as_str(), help = %defect.help, "{}{stays}", defect.message
            );
        }
    }

    /// Sockets, threads and the state file are made once.
    fn needs_restart(&self, next: &Config) -> Option<Defect> {
        let now = &self.config;
        let sockets = |config: &Config| -> Vec<_> {
            let listeners = config.listeners.iter();
            listeners.map(|one| (one.name.clone(), one.address, one.connections_max)).collect()
        };
        let changed = [
            ("listeners", sockets(now) != sockets(next)),
            ("admin", now.admin != next.admin),
            ("metrics", now.metrics != next.metrics),
            ("state", now.state_file != next.state_file),
            ("fleet", now.fleet != next.fleet),
            (
                "kubernetes",
                (now.fleet.is_some() && now.kubernetes != next.kubernetes)
                    || now.kubernetes.events != next.kubernetes.events,
            ),
            ("workers", now.workers != next.workers),
        ];
        let (key, _) = changed.into_iter().find(|(_, changed)| *changed)?;
        Some(Defect {
            code: Code::NeedsRestart,
            place: Place::START,
            path: key.to_owned(),
            message: match key {
                "listeners" => {
                    "names, addresses and limits of `listeners` cannot be changed by a reload"
                        .to_owned()
                }
                _ => format!("`{key}` cannot be changed by a reload"),
            },
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
        // Brought back, it stands where it stood.
        for gone in &before {
            self.ledger.remember(gone.entry(now.0));
        }
        for gone in before.iter().filter(|rollout| rollout.is_out()) {
            tracing::warn!(
                event = "rollout_gone",
                rollout = %gone.plan().name, version = %gone.plan().version,
                "a rollout that took its canary out is gone from the config: its rule has the \
                 weights of the file again"
            );
        }
        self.config = config;
        self.hash = loaded.hash;
        self.generation += 1;
        now.1.clone_into(&mut self.loaded_at);
        self.loaded_wall = self.clock.wall().as_secs();
        self.last_error.clear();
        self.publish();
        let tick = now.0;
        for (index, change) in changes.into_iter().enumerate() {
            match change {
                Some(None) => self.begin(index, tick, false),
                Some(Some(change)) => self.note_reload(index, tick, change),
                None => {}
            }
        }
        tracing::info!(
            event = "config_reloaded", generation = self.generation, hash = %self.hash,
            "config reloaded"
        );
        for warning in &loaded.warnings {
            tracing::warn!(
                event = "config_warning", file = %self.path.display(), line = warning.place.line,
                key = %warning.path, code = warning.code.as_str(), "{}", warning.message
            );
        }
    }

    fn note_reload(&mut self, index: usize, now: Tick, change: Reconfigured) {
        let release = self.rollouts[index].release();
        let configured = release.configured();
        let what = match change {
            Reconfigured::Share => What::Shared { configured },
            Reconfigured::Plan(_) => What::Replanned {
                plan: Box::new(release.plan().clone()),
                configured,
                config: self.hash.clone(),
            },
        };
        self.write(index, now, what);
        if let Reconfigured::Plan(effect) = change {
            self.act(index, now, effect, None);
        }
    }
}
