"""The one place where libraries that talk while they are imported or loaded are told to be quiet."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_TALKATIVE = (
    "xformers",  # built for another torch: says so at import, although only its `unbind` is used
    "transformers",  # weights of T5's decoder that its encoder leaves out
    "torch.distributed",  # "Redirects are currently not supported"
)


@contextmanager
def quiet() -> Iterator[None]:
    """Within, audiocraft and what it brings import and load without a word; errors are raised as ever.

    Covers deprecations between pinned audiocraft and newer libraries (weight_norm, pkg_resources), which nobody who
    runs the studio can act upon.
    """
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers.utils import logging as transformers_logging

        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        yield
