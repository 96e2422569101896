"""Who may ask a server: hosts, origins, tokens, methods and sizes, without a server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tvr_cli.server.guard import Guard, Rules

TOKEN = "0123456789abcdef"


def asked(
    rules: Rules, path: str = "/api/search", method: str = "GET", body: tuple[bytes, ...] = (b"",), **headers: str
) -> tuple[int, dict[str, str], list[int]]:
    """Return status and headers of an answer, and how many bytes the app got of a body."""
    seen: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        more = True
        while more:
            message = await receive()
            seen.append(len(message["body"]))
            more = message.get("more_body", False)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    parts = [{"type": "http.request", "body": b, "more_body": i + 1 < len(body)} for i, b in enumerate(body)]
    sent: list[Any] = []

    async def receive() -> Any:
        return parts.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    said = {"host": "127.0.0.1:8765", **{name.replace("_", "-"): value for name, value in headers.items()}}
    place, _, query = path.partition("?")
    scope = {
        "type": "http", "method": method, "path": place, "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in said.items()],
    }  # fmt: skip
    asyncio.run(Guard(app, rules)(scope, receive, send))
    headers_back = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers_back, seen


HERE = Rules(hosts={"127.0.0.1", "localhost", "[::1]"}, port=8765)
OPEN = Rules(hosts={"box"}, port=8765, token=TOKEN)


@pytest.mark.parametrize("host", ["127.0.0.1:8765", "localhost:8765", "LOCALHOST:8765", "[::1]:8765", "127.0.0.1"])
def test_this_machine_is_let_through(host):
    status, headers, seen = asked(HERE, host=host)
    assert status == 200 and seen == [0]
    assert "default-src 'none'" in headers["content-security-policy"] and headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "host",
    [
        *("evil.com", "evil.com:8765", "127.0.0.1:80", "127.0.0.1:8765.evil.com", "", ":8765", "127.0.0.1:x"),
        *("127.0.0.1:8765@evil.com", "localhost.evil.com:8765", "0.0.0.0:8765", "[::1", "127.0.0.1:99999999"),
    ],
)
def test_a_name_that_is_not_ours_is_refused(host):
    assert asked(HERE, host=host)[0] == 421


@pytest.mark.parametrize(
    "origin", ["http://evil.com", "null", "https://127.0.0.1:8765", "http://127.0.0.1:9", "file://"]
)
def test_another_page_is_refused_by_what_its_browser_says(origin):
    assert asked(HERE, origin=origin)[0] == 403
    assert asked(HERE, sec_fetch_site="cross-site")[0] == 403
    assert asked(HERE, sec_fetch_site="same-site", sec_fetch_mode="no-cors")[0] == 403


def test_our_own_page_and_a_followed_link_are_let_through():
    assert asked(HERE, origin="http://127.0.0.1:8765", sec_fetch_site="same-origin")[0] == 200
    assert asked(HERE, path="/", sec_fetch_site="cross-site", sec_fetch_mode="navigate")[0] == 200
    assert asked(HERE, path="/media?video=a", sec_fetch_site="cross-site", sec_fetch_mode="navigate")[0] == 403


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PATCH", "get"])
def test_other_methods_are_refused(method):
    assert asked(HERE, method=method)[0] == 405


def test_a_body_beyond_the_limit_is_refused_whether_or_not_its_length_is_said():
    small = Rules(hosts=HERE.hosts, port=8765, largest_body=10)
    assert asked(small, method="POST", content_length="11")[0] == 413
    assert asked(small, method="POST", content_length="-1")[0] == 413
    assert asked(small, method="POST", content_length="1e3")[0] == 413
    assert asked(small, method="POST", body=(b"12345", b"123456"))[0] == 413
    status, _, seen = asked(small, method="POST", body=(b"12345", b"12345"))
    assert status == 200 and seen == [5, 5]


def test_a_token_is_asked_for_everywhere_and_moves_into_a_cookie():
    assert asked(OPEN, host="box:8765")[0] == 401
    assert asked(OPEN, host="box:8765", authorization="Bearer wrong")[0] == 401
    assert asked(OPEN, host="box:8765", cookie="tvr_token=wrong")[0] == 401
    assert asked(OPEN, host="box:8765", authorization=f"Bearer {TOKEN}")[0] == 200
    status, headers, seen = asked(OPEN, path=f"/?token={TOKEN}", host="box:8765")
    assert status == 303 and headers["location"] == "/" and not seen
    assert "HttpOnly" in headers["set-cookie"] and "SameSite=Strict" in headers["set-cookie"]
    assert asked(OPEN, host="box:8765", cookie=headers["set-cookie"].partition(";")[0])[0] == 200


def test_two_hosts_are_one_too_many():
    scope = {
        "type": "http", "method": "GET", "path": "/", "query_string": b"",
        "headers": [(b"host", b"127.0.0.1:8765"), (b"host", b"evil.com")],
    }  # fmt: skip
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def nothing(*_: Any) -> Any:
        raise AssertionError("the app is not reached")

    asyncio.run(Guard(nothing, HERE)(scope, nothing, send))
    assert sent[0]["status"] == 421
