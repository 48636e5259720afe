"""Who may come in where API_KEYS are set: programs send a key, people log in with one. No path is left out but the
login's own and the probe of life.

A login is a cookie that a key has signed. No server keeps it, every server with that key knows it, and it ends when its
time is up or the key is taken away.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
from collections.abc import Callable
from html import escape
from urllib.parse import parse_qs, quote

from fastapi import FastAPI, Request
from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import Scope

from studio.api.security import LOGIN_PATH, ErrorResponse
from studio.limits import client_of_request
from studio.settings import Settings

logger = logging.getLogger(__name__)

LOGOUT = "/logout"
OPEN = frozenset({LOGIN_PATH, "/api/v1/health/live"})
COOKIE = "studio_login"
LOGIN_S = 30 * 86_400
SCHEME = "Bearer"


class Door:
    """Lets in who has a key; everybody, where there are none."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self._keys = [hashlib.sha256(key.get_secret_value().encode()).digest() for key in settings.api_keys]
        self._settings, self._clock = settings, clock

    def refusal(self, scope: Scope, headers: Headers) -> Response | None:
        """What somebody is answered who may not come in: browsers are shown the login."""
        if not self._keys or scope["path"] in OPEN or self._knows(headers):
            return None
        if scope["method"] == "GET" and "text/html" in headers.get("accept", ""):
            query = scope["query_string"].decode("latin-1")
            wanted = scope["path"] + (f"?{query}" if query else "")
            return RedirectResponse(f"{LOGIN_PATH}?next={quote(wanted)}", 303)
        sentence = f"This studio asks for a key: send it as `Authorization: {SCHEME} …`."
        return ErrorResponse(401, sentence, {"WWW-Authenticate": f'{SCHEME} realm="studio"'})

    def register(self, app: FastAPI) -> None:
        """Add the login's routes, where there is one."""
        if self._keys:
            app.add_api_route(LOGIN_PATH, self._show, methods=["GET"], include_in_schema=False)
            app.add_api_route(LOGIN_PATH, self._log_in, methods=["POST"], include_in_schema=False)
            app.add_api_route(LOGOUT, self._log_out, methods=["POST"], include_in_schema=False)

    def _knows(self, headers: Headers) -> bool:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() == SCHEME.lower() and self._signer(key.strip()):
            return True
        cookies = cookie_parser("; ".join(headers.getlist("cookie")))
        expires, _, signature = cookies.get(COOKIE, "").partition(".")
        if not (expires.isdecimal() and len(expires) < 12 and int(expires) > self._clock()):
            return False
        return any(hmac.compare_digest(_signature(key, expires), signature.encode()) for key in self._keys)

    def _signer(self, key: str) -> bytes | None:
        """What signs a key's logins; None of a key that is none."""
        given = hashlib.sha256(key.encode()).digest()
        return next((known for known in self._keys if hmac.compare_digest(known, given)), None)

    async def _show(self, request: Request) -> Response:
        return _page(request.query_params.get("next", "/"))

    async def _log_in(self, request: Request) -> Response:
        form = parse_qs((await request.body()).decode("utf-8", "replace"))
        to, key = (form.get(name, [""])[0].strip() for name in ("next", "key"))
        signer = self._signer(key)
        if signer is None:
            logger.warning("Login refused: %s", client_of_request(request, self._settings))
            return _page(to, "The studio does not know this key.", 401)
        answer = RedirectResponse(_here(to), 303)
        expires = str(int(self._clock()) + LOGIN_S)
        secure = "https" in (request.url.scheme, request.headers.get("x-forwarded-proto"))
        value = f"{expires}.{_signature(signer, expires).decode()}"
        answer.set_cookie(COOKIE, value, LOGIN_S, secure=secure, httponly=True, samesite="lax")
        return answer

    async def _log_out(self) -> Response:
        answer = RedirectResponse(LOGIN_PATH, 303)
        answer.delete_cookie(COOKIE)
        return answer


def _signature(key: bytes, expires: str) -> bytes:
    return hmac.new(key, f"login until {expires}".encode(), "sha256").hexdigest().encode()


def _here(path: str) -> str:
    """A path within this studio, else its page: browsers read `//host` and `/\\host` as another one."""
    within = path.startswith("/") and path[1:2] not in ("/", "\\") and path.isprintable()
    return path if within else "/"


def _page(to: str, wrong: str = "", status: int = 200) -> HTMLResponse:
    alert = f'<p role="alert">{wrong}</p>' if wrong else ""
    return HTMLResponse(PAGE.format(to=escape(_here(to)), wrong=alert), status)


PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Studio</title>
<style>
:root {{ color-scheme: light dark; --paper: #faf8f5; --card: #fff; --ink: #1e1c1a; --line: #d2ccc2; --ember: #d2492a }}
@media (prefers-color-scheme: dark) {{
  :root {{ --paper: #151413; --card: #1e1c1a; --ink: #f3f0eb; --line: #57524c; --ember: #ec6440 }}
}}
body {{ margin: 0; min-height: 100vh; display: grid; place-items: center; background: var(--paper); color: var(--ink);
  font: 16px Inter, -apple-system, "Segoe UI", Roboto, sans-serif }}
form {{ width: min(22rem, calc(100vw - 4rem)); padding: 1.5rem; border: 1px solid var(--line); border-radius: 12px;
  background: var(--card) }}
h1 {{ margin: 0 0 1rem; font-size: 1.25rem }}
label {{ display: block; margin-bottom: .25rem }}
input, button {{ box-sizing: border-box; width: 100%; padding: .7rem; border-radius: 8px; font: inherit }}
input {{ border: 1px solid var(--line); background: var(--paper); color: inherit }}
button {{ margin-top: 1rem; border: 0; background: var(--ember); color: #fff; font-weight: 600; cursor: pointer }}
p {{ margin: .75rem 0 0; color: var(--ember) }}
</style>
<form method="post" action="login">
<h1>Studio</h1>
<label for="key">Key</label>
<input id="key" name="key" type="password" autocomplete="current-password" required autofocus>
<input name="next" type="hidden" value="{to}">
{wrong}
<button>Log in</button>
</form>
"""
