"""A real server on a free port, with the sine engine behind it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from studio import Settings, Studio
from studio.api.server import serving
from studio.engine.base import EngineLoader, LoadProgress
from tests.fakes import SineEngine, load_sine

API = "/api/v1"


@dataclass(frozen=True)
class Served:
    """A running studio, seen from outside (`http`) and from inside (`studio`)."""

    url: str
    studio: Studio
    http: httpx.Client
    close: Callable[[], object]  # the server, not the studio

    def ask(self, prompt: str = "sad piano", **fields: object) -> str:
        """Put a request into the queue; its job's id."""
        answer = self.http.post(f"{API}/generate", json={"prompt": prompt, "duration": 1.0, **fields})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["job_id"])

    def job(self, job_id: str) -> dict[str, Any]:
        body: dict[str, Any] = self.http.get(f"{API}/jobs/{job_id}").json()
        return body

    def finish(self, job_id: str) -> dict[str, Any]:
        """The job when it has ended."""
        self.until(lambda: self.job(job_id)["status"] in ("completed", "failed", "cancelled"))
        return self.job(job_id)

    def until(self, condition: Callable[[], object], timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, "it did not happen in time"
            time.sleep(0.1)


@contextmanager
def served(data_dir: Path, load: EngineLoader = load_sine, **settings: object) -> Iterator[Served]:
    """Serve a studio of its own until the block ends."""
    made = Settings.model_validate(
        {"data_dir": data_dir, "retry_delay_seconds": 0.05, "shutdown_seconds": 1, **settings}
    )
    with Studio(made, load) as studio, ExitStack() as server:
        url = server.enter_context(serving(studio))
        with httpx.Client(base_url=url, timeout=60) as http:
            yield Served(url, studio, http, server.close)


def load_slow(model: str, progress: LoadProgress) -> SineEngine:
    """Decodes a second of audio in a second, one job at a time."""
    return SineEngine(model, slots=1, step_s=0.1)
