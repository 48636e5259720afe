"""How far apart sets of music lie, and how far the music of one set: by embeddings [N, D] of its clips, or by codes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from studio.training.memory import Codes

GRAM = 4  # frames


def frechet(some: Tensor, others: Tensor) -> float:
    """Between two normal distributions fitted to the sets (Kilgour et al., Fréchet Audio Distance, 2019).

    Few clips make it larger, so it can be compared only among sets of equal size.
    """
    assert some.shape == others.shape, (some.shape, others.shape)
    (mean, covariance), (other_mean, other_covariance) = _moments(some), _moments(others)
    root = _root(covariance)
    shared = _root(root @ other_covariance @ root).trace()
    return float((mean - other_mean).square().sum() + covariance.trace() + other_covariance.trace() - 2 * shared)


def spread(embeddings: Tensor) -> float:
    """The mean distance of two."""
    return float(torch.pdist(embeddings.double()).mean())


def distinct(pieces: Sequence[Codes]) -> float:
    """The share of different ones among all runs of GRAM first codes [F] (Li et al., distinct-n, 2016)."""
    grams = np.concatenate([np.lib.stride_tricks.sliding_window_view(codes, GRAM) for codes in pieces])
    return len(np.unique(grams, axis=0)) / len(grams)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.double().mean(0), torch.cov(x.double().T)


def _root(matrix: Tensor) -> Tensor:
    """Of a symmetric matrix without negative eigenvalues."""
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root
