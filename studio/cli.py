"""The command line: serve, work, generate, look around. Each command reads `Settings` and says errors in a sentence."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from studio import log
from studio.engine.catalog import CATALOG
from studio.errors import StudioError
from studio.runtime import Studio
from studio.schemas import GenerationRequest, JobStatus, JobView, describe
from studio.settings import ENV_PREFIX, Settings
from studio.training.cli import app as train_app

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(train_app, name="train", help="Make musicgen-mini: data, codec, language model, evaluation.")
out = Console()


@app.command()
def serve() -> None:
    """Serve the page and the programmatic surfaces."""
    from studio.api import server

    with errors_to_sentences():
        server.serve(Settings())


@app.command()
def worker() -> None:
    """Work the queue without serving a page: on this machine or, with the same DATABASE_URL, on another."""
    with errors_to_sentences():
        settings = Settings()
        log.configure(settings.log_level, settings.log_format)
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        with Studio(settings):
            out.print("The worker is up. Ctrl+C stops it.")
            stop.wait()


@app.command()
def generate(
    prompt: str,
    duration: Annotated[float, typer.Option(help="seconds")] = 8.0,
    seed: Annotated[int | None, typer.Option(help="the same seed gives the same audio")] = None,
    model: Annotated[str | None, typer.Option(help="a name in the catalogue")] = None,
    output: Annotated[Path | None, typer.Option(help="copy the audio to this file")] = None,
) -> None:
    """Make one track, with a progress bar, and print where it lies."""
    with errors_to_sentences(), Studio(Settings()) as studio:
        request = GenerationRequest(prompt=prompt, duration=duration, seed=seed, model=model)
        job = _follow(studio, studio.submit(request).job_id)
        if job.status is not JobStatus.COMPLETED or job.file_url is None:
            raise StudioError(f"{job.status}: {job.error_message}")
        path = studio.track_path(Path(job.file_url).name)
        if output is not None:
            output.write_bytes(path.read_bytes())
        out.print(
            f"{output or path}  ({job.duration:g} s, seed {job.seed}, {job.generation_time_seconds:.1f} s to make)"
        )


@app.command()
def models() -> None:
    """The catalogue."""
    table = Table("name", "what", "download", "licence")
    for info in CATALOG.values():
        table.add_row(
            info.name, info.what, f"{info.download_bytes / 1e9:.1f} GB" if info.download_bytes else "–", info.licence
        )
    out.print(table)


@app.command("settings")
def show_settings() -> None:
    """Every setting with its default and meaning, as the README's table."""
    sys.stdout.write(settings_table() + "\n")


def settings_table() -> str:
    """The settings as a Markdown table."""
    rows = [
        f"| `{ENV_PREFIX}{name.upper()}` | {_default(field.default)} | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join(["| Variable | Default | Meaning |", "|---|---|---|", *rows])


@contextmanager
def errors_to_sentences() -> Iterator[None]:
    """Print an error as a sentence and exit 1; a person is never shown a stack trace for a wrong setting."""
    try:
        yield
    except ValidationError as error:
        prefix = ENV_PREFIX if error.title == Settings.__name__ else ""
        _exit(
            "\n".join(f"{prefix}{field.upper() if prefix else field}: {message}" for field, message in describe(error))
        )
    except StudioError as error:
        _exit(str(error))


def _exit(message: str) -> None:
    Console(stderr=True).print(message, style="red", markup=False, highlight=False)
    raise SystemExit(1)


def _default(value: object) -> str:
    return "–" if value is None else f"`{str(value).replace(chr(39), chr(34))}`"


def _follow(studio: Studio, job_id: str) -> JobView:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=out, transient=True) as bar:
        task = bar.add_task("queued", total=1.0)
        for job in studio.watch(job_id):
            bar.update(task, description=job.current_step.replace("_", " "), completed=job.progress)
    return job
