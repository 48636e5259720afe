"""What the README shows does what it says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx

from studio import GenerationRequest, Settings, Studio
from tests.fakes import load_sine
from tests.receivers import receiving
from tests.serving import API, served

README = (Path(__file__).parent.parent / "README.md").read_text()
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYqr"


def test_the_verification_of_webhooks_works(tmp_path: Path) -> None:
    (snippet,) = [block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "webhook" in block]
    names: dict[str, Any] = {}
    exec(snippet, names)
    made = Settings.model_validate({"data_dir": tmp_path, "webhook_secret": SECRET, "webhook_allow_private": True})
    with receiving() as receiver, Studio(made, load_sine) as studio:
        studio.submit(GenerationRequest(prompt="sad piano", duration=1.0, webhook_url=receiver.url))
        (request,) = receiver.wait_for(1)
    assert names["genuine"](request.headers, request.body, SECRET)
    assert not names["genuine"](request.headers, request.body + b" ", SECRET)
    assert not names["genuine"](request.headers | {"webhook-timestamp": "1"}, request.body, SECRET)


def test_the_studio_stands_behind_a_proxy_with_the_settings_shown(tmp_path: Path) -> None:
    shown = dict(re.findall(r"^DGX_MUSIC_(ALLOWED_HOSTS|TRUSTED_PROXIES)='(.*)'$", README, re.MULTILINE))
    settings = {name.lower(): json.loads(value) for name, value in shown.items()}
    assert set(settings) == {"allowed_hosts", "trusted_proxies"}
    with served(tmp_path, rate_limit_per_minute=1, **settings) as server:

        def through_the_proxy(client: str, path: str = f"{API}/generate") -> httpx.Response:
            headers = {
                "Host": "music.example.org", "Origin": "https://music.example.org", "X-Forwarded-Proto": "https",
                "X-Forwarded-For": client,
            }  # fmt: skip
            if path == "/":
                return server.http.get(path, headers=headers)
            return server.http.post(path, json={"prompt": "sad piano", "duration": 1}, headers=headers)

        assert through_the_proxy("203.0.113.9").status_code == 202
        assert through_the_proxy("203.0.113.9").status_code == 429
        assert through_the_proxy("203.0.113.10").status_code == 202, "each client has its own limit"
        page = through_the_proxy("203.0.113.9", "/")
        assert page.status_code == 200
        assert "http://music.example.org" not in page.text
