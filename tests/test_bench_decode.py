"""The benchmarks of decoding: what they print is what was measured, and bad input is refused in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from studio.bench import company, decode, quality
from studio.errors import ConfigurationError


def result(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The one line of JSON."""
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_a_request_has_the_same_codes_alone_and_in_company(capsys: pytest.CaptureFixture[str]) -> None:
    company.run(requests=8, slots=3, seconds=1.0, precisions=["fp32", "int8"])
    assert result(capsys)["equal"] == {"fp32": 1.0, "int8": 1.0}


def test_a_step_is_timed_for_several_requests_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    decode.run("mini", ["fp32", "bf16"], slots=2, seconds=1.0, against=[], rounds=1)
    found = result(capsys)
    figures, other = found["figures"].values()
    assert found["slots"] == 2
    assert figures["ms_step"] * other["ratio"] == pytest.approx(other["ms_step"], rel=0.01)
    assert figures["ms_step"] > 0
    assert figures["real_time"] == pytest.approx(2 * 1000 / figures["ms_step"] / 50, rel=0.01)


@pytest.mark.parametrize(
    ("model", "precision", "rival"), [("huge", "fp32", []), ("mini", "int3", []), ("mini", "fp32", ["nobody"])]
)
def test_an_unknown_contestant_is_refused(model: str, precision: str, rival: list[str]) -> None:
    with pytest.raises(ConfigurationError, match="There is no"):
        decode.run(model, [precision], slots=1, seconds=1.0, against=rival, rounds=1)


def test_a_precision_is_judged_on_pieces_with_their_captions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "codes_00000.npy", np.random.default_rng(0).integers(0, 1024, (3, 4, 60)).astype(np.uint16))
    record = {"captions": ["sad piano"], "description": {"bpm": 90, "metre": "4/4"}}
    (tmp_path / "codes_00000.jsonl").write_text(3 * f"{json.dumps(record)}\n")
    quality.run(tmp_path, 3, 1.0, ["bf16", "int8"])
    precisions = result(capsys)["precisions"]
    assert precisions["fp32"]["loss"] > 5  # noise is no music
    assert abs(precisions["int8"]["loss_change_percent"]) < 1
    assert 0 < precisions["bf16"]["kl_nats"] < precisions["int8"]["kl_nats"] < 0.1
    with pytest.raises(ConfigurationError, match="no codes"):
        quality.run(tmp_path / "nowhere", 3, 1.0, ["int8"])
