//! What would become of a request: the rule that it would get, and why.
//!
//! Never decides anything itself: the target is read, the rule is found, the split is dealt and
//! the copies are ordered by the code of the request path. Sends nothing.

mod seen;

use std::time::Duration;

use bytes::Bytes;

pub use seen::{
    Candidate, Explanation, MirrorSeen, Refusal, RequestSeen, RetrySeen, RolloutSeen, RuleSeen,
    ShareSeen, StickySeen, TimeoutsSeen,
};

use crate::config::{self, Config};
use crate::control::api::RolloutView;
use crate::control::build;
use crate::names::{BackendName, RuleId};
use crate::proxy::error::Error;
use crate::proxy::forward::{self, Peer};
use crate::rollout::plan::Plan;
use crate::traffic::client::Client;
use crate::traffic::draw::StickyKey;
use crate::traffic::grpc;
use crate::traffic::matching::misfit::Misfit;
use crate::traffic::matching::{Match, ModelView, RequestView, host_name};
use crate::traffic::message::RequestHead;
use crate::traffic::mirror::Mirror;
use crate::traffic::model::{Named, may_be_named};
use crate::traffic::outcome::is_grpc;
use crate::traffic::retry::{Condition, Failure};
use crate::traffic::route::precedence::decided_by;
use crate::traffic::route::{Entry, Found, Table};
use crate::traffic::split::Split;
use crate::units::{Ratio, Tick, duration_text};

/// A request that is only thought of.
#[derive(Clone, Debug)]
pub struct Thought {
    /// As a client sends it; an authority in its target is its host.
    pub head: RequestHead,
    /// All of it.
    pub body: Bytes,
    /// Who sends it, by a verified certificate: its SPIFFE id, `spiffe://…`, or its subject.
    pub client: Option<String>,
}

impl Thought {
    /// Of a head as a library reads it.
    pub fn new(head: &http::request::Parts, body: Bytes, client: Option<String>) -> Self {
        Self { head: RequestHead::from(head), body, client }
    }
}

/// What would become of `thought` under `config`, with `rollouts` as they stand; `None` is at
/// their beginning.
pub fn explain(config: &Config, rollouts: Option<&[RolloutView]>, thought: Thought) -> Explanation {
    let Thought { mut head, body, client } = thought;
    let named = if may_be_named(&head.fields) { Named::of(&body) } else { Named::Never };
    let peer = Peer::cleartext(std::net::Ipv4Addr::LOCALHOST.into());
    // Whoever asks here has no address: what a client says of itself counts as anybody's.
    forward::drop_claims(&mut head.fields, config.trusted_proxies.is_none());
    let read = forward::read_target(&mut head);
    let request = forward::view(&head, &peer, ModelView::Read(named.name()));
    let client = client.map(|identity| {
        let (spiffe, subject) = match identity.strip_prefix("spiffe://") {
            Some(_) => (Some(identity), String::new()),
            None => (None, identity),
        };
        Client { spiffe, subject }
    });
    let request = RequestView { client: client.as_ref(), ..request };
    let table = Table::new(build::entries(config));
    let found = read.and_then(|()| find(config, &table, &request, (&named, &body)));
    let weights_of = if rollouts.is_some() { "proxy" } else { "file" }.to_owned();
    let seen = RequestSeen {
        method: request.method.to_string(),
        host: request.host.map(|host| host_name(host).into_owned()),
        path: request.path.to_owned(),
        query: request.query.map(ToOwned::to_owned),
        model: named.name().map(ToOwned::to_owned),
    };
    let rules = candidates(config, &request, found.as_ref().ok());
    match found {
        Ok(found) => {
            let (id, rule) = rule_at(config, &found);
            let outcome = rule_seen(config, (&id, rule), rollouts, (&head, &body));
            let (rule, outcome) = (Some(id.to_string()), Some(outcome));
            Explanation { request: seen, weights_of, rule, refused: None, outcome, rules }
        }
        Err(error) => {
            let status = error.status().map_or(0, |status| status.as_u16());
            let refused = Some(Refusal { status, detail: error.to_string() });
            let (rule, outcome) = (None, None);
            Explanation { request: seen, weights_of, rule, refused, outcome, rules }
        }
    }
}

/// As a request is looked up: by its head, and by its body where that is needed.
fn find(
    config: &Config,
    table: &Table,
    request: &RequestView<'_>,
    (named, body): (&Named, &Bytes),
) -> Result<Found, Error> {
    let unread = RequestView { model: ModelView::Unread, ..*request };
    let found = table.find(&unread).ok_or(Error::NoRoute)?;
    let (_, rule) = rule_at(config, &found);
    let renames =
        !rule.models.is_empty() || rule.mirrors.iter().any(|mirror| mirror.model.is_some());
    if !found.by_model && !renames {
        return Ok(found);
    }
    if may_be_named(request.fields) && body.len() > config.replay_body_bytes_max {
        let what =
            "the request's body is larger than `replay_body_max`, so its `model` is not read";
        return Err(Error::Refused(http::StatusCode::PAYLOAD_TOO_LARGE, what));
    }
    if *named == Named::Twice {
        return Err(Error::BadRequest("the request's body names its `model` more than once"));
    }
    if found.by_model { table.find(request).ok_or(Error::NoRoute) } else { Ok(found) }
}

fn rule_at<'c>(config: &'c Config, found: &Found) -> (RuleId, &'c config::Rule) {
    rules_of(config).nth(found.rule).expect("the table knows no others")
}

/// Every rule with its name, numbered as in the table.
fn rules_of(config: &Config) -> impl Iterator<Item = (RuleId, &config::Rule)> {
    config.routes.iter().flat_map(|route| {
        route
            .rules
            .iter()
            .map(|rule| (RuleId { route: route.name.clone(), rule: rule.name.clone() }, rule))
    })
}

fn candidates(
    config: &Config,
    request: &RequestView<'_>,
    chosen: Option<&Found>,
) -> Vec<Candidate> {
    let mut left: Vec<Entry<'_>> = build::entries(config).collect();
    let all = left.clone();
    let names: Vec<_> = rules_of(config).map(|(id, _)| id.to_string()).collect();
    // Whoever is found when the better ones are away comes next.
    let mut fitting = Vec::new();
    while let Some(found) = Table::new(left.iter().copied()).find(request) {
        left.retain(|entry| entry.rule != found.rule);
        fitting.push(found);
    }
    let part = |found: &Found| {
        let entry = &all[found.rule];
        (entry.hostnames, found.by.map(|by| &entry.matches[by]))
    };
    let fits = fitting.iter().enumerate().map(|(index, found)| {
        let (result, why) = match index.checked_sub(1).map(|before| &fitting[before]) {
            Some(better) => {
                let reason = decided_by(part(better), part(found), request.host);
                ("fits", Some(format!("{} goes before it: {reason}", names[better.rule])))
            }
            None if chosen.is_none() => ("fits", None),
            None => {
                let others = "it goes before all others that fit";
                ("chosen", (fitting.len() > 1).then(|| others.to_owned()))
            }
        };
        (found.rule, result, why, found.by)
    });
    let rest = left.iter().map(|entry| (entry.rule, "misfit", None, None));
    fits.chain(rest)
        .map(|(rule, result, why, by)| Candidate {
            rule: names[rule].clone(),
            result: result.to_owned(),
            why,
            by,
            matches: misfits(&all[rule], request),
        })
        .collect()
}

/// What does not fit, of each match; a hostname that does not is told with each.
fn misfits(entry: &Entry<'_>, request: &RequestView<'_>) -> Vec<Vec<Misfit>> {
    let host = request.host.map(host_name);
    let is_host = |host: &str| entry.hostnames.iter().any(|pattern| pattern.fits(host));
    let host_fits = entry.hostnames.is_empty() || host.as_deref().is_some_and(is_host);
    let wants = entry.hostnames.iter().map(|one| format!("`{one}`")).collect::<Vec<_>>();
    let wrong_host = (!host_fits).then(|| Misfit {
        part: "hostname".to_owned(),
        name: None,
        wants: wants.join(" or "),
        got: host.map(std::borrow::Cow::into_owned),
    });
    let everything = [Match::default()];
    let matches = if entry.matches.is_empty() { &everything[..] } else { entry.matches };
    let of = |one: &Match| wrong_host.iter().cloned().chain(one.misfits(request)).collect();
    matches.iter().map(of).collect()
}

/// A plan, and where it stands.
struct Standing<'a> {
    plan: &'a Plan,
    share: Option<Ratio>,
    step: Option<usize>,
    seen: RolloutSeen,
}

impl<'a> Standing<'a> {
    fn of(plan: &'a Plan, rollouts: Option<&[RolloutView]>) -> Self {
        let live = rollouts.and_then(|all| all.iter().find(|one| one.name == plan.name.as_str()));
        let name = plan.name.to_string();
        let Some(live) = live else {
            let state = plan.start(Tick::ZERO);
            let step = state.step().filter(|_| !plan.steps.is_empty());
            let seen = RolloutSeen {
                name,
                state: state.to_string(),
                step: step.map(|step| step as u32),
                reason: None,
            };
            return Self { plan, share: plan.canary_share(&state), step, seen };
        };
        let weight_of =
            |role: &str| live.versions.iter().find(|one| one.role == role).map(|one| one.weight);
        let pair = weight_of("canary").zip(weight_of("stable"));
        let pair = pair.filter(|(canary, stable)| canary + stable > 0.0);
        let share = pair.map_or(live.weight, |(canary, stable)| canary / (canary + stable));
        let seen = RolloutSeen {
            name,
            state: live.state.clone(),
            step: live.step,
            reason: live.reason.clone().or_else(|| live.hold_reason.clone()),
        };
        let step = live.step.map(|step| step as usize);
        Self { plan, share: Ratio::new(share), step, seen }
    }

    fn has_ended(&self) -> bool {
        matches!(&*self.seen.state, "promoted" | "rolled_back" | "aborted")
    }
}

fn rule_seen(
    config: &Config,
    (id, rule): (&RuleId, &config::Rule),
    rollouts: Option<&[RolloutView]>,
    (head, body): (&RequestHead, &Bytes),
) -> RuleSeen {
    let plan = config.rollouts.iter().find(|plan| plan.rule == *id);
    let standing = plan.map(|plan| Standing::of(plan, rollouts));
    let share = standing.as_ref().and_then(|standing| standing.share);
    let weights = build::weights(rule, plan, share);
    let split = build::split(&weights);
    let key = rule.sticky.as_ref();
    let value = key.and_then(|key| key.value(&head.fields, head.uri.query()));
    let draw = value.as_ref().map(|value| build::salt(id, plan).draw(value));
    let certain = split.as_ref().and_then(|split| {
        let only = || split.shares().find(|(_, share)| *share == Ratio::ONE).map(|(one, _)| one);
        draw.map(|draw| split.pick(draw)).or_else(only)
    });
    let copies = standing.as_ref().and_then(|one| one.plan.steps.get(one.step?)?.mirror.as_ref());
    let copies = plan.zip(copies).map(|(plan, copies)| build::copies_for(&plan.canary, copies));
    let mirrors = rule.mirrors.iter().chain(&copies);
    RuleSeen {
        split: split.as_ref().map(|split| shares(rule, plan, &weights, split)).unwrap_or_default(),
        sticky: key.map(|key| sticky(key, value.as_deref(), draw)),
        backend: certain.map(|index| weights[*index].0.to_string()),
        mirrors: mirrors.map(|mirror| mirror_seen(mirror, head, body)).collect(),
        timeouts: timeouts(rule, head),
        retry: rule.retry.as_ref().map(|retry| RetrySeen {
            attempts: retry.attempts,
            on: retry.on.iter().map(|condition| word(*condition)).collect(),
            budget: retry.budget.get(),
            applies: retry.on.iter().any(|one| retry.wants(failure(*one), &head.method, 0)),
        }),
        failover: standing
            .as_ref()
            .filter(|standing| rule.failover && !standing.has_ended())
            .map(|standing| standing.plan.stable.to_string()),
        rollout: standing.map(|standing| standing.seen),
    }
}

fn shares(
    rule: &config::Rule,
    plan: Option<&Plan>,
    weights: &[(BackendName, crate::units::Weight)],
    split: &Split<usize>,
) -> Vec<ShareSeen> {
    let mut from = 0.0;
    let shares = split.shares().map(|(index, share)| {
        let (name, share) = (&weights[*index].0, share.get());
        let side = plan.and_then(|plan| match name {
            name if *name == plan.canary => Some("canary"),
            name if *name == plan.stable => Some("stable"),
            _ => None,
        });
        let model = rule.models.iter().find(|(backend, _)| backend == name);
        let seen = ShareSeen {
            backend: name.to_string(),
            role: side.map(ToOwned::to_owned),
            share,
            from,
            to: from + share,
            model: model.map(|(_, model)| model.to_string()),
        };
        from += share;
        seen
    });
    shares.collect()
}

fn sticky(key: &StickyKey, value: Option<&[u8]>, draw: Option<u64>) -> StickySeen {
    let (by, name) = match key {
        StickyKey::Header(name) => ("header", name.as_str()),
        StickyKey::Cookie(name) => ("cookie", name.as_str()),
        StickyKey::Query(name) => ("query", name.as_str()),
    };
    StickySeen {
        by: by.to_owned(),
        name: name.to_owned(),
        key: value.map(|value| String::from_utf8_lossy(value).into_owned()),
        point: draw.map(|draw| draw as f64 / 2f64.powi(64)),
    }
}

fn mirror_seen(mirror: &Mirror, head: &RequestHead, body: &Bytes) -> MirrorSeen {
    // The first and the last of all draws: where they agree, chance has no say.
    let [least, most] = [0, u64::MAX].map(|draw| mirror.wants(&head.method, draw));
    let too_large = body.len() as u64 > mirror.body_bytes_max;
    let why = if !mirror.methods.contains(&head.method) {
        Some(format!("{} is none of its methods", head.method))
    } else if too_large {
        Some("the body is larger than its `max_body`".to_owned())
    } else {
        (!least).then(|| "its `percent` is 0".to_owned())
    };
    let copied = match (&why, most) {
        (Some(_), _) => "no",
        (None, true) => "yes",
        (None, false) => "by chance",
    };
    let (backend, percent) = (mirror.backend.to_string(), mirror.share.get());
    MirrorSeen { backend, percent, copied: copied.to_owned(), why }
}

fn timeouts(rule: &config::Rule, head: &RequestHead) -> TimeoutsSeen {
    let limits = &rule.timeouts;
    let client = is_grpc(&head.fields).then(|| grpc::timeout(&head.fields)).flatten();
    let request: Option<Duration> = limits.request.into_iter().chain(client).min();
    TimeoutsSeen {
        connect: duration_text(limits.connect),
        first_byte: duration_text(limits.first_byte),
        idle: duration_text(limits.idle),
        request: request.map(duration_text),
    }
}

/// As the config names it.
fn word(condition: Condition) -> String {
    match condition {
        Condition::Connect => "connect".to_owned(),
        Condition::Reset => "reset".to_owned(),
        Condition::FirstByte => "first_byte".to_owned(),
        Condition::ServerError => "5xx".to_owned(),
        Condition::Status(status) => status.as_str().to_owned(),
    }
}

/// A failure that the condition includes.
const fn failure(condition: Condition) -> Failure {
    match condition {
        Condition::Connect => Failure::Connect,
        Condition::Reset => Failure::Reset,
        Condition::FirstByte => Failure::FirstByte,
        Condition::ServerError => Failure::Status(http::StatusCode::INTERNAL_SERVER_ERROR),
        Condition::Status(status) => Failure::Status(status),
    }
}
