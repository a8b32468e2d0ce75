//! Another config: what the file says now, or why the old one stays.
//!
//! Never publishes half of one: what a file names is there before anything is changed.

use std::sync::Arc;

use crate::config::Config;
use crate::config::defect::{Code, Defect, Defects, Place};
use crate::config::load::{Loaded, Options, Source};
use crate::control::ReloadResult;
use crate::control::controller::{Controller, rfc3339};
use crate::control::running::{Counting, Reconfigured, Running};
use crate::rollout::record::What;
use crate::units::Tick;

impl Controller {
    /// Reads the file; what is wrong with it leaves everything as it is.
    pub(super) fn reload(&mut self) -> ReloadResult {
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
}
