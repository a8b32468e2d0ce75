//! Finds the rule for a request: Gateway API's precedence as an index.
//!
//! Never looks at every rule: cost grows with the request's path and with the rules
//! that share its host and path, not with the file.

pub mod precedence;

use std::borrow::Cow;
use std::cmp::Reverse;
use std::sync::Arc;

use foldhash::HashMap;
use regex::bytes::Regex;

use crate::traffic::matching::{HostPattern, Match, PathMatch, RequestView, host_name};

/// A rule to be found: what the request must be, and a number that stands for the rule.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Empty is every hostname.
    pub hostnames: &'a [HostPattern],
    /// Empty is every request.
    pub matches: &'a [Match],
    /// What [`Table::find`] answers.
    pub rule: usize,
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The entry's number.
    pub rule: usize,
    /// Which of its matches; `None` when it has none.
    pub by: Option<usize>,
    /// Whether that match asks for a model: with [`ModelView::Unread`] it only may fit, and the
    /// request is to be looked up again once its body is read.
    ///
    /// [`ModelView::Unread`]: crate::traffic::matching::ModelView::Unread
    pub by_model: bool,
}

/// How well a match fits a request beside its path. The greatest wins.
///
/// The fields stand in the order of the Gateway API's precedence list
/// (`HTTPRouteRule.matches`), so the derived `Ord` *is* the rest of that list, after
/// hostname and path. Do not reorder them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Specificity {
    /// A method is named.
    pub method: bool,
    /// Headers and cookies that must fit, the client, and the model.
    pub headers: usize,
    /// Query parameters that must fit.
    pub query: usize,
}

impl Specificity {
    fn of(condition: &Match) -> Self {
        Self {
            method: condition.method.is_some(),
            headers: condition.headers.len()
                + condition.cookies.len()
                + usize::from(condition.client.is_some())
                + usize::from(condition.model.is_some()),
            query: condition.query.len(),
        }
    }
}

/// All rules, indexed by hostname and path.
#[derive(Clone, Debug, Default)]
pub struct Table {
    exact_hosts: HashMap<String, Paths>,
    /// Keyed by what follows `*.`.
    wildcard_hosts: HashMap<String, Paths>,
    every_host: Paths,
}

/// The rules of one hostname, indexed by path.
#[derive(Clone, Debug, Default)]
struct Paths {
    exact: HashMap<String, Vec<Candidate>>,
    /// Keyed without a trailing slash; the root is the empty text.
    prefixes: HashMap<String, Vec<Candidate>>,
    /// Bytes of the longest key of `prefixes`: longer ones are not looked up.
    prefix_bytes_max: usize,
    regexes: Vec<(Regex, Candidate)>,
}

/// A match within a bucket of equal hostname and path. Buckets hold the best first.
#[derive(Clone, Debug)]
struct Candidate {
    specificity: Specificity,
    condition: Arc<Match>,
    found: Found,
}

impl Table {
    /// Indexes `entries`; their order is the last tie-break.
    pub fn new<'a>(entries: impl IntoIterator<Item = Entry<'a>>) -> Self {
        let mut table = Self::default();
        for entry in entries {
            let matches: Vec<_> = if entry.matches.is_empty() {
                vec![(None, Arc::new(Match::default()))]
            } else {
                let numbered = entry.matches.iter().enumerate();
                numbered.map(|(index, one)| (Some(index), Arc::new(one.clone()))).collect()
            };
            for (by, condition) in matches {
                let specificity = Specificity::of(&condition);
                let by_model = condition.model.is_some();
                let found = Found { rule: entry.rule, by, by_model };
                let candidate = Candidate { specificity, condition, found };
                if entry.hostnames.is_empty() {
                    table.every_host.add(&candidate);
                }
                for host in entry.hostnames {
                    let (hosts, name) = match host {
                        HostPattern::Exact(name) => (&mut table.exact_hosts, name),
                        HostPattern::Wildcard(name) => (&mut table.wildcard_hosts, name),
                    };
                    hosts.entry(name.clone()).or_default().add(&candidate);
                }
            }
        }
        table.sort();
        table
    }

    /// The rule for `request`: the best hostname first (exact, then the longest wildcard,
    /// then none), within it the best path (exact, then the longest prefix, then regex),
    /// then [`Specificity`], then the order of the entries.
    pub fn find(&self, request: &RequestView<'_>) -> Option<Found> {
        if let Some(authority) = request.host.filter(|_| self.has_hosts()) {
            let host: Cow<'_, str> = host_name(authority);
            if let Some(found) = self.exact_hosts.get(&*host).and_then(|p| p.find(request)) {
                return Some(found);
            }
            // Each parent, the longest first.
            let mut rest = &*host;
            while let Some((label, parent)) = rest.split_once('.') {
                let paths = self.wildcard_hosts.get(parent).filter(|_| !label.is_empty());
                if let Some(found) = paths.and_then(|paths| paths.find(request)) {
                    return Some(found);
                }
                rest = parent;
            }
        }
        self.every_host.find(request)
    }

    fn has_hosts(&self) -> bool {
        !(self.exact_hosts.is_empty() && self.wildcard_hosts.is_empty())
    }

    fn sort(&mut self) {
        let hosts = self.exact_hosts.values_mut().chain(self.wildcard_hosts.values_mut());
        for paths in hosts.chain([&mut self.every_host]) {
            // Stable sorts: equals stay in the order of the entries.
            for bucket in paths.exact.values_mut().chain(paths.prefixes.values_mut()) {
                bucket.sort_by_key(|candidate| Reverse(candidate.specificity));
            }
            paths.regexes.sort_by_key(|(_, candidate)| Reverse(candidate.specificity));
        }
    }
}

impl Paths {
    fn add(&mut self, candidate: &Candidate) {
        let candidate = candidate.clone();
        match &candidate.condition.path {
            Some(PathMatch::Exact(path)) => {
                self.exact.entry(path.clone()).or_default().push(candidate);
            }
            Some(PathMatch::Regex(regex)) => self.regexes.push((regex.clone(), candidate)),
            Some(PathMatch::Prefix(path)) => {
                self.prefix_bytes_max = self.prefix_bytes_max.max(path.len());
                self.prefixes.entry(path.clone()).or_default().push(candidate);
            }
            // No path is the root's prefix, as in Gateway API.
            None => self.prefixes.entry(String::new()).or_default().push(candidate),
        }
    }

    fn find(&self, request: &RequestView<'_>) -> Option<Found> {
        let first = |bucket: &Vec<Candidate>| {
            bucket.iter().find(|c| c.condition.fits_beside_path(request)).map(|c| c.found)
        };
        if let Some(found) = self.exact.get(request.path).and_then(first) {
            return Some(found);
        }
        let mut prefix = request.path;
        loop {
            if prefix.len() <= self.prefix_bytes_max
                && let Some(found) = self.prefixes.get(prefix).and_then(first)
            {
                return Some(found);
            }
            // `OPTIONS *` has no slash: the root's prefix takes it too.
            match prefix.rfind('/') {
                Some(slash) => prefix = &prefix[..slash],
                None if prefix.is_empty() => break,
                None => prefix = "",
            }
        }
        let fits = |(regex, candidate): &&(Regex, Candidate)| {
            regex.is_match(request.path.as_bytes()) && candidate.condition.fits_beside_path(request)
        };
        self.regexes.iter().find(fits).map(|(_, candidate)| candidate.found)
    }
}

#[cfg(test)]
mod tests;
