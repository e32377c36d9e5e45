"""`lorahub`: the commands and their manners.

A LorahubError becomes one line on stderr and exit code 2; Ctrl-C exit code 130; anything else is a bug and keeps its
traceback. Nothing heavy is imported until a command runs.
"""

import functools
import logging
import os
import sys
import warnings
from typing import Any

import typer
import typer.core

from lorahub.errors import LorahubError


class _Commands(typer.core.TyperGroup):
    """The commands, where Ctrl-C is answered by one line."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:  # outside of here typer has made an exit code of it
            typer.echo(f"lorahub: stopped. {stop if stop.args else 'Nothing half-written is left.'}", err=True)
            raise typer.Exit(130) from None


# rich's tables of options cost 60 ms of a `--help`; typer's plain ones say the same.
app = typer.Typer(
    name="lorahub",
    cls=_Commands,
    help="Train small adapters that judge claims, see honestly whether they help, and compare many on one base.",
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
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Show what is decided on the way, and why."),
    version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Print the version."),
) -> None:
    if not sys.stderr.isatty():
        # Read when huggingface_hub is imported; some of its bars do not look at the terminal themselves.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    logging.getLogger("lorahub").setLevel(level)
    if not verbose:
        # Libraries announce their own future changes and missing extras to whoever imports them.
        warnings.simplefilter("ignore", FutureWarning)
        for library in ("bitsandbytes", "transformers", "httpx", "huggingface_hub", "datasets"):
            logging.getLogger(library).setLevel(logging.ERROR)


@functools.cache
def command_line() -> typer.Typer:
    """The command line with all its commands, put together once a process."""
    from lorahub.cli import app as app_command
    from lorahub.cli import (
        classify,
        compare,
        doctor,
        estimate,
        evaluate,
        extension,
        hub,
        methods,
        publish,
        ranks,
        runs,
        space,
        sweep,
        train,
    )
    from lorahub.cli import verify as verify_command

    groups = (
        train, evaluate, classify, compare, methods, ranks, sweep, estimate, runs, publish, hub, space, verify_command,
        app_command, extension, doctor,
    )  # fmt: skip
    for group in groups:
        group.register(app)
    return app


def main() -> None:
    """Run the command line."""
    try:
        command_line()(standalone_mode=True)
    except LorahubError as error:
        typer.echo(f"lorahub: {error}", err=True)
        sys.exit(2)
