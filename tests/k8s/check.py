"""Checks k8s/: every manifest as it is written and as kustomize and Helm render it.

- against the schemas of several versions of Kubernetes, unknown fields refused;
- against what the project promises: non-root, read-only, no capabilities, no cluster-wide
  rights, no subPath, probes and Services that lead somewhere, time enough to drain;
- the config in every ConfigMap as `serin run` would read it.

    tests/k8s/check.py PATH-TO-SERIN     (run by `just k8s`, which sets up the tools)

The tools that it needs are on the PATH. Begins by checking itself: what is planted in a good
manifest has to be found.
"""

import copy
import re
import subprocess
import sys

import kubernetes_validate
import yaml

from fleets import FLEET_FAULTS, fleet_faults, put_elsewhere
from manifests import K8S, PROJECT, configs, containers, is_serin, kustomize, load, name_of, pods

# What is rendered, and the first version of Kubernetes that it is for.
RENDERED = {
    "base": 25,
    "overlays/gateway": 27,  # matchLabelKeys
    "overlays/sidecar": 29,  # native sidecars
    "overlays/sidecar-older": 25,
    "overlays/sidecar-fleet": 29,
    "overlays/sidecar-fleet-older": 25,
    "example": 25,
    "../tests/k8s/cluster": 27,
}
NEWEST = 37
CHART, CHART_SINCE = K8S / "helm/serin", 27
# No schemas of these in kubernetes-validate; `crds.mjs` looks at them.
OPERATOR = "monitoring.coreos.com/v1"
NAMESPACED_ONLY = ("ClusterRole", "ClusterRoleBinding")


def schema_faults(document, since):
    """What the API servers of these versions would not take."""
    if document["apiVersion"] == OPERATOR:
        return
    for minor in range(since, NEWEST + 1):
        try:
            kubernetes_validate.validate(document, f"1.{minor}", strict=True)
        except kubernetes_validate.ValidationError as error:
            path = ".".join(str(part) for part in error.path)
            yield f"1.{minor}: {path}: {error.message}"
            return
        except kubernetes_validate.SchemaNotFoundError:
            yield f"1.{minor}: there is no {document['kind']} of {document['apiVersion']}"
            return


def hardening_faults(owner, spec):
    pod = spec.get("securityContext", {})
    for container in containers(spec):
        own = container.get("securityContext", {})
        both = {**pod, **own}
        where = f"{owner} {container['name']}"
        if not both.get("runAsNonRoot") or not both.get("runAsUser"):
            yield f"{where}: may run as root"
        if both.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{where}: has no seccomp profile"
        if not own.get("readOnlyRootFilesystem"):
            yield f"{where}: may write to its root"
        if own.get("allowPrivilegeEscalation") is not False:
            yield f"{where}: may gain privileges"
        if own.get("capabilities") != {"drop": ["ALL"]}:
            yield f"{where}: keeps capabilities"
        if not container.get("resources", {}).get("limits", {}).get("memory"):
            yield f"{where}: has no memory limit"
        if not container.get("resources", {}).get("requests", {}).get("cpu"):
            yield f"{where}: asks for no CPU"
        if not container.get("image"):
            yield f"{where}: has no image"
        elif re.search(r":latest$|^[^:@]+$", container["image"].rsplit("/", 1)[-1]):
            yield f"{where}: its image has no version"


def volume_faults(owner, spec):
    volumes = {volume["name"] for volume in spec.get("volumes", [])}
    for container in containers(spec):
        for mount in container.get("volumeMounts", []):
            where = f"{owner} {container['name']} {mount['mountPath']}"
            if mount["name"] not in volumes:
                yield f"{where}: there is no volume {mount['name']}"
            if "subPath" in mount or "subPathExpr" in mount:
                yield f"{where}: a subPath is never updated"


def probe_faults(owner, spec):
    """Ports by name exist, and Serin is asked the right question."""
    everywhere = {
        port["containerPort"] for one in containers(spec) for port in one.get("ports", [])
    }
    for container in containers(spec):
        ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
        paths = {}
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            get = container.get(kind, {}).get("httpGet")
            if get is None:
                continue
            paths[kind] = get["path"]
            port = ports.get(get["port"], get["port"])
            if port not in everywhere:
                yield f"{owner} {container['name']} {kind}: nothing listens on {get['port']}"
        if is_serin(container) and paths != {
            "startupProbe": "/readyz",
            "readinessProbe": "/readyz",
            "livenessProbe": "/livez",
        }:
            yield f"{owner} {container['name']}: probes are {paths}"


def token_faults(owner, spec, bound):
    """Only who has rights gets a token to use them with."""
    has = spec.get("automountServiceAccountToken")
    account = spec.get("serviceAccountName", "default")
    projected = [
        volume["name"]
        for volume in spec.get("volumes", [])
        for source in volume.get("projected", {}).get("sources", [])
        if "serviceAccountToken" in source
    ]
    mounting = [
        one
        for one in containers(spec)
        for mount in one.get("volumeMounts", [])
        if mount["name"] in projected
    ]
    for one in mounting:
        if not is_serin(one):
            yield f"{owner} {one['name']}: gets a token that it has no use for"
    if account in bound:
        if has is not True and not any(map(is_serin, mounting)):
            yield f"{owner}: {account} has rights but no token"
        if has is not False and not all(map(is_serin, containers(spec))):
            yield f"{owner}: others than Serin get its token"
    elif has is not False or projected:
        yield f"{owner}: gets a token that it has no use for"


def selector_faults(documents):
    """What points at pods finds some, and finds the port that it names."""
    templates = [template for _, template in pods(documents)]

    def chosen(selector):
        wanted = (selector or {}).get("matchLabels", {}).items()
        return [one for one in templates if wanted <= one["metadata"]["labels"].items()]

    for document in documents:
        spec, kind = document.get("spec", {}), document["kind"]
        if kind == "Service":
            found = chosen({"matchLabels": spec["selector"]})
            if not found:
                yield f"{name_of(document)}: chooses no pod"
            for port in spec["ports"]:
                for template in found:
                    known = {
                        value
                        for one in containers(template["spec"])
                        for entry in one.get("ports", [])
                        for value in (entry["name"], entry["containerPort"])
                    }
                    if port["targetPort"] not in known:
                        yield f"{name_of(document)}: no port {port['targetPort']} in its pods"
        if kind == "PodDisruptionBudget" and not chosen(spec["selector"]):
            yield f"{name_of(document)}: chooses no pod"
        if kind == "NetworkPolicy" and not chosen(spec["podSelector"]):
            yield f"{name_of(document)}: chooses no pod"
        if kind == "HorizontalPodAutoscaler":
            target = spec["scaleTargetRef"]
            if f"{target['kind']}/{target['name']}" not in map(name_of, documents):
                yield f"{name_of(document)}: scales nothing"
        if kind == "ServiceMonitor":
            wanted = spec["selector"]["matchLabels"].items()
            services = [
                one
                for one in documents
                if one["kind"] == "Service"
                and wanted <= one["metadata"].get("labels", {}).items()
            ]
            if not services:
                yield f"{name_of(document)}: chooses no Service"
            names = {port["name"] for one in services for port in one["spec"]["ports"]}
            for endpoint in spec["endpoints"]:
                if endpoint["port"] not in names:
                    yield f"{name_of(document)}: no port {endpoint['port']}"
    for owner, template in pods(documents):
        for rule in template["spec"].get("topologySpreadConstraints", []):
            if template not in chosen(rule["labelSelector"]):
                yield f"{owner}: spreads other pods than its own"


def seconds(text):
    """Of a duration as the config has it."""
    units = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
    return sum(float(n) * units[u] for n, u in re.findall(r"([\d.]+)(ms|s|m|h)", text))


def drain_faults(documents):
    """The kubelet waits for longer than Serin drains, and models outlive it."""
    maps = {one["metadata"]["name"]: one["data"]["serin.yaml"] for one in configs(documents)}
    for owner, template in pods(documents):
        spec = template["spec"]
        sources = [
            source.get("configMap", {}).get("name")
            for volume in spec.get("volumes", [])
            for source in [volume, *volume.get("projected", {}).get("sources", [])]
        ]
        mine = [maps[name] for name in sources if name in maps]
        serins = [one for one in containers(spec) if is_serin(one)]
        if serins and not mine:
            yield f"{owner}: no ConfigMap for Serin"
        for text in mine:
            config = yaml.safe_load(text)
            drain = seconds(config.get("drain_delay", "0s"))
            drain += seconds(config.get("drain_timeout", "30s"))
            grace = spec.get("terminationGracePeriodSeconds", 30)
            native = any(one.get("restartPolicy") == "Always" for one in serins)
            lingers = [lingering(one) for one in spec["containers"] if not is_serin(one)]
            # A native sidecar is told to end when the others have.
            needed = drain + (max(lingers, default=0) if native else 0)
            if grace <= needed:
                yield f"{owner}: {grace} s of grace are not enough for {needed} s"
            for linger in lingers if not native else []:
                if linger <= drain:
                    yield f"{owner}: the model goes before Serin has drained"
            if not native and not config.get("drain_delay"):
                yield f"{owner}: Serin shuts its door before the cluster has heard of it"


def lingering(container):
    args = container.get("args", [])
    return seconds(args[args.index("--linger") + 1]) if "--linger" in args else 0


def rights_faults(documents):
    for document in documents:
        if document["kind"] == "RoleBinding":
            for subject in document["subjects"]:
                if not subject.get("namespace"):
                    yield f"{name_of(document)}: its subject has no namespace"
                if f"{subject['kind']}/{subject['name']}" not in map(name_of, documents):
                    yield f"{name_of(document)}: there is no {subject['name']}"
        if document["kind"] in NAMESPACED_ONLY:
            yield f"{name_of(document)}: rights over the whole cluster"
        for rule in document.get("rules", []) if document["kind"] == "Role" else []:
            if "secrets" in rule["resources"]:
                yield f"{name_of(document)}: may read secrets"
            if "*" in rule["verbs"] + rule["resources"] + rule["apiGroups"]:
                yield f"{name_of(document)}: a right to everything"


def promise_faults(documents):
    """Everything but the schemas, of what is applied together."""
    accounts = {
        subject["name"]
        for document in documents
        if document["kind"] == "RoleBinding"
        for subject in document["subjects"]
    }
    for owner, template in pods(documents):
        spec = template["spec"]
        yield from hardening_faults(owner, spec)
        yield from volume_faults(owner, spec)
        yield from probe_faults(owner, spec)
        yield from token_faults(owner, spec, accounts)
    yield from selector_faults(documents)
    yield from drain_faults(documents)
    yield from rights_faults(documents)
    yield from fleet_faults(documents)


def config_faults(serin, documents):
    for document in configs(documents):
        done = subprocess.run(
            [serin, "check", "--no-files", "--fail-on", "warn", "-"],
            input=document["data"]["serin.yaml"],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            yield f"{name_of(document)}: {done.stdout}{done.stderr}"


def version_faults(documents):
    version = re.search(r'^version = "(.*)"', (PROJECT / "Cargo.toml").read_text(), re.M)[1]
    for owner, template in pods(documents):
        for container in containers(template["spec"]):
            if "serin-proxy/" in container["image"] and not container["image"].endswith(
                f":{version}"
            ):
                yield f"{owner}: {container['image']}, where this is {version}"


def helm(*arguments):
    command = ["helm", "template", "release", CHART, "--namespace", "models", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def chart_faults(serin):
    """The chart under each file of values, and values that it has to refuse."""
    lint = subprocess.run(["helm", "lint", "--strict", CHART], capture_output=True, text=True)
    if lint.returncode:
        yield f"helm lint: {lint.stdout}{lint.stderr}"
    for values in [None, *sorted((PROJECT / "tests/k8s/values").glob("*.yaml"))]:
        name = values.name if values else "its defaults"
        done = helm(*(["--values", values] if values else []))
        if done.returncode:
            yield f"helm with {name}: {done.stderr}"
            continue
        documents = load(done.stdout)
        found = [
            f"{name_of(document)}: {fault}"
            for document in documents
            for fault in schema_faults(document, CHART_SINCE)
        ]
        found += promise_faults(documents)
        found += version_faults(documents)
        found += config_faults(serin, documents)
        yield from (f"helm with {name}: {fault}" for fault in found)
        print(f"helm with {name}: {len(documents)} objects, Kubernetes 1.{CHART_SINCE} to 1.{NEWEST}")
    for refused in (
        "replicas=2",
        "replicaCount=two",
        "config.metrics.address=0.0.0.0:9903",
        "state.sizeLimit=big",
        "state.claim=a,replicaCount=2",
        "state.claim=a,autoscaling.enabled=true",
        "service.type=Ingress",
    ):
        if helm("--set", refused).returncode == 0:
            yield f"helm takes {refused}"
    alerts = (PROJECT / "k8s/monitoring/rules/serin.yaml").read_text()
    rules = [one for one in load(helm("--set", "monitoring.alerts=true").stdout)
             if one["kind"] == "PrometheusRule"]
    if [one["spec"] for one in rules] != [yaml.safe_load(alerts)]:
        yield "helm: its alerts are others"


def written():
    """Each manifest as it is in the tree, but parts of a whole: patches and charts."""
    for path in sorted(K8S.rglob("*.yaml")):
        parts = path.relative_to(K8S).parts
        if "helm" in parts or "rules" in parts or path.name.startswith("patch"):
            continue
        documents = load(path.read_text())
        if all("kind" in document and "metadata" in document for document in documents):
            yield path, documents


def plant(documents, change):
    """A good rendering with one fault in it."""
    planted = copy.deepcopy(documents)
    change(planted)
    return planted


def check_itself():
    """A check that finds nothing may be blind."""
    good = kustomize("example")
    assert not list(promise_faults(good)), list(promise_faults(good))

    def of(planted, kind, name="serin"):
        return next(one for one in planted if name_of(one) == f"{kind}/{name}")

    def pod(planted):
        return of(planted, "Deployment")["spec"]["template"]["spec"]

    def first(planted):
        return pod(planted)["containers"][0]

    faults = {
        "may run as root": lambda p: pod(p)["securityContext"].pop("runAsNonRoot"),
        "may write to its root": lambda p: first(p)["securityContext"].pop(
            "readOnlyRootFilesystem"
        ),
        "keeps capabilities": lambda p: first(p)["securityContext"].pop("capabilities"),
        "never updated": lambda p: first(p)["volumeMounts"][0].update(subPath="serin.yaml"),
        "nothing listens": lambda p: first(p)["livenessProbe"]["httpGet"].update(port="metric"),
        "probes are": lambda p: first(p).pop("readinessProbe"),
        "no use for": lambda p: pod(p).update(automountServiceAccountToken=True),
        "chooses no pod": lambda p: of(p, "Service")["spec"]["selector"].update(a="b"),
        "no port": lambda p: of(p, "Service")["spec"]["ports"][0].update(targetPort="htpp"),
        "not enough": lambda p: pod(p).update(terminationGracePeriodSeconds=40),
        "whole cluster": lambda p: p.append({"kind": "ClusterRole", "metadata": {"name": "a"}}),
        "no version": lambda p: first(p).update(image="serin-proxy/serin"),
    }
    for words, change in faults.items():
        found = list(promise_faults(plant(good, change)))
        assert any(words in fault for fault in found), f"not found: {words}; but {found}"
    fleet = kustomize("overlays/sidecar-fleet")
    assert not list(promise_faults(fleet)), list(promise_faults(fleet))
    for words, change in FLEET_FAULTS.items():
        found = list(promise_faults(plant(fleet, change)))
        assert any(words in fault for fault in found), f"not found: {words}; but {found}"
    # Each kind of sidecar has a component of its own to decide as one.
    mixed = plant(kustomize("overlays/sidecar-fleet-older"), put_elsewhere)
    found = list(promise_faults(mixed))
    for words in ("serin: has no image", "no token"):
        assert any(words in fault for fault in found), f"not found: {words}; but {found}"
    # A field of a later version, and a slip of the pen.
    sidecar = next(
        one for one in kustomize("overlays/sidecar") if name_of(one) == "Deployment/sentiment-v1"
    )
    assert list(schema_faults(sidecar, 27))
    sidecar["spec"]["template"]["spec"]["enableServicesLinks"] = False
    assert list(schema_faults(sidecar, 29))


def main():
    serin = sys.argv[1]
    check_itself()
    faults, count = [], 0
    for path, documents in written():
        where = path.relative_to(PROJECT)
        since = 25 if "gateway" not in path.parts else RENDERED["overlays/gateway"]
        for document in documents:
            count += 1
            faults += [f"{where}: {fault}" for fault in schema_faults(document, since)]
    for folder, since in RENDERED.items():
        documents = kustomize(folder)
        found = [
            f"{name_of(document)}: {fault}"
            for document in documents
            for fault in schema_faults(document, since)
        ]
        found += promise_faults(documents)
        found += version_faults(documents)
        found += config_faults(serin, documents)
        faults += [f"k8s/{folder}: {fault}" for fault in found]
        count += len(documents)
        print(f"k8s/{folder}: {len(documents)} objects, Kubernetes 1.{since} to 1.{NEWEST}")
    faults += chart_faults(serin)
    for fault in faults:
        print(fault, file=sys.stderr)
    print(f"{count} manifests, {len(faults)} faults")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
