"""How long a job waits between its attempts. Knows the settings and at most one drawn number; no clock, no queue."""

from __future__ import annotations

import random
from collections.abc import Callable

from studio.settings import Settings

WAIT_MAX_S = 24 * 3600.0  # the hundredth doubling of a second would outlive everybody


def next_attempt_s(settings: Settings, retries: int, draw: Callable[[], float] = random.random) -> float | None:
    """Seconds from the failure of an attempt, with `retries` of them before it, to the next; None: it was the last.

    `draw` gives a number in 0..1: with a jitter of 0.1, waits differ by up to a tenth either way, so that jobs that
    failed together do not return together.
    """
    if retries >= settings.max_retries:
        return None
    wait_s = min(settings.retry_delay_seconds * _factor(settings, retries), WAIT_MAX_S)
    return wait_s * (1.0 + settings.retry_jitter * (2.0 * draw() - 1.0))


def _factor(settings: Settings, retries: int) -> float:
    match settings.retry_strategy:
        case "exponential":
            return 2.0**retries
        case "linear":
            return retries + 1.0
        case "constant":
            return 1.0
