"""Three replicas of Serin as a fleet, with a real Kubernetes API server. Started by tests/k8s/real.

The API server is 1.20: it has Lease, RBAC and ConfigMaps as they are today, but EndpointSlice only
as v1beta1. What stands before it here answers for v1 with that, and changes nothing else.
"""

import base64
import concurrent.futures
import contextlib
import http.server
import json
import os
import pathlib
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

import yaml

from rights import NAMESPACE, count_rights

PROJECT = pathlib.Path(__file__).resolve().parents[2]
SERIN, LOADTEST = sys.argv[1:]
METRICS_PORT = 9902
ROLLOUT = "/api/rollouts/sentiment-v2"
LATCH = f"/api/v1/namespaces/{NAMESPACE}/configmaps/serin-gateway"
LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/serin-gateway"
EVENTS = f"/apis/events.k8s.io/v1/namespaces/{NAMESPACE}/events"
SLICES = f"/apis/discovery.k8s.io/v1beta1/namespaces/{NAMESPACE}/endpointslices"

CONFIG = """
listeners: [{{ name: http, address: "127.0.0.1:{http}" }}]
admin: {{ address: "127.0.0.1:{admin}" }}
metrics: {{ address: "{address}:{metrics}" }}
kubernetes: {{ server: "https://127.0.0.1:{api}", ca: {work}/ca.crt, token_file: {work}/token }}
fleet:
  {{ name: gateway, namespace: models, max_replicas: 3, replicas: "models/serin-replicas:metrics" }}
backends:
  - {{ name: sentiment-v1, endpoints: ["127.0.0.1:{v1}"] }}
  - {{ name: sentiment-v2, endpoints: ["127.0.0.1:{v2}"] }}
routes:
  - name: sentiment
    rules:
      - name: main
        matches: [{{ path: / }}]
        backends: [{{ name: sentiment-v1, weight: 90 }}, {{ name: sentiment-v2, weight: 10 }}]
rollouts:
  - name: sentiment-v2
    rule: sentiment/main
    stable: sentiment-v1
    canary: sentiment-v2
    version: "2"
    min_requests: 20
    objectives: [{{ errors: 1% }}]
    steps:
      - {{ weight: 20%, for: {{ at_least: 3s, at_most: 6s }} }}
      - {{ weight: 40%, for: {{ at_least: 3s, at_most: 6s }} }}
      - {{ weight: 50%, for: 10m }}
"""


def fail(what):
    sys.exit(f"FAILED: {what}")


def say(what):
    print(f"{time.monotonic() - BEGAN:6.1f} s  {what}", flush=True)


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def until(what, look, seconds=30):
    """Waits for a truth, and returns it with the time that it took."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        with contextlib.suppress(OSError, KeyError):
            if found := look():
                return found, time.monotonic() - began
        time.sleep(0.05)
    fail(f"not within {seconds} s: {what}")


class Model(http.server.BaseHTTPRequestHandler):
    """Answers what it is told to."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(self.server.status)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_GET = do_POST

    def log_message(self, *_):
        pass


def model(port):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Model)
    server.status = 200
    server.daemon_threads = True
    # Replicas are killed, with what they have under way.
    server.handle_error = lambda *_: None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


class Cluster:
    """etcd and an API server, and what stands before it."""

    def __init__(self, work, ended):
        self.work, self.ended = work, ended
        self.etcd_port, self.etcd_peer, self.port, *self.fronts = free_ports(6)
        self.openssl("req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.crt")
        self.openssl("req -newkey rsa:2048 -nodes -subj /CN=api -keyout api.key -out api.csr")
        (work / "san").write_text("subjectAltName=IP:127.0.0.1\n")
        self.openssl("x509 -req -in api.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile san -out api.crt")
        self.openssl("genrsa -out accounts.key 2048")
        (work / "tokens.csv").write_text('admin-token,admin,1,"system:masters"\n')
        self.context = ssl.create_default_context(cafile=work / "ca.crt")
        self.run(
            "etcd", "--data-dir", "etcd", "--listen-peer-urls", f"http://127.0.0.1:{self.etcd_peer}",
            "--listen-client-urls", f"http://127.0.0.1:{self.etcd_port}",
            "--advertise-client-urls", f"http://127.0.0.1:{self.etcd_port}",
        )
        self.start()
        for front in self.fronts:
            threading.Thread(target=self.stand_before, args=(front,), daemon=True).start()

    def openssl(self, line):
        subprocess.run(["openssl", *line.split()], cwd=self.work, check=True, capture_output=True)

    def run(self, *command, **more):
        log = open(self.work / f"{pathlib.Path(command[0]).name}.log", "ab")
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.work, **more)
        self.ended.callback(process.wait)
        self.ended.callback(process.kill)
        return process

    def start(self):
        self.process = self.run(
            "kube-apiserver", f"--etcd-servers=http://127.0.0.1:{self.etcd_port}",
            "--bind-address=127.0.0.1", f"--secure-port={self.port}", "--insecure-port=0",
            "--advertise-address=10.90.0.1",
            "--tls-cert-file=api.crt", "--tls-private-key-file=api.key", "--cert-dir=.",
            "--authorization-mode=RBAC", "--token-auth-file=tokens.csv",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-account-key-file=accounts.key",
            "--service-account-signing-key-file=accounts.key",
            "--service-cluster-ip-range=10.91.0.0/24",
        )
        _, took = until("the API server is ready", lambda: self.call("GET", "/readyz", raw=True), 60)
        say(f"the API server is ready after {took:.1f} s")

    def stop(self):
        self.process.kill()
        self.process.wait()

    def call(self, method, path, body=None, token="admin-token", raw=False):
        request = urllib.request.Request(
            f"https://127.0.0.1:{self.port}{path}", method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"authorization": f"Bearer {token}", "content-type": "application/json"},
        )
        with urllib.request.urlopen(request, context=self.context, timeout=5) as answer:
            text = answer.read()
        return text if raw else json.loads(text)

    def stand_before(self, front):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.work / "api.crt", self.work / "api.key")
        listener = socket.create_server(("127.0.0.1", front), backlog=64)
        while True:
            stream, _ = listener.accept()
            threading.Thread(target=self.pass_on, args=(context, stream), daemon=True).start()

    def pass_on(self, context, stream):
        """One call: a replica makes each on a connection of its own."""
        with contextlib.suppress(OSError), context.wrap_socket(stream, server_side=True) as ours:
            head = b""
            while b"\r\n\r\n" not in head:
                if not (more := ours.recv(65536)):
                    return
                head += more
            head = head.replace(b" /apis/discovery.k8s.io/v1/", b" /apis/discovery.k8s.io/v1beta1/", 1)
            plain = socket.create_connection(("127.0.0.1", self.port), 5)
            with self.context.wrap_socket(plain, server_hostname="127.0.0.1") as theirs:
                theirs.settimeout(None)
                theirs.sendall(head)
                up = threading.Thread(target=pump, args=(ours, theirs), daemon=True)
                up.start()
                pump(theirs, ours)
                # Closed only when nobody reads it any more: its number may soon be another's.
                for one in (ours, theirs):
                    with contextlib.suppress(OSError):
                        one.shutdown(socket.SHUT_RDWR)
                up.join()

    def apply_as_shipped(self, folder, account):
        """Service account, rights and latch of a fleet, nothing of them changed; and its token."""
        made = subprocess.run(
            ["kubectl", "kustomize", PROJECT / folder], check=True, capture_output=True
        ).stdout
        groups = {"Role": "rbac.authorization.k8s.io/v1", "RoleBinding": "rbac.authorization.k8s.io/v1"}
        plural = {
            "ServiceAccount": "serviceaccounts", "ConfigMap": "configmaps",
            "Role": "roles", "RoleBinding": "rolebindings",
        }
        count = 0
        for one in yaml.safe_load_all(made):
            if folder := plural.get(one["kind"]):
                group = groups.get(one["kind"])
                root = f"/apis/{group}" if group else "/api/v1"
                self.call("POST", f"{root}/namespaces/{NAMESPACE}/{folder}", one)
                count += 1
        review = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{account}/token"
        spec = {"spec": {"audiences": [], "expirationSeconds": 3600}}
        token = self.call("POST", review, {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", **spec})
        token = token["status"]["token"]
        claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
        say(f"{count} objects as shipped; the token is of {claims['sub']}")
        return token

    def name_replicas(self, addresses):
        """As the controller of EndpointSlices does it; there is none here."""
        one = {
            "apiVersion": "discovery.k8s.io/v1beta1", "kind": "EndpointSlice",
            "metadata": {
                "name": "serin-replicas-1", "labels": {"kubernetes.io/service-name": "serin-replicas"},
            },
            "addressType": "IPv4",
            "ports": [{"name": "metrics", "port": METRICS_PORT, "protocol": "TCP"}],
            "endpoints": [
                {"addresses": [address], "conditions": {"ready": True}} for address in addresses
            ],
        }
        with contextlib.suppress(urllib.error.HTTPError):
            return self.call("POST", SLICES, one)
        return self.call("PUT", f"{SLICES}/serin-replicas-1", one)

    def events(self, reason):
        """Of all replicas, what the API has kept."""
        found = self.call("GET", EVENTS)["items"]
        return [one for one in found if one["reason"] == reason]

    def holder(self):
        return self.call("GET", LEASE)["spec"].get("holderIdentity")


def nft(line):
    subprocess.run(["nft", line], check=True)


def pump(source, sink):
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


class Replica:
    """A pod of the gateway."""

    def __init__(self, cluster, number, models):
        self.cluster, self.name = cluster, f"serin-{number}"
        self.address = f"10.90.0.{number}"
        self.http, self.admin = free_ports(2)
        self.way_to_api = cluster.fronts[number - 1]
        self.config = cluster.work / f"{self.name}.yaml"
        self.config.write_text(
            CONFIG.format(
                http=self.http, admin=self.admin, address=self.address, metrics=METRICS_PORT,
                api=self.way_to_api, work=cluster.work, v1=models[0], v2=models[1],
            )
        )
        self.start()

    def start(self):
        environment = {**os.environ, "POD_NAME": self.name}
        self.process = self.cluster.run(SERIN, "run", "-c", self.config, env=environment)
        until(f"{self.name} answers", self.view)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def ask(self, path, body=None):
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.admin}{path}", data=body,
            headers={"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=5) as answer:
            return json.load(answer)

    def view(self):
        return self.ask(ROLLOUT)

    def cut_off(self):
        """Drops every packet on its way to the API, of connections that there are, too."""
        nft("add table inet cut")
        nft("add chain inet cut in { type filter hook input priority 0; }")
        nft(f"add rule inet cut in tcp dport {self.way_to_api} drop")

    def is_connected(self):
        return self.count("serin_fleet_connected") > 0.5

    def is_refused(self, word):
        try:
            self.ask(f"{ROLLOUT}/{word}", b"")
        except urllib.error.HTTPError as error:
            return error.code == 409 and "cut off" in error.read().decode()
        return False

    def count(self, sample):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(sample))

    def serves(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/", timeout=5) as answer:
            return answer.status == 200

    def load(self, rps, seconds):
        target = f"127.0.0.1:{self.http}"
        self.cluster.run(
            LOADTEST, "load", "--target", target, "--rps", str(rps), "--duration", f"{seconds}s"
        )


def together(replicas, what, is_so, seconds):
    """Waits until it is so at all of them; how long the last was behind the first."""
    def wait(one):
        until(f"{one.name}: {what}", lambda: is_so(one.view()), seconds)
        return time.monotonic()

    with concurrent.futures.ThreadPoolExecutor(len(replicas)) as pool:
        times = sorted(pool.map(wait, replicas))
    return times[-1] - times[0]


def main():
    with contextlib.ExitStack() as ended, tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        try:
            play(work, ended)
        except SystemExit:
            for name in ("serin.log", "kube-apiserver.log"):
                with contextlib.suppress(OSError):
                    print(f"--- {name}", *(work / name).read_text().splitlines()[-15:], sep="\n")
            raise


def play(work, ended):
    cluster = Cluster(work, ended)
    cluster.call("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    sidecars = cluster.apply_as_shipped("k8s/overlays/sidecar-fleet", "serin-sidecar")
    check_rights(cluster, sidecars, "serin-sidecars")
    token = cluster.apply_as_shipped("tests/k8s/cluster", "serin")
    check_rights(cluster, token, "serin-gateway")
    (work / "token").write_text(token)
    ports = free_ports(2)
    _, canary = [model(port) for port in ports]
    replicas = [Replica(cluster, number, ports) for number in (1, 2, 3)]
    addresses = [one.address for one in replicas]
    cluster.name_replicas(addresses)
    for one in replicas:
        one.load(60, 200)

    holder, took = until("somebody holds the lease", cluster.holder)
    say(f"{holder} holds the lease after {took:.1f} s")
    behind = together(replicas, "step 1", lambda view: view["step"] == 1, 60)
    say(f"all are at step 1; the last {behind:.2f} s behind the first")

    holder = cluster.holder()
    # With what tells its starts apart behind it.
    gone = next(one for one in replicas if holder.startswith(one.name))
    left = [one for one in replicas if one is not gone]
    gone.kill()
    cluster.name_replicas([one.address for one in left])
    began = time.monotonic()
    next_holder, took = until("another holds the lease", lambda: cluster.holder() not in (holder, "") and cluster.holder())
    together(left, "step 2", lambda view: view["step"] == 2, 30)
    took_all = time.monotonic() - began
    say(f"{holder} was killed: {next_holder} holds the lease after {took:.1f} s, step 2 after {took_all:.1f} s")
    if took_all > 20:
        fail("promotion went on too late")

    cluster.stop()
    say("the API server is gone")
    for _ in range(30):
        if not all(one.serves() for one in left):
            fail("requests failed without the API")
        time.sleep(0.1)
    cluster.start()
    gone.start()
    gone.load(60, 120)
    cluster.name_replicas(addresses)
    together(replicas, "step 2", lambda view: view["step"] == 2, 40)
    say(f"{gone.name} is back, and where the others are")

    canary.status = 500
    began = time.monotonic()
    behind = together(replicas, "rolled back", lambda view: view["state"] == "rolled_back", 30)
    say(
        f"the canary breaks: out everywhere after {time.monotonic() - began:.2f} s, the last replica "
        f"{behind:.2f} s behind the first"
    )
    if behind > 1:
        fail("not within a second")
    # Two may have found it in the same moment, each by itself.
    reasons = {one.view()["reason"] for one in replicas}
    if not all(reason.startswith("errors <= 1%") for reason in reasons):
        fail(f"out for another reason: {reasons}")
    latch = until("the latch has it", lambda: cluster.call("GET", LATCH).get("data"))[0]
    if "sentiment-v2@2" not in json.dumps(latch):
        fail(f"not in the latch: {latch}")
    events, _ = until("there is an event", lambda: cluster.events("RolledBack"))
    told = events[0]
    if len(events) > 1 or told["type"] != "Warning" or told["regarding"]["name"] != "serin-gateway":
        fail(f"one warning about the fleet was expected: {events}")
    say(f"kubectl get events: {told['type']} {told['reason']} by {told['reportingInstance']}: {told['note']}")
    refused = sum(one.count('serin_kubernetes_events_total{result="failed"}') for one in replicas)
    if refused:
        fail(f"{refused} events were refused")

    for one in replicas:
        one.kill()
    for one in replicas:
        one.start()
    together(replicas, "still out", lambda view: view["state"] == "rolled_back", 20)
    say("all were restarted: it is out in all of them")

    canary.status = 200
    for one in replicas:
        one.load(60, 90)
    replicas[0].ask(f"{ROLLOUT}/reset", b"")
    together(replicas, "progressing", lambda view: view["state"] in ("progressing", "holding"), 20)
    say("a reset at one gives it another chance in all")
    part(cluster, replicas, canary)


def check_rights(cluster, token, agreed):
    try:
        say(f"rights to {agreed}: {count_rights(cluster, token, agreed)}")
    except AssertionError as error:
        fail(error)


def part(cluster, replicas, canary):
    """One replica is cut off from the API, in the middle of a step."""
    holder = cluster.holder()
    cut = next(one for one in replicas if not holder.startswith(one.name))
    left = [one for one in replicas if one is not cut]
    cut.cut_off()
    step = cut.view()["step"]
    _, took = until(f"{cut.name} knows that it is cut off", lambda: not cut.is_connected())
    for word in ("promote", "promote?full=true"):
        if not cut.is_refused(word):
            fail(f"{cut.name} is cut off, and takes `{word}`")
    # The others have gone on before it was missed, by one step, and no further.
    judge = [one for one in left if holder.startswith(one.name)]
    together(judge, "held", lambda view: view["hold_reason"] == "replicas missing", 20)
    steps = [one.view()["step"] for one in (cut, *left)]
    if steps[0] != step or not {step, step + 1} >= set(steps[1:]) or not cut.serves():
        fail(f"{cut.name} was cut off in step {step}; it and the others are in {steps}")
    say(
        f"{cut.name} is cut off: it knows after {took:.1f} s, refuses to promote, stays in step {step}; "
        f"the others are held in step {steps[1]}"
    )
    canary.status = 500
    together(replicas, "rolled back", lambda view: view["state"] == "rolled_back", 30)
    say("the canary breaks: out in all three, that one included")
    nft("delete table inet cut")
    _, took = until(f"{cut.name} is back", cut.is_connected)
    together(replicas, "still out", lambda view: view["state"] == "rolled_back", 20)
    say(f"{cut.name} is connected again after {took:.1f} s")


BEGAN = time.monotonic()
if __name__ == "__main__":
    sys.exit(main())
