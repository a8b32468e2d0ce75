//! Matches: what a request has to look like.
//!
//! Never says which of two rules wins; only that one can never.

use std::collections::HashMap;

use crate::config::check::Checker;
use crate::config::defect::Code;
use crate::config::quantity::{Flag, Pattern, Quantity, Text};
use crate::config::raw;
use crate::config::read::{As, At, Form, Given};
use crate::config::tree::NodeId;
use crate::traffic::client::ClientMatch;
use crate::traffic::matching::{Match, PathMatch, ValueMatch};

/// The three ways to say what a value has to be.
struct Condition<'m> {
    id: NodeId,
    value: &'m At<As<Text>>,
    regex: &'m At<As<Pattern>>,
    present: &'m At<As<Flag>>,
    faulty: bool,
}

impl Checker<'_> {
    pub(super) fn matches(&mut self, list: &At<Vec<At<raw::Match>>>) -> Vec<Match> {
        list.items().iter().filter_map(At::get).map(|raw| self.one_match(raw)).collect()
    }

    fn one_match(&mut self, raw: &raw::Match) -> Match {
        Match {
            path: self.path(&raw.path),
            method: self.value(&raw.method),
            headers: self.conditions(
                &raw.headers,
                |raw| &raw.name,
                |id, raw| Condition {
                    id,
                    value: &raw.value,
                    regex: &raw.regex,
                    present: &raw.present,
                    faulty: raw.faulty,
                },
            ),
            cookies: self.conditions(
                &raw.cookies,
                |raw| &raw.name,
                |id, raw| Condition {
                    id,
                    value: &raw.value,
                    regex: &raw.regex,
                    present: &raw.present,
                    faulty: raw.faulty,
                },
            ),
            query: self.conditions(
                &raw.query,
                |raw| &raw.name,
                |id, raw| Condition {
                    id,
                    value: &raw.value,
                    regex: &raw.regex,
                    present: &raw.present,
                    faulty: raw.faulty,
                },
            ),
            client: raw.client.found().and_then(|(id, raw)| self.client(id, raw)),
            model: self.model(&raw.model),
        }
    }

    fn model(&mut self, at: &At<raw::ModelForm>) -> Option<ValueMatch> {
        match at.found()? {
            (id, Form::Short(short)) => {
                let at = At { id, given: Given::Is(short.clone()) };
                self.value(&at).map(ValueMatch::Exact)
            }
            (id, Form::Long(raw)) => self.condition(&Condition {
                id,
                value: &raw.value,
                regex: &raw.regex,
                present: &raw.present,
                faulty: raw.faulty,
            }),
        }
    }

    fn client(&mut self, id: NodeId, raw: &raw::ClientMatch) -> Option<ClientMatch> {
        let there = [
            ("spiffe", raw.spiffe.is_there()),
            ("subject", raw.subject.is_there()),
            ("regex", raw.regex.is_there()),
            ("present", raw.present.is_there()),
        ];
        let spiffe = self.value(&raw.spiffe).map(ClientMatch::Spiffe);
        let subject = self.value(&raw.subject).map(ClientMatch::Subject);
        let regex = self.value(&raw.regex).map(ClientMatch::Regex);
        let present = self.value(&raw.present).map(ClientMatch::Present);
        let one = spiffe.or(subject).or(regex).or(present);
        self.exactly_one(id, &there, raw.faulty).then_some(one)?
    }

    fn path(&mut self, at: &At<raw::PathForm>) -> Option<PathMatch> {
        match at.found()? {
            (id, Form::Short(short)) => {
                let at = At { id, given: Given::Is(short.clone()) };
                self.value(&at)
            }
            (id, Form::Long(raw)) => {
                let there = [
                    ("prefix", raw.prefix.is_there()),
                    ("exact", raw.exact.is_there()),
                    ("regex", raw.regex.is_there()),
                ];
                self.exactly_one(id, &there, raw.faulty);
                let (prefix, exact) = (self.value(&raw.prefix), self.value(&raw.exact));
                prefix.or(exact).or(self.value(&raw.regex).map(PathMatch::Regex))
            }
        }
    }

    /// The conditions on headers, cookies or query parameters.
    fn conditions<'m, R, Q: Quantity + 'm>(
        &mut self,
        list: &'m At<Vec<At<R>>>,
        name: impl Fn(&'m R) -> &'m At<As<Q>>,
        condition: impl Fn(NodeId, &'m R) -> Condition<'m>,
    ) -> Vec<(Q::Value, ValueMatch)> {
        let found = list.items().iter().filter_map(At::found);
        found
            .filter_map(|(id, raw)| {
                let value = self.condition(&condition(id, raw));
                Some((self.value(name(raw))?, value?))
            })
            .collect()
    }

    fn condition(&mut self, one: &Condition<'_>) -> Option<ValueMatch> {
        let there = [
            ("value", one.value.is_there()),
            ("regex", one.regex.is_there()),
            ("present", one.present.is_there()),
        ];
        let value = self.value(one.value).map(ValueMatch::Exact);
        let regex = self.value(one.regex).map(ValueMatch::Regex);
        let present = self.value(one.present).map(ValueMatch::Present);
        self.exactly_one(one.id, &there, one.faulty).then(|| value.or(regex).or(present))?
    }

    /// Warns of a rule all of whose matches stand in an earlier rule as well, for the same
    /// hostnames: of two equal matches the first wins.
    pub(super) fn reachable(&mut self, rules: &[(NodeId, String, Vec<String>)]) {
        let mut seen = HashMap::new();
        for (id, name, keys) in rules {
            let earlier = keys.iter().map(|key| seen.get(key)).collect::<Option<Vec<_>>>();
            if let Some([first, ..]) = earlier.as_deref() {
                let message = format!("no request can reach this rule: `{first}` takes them all");
                let help = "put the more special rule first, or give it a match of its own";
                self.report.add(*id, Code::Unreachable, message, help);
            }
            for key in keys {
                seen.entry(key).or_insert(name);
            }
        }
    }
}

/// Equal for matches that take the same requests in the same order of precedence.
pub(super) fn key(one: &Match) -> String {
    let path = match &one.path {
        // Gateway API: no path is the prefix `/`.
        None => PathMatch::Prefix(String::new()),
        Some(path) => path.clone(),
    };
    let sorted = |mut list: Vec<String>| {
        list.sort();
        list
    };
    let headers = sorted(one.headers.iter().map(|one| format!("{one:?}")).collect());
    let cookies = sorted(one.cookies.iter().map(|one| format!("{one:?}")).collect());
    let query = sorted(one.query.iter().map(|one| format!("{one:?}")).collect());
    let Match { method, client, model, .. } = one;
    format!("{path:?} {method:?} {headers:?} {cookies:?} {query:?} {client:?} {model:?}")
}
