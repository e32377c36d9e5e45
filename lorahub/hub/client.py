"""Hub client: endpoint, authentication, retries, errors.

In: a request as a function. Out: its result, or a HubError of one line with the fix. Timeouts, broken connections, 429
and 5xx are retried, four attempts in all; 401, 403, 404 and the like fail at once. huggingface_hub's own retries are
disabled meanwhile, so that attempts do not multiply, and all requests of a command share one `Budget`. Endpoint
(`HF_ENDPOINT`) and login are read at each call. A token is passed to huggingface_hub only; `False` as token asks
without one, despite a login.
"""

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from lorahub.errors import HubError, PublishError, one_line

if TYPE_CHECKING:
    from huggingface_hub import HfApi

log = logging.getLogger(__name__)

TRIES = 4
# Seconds before the second attempt; doubled for each further one.
FIRST_WAIT = 1.0
# Seconds of one command for failed attempts and for waiting between attempts.
BUDGET = 30.0
# Seconds without an answer after which a request that has no timeout of its own fails; the most that a failed attempt
# counts, since a long upload is not time that was lost to retries.
_TIMEOUT = 10.0
_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
# Raised before a request was understood or answered, by httpx or httpx2: huggingface_hub uses either, by its version.
_TRANSIENT_ERRORS = frozenset(
    {"ReadError", "WriteError", "RemoteProtocolError", "ReadTimeout", "WriteTimeout", "PoolTimeout"}
)
# Errors of huggingface_hub if no request reached the Hub.
_UNREACHED = frozenset({"OfflineModeIsEnabled", "LocalEntryNotFoundError", "IncompleteSnapshotError"})
# Messages by error class of huggingface_hub, and by status for the others.
_BY_CLASS = {
    "OfflineModeIsEnabled": "cannot {doing}: HF_HUB_OFFLINE is set. Unset it to reach the Hub.",
    "LocalEntryNotFoundError": "cannot {doing}: the Hub cannot be reached and the file is not in the cache. "
    "Check the network.",
    "GatedRepoError": "{refused}: the repository is gated (403). Accept the conditions on its page and log in "
    "with `hf auth login`.",
    "RevisionNotFoundError": "{refused}: there is no such revision (404). Check the part after @, or --revision.",
}
_BY_STATUS = {
    401: "{refused}: you are not logged in, or there is no such repository (401). Run `hf auth login` or give --token.",
    403: "{refused}: the token does not allow it (403). Use one with write access to that account (`hf auth login`).",
    404: "{refused}: it does not exist or is private (404). Check the id and the revision, or log in.",
    412: "{refused}: the repository has changed in the meantime (412). Check the new content and try again.",
    429: "{refused}: too many requests (429), {attempts} times. Wait a few minutes and try again.",
}
# The form of the Hub's tokens; names such as hf_transfer do not match.
TOKEN = r"\bhf_(?:oauth_[\w.-]{16,}|[A-Za-z0-9]{16,})"
_SECRET = re.compile(rf"{TOKEN}|Bearer \S+")
Result = TypeVar("Result")
# A token, None for the login, or False for no token at all.
Token: TypeAlias = str | Literal[False] | None


@dataclass
class Budget:
    """Seconds left for retries; `down` is set after the last attempt of a request failed, until one succeeds.

    While it is set, each further request has one attempt.
    """

    left: float = BUDGET
    down: bool = False


_budget: ContextVar[Budget | None] = ContextVar("budget", default=None)
# Number of calls whose requests huggingface_hub does not retry.
_calls = 0
_lock = threading.Lock()


@contextmanager
def one_budget() -> Iterator[None]:
    """Make all calls of this block share one budget; without it every call has its own."""
    token = _budget.set(Budget())
    try:
        yield
    finally:
        _budget.reset(token)


def api(token: Token = None) -> "HfApi":
    """Return the client of huggingface_hub.

    Without `token` it uses the login (`HF_TOKEN` or `hf auth login`); with False it asks as nobody.
    """
    from huggingface_hub import HfApi

    return HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, token=token if token is False else token or None)


def call(request: Callable[[], Result], *, doing: str, tries: int = TRIES) -> Result:
    """Return the result of `request`, which must be safe to repeat unless `tries` is 1.

    `doing` completes the sentence "the Hub refused to …". Raises HubError. Its `status` is the HTTP status, if any; its
    `reached` is False if the connection failed or is forbidden.
    """
    budget = _budget.get() or Budget()
    last = 1 if budget.down else tries
    for attempt in range(1, last + 1):
        started = time.monotonic()
        try:
            with _single_attempts(tries > 1):
                result = request()
        except Exception as raised:  # huggingface_hub, its HTTP library and its validators share no base class
            error = _cause(raised)
            status = _status(error)
            transient = status in _TRANSIENT or (_is_http(error) and type(error).__name__ in _TRANSIENT_ERRORS)
            if status is None and not _is_http(error) and not _is_hub(error):
                raise raised
            spent, wait = min(time.monotonic() - started, _TIMEOUT), _wait(error, attempt)
            budget.left -= spent
            # The next attempt may take as long as this one.
            if not transient or attempt == last or wait + spent > budget.left:
                reached = status is not None or not (_is_http(error) or type(error).__name__ in _UNREACHED)
                failure = HubError(_explain(error, status, doing, attempt), status=status, reached=reached)
                budget.down = budget.down or failure.unavailable
                raise failure from error
            reason = f"the Hub answered {status}" if status else redact(one_line(error))
            log.warning("%s: %s; trying again in %.0f s (%d of %d)", doing, reason, wait, attempt, tries)
            budget.left -= wait
            time.sleep(wait)
        else:
            budget.down = False
            return result
    raise AssertionError("unreachable: the last attempt returns or raises")


@contextmanager
def _single_attempts(wanted: bool) -> Iterator[None]:
    """Let each request of this block fail at its first error; huggingface_hub would retry some of them for 23 s."""
    global _calls  # noqa: PLW0603 - a counter
    if not wanted:
        yield
        return
    from huggingface_hub import get_session

    _fail_at_once(get_session())
    with _lock:
        _calls += 1
    try:
        yield
    finally:
        with _lock:
            _calls -= 1


def _fail_at_once(session: Any) -> None:
    """Make a session raise errors that huggingface_hub does not retry, while `_calls` is above 0.

    The session is the one that huggingface_hub shares between all its requests, an httpx or httpx2 client.
    """
    if "send" in vars(session):
        return
    send = session.send

    def send_once(request: Any, **options: Any) -> Any:
        if not _calls:
            return send(request, **options)
        if request.method in ("GET", "HEAD"):
            timeouts = request.extensions.get("timeout") or {}
            limits = {key: timeouts.get(key) or _TIMEOUT for key in ("connect", "read", "write", "pool")}
            request.extensions = {**request.extensions, "timeout": limits}
        try:
            response = send(request, **options)
        except Exception as error:
            kinds = (kind for kind in type(error).__mro__ if kind.__name__ == "TransportError")
            kind: Any = next(kinds, None)
            # A failed HEAD request is not retried, and from its own error the library goes to its cache.
            if kind is None or request.method == "HEAD":
                raise
            raise kind(str(error) or type(error).__name__) from error
        if response.status_code in _TRANSIENT:
            from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]

            response.read()
            hf_raise_for_status(response)
        return response

    session.send = send_once


def once(request: Callable[[], Result], *, doing: str, lost: str, done: str, look: str) -> Result:
    """Return the result of `request` after a single attempt, for requests that must not be repeated.

    Raises HubError if the Hub refuses. If its answer is lost, raises PublishError: the Hub did not say whether `lost`,
    it may have `done`, and `look` tells the user where to check.
    """
    try:
        return call(request, doing=doing, tries=1)
    except HubError as error:
        if error.status is None or error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise PublishError(
                f"the Hub did not say whether {lost} ({error.status or 'no answer'}), and it may have {done} "
                f"all the same. Look {look} before you try again."
            ) from error
        raise


def redact(text: str) -> str:
    """Return the text without anything that looks like a token."""
    return _SECRET.sub("(token)", text)


def _cause(error: Exception) -> Exception:
    """Return the error that huggingface_hub wraps after a failed upload, or a download without a cached file."""
    inner = error.__cause__
    if not isinstance(inner, Exception):
        return error
    if type(error).__name__ == "TransportError" and _is_http(inner):  # see _fail_at_once
        return inner
    without_cache = type(error).__name__ == "LocalEntryNotFoundError" and (_is_http(inner) or _status(inner))
    return _cause(inner) if without_cache or isinstance(error, RuntimeError) else error


def _status(error: Exception) -> int | None:
    if type(error).__name__ == "LocalTokenNotFoundError":  # for requests that the Hub would answer with 401
        return HTTPStatus.UNAUTHORIZED
    return getattr(getattr(error, "response", None), "status_code", None)


def _is_http(error: Exception) -> bool:
    return type(error).__module__.startswith("httpx")


def _is_hub(error: Exception) -> bool:
    """Return whether huggingface_hub raised it without a response, or as a ValueError for refused metadata.

    An unreadable safetensors header is a property of the file, which the caller handles.
    """
    ours = type(error).__module__.startswith("huggingface_hub") and type(error).__name__ != "SafetensorsParsingError"
    return ours or "metadata in README.md" in str(error)


def _wait(error: Exception, attempt: int) -> float:
    headers = getattr(getattr(error, "response", None), "headers", {})
    retry_after = str(headers.get("Retry-After", ""))
    return float(retry_after) if retry_after.isdigit() else FIRST_WAIT * 2 ** (attempt - 1)


def _explain(error: Exception, status: int | None, doing: str, attempts: int) -> str:
    """Return what failed, why, and what to do, in one line."""
    message = _BY_CLASS.get(type(error).__name__) or _BY_STATUS.get(status or 0)
    if status == 401 and "Invalid credentials" in str(error):
        message = "{refused}: the token is not valid (401). Log in with `hf auth login`, or give another --token."
    if message is None and status is not None and status >= 500:
        message = "{refused}: it answered {status}, {attempts} times. Try again later."
    if message is None and _is_http(error):
        message = "cannot {doing}: {where} cannot be reached ({what}). Check the network and try again."
    return (message or "{refused}: {what}. Fix what it names and try again.").format(
        refused=f"the Hub refused to {doing}",
        doing=doing,
        status=status,
        attempts=attempts,
        where=os.environ.get("HF_ENDPOINT") or "huggingface.co",
        what=redact(one_line(error)),
    )
