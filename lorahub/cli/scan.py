"""`lorahub scan`: check the files of an adapter without loading it."""

from dataclasses import asdict

import typer

from lorahub.cli import terminal
from lorahub.cli.options import Adapter, Json, Token


def scan(
    adapter: Adapter,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Check the files of an adapter without loading it; exit code 1 if it is refused.

    Of an adapter on the Hub only small files and the header of its weights are fetched.
    """
    from lorahub.cli import show
    from lorahub.hub import scan as scanning

    verdict = scanning.scan(adapter, token=token)
    if as_json:
        show.print_json(asdict(verdict))
    else:
        terminal.line(verdict.name)
        show.verdict(verdict)
    if not verdict.safe:
        raise typer.Exit(1)
