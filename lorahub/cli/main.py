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

from lorahub.errors import LorahubError


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
            typer.echo(f"lorahub: stopped. {stop if stop.args else 'Nothing half-written is left.'}", err=True)
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


def _show_version(wanted: bool) -> None:
    if wanted:
        from lorahub import __version__

        typer.echo(f"lorahub {__version__}")
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
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
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
        classify,
        compare,
        doctor,
        estimate,
        evaluate,
        extension,
        hub,
        job,
        methods,
        publish,
        ranks,
        runs,
        space,
        sweep,
        train,
        verify,
    )

    commands: dict[str, Callable[..., None]] = {
        "train": train.train,
        "job": job.job,
        "recipes": train.recipes,
        "evaluate": evaluate.evaluate,
        "classify": classify.classify,
        "compare": compare.compare,
        "methods": methods.methods,
        "ranks": ranks.ranks,
        "sweep": sweep.sweep,
        "estimate": estimate.estimate,
        "runs": runs.runs,
        "push": publish.push,
        "card": publish.card,
        "pull": hub.pull,
        "list": hub.list_adapters,
        "info": hub.info,
        "space": space.space,
        "verify": verify.verify,
        "app": app_command.serve,
        "hf-register": extension.hf_register,
        "doctor": doctor.doctor,
    }
    for name, function in commands.items():
        app.command(name)(function)
    return app


def main() -> None:
    """Run the command line."""
    try:
        command_line()(standalone_mode=True)
    except LorahubError as error:
        typer.echo(f"lorahub: {error}", err=True)
        sys.exit(2)
