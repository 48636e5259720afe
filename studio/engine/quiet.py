"""The one place where libraries that talk while they are imported or loaded are told to be quiet, and where what
audiocraft imports for nothing waits until somebody needs it."""

from __future__ import annotations

import logging
import pkgutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_TALKATIVE = (
    "xformers",  # built for another torch: says so at import, although only its `unbind` is used
    "transformers",  # weights of T5's decoder that its encoder leaves out
    "torch.distributed",  # "Redirects are currently not supported"
)
# What audiocraft imports for features that the studio does not ask it for: two fifths of the time of its import.
_SPARED = (
    "audiocraft.solvers.compression",  # training
    "audiocraft.solvers",
    "librosa",  # what a melody is recognised by
    "spacy",  # conditioners that look words up
    "xformers.ops",  # attention for which audiocraft takes torch's
    "xformers",
)


@contextmanager
def quiet() -> Iterator[None]:
    """Within, audiocraft and what it brings import fast and load without a word; errors are raised as ever.

    Covers deprecations between pinned audiocraft and newer libraries (weight_norm, pkg_resources), which nobody who
    runs the studio can act upon.
    """
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings(), _spared():
        warnings.simplefilter("ignore")
        from transformers.utils import logging as transformers_logging

        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        yield


@contextmanager
def _spared() -> Iterator[None]:
    """Within, something stands for the modules that nobody needs, unless somebody has imported them."""
    sys.modules.update({name: _Later(name) for name in _SPARED if name not in sys.modules})
    try:
        yield
    finally:
        _make_way()


def _make_way() -> None:
    for name in _SPARED:
        if isinstance(sys.modules.get(name), _Later):
            del sys.modules[name]


class _Later(ModuleType):
    """Stands for a module, or for a name in one (`xformers.ops:unbind`); is imported when it is called."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None, is_package=True)

    def __getattr__(self, name: str) -> _Later:
        if name.startswith("_"):
            raise AttributeError(name)
        module = f"{self.__name__}.{name}"
        return _Later(module if module in _SPARED else f"{self.__name__}{'.' if ':' in self.__name__ else ':'}{name}")

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        _make_way()
        return pkgutil.resolve_name(self.__name__)(*arguments, **named)
