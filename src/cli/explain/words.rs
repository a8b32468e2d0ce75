//! An explanation for people.
//!
//! Never prints.

use std::fmt::Write;

use crate::app::explain::{Candidate, Explanation, RuleSeen, StickySeen};
use crate::units::Ratio;

/// What would become of the request, what the rule does with it, and why that rule.
pub fn text(told: &Explanation) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = all(&mut out, told);
    out
}

fn all(out: &mut String, told: &Explanation) -> std::fmt::Result {
    let seen = &told.request;
    let host = seen.host.as_deref().unwrap_or("no host");
    let query = seen.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
    write!(out, "request   {} {}{query} at {host}", seen.method, seen.path)?;
    match &seen.model {
        Some(model) => writeln!(out, ", model {model}")?,
        None => writeln!(out)?,
    }
    match (&told.rule, &told.refused) {
        (Some(rule), _) => writeln!(out, "rule      {rule}")?,
        (None, Some(refused)) => {
            writeln!(out, "rule      none: answered with {}, {}", refused.status, refused.detail)?;
        }
        (None, None) => writeln!(out, "rule      none")?,
    }
    if let Some(outcome) = &told.outcome {
        rule(out, outcome, &told.weights_of)?;
    }
    writeln!(out, "\nwhy, of all rules:")?;
    told.rules.iter().try_for_each(|one| candidate(out, one))
}

fn rule(out: &mut String, seen: &RuleSeen, weights_of: &str) -> std::fmt::Result {
    if let Some(rollout) = &seen.rollout {
        let state = rollout.state.replace('_', " ");
        let step = rollout.step.map_or(String::new(), |step| format!(", step {}", step + 1));
        let why = rollout.reason.as_ref().map_or(String::new(), |why| format!(": {why}"));
        let when = if weights_of == "proxy" { "now" } else { "at its beginning" };
        writeln!(out, "rollout   {} {when}: {state}{step}{why}", rollout.name)?;
    }
    for (index, one) in seen.split.iter().enumerate() {
        let head = if index == 0 { "split" } else { "" };
        let role = one.role.as_ref().map_or(String::new(), |role| format!(" ({role})"));
        let model = one.model.as_ref().map_or(String::new(), |name| format!(", as model {name}"));
        let (name, share) = (&one.backend, percent(one.share));
        let (from, to) = (one.from, one.to);
        writeln!(out, "{head:9} {name}{role} {share}, points {from:.4} to {to:.4}{model}")?;
    }
    if let Some(sticky) = &seen.sticky {
        writeln!(out, "sticky    {}", sticky_words(sticky))?;
    }
    match &seen.backend {
        Some(backend) => writeln!(out, "answer    from {backend}")?,
        None => writeln!(out, "answer    from one of them by chance")?,
    }
    for mirror in &seen.mirrors {
        let (to, share) = (&mirror.backend, percent(mirror.percent));
        let why = mirror.why.as_ref().map_or(String::new(), |why| format!(": {why}"));
        writeln!(out, "mirror    {share} to {to}; this one: {}{why}", mirror.copied)?;
    }
    let limits = &seen.timeouts;
    let request = limits.request.as_deref().unwrap_or("none");
    let (connect, first, idle) = (&limits.connect, &limits.first_byte, &limits.idle);
    writeln!(
        out,
        "timeouts  connect {connect}, first byte {first}, idle {idle}, request {request}"
    )?;
    match &seen.retry {
        None => writeln!(out, "retry     none")?,
        Some(retry) => {
            let not = if retry.applies { "" } else { "; not with this method" };
            let (on, budget) = (retry.on.join(", "), percent(retry.budget));
            let attempts = retry.attempts;
            writeln!(out, "retry     {attempts} more on {on}, within {budget} of requests{not}")?;
        }
    }
    match &seen.failover {
        Some(stable) => writeln!(out, "failover  what the canary fails, {stable} answers"),
        None => writeln!(out, "failover  none"),
    }
}

fn sticky_words(sticky: &StickySeen) -> String {
    let StickySeen { by, name, key, point } = sticky;
    match (key, point) {
        (Some(key), Some(point)) => format!("{by} {name} is `{key}`, at point {point:.4}"),
        _ => format!("by {by} {name}, which the request does not bring: by chance"),
    }
}

fn candidate(out: &mut String, one: &Candidate) -> std::fmt::Result {
    let why = one.why.as_ref().map_or(String::new(), |why| format!(": {why}"));
    let by = match one.by {
        Some(by) if one.matches.len() > 1 => format!(" by match {}", by + 1),
        _ => String::new(),
    };
    match one.result.as_str() {
        "misfit" => {
            writeln!(out, "  {} does not fit", one.rule)?;
            for (index, misfits) in one.matches.iter().enumerate() {
                let many = one.matches.len() > 1;
                let head = if many { format!("match {}: ", index + 1) } else { String::new() };
                for misfit in misfits {
                    writeln!(out, "    {head}{misfit}")?;
                }
            }
            Ok(())
        }
        result => writeln!(out, "  {} {result}{by}{why}", one.rule),
    }
}

fn percent(share: f64) -> String {
    Ratio::new((share * 1e4).round() / 1e4).unwrap_or_default().to_string()
}
