"""How far apart sets of music lie, and how far the music of one set, by embeddings [N, D] of its clips."""

from __future__ import annotations

import torch
from torch import Tensor


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


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.double().mean(0), torch.cov(x.double().T)


def _root(matrix: Tensor) -> Tensor:
    """Of a symmetric matrix without negative eigenvalues."""
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root
