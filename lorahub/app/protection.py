"""What the server of the page refuses before gradio sees it: foreign hosts, other sites, too many requests.

In: an ASGI request. Out: the answer of the page with security headers, or a refusal of one line. DNS rebinding shows as
a foreign `Host`, a request that another site sends from a visitor's browser as a foreign `Origin` or `Sec-Fetch-Site`.
Sizes and times of requests are limited in app/uploads.py.
"""

import ipaddress
import logging
import os
import re
import socket
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lorahub.errors import ConfigError

log = logging.getLogger(__name__)

LOOPBACK = ("127.0.0.1", "localhost", "::1")
# In the environment, separated by spaces: a Space has no command line.
ALLOW_HOST = "LORAHUB_ALLOW_HOST"
# Requests that one visitor of a shared page may send in a minute, all at once or spread.
REQUESTS_A_MINUTE = 600
_MOST_VISITORS = 10_000
_NAME = re.compile(r"[A-Za-z0-9]([\w-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([\w-]*[A-Za-z0-9])?)*")
# Files of the page itself, which a browser keeps; they are not counted.
_UNCOUNTED = ("/assets/", "/static/", "/svelte/", "/theme.css", "/gradio_api/theme.css", "/favicon.ico")
# Paths with which gradio would fetch another server's files for a visitor.
_FETCHES = ("/gradio_api/proxy=", "/gradio_api/file=http:", "/gradio_api/file=https:")
# Routes that take other requests than reading ones.
_CHANGES = re.compile(r"/gradio_api/((call|run|api)/.+|queue/join|cancel|reset/?|upload/?|mcp(/.*)?)")
# Requests of one visitor that may be open at a time; a tab of the page has two.
_MOST_OPEN = 64
# The Hub shows a Space in a frame of its own page.
_HUB_PAGES = ("https://huggingface.co", "https://*.huggingface.co")


@dataclass(frozen=True, kw_only=True)
class Access:
    """Who reaches the page: the host it listens on, and further names in `allowed` under which it is reached."""

    host: str | None = None
    allowed: tuple[str, ...] = ()
    # Requests a minute of one visitor; None counts only where others reach the page, 0 counts nowhere.
    rate: int | None = None

    @classmethod
    def parse(cls, host: str | None, allowed: Iterable[str] = (), rate: int | None = None) -> "Access":
        """Return the access of an address; raises ConfigError where a name of `allowed` is not a host name."""
        names = [*allowed, *os.environ.get(ALLOW_HOST, "").split()]
        for name in names:
            if not _NAME.fullmatch(name) and _address(name) is None:
                raise ConfigError(f"--allow-host is the name of a host, as in claims.example.org; found {name!r}.")
        host = host or os.environ.get("GRADIO_SERVER_NAME")
        return cls(host=host, allowed=tuple(name.strip("[]").casefold() for name in names), rate=rate)

    @property
    def shared(self) -> bool:
        """Whether others than the owner reach the page."""
        return on_space() or (self.host or LOOPBACK[0]) not in LOOPBACK

    def permits(self, choice: bool | None) -> bool:
        """Return whether visitors may change what others see: the owner's choice, by default unless it is shared."""
        return not self.shared if choice is None else choice

    @property
    def requests_a_minute(self) -> int:
        """Maximum number of requests of one visitor a minute; 0 means no limit."""
        return (REQUESTS_A_MINUTE if self.shared else 0) if self.rate is None else self.rate

    def names(self) -> frozenset[str]:
        """Return the names under which the page is reached."""
        names = {*LOOPBACK, *self.allowed, *os.environ.get("SPACE_HOST", "").casefold().split(",")}
        if self.host:
            names.add(self.host.strip("[]").casefold())
        if self.any_address:
            names |= {socket.gethostname().casefold(), socket.getfqdn().casefold()}
        return frozenset(filter(None, names))

    @property
    def any_address(self) -> bool:
        """Whether the page listens on all addresses of this machine.

        It is then reached by any of them. No rebinding of a name leads to a `Host` that is an address.
        """
        address = _address(self.host or "")
        return address is not None and address.is_unspecified


def on_space() -> bool:
    """Return whether this process is a Space."""
    return "SPACE_ID" in os.environ


def middleware(access: Access) -> list[Middleware]:
    """Return the checks of each request for `launch(app_kwargs={"middleware": …})`; the first is asked first."""
    limited = [Middleware(RateLimit, requests_a_minute=access.requests_a_minute)] if access.requests_a_minute else []
    return [
        Middleware(SecurityHeaders, access=access),
        Middleware(SameSite, access=access),
        *limited,
        Middleware(KnownRoutes),
        Middleware(ReadableCalls),
    ]


def refusal(status: int, sentence: str, **headers: str) -> JSONResponse:
    """Return an answer of one line, in the form that gradio's clients show; the connection ends with it."""
    return JSONResponse({"detail": sentence}, status_code=status, headers={"Connection": "close", **headers})


class SameSite:
    """Refuses requests under a foreign host name, and requests that pages of other sites send."""

    def __init__(self, app: ASGIApp, *, access: Access) -> None:
        self._app, self._names, self._any_address = app, access.names(), access.any_address
        self._others = frozenset(access.allowed) | ({os.environ.get("SPACE_HOST", "").casefold()} - {""})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        sentence = self._problem(scope)
        if sentence is None:
            return await self._app(scope, receive, send)
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1008, "reason": "refused"})
        return await refusal(403, sentence)(scope, receive, send)

    def _problem(self, scope: Scope) -> str | None:
        """Return why a request is refused; None where it is not."""
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        host = _hostname(hosts[0]) if len(hosts) == 1 else ""
        if not (host in self._names or (self._any_address and _address(host) is not None)):
            return "This page is not served under this host name. Its owner can allow it with --allow-host."
        origin = headers.get("origin")
        if origin is not None:
            foreign = not self._is_own(origin, hosts[0])
        else:
            # Links from other sites open the page, and the Hub shows it in a frame: both are navigations.
            site, mode = headers.get("sec-fetch-site"), headers.get("sec-fetch-mode")
            foreign = site in ("cross-site", "same-site") and mode != "navigate"
        if foreign:
            return "This page takes no requests from the pages of other sites."
        if scope["type"] == "http" and scope["path"].startswith(_FETCHES):
            return "This page fetches nothing from other servers for its visitors."
        return None

    def _is_own(self, origin: str, host: str) -> bool:
        """Return whether a request comes from this page, or from a page of a host that the owner allows."""
        try:
            parts = urlsplit(origin)
        except ValueError:
            return False
        if parts.scheme not in ("http", "https") or not parts.netloc:
            return False
        return parts.netloc.casefold() == host.casefold() or (parts.hostname or "") in self._others


class SecurityHeaders:
    """Adds headers to each answer: types are not guessed, addresses not passed on, scripts and frames are the page's.

    Gradio needs inline scripts and styles, and compiles the templates of gr.HTML. Nothing is loaded from, or sent to,
    another server.
    """

    def __init__(self, app: ASGIApp, *, access: Access) -> None:
        frames = ["'self'", *(_HUB_PAGES if on_space() else ()), *(f"https://{name}" for name in access.allowed)]
        policy = {
            "default-src": "'self'",
            "script-src": "'self' 'unsafe-inline' 'unsafe-eval' blob:",
            "style-src": "'self' 'unsafe-inline'",
            "img-src": "'self' data: blob:",
            "media-src": "'self' data: blob:",
            "font-src": "'self' data:",
            "connect-src": "'self' data: blob:",
            "worker-src": "'self' blob:",
            "object-src": "'none'",
            "base-uri": "'self'",
            "form-action": "'self'",
            "frame-ancestors": " ".join(frames),
        }
        self._app = app
        self._headers = {
            "Content-Security-Policy": "; ".join(f"{name} {sources}" for name, sources in policy.items()),
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "same-origin",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self._headers)
            await send(message)

        await self._app(scope, receive, with_headers if scope["type"] == "http" else send)


class KnownRoutes:
    """Refuses requests to routes that the page does not use: gradio has some that store or convert files."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        reads = scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS")
        if reads or _CHANGES.fullmatch(scope["path"]):
            return await self._app(scope, receive, send)
        sentence = "This page has no such endpoint; /gradio_api/info describes those that it has."
        return await refusal(404, sentence)(scope, receive, send)


class ReadableCalls:
    """Refuses calls that gradio cannot read: of an endpoint that is not there, or without its arguments."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].startswith("/gradio_api/"):
            return await self._app(scope, receive, send)
        started = False

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except Exception as error:  # what gradio raises shares no base class
            if started:
                raise
            log.info("refused a call of %s: %s", scope["path"], type(error).__name__)
            sentence = "The page cannot read this request; /gradio_api/info describes its endpoints."
            await refusal(400, sentence)(scope, receive, send)


class RateLimit:
    """Refuses the requests of a visitor who sends too many: a token bucket by address, filled a minute long.

    Streams of events stay open: of each visitor a bounded number.
    """

    def __init__(self, app: ASGIApp, *, requests_a_minute: int) -> None:
        self._app, self._most = app, float(requests_a_minute)
        # By address: the requests that are left, and when.
        self._left: dict[str, tuple[float, float]] = {}
        self._open: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        address = visitor(scope)
        if scope["type"] == "http" and not scope["path"].startswith(_UNCOUNTED):
            seconds = self._wait(address)
            if seconds > 0:
                sentence = f"Too many requests: this page answers {self._most:.0f} a minute. Try again in a moment."
                return await refusal(429, sentence, **{"Retry-After": f"{seconds:.0f}"})(scope, receive, send)
        if address is None:
            return await self._app(scope, receive, send)
        if self._open[address] >= _MOST_OPEN:
            sentence = f"Too many open requests: this page has at most {_MOST_OPEN} of one visitor. Close some tabs."
            return await refusal(429, sentence, **{"Retry-After": "5"})(scope, receive, send)
        self._open[address] += 1
        try:
            return await self._app(scope, receive, send)
        finally:
            self._open[address] -= 1
            if not self._open[address]:
                del self._open[address]

    def _wait(self, address: str | None) -> float:
        """Count a request; return after how many whole seconds the next one is answered, 0 for this one."""
        if address is None:
            return 0
        now = time.monotonic()
        left, when = self._left.pop(address, (self._most, now))
        left = min(self._most, left + (now - when) * self._most / 60)
        # The newest are last, so that the first is the one that was silent for longest.
        self._left[address] = (max(left - 1, 0) if left >= 1 else left, now)
        if len(self._left) > _MOST_VISITORS:
            del self._left[next(iter(self._left))]
        return 0 if left >= 1 else max(1, round((1 - left) * 60 / self._most + 0.5))


def visitor(scope: Scope) -> str | None:
    """Return the address of a visitor, None for a program of this machine, as gradio's own MCP server is.

    On a Space the Hub's proxies append the addresses of those who ask them: the last public one is the visitor's.
    Elsewhere uvicorn has replaced the address of a trusted proxy (its FORWARDED_ALLOW_IPS).
    """
    client = scope.get("client")
    address = _address(client[0] if client else "")
    if on_space():
        forwarded = Headers(scope=scope).getlist("x-forwarded-for")
        for text in reversed(",".join(forwarded).split(",")):
            candidate = _address(text.strip())
            if candidate is not None and candidate.is_global:
                address = candidate
                break
    if address is None or address.is_loopback:
        return None
    # A household has one network of IPv6 addresses, and may use any of them.
    return str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else str(address)


def _hostname(netloc: str) -> str:
    """Return the host name of `HOST[:PORT]` in lower case, without the brackets of an IPv6 address; "" for nonsense."""
    try:
        parts = urlsplit(f"//{netloc}" if not netloc.count(":") > 1 or netloc.startswith("[") else f"//[{netloc}]")
        name, _ = parts.hostname, parts.port
    except ValueError:
        return ""
    return "" if parts.path or parts.query or parts.username is not None else (name or "").rstrip(".")


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return None
    # A server that listens on IPv6 sees IPv4 addresses as ::ffff:192.0.2.1.
    return (address.ipv4_mapped if address.version == 6 else None) or address
