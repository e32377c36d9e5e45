"""Start-up: CPU seconds of `--help`, and of the app until it serves, beside the imports that they cannot avoid.

The peer of `--help` is `import typer`; the peer of the app is `import torch, transformers, peft, gradio`. Each pair
takes turns, and the ratio is printed with its spread. CPU time is counted, since a clock also counts what else the
machine does.

    lorahub train --data starter-wording --out runs/starter-wording
    python benchmarks/start.py runs/starter-wording
"""

import argparse
import os
import resource
import signal
import socket
import statistics
import subprocess
import sys
from pathlib import Path

import psutil

from lorahub.reports.tables import markdown

ROOT = Path(__file__).parents[1]
HELP_PEER = "import typer"
APP_PEER = "import torch, transformers, peft, gradio"


def of_program(*arguments):
    """Return the CPU seconds of one Python process that runs to its end."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def of_app(run):
    """Return the CPU seconds of the app until it prints its address."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    app = subprocess.Popen(
        [sys.executable, ROOT / "app.py", run, "--port", str(port)],
        stdout=subprocess.PIPE,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    try:
        if not app.stdout.readline():
            raise SystemExit("The app did not start.")
        spent = psutil.Process(app.pid).cpu_times()
        app.send_signal(signal.SIGINT)
    finally:
        app.wait()
    return spent.user + spent.system


def row(name, measured, peer, rounds):
    """Return one row of the table: alternating measurements of a start and of its peer."""
    pairs = [(measured(), peer()) for _ in range(rounds)]
    ratios = sorted(own / other for own, other in pairs)
    own, other = (statistics.median(column) for column in zip(*pairs, strict=True))
    return [name, f"{own:.2f}", f"{other:.2f}", f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="a run folder that the app serves")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    rows = [
        row(
            " ".join(["lorahub", *command, "--help"]),
            lambda command=command: of_program("-m", "lorahub", *command, "--help"),
            lambda: of_program("-c", HELP_PEER),
            asked.rounds,
        )
        for command in ([], ["train"], ["classify"], ["estimate"])
    ]
    rows.append(
        row("app, until it serves", lambda: of_app(asked.run), lambda: of_program("-c", APP_PEER), asked.rounds)
    )
    print(markdown(["start", "CPU s", "peer, CPU s", "ratio (least-greatest)"], rows))


if __name__ == "__main__":
    main()
