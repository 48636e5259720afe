"""The decoder's transformer: its shape, its weights fused from audiocraft's, and one pass of it. Knows no requests.

The architecture is audiocraft 1.3.0's LMModel as released (modules/transformer.py, models/lm.py): norm first, no
biases but the norms', exact GELU, sinusoidal positions.

Rows come in pairs: the even row is the prompted branch of guidance, the odd one the null branch. The null branch's
cross-attention reads zeros, and without biases gives zeros: it is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from studio.engine.linear import Linear, linear

MONO_DELAYS = (0, 1, 2, 3)
STEREO_DELAYS = (0, 0, 1, 1, 2, 2, 3, 3)


@dataclass(frozen=True)
class DecoderConfig:
    """The shape of a decoder."""

    dim: int
    heads: int
    layers: int
    ffn: int  # hidden width of the feed-forward
    delays: tuple[int, ...] = MONO_DELAYS  # frames by which each codebook lags
    cardinality: int = 1024  # codes a codebook; the code after the last is the special token
    cross_attention: bool = True
    max_period: float = 10_000.0  # of the sinusoidal positions
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        assert self.dim % (2 * self.heads) == 0, (self.dim, self.heads)

    @property
    def codebooks(self) -> int:
        """K."""
        return len(self.delays)

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.dim // self.heads


@dataclass(frozen=True)
class Norm:
    """A layer norm's parameters."""

    weight: Tensor  # [dim]
    bias: Tensor  # [dim]
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


@dataclass(frozen=True)
class Cross:
    """A layer's cross-attention; its keys and values are made for all layers at once, at admission."""

    norm: Norm
    query: Linear
    out: Linear


@dataclass(frozen=True)
class Layer:
    """One layer's parameters."""

    norm_self: Norm
    qkv: Linear
    out: Linear
    cross: Cross | None
    norm_ffn: Norm
    up: Linear
    down: Linear


@dataclass(frozen=True)
class Window:
    """What one pass of T tokens for R rows reads and writes. Views of the caches, a tuple entry for each layer."""

    entries: tuple[Tensor, ...]  # [R * 2 * heads, T_max, head_dim]: keys and values to be written
    write: tuple[Tensor, Tensor]  # indices into entries: [R * 2 * heads, 1] and [R * 2 * heads, T]
    keys: tuple[Tensor, ...]  # [R, heads, L, head_dim]
    values: tuple[Tensor, ...]
    mask: Tensor  # [R, 1, T, L]: 0 where a token attends, else -inf
    cross_keys: tuple[Tensor, ...]  # [C, heads, S, head_dim]
    cross_values: tuple[Tensor, ...]
    cross_mask: Tensor  # [C, 1, 1, S]
    cross_stride: int  # 2: every prompted row has cross-attention (C = R / 2); 1: one pair does, computed as two rows


class Transformer:
    """The weights of a decoder, fused: one table for all codebooks, one projection for q, k and v, one head."""

    def __init__(
        self, config: DecoderConfig, lm: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype, positions: int
    ) -> None:
        """`lm` has audiocraft's names; `positions` is the length of the longest sequence."""

        def get(name: str) -> Tensor:
            return lm[name].detach().to(device, dtype)

        self.config = config
        codebooks = range(config.codebooks)
        self._embedding = torch.cat([get(f"emb.{k}.weight") for k in codebooks])  # [K * (card + 1), dim]
        self._offsets = torch.arange(config.codebooks, device=device) * (config.cardinality + 1)
        self._positions = sinusoids(positions, config.dim, config.max_period).to(device, dtype)
        self._layers = [_layer(config, get, f"transformer.layers.{at}.") for at in range(config.layers)]
        self._cross = _cross_projection(config, get) if config.cross_attention else None
        self._norm = _norm(config, get, "out_norm")
        self._head = linear(torch.cat([get(f"linears.{k}.weight") for k in codebooks]))

    def embed(self, tokens: Tensor, position: Tensor) -> Tensor:
        """Tokens [A, K] at positions [A] to the two branches' inputs [2 A, 1, dim]."""
        summed = F.embedding(tokens + self._offsets, self._embedding).sum(1)
        x = summed + self._positions[position]
        return x[:, None].expand(-1, 2, -1).reshape(2 * len(tokens), 1, self.config.dim)

    def embed_prefix(self, prefix: Tensor) -> Tensor:
        """Conditions [2, P, dim] that precede the codes, to the two branches' inputs [2, P, dim]."""
        return prefix.to(self._positions) + self._positions[: prefix.shape[1]]

    def cross_keys_values(self, conditions: Tensor) -> Tensor:
        """Conditions [S, dim] to the cross-attention's keys and values per layer [layers, 2, heads, S, head_dim]."""
        assert self._cross is not None
        c = self.config
        projected = self._cross(conditions.to(self._positions))
        return projected.view(-1, c.layers, 2, c.heads, c.head_dim).permute(1, 2, 3, 0, 4)

    def run(self, x: Tensor, window: Window) -> Tensor:
        """Inputs [R, T, dim] through all layers [R, T, dim]; writes their keys and values."""
        for at, layer in enumerate(self._layers):
            x = layer.out.add(self._attend(layer.qkv(layer.norm_self(x)), window, at), x)
            if layer.cross is not None:
                self._add_cross(x, layer.cross, window, at)
            x = layer.down.add(layer.up.gelu(layer.norm_ffn(x)), x)
        return x

    def logits(self, x: Tensor) -> Tensor:
        """The last layer's outputs [R, 1, dim] to logits [A, 2, K, card] in fp32."""
        c = self.config
        return self._head(self._norm(x)).view(-1, 2, c.codebooks, c.cardinality).float()

    def _attend(self, qkv: Tensor, window: Window, at: int) -> Tensor:
        """Self-attention of [R, T, 3 dim] over the window, before the output projection [R, T, dim]."""
        c, (rows, length, _) = self.config, qkv.shape
        heads = qkv.view(rows, length, 3 * c.heads, c.head_dim).transpose(1, 2).to(window.keys[at].dtype)
        window.entries[at].index_put_(window.write, heads[:, c.heads :].reshape(-1, length, c.head_dim))
        mixed = F.scaled_dot_product_attention(
            heads[:, : c.heads], window.keys[at], window.values[at], attn_mask=window.mask
        )
        return mixed.transpose(1, 2).reshape(rows, length, c.dim).to(qkv.dtype)

    def _add_cross(self, x: Tensor, cross: Cross, window: Window, at: int) -> None:
        """Add the cross-attention to the prompted rows of x [R, T, dim], in place."""
        c, keys = self.config, window.cross_keys[at]
        read = x[:: window.cross_stride]
        query = cross.query(cross.norm(read)).view(*read.shape[:2], c.heads, c.head_dim).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(
            query.to(keys.dtype), keys, window.cross_values[at], attn_mask=window.cross_mask
        )
        out = cross.out(mixed.transpose(1, 2).reshape(read.shape).to(x.dtype))
        x[::2] += out[: len(x) // 2]


def sinusoids(positions: int, dim: int, max_period: float) -> Tensor:
    """Positional embeddings [positions, dim], cosines then sines, in fp32 (audiocraft's create_sin_embedding)."""
    half = dim // 2
    exponents = torch.arange(half, dtype=torch.float32) / (half - 1)
    phase = torch.arange(positions, dtype=torch.float32)[:, None] / max_period**exponents
    return torch.cat([torch.cos(phase), torch.sin(phase)], dim=-1)


def _layer(config: DecoderConfig, get: Callable[[str], Tensor], prefix: str) -> Layer:
    return Layer(
        norm_self=_norm(config, get, f"{prefix}norm1"),
        qkv=linear(get(f"{prefix}self_attn.in_proj_weight")),
        out=linear(get(f"{prefix}self_attn.out_proj.weight")),
        cross=_cross(config, get, prefix) if config.cross_attention else None,
        norm_ffn=_norm(config, get, f"{prefix}norm2"),
        up=linear(get(f"{prefix}linear1.weight")),
        down=linear(get(f"{prefix}linear2.weight")),
    )


def _cross(config: DecoderConfig, get: Callable[[str], Tensor], prefix: str) -> Cross:
    return Cross(
        norm=_norm(config, get, f"{prefix}norm_cross"),
        query=linear(get(f"{prefix}cross_attention.in_proj_weight")[: config.dim]),
        out=linear(get(f"{prefix}cross_attention.out_proj.weight")),
    )


def _cross_projection(config: DecoderConfig, get: Callable[[str], Tensor]) -> Linear:
    """Conditions to keys and values of all layers: weight [layers * 2 * dim, dim]."""
    names = [f"transformer.layers.{at}.cross_attention.in_proj_weight" for at in range(config.layers)]
    return Linear(torch.cat([get(name)[config.dim :] for name in names]))


def _norm(config: DecoderConfig, get: Callable[[str], Tensor], name: str) -> Norm:
    return Norm(get(f"{name}.weight"), get(f"{name}.bias"), config.norm_eps)
