"""Settings come from the environment, are checked, and are documented where people look."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from studio.cli import settings_table
from studio.settings import Settings

README = Path(__file__).parent.parent / "README.md"


def test_the_readme_has_the_table_of_all_settings() -> None:
    text = README.read_text()
    start, end = text.index("<!-- settings"), text.index("<!-- /settings")
    assert text[text.index("\n", start) + 1 : end].strip() == settings_table()


def test_the_seeds_settings_keep_their_names_and_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = Settings(_env_file=None)  # type: ignore[call-arg]
    assert (defaults.max_retries, defaults.retry_delay_seconds) == (3, 1.0)
    assert (defaults.rate_limit_enabled, defaults.rate_limit_per_minute) == (True, 10)
    assert defaults.rate_limit_whitelist == ["127.0.0.1", "localhost", "::1"]
    monkeypatch.setenv("DGX_MUSIC_MAX_RETRIES", "5")
    monkeypatch.setenv("DGX_MUSIC_RATE_LIMIT_WHITELIST", '["10.0.0.1"]')
    changed = Settings()
    assert (changed.max_retries, changed.rate_limit_whitelist) == (5, ["10.0.0.1"])


@pytest.mark.parametrize(
    ("name", "value"),
    [("MAX_RETRIES", "-1"), ("API_PORT", "70000"), ("DEVICE", "tpu"), ("TRUSTED_PROXIES", '["nonsense"]')],
)
def test_a_bad_setting_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"DGX_MUSIC_{name}", value)
    with pytest.raises(ValidationError, match=name.lower()):
        Settings()
