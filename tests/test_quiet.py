"""What audiocraft imports for nothing stays out, and is there when somebody needs it."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import sys
import torch
from studio.engine.quiet import quiet

with quiet():
    from audiocraft.modules import chroma, transformer
assert not {"audiocraft.solvers", "librosa", "spacy", "xformers"} & sys.modules.keys()
assert chroma.ChromaExtractor(32_000).fbanks.shape[0] == 12
a, b = transformer.ops.unbind(torch.tensor([[1, 2], [3, 4]]), dim=1)
assert (a.tolist(), b.tolist()) == ([1, 3], [2, 4])
assert {"librosa", "xformers"} <= sys.modules.keys()
"""


@pytest.mark.slow
def test_what_audiocraft_does_not_need_is_imported_when_it_is_called() -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
