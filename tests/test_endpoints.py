"""Gradio's named endpoints through its own client, and through plain HTTP."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import soundfile
from gradio_client import Client
from gradio_client.exceptions import AppError

from studio.errors import DatabaseUnavailable
from studio.schemas import GenerationRequest, JobView
from tests.serving import API, Served, load_slow, served


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("endpoints"), max_retries=0) as server:
        yield server


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("slow"), load_slow) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Served) -> Client:
    return Client(server.url, verbose=False)


@pytest.fixture(scope="module")
def slow_client(slow: Served) -> Client:
    return Client(slow.url, verbose=False)


def newest(server: Served) -> dict[str, Any]:
    job: dict[str, Any] = server.http.get(f"{API}/jobs?page_size=1").json()["jobs"][0]
    return job


def test_the_parameters_and_their_defaults_are_the_requests_own(client: Client) -> None:
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    for name in ("/generate", "/generate_and_wait"):
        parameters = {item["parameter_name"]: item for item in endpoints[name]["parameters"]}
        assert set(parameters) - {"idempotency_key"} == set(GenerationRequest.model_fields)
        for field, description in GenerationRequest.model_fields.items():
            assert parameters[field]["parameter_has_default"] is not description.is_required()
            if not description.is_required():
                assert parameters[field]["parameter_default"] == description.default


def test_a_job_is_the_same_through_every_door(client: Client, server: Served) -> None:
    accepted = client.predict("sad piano", duration=1, seed=7, api_name="/generate")
    assert set(accepted) == {"job_id", "status", "current_step", "estimated_time_seconds", "created_at"}
    job = server.finish(accepted["job_id"])
    assert job["seed"] == 7
    assert client.predict(accepted["job_id"], api_name="/job") == job
    assert client.predict(status="completed", page_size=1, api_name="/jobs")["jobs"] == [job]
    assert client.predict(api_name="/queue_stats") == server.http.get(f"{API}/queue/stats").json()
    assert set(client.predict(api_name="/health")) == set(server.http.get(f"{API}/health").json())


def test_a_finished_piece_is_continued(client: Client, server: Served) -> None:
    first = server.finish(client.predict("sad piano", duration=1, api_name="/generate")["job_id"])
    asked: dict[str, Any] = {"continue_from": first["job_id"], "continue_seconds": 0.5}
    job, audio = client.predict("sad piano", duration=2, **asked, api_name="/generate_and_wait")
    assert {field: job[field] for field in asked} == asked
    assert soundfile.info(audio).duration == 2.0
    accepted = client.predict("sad piano", duration=2, **asked, api_name="/generate")
    assert server.finish(accepted["job_id"])["continue_from"] == first["job_id"]
    with pytest.raises(AppError, match="continue_from: There is no job 'gen_nothing'"):
        client.predict("sad piano", continue_from="gen_nothing", api_name="/generate")
    too_short = {"prompt": "sad piano", "duration": 1, "continue_from": first["job_id"]}
    with pytest.raises(AppError, match=r"requests\.0\.duration: must be more than the 1 s that are kept"):
        client.predict([too_short], api_name="/generate_batch")


def test_a_batch_goes_in_whole_or_not_at_all(client: Client, server: Served) -> None:
    requests: list[dict[str, Any]] = [{"prompt": "sad piano", "duration": 1}] * 3
    accepted = client.predict(requests, api_name="/generate_batch")
    assert (accepted["total_jobs"], len(accepted["job_ids"])) == (3, 3)
    for job_id in accepted["job_ids"]:
        server.finish(job_id)
    batch = client.predict(accepted["batch_id"], api_name="/batch")
    assert batch == server.http.get(f"{API}/batches/{accepted['batch_id']}").json()
    assert batch["progress"] == 1.0
    with pytest.raises(AppError, match="All jobs of the batch have ended"):
        client.predict(accepted["batch_id"], force=True, api_name="/cancel_batch")
    with zipfile.ZipFile(client.predict(accepted["batch_id"], api_name="/batch_zip")) as archive:
        assert len(json.loads(archive.read("manifest.json"))["jobs"]) == len(archive.namelist()) - 1 == 3
    with pytest.raises(AppError, match="There is no batch 'nonesuch'"):
        client.predict("nonesuch", api_name="/batch_zip")
    before = server.studio.jobs().total
    with pytest.raises(AppError, match=r"requests\.3\.duration: Input should be less than or equal to 30"):
        client.predict([*requests, {"prompt": "sad piano", "duration": 31}], api_name="/generate_batch")
    assert server.studio.jobs().total == before


def test_waiting_yields_the_job_as_it_advances_and_then_the_audio(slow_client: Client) -> None:
    *items, (job, path) = slow_client.submit("sad piano", duration=1.5, api_name="/generate_and_wait")
    assert set(job) == set(JobView.model_fields)
    assert [item[1] for item in items] == [None] * len(items)
    progress = [item[0]["progress"] for item in items]
    assert progress == sorted(progress)
    assert len(set(progress)) >= 2
    assert (job["status"], job["progress"]) == ("completed", 1.0)
    assert soundfile.info(path).duration == pytest.approx(1.5)


def test_predicting_gives_the_finished_job_and_its_file(client: Client) -> None:
    job, path = client.predict("sad piano", duration=1, api_name="/generate_and_wait")
    assert job["status"] == "completed"
    assert Path(path).suffix == ".wav"


def test_a_job_that_fails_fails_the_call_with_its_reason(client: Client) -> None:
    with pytest.raises(AppError, match="the engine exploded"):
        client.predict("explode now", duration=1, api_name="/generate_and_wait")


def test_who_leaves_early_cancels_the_job(slow: Served, slow_client: Client) -> None:
    waiting = slow_client.submit("sad piano", duration=30, api_name="/generate_and_wait")
    slow.until(lambda: waiting.outputs() and newest(slow)["current_step"] == "generating")
    job_id = waiting.outputs()[0][0]["job_id"]
    waiting.cancel()
    slow.until(lambda: slow.job(job_id)["status"] == "cancelled")


def test_a_connection_that_breaks_cancels_the_job(slow: Served) -> None:
    joined = slow.http.post("/gradio_api/call/v2/generate_and_wait", json={"prompt": "sad piano", "duration": 30})
    with slow.http.stream("GET", f"/gradio_api/call/generate_and_wait/{joined.json()['event_id']}") as events:
        next(line for line in events.iter_lines() if line.startswith("data: ["))
        job_id = newest(slow)["job_id"]
    slow.until(lambda: slow.job(job_id)["status"] == "cancelled")


def test_who_waits_goes_on_waiting_while_the_database_is_away(
    server: Served, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, away = server.studio.job, iter(range(3))

    def sometimes(job_id: str) -> JobView:
        if next(away, None) is not None:
            raise DatabaseUnavailable
        return look(job_id)

    monkeypatch.setattr(server.studio, "job", sometimes)
    job, path = client.predict("sad piano", duration=1, api_name="/generate_and_wait")
    assert (next(away, None), job["status"]) == (None, "completed")
    assert soundfile.info(path).duration == 1.0


def test_copies_that_a_crash_left_behind_are_deleted_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))
    for name in ("old", "new"):
        copy = tmp_path / "cache" / name / "track.wav"
        copy.parent.mkdir(parents=True)
        copy.write_bytes(b"RIFF")
    os.utime(tmp_path / "cache/old/track.wav", (0, 0))
    with served(tmp_path):
        assert [copy.parent.name for copy in tmp_path.glob("cache/*/*.wav")] == ["new"]


def test_many_who_wait_keep_nobody_from_the_other_endpoints(slow: Served, slow_client: Client) -> None:
    waiting = [slow_client.submit("sad piano", duration=30, api_name="/generate_and_wait") for _ in range(12)]
    slow.until(lambda: all(job.outputs() for job in waiting))
    start = time.monotonic()
    assert slow_client.predict(api_name="/queue_stats")["pending_jobs"] >= 11
    assert time.monotonic() - start < 5
    for job in waiting:
        job.cancel()
    slow.until(lambda: slow.studio.queue_stats().pending_jobs == slow.studio.queue_stats().processing_jobs == 0)


def test_a_job_is_cancelled_by_name(slow: Served, slow_client: Client) -> None:
    job_id = slow.ask(duration=30)
    slow.until(lambda: slow.job(job_id)["current_step"] == "generating")
    with pytest.raises(AppError):
        slow_client.predict(job_id, api_name="/cancel")
    assert slow_client.predict(job_id, force=True, api_name="/cancel")["job_id"] == job_id
    assert slow.job(job_id)["status"] == "cancelled"


def test_a_job_is_retried_by_name(client: Client, server: Served) -> None:
    failed = server.finish(server.ask("explode now"))
    again = client.predict(failed["job_id"], api_name="/retry")
    assert (again["job_id"], again["retry_count"], again["error_message"]) == (failed["job_id"], 0, None)
    assert server.finish(failed["job_id"])["status"] == "failed"
    attempts = client.predict(failed["job_id"], api_name="/attempts")
    assert attempts == server.http.get(f"{API}/jobs/{failed['job_id']}/attempts").json()
    assert [item["series"] for item in attempts["attempts"]] == [1, 2]
    assert client.predict(failed["job_id"], api_name="/deliveries") == {"job_id": failed["job_id"], "deliveries": []}
    with pytest.raises(AppError, match="is completed"):
        client.predict(server.finish(server.ask())["job_id"], api_name="/retry")


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        ("/generate", {"prompt": "a"}, "prompt: must have 3 to 500 characters, not 1"),
        ("/generate", {"prompt": "sad\x00piano"}, "prompt: must not contain the character U\\+0000"),
        ("/generate", {"prompt": "sad piano", "duration": 31}, "duration: Input should be less than or equal to 30"),
        ("/generate", {"prompt": "sad piano", "top_k": "many"}, "top_k: Input should be a valid integer"),
        ("/generate", {"prompt": ["sad piano"]}, "prompt: Input should be a valid string"),
        ("/generate", {"prompt": "sad piano", "model": "musicgen-tiny"}, "model: There is no model 'musicgen-tiny'"),
        ("/generate", {"prompt": "sad piano", "idempotency_key": 7}, "idempotency_key: Input should be a valid string"),
        ("/generate_batch", {"requests": [{"prompt": "sad piano", "model": "x"}]}, r"requests\.0\.model: There is no"),
        ("/generate_batch", {"requests": ["sad piano"]}, r"requests\.0: Input should be a valid dictionary"),
        ("/generate_and_wait", {"prompt": "sad piano", "seed": -1}, "seed: Input should be greater than or equal to 0"),
        ("/generate_batch", {"requests": []}, "requests: List should have at least 1 item"),
        ("/generate_batch", {"requests": {"prompt": "x"}}, "requests: Input should be a valid list"),
        ("/job", {"job_id": "gen_nothing"}, "There is no job 'gen_nothing'"),
        ("/batch", {"batch_id": "batch_none"}, "There is no batch 'batch_none'"),
        ("/job", {"job_id": 7}, "job_id: Input should be a valid string"),
        ("/cancel", {"job_id": "gen_nothing", "force": "please"}, "force: Input should be a valid boolean"),
        ("/jobs", {"status": "done"}, "status: Input should be"),
        ("/jobs", {"page": 0}, "page: Input should be greater than or equal to 1"),
    ],
)
def test_a_call_that_is_not_valid_says_what_rest_says(
    client: Client, name: str, arguments: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(AppError, match=sentence):
        client.predict(**arguments, api_name=name)


def test_what_nobody_expected_stays_in_the_log(
    server: Served, client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise RuntimeError("the password is swordfish")

    monkeypatch.setattr(server.studio, "queue_stats", broken)
    with pytest.raises(AppError) as refusal:
        client.predict(api_name="/queue_stats")
    assert "swordfish" not in str(refusal.value)
    assert "swordfish" in caplog.text


# Stopping


def test_a_stop_waits_for_no_open_stream_and_keeps_the_jobs(tmp_path: Path) -> None:
    with served(tmp_path, load_slow) as server:
        joined = server.http.post("/gradio_api/call/v2/generate_and_wait", json={"prompt": "sad piano", "duration": 30})
        url = f"{server.url}/gradio_api/call/generate_and_wait/{joined.json()['event_id']}"
        with httpx.stream("GET", url, timeout=60) as events:
            lines = events.iter_lines()  # kept: a generator that goes out of scope closes the connection
            while not next(lines).startswith("data: ["):
                pass
            job_id = newest(server)["job_id"]
            start = time.monotonic()
            server.close()
            assert time.monotonic() - start < 8
            assert server.studio.job(job_id).status in ("pending", "processing")


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_ends_the_server_in_good_order(tmp_path: Path, number: signal.Signals) -> None:
    command = [
        sys.executable,
        "-c",
        "from studio import Settings; from studio.api.server import serve; serve(Settings())",
    ]
    settings = {"DGX_MUSIC_DATA_DIR": str(tmp_path), "DGX_MUSIC_API_PORT": "0"}
    with subprocess.Popen(
        command, env=os.environ | settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout
        said = (word for line in process.stdout for word in line.split())
        url = next(word for word in said if word.startswith("http://"))
        _wait_for(url)
        process.send_signal(number)
        rest = process.stdout.read()
    assert process.returncode == 0
    assert "Traceback" not in rest
    assert "Warning" not in rest


def _wait_for(url: str) -> None:
    for _ in range(300):
        try:
            httpx.get(f"{url}{API}/health/live")
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError("the server did not come up")
