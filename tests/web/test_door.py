"""The door of the page's server: names, origins, the token, frames and uploads."""

import urllib.error
import urllib.parse
import urllib.request

import pytest

from rulepatch.web import door
from rulepatch.web.door import Guard


def scope(path="/", *, query="", method="GET", **headers):
    given = {"host": "127.0.0.1:7860", **{key.replace("_", "-"): value for key, value in headers.items()}}
    return {
        "type": "http", "path": path, "method": method, "query_string": query.encode(), "server": ("127.0.0.1", 7860),
        "headers": [(key.encode(), value.encode()) for key, value in given.items() if value is not None],
    }  # fmt: skip


@pytest.fixture
def guard():
    return Guard("127.0.0.1", token="secret")


def status(guard, *given, **further):
    refused = guard.refusal(scope(*given, **further))
    return 200 if refused is None else int(refused[0])


def test_the_token_opens_it_in_the_address_and_in_the_cookie_of_this_port(guard):
    assert [status(guard, query=each) for each in ("", "token=other", "token=")] == [401] * 3
    assert status(guard, query="token=secret") == 200
    assert status(guard, cookie="rulepatch-7860=secret") == 200
    assert status(guard, cookie="a=b; rulepatch-7860=secret; c=d") == 200
    for cookie in ("rulepatch-7861=secret", "rulepatch-7860=secrets", "rulepatch-7860", ";;=", "\xff"):
        assert status(guard, cookie=cookie) == 401, cookie
    told = guard.cookie(scope())
    assert "HttpOnly" in told and "SameSite=Strict" in told and told.startswith("rulepatch-7860=secret;")
    assert Guard("127.0.0.1").token != Guard("127.0.0.1").token and len(Guard("127.0.0.1").token) > 20
    assert "secret" not in repr(guard)


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("localhost:7860", True), ("127.0.0.1", True), ("[::1]:7860", True), ("192.168.0.7:7860", True),
        ("LOCALHOST:7860", True), ("evil.example:7860", False), ("localhost.evil.example", False), ("", False),
        ("127.0.0.1.evil.example", False), ("127.0.0.1@evil.example", False), (None, False), ("[::1", False),
    ],
)  # fmt: skip
def test_other_names_that_lead_here_are_refused(guard, host, known):
    assert status(guard, query="token=secret", host=host) == (200 if known else 421)


def test_a_name_that_it_was_served_under_is_known():
    assert Guard("lab.example", token="secret").is_known("lab.example:80")


def test_other_pages_and_other_ports_are_refused(guard):
    known = {"cookie": "rulepatch-7860=secret"}
    assert status(guard, method="POST", origin="http://127.0.0.1:7860", **known) == 200
    for origin in ("http://127.0.0.1:8000", "http://localhost:7860", "https://evil.example", "null", ""):
        assert status(guard, method="POST", origin=origin, **known) == 403, origin
    for site in ("cross-site", "same-site"):
        assert status(guard, sec_fetch_site=site, **known) == 403, "an image or a script of another page"
        assert status(guard, sec_fetch_site=site, sec_fetch_mode="navigate", **known) == 200, "a link to the page"
        assert status(guard, sec_fetch_site=site, sec_fetch_mode="navigate", method="POST", **known) == 403, "a form"


def test_uploads_are_limited_in_number_and_total(guard, monkeypatch):
    monkeypatch.setattr(door, "MOST_UPLOADS", 3)
    monkeypatch.setattr(door, "MOST_UPLOADED", 100)

    def sent(length):
        known = {"cookie": "rulepatch-7860=secret", "content_length": length}
        return status(guard, "/gradio_api/upload", method="POST", **known)

    assert [sent(None), sent("many"), sent("-1"), sent("101")] == [411, 411, 411, 413]
    assert [sent("60"), sent("60"), sent("40"), sent("0"), sent("0")] == [200, 413, 200, 200, 413]


def test_pages_are_open_as_long_as_their_hearts_beat(guard):
    with guard.watching("/gradio_api/heartbeat/abc"), guard.watching("/gradio_api/queue/join"):
        assert guard.pages == {"abc"}
    assert not guard.pages


@pytest.mark.slow
def test_the_server_keeps_its_door(address, ask):
    base, _, token = address.partition("?token=")
    parts = urllib.parse.urlsplit(base)

    def asked(path="", **headers):
        try:
            with urllib.request.urlopen(urllib.request.Request(base + path, None, headers), timeout=600) as answer:
                return answer.status, answer.headers
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, refused.headers

    for code, headers in (asked(), asked("config"), asked("gradio_api/info"), asked("?token=x")):
        assert code == 401 and headers["X-Frame-Options"] == "DENY"
    assert asked(f"?token={token}", Host=f"evil.example:{parts.port}")[0] == 421
    assert asked(f"?token={token}", Origin="http://evil.example")[0] == 403
    code, headers = asked(f"?token={token}")
    assert code == 200 and headers["Content-Security-Policy"] == "frame-ancestors 'none'"
    assert headers["Set-Cookie"].startswith(f"rulepatch-{parts.port}={token}; HttpOnly")
    with ask("config") as answer:
        assert answer.status == 200 and answer.headers["Referrer-Policy"] == "no-referrer"
