"""Files of visitors: how much they send, how fast, where it is stored and for how long.

In: the requests that carry a body. Out: each upload in a folder of its own whose name cannot be guessed, or a refusal.
A request that stalls is dropped with what it sent. Everything is deleted some minutes after its last use.
"""

import asyncio
import contextlib
import contextvars
import os
import secrets
import shutil
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import gradio as gr
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lorahub.app import protection
from lorahub.errors import ConfigError
from lorahub.training import memory

MB = 1_000_000
# The largest file, and all files of all visitors together, in megabytes.
FILE_MB = 200
_FILES_KEPT = 5
# The largest other request: a file inline is one, as MCP clients send it.
_BODY_BYTES = 16 * MB
# Seconds without a byte after which a request is dropped, and for a whole request: a slow line sends 200 MB in ten
# minutes with 3 megabits a second.
STALL_SECONDS, _REQUEST_SECONDS = 20.0, 600.0
# Uploads at a time: each takes a connection and a file that is open.
_MOST_UPLOADS, _MOST_UPLOADS_OF_ONE = 32, 8
# Seconds from the last use of a file to its deletion, and between two looks.
KEPT_SECONDS, _SWEEP_SECONDS = 900.0, 5.0
# Connections at a time after which memory is returned to the system.
_MANY = 32
# A file takes at least a block of the disk.
_BLOCK = 4096
_UPLOAD, _MCP = "/gradio_api/upload", "/gradio_api/mcp"
_SENTENCES = {
    408: "The request stalled, so it was dropped. Send it again.",
    413: "This is more than the {megabytes:.0f} MB that one request may have.",
    503: "The server holds as many files of visitors as it may. Try again in some minutes.",
}


@dataclass(kw_only=True)
class Uploads:
    """The files of visitors in `folder`, each at most `file_mb` megabytes."""

    folder: Path
    file_mb: int = FILE_MB
    stall_seconds: float = STALL_SECONDS
    kept_seconds: float = KEPT_SECONDS
    # Bytes on the disk at the last look, and bytes that came since.
    _on_disk: int = 0
    _came: int = 0
    # Uploads under way by address.
    _running: Counter[str | None] = field(default_factory=Counter)
    _current: contextvars.ContextVar[Path | None] = field(
        default_factory=lambda: contextvars.ContextVar("upload", default=None)
    )

    def middleware(self) -> list[Middleware]:
        """Return what limits the bodies of requests."""
        return [Middleware(LimitedBodies, uploads=self)]

    @property
    def most_bytes(self) -> int:
        """How many bytes of all visitors are kept."""
        return _FILES_KEPT * self.file_mb * MB

    def __fspath__(self) -> str:
        """Return the folder of the upload that is running, else the folder of all.

        Gradio takes this object in place of its own folder, and asks for the path with each request.
        """
        return str(self._current.get() or self.folder)

    __str__ = __fspath__

    @contextmanager
    def one(self, address: str | None) -> Iterator[Callable[[], None]]:
        """Give the running request a folder of its own; it is deleted unless the function that is yielded is called."""
        folder = self.folder / secrets.token_hex(16)
        folder.mkdir(parents=True)
        mark, kept = self._current.set(folder), threading.Event()
        self._running[address] += 1
        try:
            yield kept.set
        finally:
            self._running[address] -= 1
            self._running += Counter()  # drops those without uploads
            self._current.reset(mark)
            if not kept.is_set():
                shutil.rmtree(folder, ignore_errors=True)

    def is_full(self, address: str | None) -> bool:
        """Return whether no further upload of a visitor may start."""
        many = self._running.total() >= _MOST_UPLOADS or (
            address is not None and self._running[address] >= _MOST_UPLOADS_OF_ONE
        )
        return many or not self.has_room()

    def has_room(self) -> bool:
        """Return whether less is kept than may be; what came since the last look is counted."""
        return self._on_disk + self._came < self.most_bytes

    def check_room(self) -> None:
        """Look again at what is kept; raises ConfigError if it is as much as may be."""
        self.sweep()
        if not self.has_room():
            raise ConfigError(_SENTENCES[503])

    def count(self, size: int) -> bool:
        """Count the bytes of a running upload; return whether there is room for them."""
        self._came += size
        return self._on_disk + self._came <= self.most_bytes

    def sweep(self) -> None:
        """Delete what was not used for `kept_seconds`, and measure the rest."""
        self._came, total, oldest = 0, 0, time.time() - self.kept_seconds
        for parent, _, names in os.walk(self.folder, topdown=False):
            deleted = False
            for name in names:
                path = os.path.join(parent, name)
                with contextlib.suppress(OSError):
                    status = os.lstat(path)
                    # Gradio measures by the time of the last change of the file's entry, too.
                    if status.st_ctime < oldest:
                        os.remove(path)
                        deleted = True
                    else:
                        total += max(status.st_size, _BLOCK)
            with contextlib.suppress(OSError):
                if parent != str(self.folder) and (deleted or os.stat(parent).st_ctime < oldest):
                    os.rmdir(parent)
        self._on_disk = total


def used(path: str | os.PathLike[str] | None) -> None:
    """Note that a file of a visitor is in use, so that it is kept."""
    if path is not None:
        with contextlib.suppress(OSError):
            os.utime(path)


class _RefusedError(Exception):
    """Ends the work on a request that is refused."""


class LimitedBodies:
    """Limits the size and the time of what requests send, and the files of all visitors together."""

    def __init__(self, app: ASGIApp, *, uploads: Uploads) -> None:
        self._app, self._uploads = app, uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self._app(scope, receive, send)
            return
        if scope["path"].rstrip("/") != _UPLOAD:
            # Gradio stores the files that MCP clients send inline.
            stored = scope["path"].startswith(_MCP)
            full = stored and not self._uploads.has_room()
            refused = 503 if full else await self._pass_on(scope, receive, send, _BODY_BYTES, counted=stored)
            if refused:
                await _refuse(refused, _BODY_BYTES)(scope, receive, send)
            return
        address, most = protection.visitor(scope), self._uploads.file_mb * MB
        if self._uploads.is_full(address):
            await _refuse(503, most)(scope, receive, send)
            return
        with self._uploads.one(address) as keep:
            refused = await self._pass_on(scope, receive, send, most, counted=True, keep=keep)
        # The files are deleted before the refusal is sent.
        if refused:
            await _refuse(refused, most)(scope, receive, send)

    async def _pass_on(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        most: int,
        *,
        counted: bool,
        keep: Callable[[], None] = lambda: None,
    ) -> int:
        """Let the page answer a request whose body has at most `most` bytes, or return the status to refuse it with.

        If the page stores the body, its bytes are `counted`; `keep` is called if the page answers with status 200.
        """
        end, size, complete, refused, status = time.monotonic() + _REQUEST_SECONDS, 0, False, 0, 0

        async def limited_receive() -> Message:
            nonlocal size, complete, refused
            if complete:
                return await receive()
            try:
                async with asyncio.timeout(min(self._uploads.stall_seconds, max(0.0, end - time.monotonic()))):
                    message = await receive()
            except TimeoutError:
                refused = 408
                raise _RefusedError from None
            sent = len(message.get("body", b""))
            size += sent
            # The boundaries of a form count little.
            if size > most + _BLOCK:
                refused = 413
            elif counted and not self._uploads.count(sent):
                refused = 503
            if refused:
                raise _RefusedError
            complete = not message.get("more_body", False)
            return message

        async def limited_send(message: Message) -> None:
            nonlocal status
            # Gradio may have turned the refusal into an answer of its own.
            if refused:
                return
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with contextlib.suppress(_RefusedError, ClientDisconnect):
            await self._app(scope, limited_receive, limited_send)
        if status == 200:
            keep()
        return 0 if status else refused


def _refuse(status: int, most: int) -> ASGIApp:
    sentence = _SENTENCES[status].format(megabytes=most / MB)
    return protection.refusal(status, sentence, **({"Retry-After": "60"} if status == 503 else {}))


def lifespan(page: gr.Blocks, uploads: Uploads) -> Any:
    """Return the lifespan of the server: while it runs, old files are deleted and silent connections closed."""

    @asynccontextmanager
    async def running(_: Any) -> AsyncIterator[None]:
        task = asyncio.create_task(_watch(page, uploads))
        try:
            yield
        finally:
            task.cancel()

    return running


async def _watch(page: gr.Blocks, uploads: Uploads) -> None:
    """Delete old files, close each connection that sends no request for a while, and return freed memory."""
    silent: dict[Any, float] = {}
    busy = False
    while True:
        await asyncio.sleep(_SWEEP_SECONDS)
        await anyio.to_thread.run_sync(uploads.sweep)
        server = getattr(page, "server", None)
        connections = list(server.server_state.connections) if server else []
        now = time.monotonic()
        # A connection has no cycle before its first request, and one that is over between requests. Uvicorn itself
        # closes only connections on which a request was answered and nothing came since.
        waiting = [one for one in connections if hasattr(one, "cycle") and _is_over(one.cycle)]
        silent = {one: silent.get(one, now) for one in waiting}
        for one, since in silent.items():
            if now - since > uploads.stall_seconds:
                one.transport.abort()
        busy = busy or len(connections) >= _MANY
        if busy and len(waiting) == len(connections):
            # Many visitors at once leave cycles of objects, and a heap of which glibc keeps the freed parts.
            await anyio.to_thread.run_sync(memory.release)
            busy = False


def _is_over(cycle: Any) -> bool:
    return cycle is None or bool(cycle.response_complete)
