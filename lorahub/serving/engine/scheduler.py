"""Requests of many threads become forward passes: what waits at the same time is answered together.

In: jobs, the tokenized texts of a request with the adapters that read them. Out: each job's results. Of the threads
that wait, one at a time has a pass run for all of them, so a request waits for no timer and at most for the pass that
is under way. The requests take turns: a long one does not keep the others waiting until it is done. Knows nothing of
models.
"""

import os
import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from lorahub.errors import EngineBusyError
from lorahub.stats.verdicts import Floats

# Seconds between two looks at whether a waiting request has been cancelled.
_LOOK = 0.05


@dataclass(kw_only=True, eq=False)
class Job:
    """The texts of a request that the same adapters read.

    `items` are the tokenized texts. They are answered from the longest to the shortest; `done` says how many are. Only
    jobs of one `kind` and `strength` share a pass.
    """

    items: Sequence[dict[str, list[int]]]
    adapters: Sequence[Any] = ()
    kind: Hashable = None
    strength: float = 1.0
    done: int = 0
    results: list[tuple[list[int], Floats]] = field(default_factory=list)
    error: Exception | None = None

    def __post_init__(self) -> None:
        self._lengths = [len(item["input_ids"]) for item in self.items]
        self._order = sorted(range(len(self.items)), key=lambda row: -self._lengths[row])

    @property
    def left(self) -> int:
        """How many texts are not answered yet."""
        return len(self.items) - self.done

    @property
    def finished(self) -> bool:
        """Whether all are, or none will be."""
        return self.error is not None or not self.left

    @property
    def longest(self) -> int:
        """Tokens of the text that is next."""
        return self._lengths[self._order[self.done]]

    @property
    def rows_a_text(self) -> int:
        """Rows of a pass that a text takes."""
        return max(1, len(self.adapters))

    def goes_with(self, other: "Job") -> bool:
        """Whether one pass can answer both."""
        return (self.kind, self.strength) == (other.kind, other.strength)

    def next(self, count: int) -> list[int]:
        """The places of the texts that are next."""
        return self._order[self.done : self.done + count]


@dataclass(frozen=True, kw_only=True)
class Share:
    """What a pass answers of a job: the texts at these places."""

    job: Job
    places: list[int]


class _OneThread:
    """Runs every pass in the same thread.

    Each thread that multiplies matrices keeps buffers of its own, and helpers on the other cores: with 50 visitors'
    threads the process grows by hundreds of megabytes.
    """

    def __init__(self) -> None:
        self._process: int | None = None

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Return what `function` returns, or raise what it raises."""
        if self._process != os.getpid():  # a forked process has none of its parent's threads
            self._process, self._executor = os.getpid(), ThreadPoolExecutor(1)
        try:
            future = self._executor.submit(function, *args)
        except RuntimeError:  # the main thread has ended, and with it all executors; others may still ask
            return function(*args)
        return future.result()


class Line:
    """The jobs that wait, and whose turn it is.

    `run` answers the shares of a pass: one array a share, its first dimension the share's texts. A pass has about
    `tokens` tokens, padding included; at most `most` requests wait, those that are being answered among them.
    """

    def __init__(self, run: Callable[[Sequence[Share]], Sequence[Floats]], *, tokens: int, most: int) -> None:
        self._run, self._tokens, self._most = run, tokens, most
        self._thread, self._changed = _OneThread(), threading.Condition()
        self._jobs: list[Job] = []
        self._requests, self._running = 0, False

    @property
    def requests(self) -> int:
        """How many requests wait or are being answered."""
        return self._requests

    def answer(self, jobs: Sequence[Job], *, stop: threading.Event | None = None) -> None:
        """Answer a request's jobs; when `stop` is set meanwhile, it leaves the line.

        Raises EngineBusyError where too many wait already, CancelledError where it was stopped, and what a pass raised.
        """
        with self._changed:
            if self._requests >= self._most:
                raise EngineBusyError(
                    f"requests waiting: {self._requests}, and the engine takes no more. Try again in a moment."
                )
            self._requests += 1
            self._jobs += jobs
        try:
            while self._my_turn(jobs, stop):
                self._pass()
        finally:
            with self._changed:
                self._requests -= 1
                self._jobs = [job for job in self._jobs if job not in jobs]
                self._changed.notify_all()
        for job in jobs:
            if job.error is not None:
                raise job.error

    def _my_turn(self, jobs: Sequence[Job], stop: threading.Event | None) -> bool:
        """Wait until this thread is to run a pass (True), or its own jobs are finished."""
        with self._changed:
            while not all(job.finished for job in jobs):
                if stop is not None and stop.is_set():
                    raise CancelledError("the request was cancelled")
                if not self._running:
                    self._running = True
                    return True
                self._changed.wait(None if stop is None else _LOOK)
            return False

    def _pass(self) -> None:
        """Run one pass for the jobs whose turn it is. An error is theirs, an interrupt only this thread's."""
        try:
            with self._changed:
                shares = self._take()
            try:
                found = self._thread.run(self._run, shares)
            except Exception as error:
                for share in shares:
                    share.job.error = error
            else:
                for share, values in zip(shares, found, strict=True):
                    share.job.results.append((share.places, values))
                    share.job.done += len(share.places)
        finally:
            with self._changed:
                self._running = False
                self._jobs = [job for job in self._jobs if not job.finished]
                self._changed.notify_all()

    def _take(self) -> list[Share]:
        """The first job's next texts, and beside them those of other jobs that need little padding, in equal shares."""
        first = self._jobs.pop(0)
        self._jobs.append(first)
        longest, left = first.longest, self._tokens
        others = [job for job in self._jobs[:-1] if job.goes_with(first) and longest / 2 <= job.longest <= longest]
        others.sort(key=lambda job: job.left * job.rows_a_text)
        shares = []
        for number, job in enumerate([*others, first]):
            tokens = longest * job.rows_a_text
            count = left // (len(others) + 1 - number) // tokens
            if job is first:
                count = max(count, 1)
            places = job.next(count)
            left -= len(places) * tokens
            if places:
                shares.append(Share(job=job, places=places))
        return shares
