"""The report on the claims that a comparison needs: a table, and a sentence per metric."""

from lorahub.experiments.power.result import PowerResult, Requirement
from lorahub.reports import tables
from lorahub.reports.report import Report, Table


def build(result: PowerResult) -> Report:
    """Build the report."""
    return Report(
        name="power",
        title=f"{result.data}: {result.claims:,} {result.split} claims, difference {result.difference:g}",
        tables=[
            Table(
                header=(
                    "metric", "disagreement", f"to detect {result.difference:g}",
                    f"to show less than {result.difference:g}", f"{result.split} claims", "these detect",
                ),
                rows=[_row(result, row) for row in result.requirements],
            )
        ],
        sentences=[_sentence(result, metric) for metric in dict.fromkeys(row.metric for row in result.requirements)],
        explanation=(
            "Disagreement: the share of claims that one system has right and the other one wrong. `lorahub compare` "
            "shows it for two runs. To detect: claims at which a true difference of that size is found; to show less: "
            "claims at which systems without a difference are shown to be equivalent; each with power "
            f"{result.power:.0%}, and intervals of {result.confidence:.0%}. Macro F1 is approximated by the recalls of "
            "the labels, whose shares are those of this split."
        ),
        data=result,
    )  # fmt: skip


def _row(result: PowerResult, row: Requirement) -> tuple[str, ...]:
    return (
        tables.METRIC_NAMES[row.metric],
        f"{row.disagreement:.0%}",
        f"{row.to_detect:,}",
        f"{row.to_show:,}",
        f"{result.claims:,}",
        f"{row.detectable:.3f}",
    )


def _sentence(result: PowerResult, metric: str) -> str:
    """State up to which disagreement the claims are enough."""
    rows = [row for row in result.requirements if row.metric == metric]
    enough = [row.disagreement for row in rows if row.to_detect <= result.claims]
    name, least = tables.METRIC_NAMES[metric], min(row.to_detect for row in rows)
    if not enough:
        return (
            f"Too few claims for a difference of {result.difference:g} in {name}: {least:,} or more are needed, and "
            f"there are {result.claims:,}."
        )
    return (
        f"Enough claims for a difference of {result.difference:g} in {name} if the systems disagree on up to "
        f"{max(enough):.0%} of the claims."
    )
