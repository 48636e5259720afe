"""The decoder's transformer: its shape, its weights fused from audiocraft's, and one pass of it. Knows no requests.

The architecture is audiocraft 1.3.0's LMModel as released (modules/transformer.py, models/lm.py): norm first, no
biases but the norms', exact GELU, sinusoidal positions.

Rows come in pairs: the even row is the prompted branch of guidance, the odd one the null branch. The null branch's
cross-attention reads zeros, and without biases gives zeros: it is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from studio.engine.attention import KeysValues, Reach
from studio.engine.linear import Projection, activations, linear
from studio.errors import CheckpointError

MONO_DELAYS = (0, 1, 2, 3)
STEREO_DELAYS = (0, 0, 1, 1, 2, 2, 3, 3)

Get = Callable[[str], Tensor]  # a weight by its name


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
    summed: bool = False  # whether conditions are added to the codes as well
    guidance: tuple[float, ...] = ()  # how much of cfg_coef - 1 each codebook takes; of none, all
    strong_guidance: float | None = None  # of what a cfg_coef has beyond it, half is taken
    max_period: float = 10_000.0  # of the sinusoidal positions
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        assert self.dim % (2 * self.heads) == 0, (self.dim, self.heads)
        assert len(self.guidance) in (0, self.codebooks), self.guidance

    @property
    def codebooks(self) -> int:
        """K."""
        return len(self.delays)

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.dim // self.heads


def decoder_shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """The name and shape of each of the decoder's tensors in audiocraft's LMModel."""
    c, d = config, config.dim
    shapes: dict[str, tuple[int, ...]] = {"out_norm.weight": (d,), "out_norm.bias": (d,)}
    for k in range(c.codebooks):
        shapes |= {f"emb.{k}.weight": (c.cardinality + 1, d), f"linears.{k}.weight": (c.cardinality, d)}
    for layer in range(c.layers):
        for name, shape in _layer_shapes(c).items():
            shapes[f"transformer.layers.{layer}.{name}"] = shape
    return shapes


def _layer_shapes(c: DecoderConfig) -> dict[str, tuple[int, ...]]:
    attentions = ["self_attn", "cross_attention"] if c.cross_attention else ["self_attn"]
    norms = ["norm1", "norm2", "norm_cross"] if c.cross_attention else ["norm1", "norm2"]
    shapes: dict[str, tuple[int, ...]] = {"linear1.weight": (c.ffn, c.dim), "linear2.weight": (c.dim, c.ffn)}
    for name in attentions:
        shapes |= {f"{name}.in_proj_weight": (3 * c.dim, c.dim), f"{name}.out_proj.weight": (c.dim, c.dim)}
    for name in norms:
        shapes |= {f"{name}.weight": (c.dim,), f"{name}.bias": (c.dim,)}
    return shapes


def check_shapes(name: str, config: DecoderConfig, state: Mapping[str, Tensor]) -> None:
    """Raises CheckpointError where a tensor is missing or has another shape than the configuration says."""
    for key, shape in decoder_shapes(config).items():
        if key not in state:
            raise CheckpointError(f"The weights of {name} lack {key}.")
        if tuple(state[key].shape) != shape:
            raise CheckpointError(
                f"{key} of {name} has shape {tuple(state[key].shape)}; its configuration says {shape}."
            )


class Norm(nn.Module):
    """A layer norm."""

    weight: Tensor  # [dim]
    bias: Tensor  # [dim]

    def __init__(self, weight: Tensor, bias: Tensor, eps: float) -> None:
        super().__init__()
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("bias", bias, persistent=False)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


@dataclass(frozen=True)
class Context:
    """What the R rows of a step attend to, and what else they read."""

    own: KeysValues
    places: Tensor  # in `own`, for this step's keys and values
    reach: Reach  # of R rows
    prompts: KeysValues | None  # absent without cross-attention
    prompt_reach: Reach | None  # of R / 2 rows, the prompted ones
    summed: Tensor | None  # [R / 2, 2, dim], added to the codes' embeddings


class CrossAttention(nn.Module):
    """What a layer reads from the prompt; its keys and values are made for all layers at once, at admission."""

    def __init__(self, config: DecoderConfig, get: Get, prefix: str, precision: str) -> None:
        super().__init__()
        self.norm = _norm(config, get, f"{prefix}norm_cross", precision)
        self.query = linear(_scaled(get(f"{prefix}cross_attention.in_proj_weight")[: config.dim], config), precision)
        self.out = linear(get(f"{prefix}cross_attention.out_proj.weight"), precision)

    def forward(self, x: Tensor, layer: int, context: Context) -> Tensor:
        """Add to the prompted rows of x [R, dim]; the others get zeros."""
        assert context.prompts is not None
        assert context.prompt_reach is not None
        query = self.query(self.norm(x))[::2]  # all rows go through: one alone would take another kernel
        mixed = context.prompts.read(layer, query, context.prompt_reach)
        both: Tensor = self.out.add(torch.stack([mixed, torch.zeros_like(mixed)], dim=1).view(x.shape), x)
        return both

    def prefill(self, x: Tensor, prompt: Tensor, heads: int) -> Tensor:
        """The same for the first P tokens of both branches [2, P, dim]; `prompt` [S, 2, heads, head_dim]."""
        query = _by_row(self.query, self.norm(x[:1])).view(-1, heads, prompt.shape[-1]).transpose(0, 1)
        key, value = prompt.permute(1, 2, 0, 3)  # [heads, S, head_dim] each
        mixed = F.scaled_dot_product_attention(query, key, value, scale=1.0)  # [heads, P, head_dim]
        return torch.cat([x[:1] + _by_row(self.out, mixed.transpose(0, 1).flatten(1)[None]), x[1:]])


class Layer(nn.Module):
    """One layer: self-attention, cross-attention, feed-forward."""

    def __init__(self, config: DecoderConfig, get: Get, prefix: str, precision: str) -> None:
        super().__init__()
        self.norm_self = _norm(config, get, f"{prefix}norm1", precision)
        qkv = get(f"{prefix}self_attn.in_proj_weight")
        self.qkv = linear(torch.cat([_scaled(qkv[: config.dim], config), qkv[config.dim :]]), precision)
        self.out = linear(get(f"{prefix}self_attn.out_proj.weight"), precision)
        self.cross = CrossAttention(config, get, prefix, precision) if config.cross_attention else None
        self.norm_ffn = _norm(config, get, f"{prefix}norm2", precision)
        self.up = linear(get(f"{prefix}linear1.weight"), precision)
        self.down = linear(get(f"{prefix}linear2.weight"), precision)

    def forward(self, x: Tensor, layer: int, context: Context) -> Tensor:
        """One token of each row [R, dim] to [R, dim]; writes its keys and values."""
        dim = x.shape[1]
        qkv = self.qkv(self.norm_self(x))
        context.own.write(layer, context.places, qkv[:, dim:])
        x = self.out.add(context.own.read(layer, qkv[:, :dim], context.reach), x)
        if self.cross is not None:
            x = self.cross(x, layer, context)
        y: Tensor = self.down.add(self.up.gelu(self.norm_ffn(x)), x)
        return y

    def prefill(self, x: Tensor, heads: int, prompt: Tensor | None) -> tuple[Tensor, Tensor]:
        """The first P tokens of both branches [2, P, dim] to [2, P, dim] and their keys and values [2, P, 2 * dim];
        `prompt` [S, 2, heads, head_dim] is what cross-attention reads."""
        qkv = _by_row(self.qkv, self.norm_self(x))
        query, key, value = qkv.view(*x.shape[:2], 3, heads, -1).permute(2, 0, 3, 1, 4)  # [2, heads, P, head_dim] each
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=1.0)
        x = x + _by_row(self.out, mixed.transpose(1, 2).flatten(2))
        if self.cross is not None:
            assert prompt is not None
            x = self.cross.prefill(x, prompt, heads)
        return x + _by_row(self.down, F.gelu(_by_row(self.up, self.norm_ffn(x)))), qkv[..., x.shape[2] :]


class Transformer(nn.Module):
    """The weights of a decoder, fused: one table for all codebooks, one projection for q, k and v, one head."""

    ENTERS: torch.dtype | None = None  # of embeddings and positions; absent, what projections compute in

    embedding: Tensor  # [K * (card + 1), dim]
    offsets: Tensor  # [K], where each codebook begins in it
    positions: Tensor  # [positions, dim]

    def __init__(
        self, config: DecoderConfig, lm: Mapping[str, Tensor], device: torch.device, precision: str, positions: int
    ) -> None:
        """`lm` has audiocraft's names; `positions` is the length of the longest sequence."""
        super().__init__()

        def get(name: str) -> Tensor:
            return lm[name].detach().to(device)

        self.config = config
        self.dtype = activations(precision, device)
        enters = self.ENTERS or self.dtype
        embedding = torch.cat([get(f"emb.{k}.weight").to(enters) for k in range(config.codebooks)])
        self.register_buffer("embedding", embedding, persistent=False)
        offsets = torch.arange(config.codebooks, device=device) * (config.cardinality + 1)
        self.register_buffer("offsets", offsets, persistent=False)
        table = sinusoids(positions, config.dim, config.max_period).to(device, enters)
        self.register_buffer("positions", table, persistent=False)
        self.prompt: Projection | None = _prompt_projection(config, get, precision) if config.cross_attention else None
        self._build(get, precision)

    def _build(self, get: Get, precision: str) -> None:
        """What a step goes through after the embedding."""
        c = self.config
        self.layers = nn.ModuleList(Layer(c, get, f"transformer.layers.{at}.", precision) for at in range(c.layers))
        self.norm = _norm(c, get, "out_norm", precision)
        self.head = linear(torch.cat([get(f"linears.{k}.weight") for k in range(c.codebooks)]), precision)

    def layer(self, at: int) -> Layer:
        """One of them."""
        layer = self.layers[at]
        assert isinstance(layer, Layer)
        return layer

    def forward(self, tokens: Tensor, position: Tensor, context: Context) -> Tensor:
        """Tokens [A, K] at positions [A] to both branches' logits [A, 2, K, card] in fp32."""
        c = self.config
        x = self.entered(tokens, position, context)
        for at, layer in enumerate(self.layers):
            x = layer(x, at, context)
        logits: Tensor = self.head(self.norm(x))
        return logits.view(-1, 2, c.codebooks, c.cardinality).float()

    def entered(self, tokens: Tensor, position: Tensor, context: Context) -> Tensor:
        """Tokens [A, K] at positions [A] as both branches' first layer gets them [2 A, dim]."""
        x = self.embed(tokens) + self.positions[position]  # [A, dim]
        both = x[:, None].expand(-1, 2, -1)
        return (both if context.summed is None else both + context.summed).reshape(-1, self.config.dim)

    def embed(self, tokens: Tensor) -> Tensor:
        """Tokens [..., K] to [..., dim], without their positions."""
        return F.embedding(tokens + self.offsets, self.embedding).sum(-2)

    def prefill(self, known: Tensor, prompt: Tensor | None) -> Tensor:
        """What both branches begin with [2, P, dim], all at once, to its keys and values [2, layers, P, 2, heads,
        head_dim]; `prompt` as `prompt_keys_values` gives it."""
        x, written = known.to(self.positions) + self.positions[: known.shape[1]], []
        for at in range(self.config.layers):
            x, keys_values = self.layer(at).prefill(x, self.config.heads, None if prompt is None else prompt[at])
            written.append(keys_values)
        return torch.stack(written, dim=1).view(2, self.config.layers, -1, 2, self.config.heads, self.config.head_dim)

    def prompt_keys_values(self, conditions: Tensor) -> Tensor:
        """Conditions [S, dim] to the cross-attention's keys and values [layers, S, 2, heads, head_dim]."""
        assert self.prompt is not None
        c = self.config
        projected: Tensor = self.prompt(conditions.to(self.positions.device, self.dtype))
        return projected.view(-1, c.layers, 2, c.heads, c.head_dim).transpose(0, 1)


def sinusoids(positions: int, dim: int, max_period: float) -> Tensor:
    """Positional embeddings [positions, dim], cosines then sines, in fp32 (audiocraft's create_sin_embedding)."""
    half = dim // 2
    exponents = torch.arange(half, dtype=torch.float32) / (half - 1)
    phase = torch.arange(positions, dtype=torch.float32)[:, None] / max_period**exponents
    return torch.cat([torch.cos(phase), torch.sin(phase)], dim=-1)


def _by_row(projection: Projection, x: Tensor) -> Tensor:
    """A projection of [B, P, in] to [B, P, out]."""
    y: Tensor = projection(x.flatten(0, 1))
    return y.view(*x.shape[:2], -1)


def _scaled(query: Tensor, config: DecoderConfig) -> Tensor:
    """A query's weight with attention's 1 / sqrt(head_dim) in it, which is a power of two in all released models."""
    return query / math.sqrt(config.head_dim)


def _prompt_projection(config: DecoderConfig, get: Get, precision: str) -> Projection:
    """Conditions to keys and values of all layers: weight [layers * 2 * dim, dim]."""
    names = [f"transformer.layers.{at}.cross_attention.in_proj_weight" for at in range(config.layers)]
    return linear(torch.cat([get(name)[config.dim :] for name in names]), precision)


def _norm(config: DecoderConfig, get: Get, name: str, precision: str) -> Norm:
    weight, bias = get(f"{name}.weight"), get(f"{name}.bias")
    dtype = activations(precision, weight.device)
    return Norm(weight.to(dtype), bias.to(dtype), config.norm_eps)
