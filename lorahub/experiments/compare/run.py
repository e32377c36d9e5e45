"""`lorahub compare`: adapters against each other, or against what a run kept of its baselines, on the same claims.

In: adapters as a person names them. Out: a `Comparison`, which `reports.comparisons` puts into words.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np

from lorahub import config as configs
from lorahub.config import EvalConfig
from lorahub.data.sources import SPLITS
from lorahub.errors import ConfigError
from lorahub.experiments.compare import pairs as comparing
from lorahub.experiments.compare.pairs import METRICS, Pair, System
from lorahub.experiments.compare.result import Comparison, Disagreement, Requirement, SystemFigures
from lorahub.experiments.compare.systems import ADAPTER, BASELINES, Answers, Entry, Systems, check_same
from lorahub.labels import LabelSet
from lorahub.records import SYSTEMS
from lorahub.reports import tables
from lorahub.stats import metrics, paired
from lorahub.stats.predictions import Predictions
from lorahub.stats.verdicts import Calibration, Ids, calibrated, decide


def compare(
    adapters: Sequence[str | Path],
    *,
    data: str | None = None,
    split: str = "test",
    base: str | None = None,
    metric: str = "f1_macro",
    require_better: str | None = None,
    resamples: int | None = None,
    confidence: float | None = None,
    adjust: bool = True,
    token: str | None = None,
) -> Comparison:
    """Compare adapters on the same claims: every pair of them, or one run with its own baselines.

    An adapter is a run folder, a run's name, `user/name[@revision]`, or RUN:SYSTEM for a baseline that a run scored.
    `data` and `base` stand in for the recorded ones; of a file every row is judged, unless a run was trained on it.
    With `require_better` (majority, tfidf, linear_probe, untrained or another adapter) each adapter is compared with
    that alone, by `metric`. `resamples` and `confidence` are the first run's own where not given; `adjust=False`
    decides without the bias chosen on validation. Raises ConfigError, AdapterError or DataError.
    """
    for flag, value, known in (("--split", split, SPLITS), ("--metric", metric, METRICS)):
        if value not in known:
            raise ConfigError(f"{flag} is one of {', '.join(known)}; found {value!r}.")
    systems = Systems(split=split, data=data, base=base, token=token)
    asked = _pairs(systems, [str(item) for item in adapters], require_better)
    entries = list({entry.name: entry for pair in asked for entry in pair}.values())
    first = entries[0]
    # Baselines first: they are kept or refused, while an adapter may have to answer now.
    in_turn = sorted(entries, key=lambda entry: entry.system == ADAPTER)
    answers = {entry.name: systems.answers(entry, first.labels) for entry in in_turn}
    check_same(entries, answers, systems.judged)
    known_answers = answers[first.name].predictions
    judged = [_system(entry, answers[entry.name].predictions, first.labels, adjust=adjust) for entry in entries]
    names = [(ours.name, theirs.name) for ours, theirs in asked]
    settings = _settings(first, resamples, confidence)
    enough = paired.enough_resamples(settings.bootstrap, len(names) * len(first.labels), settings.confidence)
    pairs = comparing.compare(
        known_answers.gold, judged, names, first.labels, resamples=enough, confidence=settings.confidence
    )
    texts = systems.texts(first, known_answers)
    return Comparison(
        split=systems.judged,
        data=_data_id(systems, first),
        n=len(known_answers.gold),
        labels=list(first.labels.names),
        metric=metric,
        confidence=settings.confidence,
        resamples=enough,
        systems={
            entry.name: _judged(entry, item, known_answers.gold, answers[entry.name], alone=_one_run(entries))
            for entry, item in zip(entries, judged, strict=True)
        },
        pairs=pairs,
        disagreements=_disagreements(known_answers, judged, names, first.labels, texts),
        required=None if require_better is None else _required(pairs, require_better, metric),
        notes=_notes(systems, settings.bootstrap, enough, texts),
    )


def _pairs(systems: Systems, adapters: Sequence[str], require_better: str | None) -> list[tuple[Entry, Entry]]:
    """Which differences are asked about: from the required baseline, within one run, or between all that were named."""
    if not adapters:
        raise ConfigError("name a run to compare with its baselines, or several. `lorahub runs` lists those there are.")
    named = [systems.find(item) for item in adapters]
    for place, entry in enumerate(named):
        if entry in named[:place]:
            raise ConfigError(f"{adapters[place]} is named twice; name systems that differ.")
    if require_better is not None:
        rivals = [
            systems.of_run(entry, require_better) if require_better in BASELINES else systems.find(require_better)
            for entry in named
        ]
        if any(rival in named for rival in rivals):
            raise ConfigError(f"--require-better {require_better} is one of the compared; leave it out of them.")
        return list(zip(named, rivals, strict=True))
    if len(named) > 1:
        return list(combinations(named, 2))
    alone = named[0]
    others = [systems.of_run(alone, name) for name in SYSTEMS if name != alone.system]
    kept = [entry for entry in others if systems.stored(entry) is not None]
    if not kept:
        raise ConfigError(
            f"{alone.name} keeps no predictions of its baselines on {systems.split}, so there is nothing to compare it "
            "with. Name a second adapter."
        )
    return [(alone, entry) for entry in kept]


def _settings(first: Entry, resamples: int | None, confidence: float | None) -> EvalConfig:
    """The first run's own way of judging, so that intervals are those of its record, or what was asked for."""
    own = configs.from_dict(first.record.asked).eval if first.record else EvalConfig()
    given = {"bootstrap": resamples, "confidence": confidence}
    asked = [f"eval.{name}={value}" for name, value in given.items() if value is not None]
    checked = vars(configs.load(None, asked).eval)
    return replace(own, **{name: checked[name] for name, value in given.items() if value is not None})


def _system(entry: Entry, found: Predictions, labels: LabelSet, *, adjust: bool) -> System:
    how = Calibration()
    if entry.system == ADAPTER and adjust:
        own = Calibration.load(entry.located.folder, len(labels))
        how = replace(own, bias=tuple(own.bias[entry.labels.ids[name]] for name in labels.names) if own.bias else ())
    return System(name=entry.name, answers=decide(found.logits, how), probabilities=calibrated(found.logits, how))


def _judged(entry: Entry, system: System, gold: Ids, answers: Answers, *, alone: bool) -> SystemFigures:
    figures = metrics.quick(gold, system.answers)
    baseline = tables.title(entry.system).removeprefix("before: ")
    return SystemFigures(
        title=entry.run if entry.system == ADAPTER else baseline if alone else f"{baseline} of {entry.run}",
        run=entry.run,
        system=entry.system,
        source=answers.source,
        ece=metrics.expected_calibration_error(gold, system.answers, system.probabilities),
        **figures,
    )


def _one_run(entries: Sequence[Entry]) -> bool:
    return len({entry.run for entry in entries}) == 1


def _data_id(systems: Systems, first: Entry) -> str:
    if systems.data is not None:
        return str(systems.claims(first).source.id)
    return str(first.record.environment["data"]["id"]) if first.record else ""


def _disagreements(
    answered: Predictions,
    systems: Sequence[System],
    pairs: Sequence[tuple[str, str]],
    labels: LabelSet,
    texts: Sequence[str] | None,
) -> list[Disagreement]:
    """The claims, in their own order, on which the two systems of a pair differ."""
    by_name = {system.name: system.answers for system in systems}
    differ = np.any([by_name[ours] != by_name[theirs] for ours, theirs in pairs], axis=0)
    return [
        Disagreement(
            row=row,
            sha256=answered.sha256[row],
            claim=None if texts is None else texts[row],
            gold=labels.names[answered.gold[row]],
            answers={name: labels.names[given[row]] for name, given in by_name.items()},
        )
        for row in map(int, np.flatnonzero(differ))
    ]


def _required(pairs: Sequence[Pair], baseline: str, metric: str) -> Requirement:
    failed = [pair.ours for pair in pairs if pair.verdict(metric) != "better"]
    return Requirement(baseline=baseline, metric=metric, met=not failed, failed=failed)


def _notes(systems: Systems, asked: int, resamples: int, texts: Sequence[str] | None) -> list[str]:
    notes = [note.removesuffix(".") for note in systems.notes]
    if systems.judged == "validation":
        notes.append("every run chose its checkpoint, bias and baselines on validation; test tells more")
    if resamples != asked:
        notes.append(f"{resamples:,} resamples in place of {asked:,}: so many comparisons need them to find anything")
    if texts is None:
        notes.append("the claims' texts are not at hand, only their rows; --data shows them")
    return notes
