"""The GPUs of this machine, as their driver's own tool tells. Imports no torch."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass

GB = 1e9
TIMEOUT_S = 2.0  # of the tool: a broken driver hangs


@dataclass(frozen=True)
class Gpu:
    """A GPU as its driver describes it; one that shares the host's memory does not tell its own."""

    name: str
    memory_total_gb: float | None
    memory_free_gb: float | None
    busy_percent: float | None = None

    @property
    def memory_used_gb(self) -> float | None:
        if self.memory_total_gb is None or self.memory_free_gb is None:
            return None
        return self.memory_total_gb - self.memory_free_gb


def nvidia_smi() -> list[Gpu]:
    """The host's NVIDIA GPUs; none where there is no driver, or it does not answer."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    command = [tool, "--query-gpu=name,memory.total,memory.free,utilization.gpu", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [gpu for line in answer.stdout.splitlines() if (gpu := _parse(line))]


def _parse(line: str) -> Gpu | None:
    """`NVIDIA H200, 143771, 143157, 12`: MiB and percent, or `[N/A]` where the GPU shares the host's memory.

    Nothing of other lines: some drivers say `No devices were found`, and that all is well.
    """
    fields = [field.strip() for field in line.rsplit(",", 3)]
    if len(fields) != 4:
        return None
    name, total, free, busy = fields
    return Gpu(name, _gigabytes(total), _gigabytes(free), float(busy) if busy.isdecimal() else None)


def _gigabytes(mebibytes: str) -> float | None:
    return round(int(mebibytes) * 2**20 / GB, 1) if mebibytes.isdecimal() else None
