//! Compares what a config says of a cluster with what is there: services, their ports, ready
//! endpoints, and what a fleet shares.
//!
//! Never changes anything there, and never asks for more than a namespaced Role allows: one
//! object by its name, and the slices of one service.

use serde_json::Value;

use crate::config::defect::{Code, Defect, Place};
use crate::config::{Config, ServiceName};
use crate::control::kube::client::{Api, Fault, pod_namespace};
use crate::control::kube::slices;

/// What the cluster says of one port of a service.
#[derive(Clone, Debug)]
struct Seen {
    service: Option<Value>,
    slices: Vec<Value>,
}

/// What is not as the config says. The places are left for who has the file.
pub async fn survey(config: &Config) -> Vec<Defect> {
    let api = match Api::new(&config.kubernetes) {
        Ok(api) => api,
        Err(fault) => return vec![unknown("", &fault)],
    };
    let mut defects = Vec::new();
    for (index, backend) in config.backends.iter().enumerate() {
        if let Some(service) = &backend.service {
            defects.extend(look(&api, &format!("backends[{index}].service"), service, None).await);
        }
    }
    if let Some(fleet) = &config.fleet {
        if let Some(service) = &fleet.replicas {
            let max = usize::try_from(fleet.replicas_max).unwrap_or(usize::MAX);
            defects.extend(look(&api, "fleet.replicas", service, Some(max)).await);
        }
        if let Some(namespace) = fleet.namespace.clone().or_else(pod_namespace) {
            defects.extend(shared(&api, &namespace, &fleet.object()).await);
        }
    }
    defects
}

async fn look(api: &Api, path: &str, service: &ServiceName, most: Option<usize>) -> Option<Defect> {
    match see(api, service).await {
        Ok(seen) => fault(path, service, &seen, most),
        Err(error) => Some(unknown(path, &error)),
    }
}

async fn see(api: &Api, service: &ServiceName) -> Result<Seen, Fault> {
    let ServiceName { namespace, name, .. } = service;
    let found = match api.get(&format!("/api/v1/namespaces/{namespace}/services/{name}")).await {
        Ok(service) => Some(service),
        Err(fault) if fault.is_missing() => None,
        Err(fault) => return Err(fault),
    };
    let list = api
        .get(&format!(
            "/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices\
             ?labelSelector=kubernetes.io%2Fservice-name%3D{name}"
        ))
        .await?;
    let slices = list["items"].as_array().cloned().unwrap_or_default();
    Ok(Seen { service: found, slices })
}

/// What is wrong with a service, if anything. There are to be at `most` so many endpoints.
fn fault(path: &str, wanted: &ServiceName, seen: &Seen, most: Option<usize>) -> Option<Defect> {
    let ServiceName { namespace, name, port } = wanted;
    let Some(service) = &seen.service else {
        let message = format!("the cluster has no service `{name}` in the namespace `{namespace}`");
        let help = "make it, or write the name that it has";
        return Some(defect(Code::NoService, path, message, help));
    };
    let ports = service["spec"]["ports"].as_array().cloned().unwrap_or_default();
    let name_of = |one: &Value| one["name"].as_str().unwrap_or_default().to_owned();
    let is_it = |one: &&Value| {
        one["port"].as_u64().is_some_and(|number| number.to_string() == *port)
            || name_of(one) == *port
    };
    let Some(found) = ports.iter().find(is_it) else {
        let known: Vec<_> =
            ports.iter().map(|one| format!("{} {}", name_of(one), one["port"])).collect();
        let message = format!("the service `{namespace}/{name}` has no port `{port}`");
        let help = match &*known {
            [] => "it has no ports at all".to_owned(),
            known => format!("it has: {}", known.join(", ").replace(" ,", ",").trim()),
        };
        return Some(defect(Code::NoService, path, message, &help));
    };
    let ready = slices::addresses(seen.slices.iter(), &name_of(found), None);
    if let Some(most) = most.filter(|most| ready.len() > *most) {
        let count = ready.len();
        let message = format!("there are {count} replicas, and `fleet.max_replicas` is {most}");
        let help =
            "raise it to the most that there will ever be, those of a rolling update included";
        return Some(defect(Code::TooManyReplicas, path, message, help));
    }
    if !ready.is_empty() {
        return None;
    }
    let endpoints = seen.slices.iter().filter_map(|slice| slice["endpoints"].as_array());
    let all: usize = endpoints.map(Vec::len).sum();
    let message = format!("no endpoint of the service `{namespace}/{name}` is ready, of {all}");
    let help = match all {
        0 => "look at the labels that the service selects by, and whether there are such pods",
        _ => "look at why the pods are not ready",
    };
    Some(defect(Code::NoneReady, path, message, help))
}

/// What is wrong with the objects of a fleet. A lease is made when there is none.
async fn shared(api: &Api, namespace: &str, name: &str) -> Vec<Defect> {
    let mut defects = Vec::new();
    let config_map = format!("/api/v1/namespaces/{namespace}/configmaps/{name}");
    match api.get(&config_map).await {
        Ok(_) => {}
        Err(fault) if fault.is_missing() => {
            let message = format!("the cluster has no ConfigMap `{namespace}/{name}`");
            let help = "make it, without data; Serin does so only if it may create ConfigMaps";
            defects.push(defect(Code::NoLatch, "fleet", message, help));
        }
        Err(fault) => defects.push(unknown("fleet", &fault)),
    }
    let lease = format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{name}");
    match api.get(&lease).await {
        Ok(_) => {}
        Err(fault) if fault.is_missing() => {}
        Err(fault) => defects.push(unknown("fleet", &fault)),
    }
    defects
}

fn unknown(path: &str, fault: &Fault) -> Defect {
    let help = match fault {
        Fault::Away(_) => "set `kubernetes.server`, or ask by `--k8s-server` and `kubectl proxy`",
        Fault::Refused { .. } => "give who asks the rights of k8s/components/cluster/role.yaml",
    };
    defect(Code::ClusterUnknown, path, fault.to_string(), help)
}

fn defect(code: Code, path: &str, message: String, help: &str) -> Defect {
    Defect { code, place: Place::START, path: path.to_owned(), message, help: help.to_owned() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(port: &str, seen: &Seen) -> String {
        let [namespace, name, port] = ["models", "v1", port].map(ToOwned::to_owned);
        let service = ServiceName { namespace, name, port };
        let found = fault("backends[0].service", &service, seen, Some(1));
        found.map_or_else(String::new, |defect| format!("{}; {}", defect.message, defect.help))
    }

    #[test]
    fn a_service_is_there_has_the_port_and_somebody_is_ready() {
        let slice = |ready: bool| {
            json!({
                "addressType": "IPv4",
                "endpoints": [{ "addresses": ["10.0.0.1"], "conditions": { "ready": ready } }],
                "ports": [{ "name": "http", "port": 9000 }],
            })
        };
        let mut other = slice(true);
        other["endpoints"][0]["addresses"][0] = json!("10.0.0.2");
        let ports = json!({ "spec": { "ports": [{ "name": "http", "port": 80 }] } });
        let seen = |slices| Seen { service: Some(ports.clone()), slices };
        for port in ["80", "http"] {
            assert_eq!(said(port, &seen(vec![slice(true)])), "");
        }
        let two = said("80", &seen(vec![slice(true), other]));
        assert!(two.starts_with("there are 2 replicas, and `fleet.max_replicas` is 1; raise"));
        let nobody = said("80", &seen(vec![slice(false)]));
        assert!(nobody.starts_with("no endpoint of the service `models/v1` is ready, of 1; "));
        assert!(said("80", &seen(vec![])).contains("of 0; look at the labels"));
        let other = said("81", &seen(vec![slice(true)]));
        assert_eq!(other, "the service `models/v1` has no port `81`; it has: http 80");
        let none = said("80", &Seen { service: None, slices: vec![] });
        assert!(none.starts_with("the cluster has no service `v1` in the namespace `models`"));
    }
}
