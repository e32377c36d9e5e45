"""Data sets known by name: their Hub ids, columns and label names."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

STARTER = Path(__file__).parent / "starter"
# The data set of `data.id=auto`, and the shipped set to use if the Hub cannot be reached.
DEFAULT = "pubhealth"
FALLBACK = "starter-wording"


@dataclass(frozen=True, kw_only=True)
class NamedSet:
    """A data set: `labels` in id order, and `label_map` from class indexes to names.

    Rows with a label in `drop_labels` are dropped; with `drop_incomplete` also rows without a claim or a label.
    `licence` and `language` are ids of the Hub.
    """

    name: str
    hub_id: str | None = None
    folder: Path | None = None
    revision: str | None = None
    claim: str = "claim"
    label: str = "label"
    labels: tuple[str, ...] = ()
    label_map: Mapping[str, str] = field(default_factory=dict)
    drop_labels: tuple[str, ...] = ()
    drop_incomplete: bool = False
    licence: str = ""
    language: str = "en"


def _indexes(*names: str) -> Mapping[str, str]:
    return {str(index): name for index, name in enumerate(names)}


_PUBHEALTH = ("false", "mixture", "true", "unproven")
_CLIMATE = ("SUPPORTS", "REFUTES", "NOT_ENOUGH_INFO", "DISPUTED")
_SETS = (
    NamedSet(
        name="pubhealth",
        hub_id="ImperialCollegeLondon/health_fact",
        # The Hub's parquet conversion: the repository itself needs a script, which datasets >= 4 does not run.
        revision="refs/convert/parquet",
        labels=_PUBHEALTH,
        label_map=_indexes(*_PUBHEALTH),
        drop_labels=("-1",),
        drop_incomplete=True,
        licence="mit",
    ),
    NamedSet(
        name="liar",
        hub_id="ucsbnlp/liar",
        revision="refs/convert/parquet",
        claim="statement",
        labels=("pants-fire", "false", "barely-true", "half-true", "mostly-true", "true"),
        # The class order on the Hub is not the order of the scale.
        label_map=_indexes("false", "half-true", "mostly-true", "true", "barely-true", "pants-fire"),
        licence="unknown",
    ),
    NamedSet(
        name="climate_fever",
        hub_id="tdiggelm/climate_fever",
        label="claim_label",
        labels=_CLIMATE,
        label_map=_indexes(*_CLIMATE),
    ),
    NamedSet(name="covid19_fake_news", labels=("fake", "real")),
    NamedSet(name="scifact", labels=("SUPPORT", "CONTRADICT", "NOT_ENOUGH_INFO")),
    NamedSet(name="checkthat24_en", labels=("No", "Yes")),
    *(
        NamedSet(name=f"starter-{label}", folder=STARTER, label=label, labels=labels, licence="cc0-1.0")
        for label, labels in (
            ("checkable", ("checkable", "not_checkable")),
            ("topic", ("economy", "education", "environment", "health", "technology", "transport")),
            ("wording", ("absolute", "emotive", "hedged", "measured")),
        )
    ),
)
NAMED = {row.name: row for row in _SETS}


def named_set(identifier: str) -> NamedSet | None:
    """Return the set with that name or Hub id; None if there is none."""
    return next((row for row in NAMED.values() if identifier in (row.name, row.hub_id)), None)
