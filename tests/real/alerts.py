"""Alerts seen firing in a real Prometheus and arriving in a real Alertmanager; every query of
the dashboards and of the adapter's rules asked of it. Started by tests/real/alerts.

The rules are those of k8s/monitoring, but for their waits: `for` is cut to two seconds here.
That they wait as long as they say is shown by `promtool test rules`.
"""

import contextlib
import http.server
import json
import pathlib
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import yaml

PROJECT = pathlib.Path(__file__).resolve().parents[2]
MONITORING = PROJECT / "k8s/monitoring"
SERIN, LOADTEST = sys.argv[1:]

# What a world like this must lead to, and nothing else.
EXPECTED = {
    "SerinRolledBack",
    "SerinErrors",
    "SerinBackendDown",
    "SerinEndpointUnhealthy",
    "SerinDiscoveryFailing",
    "SerinShadowNotKeepingUp",
    "SerinCertificateExpiring",
    "SerinConfigRejected",
    "SerinStateNotWritten",
    "SerinDown",
}
# Parts of queries that have nothing to say here: nothing of the kind happened.
QUIET = (
    "serin_retries_total",
    "serin_retries_refused_total",
    "serin_requests_limited_total",
    "serin_connections_refused_total",
    "< max by",
)

CONFIG = """
listeners:
  - name: http
    address: 127.0.0.1:{http}
  - name: https
    address: 127.0.0.1:{https}
    tls: {{ certificates: [{{ cert: {work}/tls.crt, key: {work}/tls.key }}] }}
admin: {{ address: 127.0.0.1:{admin} }}
metrics: {{ address: 127.0.0.1:{metrics} }}
state: {{ file: {work}/state/state.json }}
tracing: {{ otlp: "http://127.0.0.1:{collector}", sample: 10% }}
workers: 1
backends:
  - name: sentiment-v1
    endpoints: [127.0.0.1:{v1}]
    health: {{ path: /v2/health/ready, interval: 1s }}
    limits: {{ in_flight: 64 }}
  - {{ name: sentiment-v2, endpoints: [127.0.0.1:{v2}] }}
  - {{ name: sentiment-v3, endpoints: [127.0.0.1:{nobody}] }}
  - name: down
    endpoints: [127.0.0.1:{nobody}]
    health: {{ tcp: true, interval: 1s }}
  - {{ name: lost, dns: "no-such-model.invalid:9000", dns_refresh: 1s }}
routes:
  - name: sentiment
    rules:
      - name: main
        matches: [{{ path: /v2/models/sentiment }}]
        backends: [{{ name: sentiment-v1, weight: 70 }}, {{ name: sentiment-v2, weight: 30 }}]
        failover: true
        mirrors: [{{ backend: sentiment-v3, methods: [POST] }}]
      - name: down
        matches: [{{ path: /down }}]
        backends: [{{ name: down }}]
      - name: lost
        matches: [{{ path: /lost }}]
        backends: [{{ name: lost }}]
rollouts:
  - name: sentiment-v2
    rule: sentiment/main
    stable: sentiment-v1
    canary: sentiment-v2
    version: "2"
    objectives: [{{ errors: 1% }}, {{ latency: {{ p99: 1s }} }}]
"""

PROMETHEUS = """
global: {{ scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s }}
rule_files: [{work}/rules.yaml]
alerting: {{ alertmanagers: [{{ static_configs: [{{ targets: ["127.0.0.1:{alertmanager}"] }}] }}] }}
scrape_configs:
  - job_name: serin
    static_configs:
      - targets: ["127.0.0.1:{metrics}"]
        labels: {{ namespace: models, pod: serin-0 }}
"""

ALERTMANAGER = """
route: {{ receiver: here, group_by: [alertname], group_wait: 1s, group_interval: 1s }}
receivers:
  - name: here
    webhook_configs: [{{ url: "http://127.0.0.1:{receiver}/", send_resolved: false }}]
"""


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def get(url):
    with urllib.request.urlopen(url, timeout=5) as answer:
        return json.load(answer)


def until(what, condition, seconds=30):
    """Waits until `condition` holds; a connection that is refused is not yet."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            if condition():
                return
        time.sleep(0.2)
    sys.exit(f"FAILED: not within {seconds} s: {what}")


class Receiver(http.server.BaseHTTPRequestHandler):
    """What Alertmanager tells."""

    alerts = {}

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        for alert in body["alerts"]:
            self.alerts.setdefault(alert["labels"]["alertname"], alert)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def certificate(work, days):
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
        + ["-nodes", "-days", str(days), "-subj", "/CN=localhost"]
        + ["-keyout", f"{work}/tls.key", "-out", f"{work}/tls.crt"],
        check=True,
        capture_output=True,
    )


def write_rules(work):
    rules = (MONITORING / "rules/serin.yaml").read_text()
    (work / "rules.yaml").write_text(re.sub(r"(?m)^(\s+for:) \w+$", r"\1 2s", rules))


def shake_hands(port):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port), 5) as plain:
        context.wrap_socket(plain).close()


def boards():
    """Each query of each dashboard, with what stands for its variables."""
    for path in sorted((MONITORING / "dashboards").glob("*.json")):
        board = json.loads(path.read_text())
        for panel in board["panels"]:
            for target in panel.get("targets", []):
                yield f"{path.stem}: {panel['title']}", concrete(target["expr"])
        for one in board["annotations"]["list"]:
            if "expr" in one:
                yield f"{path.stem}: {one['name']}", concrete(one["expr"])


def concrete(expr):
    expr = expr.replace("$__rate_interval", "20s").replace("$__range", "60s")
    expr = re.sub(r"\$(namespace|rollout|route|rule|backend)\b", ".*", expr)
    assert "$" not in expr, expr
    return expr


def adapter_rules():
    """The adapter's queries for one pod, or one backend."""
    values = yaml.safe_load((MONITORING / "adapter-values.yaml").read_text())
    for kind, matchers, group in (
        ("custom", 'namespace="models",pod=~"serin-0"', "pod"),
        ("external", 'namespace="models",backend="sentiment-v1"', "namespace"),
    ):
        for rule in values["rules"][kind]:
            query = rule["metricsQuery"]
            for word, text in (
                ("<<.Series>>", rule["seriesQuery"].split("{")[0]),
                ("<<.LabelMatchers>>", matchers),
                ("<<.GroupBy>>", group),
            ):
                query = query.replace(word, text)
            yield f"adapter: {rule['name']['as']}", query


def ask_everything(prometheus, since):
    """Every query parses, and has something to say unless it is known to be quiet."""
    faults, count = [], 0
    for where, query in [*boards(), *adapter_rules()]:
        count += 1
        arguments = {"query": query, "start": since, "end": time.time(), "step": "1"}
        url = f"{prometheus}/api/v1/query_range?{urllib.parse.urlencode(arguments)}"
        try:
            found = get(url)["data"]["result"]
        except urllib.error.HTTPError as error:
            faults.append(f"{where}: {error.read().decode()}: {query}")
            continue
        numbers = [float(value) for series in found for _, value in series["values"]]
        quiet = any(part in query for part in QUIET) or where.endswith(("Rollbacks", "Reloads"))
        if not any(number == number for number in numbers) and not quiet:
            faults.append(f"{where}: nothing: {query}")
    print(f"{count} queries of dashboards and adapter asked, {len(faults)} faults")
    return faults


def check_exposition(url):
    """What `promtool check metrics` has to say of the names, types and helps in a live scrape."""
    with urllib.request.urlopen(url, timeout=5) as answer:
        kind, text = answer.headers["content-type"], answer.read()
    if not kind.startswith("text/plain; version=0.0.4"):
        return [f"/metrics has the content type {kind}"]
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, timeout=30
    )
    said = [*checked.stdout.decode().splitlines(), *checked.stderr.decode().splitlines()]
    samples = sum(not line.startswith(b"#") for line in text.splitlines())
    print(f"promtool check metrics: {samples} samples, {len(said)} faults")
    if samples < 100 or checked.returncode and not said:
        said.append(f"{samples} samples, promtool ended with {checked.returncode}")
    return [f"promtool check metrics: {line}" for line in said]


def check_exemplars(prometheus, since):
    """A trace for what the canary failed, and for how long requests took, kept by Prometheus."""
    faults = []
    for query, labels in (
        ('serin_attempts_total{outcome="bad"}', {"backend": "sentiment-v2"}),
        ("serin_request_duration_seconds_bucket", {"backend": "sentiment-v1"}),
    ):
        arguments = {"query": query, "start": since, "end": time.time()}
        found = get(f"{prometheus}/api/v1/query_exemplars?{urllib.parse.urlencode(arguments)}")
        traces = {
            one["labels"].get("trace_id")
            for series in found["data"]
            if labels.items() <= series["seriesLabels"].items()
            for one in series["exemplars"]
        }
        print(f"exemplars of {query}: {len(traces)} traces")
        if not traces or not all(re.fullmatch("[0-9a-f]{32}", trace or "") for trace in traces):
            faults.append(f"exemplars of {query}: {traces}")
    return faults


def main():
    with contextlib.ExitStack() as ended, tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)

        def start(*command):
            log = open(work / f"{pathlib.Path(command[0]).name}.log", "ab")
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=work)
            ended.callback(process.wait)
            ended.callback(process.kill)
            return process

        names = "http https admin metrics v1 v2 nobody collector".split()
        names += "prometheus alertmanager receiver".split()
        ports = dict(zip(names, free_ports(len(names))))
        values = {**ports, "work": work}
        certificate(work, 3)
        write_rules(work)
        (work / "state").mkdir()
        config = work / "serin.yaml"
        config.write_text(CONFIG.format(**values))
        (work / "prometheus.yaml").write_text(PROMETHEUS.format(**values))
        (work / "alertmanager.yaml").write_text(ALERTMANAGER.format(**values))

        receiver = http.server.HTTPServer(("127.0.0.1", ports["receiver"]), Receiver)
        threading.Thread(target=receiver.serve_forever, daemon=True).start()
        ended.callback(receiver.shutdown)
        start(LOADTEST, "model", "--port", str(ports["v1"]), "--version", "v1")
        bad = ["--version", "v2", "--error-ratio", "50%"]
        start(LOADTEST, "model", "--port", str(ports["v2"]), *bad)
        start(LOADTEST, "backend", "--port", str(ports["collector"]))
        serin = start(SERIN, "run", "-c", str(config))
        start(
            "alertmanager",
            "--config.file=alertmanager.yaml",
            f"--storage.path={work}/alertmanager",
            f"--web.listen-address=127.0.0.1:{ports['alertmanager']}",
            "--cluster.listen-address=",
        )
        start(
            "prometheus",
            "--config.file=prometheus.yaml",
            "--enable-feature=exemplar-storage",
            f"--storage.tsdb.path={work}/prometheus",
            f"--web.listen-address=127.0.0.1:{ports['prometheus']}",
        )
        prometheus = f"http://127.0.0.1:{ports['prometheus']}"
        since = time.time()

        def is_scraped():
            return get(f"{prometheus}/api/v1/query?query=serin_build_info")["data"]["result"]

        until("Prometheus scrapes Serin", is_scraped)
        target = f"127.0.0.1:{ports['http']}"
        for path, rps in ((None, "80"), ("/down", "5"), ("/lost", "5")):
            extra = ["--path", path] if path else []
            start(LOADTEST, "load", "--target", target, "--rps", rps, "--duration", "80s", *extra)
        for _ in range(5):
            shake_hands(ports["https"])

        # As a volume that goes away: the rollback is in force all the same.
        shutil.rmtree(work / "state")

        def is_rolled_back():
            rollout = get(f"http://127.0.0.1:{ports['admin']}/api/rollouts/sentiment-v2")
            return rollout["state"] == "rolled_back"

        until("the canary is rolled back", is_rolled_back)
        shake_hands(ports["https"])
        with config.open("a") as file:
            file.write("nonsense: true\n")
        wait_for_alerts(EXPECTED - {"SerinDown"})
        faults = ask_everything(prometheus, since)
        faults += check_exposition(f"http://127.0.0.1:{ports['metrics']}/metrics")
        faults += check_exemplars(prometheus, since)
        serin.kill()
        wait_for_alerts({"SerinDown"})

    faults += [f"{name} was not expected" for name in set(Receiver.alerts) - EXPECTED]
    runbooks = (PROJECT / "docs/runbooks.md").read_text()
    for name, alert in sorted(Receiver.alerts.items()):
        url = alert["annotations"]["runbook_url"]
        if f"\n## {name}\n" not in runbooks or not url.endswith(f"runbooks.md#{name.lower()}"):
            faults.append(f"{name}: no runbook at {url}")
        print(f"arrived: {name}: {alert['annotations']['summary']}")
    for fault in faults:
        print(fault, file=sys.stderr)
    return bool(faults)


def wait_for_alerts(names, seconds=40):
    end = time.monotonic() + seconds
    while not names <= set(Receiver.alerts):
        if time.monotonic() > end:
            sys.exit(f"FAILED: did not arrive: {sorted(names - set(Receiver.alerts))}")
        time.sleep(0.2)


if __name__ == "__main__":
    sys.exit(main())
