"""`lorahub compare`: compare adapters with each other, or a run with its own baselines, on the same claims."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np

from lorahub import config as configs
from lorahub.config import EvalConfig
from lorahub.data.sources import SPLITS
from lorahub.errors import ConfigError
from lorahub.experiments.compare.pairs import METRICS, System, compare_pairs
from lorahub.experiments.compare.result import Comparison, Disagreement, Requirement, SystemFigures
from lorahub.experiments.compare.systems import ADAPTER, BASELINES, Answers, Entry, Systems, check_same_claims
from lorahub.labels import LabelSet
from lorahub.reports import tables
from lorahub.stats import calibration, paired
from lorahub.stats.equivalence import BETTER, EQUIVALENT
from lorahub.stats.predictions import Predictions
from lorahub.stats.results import SYSTEMS
from lorahub.stats.verdicts import Calibration, calibrated, decide


def compare(
    adapters: Sequence[str | Path],
    *,
    data: str | None = None,
    split: str = "test",
    base: str | None = None,
    metric: str = "f1_macro",
    margin: float | None = None,
    require_better: str | None = None,
    require_equivalent: bool = False,
    resamples: int | None = None,
    confidence: float | None = None,
    adjust: bool = True,
    token: str | None = None,
) -> Comparison:
    """Compare adapters on the same claims: every pair of them, or one run with its own baselines.

    Args:
        adapters: run folders, run names, `user/name[@revision]`, or RUN:SYSTEM for a baseline of a run.
        data: data to evaluate on instead of the recorded data; see `hub.recorded` for the claims that are used.
        split: `test`, `validation` or `train`.
        base: base model for answers that are computed, instead of the recorded one.
        metric: the metric that decides: `f1_macro`, `f1_weighted`, `accuracy` or `ece`.
        margin: difference in `metric` below which two systems are equivalent, between 0 and 1.
        require_better: compare each adapter only with this baseline (majority, tfidf, linear_probe, untrained) or
            adapter.
        require_equivalent: require that every pair is equivalent.
        resamples: number of bootstrap resamples; default: that of the first run.
        confidence: coverage of the intervals; default: that of the first run.
        adjust: decide with the bias chosen on validation.
        token: Hugging Face token; default: the stored login.

    Raises:
        ConfigError, AdapterError, DataError: an argument, a run or its data is not usable.

    """
    for flag, value, known in (("--split", split, SPLITS), ("--metric", metric, METRICS)):
        if value not in known:
            raise ConfigError(f"{flag} is one of {', '.join(known)}; found {value!r}.")
    _check_margin(metric, margin, len(adapters), require_better=require_better, require_equivalent=require_equivalent)
    runs = Systems(split=split, data=data, base=base, token=token)
    requested = _requested_pairs(runs, [str(item) for item in adapters], require_better)
    entries = list({entry.name: entry for pair in requested for entry in pair}.values())
    first, labels = entries[0], entries[0].labels

    # Baselines first: theirs are stored or refused, while an adapter's answers may have to be computed.
    baselines_first = sorted(entries, key=lambda entry: entry.system == ADAPTER)
    answers = {entry.name: runs.answers(entry, labels) for entry in baselines_first}
    check_same_claims(entries, answers, runs.evaluated)
    systems, calibrated_notes = _systems(entries, answers, labels, adjust=adjust)

    options = _evaluation_options(first, resamples, confidence)
    enough = paired.enough_resamples(options.bootstrap, len(requested) * len(labels), options.confidence)
    names = [(ours.name, theirs.name) for ours, theirs in requested]
    predictions = answers[first.name].predictions
    pairs = compare_pairs(
        predictions.gold,
        systems,
        names,
        labels,
        metric=metric,
        resamples=enough,
        confidence=options.confidence,
        margin=margin,
    )
    required = None
    if require_better is not None:
        failed = [pair.ours for pair in pairs if pair.verdict != BETTER]
        required = Requirement(verdict=BETTER, baseline=require_better, metric=metric, met=not failed, failed=failed)
    elif require_equivalent:
        failed = [f"{pair.ours} vs {pair.theirs}" for pair in pairs if pair.verdict != EQUIVALENT]
        required = Requirement(verdict=EQUIVALENT, baseline=None, metric=metric, met=not failed, failed=failed)
    texts = runs.texts(first, predictions)
    one_run = len({entry.run for entry in entries}) == 1
    return Comparison(
        split=runs.evaluated,
        data=_data_id(runs, first),
        n=len(predictions.gold),
        labels=list(labels.names),
        metric=metric,
        confidence=options.confidence,
        resamples=enough,
        systems={
            entry.name: SystemFigures.evaluate(
                system,
                predictions.gold,
                title=_title(entry, one_run=one_run),
                run=entry.run,
                kind=entry.system,
                source=answers[entry.name].source,
            )
            for entry, system in zip(entries, systems, strict=True)
        },
        pairs=pairs,
        disagreements=_disagreements(predictions, systems, names, labels, texts),
        margin=margin,
        required=required,
        notes=[*_notes(runs, options.bootstrap, enough, texts), *calibrated_notes],
    )


def _check_margin(
    metric: str, margin: float | None, adapters: int, *, require_better: str | None, require_equivalent: bool
) -> None:
    """Raise ConfigError if margin and requirements cannot be combined."""
    if margin is not None:
        configs.load(None, [f"eval.margin={margin}"])
    if margin is not None and metric == "ece":
        raise ConfigError("--margin is for accuracy and F1: --metric ece has no test of equivalence.")
    if not require_equivalent:
        return
    if margin is None:
        raise ConfigError("--require-equivalent needs --margin, the largest difference that does not matter.")
    if require_better is not None:
        raise ConfigError("--require-better and --require-equivalent exclude each other: use one of them.")
    if adapters < 2:
        raise ConfigError("--require-equivalent compares two or more adapters; name a second one.")


def _requested_pairs(runs: Systems, adapters: Sequence[str], require_better: str | None) -> list[tuple[Entry, Entry]]:
    """Return the pairs to compare: with the required baseline, within one run, or all pairs of the named systems."""
    if not adapters:
        raise ConfigError("name one run to compare with its baselines, or several. `lorahub runs` lists the runs.")
    named = [runs.find(item) for item in adapters]
    for place, entry in enumerate(named):
        if entry in named[:place]:
            raise ConfigError(f"{adapters[place]} is named twice; name different systems.")
    if require_better is not None:
        baselines = [
            entry.of_run(require_better) if require_better in BASELINES else runs.find(require_better)
            for entry in named
        ]
        if any(baseline in named for baseline in baselines):
            raise ConfigError(f"--require-better {require_better} is also one of the adapters; remove it from them.")
        return list(zip(named, baselines, strict=True))
    if len(named) > 1:
        return list(combinations(named, 2))
    only = named[0]
    others = [only.of_run(name) for name in SYSTEMS if name != only.system]
    pairs = [(only, entry) for entry in others if runs.stored(entry) is not None]
    if not pairs:
        raise ConfigError(
            f"{only.name} has no stored predictions of its baselines on {runs.split}, so there is nothing to compare "
            "it with. Name a second adapter."
        )
    return pairs


def _evaluation_options(first: Entry, resamples: int | None, confidence: float | None) -> EvalConfig:
    """Return the options of the first run, so that intervals equal those of its record, with the given replacements."""
    recorded = first.record.config.eval if first.record else EvalConfig()
    given = {"bootstrap": resamples, "confidence": confidence}
    overrides = {name: value for name, value in given.items() if value is not None}
    checked = vars(configs.load(None, [f"eval.{name}={value}" for name, value in overrides.items()]).eval)
    return replace(recorded, **{name: checked[name] for name in overrides})


def _systems(
    entries: Sequence[Entry], answers: Mapping[str, Answers], labels: LabelSet, *, adjust: bool
) -> tuple[list[System], list[str]]:
    """Return the systems with their answers, and a note if their calibration errors are without a temperature.

    Every system has a temperature fitted on validation, an adapter its own; if one lacks it, none has.
    """
    used = {entry.name: _calibration(entry, labels, adjust=adjust) for entry in entries}
    without = [name for name, own in used.items() if own is None]
    systems = []
    for entry in entries:
        own, logits = used[entry.name] or Calibration(), answers[entry.name].predictions.logits
        shown = own.model_copy(update={"temperature": 1.0}) if without else own
        systems.append(System(name=entry.name, answers=decide(logits, own), probabilities=calibrated(logits, shown)))
    if not without or len(without) == len(entries):
        return systems, []
    return systems, [
        f"Calibration errors are without a temperature, because {', '.join(without)} has none fitted on validation."
    ]


def _calibration(entry: Entry, labels: LabelSet, *, adjust: bool) -> Calibration | None:
    """Return the calibration of a system; of a baseline, fitted now on its stored predictions, None without them."""
    folder = entry.located.folder
    if entry.system == ADAPTER:
        own = Calibration.load(folder, len(labels))
        bias = tuple(own.bias[entry.labels.ids[name]] for name in labels.names) if own.bias and adjust else ()
        return own.model_copy(update={"bias": bias})
    predictions = Predictions.load(folder, "validation", entry.system, labels=len(labels))
    if predictions is None:
        return None
    return calibration.temperature_of({"validation": predictions.logits}, {"validation": predictions.gold})


def _title(entry: Entry, *, one_run: bool) -> str:
    if entry.system == ADAPTER:
        return entry.run
    baseline = tables.title(entry.system).removeprefix("before: ")
    return baseline if one_run else f"{baseline} of {entry.run}"


def _data_id(runs: Systems, first: Entry) -> str:
    if runs.data is not None:
        return runs.claims(first).source.id
    return first.record.environment.data.id if first.record else ""


def _disagreements(
    predictions: Predictions,
    systems: Sequence[System],
    pairs: Sequence[tuple[str, str]],
    labels: LabelSet,
    texts: Sequence[str] | None,
) -> list[Disagreement]:
    """Return the claims, in order, to which the two systems of any pair give different labels."""
    answers = {system.name: system.answers for system in systems}
    differ = np.any([answers[ours] != answers[theirs] for ours, theirs in pairs], axis=0)
    return [
        Disagreement(
            row=row,
            sha256=predictions.sha256[row],
            claim=None if texts is None else texts[row],
            gold=labels.names[predictions.gold[row]],
            answers={name: labels.names[ids[row]] for name, ids in answers.items()},
        )
        for row in map(int, np.flatnonzero(differ))
    ]


def _notes(runs: Systems, requested: int, resamples: int, texts: Sequence[str] | None) -> list[str]:
    notes = list(runs.notes)
    if runs.evaluated == "validation":
        notes.append("Every run chose its checkpoint, bias and baselines on validation; test is the fairer split.")
    if resamples != requested:
        notes.append(f"{resamples:,} resamples instead of {requested:,}: this number of comparisons needs more.")
    if texts is None:
        notes.append("The texts of the claims are not available, only their rows; show them with --data.")
    return notes
