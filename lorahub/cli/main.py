"""The command `lorahub`: its subcommands, exit codes and logging.

A LorahubError becomes one line on stderr and exit code 2. Ctrl-C becomes exit code 130. Any other exception is a bug
and keeps its traceback. Heavy libraries are imported when a command runs, not before.
"""

import functools
import logging
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

import typer
import typer.core

from lorahub import printable
from lorahub.cli import terminal
from lorahub.errors import LorahubError
from lorahub.hub import client


class _Commands(typer.core.TyperGroup):
    """The subcommands, with one line for Ctrl-C and `train --remote` as an alias of `job`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] == "train" and any(word.partition("=")[0] == "--remote" for word in args):
            args = ["job", *args[1:]]
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:  # outside of this method, typer has already turned it into an exit code
            terminal.line(f"lorahub: stopped. {stop if stop.args else 'Nothing half-written is left.'}", err=True)
            raise typer.Exit(130) from None


# rich's option tables add 60 ms to `--help`.
app = typer.Typer(
    name="lorahub",
    cls=_Commands,
    help="Train small adapters that classify claims, test whether they help, and compare many of them on one base.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class _OneLine(logging.Formatter):
    """Writes a message in one line, whatever it quotes."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name in logging
        return printable.line(super().formatMessage(record))


def _show_version(wanted: bool) -> None:
    if wanted:
        from lorahub import __version__

        terminal.line(f"lorahub {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Log automatic decisions and their reasons."),
    version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Print the version."),
) -> None:
    if not sys.stderr.isatty():
        # Some progress bars of huggingface_hub do not check for a terminal. It reads these variables when imported.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    level = logging.INFO if verbose else logging.WARNING
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine("%(levelname)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("lorahub").setLevel(level)
    if not verbose:
        # Deprecations and missing extras of libraries are not for users of lorahub.
        warnings.simplefilter("ignore", FutureWarning)
        for library in ("bitsandbytes", "transformers", "httpx", "huggingface_hub", "datasets"):
            logging.getLogger(library).setLevel(logging.ERROR)


@functools.cache
def command_line() -> typer.Typer:
    """Return the command line with all subcommands; they are added once per process."""
    from lorahub.cli import app as app_command
    from lorahub.cli import (
        bases,
        classify,
        compare,
        doctor,
        estimate,
        evaluate,
        extension,
        hub,
        job,
        methods,
        power,
        publish,
        ranks,
        runs,
        scan,
        space,
        sweep,
        train,
        verify,
    )

    commands: dict[str, tuple[Callable[..., None], str]] = {
        "train": (train.train, "Train an adapter and evaluate it next to its baselines."),
        "job": (job.job, "Train as a Hub Job and push the run."),
        "recipes": (train.recipes, "List the recipes that ship with lorahub."),
        "evaluate": (evaluate.evaluate, "Evaluate finished adapters on a data set."),
        "classify": (classify.classify, "Classify texts or a file with one or more adapters."),
        "compare": (compare.compare, "Compare adapters on the same claims."),
        "power": (power.power, "Show how many test claims a comparison needs."),
        "methods": (methods.methods, "Compare training methods on one data set."),
        "ranks": (ranks.ranks, "Show quality against LoRA rank."),
        "sweep": (sweep.sweep, "Search hyperparameters on validation."),
        "estimate": (estimate.estimate, "Estimate memory and time of a training."),
        "runs": (runs.runs, "List finished runs with their test results."),
        "push": (publish.push, "Publish a run on the Hub."),
        "card": (publish.card, "Print or update the model card of a run."),
        "pull": (hub.pull, "Download an adapter at one commit."),
        "list": (hub.list_adapters, "List adapters on the Hub and on this machine."),
        "info": (hub.info, "Show one adapter and its safety checks."),
        "scan": (scan.scan, "Check the files of an adapter without loading it."),
        "space": (space.space, "Publish the app with adapters as a Space."),
        "verify": (verify.verify, "Check an adapter's recorded results."),
        "app": (app_command.serve, "Start the web app."),
        "hf-register": (extension.hf_register, "Make the commands available as `hf lorahub`."),
        "bases": (bases.bases, "List the architectures that were tested as bases."),
        "doctor": (doctor.doctor, "Show what this machine can do and what is missing."),
    }
    for name, (function, summary) in commands.items():
        app.command(name, short_help=summary)(function)
    return app


def main() -> None:
    """Run the command line."""
    try:
        with client.one_budget():
            command_line()(standalone_mode=True)
    except LorahubError as error:
        terminal.line(f"lorahub: {error}", err=True)
        sys.exit(2)
