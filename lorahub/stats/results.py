"""The figures of a system on a split, as typed values: what the statistics return and what a run record stores.

These models import no scientific library, so that a record is read quickly. Shares, metrics and probabilities lie
between 0 and 1. Fields that older versions of lorahub did not write are optional.
"""

from pydantic import Field

from lorahub.runfiles import Part
from lorahub.stats.paired import Difference, Interval

# The systems of a results table in reading order: first those that need no training of the base.
SYSTEMS = ("majority", "tfidf", "linear_probe", "untrained", "adapter")
LOWER_IS_BETTER = ("ece",)


class LabelResult(Part):
    """One label's figures."""

    precision: float = Field(description="share of the answers LABEL that are right")
    recall: float = Field(description="share of the claims with LABEL that are answered so")
    f1: float = Field(description="harmonic mean of precision and recall")
    support: int = Field(description="claims with LABEL")


class ReliabilityBin(Part):
    """One bin of confidence."""

    n: int = Field(description="claims in this bin of confidence; empty bins are left out")
    confidence: float = Field(description="mean confidence in the bin")
    accuracy: float = Field(description="share of right answers in the bin")


class RiskPoint(Part):
    """One point of the risk-coverage curve."""

    confidence: float = Field(description="lowest confidence that is answered at this point of the curve")
    coverage: float = Field(description="share of all claims that are answered there")
    risk: float = Field(description="share of wrong answers among them")


class SelectiveIntervals(Part):
    """Exact intervals (Clopper and Pearson) of coverage `eval.confidence`."""

    coverage: Interval = Field(description="exact interval (Clopper and Pearson) of the coverage")
    accuracy: Interval | None = Field(description="exact interval of the accuracy; null where nothing is answered")


class SelectiveResult(Part):
    """Abstention of a system on a split: at its threshold, and at every other one."""

    threshold: float | None = Field(description="abstention threshold, as in `environment.calibration`")
    aurc: float = Field(
        description="area under the risk-coverage curve: mean, over claims, of the risk at each claim's own "
        "confidence; lower is better"
    )
    answered: int = Field(description="claims on which the adapter does not abstain")
    coverage: float = Field(description="`answered` as a share of `n`")
    accuracy: float | None = Field(description="share of right answers among them; null where nothing is answered")
    interval: SelectiveIntervals
    curve: list[RiskPoint] = Field(default=[], description="risk at rising coverage, at most 100 points")


class SystemResult(Part):
    """The figures of one system on one split."""

    n: int = Field(description="number of claims")
    accuracy: float = Field(description="share of right answers")
    f1_weighted: float = Field(description="mean of the labels' F1, weighted by their support")
    f1_macro: float = Field(
        description="unweighted mean of the labels' F1; as in scikit-learn, a label that is neither in the gold labels "
        "nor predicted is left out of the mean"
    )
    ece: float = Field(
        description="expected calibration error over 15 equal bins of confidence, of the probabilities in use: those "
        "of `adapter` are calibrated, those of the other systems are not"
    )
    ece_raw: float | None = Field(
        default=None,
        description="the same without a temperature, for a fair comparison of systems; null in older records",
    )
    ece_calibrated: float | None = Field(
        default=None,
        description="the same with a temperature fitted on half of validation, also for systems that are used without "
        "one; null in older records",
    )
    per_label: dict[str, LabelResult] = Field(description="figures by label name")
    confusion: list[list[int]] = Field(description="claims with gold labels in rows, answers in columns")
    reliability: list[ReliabilityBin] = Field(default=[], description="confidence against accuracy")
    interval: dict[str, Interval] = Field(
        description="interval of coverage `eval.confidence`; METRIC is `accuracy` (exact, Clopper and Pearson 1934), "
        "`f1_weighted` or `f1_macro` (percentile bootstrap over claims, widened by errors that did not occur)"
    )
    paired: dict[str, dict[str, Difference]] = Field(
        default={}, description="differences to the other systems by system and metric; only `adapter` has them"
    )
    selective: SelectiveResult | None = Field(default=None, description="abstention; only `adapter` has it")
    truncated: float | None = Field(
        default=None,
        description="share of the claims whose end, or whose evidence's, was not read: they are longer than "
        "`base.max_length`; only `adapter` has it",
    )

    def metric(self, name: str) -> float:
        """Return a headline metric or the calibration error by name."""
        return float(getattr(self, name))

    def shortened(self) -> "SystemResult":
        """Return the same without curves and comparisons."""
        values = self.model_dump(
            exclude_unset=True, exclude={"reliability": True, "paired": True, "selective": {"curve"}}
        )
        return SystemResult.model_validate(values)


class BaselineChoice(Part):
    """Options of a baseline, chosen on validation."""

    C: float = Field(description="inverse regularization strength, chosen on validation")
    class_weight: str | None = Field(description="`balanced` or null, chosen on validation")
