"""A projection without bias, its weight laid out once for the fastest kernel of its device. Knows no model."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor


class Linear:
    """y = x Wᵀ for x [..., in]."""

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight  # [out, in]

    def __call__(self, x: Tensor) -> Tensor:
        """[..., out]."""
        return F.linear(x, self._weight)

    def gelu(self, x: Tensor) -> Tensor:
        """gelu(x Wᵀ), exact."""
        return F.gelu(self(x))

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """residual + x Wᵀ."""
        return residual + self(x)


class PackedLinear(Linear):
    """The same through oneDNN with a packed weight, two to three times as fast as `F.linear` for few rows on a CPU.

    Its result for a row is the same bit for bit with 2 to 12 rows (one row alone, and 16 in fp32, take other kernels);
    `F.linear`'s changes from 2 rows to 4. These are the operators that torch's own inductor emits for frozen weights.
    """

    ROWS_HINT = 2  # a request and its null branch

    def __init__(self, weight: Tensor) -> None:
        super().__init__(torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), self.ROWS_HINT))

    def __call__(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, None, "none", [], "")
        return y

    def gelu(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, None, "gelu", [], "none")
        return y

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, residual, self._weight, None, "add")
        return y


def linear(weight: Tensor) -> Linear:
    """The fastest `Linear` for this weight [out, in]: its device and dtype decide."""
    packable = weight.device.type == "cpu" and _packs(weight.dtype)
    return PackedLinear(weight) if packable else Linear(weight)


@cache
def _packs(dtype: torch.dtype) -> bool:
    if not torch._C._has_mkldnn:
        return False
    if dtype is torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype is torch.float32
