"""Who may ask a server, and what. A page in the same browser is as much a stranger as another machine.

- The `Host` that was asked for must be one that this server has: a name of somebody else's that resolves to this
  machine (DNS rebinding) is refused.
- What a browser sends for another page says so (`Origin`, `Sec-Fetch-Site`), and is refused.
- With a token, each request needs it: in `Authorization: Bearer`, or in the cookie that `?token=` in an address sets.
- Only GET, HEAD and POST, and no body larger than the limit, whether or not its length is said before.
- What goes back tells the browser to take nothing from, and to give nothing to, any other address.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

COOKIE = "tvr_token"
LARGEST_BODY = 32 * 2**20  # bytes: a picture as it comes out of a camera
_METHODS = ("GET", "HEAD", "POST")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(frozen=True)
class Rules:
    """hosts: what `Host` may say, lower case, without a port. port: the server's. token: None = none is needed."""

    hosts: Collection[str]
    port: int
    token: str | None = None
    largest_body: int = LARGEST_BODY


class TooLarge(Exception):
    """A body that went beyond the limit while it was read."""


class Guard:
    """Stands before an app, lets through what the rules allow, and answers the rest itself."""

    def __init__(self, app: App, rules: Rules):
        self._app, self._rules = app, rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # nothing here speaks by a web socket
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = _headers(scope)
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await _refuse(send, *refusal)
            return
        if (token := self._token_in_address(scope)) is not None:
            await _send(send, 303, b"", {"location": scope["path"], "set-cookie": _cookie(token)})
            return
        begun = False

        async def sending(message: MutableMapping[str, Any]) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                said = {name for name, _ in message.get("headers", ())}
                more = [(k.encode(), v.encode()) for k, v in _HEADERS.items() if k.encode() not in said]
                message = {**message, "headers": [*message.get("headers", ()), *more]}
            await send(message)

        try:
            await self._app(scope, _Limited(receive, self._rules.largest_body), sending)
        except TooLarge:
            if not begun:
                await _refuse(send, 413, f"expected at most {self._rules.largest_body} bytes, found more")
        except Exception:
            if not begun:  # else the app has said what happened, here and to whoever asked
                raise

    def _refusal(self, scope: Scope, headers: Mapping[str, str]) -> tuple[int, str] | None:
        """Return why a request is not let through: a status and a sentence."""
        rules = self._rules
        if scope["method"] not in _METHODS:
            return 405, f"expected one of {', '.join(_METHODS)}, found {scope['method']}"
        host = headers.get("host", "")
        if [k for k, _ in scope["headers"]].count(b"host") != 1 or not self._is_ours(host):
            return 421, f"this server is not {host!r}; ask it by the address that it printed"
        if (origin := headers.get("origin")) is not None and not self._is_our_origin(origin):
            return 403, "another page may not ask this server"
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not _follows_a_link(scope, headers):
            return 403, "another page may not ask this server"
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit() and len(length) < 20) or int(length) > rules.largest_body:
            return 413, f"expected at most {rules.largest_body} bytes, found {length}"
        if rules.token is not None and not self._has_token(scope, headers):
            return 401, "expected the token that this server printed when it was started"
        return None

    def _is_ours(self, host: str) -> bool:
        name, port = _split(host)
        return name in self._rules.hosts and port in (None, self._rules.port)

    def _is_our_origin(self, origin: str) -> bool:
        found = urlsplit(origin)
        return found.scheme == "http" and bool(found.netloc) and self._is_ours(found.netloc) and not found.path

    def _has_token(self, scope: Scope, headers: Mapping[str, str]) -> bool:
        kind, _, said = headers.get("authorization", "").partition(" ")
        cookies: SimpleCookie = SimpleCookie()
        try:
            cookies.load(headers.get("cookie", ""))
        except CookieError:
            cookies.clear()
        given = [said.strip() if kind.lower() == "bearer" else "", cookies[COOKIE].value if COOKIE in cookies else ""]
        given += parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [])[:1]
        assert self._rules.token is not None, "asked where there is one"
        return any(hmac.compare_digest(one.encode(), self._rules.token.encode()) for one in given)

    def _token_in_address(self, scope: Scope) -> str | None:
        """Return the token that an address has, which a cookie is to keep: it then stands in no history."""
        if self._rules.token is None or scope["method"] != "GET" or scope["path"] != "/":
            return None
        said = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token")
        return said[0] if said else None


class _Limited:
    """Receives a body up to a limit."""

    def __init__(self, receive: Receive, limit: int):
        self._receive, self._left = receive, limit

    async def __call__(self) -> MutableMapping[str, Any]:
        message = await self._receive()
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            if self._left < 0:
                raise TooLarge
        return message


def _follows_a_link(scope: Scope, headers: Mapping[str, str]) -> bool:
    """Whether a person followed a link to the page itself, from wherever: what it shows, the other page cannot read."""
    return scope["method"] == "GET" and scope["path"] == "/" and headers.get("sec-fetch-mode") == "navigate"


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def _split(host: str) -> tuple[str, int | None]:
    """Return the name and the port of `Host`; a port that is none is -1, which no server has."""
    name, colon, port = host.lower().rpartition(":")
    if not colon or host.endswith("]"):
        return host.lower(), None
    return name, int(port) if port.isascii() and port.isdigit() and len(port) < 6 else -1


def _cookie(token: str) -> str:
    return f"{COOKIE}={token}; Path=/; HttpOnly; SameSite=Strict"


async def _refuse(send: Send, status: int, why: str) -> None:
    body = json.dumps({"error": why}).encode()
    await _send(send, status, body, {"content-type": "application/json", "connection": "close"})


async def _send(send: Send, status: int, body: bytes, headers: Mapping[str, str]) -> None:
    all_of_them = {**_HEADERS, "content-length": str(len(body)), **headers}
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in all_of_them.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})
