"""Print text to the terminal with control characters escaped. The other modules of `cli` print through it."""

import typer

from lorahub import printable


def line(text: str, *, err: bool = False) -> None:
    """Print one line."""
    typer.echo(printable.line(text), err=err)


def lines(text: str, *, err: bool = False, end: str = "\n") -> None:
    """Print a text of several lines: a card, a report, or the log of another machine."""
    typer.echo(printable.lines(text) + end, err=err, nl=False)


def json_text(text: str, *, err: bool = False) -> None:
    """Print JSON."""
    typer.echo(printable.in_json(text), err=err)
