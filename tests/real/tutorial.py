"""Runs the tutorial as it is written: docs/tutorial/laptop.md.

Every block of `sh` is given to one bash, in order; the ports are replaced by free ones. What a
block of `text` after it shows must be said: every word of it, for the numbers are another day's.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/tutorial/laptop.md"
# What builds, and what follows from it: done before this test.
BUILDS = ("git clone", "cargo build", "export PATH=")
SECONDS = 180
# Words of these depend on chance and on how fast the machine is.
BY_CHANCE = {"soaking", "suspicious", "enough", "traffic", "holding", "hold", "step"}
ID = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")


def blocks(text):
    """(language, text) of each fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def words(text):
    return set(re.findall(r"[A-Za-z_]{3,}", ID.sub("", text))) - BY_CHANCE


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [str(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


def steps(text):
    """(commands, what they are to show or None)."""
    found = []
    for language, block in blocks(text):
        if language == "sh":
            found.append([block, None])
        elif language == "text" and found and found[-1][1] is None:
            found[-1][1] = block
    return found


def script(found, replaced):
    lines = []
    for number, (commands, _) in enumerate(found):
        lines.append(f"echo '@@@ {number}'")
        lines += [line for line in commands.splitlines() if not line.startswith(BUILDS)]
    # What the tutorial starts and does not end is a fault of the tutorial.
    lines += ["echo '@@@ end'", "jobs -p"]
    text = "\n".join(lines)
    for old, new in replaced.items():
        text = text.replace(old, new)
    return text


def run(text, serin):
    environment = os.environ | {"PATH": f"{serin.parent}:{os.environ['PATH']}", "RUST_BACKTRACE": "0"}
    for name in [name for name in environment if name.startswith("SERIN_")]:
        del environment[name]
    process = subprocess.Popen(
        ["bash", "-c", text], cwd=ROOT, env=environment, text=True, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )
    try:
        return process.communicate(timeout=SECONDS)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        sys.exit(f"FAILED: not done after {SECONDS} s:\n{process.communicate()[0]}")
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def main():
    serin = Path(sys.argv[1]).resolve()
    found = steps(PAGE.read_text())
    assert len(found) >= 8, f"{PAGE} has {len(found)} blocks of commands"
    with tempfile.TemporaryDirectory() as folder:
        ports = free_ports(4)
        replaced = dict(zip(["8080", "9001", "9002", "9901"], ports))
        replaced["/tmp/first-canary"] = f"{folder}/first-canary"
        replaced["models.py"] = f"models.py {ports[1]} {ports[2]}"
        replaced["serin healthcheck"] = f"serin healthcheck --admin 127.0.0.1:{ports[3]}"
        for verb in ("status", "why"):
            replaced[f"serin {verb}"] = f"serin {verb} --admin 127.0.0.1:{ports[3]}"
        output = run(script(found, replaced), serin)
    if "-v" in sys.argv:
        print(output)
    told = re.split(r"^@@@ (?:\d+|end)\n", output, flags=re.MULTILINE)[1:]
    faults = []
    if len(told) != len(found) + 1:
        faults.append(f"{len(told)} of {len(found) + 1} blocks were reached")
    for (commands, shown), said in zip(found, told):
        missing = sorted(words(shown or "") - words(said))
        if missing:
            faults.append(f"not said: {' '.join(missing)}\n--- by\n{commands}--- but\n{said}")
        if re.search(r"command not found|No such file|^error", said, re.MULTILINE):
            faults.append(f"went wrong:\n{commands}--- said\n{said}")
    if told and told[-1].strip():
        faults.append(f"left running: {told[-1]}")
    if faults:
        sys.exit("FAILED: the tutorial does not do what it says\n" + "\n".join(faults))
    print(f"the tutorial does what it says: {len(found)} blocks of commands")


main()
