//! Finds the endpoints of a backend by a name of DNS, or of a service of Kubernetes, again and
//! again.
//!
//! Never forgets an answer because the next question failed: whoever hears of a failure keeps
//! what is known.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::config::{DnsName, Kubernetes, ServiceName};
use crate::control::kube::client::{Api, Fault};
use crate::control::kube::follow::Follower;
use crate::control::kube::slices;
use crate::control::roster::Report;

/// Addresses of one name that are used; the first ones in their order.
pub const ADDRESSES_MAX: usize = 1024;

/// What came of asking; the error is for people.
#[derive(Debug)]
pub struct Found {
    /// Which asking it was.
    pub id: u64,
    /// Every address, in order and once; of a name, at least one.
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

/// Follows the `EndpointSlice`s of `service` until the handle is dropped.
pub fn follow(
    id: u64,
    service: ServiceName,
    settings: Kubernetes,
    reports: mpsc::Sender<Report>,
) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut pods = Pods::new(service, settings);
        let mut last = None;
        loop {
            let answer = pods.next().await.map_err(|fault| fault.to_string());
            let is_news = answer.is_err() || last.as_ref() != answer.as_ref().ok();
            if let Ok(addresses) = &answer {
                last = Some(addresses.clone());
            }
            let found = Report::Found(Found { id, answer });
            if is_news && reports.send(found).await.is_err() {
                return;
            }
        }
    }))
}

/// The pods of one port of a service.
#[derive(Debug)]
pub struct Pods {
    service: ServiceName,
    settings: Kubernetes,
    slices: Option<(Api, Follower)>,
    /// The port's name, and the list since which it is known.
    port: Option<(String, u64)>,
}

/// From one try to the next where there is nobody to ask.
const NOBODY_PAUSE: Duration = Duration::from_secs(10);

impl Pods {
    /// Of `service`, asked for as `settings` say.
    pub fn new(service: ServiceName, settings: Kubernetes) -> Self {
        Self { service, settings, slices: None, port: None }
    }

    /// Waits until something has changed.
    pub async fn next(&mut self) -> Result<Vec<SocketAddr>, Fault> {
        let ServiceName { namespace, name, .. } = &self.service;
        if self.slices.is_none() {
            let api = match Api::new(&self.settings) {
                Ok(api) => api,
                Err(fault) => {
                    tokio::time::sleep(NOBODY_PAUSE).await;
                    return Err(fault);
                }
            };
            let path = format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices");
            let query = format!("labelSelector=kubernetes.io%2Fservice-name%3D{name}");
            self.slices = Some((api.clone(), Follower::new(api, path, &query)));
        }
        let Some((api, slices)) = &mut self.slices else { return Ok(Vec::new()) };
        slices.next().await?;
        // What a number means may have changed when everything is asked anew.
        let port = match &self.port {
            Some((port, lists)) if *lists == slices.lists() => port.clone(),
            _ => match port_name(api, &self.service).await {
                Ok(port) => port,
                Err(fault) => {
                    *slices = slices.anew();
                    return Err(fault);
                }
            },
        };
        self.port = Some((port.clone(), slices.lists()));
        Ok(slices::addresses(slices.objects().values(), &port, self.settings.zone.as_deref()))
    }
}

/// What a slice calls the port of a service: its name, where the config gives its number.
async fn port_name(api: &Api, service: &ServiceName) -> Result<String, Fault> {
    let ServiceName { namespace, name, port } = service;
    let Ok(number) = port.parse::<u16>() else { return Ok(port.clone()) };
    let object = api.get(&format!("/api/v1/namespaces/{namespace}/services/{name}")).await?;
    let ports = object["spec"]["ports"].as_array().cloned().unwrap_or_default();
    let found = ports.iter().find(|port| port["port"] == number);
    let found = found.ok_or_else(|| Fault::Refused {
        status: 404,
        message: format!("the service {namespace}/{name} has no port {number}"),
    })?;
    Ok(found["name"].as_str().unwrap_or_default().to_owned())
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
