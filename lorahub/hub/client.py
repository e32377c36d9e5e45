"""One door to the Hub: which endpoint, as whom, what is tried again, and what a failure means.

In: a request as a function. Out: its answer, or a HubError of one line with the fix. Time-outs, cut connections, 429
and 5xx are tried again, four times in all; 401, 403, 404 and the like fail at once. Endpoint (`HF_ENDPOINT`) and login
are read when a call is made. A token is passed on to huggingface_hub and goes nowhere else.
"""

import logging
import os
import re
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeVar

from lorahub.errors import HubError, PublishError, one_line

if TYPE_CHECKING:
    from huggingface_hub import HfApi

log = logging.getLogger(__name__)

TRIES = 4
# Seconds before the second try; doubled for each further one.
FIRST_WAIT = 1.0
_LONGEST_WAIT = 60.0
_HEALING = frozenset({408, 429, 500, 502, 503, 504})
# Raised before a request was understood or answered. huggingface_hub speaks through httpx or httpx2, by its version.
_HEALING_ERRORS = frozenset(
    {"ReadError", "WriteError", "RemoteProtocolError", "ReadTimeout", "WriteTimeout", "PoolTimeout"}
)
# huggingface_hub's own words for a Hub that was not asked, or did not answer.
_UNREACHED = frozenset({"OfflineModeIsEnabled", "LocalEntryNotFoundError", "IncompleteSnapshotError"})
# What each failure means and what to do: by huggingface_hub's class first, then by status.
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
    403: "{refused}: the token may not (403). Use one with write access to that account (`hf auth login`).",
    404: "{refused}: there is no such thing, or it is private (404). Check the id and the revision, or log in.",
    412: "{refused}: the repository changed meanwhile (412). Look at what came in and try again.",
    429: "{refused}: too many requests (429), {attempts} times. Wait a few minutes and try again.",
}
# How the Hub's tokens look; names such as hf_transfer are none.
TOKEN = r"\bhf_(?:oauth_[\w.-]{16,}|[A-Za-z0-9]{16,})"
_SECRET = re.compile(rf"{TOKEN}|Bearer \S+")
Answer = TypeVar("Answer")


def api(token: str | None = None) -> "HfApi":
    """The real client; without `token` it uses the login (`HF_TOKEN`, or what `hf auth login` stored)."""
    from huggingface_hub import HfApi

    return HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, token=token or None)


def call(request: Callable[[], Answer], *, doing: str, tries: int = TRIES) -> Answer:
    """Return what `request` returns; it must be safe to repeat, or `tries` 1.

    `doing` completes the sentence "the Hub refused to …". Raises HubError, whose `status` is the HTTP status, if any;
    where the connection failed or is forbidden, its `reached` is False.
    """
    for attempt in range(1, tries + 1):
        try:
            return request()
        except Exception as raised:  # huggingface_hub, its HTTP library and its validators share no base class
            error = _cause(raised)
            status = _status(error)
            heals = status in _HEALING or (_is_http(error) and type(error).__name__ in _HEALING_ERRORS)
            if status is None and not _is_http(error) and not _is_hub(error):
                raise raised
            if not heals or attempt == tries:
                reached = status is not None or not (_is_http(error) or type(error).__name__ in _UNREACHED)
                raise HubError(_explain(error, status, doing, attempt), status=status, reached=reached) from error
            wait = _wait(error, attempt)
            log.warning("%s: %s; trying again in %.0f s (%d of %d)", doing, _brief(error), wait, attempt, tries)
            time.sleep(wait)
    raise AssertionError("unreachable: the last try returns or raises")


def once(request: Callable[[], Answer], *, doing: str, lost: str, done: str, look: str) -> Answer:
    """Return what `request` returns, in one try, since a second one would do it a second time.

    Raises HubError where the Hub refuses. Where its answer was lost, raises PublishError: it did not say whether
    `lost`, which may have `done` all the same, and `look` is how to find out.
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
    """The text without anything that looks like a token."""
    return _SECRET.sub("(token)", text)


def _cause(error: Exception) -> Exception:
    """The failure itself, which huggingface_hub wraps: that of a file's upload, and of a download without a cache."""
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
    """Errors of huggingface_hub without a response, and the ValueError by which it tells of refused metadata.

    A safetensors header that cannot be read is about the file, and for whoever asked for it.
    """
    ours = type(error).__module__.startswith("huggingface_hub") and type(error).__name__ != "SafetensorsParsingError"
    return ours or "metadata in README.md" in str(error)


def _wait(error: Exception, attempt: int) -> float:
    headers = getattr(getattr(error, "response", None), "headers", {})
    asked = str(headers.get("Retry-After", ""))
    seconds = float(asked) if asked.isdigit() else FIRST_WAIT * 2 ** (attempt - 1)
    return min(seconds, _LONGEST_WAIT)


def _brief(error: Exception) -> str:
    status = _status(error)
    return f"the Hub answered {status}" if status else redact(one_line(error))


def _explain(error: Exception, status: int | None, doing: str, attempts: int) -> str:
    """What happened, why, and what to do, in one line."""
    found = _BY_CLASS.get(type(error).__name__) or _BY_STATUS.get(status or 0)
    if status == 401 and "Invalid credentials" in str(error):
        found = "{refused}: the token is not valid (401). Log in with `hf auth login`, or give another --token."
    if found is None and status is not None and status >= 500:
        found = "{refused}: it answered {status}, {attempts} times. Try again later."
    if found is None and _is_http(error):
        found = "cannot {doing}: {where} cannot be reached ({what}). Check the network and try again."
    return (found or "{refused}: {what}. Mend what it names and try again.").format(
        refused=f"the Hub refused to {doing}",
        doing=doing,
        status=status,
        attempts=attempts,
        where=os.environ.get("HF_ENDPOINT") or "huggingface.co",
        what=redact(one_line(error)),
    )
