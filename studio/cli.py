"""The command line: serve, work, generate, look around. Each command reads `Settings` and says errors in a sentence."""

from __future__ import annotations

import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from pydantic import ValidationError
from pydantic_settings import SettingsError
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from studio import log
from studio.audio.files import check_format, copy_track
from studio.engine import loader
from studio.engine.catalog import CATALOG
from studio.errors import StudioError
from studio.runtime import Studio
from studio.schemas import GenerationRequest, JobStatus, JobView, describe
from studio.settings import ENV_PREFIX, Settings
from studio.training.cli import app as train_app


class Commands(typer.core.TyperGroup):
    """The commands, whose errors are sentences."""

    def invoke(self, ctx: Any) -> Any:
        with errors_to_sentences():
            return super().invoke(ctx)


app = typer.Typer(
    cls=Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__
)
bench_app = typer.Typer(no_args_is_help=True, help="Measure: a table for people, one JSON line for programs.")
app.add_typer(bench_app, name="bench")
app.add_typer(train_app, name="train", help="Make musicgen-mini: data, codec, language model, evaluation.")
out = Console()


@app.command()
def serve() -> None:
    """Serve the page and the programmatic surfaces."""
    from studio.api import server

    server.serve(Settings())


@app.command()
def worker() -> None:
    """Work the queue without serving a page: on this machine or, with the same DATABASE_URL, on another."""
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
    output: Annotated[Path | None, typer.Option(help="copy the audio to this file: .wav, .flac, .mp3 or .ogg")] = None,
    continue_from: Annotated[str | None, typer.Option(help="go on from this audio file, job or clip")] = None,
    continue_seconds: Annotated[float | None, typer.Option(help="how much of it is kept, from its beginning")] = None,
) -> None:
    """Make one track, with a progress bar, and print where it lies."""
    if output is not None:
        check_format(output)
    with Studio(Settings()) as studio:
        if continue_from and Path(continue_from).is_file():
            continue_from = studio.keep_clip(Path(continue_from).read_bytes()).clip_id
        request = GenerationRequest(
            prompt=prompt, duration=duration, seed=seed, model=model, continue_from=continue_from,
            continue_seconds=continue_seconds,
        )  # fmt: skip
        job = _made(studio, studio.submit(request).job_id)
        if job.status is not JobStatus.COMPLETED or job.file_url is None:
            raise StudioError(f"{job.status}: {job.error_message}")
        path = studio.track_path(Path(job.file_url).name)
        if output is not None:
            copy_track(path, output)
        said = f"{output or path}  ({job.duration:g} s, seed {job.seed}, {job.generation_time_seconds:.1f} s to make)"
        out.print(said, markup=False, soft_wrap=True)  # a path is no markup, and stays on its line


@app.command()
def models() -> None:
    """The catalogue."""
    table = Table("name", "what", "download", "licence")
    for info in CATALOG.values():
        table.add_row(
            info.name, info.what, f"{info.download_bytes / 1e9:.1f} GB" if info.download_bytes else "–", info.licence
        )
    out.print(table)


@bench_app.command("queue")
def bench_queue(
    url: Annotated[str | None, typer.Option(help="a PostgreSQL database to measure on as well")] = None,
) -> None:
    """Enqueue, status, claim and start-up at 1,000 and 100,000 waiting jobs, on SQLite and PostgreSQL."""
    from studio.bench import queue

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # takes the servers and files that it made along
    if not queue.run(url):
        raise SystemExit(1)


@bench_app.command("service")
def bench_service(
    paced: Annotated[bool, typer.Option(help="the estimates alone, of an engine whose time is known")] = False,
) -> None:
    """First page, music cold and warm, requests a second, and how true the estimates of time are."""
    from studio.bench import service

    service.run(paced)


@bench_app.command("decode")
def bench_decode(
    model: Annotated[str, typer.Option(help="mini with its weights; small, medium, large with random ones")] = "small",
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16, int8, or several with commas between")] = "auto",
    slots: Annotated[int, typer.Option(min=1, help="requests at once")] = 1,
    seconds: Annotated[float, typer.Option(min=0.5, max=30, help="of music")] = 2.0,
    against: Annotated[str, typer.Option(help="audiocraft, transformers, or both with a comma between")] = "",
    rounds: Annotated[int, typer.Option(min=1, help="so often each makes its music, by turns")] = 3,
) -> None:
    """What a decode step costs, beside audiocraft's and transformers'."""
    loader.share_the_cpu()
    from studio.bench import decode

    rivals = [name for name in against.split(",") if name]
    decode.run(model, precision.split(","), slots, seconds, rivals, rounds)


@bench_app.command("quality")
def bench_quality(
    codes: Annotated[Path, typer.Option(help="a folder of held-out codes_*.npy with their captions")],
    pieces: Annotated[int, typer.Option(min=1)] = 16,
    seconds: Annotated[float, typer.Option(min=1, max=30, help="of each piece")] = 10.0,
) -> None:
    """What bf16 and int8 cost in quality: their distributions beside fp32's, and the loss, on musicgen-mini."""
    loader.share_the_cpu()
    from studio.bench import quality

    quality.run(codes, pieces, seconds, ["bf16", "int8"])


@bench_app.command("company")
def bench_company(
    requests: Annotated[int, typer.Option(min=1)] = 200,
    slots: Annotated[int, typer.Option(min=1, max=32)] = 4,
    seconds: Annotated[float, typer.Option(min=1, max=30, help="of the longest request")] = 3.0,
) -> None:
    """Whether a request's codes are the same alone and in company, in each precision, on musicgen-mini."""
    loader.share_the_cpu()
    from studio.bench import company

    company.run(requests, slots, seconds, ["fp32", "bf16", "int8"])


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
    except SettingsError as error:  # pydantic-settings names the field, and no more
        field = re.search(r'field "(\w+)"', str(error))
        _exit(f'{ENV_PREFIX}{field[1].upper() if field else "…"}: must be JSON, such as ["192.0.2.1"]')
    except StudioError as error:
        _exit(str(error))


def _exit(message: str) -> NoReturn:
    Console(stderr=True).print(message, style="red", markup=False, highlight=False, soft_wrap=True)
    raise SystemExit(1)


def _default(value: object) -> str:
    return "–" if value is None else f"`{str(value).replace(chr(39), chr(34))}`"


def _made(studio: Studio, job_id: str) -> JobView:
    """The job, once it has ended; Ctrl+C cancels it."""
    if studio.queue_state().paused:
        out.print("The queue is paused: the job starts when it is resumed. Ctrl+C cancels it.")
    try:
        return _follow(studio, job_id)
    except KeyboardInterrupt:
        studio.cancel(job_id, force=True)
        _exit(f"{job_id} is cancelled.")


def _follow(studio: Studio, job_id: str) -> JobView:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=out, transient=True) as bar:
        task = bar.add_task("queued", total=1.0)
        for job in studio.watch(job_id):
            bar.update(task, description=job.current_step.replace("_", " "), completed=job.progress)
    return job
