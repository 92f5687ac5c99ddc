"""The door of the page's server: who may ask for anything, and how much they may send.

A web server on one's own machine can be asked by every page that is open in the browser, under any name that leads
here. What is let in carries the token of the address that was printed at start, in the address or in the cookie that
the first visit sets, and comes from the page itself.
"""

import ipaddress
import secrets
import socket
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

__all__ = ["Door", "Guard"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

MOST_UPLOADS, MOST_UPLOADED = 2000, 2 << 30
"""Files and bytes that are taken while the server runs."""

READY = "/gradio_api/startup-events"
"""What the server asks of itself when it starts; it tells nothing."""

HEADERS = {
    "x-frame-options": "DENY",
    "content-security-policy": "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
"""Of every answer: no other page may show this one in a frame, or learn its address."""


@dataclass
class Guard:
    """What the door knows.

    Attributes:
        host: the address that is listened on.
        token: of the address that was printed.
        pages: open pages, by the id of their session.
    """

    host: str
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    pages: set[str] = field(default_factory=set)
    uploads: int = 0
    uploaded: int = 0

    def is_known(self, host: str) -> bool:
        """Whether a `Host` header is a name of this server: an address, or a name that nobody else gives away.

        Examples:
            >>> guard = Guard("127.0.0.1")
            >>> [guard.is_known(each) for each in ("localhost:7860", "[::1]:7860", "evil.example:7860", "")]
            [True, True, False, False]
        """
        name = ""
        try:
            name = urlsplit(f"//{host}").hostname or ""
            ipaddress.ip_address(name)
        except ValueError:
            return name in {"localhost", self.host.lower(), socket.gethostname().lower(), socket.getfqdn().lower()} - {
                ""
            }
        return True

    def refusal(self, scope: Scope) -> tuple[HTTPStatus, str] | None:
        """Why a request is not let in; None if it is."""
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self.is_known(host):
            return HTTPStatus.MISDIRECTED_REQUEST, "expected the address that was printed at start; open that one"
        navigates = headers.get("sec-fetch-mode") == "navigate" and scope.get("method") == "GET"
        is_of_another = headers.get("sec-fetch-site", "none") not in {"none", "same-origin"} and not navigates
        if is_of_another or (origin is not None and origin.partition("://")[2] != host):
            return HTTPStatus.FORBIDDEN, "expected the page itself to ask but another one did; open it by its address"
        if scope["path"] != READY and not self._has_token(scope, headers):
            return HTTPStatus.UNAUTHORIZED, "expected the token of the address that was printed at start; open that one"
        if scope["path"].endswith("/upload") and scope.get("method") == "POST":
            return self._upload(headers.get("content-length", ""))
        return None

    def cookie(self, scope: Scope) -> str:
        """Header that makes a browser bring the token from now on; other ports of this machine have their own."""
        return f"{_name_of(scope)}={self.token}; HttpOnly; SameSite=Strict; Path=/"

    @contextmanager
    def watching(self, path: str) -> Iterator[None]:
        """Keep a page among those that are open while its heartbeat lasts."""
        _, is_heartbeat, page = path.partition("/heartbeat/")
        if is_heartbeat:
            self.pages.add(page)
        try:
            yield
        finally:
            if is_heartbeat:
                self.pages.discard(page)

    def _has_token(self, scope: Scope, headers: MutableMapping[str, str]) -> bool:
        given = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [])
        try:
            found = SimpleCookie(headers.get("cookie", "")).get(_name_of(scope))
        except CookieError:
            found = None
        given += [found.value] if found else []
        return any(secrets.compare_digest(each.encode(), self.token.encode()) for each in given)

    def _upload(self, length: str) -> tuple[HTTPStatus, str] | None:
        if not length.isdecimal():
            return HTTPStatus.LENGTH_REQUIRED, "expected an upload that says how large it is; try another browser"
        if self.uploads >= MOST_UPLOADS or self.uploaded + int(length) > MOST_UPLOADED:
            return (
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"expected at most {MOST_UPLOADS:,} uploads of {MOST_UPLOADED >> 30} GiB together; start the page anew",
            )
        self.uploads, self.uploaded = self.uploads + 1, self.uploaded + int(length)
        return None


class Door:
    """ASGI middleware that lets requests in or refuses them in a sentence.

    Args:
        app: what is behind it.
        guard: what it knows.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], guard: Guard) -> None:
        self._app = app
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        if (refused := self._guard.refusal(scope)) is not None:
            await _refuse(scope, send, *refused)
            return

        async def with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                own = {**HEADERS, **({"set-cookie": self._guard.cookie(scope)} if scope["path"] == "/" else {})}
                kept = [each for each in message.get("headers", []) if each[0].decode("latin-1").lower() not in HEADERS]
                message = {**message, "headers": kept + [(key.encode(), value.encode()) for key, value in own.items()]}
            await send(message)

        with self._guard.watching(scope["path"]):
            await self._app(scope, receive, with_headers)


def _name_of(scope: Scope) -> str:
    return f"rulepatch-{(scope.get('server') or ('', 0))[1]}"


async def _refuse(scope: Scope, send: Send, status: HTTPStatus, reason: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": reason})
        return
    headers = {**HEADERS, "content-type": "text/plain; charset=utf-8", "content-length": str(len(reason.encode()))}
    encoded = [(key.encode(), value.encode()) for key, value in headers.items()]
    await send({"type": "http.response.start", "status": int(status), "headers": encoded})
    await send({"type": "http.response.body", "body": reason.encode()})
