//! The endpoints of a service, from its `EndpointSlice`s.
//!
//! Never asks the API: objects come in, addresses go out.

use std::net::{IpAddr, SocketAddr};

use serde::Deserialize;
use serde_json::Value;

use crate::control::discovery::ADDRESSES_MAX;

/// One slice, as far as it matters here.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Slice {
    address_type: String,
    endpoints: Option<Vec<Endpoint>>,
    ports: Option<Vec<Port>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Endpoint {
    addresses: Vec<String>,
    conditions: Conditions,
    hints: Option<Hints>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Conditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Hints {
    for_zones: Option<Vec<Zone>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Zone {
    name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Port {
    name: Option<String>,
    port: Option<u16>,
}

#[derive(Clone, Debug)]
struct Found {
    address: SocketAddr,
    zones: Vec<String>,
}

/// Where the pods behind the port `name` of a service are, in order and once.
///
/// Those that are ready. If there are none, those that serve while they end, as the proxy of
/// Kubernetes has it: else a rolling restart of a single pod would have a gap. With `zone`, only
/// those that are hinted for it, if every one has a hint and one fits.
pub fn addresses<'v>(
    slices: impl Iterator<Item = &'v Value>,
    name: &str,
    zone: Option<&str>,
) -> Vec<SocketAddr> {
    let (mut ready, mut ending) = (Vec::new(), Vec::new());
    for slice in slices.filter_map(|slice| Slice::deserialize(slice).ok()) {
        if slice.address_type != "IPv4" && slice.address_type != "IPv6" {
            continue;
        }
        let mut ports = slice.ports.iter().flatten();
        let port = ports.find(|port| port.name.as_deref().unwrap_or_default() == name);
        let Some(port) = port.and_then(|port| port.port) else { continue };
        for endpoint in slice.endpoints.into_iter().flatten() {
            let Conditions { ready: is_ready, serving, terminating } = endpoint.conditions;
            let list = if is_ready.unwrap_or(true) {
                &mut ready
            } else if serving.unwrap_or(false) && terminating.unwrap_or(false) {
                &mut ending
            } else {
                continue;
            };
            let zones = endpoint.hints.and_then(|hints| hints.for_zones).unwrap_or_default();
            let zones: Vec<_> = zones.into_iter().map(|zone| zone.name).collect();
            // All addresses of one endpoint are the same pod.
            let ip = endpoint.addresses.first().and_then(|text| text.parse::<IpAddr>().ok());
            list.extend(ip.map(|ip| Found { address: SocketAddr::new(ip, port), zones }));
        }
    }
    let found = if ready.is_empty() { ending } else { ready };
    one_family(near(found, zone))
}

/// Those of a zone, where hints can be followed.
fn near(found: Vec<Found>, zone: Option<&str>) -> Vec<SocketAddr> {
    let is_near = |one: &Found| zone.is_some_and(|zone| one.zones.iter().any(|hint| hint == zone));
    let all_hinted = found.iter().all(|one| !one.zones.is_empty());
    let follow = all_hinted && found.iter().any(is_near);
    found.into_iter().filter(|one| !follow || is_near(one)).map(|one| one.address).collect()
}

/// Of both families, those of IPv4: the same pods would be two endpoints each.
fn one_family(mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    if addresses.iter().any(SocketAddr::is_ipv4) {
        addresses.retain(SocketAddr::is_ipv4);
    }
    addresses.sort_unstable();
    addresses.dedup();
    addresses.truncate(ADDRESSES_MAX);
    addresses
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// One endpoint: its address, its conditions, its zone.
    fn one(address: &str, conditions: &str, zone: &str) -> Value {
        let has = |word: &str| conditions.contains(word);
        let hints =
            if zone.is_empty() { Value::Null } else { json!({ "forZones": [{ "name": zone }] }) };
        let conditions = match conditions {
            "" => json!({}),
            _ => json!({ "ready": has("ready"), "serving": has("serving"),
                         "terminating": has("terminating") }),
        };
        json!({ "addresses": [address], "conditions": conditions, "hints": hints })
    }

    fn slice(kind: &str, endpoints: &[Value]) -> Value {
        json!({ "addressType": kind, "endpoints": endpoints,
                "ports": [{ "name": "http", "port": 8080 }, { "name": "grpc", "port": 9000 }] })
    }

    fn check(slices: &[Value], zone: Option<&str>, wanted: &str) {
        let found = addresses(slices.iter(), "http", zone);
        let found: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found.join(" "), wanted);
    }

    #[test]
    fn those_that_are_ready_serve() {
        let all = [
            one("10.0.0.2", "ready serving", ""),
            one("10.0.0.1", "", ""),
            one("10.0.0.3", "serving terminating", ""),
            one("10.0.0.4", "none", ""),
        ];
        let twice = [slice("IPv4", &all), slice("IPv4", &all[..1])];
        check(&twice, None, "10.0.0.1:8080 10.0.0.2:8080");
        check(&[slice("FQDN", &all)], None, "");
        check(&[json!({ "addressType": "IPv4", "endpoints": null, "ports": null })], None, "");
    }

    #[test]
    fn with_none_that_is_ready_those_that_still_serve_do() {
        let all = [one("10.0.0.3", "serving terminating", ""), one("10.0.0.4", "terminating", "")];
        check(&[slice("IPv4", &all)], None, "10.0.0.3:8080");
    }

    #[test]
    fn another_port_is_another_service() {
        let all = [slice("IPv4", &[one("10.0.0.1", "ready", "")])];
        assert_eq!(addresses(all.iter(), "grpc", None), ["10.0.0.1:9000".parse().unwrap()]);
        assert_eq!(addresses(all.iter(), "", None), []);
        let unnamed = json!({ "addressType": "IPv4", "endpoints": [one("10.0.0.1", "", "")],
                              "ports": [{ "name": "", "port": 80 }] });
        assert_eq!(addresses([&unnamed].into_iter(), "", None), ["10.0.0.1:80".parse().unwrap()]);
    }

    #[test]
    fn hints_are_followed_if_every_endpoint_has_one() {
        let near = one("10.0.0.1", "ready", "a");
        let far = one("10.0.0.2", "ready", "b");
        let both = [slice("IPv4", &[near.clone(), far])];
        check(&both, Some("a"), "10.0.0.1:8080");
        check(&both, Some("c"), "10.0.0.1:8080 10.0.0.2:8080");
        check(&both, None, "10.0.0.1:8080 10.0.0.2:8080");
        let half = [slice("IPv4", &[near, one("10.0.0.3", "ready", "")])];
        check(&half, Some("a"), "10.0.0.1:8080 10.0.0.3:8080");
    }

    #[test]
    fn two_families_are_the_same_pods() {
        let all = [
            slice("IPv6", &[one("fd00::1", "ready", "")]),
            slice("IPv4", &[one("10.0.0.1", "ready", "")]),
        ];
        check(&all, None, "10.0.0.1:8080");
        check(&all[..1], None, "[fd00::1]:8080");
    }
}
