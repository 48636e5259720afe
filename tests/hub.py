"""A hub on this machine: serves folders over the protocol that huggingface_hub speaks, and fails on demand.

Large files (weights) are redirected to another host name that serves their bytes, as the hub does with its storage;
their SHA-256 and size stand on the redirect. Small files are answered at once.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import TracebackType
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = (".bin", ".safetensors")


@dataclass
class Faults:
    """What goes wrong; a test sets them while the server runs."""

    drop_after: list[int] = field(default_factory=list)  # body bytes after which the next downloads break off
    corrupt: bool = False  # the first byte of large files is changed
    claimed_size: int | None = None  # of large files, instead of their own
    ignore_range: bool = False
    status: int | None = None  # answer everything so
    gated: bool = False
    unannounced: bool = False  # answers do not say how long they are
    dies_after: int | None = None  # body bytes after which the server goes away


class Hub:
    """Serves `root/<owner>/<name>/<file>`; `aliases` redirects old names of repositories."""

    def __init__(self, root: Path, aliases: dict[str, str] | None = None) -> None:
        self.root = root
        self.aliases = aliases or {}
        self.faults = Faults()
        self.ranges: list[str | None] = []  # of the downloads of large files, in order
        self.requests = 0
        self.digests = {path: _sha256(path) for path in root.rglob("*") if path.suffix in LARGE}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Hub:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def stop_listening(self) -> None:
        """From within a request: no further one is answered."""
        self._server.socket.close()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            return

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            hub.requests += 1
            path = unquote(self.path).lstrip("/")
            if path.startswith("cdn/"):
                self._serve(hub.root / path.removeprefix("cdn/"), body)
                return
            repository, _, file = path.partition("/resolve/main/")
            if hub.faults.status:
                self._refuse(hub.faults.status, "")
            elif hub.faults.gated:
                self._refuse(403, "GatedRepo")
            elif repository in hub.aliases:
                self._redirect(f"/{hub.aliases[repository]}/resolve/main/{file}", {})
            elif not (hub.root / repository).is_dir():
                self._refuse(401, "RepoNotFound")
            elif not (hub.root / repository / file).is_file():
                self._refuse(404, "EntryNotFound")
            elif file.endswith(LARGE):
                self._redirect_to_storage(f"{repository}/{file}")
            else:
                self._serve(hub.root / repository / file, body)

        def _refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            if code:
                self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _redirect(self, location: str, headers: dict[str, str]) -> None:
            self.send_response(302)
            for name, value in {"Location": location, "Content-Length": "0", **headers}.items():
                self.send_header(name, value)
            self.end_headers()

        def _redirect_to_storage(self, file: str) -> None:
            path = hub.root / file
            size = path.stat().st_size if hub.faults.claimed_size is None else hub.faults.claimed_size
            headers = {
                "X-Repo-Commit": COMMIT,
                "X-Linked-Etag": f'"{hub.digests[path]}"',
                "X-Linked-Size": str(size),
            }
            self._redirect(f"http://localhost:{hub.port}/cdn/{file}", headers)

        def _serve(self, path: Path, body: bool) -> None:
            content = path.read_bytes()
            tag = "" if path.name.endswith(LARGE) else hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            start = self._start()
            self.send_response(206 if start else 200)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{tag}"')
            if not (body and hub.faults.unannounced):
                self.send_header("Content-Length", str(len(content) - start))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            if body:
                self._send(path, content, start)

        def _start(self) -> int:
            wanted = self.headers.get("Range")
            return int(wanted[len("bytes=") : -1]) if wanted and not hub.faults.ignore_range else 0

        def _send(self, path: Path, content: bytes, start: int) -> None:
            if not path.name.endswith(LARGE):
                self.wfile.write(content)
                return
            hub.ranges.append(self.headers.get("Range"))
            if hub.faults.corrupt:
                content = bytes([content[0] ^ 1]) + content[1:]
            body, whole = content[start:], True
            if hub.faults.dies_after is not None:
                body, whole = body[: hub.faults.dies_after], False
                hub.stop_listening()
            elif hub.faults.drop_after:
                body, whole = body[: hub.faults.drop_after.pop(0)], False
            self.wfile.write(body)
            self.close_connection = self.close_connection or not whole

    return Handler
