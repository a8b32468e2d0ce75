//! Whether one request fits one match: hostnames, paths, headers, cookies, queries.
//!
//! Never decides between two that fit: that is `route`'s. Never changes a request,
//! but tells what its path is once dot segments are resolved.

pub mod misfit;

use std::borrow::Cow;

use http::{HeaderName, Method};
use regex::bytes::Regex;

use crate::traffic::client::{Client, ClientMatch};
use crate::traffic::fields::{Fields, Known};

/// What a match may look at.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a> {
    /// As sent.
    pub method: &'a Method,
    /// The target's authority or the `host` field, as sent; `None` when there is none.
    pub host: Option<&'a str>,
    /// Resolved by [`resolve_path`].
    pub path: &'a str,
    /// Without the question mark; `None` when there is none.
    pub query: Option<&'a str>,
    /// As sent.
    pub fields: &'a Fields,
    /// Who has sent it; `None` without a verified certificate.
    pub client: Option<&'a Client>,
    /// What its body asks for.
    pub model: ModelView<'a>,
}

/// The `model` that a request's body names, as far as that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelView<'a> {
    /// The body has not been read: it may be any.
    Unread,
    /// Read; `None` names none.
    Read(Option<&'a str>),
}

/// A hostname that a route answers to. Lower case, without a trailing dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// Just this name.
    Exact(String),
    /// `*.` and this: one label or more before it, never the name itself.
    Wildcard(String),
}

/// Why a text is no hostname; the message says what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// Empty, or `*` alone.
    #[error("is no hostname; leave `hostnames` out to match every host")]
    Everything,
    /// A star that is not the whole first label.
    #[error("may have `*` only as its whole first label, as in `*.example.com`")]
    Star,
    /// A colon: hostnames are matched without their port.
    #[error("must not have a port: hostnames are matched without it")]
    Port,
    /// Not a hostname by RFC 1123.
    #[error("is no hostname: labels of letters, digits, `-` and `_`, at most 253 characters")]
    Label,
}

impl HostPattern {
    /// Reads `example.com` or `*.example.com`; case and a trailing dot do not matter.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        if name.is_empty() || name == "*" {
            return Err(HostError::Everything);
        }
        let (wildcard, name) = match name.strip_prefix("*.") {
            Some(rest) => (true, rest.to_owned()),
            None => (false, name),
        };
        if name.contains('*') {
            return Err(HostError::Star);
        }
        if name.contains(':') {
            return Err(HostError::Port);
        }
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        if name.len() > 253 || !name.split('.').all(label) {
            return Err(HostError::Label);
        }
        Ok(if wildcard { Self::Wildcard(name) } else { Self::Exact(name) })
    }

    /// Whether `host`, as [`host_name`] gives it, is meant.
    pub fn fits(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => host == name,
            Self::Wildcard(parent) => host
                .strip_suffix(parent.as_str())
                .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
        }
    }
}

impl std::fmt::Display for HostPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Wildcard(parent) => write!(f, "*.{parent}"),
        }
    }
}

/// The name in an authority such as `Example.com.:8080`: lower case, without port and
/// trailing dot.
pub fn host_name(authority: &str) -> Cow<'_, str> {
    let name = match authority.rfind(':') {
        // A colon within brackets belongs to an IPv6 address.
        Some(colon) if !authority[colon..].contains(']') => &authority[..colon],
        _ => authority,
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

/// A path that climbs above the root: `/a/../..`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the path climbs above the root")]
pub struct ClimbsAboveRoot;

/// Resolves `.` and `..` segments (also written `%2e`) as RFC 3986, section 5.2.4, does,
/// but refuses to climb above the root. `%2F` is no slash and `//` stays.
pub fn resolve_path(path: &str) -> Result<Cow<'_, str>, ClimbsAboveRoot> {
    let bytes = path.as_bytes();
    let suspect = |at: usize| matches!(bytes.get(at + 1), Some(b'.' | b'%'));
    // Most paths have no segment that begins like one of dots.
    if !memchr::memchr_iter(b'/', bytes).any(suspect)
        || !path.split('/').any(|segment| dots(segment) > 0)
    {
        return Ok(Cow::Borrowed(path));
    }
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match dots(segment) {
            0 => kept.push(segment),
            1 => {}
            _ => {
                kept.pop().ok_or(ClimbsAboveRoot)?;
            }
        }
        // A last dot segment leaves its folder, with the slash.
        if last && dots(segment) > 0 {
            kept.push("");
        }
    }
    Ok(Cow::Owned(format!("/{}", kept.join("/"))))
}

/// 1 for `.`, 2 for `..`, else 0; `%2e` is a dot too (RFC 3986, section 6.2.2.2).
fn dots(segment: &str) -> usize {
    let mut rest = segment.as_bytes();
    let mut dots = 0;
    while !rest.is_empty() {
        rest = match rest {
            [b'.', rest @ ..] | [b'%', b'2', b'e' | b'E', rest @ ..] => rest,
            _ => return 0,
        };
        dots += 1;
    }
    if dots <= 2 { dots } else { 0 }
}

/// A condition on the path.
#[derive(Clone, Debug)]
pub enum PathMatch {
    /// Whole segments: `/v2` fits `/v2` and `/v2/x`, not `/v20`. No trailing slash; the
    /// root is the empty text.
    Prefix(String),
    /// The whole path.
    Exact(String),
    /// Found anywhere in the path, unless anchored.
    Regex(Regex),
}

/// A path in a match that does not start with a slash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// No leading slash.
    #[error("must start with `/`")]
    NoSlash,
    /// A question mark or a hash: those are not part of a path.
    #[error("must be a path alone: match a query with `query`")]
    Query,
    /// A dot segment, which no resolved path has.
    #[error("has a `.` or `..` segment, which no request has once it is resolved")]
    Dots,
}

impl PathMatch {
    /// A prefix; trailing slashes do not matter.
    pub fn prefix(path: &str) -> Result<Self, PathError> {
        check_path(path)?;
        Ok(Self::Prefix(path.trim_end_matches('/').to_owned()))
    }

    /// The whole path.
    pub fn exact(path: &str) -> Result<Self, PathError> {
        check_path(path)?;
        Ok(Self::Exact(path.to_owned()))
    }

    /// Whether `path`, resolved, fits.
    pub fn fits(&self, path: &str) -> bool {
        match self {
            Self::Prefix(prefix) => path
                .strip_prefix(prefix.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || prefix.is_empty()),
            Self::Exact(exact) => path == exact,
            Self::Regex(regex) => regex.is_match(path.as_bytes()),
        }
    }
}

fn check_path(path: &str) -> Result<(), PathError> {
    if !path.starts_with('/') {
        return Err(PathError::NoSlash);
    }
    if path.contains(['?', '#']) {
        return Err(PathError::Query);
    }
    if path.split('/').any(|segment| dots(segment) > 0) {
        return Err(PathError::Dots);
    }
    Ok(())
}

/// A condition on a header, a cookie or a query parameter.
#[derive(Clone, Debug)]
pub enum ValueMatch {
    /// Just this value, case-sensitive.
    Exact(String),
    /// Found anywhere in the value, unless anchored.
    Regex(Regex),
    /// It is there, or it is not; whatever its value.
    Present(bool),
}

impl ValueMatch {
    fn fits<'v>(&self, mut values: impl Iterator<Item = &'v [u8]>) -> bool {
        match self {
            Self::Exact(exact) => values.any(|value| value == exact.as_bytes()),
            Self::Regex(regex) => values.any(|value| regex.is_match(value)),
            Self::Present(present) => values.next().is_some() == *present,
        }
    }
}

/// All of its conditions must hold.
#[derive(Clone, Debug, Default)]
pub struct Match {
    /// `None` is every path.
    pub path: Option<PathMatch>,
    /// `None` is every method.
    pub method: Option<Method>,
    /// A field sent in several lines fits when one line does.
    pub headers: Vec<(HeaderName, ValueMatch)>,
    /// Names are case-sensitive.
    pub cookies: Vec<(String, ValueMatch)>,
    /// Names and values are compared percent-decoded; of a repeated parameter the first counts.
    pub query: Vec<(String, ValueMatch)>,
    /// `None` is every client.
    pub client: Option<ClientMatch>,
    /// On the `model` of a JSON body; `None` is every body, and it is not read.
    pub model: Option<ValueMatch>,
}

impl Match {
    /// Whether everything but hostname and path fits; the table has looked at those. A model
    /// that is not known yet may fit.
    pub fn fits_beside_path(&self, request: &RequestView<'_>) -> bool {
        self.method.as_ref().is_none_or(|method| method == request.method)
            && self.client.as_ref().is_none_or(|client| client.fits(request.client))
            && self.headers.iter().all(|one| header_fits(one, request))
            && self.cookies.iter().all(|one| cookie_fits(one, request))
            && self.query.iter().all(|one| parameter_fits(one, request))
            && self.model.as_ref().is_none_or(|value| model_fits(value, request))
    }

    /// Whether path and all else fit.
    pub fn fits(&self, request: &RequestView<'_>) -> bool {
        self.path.as_ref().is_none_or(|path| path.fits(request.path))
            && self.fits_beside_path(request)
    }
}

fn header_fits((name, value): &(HeaderName, ValueMatch), request: &RequestView<'_>) -> bool {
    value.fits(request.fields.all(name))
}

fn cookie_fits((name, value): &(String, ValueMatch), request: &RequestView<'_>) -> bool {
    value.fits(cookies(request.fields, name.as_bytes()))
}

fn parameter_fits((name, value): &(String, ValueMatch), request: &RequestView<'_>) -> bool {
    let found = query_value(request.query, name);
    value.fits(found.as_deref().map(str::as_bytes).into_iter())
}

fn model_fits(value: &ValueMatch, request: &RequestView<'_>) -> bool {
    match request.model {
        ModelView::Unread => true,
        ModelView::Read(name) => value.fits(name.map(str::as_bytes).into_iter()),
    }
}

/// The values of the cookie `name`, over all `cookie` fields (RFC 6265, section 4.2.1;
/// HTTP/2 may split the field).
pub fn cookies<'a>(fields: &'a Fields, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    fields.all(Known::Cookie).flat_map(|field| field.split(|b| *b == b';')).filter_map(
        move |pair| {
            let pair = pair.trim_ascii();
            let equals = pair.iter().position(|b| *b == b'=')?;
            (&pair[..equals] == name).then(|| &pair[equals + 1..])
        },
    )
}

/// The first value of the query parameter `name`, percent-decoded.
pub fn query_value<'a>(query: Option<&'a str>, name: &str) -> Option<Cow<'a, str>> {
    form_urlencoded::parse(query?.as_bytes())
        .find_map(|(key, value)| (key == name).then_some(value))
}

#[cfg(test)]
mod tests;
