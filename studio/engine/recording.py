"""A step recorded once and replayed: the same operators without Python between them. Knows steps and batches only.

Half of a small model's step on a CPU is the interpreter's and the dispatcher's time; on a GPU most of it is the time
between kernels. On a CPU the recording is a TorchScript trace, which also runs without the interpreter lock that a busy
server's other threads want; on a GPU the whole step, sampling included, is one CUDA graph.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable
from typing import Protocol

import torch
from torch import Tensor, nn

WORTH_RECORDING = 160  # steps that are left; a trace takes as long as it saves in about a hundred

Tensors = tuple[Tensor, ...]
Capture = Callable[[Callable[[], object]], Callable[[], object]]


class Batch(Protocol):
    """What a step reads besides its own buffers."""

    @property
    def kind(self) -> Hashable:
        """Batches of a kind differ in their tensors only."""
        ...

    @property
    def tensors(self) -> Tensors: ...

    def holding(self, tensors: Tensors) -> Batch:
        """The same with other tensors."""
        ...


class Recorder(Protocol):
    """Keeps recordings of one step."""

    def run(self, batch: Batch, left: int) -> None:
        """One step for a batch whose requests have at most `left` steps to go."""
        ...


def recorder(step: nn.Module, device: torch.device) -> Recorder:
    """What suits the device."""
    return Graphs(step, cuda_graphs()) if device.type == "cuda" else Traces(step)


class Plain:
    """Records nothing: for a step that is a few operators."""

    def __init__(self, step: nn.Module) -> None:
        self._step = step

    def run(self, batch: Batch, left: int) -> None:
        self._step(batch)


class Traces:
    """TorchScript, a trace for each kind of batch: shapes may change."""

    def __init__(self, step: nn.Module) -> None:
        self._step = step
        self._traces: dict[Hashable, Callable[..., Tensor]] = {}

    def run(self, batch: Batch, left: int) -> None:
        """Recording runs nothing that counts: the step's buffers are put back."""
        if batch.kind not in self._traces and left >= WORTH_RECORDING:
            self._traces[batch.kind] = self._trace(batch)
        if batch.kind in self._traces:
            self._traces[batch.kind](*batch.tensors)
        else:
            self._step(batch)

    def _trace(self, batch: Batch) -> Callable[..., Tensor]:
        buffers = {name: getattr(self._step, name) for name in ("codes", "tokens", "step", "position", "mass")}
        saved = {name: buffer.clone() for name, buffer in buffers.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated in favour of compilers, which users' machines do not have
            trace: Callable[..., Callable[..., Tensor]] = torch.jit.trace
            recorded = trace(_Unpacked(self._step, batch), batch.tensors, check_trace=False)
        for name, buffer in buffers.items():
            buffer.copy_(saved[name])
        return recorded


class _Unpacked(nn.Module):
    """A step whose batch comes as tensors, which is what can be traced."""

    def __init__(self, step: nn.Module, batch: Batch) -> None:
        super().__init__()
        self.step = step
        self._batch = batch

    def forward(self, *tensors: Tensor) -> Tensor:
        tokens: Tensor = self.step(self._batch.holding(tensors))
        return tokens


class Graphs:
    """CUDA graphs, one for each kind and shape of batch, which they read from tensors of their own.

    The first step of a bucket runs as it is, which prepares the libraries; the second is captured, and replayed.
    """

    def __init__(self, step: nn.Module, capture: Capture) -> None:
        self._step, self._capture = step, capture
        self._seen: set[Hashable] = set()
        self._graphs: dict[Hashable, tuple[Tensors, Callable[[], object]]] = {}
        self._loaded: tuple[Hashable, Batch] | None = None  # whose numbers a graph's tensors hold

    def run(self, batch: Batch, left: int) -> None:
        bucket = batch.kind, tuple(tensor.shape for tensor in batch.tensors)
        if bucket in self._seen and bucket not in self._graphs:
            self._graphs[bucket] = self._record(batch)
            self._loaded = bucket, batch
        if bucket not in self._graphs:
            self._seen.add(bucket)
            self._step(batch)
            return
        own, replay = self._graphs[bucket]
        if self._loaded is None or self._loaded[0] != bucket or self._loaded[1] is not batch:
            for tensor, given in zip(own, batch.tensors, strict=True):
                tensor.copy_(given)
            self._loaded = bucket, batch
        replay()

    def _record(self, batch: Batch) -> tuple[Tensors, Callable[[], object]]:
        own = tuple(tensor.clone() for tensor in batch.tensors)
        held = batch.holding(own)
        return own, self._capture(lambda: self._step(held))


def cuda_graphs() -> Capture:
    """Captures what a function launches on the GPU, and runs none of it; all graphs share their working memory.

    Other threads may go on using the GPU meanwhile (a codec, another engine).
    """
    pool = torch.cuda.graph_pool_handle()

    def capture(function: Callable[[], object]) -> Callable[[], object]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            function()
        replay: Callable[[], object] = graph.replay
        return replay

    return capture
