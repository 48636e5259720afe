"""The house has one direction: a room imports from rooms below its own, and heavy libraries stay in their rooms."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import studio

ROOT = Path(studio.__file__).parent
FLOORS: list[set[str]] = [  # from the ground up; a room may import from lower floors and from itself
    {"errors"},
    {"settings", "schemas", "clip"},
    {"log", "backoff", "gpus"},
    {"store", "engine", "audio", "limits", "health", "metrics", "outbound", "vitals", "sheet"},
    {"training", "streams"},
    {"worker", "webhooks"},
    {"runtime"},
    {"__init__"},
    {"bench"},
    {"ui"},
    {"api"},
    {"cli"},
    {"__main__"},
]
HEAVY = {
    "torch": {"engine", "training", "bench"},
    "audiocraft": {"engine", "training", "bench"},
    "gradio": {"ui", "api"},
    "fastapi": {"api"},
    "sqlmodel": {"schemas", "store"},
}
FILES = sorted(ROOT.rglob("*.py"))


def floor(room: str) -> int:
    return next(level for level, rooms in enumerate(FLOORS) if room in rooms)


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_from_below(path: Path) -> None:
    room = room_of(path)
    for name in imports(path):
        if not name.startswith("studio."):
            continue
        part = name.split(".")[1]
        other = part if (ROOT / part).exists() or (ROOT / f"{part}.py").exists() else "__init__"
        assert other == room or floor(other) < floor(room), f"{room} must not import {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_heavy_libraries_stay_in_their_rooms(path: Path) -> None:
    for name in imports(path):
        library = name.split(".")[0]
        assert room_of(path) in HEAVY.get(library, {room_of(path)}), f"{path} must not import {library}"


@pytest.mark.parametrize("module", ["studio", "studio.cli", "studio.api.server"])
def test_importing_imports_no_heavy_library(module: str) -> None:
    code = (
        f"import sys, {module}; print(*sorted({{'torch', 'gradio', 'audiocraft', 'transformers'}} & set(sys.modules)))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == ""


def test_every_setting_has_a_reader() -> None:
    from studio.settings import Settings

    sources = "\n".join(path.read_text() for path in FILES if path.name != "settings.py")
    inside = (ROOT / "settings.py").read_text()
    for name in Settings.model_fields:
        assert f"settings.{name}" in sources or f"self.{name}" in inside, f"nobody reads {name}"
