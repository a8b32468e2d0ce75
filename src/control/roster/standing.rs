//! What health checks say of endpoints, and who stays until they have said something.
//!
//! Never asks, and never takes anybody out: who serves is decided by `Roster::settle`.

use std::net::SocketAddr;

use crate::config;
use crate::control::roster::{Member, Pool};
use crate::traffic::health::{Health, HealthCheck};

/// Lets those who `leave` stay beside `members` while nobody among these is known to be well:
/// new endpoints that are asked first would leave users without any.
pub(super) fn stay_for_now(members: &mut Vec<Member>, leave: Vec<Member>) {
    let is_well = |member: &Member| member.health.is_known() && member.serves;
    // An empty list means what it says.
    if !members.is_empty() && !members.iter().any(is_well) {
        let serving = leave.into_iter().filter(|member| member.serves);
        members.extend(serving.map(|member| Member { leaves: true, ..member }));
    }
}

/// What is known of `address` where it is asked the same in the same way, as a backend that has
/// another name now: until it was asked again, users would be without it.
pub(super) fn known_elsewhere<'p>(
    pools: impl Iterator<Item = &'p Pool>,
    settings: &config::Backend,
    address: SocketAddr,
) -> Health {
    let is_same = |pool: &&Pool| {
        let other = &pool.settings;
        let way = (&other.tls, other.protocol) == (&settings.tls, settings.protocol);
        way && other.asks_as(settings)
    };
    let members = pools.filter(is_same).flat_map(|pool| &pool.members);
    let mut known = members.filter(|one| one.address == address && one.health.is_known());
    known.next().map(|one| one.health).unwrap_or_default()
}

impl Member {
    /// Takes in what it answered to a `check` of the backend with `settings`.
    pub(super) fn hear(
        &mut self,
        well: Result<(), String>,
        check: &HealthCheck,
        settings: &config::Backend,
    ) {
        let is_first = !self.health.is_known();
        self.health = self.health.observe(well.is_ok(), check);
        self.complaint = well.err().unwrap_or_default();
        if is_first && !self.health.is_well() && !self.serves {
            // It has never served, so that nothing changes that would be told of.
            self.tell(settings, false);
        }
    }
}
