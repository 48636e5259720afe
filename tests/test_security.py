"""What the server refuses, whichever surface is tried."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from studio.api.security import BODY_MAX_BYTES, DRAIN_MAX_BYTES
from tests.serving import API, Served, served

EVIL = "https://evil.example"
NAMES = (
    "generate", "generate_and_wait", "generate_batch", "job", "attempts", "cancel", "retry", "jobs", "batch",
    "cancel_batch", "queue_stats", "health", "to_front", "pause", "resume", "queue_state", "deliveries",
    "batch_zip",
)  # fmt: skip


ASKED = ("sad piano", 1, 1, 250, 0, 3, None, None, 0, [], None)  # every argument; the client fills in defaults
AFRESH = (None, None)  # `continue_from` and `continue_seconds`, which come last


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    hosts = ["localhost", "127.0.0.1", "[::1]", "music.example.org", "*.example.net"]
    with served(tmp_path_factory.mktemp("security"), allowed_hosts=hosts) as server:
        yield server


def call(server: Served, name: str, *data: Any) -> str:
    """The events that an endpoint answers to a plain HTTP client."""
    joined = server.http.post(f"/gradio_api/call/{name}", json={"data": data})
    assert joined.status_code == 200, joined.text
    return server.http.get(f"/gradio_api/call/{name}/{joined.json()['event_id']}").text


# Files


@pytest.mark.parametrize("path", ["/etc/hostname", "{data}/studio.db", "{audio}"])
def test_a_forged_file_reaches_no_handler_and_no_cache(server: Served, path: str) -> None:
    real = existing(server, path)
    forged = {"path": real, "meta": {"_type": "gradio.FileData"}}
    assert "event: error" in call(server, "job", forged)
    assert "event: error" in call(server, "generate", forged, *[None] * 7)
    assert "event: error" in call(server, "generate_batch", [{"prompt": forged}])
    assert not list(Path(os.environ["GRADIO_TEMP_DIR"]).rglob(Path(real).name))


@pytest.mark.parametrize("path", ["/etc/hostname", "{data}/studio.db", "{audio}", "{data}/../../etc/hostname"])
def test_gradios_file_route_serves_nothing_of_this_machine(server: Served, path: str) -> None:
    answer = server.http.get(f"/gradio_api/file={existing(server, path)}")
    assert answer.status_code in (403, 404)


def test_nobody_uploads_anything(server: Served) -> None:
    kept = Path(os.environ["GRADIO_TEMP_DIR"])
    for path in ("/gradio_api/upload", "/gradio_api/upload/", "/gradio_api/process_recording"):
        files = {"files": ("uploaded.html", b"<script>alert(1)</script>")}
        answer = server.http.post(path, files=files, follow_redirects=True)
        assert (answer.status_code, set(answer.json())) == (404, {"error"})
    for path in ("/gradio_api/deep_link?session_hash=x", "/pwa_icon/512"):
        assert server.http.get(path).status_code == 404
    assert not list(kept.rglob("uploaded.html"))


def existing(server: Served, path: str) -> str:
    if path != "{audio}":
        return path.replace("{data}", str(server.studio.settings.data_dir.resolve()))
    job = server.finish(server.ask())
    return str(server.studio.settings.audio_dir / Path(job["file_url"]).name)


# Foreign pages


@pytest.mark.parametrize("host", ["localhost", "music.example.org"])
@pytest.mark.parametrize("path", ["/", f"{API}/health/live", f"{API}/jobs", "/gradio_api/info", "/config"])
@pytest.mark.parametrize("origin", [EVIL, "null", "http://localhost.evil.example"])
def test_a_foreign_page_may_not_read(server: Served, host: str, path: str, origin: str) -> None:
    answer = server.http.get(path, headers={"Host": host, "Origin": origin})
    assert "access-control-allow-origin" not in answer.headers
    preflight = {"Host": host, "Origin": origin, "Access-Control-Request-Method": "POST"}
    answer = server.http.options(path, headers=preflight)
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "path", [f"{API}/generate", "/gradio_api/call/generate", "/gradio_api/queue/join", "/gradio_api/upload"]
)
@pytest.mark.parametrize("origin", [EVIL, "null", "http://localhost:1", "http://localhost", "http://[::1]:7860"])
def test_a_foreign_page_may_not_act(server: Served, path: str, origin: str) -> None:
    answer = server.http.post(path, json={}, headers={"Origin": origin})
    assert (answer.status_code, set(answer.json())) == (403, {"error"})


def test_the_studios_own_page_may_act(server: Served) -> None:
    answer = server.http.post(f"{API}/generate", json={"prompt": "sad piano"}, headers={"Origin": server.url})
    assert answer.status_code == 202


@pytest.mark.parametrize(
    ("origin", "host", "status"),
    [
        ("https://music.example.org", "music.example.org", 200),
        ("https://music.example.org:8443", "music.example.org", 200),  # a proxy may leave out the port
        ("https://MUSIC.example.org", "music.example.org:443", 200),
        ("http://music.example.org", "music.example.org:443", 403),
        ("https://a.example.net", "music.example.org", 403),
    ],
)
def test_a_page_behind_a_proxy_may_act_where_it_came_from(server: Served, origin: str, host: str, status: int) -> None:
    answer = server.http.post(f"{API}/queue/resume", headers={"Origin": origin, "Host": host})
    assert answer.status_code == status


@pytest.mark.parametrize("host", ["localhost:7860", "127.0.0.1", "[::1]:7860", "MUSIC.example.org", "a.example.net"])
def test_the_studio_answers_to_its_names(server: Served, host: str) -> None:
    assert server.http.get(f"{API}/health/live", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:7860",
        "example.net",
        "localhost.evil.example",
        "localhost@evil.example",
        "",
        "169.254.169.254",
        "a b",
        "localhost/x",
    ],
)
@pytest.mark.parametrize("path", [f"{API}/health/live", "/", "/gradio_api/info"])
def test_a_name_that_is_not_the_studios_is_refused(server: Served, host: str, path: str) -> None:
    answer = server.http.get(path, headers={"Host": host})
    assert answer.status_code == 400
    if answer.headers["content-type"] == "application/json":  # the HTTP parser itself refuses some
        assert "ALLOWED_HOSTS" in answer.json()["error"]


def test_what_a_stranger_says_about_the_outside_is_not_believed(server: Served) -> None:
    lies = {
        "X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https", "Forwarded": "host=evil.example",
        "X-Gradio-Server": "https://evil.example",
    }  # fmt: skip
    for name, value in lies.items():
        assert "evil.example" not in server.http.get("/", headers={name: value}).text
        assert server.http.get("/config", headers={name: value}).json()["root"].startswith("http://127.0.0.1")


# Too much


@pytest.mark.parametrize(
    "path", [f"{API}/generate", f"{API}/generate/batch", "/gradio_api/call/generate", "/gradio_api/upload"]
)
def test_a_body_that_is_too_large_is_413(server: Served, path: str) -> None:
    body = json.dumps({"prompt": "a" * BODY_MAX_BYTES}).encode()
    headers = {"Content-Type": "application/json"}
    announced = server.http.post(path, content=body, headers=headers)
    assert (announced.status_code, set(announced.json())) == (413, {"error"})
    pieces = server.http.post(path, content=iter([body[:1000], body[1000:]]), headers=headers)
    assert (pieces.status_code, set(pieces.json())) == (413, {"error"})


def test_only_audio_may_be_larger_as_far_as_the_setting_says(tmp_path: Path) -> None:
    with served(tmp_path, clip_max_mb=2) as server:
        refused = server.http.post(f"{API}/clips", content=bytes(1_900_000))
        assert (refused.status_code, refused.json()["detail"][0]["field"]) == (422, "body"), "it was looked at"
        too_large = server.http.post(f"{API}/clips", content=bytes(2_000_001))
        assert (too_large.status_code, too_large.json()) == (413, {"error": "The body has more than 2000 kB."})
        assert server.http.post(f"{API}/clips/", content=bytes(1_900_000)).status_code == 413
        assert not list(tmp_path.glob("clips/*"))


def test_who_is_still_sending_what_is_too_large_gets_the_answer(server: Served) -> None:
    with sending(server, 2 * BODY_MAX_BYTES) as connection:
        answer = connection.recv(1000)  # at once
        connection.sendall(b"a" * (2 * BODY_MAX_BYTES))
        while piece := connection.recv(1000):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 413 ") and answer.endswith(b'kB."}')


def test_who_never_stops_sending_is_cut_off(server: Served) -> None:
    with sending(server, 20 * DRAIN_MAX_BYTES) as connection, pytest.raises(ConnectionError):
        connection.sendall(bytes(20 * DRAIN_MAX_BYTES))


def sending(server: Served, length: int) -> socket.socket:
    """A connection over which a request with a body of `length` bytes is sent, up to the body."""
    connection = socket.create_connection((server.http.base_url.host, server.http.base_url.port), timeout=60)
    connection.sendall(f"POST {API}/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n".encode())
    return connection


def test_a_body_in_pieces_is_read(server: Served) -> None:
    pieces = iter([b'{"prompt": ', b'"sad piano"}'])
    answer = server.http.post(f"{API}/generate", content=pieces, headers={"Content-Type": "application/json"})
    assert answer.status_code == 202


# Rate limit: one count for all surfaces


def test_rest_and_gradio_share_one_count(tmp_path: Path) -> None:
    with served(tmp_path, rate_limit_per_minute=4, rate_limit_whitelist=[]) as server:
        batch = {"requests": [{"prompt": "sad piano", "duration": 1}] * 2}
        assert server.http.post(f"{API}/generate/batch", json=batch).status_code == 202
        assert "event: complete" in call(server, "generate", *ASKED, None, *AFRESH)
        assert server.http.post(f"{API}/generate", json={"prompt": "sad piano"}).status_code == 202
        refused = server.http.post(f"{API}/generate", json={"prompt": "sad piano"})
        assert (refused.status_code, refused.json()) == (429, {"error": "Rate limit exceeded"})
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert '"Rate limit exceeded"' in call(server, "generate", *ASKED, None, *AFRESH)
        assert '"Rate limit exceeded"' in call(server, "generate_and_wait", *ASKED, *AFRESH)
        assert '"Rate limit exceeded"' in call(server, "generate_batch", batch["requests"], None)
        too_many = server.http.post(f"{API}/generate/batch", json={"requests": batch["requests"] * 3})
        assert (too_many.status_code, too_many.json()["detail"][0]["field"]) == (422, "requests")
        assert server.http.get(f"{API}/jobs").json()["total"] == 4


def statuses(server: Served, addresses: list[str]) -> list[int]:
    return [
        server.http.post(
            f"{API}/generate", json={"prompt": "sad piano"}, headers={"X-Forwarded-For": address}
        ).status_code
        for address in addresses
    ]


def test_only_a_trusted_proxy_says_who_the_client_is(tmp_path: Path) -> None:
    addresses = ["203.0.113.1", "203.0.113.2", "198.51.100.7, 203.0.113.2"]
    with served(tmp_path / "direct", rate_limit_per_minute=1, rate_limit_whitelist=[]) as direct:
        assert statuses(direct, addresses) == [202, 429, 429]
    with served(tmp_path / "proxied", rate_limit_per_minute=1, trusted_proxies=["127.0.0.1"]) as proxied:
        assert statuses(proxied, addresses) == [202, 202, 429]


# Endpoints


def test_no_listener_of_the_page_is_a_public_endpoint(server: Served) -> None:
    info = server.http.get("/gradio_api/info").json()
    assert set(info["named_endpoints"]) == {f"/{name}" for name in NAMES}
    assert info["unnamed_endpoints"] == {}
    listeners = server.http.get("/config").json()["dependencies"]
    public = {listener["api_name"] for listener in listeners if listener["api_visibility"] != "private"}
    assert public == set(NAMES)


def test_nothing_is_measured_or_kept_by_gradio(server: Served) -> None:
    config = server.http.get("/config").json()
    assert config["analytics_enabled"] is False
    assert server.http.get("/monitoring").status_code in (403, 404)
    assert "googleapis" not in httpx.get(f"{server.url}/").text
