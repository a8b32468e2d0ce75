"""Memory while everything is told and nobody listens: no scrape, no look at the admin port, a rollout
with an open judge, a shadow, an access log, spans for a collector, under load. What every request
brings differs: its id, its tenant, which is a sticky key.

    memory.py SERIN LOADTEST SECONDS RPS OUT.csv

Resident memory is read every five seconds. It has to stay: the median of the last fifth may be at
most 5 % and 2 MiB above that of the second fifth; in the first one buffers find their size.
"""

import contextlib
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time

LOOK_SECONDS = 5
GROWTH_MAX, GROWTH_KIB_MAX = 0.05, 2048

CONFIG = """
listeners: [{{ name: http, address: "127.0.0.1:{http}" }}]
admin: {{ address: "127.0.0.1:{admin}" }}
metrics: {{ address: "127.0.0.1:{metrics}" }}
state: {{ file: {work}/state.json }}
access_log: {{ file: {work}/access.log, headers: [x-tenant] }}
tracing: {{ otlp: "http://127.0.0.1:{collector}", sample: 10% }}
backends:
  - name: sentiment-v1
    endpoints: ["127.0.0.1:{v1}"]
    health: {{ path: /v2/health/ready, interval: 1s }}
  - {{ name: sentiment-v2, endpoints: ["127.0.0.1:{v2}"] }}
  - {{ name: shadow, endpoints: ["127.0.0.1:{shadow}"] }}
routes:
  - name: sentiment
    rules:
      - name: main
        matches: [{{ path: / }}]
        sticky: {{ header: x-tenant }}
        backends: [{{ name: sentiment-v1, weight: 90 }}, {{ name: sentiment-v2, weight: 10 }}]
        failover: true
        mirrors: [{{ backend: shadow, methods: [POST], percent: 20 }}]
rollouts:
  - name: sentiment-v2
    rule: sentiment/main
    stable: sentiment-v1
    canary: sentiment-v2
    version: "2"
    objectives: [{{ errors: 5% }}, {{ latency: {{ p99: 1s }} }}]
"""


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def answers(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def resident_kib(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


def fifth(samples, number):
    """The median of one of five parts, counted from 0."""
    size = len(samples) // 5
    return statistics.median(samples[number * size : (number + 1) * size])


def main(serin_bin, loadtest, seconds, rps, out):
    seconds, rps = int(seconds), float(rps)
    if seconds < 50:
        sys.exit("at least 50 seconds: a fifth of them has to have two samples")
    with contextlib.ExitStack() as ended, tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)

        def start(*command):
            log = open(work / f"{pathlib.Path(command[0]).name}.log", "ab")
            process = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log)
            ended.callback(process.wait)
            ended.callback(process.kill)
            return process

        names = "http admin metrics v1 v2 shadow collector".split()
        ports = dict(zip(names, free_ports(len(names))))
        config = work / "serin.yaml"
        config.write_text(CONFIG.format(**ports, work=work))
        start(loadtest, "model", "--port", ports["v1"], "--version", "v1")
        bad = ["--version", "v2", "--error-ratio", "1%"]
        start(loadtest, "model", "--port", ports["v2"], *bad)
        start(loadtest, "backend", "--port", ports["shadow"], "--port", ports["collector"])
        serin = start(serin_bin, "run", "-c", config)
        until = time.monotonic() + 20
        while not answers(ports["http"]):
            if time.monotonic() > until or serin.poll() is not None:
                sys.exit(f"FAILED: Serin does not start: {(work / 'serin.log').read_text()}")
            time.sleep(0.1)
        load = start(
            loadtest, "load", "--target", f"127.0.0.1:{ports['http']}",
            "--rps", rps, "--duration", f"{seconds + LOOK_SECONDS}s",
            "-H", "x-tenant: tenant-{n}", "-H", "x-request-id: id-{n}",
        )
        samples, log = [], work / "access.log"
        began = time.monotonic()
        for turn in range(1, seconds // LOOK_SECONDS + 1):
            time.sleep(max(0, began + turn * LOOK_SECONDS - time.monotonic()))
            if load.poll() is not None or serin.poll() is not None:
                sys.exit("FAILED: the load, or Serin, ended before its time")
            samples.append(resident_kib(serin.pid))
            # The disk is not what is measured.
            if log.exists() and log.stat().st_size > 64 << 20:
                log.unlink()
        lines = "".join(f"{(i + 1) * LOOK_SECONDS},{kib}\n" for i, kib in enumerate(samples))
        pathlib.Path(out).write_text("seconds,resident KiB\n" + lines)
        load.wait()
        said = (work / "loadtest.log").read_text()
        sent = next(line for line in said.splitlines() if line.startswith("sent "))
    early, late = fifth(samples, 1), fifth(samples, 4)
    print(
        f"{seconds} s at {rps:g} requests a second ({sent}); resident after {LOOK_SECONDS} s "
        f"{samples[0]} KiB, second fifth {early:g}, last fifth {late:g}, most {max(samples)}; {out}"
    )
    if late > early * (1 + GROWTH_MAX) and late > early + GROWTH_KIB_MAX:
        sys.exit("FAILED: memory grows while nobody scrapes")


if __name__ == "__main__":
    main(*sys.argv[1:])
