"""A web server on this machine that serves MNIST-like files well or badly, for the tests of fetching."""

import contextlib
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    """Answers as the first part of the path says: good, page, missing, short, stall or wrong."""

    def do_GET(self):
        _, manner, name = self.path.split("/", 2)
        self.server.served[self.path] += 1
        body = self.server.files.get(name, b"")
        if manner == "missing" or name not in self.server.files:
            self.send_error(404)
            return
        if manner == "page":
            body = b"<!DOCTYPE html><title>Log in</title>"
        if manner == "wrong":
            body = b"something else"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if manner in ("short", "stall") else body)
        self.wfile.flush()
        if manner == "stall":
            time.sleep(3)

    def log_message(self, *_):
        """Keep the test's output clean."""


@contextlib.contextmanager
def serving(files):
    """Serve ``files`` (name to bytes) and yield (address, counter of the paths served)."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files, server.served = files, Counter()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", server.served
    finally:
        server.shutdown()
        server.server_close()
