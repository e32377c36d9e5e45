"""`lorahub power`: how many test claims a comparison needs."""

from typing import Annotated

import typer

from lorahub.cli.options import Data, Json, Recipe, Set, Split


def power(
    recipe: Recipe = None,
    data: Data = None,
    difference: Annotated[
        float, typer.Option(metavar="X", help="Difference in accuracy or macro F1 that matters, as in 0.02.")
    ] = 0.02,
    disagreement: Annotated[
        list[float] | None,
        typer.Option(
            metavar="SHARE",
            help="Share of claims that one system has right and the other one wrong; repeatable; default: several.",
        ),
    ] = None,
    split: Split = "test",
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Show, before training, how many test claims a difference needs and how many the data set has.

    Both are given: claims that detect the difference, and claims that show two systems to be equivalent within it.
    """
    from lorahub.cli import show
    from lorahub.experiments.power import report
    from lorahub.experiments.power.run import power as compute

    result = compute(
        recipe,
        difference=difference,
        disagreements=disagreement or (),
        data=data,
        split=split,
        settings=settings or (),
    )
    show.report(report.build(result), as_json=as_json)
