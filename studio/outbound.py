"""One POST to an address that a stranger has named. Knows where such a request may go, and nothing of what it says.

The name is resolved once, the addresses are judged, and what was judged is what is connected to: a name that means
another address a moment later (DNS rebinding) gains nothing. No redirect is followed, no proxy asked, and of the answer
only the head is read, within a deadline that holds for all of it, the resolver's answer too.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpcore
import httpx

from studio.errors import StudioError

Resolve = Callable[[str, int], list[str]]  # a name and a port → addresses

NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # an IPv4 address in IPv6's clothes, RFC 6052
UNICAST = ipaddress.IPv6Network("2000::/3")  # all of IPv6 that has been given out
SIX_TO_FOUR = ipaddress.IPv6Network("2002::/16")  # likewise, through strangers' relays, RFC 7526


class ForbiddenAddress(StudioError):
    """The address is private: only DGX_MUSIC_WEBHOOK_ALLOW_PRIVATE lets the studio send anything there."""


class Unreachable(StudioError):
    """There was no answer."""

    permanent = False


@dataclass(frozen=True)
class Answer:
    """The head of a response."""

    status: int
    retry_after_s: float | None  # what the receiver asks for, when it asks in seconds


def resolve(name: str, port: int) -> list[str]:
    """The system's resolver. Raises Unreachable."""
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Unreachable(f"The name {name[:100]!r} is not known.") from error
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def is_public(address: str) -> bool:
    """Whether everybody's packets may go there: not private, loopback, link-local, multicast, reserved."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or (ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in NAT64 else None)
        if inner is not None:
            return is_public(str(inner))
        if ip not in UNICAST or ip in SIX_TO_FOUR:
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def anywhere(address: str) -> bool:
    """Every address will do."""
    return True


def is_private_literal(url: str) -> bool:
    """Whether a URL says by itself, without asking a resolver, that it leads nowhere public."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    try:
        return not is_public(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def post(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    timeout_s: float,
    allowed: Callable[[str], bool] = is_public,
    resolve: Resolve = resolve,
) -> Answer:
    """Send the body; the answer's head, whatever its status.

    Args:
        timeout_s: for all of it, the resolver's answer too.
        allowed: whether an address may be connected to.
        resolve: gives the addresses of a name.

    Raises:
        ForbiddenAddress: none of the name's addresses is allowed.
        Unreachable: no such name, no connection, no TLS, no HTTP, or not in time.
    """
    backend = _CheckedBackend(time.monotonic() + timeout_s, allowed, resolve)
    # httpcore writes an IPv6 host without its brackets
    sent = [(b"Host", urlsplit(url).netloc.encode()), *((k.encode(), v.encode()) for k, v in headers.items())]
    timeouts = {"timeout": dict.fromkeys(("connect", "read", "write", "pool"), timeout_s)}
    try:
        with (
            httpcore.ConnectionPool(ssl_context=_ssl_context(url), network_backend=backend) as pool,
            pool.stream("POST", url, headers=sent, content=body, extensions=timeouts) as response,
        ):
            return Answer(response.status, _retry_after_s(response.headers))
    except httpcore.TimeoutException as error:
        raise Unreachable(f"There was no answer within {timeout_s:g} s.") from error
    except (httpcore.NetworkError, httpcore.ProtocolError) as error:
        raise Unreachable(f"There was no answer: {error}") from error


def _ssl_context(url: str) -> ssl.SSLContext | None:
    return httpx.create_ssl_context() if url.startswith("https:") else None


def _retry_after_s(headers: Iterable[tuple[bytes, bytes]]) -> float | None:
    asked = next((value for name, value in headers if name.lower() == b"retry-after"), b"")
    return float(asked) if asked.isdigit() and len(asked) < 10 else None


class _CheckedBackend(httpcore.NetworkBackend):
    """Connects to what it has judged itself."""

    def __init__(self, deadline: float, allowed: Callable[[str], bool], resolve: Resolve) -> None:
        self._deadline = deadline
        self._allowed = allowed
        self._resolve = resolve
        self._network = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        found = [address.partition("%")[0] for address in self._look_up(host, port)]
        addresses = [address for address in found if self._allowed(address)]
        if not addresses:
            raise ForbiddenAddress()
        *others, last = addresses
        for address in others:
            try:
                return self._connect(address, port)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return self._connect(last, port)

    def _look_up(self, host: str, port: int) -> list[str]:
        """The system's resolver cannot be told to hurry: one that is late is left to itself, in a thread of its own."""
        answer: Future[list[str]] = Future()

        def ask() -> None:
            try:
                answer.set_result(self._resolve(host, port))
            except Exception as error:
                answer.set_exception(error)

        threading.Thread(target=ask, name="resolver", daemon=True).start()
        try:
            return answer.result(_left_s(self._deadline))
        except TimeoutError as error:
            raise Unreachable(f"The resolver did not answer in time for the name {host[:100]!r}.") from error

    def _connect(self, address: str, port: int) -> httpcore.NetworkStream:
        stream = self._network.connect_tcp(address, port, _left_s(self._deadline))
        return _Timed(stream, self._deadline)


class _Timed(httpcore.NetworkStream):
    """A connection with one deadline for all that passes: a sender of single bytes does not win time."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left_s(self._deadline))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left_s(self._deadline))

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        stream = self._stream.start_tls(ssl_context, server_hostname, _left_s(self._deadline))
        return _Timed(stream, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)

    def close(self) -> None:
        self._stream.close()


def _left_s(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout
    return left
