"""From logits to codes: guidance, truncation and the draw, for requests that each have their own parameters.

What is kept and in which order of precedence is audiocraft's (models/lm.py, LMModel._sample_next_token): top-p replaces
top-k. The draw is the inverse of the cumulative distribution at one uniform number a codebook, which the request's own
generator gives: no host synchronisation, and nothing that depends on the neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

FIRST_OF_KEPT = 1.0 - 2.0**-24  # the noise at which `draw` gives the first token that is kept


@dataclass(frozen=True)
class Sampling:
    """How one request's codes are drawn."""

    seed: int
    temperature: float = 1.0
    top_k: int = 250  # 0 is off
    top_p: float = 0.0  # 0 is off; replaces top_k
    cfg_coef: float = 3.0
    greedy: bool = False  # always the likeliest token: for comparison with audiocraft's use_sampling=False


@dataclass(frozen=True)
class SamplingRows:
    """The parameters of A requests side by side."""

    cfg_coef: Tensor  # [A, K, 1], or [A, 1, 1] where it is the same for all codebooks
    temperature: Tensor  # [A, 1, 1]
    kept: Tensor  # [A, 1, 1] int64, 1 to the cardinality: how many top-k keeps
    top_p: Tensor | None  # [A, 1, 1]; absent when no request uses it
    candidates: int  # so many of the likeliest tokens must be sorted

    @classmethod
    def of(
        cls,
        samplings: Sequence[Sampling],
        cardinality: int,
        device: torch.device,
        guidance: Sequence[float] = (),
        strong_guidance: float | None = None,
    ) -> SamplingRows:
        """Rows on `device`, in the order given; how guidance is taken is as a decoder's configuration says."""
        kept = [_kept(sampling, cardinality) for sampling in samplings]
        top_p = [0.0 if sampling.greedy else sampling.top_p for sampling in samplings]
        strong = math.inf if strong_guidance is None else strong_guidance
        taken = [min(sampling.cfg_coef, (sampling.cfg_coef + strong) / 2) for sampling in samplings]
        cfg_coef = [[each - (1 - share) * (each - 1) for share in guidance or (1,)] for each in taken]

        def column(values: Sequence[float] | Sequence[int]) -> Tensor:
            return torch.tensor(values, device=device)[:, None, None]

        return cls(
            cfg_coef=torch.tensor(cfg_coef, device=device)[..., None],
            temperature=column([1.0 if sampling.greedy else sampling.temperature for sampling in samplings]),
            kept=column(kept),
            top_p=column(top_p) if any(top_p) else None,
            candidates=_candidates(cardinality if any(top_p) else max(kept), cardinality),
        )


def _kept(sampling: Sampling, cardinality: int) -> int:
    if sampling.greedy:
        return 1
    return min(sampling.top_k or cardinality, cardinality)


def _candidates(kept: int, cardinality: int) -> int:
    """A few round numbers, so that a recorded step serves many requests."""
    return min(256, cardinality) if kept <= 256 else cardinality


def guide(logits: Tensor, cfg_coef: Tensor) -> Tensor:
    """Classifier-free guidance: logits of both branches [A, 2, ...] to null + (prompted - null) · cfg_coef [A, ...]."""
    prompted, null = logits.unbind(1)
    return torch.addcmul(null, prompted - null, cfg_coef)


def truncate(logits: Tensor, rows: SamplingRows) -> Tensor:
    """Scale logits [A, K, card] by the temperature and set those outside top-p or top-k to -inf.

    Tokens that tie with the last one kept are kept.
    """
    scaled = logits / rows.temperature
    likeliest = torch.topk(scaled, rows.candidates).values  # [A, K, candidates], descending
    kept = rows.kept if rows.top_p is None else _kept_by_top_p(likeliest, rows.top_p, rows.kept)
    threshold = likeliest.gather(-1, kept.expand(*likeliest.shape[:2], 1) - 1)
    return scaled.masked_fill(scaled < threshold, -torch.inf)


def _kept_by_top_p(likeliest: Tensor, top_p: Tensor, kept: Tensor) -> Tensor:
    """How many of the likeliest [A, K, card] to keep: those before which at most top_p has been reached."""
    probabilities = torch.softmax(likeliest, dim=-1)
    before = probabilities.cumsum(-1) - probabilities
    return torch.where(top_p > 0, (before <= top_p).sum(-1, keepdim=True), kept)  # [A, K, 1]


def draw(logits: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Draw codes from logits [A, K, card] at noise [A, K] in [0, 1): codes [A, K] and their masses [A, K].

    The mass is 1 up to rounding, and not a number where logits are not. 1 - noise lies in (0, 1], so a token without
    probability is never drawn.
    """
    cumulative = torch.softmax(logits, dim=-1).cumsum(-1)
    mass = cumulative[..., -1]
    codes = torch.searchsorted(cumulative, ((1.0 - noise) * mass)[..., None])
    return codes[..., 0], mass
