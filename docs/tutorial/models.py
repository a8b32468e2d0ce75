#!/usr/bin/env python3
"""Two toy model servers for the tutorial: v1 on port 9001, v2 on port 9002.

Each answers the V2 inference protocol with a score of the words in a text. POST /break makes
one fail every second request, POST /mend makes it well again. Ctrl-C ends both.

    python3 models.py [PORT_OF_V1 PORT_OF_V2]
"""

import itertools
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

GOOD, BAD = {"love", "good", "great", "nice"}, {"hate", "bad", "awful", "poor"}


class Model(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer(200, {"ready": True})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        server = self.server
        if self.path in ("/break", "/mend"):
            server.broken = self.path == "/break"
            return self.answer(200, {"version": server.version, "broken": server.broken})
        if server.broken and next(server.count) % 2:
            return self.answer(500, {"error": "out of tensors"})
        try:
            words = json.loads(body)["inputs"][0]["data"][0].lower().split()
        except (ValueError, LookupError, TypeError, AttributeError):
            return self.answer(400, {"error": "write inputs as in the tutorial"})
        score = sum(word in GOOD for word in words) - sum(word in BAD for word in words)
        output = {"name": "score", "shape": [1], "datatype": "INT32", "data": [score]}
        self.answer(200, {"model_version": server.version, "outputs": [output]})

    def log_message(self, *_):
        pass


def serve(version, port):
    server = ThreadingHTTPServer(("127.0.0.1", port), Model)
    server.daemon_threads = True
    server.version, server.broken, server.count = version, False, itertools.count()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"{version} listens on port {port}", flush=True)


ports = [int(port) for port in sys.argv[1:]] or [9001, 9002]
for version, port in zip(["v1", "v2"], ports):
    serve(version, port)
try:
    threading.Event().wait()
except KeyboardInterrupt:
    pass
