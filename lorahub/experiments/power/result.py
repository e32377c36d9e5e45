"""The result of `lorahub power`: the claims that a comparison needs, by metric and disagreement."""

from dataclasses import dataclass

from lorahub.reports.result import Result


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """What a metric needs if the systems disagree on a share of the claims.

    `to_detect` claims detect the difference, `to_show` claims show that systems without a difference differ by less,
    each with the power of the result; `detectable` is the smallest difference that the claims at hand detect.
    """

    metric: str
    disagreement: float
    to_detect: int
    to_show: int
    detectable: float


@dataclass(frozen=True, kw_only=True)
class PowerResult(Result):
    """The requirements, and the claims that the split has: all, and by label."""

    data: str
    split: str
    claims: int
    labels: dict[str, int]
    difference: float
    power: float
    confidence: float
    requirements: list[Requirement]
