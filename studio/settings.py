"""Every setting, once: its name, default, bounds and meaning. Read from `DGX_MUSIC_*` and `.env`, then passed in.

`python -m studio settings` prints this file's table; a test keeps the README's copy true.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

ENV_PREFIX = "DGX_MUSIC_"


class Settings(BaseSettings):
    """The studio's settings. `Settings()` reads the environment; `Settings(data_dir=...)` overrides it."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_file=".env", extra="ignore", frozen=True, validate_default=True,
        protected_namespaces=(), env_ignore_empty=True,
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
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="Arithmetic of the decoder: `auto`, `fp32`, `bf16` or `fp16`."
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

    min_free_disk_gb: float = Field(1.0, ge=0, description="Less free space than this is unhealthy.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least severity logged.")
    log_format: Literal["text", "json"] = Field("text", description="`text` for people, `json` for programs.")

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: list[str]) -> list[str]:
        for item in value:
            ipaddress.ip_network(item, strict=False)
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
    def weights_dir(self) -> Path:
        """Where downloaded weights lie."""
        return self.data_dir.resolve() / "weights"
