"""grpcio on both sides of Serin: every kind of call, in cleartext and over TLS.

Usage: grpc_calls.py SERIN, normally by way of `tests/real/grpc`.

Messages are bytes, so no generated code is needed. Everything is on loopback and on free
ports; the one process started here is ended by its id.
"""

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from concurrent import futures

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

PATIENCE = 20.0
NAME = "models.example.com"
REASON = "no \u2013 not now: 100%"
LARGE = [("x-large-bin", bytes([number]) * 5_800) for number in range(8)]
BIG_METADATA = [("grpc.max_metadata_size", 256 << 10), ("grpc.absolute_max_metadata_size", 256 << 10)]

CONFIG = """\
listeners:
  - {{ name: open, address: 127.0.0.1:{open} }}
  - name: encrypted
    address: 127.0.0.1:{encrypted}
    tls: {{ certificates: [{{ cert: server.crt, key: server.key }}] }}
admin: {{ address: 127.0.0.1:{admin} }}
backends:
  - {{ name: model, protocol: http2, endpoints: [127.0.0.1:{model}] }}
  - {{ name: gone, protocol: http2, endpoints: [127.0.0.1:{gone}] }}
routes:
  - name: services
    rules:
      - name: kinds
        matches: [{{ path: /test.Kinds }}, {{ path: /grpc.health.v1.Health }}]
        backends: [{{ name: model }}]
      - name: gone
        matches: [{{ path: {{ exact: /test.Gone/Call }} }}]
        backends: [{{ name: gone }}]
{more}"""
MORE = """\
      - name: later
        matches: [{ path: /test.Later }]
        backends: [{ name: model }]
"""


class Kinds(grpc.GenericRpcHandler):
    """The server's side. Cancelled calls are told in `cancelled`."""

    def __init__(self):
        self.cancelled = queue.Queue()
        self.left = queue.Queue()

    def service(self, details):
        service, _, method = details.method.strip("/").partition("/")
        if service not in ("test.Kinds", "test.Later"):
            return None
        return {
            "Unary": grpc.unary_unary_rpc_method_handler(self.unary),
            "Download": grpc.unary_stream_rpc_method_handler(self.download),
            "Upload": grpc.stream_unary_rpc_method_handler(self.upload),
            "Chat": grpc.stream_stream_rpc_method_handler(self.chat),
            "Fails": grpc.unary_unary_rpc_method_handler(self.fails),
            "FailsLate": grpc.unary_stream_rpc_method_handler(self.fails_late),
            "Hangs": grpc.unary_unary_rpc_method_handler(self.hangs),
            "Metadata": grpc.unary_unary_rpc_method_handler(self.metadata),
        }.get(method)

    def unary(self, request, _):
        return request

    def download(self, request, _):
        for number in range(int(request)):
            yield b"%d" % number

    def upload(self, requests, _):
        return b",".join(requests)

    def chat(self, requests, _):
        for request in requests:
            yield b"re: " + request

    def fails(self, _, context):
        context.set_trailing_metadata((("x-why", "busy"),))
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, REASON)

    def fails_late(self, _, context):
        yield b"first"
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, REASON)

    def hangs(self, _, context):
        ended = threading.Event()
        context.add_callback(ended.set)
        self.left.put(context.time_remaining())
        self.cancelled.put(ended.wait(PATIENCE))
        return b""

    def metadata(self, request, context):
        context.send_initial_metadata((("x-first", "1"), ("x-first-bin", b"\x00\xff")))
        context.set_trailing_metadata(LARGE)
        told = [(key, value) for key, value in context.invocation_metadata()]
        large = [pair for pair in told if pair[0] == "x-large-bin"]
        return json.dumps({"x": dict(told).get("x-mine"), "large": large == LARGE[:4]}).encode()


class World:
    def __init__(self, serin, folder, stack):
        self.folder = folder
        self.kinds = Kinds()
        ports = dict(zip(("open", "encrypted", "admin", "model", "gone"), free_ports(5)))
        self.ports = ports
        server = grpc.server(futures.ThreadPoolExecutor(16), options=BIG_METADATA)
        server.add_generic_rpc_handlers((self.kinds,))
        self.health = health.HealthServicer()
        self.health.set("iris", health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, server)
        server.add_insecure_port(f"127.0.0.1:{ports['model']}")
        server.start()
        stack.callback(lambda: server.stop(0).wait())
        make_certificate(folder)
        self.configure("")
        log = stack.enter_context(open(os.path.join(folder, "serin.log"), "w"))
        process = subprocess.Popen(
            [serin, "run", "-c", "serin.yaml"], stdout=log, stderr=log, cwd=folder
        )
        stack.callback(end, process)
        wait_for(lambda: process.poll() is None and is_open(ports["admin"]))
        with open(os.path.join(folder, "server.crt"), "rb") as file:
            trusting = grpc.ssl_channel_credentials(file.read())
        named = [("grpc.ssl_target_name_override", NAME), *BIG_METADATA]
        address = "127.0.0.1:{}".format
        self.channels = {
            "in cleartext": grpc.insecure_channel(address(ports["open"]), BIG_METADATA),
            "over TLS": grpc.secure_channel(address(ports["encrypted"]), trusting, named),
        }
        for channel in self.channels.values():
            stack.callback(channel.close)

    def configure(self, more):
        with open(os.path.join(self.folder, "serin.yaml"), "w") as file:
            file.write(CONFIG.format(more=more, **self.ports))

    def reload(self, more):
        self.configure(more)
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.ports['admin']}/reload",
            data=b"",
            headers={"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            assert json.load(answer)["result"] == "reloaded"


def the_four_kinds_of_calls(_, channel):
    assert channel.unary_unary("/test.Kinds/Unary")(b"hello", timeout=PATIENCE) == b"hello"
    large = os.urandom(3 << 20)
    assert channel.unary_unary("/test.Kinds/Unary")(large, timeout=PATIENCE) == large
    assert channel.unary_unary("/test.Kinds/Unary")(b"", timeout=PATIENCE) == b""
    pieces = channel.unary_stream("/test.Kinds/Download")(b"500", timeout=PATIENCE)
    assert [int(piece) for piece in pieces] == list(range(500))
    all_of_it = (b"%d" % number for number in range(500))
    joined = channel.stream_unary("/test.Kinds/Upload")(all_of_it, timeout=PATIENCE)
    assert joined == b",".join(b"%d" % number for number in range(500))
    say = Mouth()
    answers = channel.stream_stream("/test.Kinds/Chat")(say, timeout=PATIENCE)
    for word in (b"one", b"two"):
        # Each is answered before the next is said.
        say.put(word)
        assert next(answers) == b"re: " + word
    say.put(None)
    assert list(answers) == [] and answers.code() == grpc.StatusCode.OK


def errors_arrive_as_they_were_said(_, channel):
    with refused(grpc.StatusCode.FAILED_PRECONDITION) as error:
        channel.unary_unary("/test.Kinds/Fails")(b"", timeout=PATIENCE)
    assert error["is"].details() == REASON, error["is"].details()
    assert ("x-why", "busy") in error["is"].trailing_metadata()
    pieces = channel.unary_stream("/test.Kinds/FailsLate")(b"", timeout=PATIENCE)
    assert next(pieces) == b"first"
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED) as error:
        next(pieces)
    assert error["is"].details() == REASON
    with refused(grpc.StatusCode.UNIMPLEMENTED):
        channel.unary_unary("/test.Kinds/NoSuchMethod")(b"", timeout=PATIENCE)


def serins_own_errors_are_statuses_of_grpc(_, channel):
    with refused(grpc.StatusCode.UNIMPLEMENTED):
        channel.unary_unary("/test.NoRule/Call")(b"", timeout=PATIENCE)
    with refused(grpc.StatusCode.UNAVAILABLE):
        channel.unary_unary("/test.Gone/Call")(b"", timeout=PATIENCE)


def a_deadline_reaches_the_server_and_ends_the_call_there(world, channel):
    with refused(grpc.StatusCode.DEADLINE_EXCEEDED):
        channel.unary_unary("/test.Kinds/Hangs")(b"", timeout=0.5)
    # gRPC writes fewer digits than it has, and rounds up.
    left = world.kinds.left.get(timeout=PATIENCE)
    assert 0 < left < 0.6, left
    assert world.kinds.cancelled.get(timeout=PATIENCE), "the server never heard of it"


def a_cancel_reaches_the_server(world, channel):
    call = channel.unary_unary("/test.Kinds/Hangs").future(b"", timeout=PATIENCE)
    world.kinds.left.get(timeout=PATIENCE)
    call.cancel()
    assert world.kinds.cancelled.get(timeout=PATIENCE), "the server never heard of it"


def metadata_passes_both_ways_and_trailers_of_64_kilobytes(_, channel):
    method = channel.unary_unary("/test.Kinds/Metadata")
    told, call = method.with_call(b"", timeout=PATIENCE, metadata=(("x-mine", "yes"), *LARGE[:4]))
    assert json.loads(told) == {"x": "yes", "large": True}, told
    first = dict(call.initial_metadata())
    assert (first["x-first"], first["x-first-bin"]) == ("1", b"\x00\xff")
    last = [pair for pair in call.trailing_metadata() if pair[0] == "x-large-bin"]
    assert [tuple(pair) for pair in last] == LARGE


def health_is_asked_and_watched(world, channel):
    stub = health_pb2_grpc.HealthStub(channel)
    states = health_pb2.HealthCheckResponse
    asked = stub.Check(health_pb2.HealthCheckRequest(service="iris"), timeout=PATIENCE)
    assert asked.status == states.SERVING
    with refused(grpc.StatusCode.NOT_FOUND):
        stub.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=PATIENCE)
    watch = stub.Watch(health_pb2.HealthCheckRequest(service="iris"), timeout=PATIENCE)
    assert next(watch).status == states.SERVING
    world.health.set("iris", states.NOT_SERVING)
    assert next(watch).status == states.NOT_SERVING
    world.health.set("iris", states.SERVING)
    assert next(watch).status == states.SERVING
    watch.cancel()


def a_stream_goes_on_across_a_reload(world, channel):
    say = Mouth()
    answers = channel.stream_stream("/test.Kinds/Chat")(say, timeout=PATIENCE)
    say.put(b"before")
    assert next(answers) == b"re: before"
    with refused(grpc.StatusCode.UNIMPLEMENTED):
        channel.unary_unary("/test.Later/Unary")(b"", timeout=PATIENCE)
    world.reload(MORE)
    assert channel.unary_unary("/test.Later/Unary")(b"new", timeout=PATIENCE) == b"new"
    say.put(b"after")
    assert next(answers) == b"re: after"
    say.put(None)
    assert list(answers) == [] and answers.code() == grpc.StatusCode.OK
    metadata_passes_both_ways_and_trailers_of_64_kilobytes(world, channel)
    world.reload("")


CHECKS = (
    the_four_kinds_of_calls,
    errors_arrive_as_they_were_said,
    serins_own_errors_are_statuses_of_grpc,
    a_deadline_reaches_the_server_and_ends_the_call_there,
    a_cancel_reaches_the_server,
    metadata_passes_both_ways_and_trailers_of_64_kilobytes,
    health_is_asked_and_watched,
    a_stream_goes_on_across_a_reload,
)


class Mouth(queue.Queue):
    """What a client says, until `None`."""

    def __iter__(self):
        return self

    def __next__(self):
        word = self.get()
        if word is None:
            raise StopIteration
        return word


@contextlib.contextmanager
def refused(code):
    error = {}
    try:
        yield error
    except grpc.RpcError as told:
        error["is"] = told
        assert told.code() == code, f"{told.code()} instead of {code}: {told.details()}"
    else:
        raise AssertionError(f"a call was answered that has to end with {code}")


def make_certificate(folder):
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2".split()
    command += ["-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}"]
    command += ["-keyout", "server.key", "-out", "server.crt"]
    subprocess.run(command, cwd=folder, check=True, stderr=subprocess.DEVNULL)


def free_ports(count):
    """Held all at once, so that they differ."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def is_open(port):
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    return False


def wait_for(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "Serin does not start"
        time.sleep(0.05)


def end(process):
    process.terminate()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def main():
    (serin,) = sys.argv[1:]
    serin = os.path.abspath(serin)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="serin-grpc-"))
        world = World(serin, folder, stack)
        try:
            for check in CHECKS:
                for way, channel in world.channels.items():
                    check(world, channel)
                    print(f"ok: {check.__name__.replace('_', ' ')}, {way}", flush=True)
        except BaseException:
            with open(os.path.join(folder, "serin.log")) as file:
                print("--- last lines of serin", *file.readlines()[-20:], sep="\n", file=sys.stderr)
            raise


if __name__ == "__main__":
    # Ended from outside, the process is still ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    main()
