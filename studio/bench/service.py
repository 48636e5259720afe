"""The studio as its users meet it: how soon the page is there, how soon music, how many requests, and how true its
estimates are.

The server runs as a process of its own on a free port, with a data directory of its own; the estimates are measured in
this process (`studio.bench.estimates`).
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import psutil
from rich.console import Console
from rich.table import Table

from studio.audio.wav import HEADER_BYTES
from studio.bench import estimates
from studio.settings import ENV_PREFIX

START_MAX_S = 120.0
TRACK_S = 8.0  # of music
WARM_TRACKS = 5
CLIENTS = 4  # that send requests at once
BURST_S = 3.0
POLL_S = 0.05
API = "/api/v1"
REQUEST = {"prompt": "slow rain on a tin roof", "duration": TRACK_S, "seed": 7}


def run(paced: bool = False) -> None:
    """Measure; prints tables and, last, one line of JSON. `paced`: the estimates only, of an engine whose time is
    known."""
    out = Console(stderr=not sys.stdout.isatty())
    result: dict[str, Any] = {"bench": "service", "engine": "paced" if paced else "mini"}
    with TemporaryDirectory(prefix="studio-bench-") as home:
        if not paced:
            with out.status("a server starts, makes music, and is asked a lot"):
                result["server"] = _serve(Path(home) / "server")
            out.print(_server_table(result["server"]))
        with out.status("jobs come one by one, then many at once"):
            load = estimates.load_paced if paced else None
            result["estimates"] = estimates.measure(Path(home) / "estimates", load)
        out.print(_estimates_table(result["estimates"]))
    sys.stdout.write(json.dumps(result) + "\n")


def _serve(data_dir: Path) -> dict[str, float]:
    """Figures of a server's first minute; seconds, requests a second, MB."""
    import_s = _took(lambda: subprocess.run([sys.executable, "-c", "import gradio"], check=True))
    began = time.perf_counter()
    with _server(data_dir) as (http, process):
        page_s = time.perf_counter() - began
        cold_s = _took(lambda: _make(http))
        warm_s = statistics.median(_took(lambda: _make(http)) for _ in range(WARM_TRACKS))
        first_sound_s = statistics.median(_first_sound(http) for _ in range(WARM_TRACKS))
        memory_mb = process.memory_info().rss / 1e6
        http.post(f"{API}/queue/pause").raise_for_status()
        job_id = http.post(f"{API}/generate", json=REQUEST).json()["job_id"]
        enqueued = _rate(lambda: http.post(f"{API}/generate", json=REQUEST))
        status = _rate(lambda: http.get(f"{API}/jobs/{job_id}"))
    return {
        "import_gradio_s": round(import_s, 2),
        "first_page_s": round(page_s, 2),
        "track_cold_s": round(cold_s, 2),
        "track_warm_s": round(warm_s, 2),
        "first_sound_s": round(first_sound_s, 2),
        "enqueued_per_s": round(enqueued, 1),
        "status_per_s": round(status, 1),
        "memory_mb": round(memory_mb),
    }


@contextmanager
def _server(data_dir: Path) -> Iterator[tuple[httpx.Client, psutil.Process]]:
    """A server that has sent its first page."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    settings = {"DATA_DIR": str(data_dir), "API_PORT": str(port), "LOG_LEVEL": "WARNING"}
    environment = os.environ | {ENV_PREFIX + name: value for name, value in settings.items()}
    process = subprocess.Popen([sys.executable, "-m", "studio", "serve"], env=environment, stdout=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as http:
            _first_page(http, process)
            yield http, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def _first_page(http: httpx.Client, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_MAX_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            http.get("/").raise_for_status()
            return
        except httpx.TransportError:
            time.sleep(POLL_S)
    raise TimeoutError(f"The server gave no page within {START_MAX_S:g} s.")


def _make(http: httpx.Client) -> None:
    """Music from a prompt: until the audio has come over the wire."""
    answer = http.post(f"{API}/generate", json=REQUEST).raise_for_status()
    http.get(_completed(http, answer.headers["Location"])["file_url"]).raise_for_status()


def _first_sound(http: httpx.Client) -> float:
    """Seconds from a request to the first samples of its music, which is then made to its end."""
    began = time.perf_counter()
    location = http.post(f"{API}/generate", json=REQUEST).raise_for_status().headers["Location"]
    with http.stream("GET", f"{location}/stream") as answer:
        heard = answer.raise_for_status().iter_raw()
        size = 0
        while size <= HEADER_BYTES:
            size += len(next(heard))
    took_s = time.perf_counter() - began
    _completed(http, location)
    return took_s


def _completed(http: httpx.Client, location: str) -> dict[str, Any]:
    while (job := http.get(location).raise_for_status().json())["status"] != "completed":
        assert job["status"] in ("pending", "processing"), job["error_message"]
        time.sleep(POLL_S)
    return dict(job)


def _rate(ask: Callable[[], httpx.Response]) -> float:
    """Requests a second of some clients at once."""
    until = time.perf_counter() + BURST_S

    def client(_number: int) -> int:
        done = 0
        while time.perf_counter() < until:
            ask().raise_for_status()
            done += 1
        return done

    with ThreadPoolExecutor(CLIENTS) as clients:
        return sum(clients.map(client, range(CLIENTS))) / BURST_S


def _took(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _server_table(figures: dict[str, float]) -> Table:
    table = Table("server", "")
    for name, value in figures.items():
        table.add_row(name, f"{value:g}")
    return table


def _estimates_table(figures: dict[str, dict[str, float]]) -> Table:
    table = Table("estimates", "looks", "median error", "p90", "median, seconds", "said / came")
    for name, row in figures.items():
        table.add_row(
            name, f"{row['looks']}", f"{row['p50']:.0%}", f"{row['p90']:.0%}", f"{row['p50_s']:.2f}",
            f"{row['bias']:.2f}",
        )  # fmt: skip
    return table
