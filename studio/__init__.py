"""A self-hosted text-to-music studio: prompts go into a queue, a worker makes music of them.

    from studio import GenerationRequest, Studio
    with Studio() as studio:
        job = studio.submit(GenerationRequest(prompt="sad piano"))

Importing this imports no torch, no gradio and no audiocraft.
"""

from studio.runtime import Studio
from studio.schemas import BatchRequest, GenerationRequest
from studio.settings import Settings

__all__ = ["BatchRequest", "GenerationRequest", "Settings", "Studio"]
