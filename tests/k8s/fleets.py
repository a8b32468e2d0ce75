"""Checks that replicas which decide as one find each other, and may write what they agree on."""

import re

import yaml

from manifests import configs, name_of, pods


def fleet_faults(documents):
    """Replicas that decide as one find each other, and may write what they agree on."""
    by_name = {name_of(document): document for document in documents}
    roles = [document for document in documents if document["kind"] == "Role"]
    policies = [document for document in documents if document["kind"] == "NetworkPolicy"]
    templates = [template for _, template in pods(documents)]
    for document in configs(documents):
        fleet = yaml.safe_load(document["data"]["serin.yaml"]).get("fleet")
        if not fleet:
            continue
        where, agreed = name_of(document), f"serin-{fleet['name']}"
        if agreed == document["metadata"]["name"]:
            yield f"{where}: the config lies where the fleet writes"
        if f"ConfigMap/{agreed}" not in by_name:
            yield f"{where}: there is no ConfigMap {agreed}"
        for kind in ("configmaps", "leases"):
            rights = [
                rule
                for role in roles
                for rule in role["rules"]
                if kind in rule["resources"] and agreed in rule.get("resourceNames", [])
            ]
            if not any({"get", "list", "watch", "update"} <= set(one["verbs"]) for one in rights):
                yield f"{where}: no rights to {kind} {agreed}"
        if "replicas" not in fleet:
            continue
        namespace, name, port = re.fullmatch(r"(.+)/(.+):(.+)", fleet["replicas"]).groups()
        service = by_name.get(f"Service/{name}")
        if service is None or service["metadata"].get("namespace", namespace) != namespace:
            yield f"{where}: there is no Service {namespace}/{name}"
            continue
        ports = {one["name"]: one["targetPort"] for one in service["spec"]["ports"]}
        if port not in ports:
            yield f"{where}: no port {port} of Service {name}"
            continue
        if not service["spec"].get("publishNotReadyAddresses"):
            yield f"{where}: who drains is not asked what it counted"
        for template in templates:
            labels = template["metadata"]["labels"].items()
            if not service["spec"]["selector"].items() <= labels:
                continue
            if not reaches(policies, labels, ports[port]):
                yield f"{where}: a NetworkPolicy shuts {port} to the other replicas"


def reaches(policies, labels, port):
    """Whether pods with these labels may come to that port of each other."""

    def picks(selector):
        return selector is not None and selector.get("matchLabels", {}).items() <= labels

    mine = [
        one["spec"]
        for one in policies
        if "Ingress" in one["spec"]["policyTypes"] and picks(one["spec"]["podSelector"])
    ]
    return not mine or any(
        any(picks(peer.get("podSelector")) and "namespaceSelector" not in peer
            for peer in rule.get("from", []))
        and any(one["port"] == port for one in rule.get("ports", []))
        for spec in mine
        for rule in spec.get("ingress", [])
    )


def of(planted, name):
    return next(one for one in planted if name_of(one) == name)


def pod(planted):
    return of(planted, "Deployment/sentiment-v1")["spec"]["template"]


def retell(planted, old, new):
    data = of(planted, "ConfigMap/serin-sidecar")["data"]
    assert old in data["serin.yaml"]
    data["serin.yaml"] = data["serin.yaml"].replace(old, new)


def put_elsewhere(planted):
    """What makes a replica of a sidecar, given to a container that is not there."""
    spec = pod(planted)["spec"]
    serin = next(one for one in spec["containers"] if one["name"] == "serin")
    mounts = [one for one in serin["volumeMounts"] if one["name"] == "serin-token"]
    serin["volumeMounts"] = [one for one in serin["volumeMounts"] if one not in mounts]
    spec["initContainers"] = [{"name": "serin", "volumeMounts": mounts}]


# Planted in overlays/sidecar-fleet, each has to be found by these words.
FLEET_FAULTS = {
    "there is no ConfigMap": lambda p: p.remove(of(p, "ConfigMap/serin-sidecars")),
    "lies where": lambda p: retell(p, "name: sidecars", "name: sidecar"),
    "no rights to leases": lambda p: [
        rule["resourceNames"].append("serin-other") or rule["resourceNames"].pop(0)
        for rule in of(p, "Role/serin-sidecar")["rules"]
        if "leases" in rule["resources"] and "resourceNames" in rule
    ],
    "there is no Service": lambda p: retell(p, "models/serin-sidecars", "other/serin-sidecars"),
    "no port counts": lambda p: retell(p, "sidecars:metrics", "sidecars:counts"),
    "who drains": lambda p: of(p, "Service/serin-sidecars")["spec"].pop(
        "publishNotReadyAddresses"
    ),
    "shuts metrics": lambda p: p.remove(of(p, "NetworkPolicy/serin-sidecars")),
    "no token": lambda p: pod(p)["spec"]["initContainers"][0].pop("volumeMounts"),
    "others than Serin": lambda p: pod(p)["spec"].update(automountServiceAccountToken=True),
    "model: gets a token": lambda p: pod(p)["spec"]["containers"][0].update(
        volumeMounts=[{"name": "serin-token", "mountPath": "/t"}]
    ),
}
