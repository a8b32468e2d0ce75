//! Finds the endpoints of a backend by a name of DNS, again and again.
//!
//! Never forgets an answer because the next question failed: whoever hears of a failure keeps
//! what is known.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::config::DnsName;
use crate::control::roster::Report;

/// Addresses of one name that are used; the first ones in their order.
const ADDRESSES_MAX: usize = 1024;

/// What came of asking; the error is for people.
#[derive(Debug)]
pub struct Found {
    /// Which asking it was.
    pub id: u64,
    /// Every address, in order and once; at least one.
    pub answer: Result<Vec<SocketAddr>, String>,
}

/// Asks for `name` every so often, a tenth more or less, until the handle is dropped.
pub fn start(
    id: u64,
    name: DnsName,
    every: Duration,
    reports: mpsc::Sender<Report>,
) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            // The system's resolver has time limits of its own. It is not asked twice at once.
            let asked = tokio::net::lookup_host((name.host.as_str(), name.port)).await;
            let answer = match asked {
                Ok(addresses) => all_of(addresses.collect()),
                Err(error) => Err(error.to_string()),
            };
            if reports.send(Report::Found(Found { id, answer })).await.is_err() {
                return;
            }
            tokio::time::sleep(every.mul_f64(0.9 + 0.2 * fastrand::f64())).await;
        }
    }))
}

/// Of both families, those of IPv4: the same pods would be two endpoints each.
fn all_of(mut addresses: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, String> {
    if addresses.iter().any(SocketAddr::is_ipv4) {
        addresses.retain(SocketAddr::is_ipv4);
    }
    addresses.sort_unstable();
    addresses.dedup();
    addresses.truncate(ADDRESSES_MAX);
    if addresses.is_empty() { Err("the name has no address".to_owned()) } else { Ok(addresses) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_counts_once_and_one_family_is_enough() {
        let of = |texts: &[&str]| {
            let addresses = texts.iter().map(|text| text.parse().unwrap()).collect();
            all_of(addresses)
                .map(|found| found.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        };
        let mixed = ["[::1]:80", "10.0.0.2:80", "10.0.0.1:80", "10.0.0.2:80"];
        assert_eq!(of(&mixed), Ok("10.0.0.1:80 10.0.0.2:80".to_owned()));
        assert_eq!(of(&["[::2]:80", "[::1]:80"]), Ok("[::1]:80 [::2]:80".to_owned()));
        assert!(of(&[]).is_err());
    }
}
