"""`lorahub verify`: claimed against measured."""

from dataclasses import asdict
from typing import Annotated

import typer

from lorahub.cli.options import Adapter, AdapterBase, Json, Token


def verify(
    adapter: Adapter,
    data: Annotated[str | None, typer.Option(help="Data to measure on; default: the recorded data set.")] = None,
    base: AdapterBase = None,
    tolerance: Annotated[float, typer.Option(help="Largest difference of a metric that is none.", min=0.0)] = 0.005,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Load an adapter as a stranger would and measure its claims again; exit code 1 where they differ."""
    from lorahub.cli import show
    from lorahub.publish import verify as verifying

    options = verifying.Options(data=data, base=base, tolerance=tolerance, token=token)
    checks = list(verifying.verify(adapter, options))
    same = all(check.ok is not False for check in checks)
    if as_json:
        show.print_json({"adapter": adapter, "ok": same, "checks": [asdict(check) for check in checks]})
    else:
        words = {True: "yes", False: "NO", None: "not measured"}
        rows = [(check.name, check.claimed, check.found, words[check.ok]) for check in checks]
        show.table(("check", "claimed", "measured", "holds"), rows, title=adapter)
    if not same:
        raise typer.Exit(1)
