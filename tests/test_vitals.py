"""What the System tab is made of: samples of the machine, workers, the limiter, settings without their secrets."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr
from pydantic_settings import BaseSettings

from studio import Settings, Studio
from studio.errors import RateLimited
from studio.gpus import Gpu
from studio.limits import RateLimiter
from studio.settings import DOTS, in_effect
from studio.vitals import Vitals, machine
from tests.fakes import load_sine


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_samples_are_taken_now_and_then_and_old_ones_forgotten() -> None:
    vitals = Vitals(list, every_s=0.01, kept=3)
    vitals.start()
    until(lambda: len(vitals.samples()) == 3)
    first = vitals.samples()[0]
    until(lambda: first not in vitals.samples())
    vitals.stop()
    times = [sample.at for sample in vitals.samples()]
    assert times == sorted(times)
    assert 0 < first.own_memory_gb < first.memory_gb
    assert 0 <= first.cpu_percent <= 100
    assert first.gpu_memory_gb is first.gpu_percent is None


def test_gpus_are_added_up_as_far_as_their_driver_tells() -> None:
    gpus = [Gpu("A", 80.0, 60.0, 50.0), Gpu("B", 80.0, 70.0, None), Gpu("shares the host's", None, None, 100.0)]
    vitals = Vitals(lambda: gpus, every_s=0.01)
    vitals.start()
    until(vitals.samples)
    vitals.stop()
    assert vitals.samples()[0].gpu_memory_gb == pytest.approx(30.0)
    assert vitals.samples()[0].gpu_percent == pytest.approx(75.0)
    assert vitals.gpus() == gpus


def test_the_machine_tells_versions_without_importing_anything() -> None:
    host = machine()
    assert {"Python", "gradio", "torch", "audiocraft"} <= set(host.versions)
    assert host.cores >= 1
    assert host.processor


def test_a_studio_tells_its_workers_its_database_and_its_samples(tmp_path: Path) -> None:
    with Studio(Settings(data_dir=tmp_path), load_sine) as studio:
        (worker,) = studio.workers()
        assert worker.alive
        assert worker.silent_s < 30
        assert worker.slots == 4
        assert studio.database().startswith("SQLite 3.")
        until(studio.vitals)


def test_the_limiter_tells_its_limits_its_clients_and_its_refusals(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, rate_limit_per_minute=2, rate_limit_burst="100/hour")
    limiter = RateLimiter(settings)
    assert limiter.state().clients == 0
    limiter.charge("192.0.2.1", 2)
    limiter.charge("2001:db8::1", 1)
    limiter.charge("127.0.0.1", 2)
    with pytest.raises(RateLimited):
        limiter.charge("192.0.2.1", 1)
    state = limiter.state()
    assert state.limits == ["2 a minute", "100 a hour"]
    assert (state.enabled, state.where, state.clients, state.refusals) == (True, "this process", 2, 1)


def test_settings_in_effect_say_what_was_changed(tmp_path: Path) -> None:
    shown = {setting.variable: setting for setting in in_effect(Settings(data_dir=tmp_path, slots=7))}
    assert (shown["DGX_MUSIC_SLOTS"].value, shown["DGX_MUSIC_SLOTS"].changed) == ("7", True)
    assert (shown["DGX_MUSIC_MAX_RETRIES"].value, shown["DGX_MUSIC_MAX_RETRIES"].changed) == ("3", False)
    assert shown["DGX_MUSIC_RATE_LIMIT_BURST"].value == "–"
    assert len(shown) == len(Settings.model_fields)


class Secretive(BaseSettings):
    """Settings as they may come."""

    api_keys: list[str] = ["melon"]
    webhook_secret: str = "melon"
    pin: SecretStr = SecretStr("melon")
    database_url: str = "postgresql://me:me@l:melon@db/studio?sslpassword=melon&x=1"
    rate_limit_storage: str = "redis://:melon@cache:6379"
    keyboard: str = "not a key"


def test_settings_in_effect_hide_what_is_secret() -> None:
    shown = {setting.variable.removeprefix("DGX_MUSIC_"): setting.value for setting in in_effect(Secretive())}
    assert "melon" not in str(shown)
    assert shown["DATABASE_URL"] == f"postgresql://me:{DOTS}@db/studio?sslpassword={DOTS}&x=1"
    assert shown["RATE_LIMIT_STORAGE"] == f"redis://:{DOTS}@cache:6379"
    assert shown["API_KEYS"] == shown["PIN"] == DOTS
    assert shown["KEYBOARD"] == "not a key"
