"""Serin in front of MLServer with two versions of a sklearn model.

Usage: mlserver.py SERIN WORK_FOLDER, normally by way of `tests/real/run`.

Proves with programs that Serin's authors did not write: predictions arrive unchanged
with curl and with tritonclient over HTTP and gRPC, the split is what was asked, and a version whose process
is killed is taken out, after which no request fails. Everything is on loopback and on
free ports; every process started here is ended by its id.
"""

import contextlib
import http.client
import json
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

import joblib
import numpy
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from tritonclient import grpc as triton_grpc
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

INFER = "/v2/models/iris/infer"
WEIGHTS = {"v1": 80, "v2": 20}
SPLIT_REQUESTS = 2_000
SIGMAS = 4  # A right split fails this once in 15,000 runs.
READY_WITHIN = 60.0
ROLLED_BACK_WITHIN = 30.0
LOAD_THREADS = 4
LOAD_PAUSE = 0.02  # Per thread, between requests.
REQUESTS_AFTER_ROLLBACK = 500

CONFIG = """\
listeners:
  - name: http
    address: 127.0.0.1:{data}
admin:
  address: 127.0.0.1:{admin}
state:
  file: {state}
backends:
  - name: iris-v1
    endpoints: [127.0.0.1:{v1}]
  - name: iris-v2
    endpoints: [127.0.0.1:{v2}]
  - name: iris-v1-grpc
    endpoints: [127.0.0.1:{v1_grpc}]
    protocol: http2
  - name: iris-v2-grpc
    endpoints: [127.0.0.1:{v2_grpc}]
    protocol: http2
routes:
  - name: iris
    rules:
      - name: main
        matches:
          - path: /v2
        backends:
          - name: iris-v1
            weight: {weight_v1}
          - name: iris-v2
            weight: {weight_v2}
      - name: grpc
        matches:
          - path: /inference.GRPCInferenceService
        backends:
          - name: iris-v1-grpc
          - name: iris-v2-grpc
rollouts:
  - name: iris-v2
    rule: iris/main
    stable: iris-v1
    canary: iris-v2
    objectives:
      - errors: 1%
"""


def main():
    serin, work = sys.argv[1:]
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=work, prefix="run-"))
        world = World(serin, folder, stack)
        try:
            # v2 dies in the last test, so their order matters.
            predictions_arrive_unchanged_with_curl(world)
            predictions_arrive_unchanged_with_tritonclient(world)
            predictions_arrive_unchanged_over_grpc(world)
            the_split_is_what_was_asked(world)
            a_killed_version_is_rolled_back_and_then_nothing_fails(world)
        except BaseException:
            world.print_logs()
            raise
    print(f"all passed in {time.monotonic() - started:.0f} s")


def predictions_arrive_unchanged_with_curl(world):
    seen = set()
    for number, row in enumerate(rows(60)):
        body = json.dumps(request_body(row, f"curl-{number}"))
        for version_flag in ("--http1.1", "--http2-prior-knowledge"):
            through = curl(world.port["data"], body, version_flag)
            version = json.loads(through)["model_version"]
            direct = curl(world.port[version], body, "--http1.1")
            assert through == direct, f"{version_flag}: {through!r} through Serin, {direct!r}"
            seen.add((version_flag, version))
    assert len(seen) == 4, f"60 requests each should have met both versions: {seen}"
    passed("curl over HTTP/1.1 and HTTP/2 gets the same bytes as without Serin")


def predictions_arrive_unchanged_with_tritonclient(world):
    clients = {name: triton(world.port[name]) for name in ("data", "v1", "v2")}
    through = clients["data"]
    assert through.is_server_live() and through.is_server_ready()
    assert through.is_model_ready("iris")
    assert through.get_model_metadata("iris")["name"] == "iris"
    batch = numpy.array(rows(150), dtype=numpy.float64)
    versions = set()
    for number in range(60):
        request = f"triton-{number}"
        answer = triton_infer(through, batch, request)
        version = answer.get_response()["model_version"]
        direct = triton_infer(clients[version], batch, request)
        assert answer.get_response() == direct.get_response(), f"{version} answers otherwise"
        predicted = answer.as_numpy("predict").ravel()
        assert numpy.array_equal(predicted, world.predicted[version])
        versions.add(version)
    assert versions == {"v1", "v2"}, f"only {versions} answered"
    # MLServer does not read binary tensors over HTTP: its refusal comes unchanged, too.
    refusals = {refusal(clients[name], batch) for name in ("data", "v1", "v2")}
    assert len(refusals) == 1, refusals
    for client in clients.values():
        client.close()
    passed("tritonclient gets the same predictions and the same refusals")


def predictions_arrive_unchanged_over_grpc(world):
    ports = {"data": "data", "v1": "v1_grpc", "v2": "v2_grpc"}
    clients = {
        name: triton_grpc.InferenceServerClient(f"127.0.0.1:{world.port[port]}")
        for name, port in ports.items()
    }
    through = clients["data"]
    assert through.is_server_live() and through.is_server_ready()
    assert through.is_model_ready("iris")
    batch = numpy.array(rows(150), dtype=numpy.float64)
    versions = set()
    for number in range(60):
        request = f"grpc-{number}"
        answer = triton_grpc_infer(through, "iris", batch, request)
        version = answer.get_response().model_version
        direct = triton_grpc_infer(clients[version], "iris", batch, request)
        assert answer.get_response() == direct.get_response(), f"{version} answers otherwise"
        predicted = answer.as_numpy("predict").ravel()
        assert numpy.array_equal(predicted, world.predicted[version])
        versions.add(version)
    assert versions == {"v1", "v2"}, f"only {versions} answered"
    # An error is a status in the trailers, and comes unchanged.
    errors = {grpc_refusal(clients[name], batch) for name in ports}
    assert len(errors) == 1, errors
    # A deadline that no model can keep. The client looks at its own watch, and sometimes late.
    for number in range(200):
        try:
            triton_grpc_infer(through, "iris", batch, f"late-{number}", client_timeout=0.0001)
        except InferenceServerException as error:
            assert "Deadline" in str(error) or "DEADLINE" in str(error), error
            break
    else:
        raise AssertionError("200 answers, each within 100 us")
    for client in clients.values():
        client.close()
    passed("tritonclient over gRPC gets the same predictions, errors and deadlines")


def the_split_is_what_was_asked(world):
    counts = {"v1": 0, "v2": 0}
    client = Client(world.port["data"])
    for number in range(SPLIT_REQUESTS):
        status, answer = client.infer(number)
        assert status == 200, f"{status}: {answer!r}"
        counts[json.loads(answer)["model_version"]] += 1
    share = WEIGHTS["v2"] / sum(WEIGHTS.values())
    sigma = math.sqrt(SPLIT_REQUESTS * share * (1 - share))
    off = abs(counts["v2"] - SPLIT_REQUESTS * share) / sigma
    assert off <= SIGMAS, f"{counts} is {off:.1f} sigma away from {WEIGHTS}"
    passed(f"the split is {counts} of {WEIGHTS}: {off:.1f} of {SIGMAS} sigma away")


def a_killed_version_is_rolled_back_and_then_nothing_fails(world):
    assert world.rollout()["state"] in ("progressing", "holding"), world.rollout()
    load = Load(world.port["data"])
    try:
        killed = time.monotonic()
        world.kill("v2")
        wait_for(lambda: world.rollout()["state"] == "rolled_back", ROLLED_BACK_WITHIN)
        took = time.monotonic() - killed
        # What was on its way to v2 before the rollback may still fail.
        load.forget_in_flight()
        failed_until = load.failed
        wait_for(lambda: load.answered_since_mark >= REQUESTS_AFTER_ROLLBACK, 60.0)
    finally:
        load.stop()
    assert load.failed_since_mark == 0, f"{load.failed_since_mark} failed after the rollback"
    assert load.versions_since_mark == {"v1"}, load.versions_since_mark
    rollout = world.rollout()
    assert rollout["weight"] == 0 and rollout["verdict"] == "rollback", rollout
    assert rollout["reason"], rollout
    passed(
        f"a killed version is out after {took:.1f} s and {failed_until} failed requests "
        f"({rollout['reason']}); then {load.answered_since_mark} requests, none failed"
    )


class World:
    """Two model servers with Serin in front of them."""

    def __init__(self, serin, folder, stack):
        self.folder = folder
        self.stack = stack
        names = ("data", "admin", "v1", "v2", "v1_grpc", "v2_grpc")
        self.port = dict(zip(names, free_ports(len(names))))
        self.process = {}
        self.predicted = {}
        iris, kinds = load_iris(return_X_y=True)
        models = {
            "v1": LogisticRegression(max_iter=500),
            "v2": RandomForestClassifier(n_estimators=5, random_state=1),
        }
        for version, model in models.items():
            model.fit(iris, kinds)
            self.predicted[version] = model.predict(iris)
            self.start_model(version, model)
        for version in models:
            self.wait_until_ready(version, "/v2/models/iris/ready")
        config = os.path.join(folder, "serin.yaml")
        with open(config, "w") as file:
            state = os.path.join(folder, "state.json")
            weights = {f"weight_{version}": weight for version, weight in WEIGHTS.items()}
            file.write(CONFIG.format(state=state, **self.port, **weights))
        self.start("serin", [serin, "run", "-c", config])
        self.wait_until_ready("admin", "/readyz", process="serin")

    def start_model(self, version, model):
        folder = os.path.join(self.folder, version)
        os.mkdir(folder)
        joblib.dump(model, os.path.join(folder, "model.joblib"))
        (metrics,) = free_ports(1)
        settings = {
            "host": "127.0.0.1",
            "http_port": self.port[version],
            "grpc_port": self.port[f"{version}_grpc"],
            "metrics_port": metrics,
            "parallel_workers": 0,
        }
        model_settings = {
            "name": "iris",
            "implementation": "mlserver_sklearn.SKLearnModel",
            "parameters": {"uri": "./model.joblib", "version": version},
        }
        for name, content in (("settings", settings), ("model-settings", model_settings)):
            with open(os.path.join(folder, f"{name}.json"), "w") as file:
                json.dump(content, file)
        mlserver = os.path.join(os.path.dirname(sys.executable), "mlserver")
        self.start(version, [mlserver, "start", folder])

    def start(self, name, command):
        log = self.stack.enter_context(open(os.path.join(self.folder, f"{name}.log"), "w"))
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            cwd=self.folder,
            env={**os.environ, "RUST_BACKTRACE": "0"},  # A panic's own line says where.
        )
        self.process[name] = process
        self.stack.callback(end, process)

    def kill(self, name):
        self.process[name].send_signal(signal.SIGKILL)
        self.process[name].wait()

    def wait_until_ready(self, name, path, process=None):
        def ready():
            status = self.process[process or name].poll()
            assert status is None, f"{process or name} ended with {status}"
            with contextlib.suppress(OSError, http.client.HTTPException):
                return get(self.port[name], path)[0] == 200
            return False

        wait_for(ready, READY_WITHIN)

    def rollout(self):
        status, body = get(self.port["admin"], "/api/rollouts/iris-v2")
        assert status == 200, f"{status}: {body!r}"
        return json.loads(body)

    def print_logs(self):
        for name in self.process:
            with open(os.path.join(self.folder, f"{name}.log")) as file:
                lines = file.read().splitlines()[-30:]
            print(f"--- last lines of {name}", *lines, sep="\n", file=sys.stderr)


class Client:
    """Asks over one keep-alive connection."""

    def __init__(self, port):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=15)
        self.rows = rows(150)

    def infer(self, number):
        body = json.dumps(request_body(self.rows[number % len(self.rows)], str(number)))
        self.connection.request("POST", INFER, body, {"content-type": "application/json"})
        response = self.connection.getresponse()
        return response.status, response.read()


class Load:
    """Requests from a few threads until stopped, counted before and after a mark."""

    def __init__(self, port):
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self.mark = math.inf
        self.failed = 0
        self.failed_since_mark = 0
        self.answered_since_mark = 0
        self.versions_since_mark = set()
        self.threads = [
            threading.Thread(target=self.run, args=(port,), daemon=True)
            for _ in range(LOAD_THREADS)
        ]
        for thread in self.threads:
            thread.start()

    def run(self, port):
        client = Client(port)
        number = 0
        while not self.stopping.wait(LOAD_PAUSE):
            began = time.monotonic()
            number += 1
            try:
                status, answer = client.infer(number)
                version = json.loads(answer)["model_version"] if status == 200 else None
            except (OSError, http.client.HTTPException):
                client = Client(port)
                version = None
            self.count(began, version)

    def count(self, began, version):
        with self.lock:
            self.failed += version is None
            if began >= self.mark:
                self.failed_since_mark += version is None
                self.answered_since_mark += 1
                self.versions_since_mark.add(version)

    def forget_in_flight(self):
        """From here on, only what starts later counts as after the mark."""
        with self.lock:
            self.mark = time.monotonic()

    def stop(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join(timeout=20)


def rows(count):
    return load_iris().data[:count].tolist()


def request_body(row, request):
    tensor = {"name": "predict", "shape": [1, 4], "datatype": "FP64", "data": row}
    return {"id": request, "inputs": [tensor]}


def curl(port, body, version_flag):
    command = ["curl", "--silent", "--show-error", "--fail", "--max-time", "15", version_flag]
    command += ["-H", "content-type: application/json", "--data-binary", "@-"]
    command.append(f"http://127.0.0.1:{port}{INFER}")
    return subprocess.run(command, input=body.encode(), check=True, stdout=subprocess.PIPE).stdout


def triton(port):
    return InferenceServerClient(f"127.0.0.1:{port}")


def triton_infer(client, batch, request, binary=False):
    tensor = InferInput("predict", list(batch.shape), "FP64")
    tensor.set_data_from_numpy(batch, binary_data=binary)
    output = InferRequestedOutput("predict", binary_data=binary)
    return client.infer("iris", [tensor], outputs=[output], request_id=request)


def triton_grpc_infer(client, model, batch, request, **more):
    tensor = triton_grpc.InferInput("predict", list(batch.shape), "FP64")
    tensor.set_data_from_numpy(batch)
    return client.infer(model, [tensor], request_id=request, **more)


def grpc_refusal(client, batch):
    try:
        triton_grpc_infer(client, "no-such-model", batch, "refused")
    except InferenceServerException as error:
        return f"{error.status()} {error.message()}"
    raise AssertionError("a model that is not there has answered")


def refusal(client, batch):
    try:
        triton_infer(client, batch, "binary", binary=True)
    except InferenceServerException as error:
        return str(error)
    raise AssertionError("binary tensors were accepted")


def get(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def free_ports(count):
    """Held all at once, so that they differ."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def wait_for(condition, within):
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"did not happen within {within:.0f} s"
        time.sleep(0.05)


def end(process):
    process.terminate()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def passed(sentence):
    print(f"ok: {sentence}", flush=True)


if __name__ == "__main__":
    # Ended from outside, the processes are still ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    main()
