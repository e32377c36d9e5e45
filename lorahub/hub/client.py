"""Hub client: endpoint, authentication, retries, errors.

In: a request as a function. Out: its result, or a HubError of one line with the fix. Timeouts, broken connections, 429
and 5xx are retried, four attempts in all; 401, 403, 404 and the like fail at once. Endpoint (`HF_ENDPOINT`) and login
are read at each call. A token is passed to huggingface_hub only; `False` as token asks without one, despite a login.
"""

import logging
import os
import re
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

from lorahub.errors import HubError, PublishError, one_line

if TYPE_CHECKING:
    from huggingface_hub import HfApi

log = logging.getLogger(__name__)

TRIES = 4
# Seconds before the second attempt; doubled for each further one.
FIRST_WAIT = 1.0
_MAX_WAIT = 60.0
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
    for attempt in range(1, tries + 1):
        try:
            return request()
        except Exception as raised:  # huggingface_hub, its HTTP library and its validators share no base class
            error = _cause(raised)
            status = _status(error)
            transient = status in _TRANSIENT or (_is_http(error) and type(error).__name__ in _TRANSIENT_ERRORS)
            if status is None and not _is_http(error) and not _is_hub(error):
                raise raised
            if not transient or attempt == tries:
                reached = status is not None or not (_is_http(error) or type(error).__name__ in _UNREACHED)
                raise HubError(_explain(error, status, doing, attempt), status=status, reached=reached) from error
            wait = _wait(error, attempt)
            reason = f"the Hub answered {status}" if status else redact(one_line(error))
            log.warning("%s: %s; trying again in %.0f s (%d of %d)", doing, reason, wait, attempt, tries)
            time.sleep(wait)
    raise AssertionError("unreachable: the last attempt returns or raises")


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
    without_cache = type(error).__name__ == "LocalEntryNotFoundError" and (_is_http(inner) or _status(inner))
    return inner if without_cache or isinstance(error, RuntimeError) else error


def _status(error: Exception) -> int | None:
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
    seconds = float(retry_after) if retry_after.isdigit() else FIRST_WAIT * 2 ** (attempt - 1)
    return min(seconds, _MAX_WAIT)


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
