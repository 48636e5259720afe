"""A projection without bias, its weight laid out once for the fastest kernel of its device. Knows no model."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Module):
    """y = x Wᵀ for x [..., in]."""

    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        """`weight`: [out, in]."""
        super().__init__()
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., out]."""
        return F.linear(x, self.weight)

    def gelu(self, x: Tensor) -> Tensor:
        """gelu(x Wᵀ), exact."""
        return F.gelu(self(x))

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """residual + x Wᵀ."""
        return residual + self.forward(x)


class PackedLinear(Linear):
    """The same through oneDNN with a packed weight, two to three times as fast as `F.linear` for few rows on a CPU.

    Its result for a row is the same bit for bit with 2 to 12 rows (one row alone, and 16 in fp32, take other kernels);
    `F.linear`'s changes from 2 rows to 4. These are the operators that torch's own inductor emits for frozen weights.
    """

    ROWS_HINT = 2  # a request and its null branch

    def __init__(self, weight: Tensor) -> None:
        super().__init__(torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), self.ROWS_HINT))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _scripted(_packed_linear)(x, self.weight)
        return y

    def gelu(self, x: Tensor) -> Tensor:
        y: Tensor = _scripted(_packed_linear_gelu)(x, self.weight)
        return y

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, residual, self.weight, None, "add")
        return y


class Int8Linear(nn.Module):
    """Weights in 8 bits with a scale for each output, through FBGEMM; x [R, in] is rounded to 8 bits as it comes.

    Each row of x has its own scale, and sums of integers are exact: a row's result is the same in any company.
    """

    def __init__(self, weight: Tensor) -> None:
        """`weight`: [out, in]."""
        super().__init__()
        scale = weight.float().abs().amax(dim=1).clamp(min=1e-12).double() / 127
        rounded = torch.quantize_per_channel(weight.float(), scale, torch.zeros_like(scale).long(), 0, torch.qint8)
        self.packed: Any = torch.ops.quantized.linear_prepack(rounded, None)
        self.steps = 127 if _has_vnni() else 63  # older processors add two products in 16 bits, where 127 overflows

    def forward(self, x: Tensor) -> Tensor:
        """[R, out]."""
        y, scale = self._scaled(x)
        return y * scale

    def gelu(self, x: Tensor) -> Tensor:
        """gelu(x Wᵀ), exact."""
        return F.gelu(self.forward(x))

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """residual + x Wᵀ."""
        return torch.addcmul(residual, *self._scaled(x))

    def _scaled(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The result but for the scale of each row, and that scale [R, 1]."""
        scale = x.abs().amax(dim=-1, keepdim=True).clamp_(min=1e-12)
        zero = self.steps + 1
        y = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            x / scale, 1 / self.steps, zero, self.packed
        )
        return y, scale


class Int8WeightLinear(Linear):
    """Weights in 8 bits with a scale for each output; x stays as it is. For GPUs, where reading the weights is what a
    step waits for."""

    scale: Tensor  # [out]

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        """`weight`: [out, in]; `dtype`: of x."""
        scale = weight.float().abs().amax(dim=1).clamp(min=1e-12) / 127
        super().__init__((weight.float() / scale[:, None]).round().to(torch.int8))
        self.register_buffer("scale", scale.to(dtype), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch._weight_int8pack_mm(x, self.weight, self.scale)


Projection = Linear | Int8Linear


def linear(weight: Tensor, precision: str) -> Projection:
    """The fastest projection in this precision for this weight [out, in], whose device it stays on."""
    if precision == "int8":
        on_cpu = weight.device.type == "cpu"
        return Int8Linear(weight) if on_cpu else Int8WeightLinear(weight, activations(precision, weight.device))
    cast = weight.to(activations(precision, weight.device))
    return PackedLinear(cast) if weight.device.type == "cpu" and _packs(cast.dtype) else Linear(cast)


def activations(precision: str, device: torch.device) -> torch.dtype:
    """What a decoder of this precision computes in."""
    if precision == "int8":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def _packed_linear(x: Tensor, weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")  # type: ignore[no-any-return]


def _packed_linear_gelu(x: Tensor, weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, "gelu", [], "none")  # type: ignore[no-any-return]


@cache
def _scripted(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """The same in TorchScript, since a recording cannot hold these operators' lists of numbers itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted: Callable[[Tensor, Tensor], Tensor] = torch.jit.script(function)
    return scripted


@cache
def _packs(dtype: torch.dtype) -> bool:
    if not torch._C._has_mkldnn:
        return False
    if dtype is torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype is torch.float32


@cache
def _has_vnni() -> bool:
    return bool(torch.cpu._is_vnni_supported())
