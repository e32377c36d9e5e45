"""Batch the requests of many threads into forward passes.

In: jobs, the tokenized texts of a request with the adapters that read them. Out: each job's results. One of the waiting
threads at a time runs a forward pass for all of them: a request waits for no timer, and at most for the pass in
progress. Requests take turns, so a long one does not block the others until it is done. Independent of models.
"""

import os
import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lorahub.errors import EngineBusyError
from lorahub.stats.verdicts import Floats

# Seconds between two checks whether a waiting request has been cancelled.
_CANCEL_CHECK_SECONDS = 0.05


@dataclass(kw_only=True, eq=False)
class Job:
    """The tokenized texts of a request that the same adapters read.

    `pending` are the positions of unfinished texts, from the longest to the shortest. Only jobs of the same `kind` and
    `strength` share a pass. `rows_per_text` are the rows of a pass that one text takes, by default one per adapter.
    """

    items: Sequence[dict[str, list[int]]]
    adapters: Sequence[Any] = ()
    kind: Hashable = None
    strength: float = 1.0
    rows_per_text: float = 0
    pending: list[int] = field(init=False)
    results: list[tuple[list[int], Floats]] = field(default_factory=list)
    error: Exception | None = None

    def __post_init__(self) -> None:
        self.rows_per_text = self.rows_per_text or max(1, len(self.adapters))
        self.pending = sorted(range(len(self.items)), key=lambda place: -len(self.items[place]["input_ids"]))

    @property
    def finished(self) -> bool:
        """Whether all texts are done, or an error ended the job."""
        return self.error is not None or not self.pending

    @property
    def longest(self) -> int:
        """Number of tokens of the next text."""
        return len(self.items[self.pending[0]]["input_ids"])

    def can_batch_with(self, other: "Job") -> bool:
        """Return whether one pass can process both jobs."""
        return (self.kind, self.strength) == (other.kind, other.strength)

    def output(self) -> Floats:
        """Return the results (N, ...) of a finished job in the order of its texts."""
        places = np.concatenate([places for places, _ in self.results])
        return np.concatenate([values for _, values in self.results])[np.argsort(places)]


@dataclass(frozen=True, kw_only=True)
class Slice:
    """The part of a job that one pass processes: the texts at these positions."""

    job: Job
    places: list[int]


class _SingleThread:
    """Runs every pass in the same thread.

    Each thread that multiplies matrices keeps its own buffers and helper threads: with the threads of 50 visitors the
    process would grow by hundreds of megabytes.
    """

    _process: int | None = None

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Return the result of `function`, or raise its exception."""
        if self._process != os.getpid():  # a forked process has none of its parent's threads
            self._process, self._executor = os.getpid(), ThreadPoolExecutor(1)
        try:
            future = self._executor.submit(function, *args)
        except RuntimeError:  # executors end with the main thread, but other threads may still send requests
            return function(*args)
        return future.result()


class Scheduler:
    """The queue of jobs.

    `run` processes the slices of a pass and returns one array per slice, whose first dimension is the slice's texts. A
    pass has about `tokens` tokens, padding included. At most `most` requests wait or are in progress.
    """

    def __init__(self, run: Callable[[Sequence[Slice]], Sequence[Floats]], *, tokens: int, most: int) -> None:
        self._run, self._tokens, self._most = run, tokens, most
        self._thread, self._changed = _SingleThread(), threading.Condition()
        self._jobs: list[Job] = []
        self._requests, self._running = 0, False

    @property
    def requests(self) -> int:
        """Number of requests that wait or are in progress."""
        return self._requests

    def run(self, jobs: Sequence[Job], *, stop: threading.Event | None = None) -> None:
        """Process a request's jobs; setting `stop` cancels it before its next pass.

        Raises EngineBusyError when too many requests wait, CancelledError after `stop`, and the exception of a pass.
        """
        with self._changed:
            if self._requests >= self._most:
                raise EngineBusyError(
                    f"requests waiting: {self._requests}, and the engine takes no more. Try again in a moment."
                )
            self._requests += 1
            self._jobs += jobs
        try:
            while self._wait_for_turn(jobs, stop):
                self._run_pass()
        finally:
            with self._changed:
                self._requests -= 1
                self._jobs = [job for job in self._jobs if job not in jobs]
                self._changed.notify_all()
        for job in jobs:
            if job.error is not None:
                raise job.error

    def _wait_for_turn(self, jobs: Sequence[Job], stop: threading.Event | None) -> bool:
        """Wait until this thread has to run a pass (True) or its own jobs are finished (False)."""
        with self._changed:
            while not all(job.finished for job in jobs):
                if stop is not None and stop.is_set():
                    raise CancelledError("the request was cancelled")
                if not self._running:
                    self._running = True
                    return True
                self._changed.wait(None if stop is None else _CANCEL_CHECK_SECONDS)
            return False

    def _run_pass(self) -> None:
        """Run one pass. An exception ends the jobs in it, an interrupt only this thread's request."""
        try:
            with self._changed:
                slices = self._next_slices()
            try:
                outputs = self._thread.run(self._run, slices)
            except Exception as error:
                for part in slices:
                    part.job.error = error
            else:
                for part, values in zip(slices, outputs, strict=True):
                    part.job.results.append((part.places, values))
                    del part.job.pending[: len(part.places)]
        finally:
            with self._changed:
                self._running = False
                self._jobs = [job for job in self._jobs if not job.finished]
                self._changed.notify_all()

    def _next_slices(self) -> list[Slice]:
        """Return the next texts of the first job and, in equal parts, those of other jobs that need little padding."""
        first = self._jobs.pop(0)
        self._jobs.append(first)
        longest, left = first.longest, float(self._tokens)
        others = [job for job in self._jobs[:-1] if job.can_batch_with(first) and longest / 2 <= job.longest <= longest]
        others.sort(key=lambda job: len(job.pending) * job.rows_per_text)
        slices = []
        for number, job in enumerate([*others, first]):
            tokens = longest * job.rows_per_text
            count = int(left / (len(others) + 1 - number) / tokens)
            if job is first:
                count = max(count, 1)
            places = job.pending[:count]
            left -= len(places) * tokens
            if places:
                slices.append(Slice(job=job, places=places))
        return slices
