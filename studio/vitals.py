"""What the machine does, over the last quarter of an hour, and what runs on it. Knows no jobs and no torch."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import psutil

from studio.gpus import Gpu
from studio.schemas import utcnow

SAMPLE_S = 5.0
FIRST_S = 0.5  # whoever looks right after the start sees something
KEPT = 180  # samples: a quarter of an hour
GB = 1e9
PARTS = ("gradio", "torch", "audiocraft", "transformers", "sqlmodel", "limits")


@dataclass(frozen=True)
class Sample:
    """The machine at one moment. Memory in GB; `gpu_…` are None where there is none, or its driver does not tell."""

    at: datetime
    cpu_percent: float  # of all cores together
    own_cpu_percent: float  # this process's share of them
    memory_gb: float  # in use on the machine
    own_memory_gb: float  # of it, this process
    gpu_percent: float | None = None
    gpu_memory_gb: float | None = None


class Vitals:
    """Takes a sample now and then, in a thread of its own, and keeps the last ones.

    Args:
        gpus: asks the driver; what all of them do is added up.
    """

    def __init__(self, gpus: Callable[[], Sequence[Gpu]], every_s: float = SAMPLE_S, kept: int = KEPT) -> None:
        self._gpus = gpus
        self._every_s = every_s
        self._process = psutil.Process()
        self._samples: deque[Sample] = deque(maxlen=kept)
        self._gpus_seen: Sequence[Gpu] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vitals", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Take no more samples; those taken stay."""
        self._stopping.set()

    def samples(self) -> list[Sample]:
        """The last ones, the oldest first."""
        return list(self._samples)

    def gpus(self) -> Sequence[Gpu]:
        """The GPUs as they were last seen, at once; none before the first look."""
        return self._gpus_seen

    def _run(self) -> None:
        self._look()  # psutil tells the load since it was last asked
        wait_s = min(FIRST_S, self._every_s)
        while not self._stopping.wait(wait_s):
            self._samples.append(self._look())
            wait_s = self._every_s

    def _look(self) -> Sample:
        memory = psutil.virtual_memory()
        gpus = self._gpus_seen = self._gpus()
        return Sample(
            at=utcnow(),
            cpu_percent=psutil.cpu_percent(),
            own_cpu_percent=self._process.cpu_percent() / (os.cpu_count() or 1),
            memory_gb=(memory.total - memory.available) / GB,
            own_memory_gb=self._process.memory_info().rss / GB,
            gpu_percent=_mean([gpu.busy_percent for gpu in gpus]),
            gpu_memory_gb=_sum([gpu.memory_used_gb for gpu in gpus]),
        )


@dataclass(frozen=True)
class WorkerSeen:
    """A worker as it last spoke."""

    worker_id: str
    host: str
    pid: int
    device: str | None  # None until it has loaded a model
    model: str | None
    slots: int  # requests that it decodes together, at present
    silent_s: float  # since it last spoke
    alive: bool


@dataclass(frozen=True)
class Machine:
    """What does not change while the studio runs."""

    processor: str
    cores: int
    memory_gb: float
    system: str
    versions: dict[str, str]


def machine() -> Machine:
    """The host, Python, and the versions of what matters; reads the packages' metadata and imports none of them."""
    return Machine(
        processor=_processor(),
        cores=os.cpu_count() or 1,
        memory_gb=psutil.virtual_memory().total / GB,
        system=f"{platform.system()} {platform.release()}",
        versions={"Python": platform.python_version()} | {name: importlib.metadata.version(name) for name in PARTS},
    )


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            found = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        found = ""
    return found or platform.processor() or platform.machine()


def _sum(values: Sequence[float | None]) -> float | None:
    told = [value for value in values if value is not None]
    return sum(told) if told else None


def _mean(values: Sequence[float | None]) -> float | None:
    total = _sum(values)
    return None if total is None else total / sum(value is not None for value in values)
