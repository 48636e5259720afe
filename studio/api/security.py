"""What is refused before any surface sees it: foreign host names and origins, too much body.

Knows no routes. One gate stands before REST, Gradio's endpoints and the page alike.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable

import anyio
from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from studio.limits import Clients
from studio.settings import ENV_PREFIX, Settings, is_address

BODY_MAX_BYTES = 1_000_000  # a batch of ten requests of the longest prompts has 30 kB
CLIPS_PATH = "/api/v1/clips"  # where audio files are sent, which a setting bounds
LOGIN_PATH, LOGIN_MAX_BYTES = "/login", 8000
DRAIN_MAX_BYTES, DRAIN_S = 16_000_000, 5.0  # of a body that was refused; who sends more or longer loses the connection
HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")
PORTS = {"http": "80", "https": "443"}
READING_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

Refusal = Callable[[Scope, Headers], Response | None]


class ErrorResponse(JSONResponse):
    """`{"error": sentence, …}` in ASCII: whatever text came in, lone surrogates too, the body can be sent."""

    def __init__(self, status_code: int, sentence: str, headers: dict[str, str] | None = None, **more: object) -> None:
        super().__init__({"error": sentence, **more}, status_code, headers)

    def render(self, content: object) -> bytes:
        return json.dumps(content, allow_nan=False).encode("ascii")


def protect(app: FastAPI, settings: Settings, refusal: Refusal) -> None:
    """Put the gate before `app`. No foreign page may read answers or make a browser act, and nobody whom `refusal` has
    an answer for.

    Gradio echoes any Origin with credentials when the host is not localhost, and stands down where the app that it is
    mounted on has a CORSMiddleware: here one that allows no origin.
    """
    app.add_middleware(CORSMiddleware, allow_origins=[])
    app.add_middleware(Gate, settings=settings, refusal=refusal)


class Gate:
    """ASGI middleware: host names, origins, the body's size, and what only trusted proxies may say."""

    def __init__(self, app: ASGIApp, settings: Settings, refusal: Refusal) -> None:
        self._app = app
        self._refused = refusal
        self._proxies = Clients(settings.trusted_proxies)
        self._hosts = [name.strip("[]").lower() for name in (*settings.allowed_hosts, settings.api_host)]
        self._everywhere = _is_unspecified(settings.api_host)
        self._body_max_bytes = {CLIPS_PATH: round(settings.clip_max_mb * 1e6), LOGIN_PATH: LOGIN_MAX_BYTES}
        self._asks = bool(settings.api_keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if (scope.get("client") or ("unknown", 0))[0] not in self._proxies:
            scope["headers"] = [item for item in scope["headers"] if not _said_by_proxies(item[0])]
        headers = Headers(scope=scope)
        refusal = self._refusal(scope["method"], headers) or self._refused(scope, headers)
        if refusal is None:
            most = self._body_max_bytes.get(scope["path"], BODY_MAX_BYTES)
            body = await _read_body(headers, receive, most)
            if body is not None:
                await self._app(scope, _replay(body, receive), _private(send) if self._asks else send)
                return
            refusal = ErrorResponse(413, f"The body has more than {most // 1000} kB.")
        if _announces_body(headers):
            refusal.headers["Connection"] = "close"
            await _answer_while_they_send(refusal, scope, receive, send)
        else:
            await refusal(scope, receive, send)

    def _refusal(self, method: str, headers: Headers) -> ErrorResponse | None:
        host = headers.get("host", "")
        forwarded = headers.get("x-forwarded-host", host).rpartition(",")[2].strip()  # the nearest proxy's word
        for name in (host, forwarded):
            if not self._known(_host_name(name)):
                hint = f"add it to {ENV_PREFIX}ALLOWED_HOSTS"
                return ErrorResponse(400, f"The studio does not answer to the host name {name!r}: {hint}.")
        origin = headers.get("origin")
        if origin is None or method in READING_METHODS or _is_of(origin, host) or _is_of(origin, forwarded):
            return None
        return ErrorResponse(403, f"Pages of {origin!r} may not use this studio.")

    def _known(self, name: str | None) -> bool:
        if name is None:
            return False
        if self._everywhere and is_address(name):  # rebinding a name needs a name
            return True
        return any(name == host or (host.startswith("*.") and name.endswith(host[1:])) for host in self._hosts)


def _said_by_proxies(header: bytes) -> bool:
    """Where the studio is, as seen from outside; Gradio takes `X-Gradio-Server` for its own address."""
    return header.startswith(b"x-forwarded-") or header in (b"forwarded", b"x-gradio-server")


def _is_of(origin: str, authority: str) -> bool:
    """Whether a page of this origin asks the place that it came from. Where proxies leave out the port, any will do."""
    scheme, _, of_page = origin.partition("://")
    page, here = HOST.fullmatch(of_page), HOST.fullmatch(authority)
    if page is None or here is None or page[1].lower() != here[1].lower():
        return False
    return here[2] is None or (page[2] or PORTS.get(scheme)) == here[2]


def _host_name(authority: str) -> str | None:
    """The lower-case host name of `name:port`, IPv6 without brackets; nothing of anything else."""
    match = HOST.fullmatch(authority)
    return match[1].strip("[]").lower() if match else None


def _is_unspecified(host: str) -> bool:
    return is_address(host) and ipaddress.ip_address(host).is_unspecified


def _announces_body(headers: Headers) -> bool:
    return "content-length" in headers or "transfer-encoding" in headers


def _private(send: Send) -> Send:
    """What was answered to somebody with a key is not for whoever else a cache serves."""

    async def marked(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).setdefault("Cache-Control", "private")
        await send(message)

    return marked


async def _read_body(headers: Headers, receive: Receive, most: int) -> bytes | None:
    """The whole body; nothing when it is too large (announced, or sent in pieces) or breaks off."""
    if not _announces_body(headers):
        return b""
    announced = headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > most:
        return None
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > most:
            return None
        more = message.get("more_body", False)
    return bytes(body)


async def _answer_while_they_send(answer: Response, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer at once, but close only when the client has sent what it wanted to, within bounds.

    Closing on unread data resets the connection, and the client may never see the answer (RFC 9112, section 9.6).
    """

    async def unfinished(message: Message) -> None:
        await send({**message, "more_body": True} if message["type"] == "http.response.body" else message)

    await answer(scope, receive, unfinished)
    with anyio.move_on_after(DRAIN_S):
        await _drain(receive)
    await send({"type": "http.response.body"})


async def _drain(receive: Receive) -> None:
    left = DRAIN_MAX_BYTES
    more = True
    while more and left > 0:
        message = await receive()
        left -= len(message.get("body", b""))
        more = message.get("more_body", False)  # who hangs up sends no more either


def _replay(body: bytes, receive: Receive) -> Receive:
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return pending.pop() if pending else await receive()

    return replayed
