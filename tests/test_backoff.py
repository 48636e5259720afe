"""The waits between a job's attempts."""

from __future__ import annotations

from datetime import timedelta

import pytest

from studio.backoff import WAIT_MAX_S, next_attempt_s
from studio.settings import Settings


def waits(**fields: object) -> list[float | None]:
    settings = Settings.model_validate(fields)
    return [next_attempt_s(settings, retries) for retries in range(settings.max_retries + 1)]


def test_by_default_a_job_waits_one_two_and_four_seconds() -> None:
    assert waits() == [1.0, 2.0, 4.0, None]


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("exponential", [0.5, 1.0, 2.0, 4.0, None]),
        ("linear", [0.5, 1.0, 1.5, 2.0, None]),
        ("constant", [0.5, 0.5, 0.5, 0.5, None]),
    ],
)
def test_each_strategy_grows_in_its_way(strategy: str, expected: list[float | None]) -> None:
    assert waits(retry_strategy=strategy, retry_delay_seconds=0.5, max_retries=4) == expected


def test_without_retries_the_first_failure_is_the_last() -> None:
    assert waits(max_retries=0) == [None]


def test_jitter_spreads_the_waits_either_way() -> None:
    settings = Settings(retry_jitter=0.25, retry_delay_seconds=8.0)
    assert [next_attempt_s(settings, 0, lambda drawn=drawn: drawn) for drawn in (0.0, 0.5, 1.0)] == [6.0, 8.0, 10.0]


def test_no_wait_is_longer_than_a_day() -> None:
    longest = max(wait for wait in waits(max_retries=100, retry_delay_seconds=3600) if wait is not None)
    assert longest == WAIT_MAX_S
    assert timedelta(seconds=longest) == timedelta(days=1)
