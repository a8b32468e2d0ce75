//! Listeners, the admin port and the metrics port.
//!
//! Never binds one: whether an address is free is found out when Serin starts.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::config::check::{Checker, Seen};
use crate::config::defect::Code;
use crate::config::raw;
use crate::config::read::At;
use crate::config::tree::NodeId;
use crate::config::{Admin, Listener};
use crate::names::ListenerName;
use crate::traffic::retry::Timeouts;

/// More tokens than a person would name.
const TOKENS_MAX: usize = 32;

/// Where the admin port is when the config names none.
const ADMIN_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9901);

impl Checker<'_> {
    pub(super) fn listeners(
        &mut self,
        list: &At<Vec<At<raw::Listener>>>,
    ) -> Vec<(NodeId, Listener)> {
        self.not_empty(list, "a listener, such as `{ name: http, address: 127.0.0.1:8080 }`");
        let mut seen = Seen::names();
        let mut listeners = Vec::new();
        for raw in list.items().iter().filter_map(At::get) {
            let name = self.own_name(&raw.name, &mut seen);
            let Some((id, address)) = self.placed(&raw.address) else { continue };
            let name = ListenerName::new(name.unwrap_or_default());
            let proxy_protocol = self.proxy_protocol(&raw.proxy_protocol);
            let head_timeout = self.value(&raw.head_timeout).unwrap_or(Timeouts::HEAD);
            let tls = raw.tls.found().and_then(|(id, raw)| self.listener_tls(id, raw));
            let connections_max =
                raw.limits.get().and_then(|limits| self.value(&limits.connections));
            listeners.push((
                id,
                Listener { name, address, proxy_protocol, head_timeout, tls, connections_max },
            ));
        }
        listeners
    }

    pub(super) fn admin(&mut self, at: &At<raw::Admin>) -> (Option<NodeId>, Admin) {
        let default =
            (None, Admin { address: ADMIN_DEFAULT, token_file: None, tokens: Vec::new() });
        let Some(raw) = at.get() else { return default };
        let (id, address) = match self.placed(&raw.address) {
            Some((id, address)) => (Some(id), address),
            None => (None, ADMIN_DEFAULT),
        };
        let token_file = self.value(&raw.token_file);
        if let Some(file) = &token_file
            && self.touch_files
        {
            self.token_readable(raw.token_file.id, file);
        }
        let tokens = self.tokens(&raw.tokens);
        if let Some(id) = id
            && !address.ip().is_loopback()
            && !raw.token_file.is_there()
            && raw.tokens.items().is_empty()
        {
            let message = format!("`{address}` would let everyone roll back and promote");
            let port = address.port();
            let help = format!("add `token_file`, or listen on `127.0.0.1:{port}`");
            self.report.add(id, Code::OpenAdmin, message, help);
        }
        (id, Admin { address, token_file, tokens })
    }

    fn tokens(&mut self, list: &At<Vec<At<raw::AdminToken>>>) -> Vec<(String, PathBuf)> {
        self.not_empty(list, "a token, such as `{ name: ci, file: ./ci-token }`");
        self.at_most(list, TOKENS_MAX, "keep those that people use");
        let mut seen = Seen::names();
        let mut tokens = Vec::new();
        for raw in list.items().iter().filter_map(At::get) {
            let name = self.own_name(&raw.name, &mut seen);
            if name.as_deref() == Some(Admin::TOKEN_NAME) {
                let message = format!("the name `{}` is taken", Admin::TOKEN_NAME);
                let help = "choose another name: this is that of `token_file`";
                self.report.add(raw.name.id, Code::DuplicateName, message, help);
            }
            let file = self.value(&raw.file);
            if let Some(file) = &file
                && self.touch_files
            {
                self.token_readable(raw.file.id, file);
            }
            tokens.extend(name.zip(file));
        }
        tokens
    }

    /// A token that cannot be read would lock everyone out; an empty one would let all in.
    fn token_readable(&mut self, id: NodeId, file: &Path) {
        const BYTES_MAX: u64 = 4096;
        let why = match std::fs::metadata(file) {
            Err(error) => error.to_string(),
            Ok(found) if !found.is_file() => "it is not a file".to_owned(),
            Ok(found) if found.len() > BYTES_MAX => "it is larger than 4KiB".to_owned(),
            Ok(_) => match std::fs::read_to_string(file) {
                Err(error) => error.to_string(),
                Ok(token) if token.trim().is_empty() => "it is empty".to_owned(),
                Ok(token) if !token.trim().bytes().all(|b| b.is_ascii_graphic()) => {
                    "it is not one word of visible ASCII".to_owned()
                }
                Ok(_) => return,
            },
        };
        let message = format!("the token file cannot be used: {why}");
        let help = "write one token into it, readable for Serin's user";
        self.report.add(id, Code::TokenFile, message, help);
    }

    pub(super) fn metrics(&mut self, at: &At<raw::Metrics>) -> Option<(NodeId, SocketAddr)> {
        at.get().and_then(|raw| self.placed(&raw.address))
    }

    /// Two sockets on one address: the second could not be bound.
    pub(super) fn sockets_apart(
        &mut self,
        listeners: &[(NodeId, Listener)],
        admin: &(Option<NodeId>, Admin),
        metrics: Option<(NodeId, SocketAddr)>,
    ) {
        let mut taken: Vec<(SocketAddr, String)> = Vec::new();
        // A default cannot be blamed: it comes first, so that what meets it is.
        let default = admin.0.is_none().then_some((None, admin.1.address, "the admin port"));
        let listeners = listeners.iter().map(|(id, one)| (Some(*id), one.address, "a listener"));
        let admin = admin.0.map(|id| (Some(id), admin.1.address, "the admin port"));
        let metrics = metrics.map(|(id, address)| (Some(id), address, "the metrics port"));
        for (id, address, what) in default.into_iter().chain(listeners).chain(admin).chain(metrics)
        {
            let other = taken.iter().find(|(other, _)| overlap(*other, address));
            if let (Some(id), Some((other, owner))) = (id, other) {
                let message = format!("`{address}` overlaps with {owner} on `{other}`");
                self.report.add(id, Code::Overlap, message, "choose another port for one of them");
            }
            taken.push((address, what.to_owned()));
        }
    }
}

/// Whether both cannot be bound at once. Port 0 takes a free one; `[::]` takes IPv4 as well.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let everything = |ip: IpAddr, other: IpAddr| match ip {
        IpAddr::V4(ip) => ip.is_unspecified() && other.is_ipv4(),
        IpAddr::V6(ip) => ip.is_unspecified(),
    };
    let ips = a.ip() == b.ip() || everything(a.ip(), b.ip()) || everything(b.ip(), a.ip());
    a.port() == b.port() && a.port() != 0 && ips
}

/// Whether a connection to `endpoint` would be accepted by `listener`.
pub(super) fn reaches(endpoint: SocketAddr, listener: SocketAddr) -> bool {
    let local = endpoint.ip() == listener.ip() || endpoint.ip().is_loopback();
    local && overlap(endpoint, listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_overlap_when_the_second_could_not_be_bound() {
        for (a, b, expected) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("0.0.0.0:80", "[::1]:80", false),
            ("[::]:80", "127.0.0.1:80", true),
            ("[::]:80", "0.0.0.0:80", true),
            ("[::]:80", "[::1]:80", true),
            ("0.0.0.0:0", "0.0.0.0:0", false),
        ] {
            let (a, b): (SocketAddr, SocketAddr) = (a.parse().unwrap(), b.parse().unwrap());
            assert_eq!(overlap(a, b), expected, "{a} {b}");
            assert_eq!(overlap(b, a), expected, "{b} {a}");
        }
    }

    #[test]
    fn the_default_is_the_documented_one() {
        assert_eq!(Admin::ADDRESS.parse(), Ok(ADMIN_DEFAULT));
    }
}
