"""A web server on this machine that serves files well or badly, for the tests of fetching."""

import contextlib
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BODIES = {"page": b"<!DOCTYPE html><title>Log in</title>", "wrong": b"something else"}


class Handler(BaseHTTPRequestHandler):
    """Answers as the first part of the path says: good, page, wrong, missing, loop, short, stall or silent."""

    def do_GET(self):
        _, manner, name = self.path.split("/", 2)
        self.server.served[f"{manner}/{name}"] += 1
        if manner == "silent":
            self.server.closing.wait(30)
            return
        if manner == "loop":
            self.send_response(302)
            self.send_header("Location", self.path)
            self.end_headers()
            return
        if manner == "missing" or name not in self.server.files:
            self.send_error(404)
            return
        body = BODIES.get(manner, self.server.files[name])
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if manner in ("short", "stall") else body)
        self.wfile.flush()
        if manner == "stall":
            self.server.closing.wait(30)

    def log_message(self, *_):
        """Keep the test's output clean."""


@contextlib.contextmanager
def serving(files):
    """Serve ``files`` (name to bytes) and yield (address, counter of the paths that were asked for)."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files, server.served, server.closing = files, Counter(), threading.Event()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", server.served
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
