"""Every setting, once: its name, default, bounds and meaning. Read from `DGX_MUSIC_*` and `.env`, then passed in.

`python -m studio settings` prints this file's table; a test keeps the README's copy true.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

ENV_PREFIX = "DGX_MUSIC_"
SECRET_PREFIX = "whsec_"  # of a webhook secret, as https://www.standardwebhooks.com writes it


class Settings(BaseSettings):
    """The studio's settings. `Settings()` reads the environment; `Settings(data_dir=...)` overrides it."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_file=".env", extra="ignore", frozen=True, validate_default=True,
        protected_namespaces=(), env_ignore_empty=True, hide_input_in_errors=True,
    )  # fmt: skip

    api_host: str = Field("127.0.0.1", description="Address to listen on.")
    api_port: int = Field(7860, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    allowed_hosts: list[str] = Field(
        ["localhost", "127.0.0.1", "[::1]"],
        description="Host names that the studio answers to, besides API_HOST. JSON list; `*.example.org` is allowed.",
    )
    trusted_proxies: list[str] = Field(
        [], description="Proxies (addresses or networks) whose X-Forwarded-For is believed. JSON list."
    )

    api_keys: list[SecretStr] = Field(
        [],
        description="Keys that open the studio: programs send one as `Authorization: Bearer …`, people log in with one."
        " JSON list; absent, nobody is asked.",
    )

    data_dir: Path = Field(Path("data"), description="Holds the database, audio and downloaded weights.")
    database_url: str | None = Field(
        None,
        description="SQLAlchemy URL; absent, a SQLite file in DATA_DIR. PostgreSQL when several machines work.",
    )

    model_name: str = Field(
        "musicgen-mini",
        min_length=1,
        description="Model of a request that names none: a catalogue name or a path.",
    )
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="`auto`, `cpu`, `cuda` or `cuda:N`.")
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = Field(
        "auto", description="Arithmetic of the decoder: `auto`, `fp32`, `bf16`, `fp16` or `int8`."
    )
    slots: int = Field(4, ge=1, le=64, description="Requests that are decoded together.")
    embedded_worker: bool = Field(True, description="Run a worker thread inside the server.")

    max_retries: int = Field(3, ge=0, le=100, description="Attempts after the first one.")
    retry_delay_seconds: float = Field(1.0, ge=0, le=3600, description="Wait before the first retry.")
    retry_strategy: Literal["exponential", "linear", "constant"] = Field(
        "exponential", description="How the wait grows: `exponential` (1, 2, 4, …), `linear` (1, 2, 3, …), `constant`."
    )
    retry_jitter: float = Field(0.0, ge=0, le=1, description="Waits vary by up to this fraction, either way.")
    lease_seconds: float = Field(
        30.0, ge=1, le=3600, description="A worker that is silent for so long has lost its jobs."
    )
    interrupted_jobs: Literal["fail", "retry"] = Field(
        "fail", description="A job whose worker died: `fail` it, or `retry` (counts as a failed attempt)."
    )
    shutdown_seconds: float = Field(
        10.0, ge=0, le=3600, description="At a stop, time for jobs in flight to finish; then they wait again."
    )

    rate_limit_enabled: bool = Field(True, description="Limit requests per client.")
    rate_limit_per_minute: int = Field(10, ge=1, description="Requests per client and minute.")
    rate_limit_burst: str | None = Field(
        None,
        pattern=r"^([1-9]\d*|[1-9]\d*/(second|minute|hour|day)(; ?[1-9]\d*/(second|minute|hour|day))*)$",
        description="More limits, all of which hold: `3/second`, `3/second; 100/hour`; `3` is three a second.",
    )
    rate_limit_whitelist: list[str] = Field(
        ["127.0.0.1", "localhost", "::1"], description="Clients that are never limited. JSON list."
    )
    rate_limit_storage: str = Field(
        "memory://",
        pattern=r"^(memory://$|rediss?://.|redis\+unix://.)",
        description="Where requests are counted: `memory://`, or `redis://host:6379`, which several servers share.",
    )

    webhook_secret: SecretStr | None = Field(
        None, description="Signs webhooks: `whsec_` and 24 to 64 bytes in base64. Absent, none are sent."
    )
    webhook_allow_private: bool = Field(False, description="Send webhooks to private addresses, too.")
    webhook_max_attempts: int = Field(8, ge=1, le=100, description="Then a webhook is given up.")
    webhook_retry_delay_seconds: float = Field(
        5.0, ge=0, le=3600, description="Wait before a webhook's second attempt; each further one is four times longer."
    )
    webhook_timeout_seconds: float = Field(10.0, gt=0, le=300, description="Time for a webhook's receiver to answer.")

    clip_max_mb: float = Field(
        20.0, gt=0, le=500, description="Largest audio file that may be brought to go on from, in MB."
    )

    min_free_disk_gb: float = Field(1.0, ge=0, description="Less free space than this is unhealthy.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least severity logged.")
    log_format: Literal["text", "json"] = Field("text", description="`text` for people, `json` for programs.")

    @field_validator("allowed_hosts")
    @classmethod
    def _host_names(cls, value: list[str]) -> list[str]:
        for item in value:
            if not is_address(item.strip("[]")) and re.search(r"[/\s:]", item):
                raise ValueError(f"{item!r} must be a host name alone, without scheme and port")
        return value

    @field_validator("api_keys")
    @classmethod
    def _long_enough(cls, value: list[SecretStr]) -> list[SecretStr]:
        if any(not re.fullmatch(r"[!-~]{16,256}", key.get_secret_value()) for key in value):
            raise ValueError("a key must have 16 to 256 letters, digits or signs, without spaces")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: list[str]) -> list[str]:
        for item in value:
            ipaddress.ip_network(item, strict=False)
        return value

    @field_validator("webhook_secret")
    @classmethod
    def _key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        prefix, _, key = value.get_secret_value().partition(SECRET_PREFIX)
        try:
            size = 0 if prefix else len(base64.b64decode(key, validate=True))
        except binascii.Error:
            size = 0
        if not 24 <= size <= 64:
            raise ValueError(f'must be "{SECRET_PREFIX}" and 24 to 64 random bytes in base64')
        return value

    @property
    def resolved_database_url(self) -> str:
        """The database's URL, with the default filled in."""
        return self.database_url or f"sqlite:///{self.data_dir.resolve() / 'studio.db'}"

    @property
    def audio_dir(self) -> Path:
        """Where finished audio lies."""
        return self.data_dir.resolve() / "audio"

    @property
    def clips_dir(self) -> Path:
        """Where audio lies that somebody brought."""
        return self.data_dir.resolve() / "clips"

    @property
    def weights_dir(self) -> Path:
        """Where downloaded weights lie."""
        return self.data_dir.resolve() / "weights"


@dataclass(frozen=True)
class InEffect:
    """A setting as it holds now, for people to read."""

    variable: str
    value: str  # without what is secret in it
    changed: bool  # not the default
    meaning: str


def in_effect(settings: BaseSettings) -> list[InEffect]:
    """Every setting with its value; passwords, keys and secrets are dots."""
    fields = type(settings).model_fields
    values = {name: getattr(settings, name) for name in fields}
    return [
        InEffect(f"{ENV_PREFIX}{name.upper()}", _masked(name, values[name]), values[name] != field.default,
                 field.description or "")
        for name, field in fields.items()
    ]  # fmt: skip


def _masked(name: str, value: object) -> str:
    if value in (None, "", []):
        return "–"
    if _SECRET_NAME.search(name) or "Secret" in type(value).__name__:
        return DOTS
    text = json.dumps(value) if isinstance(value, list) else str(value)
    return _SECRET_PARAMETER.sub(rf"\1{DOTS}", _PASSWORD.sub(rf"\1{DOTS}@", text))


DOTS = "••••"
_SECRET_NAME = re.compile(r"(^|_)(keys?|secrets?|tokens?|passwords?|logins?)($|_)")
_PASSWORD = re.compile(r"(://[^/@\s:]*:)\S*@")
_SECRET_PARAMETER = re.compile(r"(?i)([?&](?:\w*password|passwd|secret|token|api_?key)=)[^&\s]*")


def is_address(name: str) -> bool:
    """Whether a host is given by its address, not by a name."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
