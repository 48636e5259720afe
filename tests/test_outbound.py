"""A POST to an address that a stranger has named: where it may go, and how long it may take."""

from __future__ import annotations

import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from studio.outbound import ForbiddenAddress, Resolve, Unreachable, anywhere, is_private_literal, is_public, post
from tests.receivers import receiving


def names(*answers: list[str]) -> tuple[Resolve, list[str]]:
    """A resolver that gives these answers one after the other, and the names that it was asked."""
    asked: list[str] = []

    def resolve(name: str, port: int) -> list[str]:
        asked.append(name)
        return answers[len(asked) - 1]

    return resolve, asked


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.9.10", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "169.254.169.254",
        "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1",
        "::", "::1", "fe80::1", "fec0::1", "fc00::1", "fd12:3456::1", "ff02::1", "2001:db8::1", "::7f00:1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "64:ff9b:1::1",
        "2002:7f00:1::", "2001::1",
    ],
)  # fmt: skip
def test_what_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_what_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    ("url", "private"),
    [
        ("http://127.0.0.1/", True), ("http://[::1]:80/", True), ("https://localhost/", True),
        ("http://localhost./", True), ("http://a.localhost/", True), ("http://8.8.8.8/", False),
        ("http://example.org/", False),
    ],
)  # fmt: skip
def test_a_url_that_is_plainly_private_is_known_without_a_resolver(url: str, private: bool) -> None:
    assert is_private_literal(url) is private


def test_a_name_that_means_a_private_address_is_not_connected_to() -> None:
    with receiving() as receiver:
        port = urlsplit(receiver.url).port
        for address in ("127.0.0.1", "::ffff:127.0.0.1"):
            resolve, _ = names([address])
            with pytest.raises(ForbiddenAddress):
                post(f"http://hooks.example:{port}/", b"{}", {}, timeout_s=5, resolve=resolve)
    assert receiver.requests == []


def test_a_name_is_resolved_once_and_what_was_judged_is_connected_to() -> None:
    with receiving() as receiver:
        port = urlsplit(receiver.url).port
        resolve, asked = names(["10.0.0.1", "127.0.0.1"], ["10.0.0.2"])
        url = f"http://hooks.example:{port}/a?b"
        answer = post(url, b"{}", {}, timeout_s=5, allowed=lambda address: address == "127.0.0.1", resolve=resolve)
    assert answer.status == 204
    assert asked == ["hooks.example"]
    assert receiver.requests[0].headers["host"] == f"hooks.example:{port}"
    assert receiver.requests[0].path == "/a?b"


def test_a_name_that_turns_private_later_gains_nothing() -> None:
    """DNS rebinding: one address when it is judged, this machine when it is connected to."""
    with receiving() as receiver:
        port = urlsplit(receiver.url).port
        resolve, _ = names(["192.0.0.9"], ["127.0.0.1"])  # nobody is at the first
        with pytest.raises(Unreachable):
            post(f"http://hooks.example:{port}/", b"{}", {}, timeout_s=0.3, allowed=anywhere, resolve=resolve)
    assert receiver.requests == []


def test_the_next_address_of_a_name_is_tried() -> None:
    with receiving() as receiver:
        port = urlsplit(receiver.url).port
        resolve, _ = names(["127.0.0.2", "127.0.0.1"])  # nobody listens on the first
        url = f"http://hooks.example:{port}/"
        assert post(url, b"{}", {}, timeout_s=5, allowed=anywhere, resolve=resolve).status == 204


def test_proxies_of_the_environment_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    with receiving() as receiver:
        assert post(receiver.url, b"{}", {}, timeout_s=5, allowed=anywhere).status == 204


def test_one_deadline_holds_for_the_whole_answer() -> None:
    with receiving(drip_s=0.05) as receiver:
        began = time.monotonic()
        with pytest.raises(Unreachable, match=r"within 0\.5 s"):
            post(receiver.url, b"{}", {}, timeout_s=0.5, allowed=anywhere)
        assert time.monotonic() - began < 5


def test_the_deadline_holds_for_the_resolver_too() -> None:
    over = threading.Event()

    def hang(name: str, port: int) -> list[str]:
        over.wait()
        return []

    began = time.monotonic()
    with pytest.raises(Unreachable, match=r"in time for the name 'hooks\.example'"):
        post("http://hooks.example/", b"{}", {}, timeout_s=0.2, resolve=hang)
    assert time.monotonic() - began < 5
    over.set()


def test_the_body_of_an_answer_is_not_read() -> None:
    """Endless, or a secret of the network that the studio lives in."""
    with endless() as (url, sent):
        assert post(url, b"{}", {}, timeout_s=5, allowed=anywhere).status == 200
    assert sent() < 50_000_000


def test_what_is_not_http_or_not_there_is_said_in_a_sentence() -> None:
    with pytest.raises(Unreachable, match=r"name 'nowhere\.invalid' is not known"):
        post("http://nowhere.invalid/", b"", {}, timeout_s=5, allowed=anywhere)
    with pytest.raises(Unreachable, match="is not known"):
        post("http://a..b/", b"", {}, timeout_s=5, allowed=anywhere)
    with pytest.raises(Unreachable, match="There was no answer: "):
        post("http://127.0.0.1:1/", b"", {}, timeout_s=5, allowed=anywhere)


def test_the_certificate_is_checked_against_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = certified(tmp_path, "hooks.example")
    with tls(certificate, key) as port:
        resolve, _ = names(["127.0.0.1"], ["127.0.0.1"], ["127.0.0.1"])

        def ask(name: str) -> int:
            url = f"https://{name}:{port}/"
            return post(url, b"{}", {}, timeout_s=10, allowed=anywhere, resolve=resolve).status

        with pytest.raises(Unreachable, match="certificate"):
            ask("hooks.example")  # nobody vouches for it
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert ask("hooks.example") == 200
        with pytest.raises(Unreachable, match="certificate"):
            ask("other.example")


def certified(folder: Path, name: str) -> tuple[Path, Path]:
    certificate, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}", "-out", certificate, "-keyout", key],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


class _Quiet(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


class _Forgiving(HTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that does not trust the certificate hangs up."""


@contextmanager
def tls(certificate: Path, key: Path) -> Iterator[int]:
    server = _Forgiving(("127.0.0.1", 0), _Quiet)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def endless() -> Iterator[tuple[str, Callable[[], int]]]:
    """A server whose answer has no end; gives its URL, and how many bytes it got rid of."""
    sent = 0

    class Handler(_Quiet):
        def do_POST(self) -> None:
            nonlocal sent
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()
            try:
                while sent < 100_000_000:
                    sent += self.wfile.write(b"x" * 65536)
            except OSError:
                return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/", lambda: sent
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
