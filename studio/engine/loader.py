"""From a model's name to an engine that can decode: picks device and precision, reads the weights."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from studio.engine import catalog
from studio.engine.base import Engine, EngineLoader, LoadProgress
from studio.errors import ConfigurationError
from studio.settings import Settings

if TYPE_CHECKING:
    import torch

    from studio.engine.transformer import DecoderConfig

SMALL = 50_000_000  # parameters of a decoder that one thread serves best
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}  # of a parameter
CGROUP_CPU = Path("/sys/fs/cgroup/cpu.max")  # "quota period", of a container's CPU time
RESERVE_BYTES = 2**29  # for the codec and what a step computes


def engine_loader(settings: Settings) -> EngineLoader:
    """A loader of the catalogue's models. torch is imported when the first model is loaded."""

    def load(name: str, progress: LoadProgress) -> Engine:
        return load_engine(name, settings, progress)

    return load


def load_engine(name: str, settings: Settings, progress: LoadProgress) -> Engine:
    """Load a model onto the device that the settings name.

    Raises:
        ModelNotFound, DownloadError, CheckpointError, DiskFull, ConfigurationError (no such device).
    """
    progress(0.0, "importing torch")
    share_the_cpu()
    from studio.engine import weights
    from studio.engine.decoder import bytes_a_slot
    from studio.engine.musicgen import MusicGenEngine

    info = catalog.resolve(name, settings)
    device = pick_device(settings.device)
    model = weights.load(info, settings, device, progress)
    precision = pick_precision(settings.precision, device, model.config)
    parameters = sum(tensor.numel() for tensor in model.lm.values())
    pick_threads(parameters)
    frames = math.ceil(model.max_duration * model.codec.frame_rate)
    weights_bytes = parameters * BYTES[precision]
    slots = fitting_slots(
        settings.slots, free_bytes(device) - weights_bytes, bytes_a_slot(model.config, frames, precision, device)
    )
    return MusicGenEngine(model, device, precision, slots)


def fitting_slots(wanted: int, free: int, each: int) -> int:
    """As many of the slots wanted as fit into the bytes free, leaving some for what a step computes; at least one."""
    return max(1, min(wanted, (free - RESERVE_BYTES) // each))


def free_bytes(device: torch.device) -> int:
    """Memory of the device that nobody uses."""
    import torch

    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else int(psutil.virtual_memory().available)


def share_the_cpu() -> None:
    """Threads that wait spin for some microseconds, then sleep; large tensors lie in large pages.

    Sleeping at once doubles the time of a step on a quiet machine; spinning for long, OpenMP's default, makes it a
    hundred times longer beside a busy browser. Large pages save a step that reads all weights 3%. OpenMP reads this
    when torch is imported, torch with its first tensor.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def pick_threads(parameters: int) -> None:
    """A small decoder's step is too short to share: a second thread gains a tenth on a quiet machine, and beside a
    busy browser the two wait for each other."""
    import torch

    torch.set_num_threads(1 if parameters < SMALL else _cores())


def _cores() -> int:
    """Those that this process may use: threads of a step wait for each other, so one without a core holds up all."""
    cores = psutil.cpu_count(logical=False) or 1
    if hasattr(os, "sched_getaffinity"):
        cores = min(cores, len(os.sched_getaffinity(0)))
    try:
        quota, period = CGROUP_CPU.read_text().split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no Linux, no container, or "max", no limit
        return cores


def pick_device(wanted: str) -> torch.device:
    """The device that `DEVICE` means here. Raises ConfigurationError where it is not there."""
    import torch

    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(wanted)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigurationError(f"DGX_MUSIC_DEVICE: there is no {wanted!r} here; set it to auto or cpu.")
    return device


def pick_precision(wanted: str, device: torch.device, config: DecoderConfig) -> str:
    """The precision that `PRECISION` means on this device for a decoder: where it is `auto`, the fastest that is good
    enough.

    On a CPU that is int8 if it runs the compiled step (AVX2) or multiplies bytes (VNNI; else torch's rounding is
    coarser and no faster), else bf16 if it has that. `python -m studio bench quality` says what each costs.
    """
    import torch

    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16"
    from studio.engine import native

    if native.suits(config) or torch.cpu._is_vnni_supported():
        return "int8"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() else "fp32"
