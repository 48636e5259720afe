"""The REST routes on a real server: what they answer, and what they say when they refuse."""

from __future__ import annotations

import io
import json
import re
import socket
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from studio.engine.base import LoadProgress
from studio.errors import DatabaseUnavailable
from studio.schemas import BATCH_MAX, GenerationRequest, JobView
from tests.fakes import SineEngine
from tests.serving import API, Served, load_slow, served


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("rest")) as server:
        yield server


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("slow"), load_slow) as server:
        yield server


@pytest.fixture(scope="module")
def track(server: Served) -> tuple[str, bytes]:
    """A finished job's URL and its bytes."""
    job = server.finish(server.ask(seed=3))
    return job["file_url"], server.http.get(job["file_url"]).content


# From a prompt to its audio


def test_a_request_is_accepted_followed_and_heard(server: Served) -> None:
    answer = server.http.post(f"{API}/generate", json={"prompt": "sad piano", "duration": 1.5, "seed": 7})
    assert answer.status_code == 202
    accepted = answer.json()
    assert set(accepted) == {"job_id", "status", "current_step", "estimated_time_seconds", "created_at"}
    assert (accepted["status"], accepted["current_step"]) == ("pending", "queued")
    assert re.fullmatch(r"gen_[0-9a-f]{16,}", accepted["job_id"])
    assert accepted["created_at"].endswith("Z")
    assert answer.headers["location"] == f"{API}/jobs/{accepted['job_id']}"
    job = server.finish(server.http.get(answer.headers["location"]).json()["job_id"])
    assert set(job) == set(JobView.model_fields)
    assert (job["status"], job["progress"], job["seed"]) == ("completed", 1.0, 7)
    audio = server.http.get(job["file_url"])
    assert (audio.status_code, audio.headers["content-type"]) == (200, "audio/wav")
    assert soundfile.info(io.BytesIO(audio.content)).duration == pytest.approx(1.5)


def test_a_batch_is_accepted_whole(server: Served) -> None:
    requests = [{"prompt": "trap beat with 808s", "duration": 1.0}] * 3
    answer = server.http.post(f"{API}/generate/batch", json={"requests": requests})
    assert answer.status_code == 202
    body = answer.json()
    assert set(body) == {"batch_id", "job_ids", "total_jobs", "estimated_total_time_seconds"}
    assert (body["total_jobs"], len(set(body["job_ids"]))) == (3, 3)
    assert {server.finish(job_id)["status"] for job_id in body["job_ids"]} == {"completed"}


def test_one_bad_request_keeps_the_whole_batch_out(server: Served) -> None:
    before = server.studio.jobs().total
    requests: list[dict[str, Any]] = [{"prompt": "sad piano"} for _ in range(BATCH_MAX)]
    requests[3]["duration"] = 31
    answer = server.http.post(f"{API}/generate/batch", json={"requests": requests})
    assert answer.status_code == 422
    assert [item["field"] for item in answer.json()["detail"]] == ["requests.3.duration"]
    assert server.studio.jobs().total == before


def test_jobs_are_listed_newest_first(server: Served) -> None:
    ids = [server.ask() for _ in range(3)]
    for job_id in ids:
        server.finish(job_id)
    page = server.http.get(f"{API}/jobs", params={"status": "completed", "page": 1, "page_size": 2}).json()
    assert set(page) == {"jobs", "total", "page", "page_size"}
    assert [job["job_id"] for job in page["jobs"]] == ids[:0:-1]
    assert server.http.get(f"{API}/jobs?status=&page=2&page_size=2").json()["jobs"][0]["job_id"] == ids[0]


# Cancelling


def test_a_waiting_job_is_cancelled_and_a_running_one_only_by_force(slow: Served) -> None:
    running, waiting = slow.ask(duration=30), slow.ask()
    slow.until(lambda: slow.job(running)["current_step"] == "generating")
    answer = slow.http.delete(f"{API}/jobs/{waiting}")
    assert answer.status_code == 200
    assert set(answer.json()) == {"message", "job_id", "cancelled_at"}
    assert (answer.json()["message"], answer.json()["job_id"]) == ("Job cancelled successfully", waiting)
    refused = slow.http.delete(f"{API}/jobs/{running}")
    assert (refused.status_code, set(refused.json())) == (409, {"error"})
    assert slow.http.delete(f"{API}/jobs/{running}?force=true").status_code == 200
    assert slow.http.delete(f"{API}/jobs/{running}?force=true").status_code == 409
    assert [slow.job(job_id)["status"] for job_id in (running, waiting)] == ["cancelled", "cancelled"]


def test_a_cancelled_job_is_retried_and_a_completed_one_is_not(slow: Served) -> None:
    job_id = slow.ask(duration=30)
    slow.until(lambda: slow.job(job_id)["current_step"] == "generating")
    assert slow.http.post(f"{API}/jobs/{job_id}/retry").status_code == 409
    slow.http.delete(f"{API}/jobs/{job_id}?force=true")
    answer = slow.http.post(f"{API}/jobs/{job_id}/retry")
    assert (answer.status_code, answer.json()["job_id"], answer.json()["status"]) == (200, job_id, "pending")
    slow.until(lambda: slow.job(job_id)["current_step"] == "generating")
    slow.http.delete(f"{API}/jobs/{job_id}?force=true")
    done = slow.finish(slow.ask())
    refused = slow.http.post(f"{API}/jobs/{done['job_id']}/retry")
    assert (refused.status_code, set(refused.json())) == (409, {"error"})


def test_progress_is_seen_while_it_happens(slow: Served) -> None:
    job_id = slow.ask(duration=2)
    seen: list[float] = []
    slow.until(lambda: seen.append((job := slow.job(job_id))["progress"]) or job["status"] == "completed")
    assert seen == sorted(seen)
    assert len(set(seen)) >= 3


# Batches


def test_a_batch_is_followed_as_a_whole_and_its_rest_cancelled(slow: Served) -> None:
    requests = [{"prompt": "sad piano", "duration": duration} for duration in (1, 30, 30)]
    batch = slow.http.post(f"{API}/generate/batch", json={"requests": requests}).json()
    url = f"{API}/batches/{batch['batch_id']}"
    _, second, third = batch["job_ids"]
    assert slow.http.get(f"{url}/zip").status_code == 409, "nothing to download yet"
    slow.until(lambda: slow.job(second)["current_step"] == "generating")
    view = slow.http.get(url).json()
    assert (view["batch_id"], view["total_jobs"], view["job_ids"]) == (batch["batch_id"], 3, batch["job_ids"])
    assert view["jobs_by_status"] == {"pending": 1, "processing": 1, "completed": 1, "failed": 0, "cancelled": 0}
    assert 1 / 3 <= view["progress"] < 1
    assert view["estimated_time_seconds"] > 0
    assert slow.job(third)["batch_id"] == batch["batch_id"]
    assert slow.http.delete(url).json()["job_ids"] == [third]
    assert slow.http.delete(url).status_code == 409
    assert slow.http.delete(f"{url}?force=true").json()["job_ids"] == [second]
    view = slow.http.get(url).json()
    assert view["jobs_by_status"] | {"completed": 1, "cancelled": 2} == view["jobs_by_status"]
    assert (view["progress"], view["estimated_time_seconds"]) == (1.0, None)


def test_a_batchs_tracks_are_downloaded_as_one_zip(server: Served) -> None:
    requests = [{"prompt": prompt, "duration": 1.0, "seed": 5} for prompt in ("sad piano", "explode now", "a café 🎷")]
    batch = server.http.post(f"{API}/generate/batch", json={"requests": requests}).json()
    jobs = [server.finish(job_id) for job_id in batch["job_ids"]]
    answer = server.http.get(f"{API}/batches/{batch['batch_id']}/zip")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/zip")
    assert f'filename="{batch["batch_id"]}.zip"' in answer.headers["content-disposition"]
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        manifest = json.loads(archive.read("manifest.json"))
        files = {entry["file"]: entry for entry in manifest["jobs"] if entry["file"]}
        assert set(archive.namelist()) == {"manifest.json", *files}
        assert sorted(files) == ["01-sad-piano-seed-5.wav", "03-a-cafe-seed-5.wav"]
        for name, entry in files.items():
            assert archive.read(name) == server.http.get(entry["file_url"]).content
    assert manifest["batch_id"] == batch["batch_id"]
    assert [{**entry, "file": None} for entry in manifest["jobs"]] == [{**job, "file": None} for job in jobs]
    assert [entry["file"] is None for entry in manifest["jobs"]] == [False, True, False]


@pytest.mark.parametrize("batch_id", ["batch_none", "x" * 3000, "%00", "' OR 1=1 --", "%0d%0aX: y"])
def test_an_unknown_batch_is_404(server: Served, batch_id: str) -> None:
    url = f"{API}/batches/{batch_id}"
    for answer in (server.http.get(url), server.http.delete(url), server.http.get(f"{url}/zip")):
        assert (answer.status_code, set(answer.json())) == (404, {"error"})


# Going on from music


def flac(seconds: float) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.random.default_rng(0).normal(0, 0.1, round(seconds * 8000)), 8000, format="FLAC")
    return file.getvalue()


def test_music_of_ones_own_is_brought_and_continued(server: Served) -> None:
    answer = server.http.post(f"{API}/clips", content=flac(2.5))
    assert answer.status_code == 201
    clip = answer.json()
    assert set(clip) == {"clip_id", "duration", "sample_rate", "channels", "file_size_bytes", "format"}
    assert (clip["duration"], clip["sample_rate"], clip["channels"], clip["format"]) == (2.5, 8000, 1, "flac")
    job = server.finish(server.ask(duration=4.0, continue_from=clip["clip_id"]))
    assert (job["status"], job["continue_from"], job["continue_seconds"]) == ("completed", clip["clip_id"], 2.5)
    longer = server.finish(server.ask(duration=3.0, continue_from=job["job_id"], continue_seconds=1.0))
    assert (longer["status"], longer["continue_seconds"], longer["metadata"]["duration"]) == ("completed", 1.0, 3.0)
    heard = soundfile.read(io.BytesIO(server.http.get(f"{API}/jobs/{longer['job_id']}/stream").content))[0]
    assert len(heard) == 24_000


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"continue_from": "gen_nothing"}, "continue_from"),
        ({"continue_from": "clip_0123456789abcdef0123"}, "continue_from"),
        ({"continue_from": "../../etc/passwd"}, "continue_from"),
        ({"continue_from": "\udcff"}, "continue_from"),
        ({"continue_from": ""}, "continue_from"),
        ({"continue_from": 7}, "continue_from"),
        ({"continue_seconds": 2}, "continue_seconds"),
        ({"continue_seconds": 0.1}, "continue_seconds"),
        ({"continue_from": "{done}", "duration": 1}, "duration"),
        ({"continue_from": "{done}", "duration": 4, "continue_seconds": 3}, "continue_seconds"),
    ],
)
def test_what_cannot_be_continued_names_its_field(server: Served, asked: dict[str, Any], field: str) -> None:
    done = server.finish(server.ask(duration=2.0))["job_id"]
    body = {"prompt": "sad piano", **asked}
    text = json.dumps(body).replace("{done}", done)
    answer = server.http.post(f"{API}/generate", content=text, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert [item["field"] for item in answer.json()["detail"]] == [field]


@pytest.mark.parametrize("content", [b"", b"Dear studio,", flac(2.0)[:40], b"RIFF\xff\xff\xff\xffWAVE", b"ID3" * 99])
def test_a_file_that_is_no_music_is_refused(server: Served, content: bytes) -> None:
    answer = server.http.post(f"{API}/clips", content=content)
    assert answer.status_code == 422
    assert [item["field"] for item in answer.json()["detail"]] == ["body"]


# What is refused, and how


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ('{"prompt": "sad piano", "duration": NaN}', "duration"),
        ('{"prompt": "sad piano", "duration": Infinity}', "duration"),
        ('{"prompt": "sad piano", "duration": 1e999}', "duration"),
        ('{"prompt": "sad piano", "duration": "8"}', "duration"),
        ('{"prompt": "sad piano", "duration": 0.5}', "duration"),
        ('{"prompt": "sad piano", "top_k": 2.5}', "top_k"),
        ('{"prompt": "sad piano", "top_k": true}', "top_k"),
        ('{"prompt": "sad piano", "seed": -1}', "seed"),
        ('{"prompt": "sad piano", "cfg_coef": 11}', "cfg_coef"),
        ('{"prompt": "sad piano", "temperature": null}', "temperature"),
        ('{"prompt": "sad piano", "model": "musicgen-tiny"}', "model"),
        ('{"prompt": "sad piano", "tempo": 80}', "tempo"),
        ('{"prompt": "sad piano", "\\ud800": 1}', "body"),
        ('{"prompt": "sad \\ud800 piano"}', "prompt"),
        ('{"prompt": "sad \\u0000 piano"}', "prompt"),
        ('{"prompt": "sad \\u001b[2J piano"}', "prompt"),
        ('{"prompt": "  a   "}', "prompt"),
        (json.dumps({"prompt": "a" * 501}), "prompt"),
        ('{"prompt": ["sad piano"]}', "prompt"),
        ("{}", "prompt"),
        ("", "body"),
        ("null", "body"),
        ("[]", "body"),
        ('{"prompt": ', "body"),
        ("[" * 100_000, "body"),
        ('{"prompt": "sad piano", "seed": ' + "9" * 5000 + "}", "body"),
        (b'{"prompt": "\xff\xfe"}', "body"),
    ],
)
def test_a_request_that_is_not_valid_names_its_field(server: Served, body: str | bytes, field: str) -> None:
    answer = server.http.post(f"{API}/generate", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422, answer.text
    refusal = answer.json()
    assert set(refusal) == {"error", "detail"}
    assert field in [item["field"] for item in refusal["detail"]]
    assert field in refusal["error"]
    assert all(set(item) == {"field", "message"} for item in refusal["detail"])


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "text/plain"])
def test_what_any_page_may_send_is_not_taken_for_json(server: Served, content_type: str) -> None:
    answer = server.http.post(
        f"{API}/generate", content='{"prompt": "sad piano"}', headers={"Content-Type": content_type}
    )
    assert answer.status_code == 422
    assert "application/json" in answer.json()["error"]


@pytest.mark.parametrize(("field", "value"), [("model", "musicgen-tiny"), ("webhook_url", "https://a.example/")])
def test_what_the_studio_itself_refuses_in_a_batch_is_named_by_its_place(
    server: Served, field: str, value: str
) -> None:
    requests = [{"prompt": "sad piano"}, {"prompt": "sad piano", field: value}]
    answer = server.http.post(f"{API}/generate/batch", json={"requests": requests})
    assert answer.status_code == 422
    assert [item["field"] for item in answer.json()["detail"]] == [f"requests.1.{field}"]


@pytest.mark.parametrize("requests", [[], [{"prompt": "sad piano"}] * (BATCH_MAX + 1), None, {}])
def test_a_batch_has_one_to_ten_requests(server: Served, requests: object) -> None:
    answer = server.http.post(f"{API}/generate/batch", json={"requests": requests})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["field"] == "requests"


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("status=done", "status"),
        ("page=0", "page"),
        ("page=x", "page"),
        ("page=1e30", "page"),
        ("page=" + "9" * 30, "page"),
        ("page_size=0", "page_size"),
        ("page_size=101", "page_size"),
        ("stauts=failed", "stauts"),
    ],
)
def test_a_list_that_cannot_be_is_refused(server: Served, query: str, field: str) -> None:
    answer = server.http.get(f"{API}/jobs?{query}")
    assert answer.status_code == 422
    assert [item["field"] for item in answer.json()["detail"]] == [field]


def test_a_thousand_wrong_fields_are_not_all_listed(server: Served) -> None:
    answer = server.http.post(f"{API}/generate", json={f"field{number}": 1 for number in range(1000)})
    assert answer.status_code == 422
    assert len(answer.json()["detail"]) <= 20


@pytest.mark.parametrize(
    "job_id", ["gen_0000000000000000", "x" * 3000, "%00", "%ff", "gen_%F0%9F%8E%B5", "' OR 1=1 --"]
)
def test_an_unknown_job_is_404(server: Served, job_id: str) -> None:
    url = f"{API}/jobs/{job_id}"
    calls = [("GET", ""), ("DELETE", ""), ("POST", "/retry"), ("GET", "/attempts"), ("GET", "/deliveries")]
    for answer in [server.http.request(method, url + rest) for method, rest in calls]:
        assert (answer.status_code, set(answer.json())) == (404, {"error"})


def test_an_unknown_route_or_method_answers_in_json(server: Served) -> None:
    for path in ("/nothing", "/", "", "/jobs/", "/generate/batch/x", "/files/", "/static/none.js"):
        answer = server.http.get(API + path)
        assert (answer.status_code, set(answer.json())) == (404, {"error"}), path
    for method, path in [("PUT", "/generate"), ("GET", "/generate"), ("POST", "/jobs"), ("DELETE", "/health")]:
        answer = server.http.request(method, API + path)
        assert (answer.status_code, set(answer.json())) == (405, {"error"})
        assert answer.headers["allow"]


def test_what_nobody_expected_is_logged_and_kept_inside(
    server: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise RuntimeError("the password is swordfish")

    monkeypatch.setattr(server.studio, "queue_stats", broken)
    answer = server.http.get(f"{API}/queue/stats")
    assert (answer.status_code, set(answer.json())) == (500, {"error"})
    assert "swordfish" not in answer.text
    assert "swordfish" in caplog.text
    assert "Traceback" in caplog.text


def test_a_database_that_does_not_answer_is_503(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise DatabaseUnavailable

    monkeypatch.setattr(server.studio, "queue_stats", broken)
    answer = server.http.get(f"{API}/queue/stats")
    assert (answer.status_code, answer.json()) == (503, {"error": "The database does not answer."})
    assert int(answer.headers["retry-after"]) >= 1


# Files


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("0-9", 0, 9),
        ("100-", 100, None),
        ("-100", -100, None),
        ("0-99999999", 0, None),
        (" 5-5", 5, 5),
        ("-99999999", 0, None),
    ],
)
def test_a_part_of_a_file_is_served(
    server: Served, track: tuple[str, bytes], asked: str, first: int, last: int | None
) -> None:
    url, whole = track
    answer = server.http.get(url, headers={"Range": f"bytes={asked}"})
    part = whole[first:] if last is None else whole[first : last + 1]
    start = len(whole) - len(part) if last is None else first
    assert (answer.status_code, answer.content) == (206, part)
    assert answer.headers["content-range"] == f"bytes {start}-{start + len(part) - 1}/{len(whole)}"


def test_several_ranges_come_as_parts(server: Served, track: tuple[str, bytes]) -> None:
    url, whole = track
    answer = server.http.get(url, headers={"Range": f"bytes=0-3,100-103,{len(whole)}-"})
    assert answer.status_code == 206
    assert answer.headers["content-type"].startswith("multipart/byteranges")
    assert whole[:4] in answer.content
    assert whole[100:104] in answer.content
    assert len(answer.content) == int(answer.headers["content-length"])


@pytest.mark.parametrize("asked", ["bytes=99999999-", "bytes=-0", "bytes=99999999-100000000, 88888888-"])
def test_a_range_outside_the_file_is_416(server: Served, track: tuple[str, bytes], asked: str) -> None:
    url, whole = track
    answer = server.http.get(url, headers={"Range": asked})
    assert (answer.status_code, set(answer.json())) == (416, {"error"})
    assert answer.headers["content-range"] == f"bytes */{len(whole)}"


@pytest.mark.parametrize(
    "asked",
    [
        "bytes=9-5",
        "bytes=a-b",
        "bytes=",
        "bytes",
        "lines=1-2",
        "bytes=--1",
        "bytes=1-2;3",
        f"bytes={'9' * 50}-",
        ",".join(["bytes=0-0"] + ["0-0"] * 200),
    ],
)
def test_a_range_that_makes_no_sense_is_ignored(server: Served, track: tuple[str, bytes], asked: str) -> None:
    url, whole = track
    answer = server.http.get(url, headers={"Range": asked})
    assert (answer.status_code, answer.content) == (200, whole)


def test_a_range_of_an_older_file_gives_the_whole_one(server: Served, track: tuple[str, bytes]) -> None:
    url, whole = track
    tag = server.http.head(url).headers["etag"]
    assert server.http.get(url, headers={"Range": "bytes=0-9", "If-Range": tag}).status_code == 206
    for asked in ("bytes=0-9", "bytes=99999999-"):
        answer = server.http.get(url, headers={"Range": asked, "If-Range": '"other"'})
        assert (answer.status_code, answer.content) == (200, whole)


def test_head_tells_a_files_size_without_it(server: Served, track: tuple[str, bytes]) -> None:
    url, whole = track
    answer = server.http.head(url)
    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["content-length"]) == len(whole)
    assert answer.headers["accept-ranges"] == "bytes"


@pytest.mark.parametrize(
    "name",
    [
        ".",
        "..",
        "%2e%2e",
        "..%2fstudio.db",
        "%2fetc%2fhostname",
        "studio.db",
        "x" * 300,
        "x" * 5000,
        "nul%00",
        "%00",
        "%ff",
        "a%0d%0ab",
        "link.wav",
        "gen_0000000000000000.wav",
        "~",
        "*",
        "CON",
        "....//",
    ],
)
def test_any_other_name_is_404(server: Served, name: str) -> None:
    link = server.studio.settings.audio_dir / "link.wav"
    if not link.is_symlink():
        link.symlink_to("/etc/hostname")
    status, body = raw_get(server, f"{API}/files/{name}")
    assert (status, set(json.loads(body))) == (404, {"error"})


def test_a_finished_jobs_file_that_became_a_link_is_404(server: Served) -> None:
    job = server.finish(server.ask())
    path = server.studio.settings.audio_dir / Path(job["file_url"]).name
    path.rename(path.with_suffix(".away"))
    path.symlink_to("/etc/hostname")
    assert server.http.get(job["file_url"]).status_code == 404


def raw_get(server: Served, target: str) -> tuple[int, bytes]:
    """A GET whose path no client has tidied up."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        request = f"GET {target} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n"
        connection.sendall(request.encode("latin-1"))
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


# The studio itself


def test_the_queue_in_six_figures(server: Served) -> None:
    server.finish(server.ask())
    stats = server.http.get(f"{API}/queue/stats").json()
    assert set(stats) == {
        "pending_jobs",
        "processing_jobs",
        "completed_jobs",
        "failed_jobs",
        "oldest_pending_job_age_seconds",
        "average_processing_time_seconds",
    }
    assert stats["completed_jobs"] >= 1
    assert stats["average_processing_time_seconds"] > 0


def test_health_has_four_checks_and_their_sum(server: Served) -> None:
    answer = server.http.get(f"{API}/health")
    report = answer.json()
    assert (answer.status_code, set(report)) == (
        200,
        {"status", "checks", "version", "uptime_seconds", "timestamp"},
    )
    assert set(report["checks"]) == {"database", "gpu", "queue", "disk_space"}
    assert report["status"] in ("healthy", "degraded")
    assert server.http.get(f"{API}/health/ready").json() == {"status": "ready"}
    assert server.http.get(f"{API}/health/live").json() == {"status": "live"}


def test_an_unhealthy_studio_is_503_and_not_ready_but_alive(tmp_path: Path) -> None:
    with served(tmp_path, min_free_disk_gb=1e9) as full:
        answer = full.http.get(f"{API}/health")
        assert (answer.status_code, answer.json()["status"]) == (503, "unhealthy")
        assert full.http.get(f"{API}/health/ready").status_code == 503
        assert full.http.get(f"{API}/health/live").status_code == 200


# Documentation


def test_every_route_is_documented_with_examples(server: Served) -> None:
    schema = server.http.get(f"{API}/openapi.json").json()
    routes = {(method, path) for path, item in schema["paths"].items() for method in item}
    assert routes == {
        ("post", f"{API}/generate"),
        ("post", f"{API}/generate/batch"),
        ("get", f"{API}/jobs"),
        ("get", f"{API}/jobs/{{job_id}}"),
        ("get", f"{API}/jobs/{{job_id}}/events"),
        ("get", f"{API}/jobs/{{job_id}}/stream"),
        ("delete", f"{API}/jobs/{{job_id}}"),
        ("post", f"{API}/jobs/{{job_id}}/retry"),
        ("post", f"{API}/jobs/{{job_id}}/front"),
        ("get", f"{API}/jobs/{{job_id}}/attempts"),
        ("get", f"{API}/jobs/{{job_id}}/deliveries"),
        ("get", f"{API}/batches/{{batch_id}}"),
        ("delete", f"{API}/batches/{{batch_id}}"),
        ("get", f"{API}/batches/{{batch_id}}/zip"),
        ("get", f"{API}/files/{{filename}}"),
        ("post", f"{API}/clips"),
        ("get", f"{API}/queue"),
        ("post", f"{API}/queue/pause"),
        ("post", f"{API}/queue/resume"),
        ("get", f"{API}/queue/stats"),
        ("get", f"{API}/health"),
        ("get", f"{API}/health/ready"),
        ("get", f"{API}/health/live"),
    }
    for method, path in routes:
        route = schema["paths"][path][method]
        assert route["description"], path
        for status, answer in route["responses"].items():
            content = answer.get("content", {})
            assert content or status == "204", (path, status)

            assert all("example" in kind for kind in content.values()), (path, status)
        if "requestBody" in route:
            (body,) = route["requestBody"]["content"].values()
            assert body.get("examples") or body.get("example") or body["schema"]["examples"], path
    assert schema["webhooks"]["job-ended"]["post"]["requestBody"]["content"]["application/json"]["schema"]["examples"]
    assert "HTTPValidationError" not in schema["components"]["schemas"]


def test_the_documented_requests_are_accepted(server: Served) -> None:
    schema = server.http.get(f"{API}/openapi.json").json()
    for path in (f"{API}/generate", f"{API}/generate/batch"):
        body = schema["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        (example,) = body.get("examples") or body["schema"]["examples"]
        assert server.http.post(path, json=example).status_code == 202


@pytest.mark.parametrize("page", ["docs", "redoc"])
def test_the_documentation_comes_from_this_machine(server: Served, page: str) -> None:
    answer = server.http.get(f"{API}/{page}")
    assert answer.status_code == 200
    links = re.findall(r"""(?:src|href|url)\s*[=:]\s*["']([^"']+)""", answer.text)
    assert len(links) >= 3
    for link in links:
        assert "//" not in link
        answer = server.http.get(f"{API}/{link}")
        assert answer.status_code == 200, link
        assert "//cdn." not in answer.text


def test_bounds_in_the_documentation_are_the_requests_own(server: Served) -> None:
    documented = server.http.get(f"{API}/openapi.json").json()["components"]["schemas"]["GenerationRequest"]
    for name, field in GenerationRequest.model_json_schema()["properties"].items():
        assert documented["properties"][name] == {key: value for key, value in field.items() if value is not None}
    assert documented["additionalProperties"] is False


# Many at once


def test_a_failing_engine_gives_a_failed_job_with_its_reason(tmp_path: Path) -> None:
    def load(model: str, progress: LoadProgress) -> SineEngine:
        raise OSError("no such device")

    with served(tmp_path, load, max_retries=1) as broken:
        job = broken.finish(broken.ask())
        attempts = broken.http.get(f"{API}/jobs/{job['job_id']}/attempts").json()["attempts"]
    assert (job["status"], job["current_step"], job["retry_count"]) == ("failed", "failed", 1)
    assert "no such device" in job["error_message"]
    assert [(attempt["number"], attempt["outcome"]) for attempt in attempts] == [(1, "failed"), (2, "failed")]
    assert all("Traceback" in attempt["stack_trace"] and attempt["seconds"] >= 0 for attempt in attempts)
    assert job["file_url"] is None
