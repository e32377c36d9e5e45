"""`lorahub verify`: check the claims of a published adapter."""

from dataclasses import asdict
from typing import Annotated

import typer

from lorahub.cli.options import Adapter, AdapterBase, Json, Token


def verify(
    adapter: Adapter,
    data: Annotated[str | None, typer.Option(help="Data to evaluate on; default: the recorded data set.")] = None,
    base: AdapterBase = None,
    tolerance: Annotated[float, typer.Option(help="Largest accepted difference of a metric.", min=0.0)] = 0.005,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Load an adapter from its files alone and check its recorded results; exit code 1 if they differ."""
    from lorahub.cli import show
    from lorahub.publish import verify as verifying

    options = verifying.Options(data=data, base=base, tolerance=tolerance, token=token)
    checks = list(verifying.verify(adapter, options))
    verified = all(check.ok is not False for check in checks)
    if as_json:
        show.print_json({"adapter": adapter, "ok": verified, "checks": [asdict(check) for check in checks]})
    else:
        answers = {True: "yes", False: "NO", None: "not measured"}
        rows = [(check.name, check.claimed, check.found, answers[check.ok]) for check in checks]
        show.table(("check", "claimed", "measured", "holds"), rows, title=adapter)
    if not verified:
        raise typer.Exit(1)
