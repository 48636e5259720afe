"""A studio that asks for a key: who may come in, by which door, and what everybody else is answered."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from gradio_client import Client
from pydantic import ValidationError
from starlette.datastructures import Headers

from studio import Settings
from studio.api.keys import COOKIE, LOGIN_S, Door
from tests.serving import API, Served, served

KEYS = ["correct-horse-battery", "staple-staple-staple"]
BEARER = {"Authorization": f"Bearer {KEYS[0]}"}
BROWSER = {"Accept": "text/html,application/xhtml+xml"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("keys"), api_keys=KEYS) as server:
        yield server


@pytest.mark.parametrize(
    "path",
    [
        "/", "/config", "/theme.css", "/metrics", "/gradio_api/info", "/gradio_api/file=x", "/login/", "//login",
        f"{API}/jobs", f"{API}/docs", f"{API}/openapi.json", f"{API}/health", f"{API}/health/live/",
        f"{API}/files/gen_0000.wav",
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Bearer wrong-wrong-wrong-wrong"}, {"Authorization": KEYS[0]}, {"Cookie": f"{COOKIE}=9.9"}],
)
def test_without_a_key_nothing_is_answered(server: Served, path: str, headers: dict[str, str]) -> None:
    answer = server.http.get(path, headers=headers)
    assert (answer.status_code, set(answer.json())) == (401, {"error"})
    assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    "path", [f"{API}/generate", "/gradio_api/queue/join", "/gradio_api/call/generate", f"{API}/clips"]
)
def test_without_a_key_nothing_is_done(server: Served, path: str) -> None:
    before = server.studio.jobs().total
    assert server.http.post(path, json={"prompt": "sad piano"}, headers=BROWSER).status_code == 401
    assert server.studio.jobs().total == before


def test_whoever_watches_over_the_process_needs_no_key(server: Served) -> None:
    assert server.http.get(f"{API}/health/live").status_code == 200


@pytest.mark.parametrize("key", KEYS)
def test_programs_send_a_key(server: Served, key: str) -> None:
    headers = {"Authorization": f"bearer {key}"}
    asked = server.http.post(f"{API}/generate", json={"prompt": "sad piano", "duration": 1.0}, headers=headers)
    assert asked.status_code == 202
    assert server.http.get(asked.headers["location"], headers=headers).status_code == 200


def test_the_documentation_says_how_a_key_is_sent(server: Served) -> None:
    schema = server.http.get(f"{API}/openapi.json", headers=BEARER).json()
    assert schema["components"]["securitySchemes"]["HTTPBearer"] == {"type": "http", "scheme": "bearer"}
    assert schema["paths"][f"{API}/generate"]["post"]["security"] == [{"HTTPBearer": []}]


def test_gradios_client_sends_a_key(server: Served, tmp_path: Path) -> None:
    client = Client(server.url, headers=BEARER, verbose=False, download_files=tmp_path)
    job, audio = client.predict("sad piano", duration=1, api_name="/generate_and_wait")
    assert job["status"] == "completed"
    assert Path(audio).stat().st_size > 10_000


@pytest.fixture
def browser(server: Served) -> Iterator[httpx.Client]:
    """Keeps cookies."""
    with httpx.Client(base_url=server.url, headers=BROWSER) as client:
        yield client


def test_people_log_in_and_out(browser: httpx.Client) -> None:
    shown = browser.get(f"{API}/docs")
    assert (shown.status_code, shown.headers["location"]) == (303, f"/login?next={API}/docs")
    form = browser.get(shown.headers["location"])
    assert f'value="{API}/docs"' in form.text
    wrong = browser.post("/login", data={"key": "not-a-key-of-this-studio", "next": f"{API}/docs"})
    assert (wrong.status_code, "does not know this key" in wrong.text, COOKIE in browser.cookies) == (401, True, False)
    right = browser.post("/login", data={"key": f" {KEYS[1]} ", "next": f"{API}/docs"})
    assert (right.status_code, right.headers["location"]) == (303, f"{API}/docs")
    assert {"HttpOnly", "SameSite=lax"} <= set(right.headers["set-cookie"].split("; "))
    assert browser.get(f"{API}/docs").status_code == browser.get("/").status_code == 200
    assert browser.post(f"{API}/queue/resume").status_code == 200
    assert browser.post("/logout").headers["location"] == "/login"
    assert browser.get("/?job=gen_1").headers["location"] == "/login?next=/%3Fjob%3Dgen_1"


@pytest.mark.parametrize(
    "to", ["//evil.example", "/\\evil.example", "https://evil.example", "", "/a\r\nSet-Cookie: a=b"]
)
def test_a_login_leads_nowhere_else(browser: httpx.Client, to: str) -> None:
    assert browser.post("/login", data={"key": KEYS[0], "next": to}).headers["location"] == "/"


def test_a_login_takes_no_more_than_a_form(server: Served, caplog: pytest.LogCaptureFixture) -> None:
    assert server.http.post("/login", content=b"a=b&" * 3000).status_code == 413
    server.http.post("/login", data={"key": "not-a-key-of-this-studio"})
    said = "\n".join(record.getMessage() for record in caplog.records)
    assert "Login refused: 127.0.0.1" in said
    assert "not-a-key" not in said


def test_no_cache_keeps_what_a_key_has_opened(server: Served) -> None:
    assert server.http.get(f"{API}/jobs", headers=BEARER).headers["cache-control"] == "private"


def test_what_the_login_shows_is_escaped(browser: httpx.Client) -> None:
    assert "<script>" not in browser.get("/login", params={"next": '"><script>alert(1)</script>'}).text


def test_a_foreign_page_may_not_log_anybody_out(browser: httpx.Client) -> None:
    assert browser.post("/logout", headers={"Origin": "https://evil.example"}).status_code == 403


def test_behind_tls_the_cookie_stays_there(tmp_path: Path) -> None:
    with served(tmp_path, api_keys=KEYS, trusted_proxies=["127.0.0.1"]) as server:
        answer = server.http.post("/login", data={"key": KEYS[0]}, headers={"X-Forwarded-Proto": "https"})
    assert "Secure" in answer.headers["set-cookie"].split("; ")


def test_a_login_ends_with_its_time_and_with_its_key(browser: httpx.Client) -> None:
    browser.post("/login", data={"key": KEYS[0]})
    cookie = Headers({"cookie": f"{COOKIE}={browser.cookies[COOKIE]}"})

    def comes_in(keys: list[str], seconds: float = 0.0) -> bool:
        door = Door(Settings.model_validate({"api_keys": keys}), lambda: time.time() + seconds)
        return door.refusal({"path": "/", "method": "GET", "query_string": b""}, cookie) is None

    assert comes_in(KEYS)
    assert comes_in(KEYS[::-1], LOGIN_S - 60)
    assert not comes_in(KEYS, LOGIN_S + 1)
    assert not comes_in(KEYS[1:])


@pytest.mark.parametrize("key", ["short", "with a space in it", "fünfzehn-und-mehr"])
def test_a_key_that_is_none_is_refused(key: str) -> None:
    with pytest.raises(ValidationError, match="16 to 256") as error:
        Settings.model_validate({"api_keys": [key]})
    assert key not in str(error.value)
