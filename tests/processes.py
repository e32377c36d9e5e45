"""Commands of lorahub as processes, forked from a server that has imported the libraries once.

A process of its own can be killed, and gets Ctrl-C as in a terminal. Starting Python and importing torch and peft for
each would take most of the time of the tests. What is fixed at import, such as HF_ENDPOINT, needs a new interpreter.
"""

import multiprocessing
import os
import runpy
import signal
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["lorahub.training.run", "lorahub.experiments.sweep.run"])


def _run(arguments, environment, handler, folder):
    os.environ.update(environment)
    signal.signal(signal.SIGINT, handler)
    for name, number in (("stdout", 1), ("stderr", 2)):
        os.dup2(os.open(Path(folder, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.argv = ["lorahub", *arguments]
    runpy.run_module("lorahub", run_name="__main__")


class Command:
    """`lorahub ARGUMENTS` in a process of its own, with the methods of `subprocess.Popen` that tests use."""

    def __init__(self, *arguments, handler=signal.default_int_handler):
        self._folder = TemporaryDirectory()
        words = [str(word) for word in arguments]
        self._process = _SERVER.Process(target=_run, args=(words, dict(os.environ), handler, self._folder.name))
        self._process.start()
        self.pid = self._process.pid
        self.kill = self._process.kill

    @property
    def out(self):
        return self._read("stdout")

    @property
    def err(self):
        return self._read("stderr")

    def _read(self, name):
        path = Path(self._folder.name, name)
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def poll(self):
        return self._process.exitcode

    def wait(self, timeout=None):
        """The exit code; None after `timeout` seconds without one."""
        self._process.join(timeout)
        return self._process.exitcode

    def send_signal(self, number):
        os.kill(self.pid, number)

    def until(self, reached, seconds=240):
        """Wait until `reached()`; fail if the process ends before that."""
        end = time.monotonic() + seconds
        while not (found := reached()):
            assert self.poll() is None, self.err
            assert time.monotonic() < end
            time.sleep(0.001)
        return found
