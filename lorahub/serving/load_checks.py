"""Checks of an adapter after it was loaded: is it complete, has it an effect, and does only its own text count?

In: a predictor, the name of one of its adapters, and a few claims. Out: one `LoadCheck` per property, from about twenty
short forward passes. What an adapter's files must look like is checked before, in hub/safety.py and
engine/compatibility.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lorahub import runfiles
from lorahub.data.claimset import ClaimSet
from lorahub.runfiles import ProbeRow
from lorahub.serving.engine.compatibility import Coverage
from lorahub.serving.engine.engine import Engine
from lorahub.serving.predictor import Request
from lorahub.serving.single import SinglePredictor
from lorahub.stats.verdicts import Floats

# Claims of one check, and characters of each: no base reads more than the first few thousand.
_CLAIMS = 8
_CHARACTERS = 5_000
_BUILT_IN = (
    "Rents may fall.",
    "Every single hospital lies about its waiting times!",
    "The tram runs every ten minutes.",
    "Some doctors think that the new vaccine could cause a light fever in a few of the older patients.",
    "Never trust a bank.",
    "The city closed two schools in March because their roofs were not safe, and plans to open them next year.",
    "Is the water of the lake clean enough to swim in?",
    "Taxes rose by three percent.",
)
# With it beside them, other texts are padded. At up to two tokens per word, a pair of texts fits into one forward pass
# of the engine on one CPU thread.
_LONG = " ".join(["a"] * 120)
# Largest difference of a logit that is rounding, by the precision of the base and relative to the largest logit (at
# least 1): another number or length of rows makes other kernels sum in another order (docs/log.md, 2026-11-30).
_ROUNDING = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 1e-1}
# A smaller difference between an adapter and its base is rounding. B = 0 changed no bit of any logit, trained adapters
# change them by 0.3 and more.
_EFFECT = 1e-4
_NO_LORA = "does not apply: no LoRA layers"


@dataclass(frozen=True, kw_only=True)
class LoadCheck:
    """One property of a loaded adapter. `ok` is None if it does not apply or decides nothing; `found` gives the reason.

    `found` contains names of layers and labels from the adapter's files.
    """

    name: str
    expected: str
    found: str
    ok: bool | None


def claims_of(rows: Sequence[ProbeRow]) -> ClaimSet:
    """Return the claims of `probe.json`, with a gold label that means nothing."""
    paired = any(row.evidence is not None for row in rows)
    return ClaimSet(
        texts=[row.claim for row in rows],
        gold=np.zeros(len(rows), np.int64),
        evidence=[row.evidence or "" for row in rows] if paired else None,
    )


def claims_for(folder: Path) -> ClaimSet:
    """Return the probe's claims of an adapter folder, or built-in ones if it has none; raises AdapterError."""
    path = folder / runfiles.PROBE
    rows = runfiles.read_json(path, list[ProbeRow]) if path.exists() else []
    return claims_of(rows or [ProbeRow(claim=text, logits=[]) for text in _BUILT_IN])


def check(predictor: Engine | SinglePredictor, name: str, claims: ClaimSet) -> list[LoadCheck]:
    """Return the checks of one adapter, computed on the first 8 claims.

    Raises AdapterError for an unknown name, NotFiniteError if logits are not finite numbers, and EngineBusyError.
    """
    # First, because it loads an adapter that was evicted.
    coverage = predictor.coverage(name) if isinstance(predictor, Engine) else None
    return [*_of_layers(coverage), *_of_logits(predictor, name, claims, has_lora=bool(coverage and coverage.norms))]


def _of_layers(coverage: Coverage | None) -> list[LoadCheck]:
    selected = "LoRA weights for every layer that target_modules selects"
    positive = "‖B‖ > 0 in every LoRA layer"
    if coverage is None or not coverage.norms:
        return [
            LoadCheck(name="adapted layers", expected=selected, found=_NO_LORA, ok=None),
            LoadCheck(name="norm of B", expected=positive, found=_NO_LORA, ok=None),
        ]
    missing = [layer for layer in coverage.selected if layer not in coverage.norms]
    problems = [f"{len(missing)} without weights, the first is {missing[0]}"] if missing else []
    problems += [f"no layer is named {', '.join(coverage.unknown[:3])}"] if coverage.unknown else []
    zero = [layer for layer, norm in coverage.norms.items() if norm == 0]
    norms = coverage.norms.values()
    return [
        LoadCheck(
            name="adapted layers",
            expected=selected,
            found="; ".join([f"{len(coverage.norms)} of {len(coverage.selected)} layers", *problems]),
            ok=not problems,
        ),
        LoadCheck(
            name="norm of B",
            expected=positive,
            found=f"0 in {len(zero)} of {len(norms)} layers, the first is {zero[0]}"
            if zero
            else f"{min(norms):.2g} to {max(norms):.2g} in {len(norms)} layers",
            ok=not zero,
        ),
    ]


def _of_logits(predictor: Engine | SinglePredictor, name: str, claims: ClaimSet, *, has_lora: bool) -> list[LoadCheck]:
    texts = [text[:_CHARACTERS] for text in claims.texts[:_CLAIMS]]
    info = predictor.adapters.get(name)
    pairs = claims.evidence or (claims.texts if info is not None and info.reads_evidence else None)
    evidence = None if pairs is None else [text[:_CHARACTERS] for text in pairs[:_CLAIMS]]

    def logits(row: int, *others: str) -> Floats:
        second = None if evidence is None else [evidence[row], *others]
        first: Floats = predictor.logits([texts[row], *others], [name], evidence=second)[name][0]
        return first

    together = predictor.predict(Request(texts, [name], evidence=evidence))[name]
    alone = np.stack([logits(row) for row in range(len(texts))])
    beside = np.stack([logits(row, _LONG) for row in range(len(texts))])
    effect = LoadCheck(name="effect on the logits", expected=f"more than {_EFFECT:g}", found=_NO_LORA, ok=None)
    if has_lora:
        without = predictor.logits(texts, [name], evidence=evidence, strength=0)[name]
        change = _largest(together.logits, without)
        effect = LoadCheck(name=effect.name, expected=effect.expected, found=f"up to {change:.2g}", ok=change > _EFFECT)
    predicted = {verdict.label for verdict in together.verdicts()}
    never = [label for label in together.labels.names if label not in predicted]
    return [
        effect,
        _invariance("same logits in a batch as alone", predictor.precision, together.logits, alone),
        _invariance("same logits beside a long text", predictor.precision, beside, alone),
        LoadCheck(
            name="predicted labels",
            expected=f"each label, on claims: {len(texts)}",
            found=f"never {', '.join(never)}: a note, since few claims decide nothing" if never else "each of them",
            ok=None if never else True,
        ),
    ]


def _invariance(name: str, precision: str, logits: Floats, alone: Floats) -> LoadCheck:
    difference, tolerance = _largest(logits, alone), _ROUNDING[precision] * max(1.0, float(np.abs(alone).max()))
    return LoadCheck(
        name=name,
        expected=f"within {tolerance:.2g} ({precision})",
        found=f"off by {difference:.2g}",
        ok=difference <= tolerance,
    )


def _largest(one: Floats, other: Floats) -> float:
    return float(np.abs(one - other).max())
