"""The service's measurement runs, and says what it has measured."""

from __future__ import annotations

from pathlib import Path

from studio.bench import estimates


def test_estimates_are_compared_with_what_came(tmp_path: Path) -> None:
    figures = estimates.measure(tmp_path, estimates.load_paced, alone_s=(8.0, 10.0), crowds=1)
    assert set(figures) == {
        "first job", "at submission", "while it waits", "while it is made", "all but the first job",
    }  # fmt: skip
    assert all(row["looks"] > 0 and row["p50"] <= row["p90"] for row in figures.values())
    assert figures["while it is made"]["p50"] < 0.5
