"""A self-hosted text-to-music studio: prompts go into a queue, a worker makes music of them.

    from studio import GenerationRequest, Studio
    with Studio() as studio:
        job = studio.submit(GenerationRequest(prompt="sad piano"))

Names are imported when they are first used, so that a room can be used without what the others need.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from studio.runtime import Studio
    from studio.schemas import BatchRequest, GenerationRequest
    from studio.settings import Settings

__all__ = ["BatchRequest", "GenerationRequest", "Settings", "Studio"]

_HOMES = {"Studio": "runtime", "BatchRequest": "schemas", "GenerationRequest": "schemas", "Settings": "settings"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
