"""A real HTTP server that receives webhooks and answers as it is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Received:
    """A request as it came in."""

    path: str
    headers: Mapping[str, str]  # names in lower case
    body: bytes


@dataclass
class Receiver:
    """Answers with `statuses`, one after the other, the last one for ever."""

    url: str
    statuses: list[int]
    headers: dict[str, str] = field(default_factory=dict)  # of its answers
    drip_s: float | None = None  # send the answer byte by byte, so far apart
    requests: list[Received] = field(default_factory=list)

    def answer(self) -> int:
        return self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]

    def wait_for(self, count: int, timeout_s: float = 30.0) -> list[Received]:
        deadline = time.monotonic() + timeout_s
        while len(self.requests) < count:
            assert time.monotonic() < deadline, f"{len(self.requests)} requests came, not {count}"
            time.sleep(0.02)
        return self.requests


@contextmanager
def receiving(*statuses: int, **options: Any) -> Iterator[Receiver]:
    """Listen on a free port of this machine until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            receiver.requests.append(Received(self.path, headers, body))
            if receiver.drip_s is not None:
                self._drip(receiver.drip_s)
                return
            self.send_response(receiver.answer())
            for name, value in receiver.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _drip(self, pause_s: float) -> None:
            try:
                for byte in b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 10_000:
                    self.wfile.write(bytes([byte]))
                    if stopped.wait(pause_s):
                        return
            except OSError:  # the studio has hung up
                return

        def log_message(self, *_: object) -> None: ...

    stopped = threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver = Receiver(f"http://127.0.0.1:{server.server_address[1]}/hook", list(statuses or (204,)), **options)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield receiver
    finally:
        stopped.set()
        server.shutdown()
        server.server_close()
        thread.join()
