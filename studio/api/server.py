"""One process serves the page, the REST routes and Gradio's named endpoints. Gradio is imported when one is built."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from rich.console import Console
from starlette.types import ASGIApp, Receive, Scope, Send

from studio import log
from studio.api import rest
from studio.api.keys import Door
from studio.api.security import BODY_MAX_BYTES, ErrorResponse, protect
from studio.errors import ConfigurationError
from studio.gpus import nvidia_smi
from studio.runtime import Studio
from studio.settings import Settings, is_address
from studio.store.queue import Recovered

logger = logging.getLogger(__name__)

GRACE_S = 0.5  # at a stop, for answers under way; streams that clients keep open end after it
GIVE_UP_S = 3  # then uvicorn cancels whatever still runs
GRADIO_LOOKS_S = 0.02  # between two looks at Gradio's own queue; its 0.001 takes a tenth of the decoder's time
GRADIO_CACHE_S = (3600, 86400)  # how often Gradio looks for copies to delete, and how old they get
GRADIO_UNUSED = (  # routes that nothing here uses: three write files for anybody, the last one fails on an SVG
    "/gradio_api/upload", "/gradio_api/process_recording", "/gradio_api/deep_link", "/pwa_icon/{size}",
)  # fmt: skip


def serve(settings: Settings) -> None:
    """Run the studio until SIGTERM or Ctrl+C.

    Raises:
        ConfigurationError: the address cannot be used.
    """
    log.configure(settings.log_level, settings.log_format)
    listener = _listen(settings.api_host, settings.api_port)
    studio = Studio(settings)
    server = _Server(studio, listener)
    started = studio.start(work=settings.embedded_worker)
    try:
        _introduce(settings, server.url, started)
        server.run(sockets=[listener])
    finally:
        studio.stop()


@contextmanager
def serving(studio: Studio, port: int = 0) -> Iterator[str]:
    """Serve a started studio from a thread, for a notebook or a test; gives the URL. Port 0 takes a free one."""
    listener = _listen(studio.settings.api_host, port)
    server = _Server(studio, listener)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="server", daemon=True)
    thread.start()
    try:
        while thread.is_alive() and not server.started:
            thread.join(0.01)
        yield server.url
    finally:
        server.should_exit = True
        thread.join()


def build(studio: Studio, closing: threading.Event | None = None) -> FastAPI:
    """The whole application. `closing` is set by the server when it goes down."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:  # then Gradio opens a loop for every lock it makes, and leaves them all open
        return asyncio.run(_build_in_loop(studio, closing or threading.Event()))
    return _build(studio, closing or threading.Event())


async def _build_in_loop(studio: Studio, closing: threading.Event) -> FastAPI:
    return _build(studio, closing)


def _build(studio: Studio, closing: threading.Event) -> FastAPI:
    _calm_gradio(studio.settings)
    import gradio as gr

    from studio.api import endpoints
    from studio.ui import blocks

    app, door = FastAPI(openapi_url=None), Door(studio.settings)
    door.register(app)
    app.add_api_route("/metrics", rest.scrape(studio), include_in_schema=False)
    for path in GRADIO_UNUSED:
        app.add_api_route(path, _closed, methods=["GET", "POST"], include_in_schema=False)
    app.add_middleware(_Below, prefix=rest.PREFIX, below=rest.build(studio, closing))
    page = blocks.build(studio)
    with page:
        endpoints.register(studio, closing)
    page.delete_cache = GRADIO_CACHE_S
    _forget_copies(Path(os.environ["GRADIO_TEMP_DIR"]))
    options: dict[str, Any] = {
        **blocks.looks(), "ssr_mode": False, "run_history": False, "mcp_server": False, "enable_monitoring": False,
        "allowed_paths": [], "max_file_size": BODY_MAX_BYTES, "show_error": False,
    }  # fmt: skip
    gr.mount_gradio_app(app, page, path="/", **options)  # last: routes added after it are not found
    page._queue.sleep_when_free = page._queue.progress_update_sleep_when_free = GRADIO_LOOKS_S
    protect(app, studio.settings, door.refusal)
    page.has_launched = True  # or Gradio leaves its check of FileData paths off, as it does whenever it is mounted
    return app


async def _closed() -> ErrorResponse:
    return ErrorResponse(404, "The studio has no use for this.")


def _calm_gradio(settings: Settings) -> None:
    """Gradio reads these when it is imported: nothing goes out, and its copies lie in the data directory, not in a
    folder under /tmp that all users of the machine share."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("GRADIO_TEMP_DIR", str(settings.data_dir.resolve() / "cache"))


def _forget_copies(cache: Path) -> None:
    """Gradio deletes the copies that it remembers; after a crash nobody remembers them."""
    for copy in cache.glob("*/*"):
        with suppress(OSError):
            if time.time() - copy.stat().st_mtime > GRADIO_CACHE_S[1]:
                copy.unlink()


class _Below:
    """ASGI middleware: what lies below a prefix goes to an application of its own, whatever the path's characters.

    As a mounted route it would leave paths with line breaks, and the prefix itself, to Gradio's page.
    """

    def __init__(self, app: ASGIApp, prefix: str, below: ASGIApp) -> None:
        self._app = app
        self._prefix = prefix
        self._below = below

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and f"{scope['path']}/".startswith(f"{self._prefix}/"):
            scope = {**scope, "root_path": scope.get("root_path", "") + self._prefix}
            await self._below(scope, receive, send)
        else:
            await self._app(scope, receive, send)


class _Server(uvicorn.Server):
    """Uvicorn on a socket that is already bound, which stops soon and returns to its caller."""

    def __init__(self, studio: Studio, listener: socket.socket) -> None:
        host, port = listener.getsockname()[:2]
        self.url = f"http://{_in_url(studio.settings.api_host, host)}:{port}"
        self._closing = threading.Event()
        config = uvicorn.Config(
            build(studio, self._closing), log_config=None, access_log=False, server_header=False, ws="none",
            proxy_headers=False,  # `security.Gate` decides whose word counts
            timeout_graceful_shutdown=GIVE_UP_S,
        )  # fmt: skip
        super().__init__(config)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._closing.set()
        asyncio.get_running_loop().call_later(GRACE_S, self._hang_up)
        await super().shutdown(sockets)

    def _hang_up(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.close()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Uvicorn's own raises the signal again when it has stopped, which would kill the studio before it has."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ConfigurationError(
            f"Cannot listen on {host}:{port} ({error.strerror}): set DGX_MUSIC_API_PORT or DGX_MUSIC_API_HOST."
        ) from error


def _in_url(configured: str, bound: str) -> str:
    host = configured if configured == "localhost" else bound
    if host in ("0.0.0.0", "::"):
        return "localhost"
    return f"[{host}]" if ":" in host else host


def _introduce(settings: Settings, url: str, started: Recovered) -> None:
    gpus = nvidia_smi() if settings.device != "cpu" else []
    out = Console(highlight=False, markup=False, soft_wrap=True)  # a path is no markup, and stays on its line
    out.print(f"Studio    {url}", style="bold")
    out.print(f"Model     {settings.model_name}, on {gpus[0].name if gpus else 'the CPU'}")
    out.print(f"Data      {Path(settings.data_dir).resolve()}")
    out.print(f"Recovered {started.pending} waiting, {len(started.interrupted)} interrupted")
    if not settings.api_keys and not _is_loopback(settings.api_host):
        logger.warning("Everybody who reaches %s can use this studio: it asks for no key.", settings.api_host)


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (is_address(host) and ipaddress.ip_address(host).is_loopback)
