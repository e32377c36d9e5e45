"""Baselines: majority class, TF-IDF, linear probe.

In: texts or features (N, H) by split, and gold ids. Out: logits (N, C), so that baselines go through the same verdicts
and metrics as an adapter. Every choice (C, class balancing) is made on validation.
"""

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from lorahub import atomic, runfiles
from lorahub.errors import AdapterError, need, one_line
from lorahub.stats.metrics import quick
from lorahub.stats.results import BaselineChoice
from lorahub.stats.verdicts import Floats, Ids

log = logging.getLogger(__name__)

TFIDF_C = (1.0, 2.0, 4.0, 8.0, 16.0)
PROBE_C = (0.001, 0.01, 0.1, 1.0)
# Balanced classes are safer with rare labels, so the unweighted fit must be better by more than the noise of a
# validation split.
_UNWEIGHTED_MARGIN = 0.01
FOLDER = "baselines"
_LOGITS_FILE, _OPTIONS_FILE = "logits.safetensors", "options.json"


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A fitted baseline: its logits by split, and the options chosen on validation."""

    logits: dict[str, Floats]
    options: BaselineChoice | None = None


def majority(gold: Ids, labels: int, rows: dict[str, int]) -> Chosen:
    """Return log label shares of the training claims for every claim; their arg max is the most frequent label."""
    shares = np.log(np.maximum(np.bincount(gold, minlength=labels) / len(gold), 1e-9)).astype(np.float32)
    return Chosen(logits={name: np.tile(shares, (count, 1)) for name, count in rows.items()})


def tfidf(texts: Mapping[str, Sequence[str]], gold: dict[str, Ids], labels: int, *, metric: str) -> Chosen:
    """Fit logistic regression on TF-IDF of words and word pairs on `train`; options are chosen on `validation`."""
    options = {"ngram_range": (1, 2), "sublinear_tf": True, "min_df": 2}
    try:
        vectorizer = TfidfVectorizer(**options)
        train = vectorizer.fit_transform(texts["train"])
    except ValueError:  # no term occurs twice, as in very small data
        vectorizer = TfidfVectorizer(**{**options, "min_df": 1}, token_pattern=r"\S+")
        train = vectorizer.fit_transform(texts["train"])
    features = {name: train if name == "train" else vectorizer.transform(part) for name, part in texts.items()}
    model, chosen = _best_regression(features, gold, TFIDF_C, metric)
    return Chosen(logits={name: _logits(model, part, labels) for name, part in features.items()}, options=chosen)


@dataclass(frozen=True, kw_only=True)
class LinearProbe:
    """A linear map from features (N, H) to logits (N, C): weight (C, H), bias (C,)."""

    weight: Floats
    bias: Floats

    def logits(self, features: Floats) -> Floats:
        """Return logits (N, C)."""
        logits: Floats = features @ self.weight.T + self.bias
        return logits

    def save(self, folder: Path) -> None:
        """Write `linear_probe.safetensors` into `folder`."""
        safetensors = need("safetensors.numpy", extra="train")
        arrays = {"weight": np.ascontiguousarray(self.weight), "bias": np.ascontiguousarray(self.bias)}
        safetensors.save_file(arrays, folder / runfiles.LINEAR_PROBE)

    @classmethod
    def load(cls, folder: Path, labels: int) -> "LinearProbe | None":
        """Read the probe of a run folder; None if there is none. Raises AdapterError if it is damaged."""
        path = folder / runfiles.LINEAR_PROBE
        if not path.exists():
            return None
        safetensors = need("safetensors.numpy", extra="train")
        damaged = need("safetensors", extra="train").SafetensorError
        try:
            arrays = safetensors.load(runfiles.read_bytes(path))
            weight, bias = arrays["weight"], arrays["bias"]
        except (KeyError, ValueError, TypeError, OSError, damaged) as error:
            raise AdapterError(f"{path} is damaged ({one_line(error)}). Restore it or train again.") from None
        if weight.ndim != 2 or len(weight) != labels or bias.shape != (labels,):
            raise AdapterError(
                f"{path} does not fit {labels} labels: its weight is {weight.shape}, its bias {bias.shape}. "
                "Restore it or train again."
            )
        arrays = {}
        for name, values in (("weight", weight), ("bias", bias)):
            with np.errstate(over="ignore"):
                arrays[name] = values.astype(np.float32)
            if not np.issubdtype(values.dtype, np.floating) or not np.isfinite(arrays[name]).all():
                raise AdapterError(
                    f"{path}: {name} holds values that are not finite numbers. Restore it or train again."
                )
        return cls(**arrays)


@dataclass(frozen=True, kw_only=True)
class Baselines:
    """All baselines of a run: logits by system and split, options by system, and the probe."""

    logits: dict[str, dict[str, Floats]]
    options: dict[str, BaselineChoice]
    probe: LinearProbe

    def save(self, folder: Path) -> None:
        """Write the baselines into `folder`, for a training that is resumed later."""
        arrays = {f"{system}/{split}": part for system, parts in self.logits.items() for split, part in parts.items()}
        need("safetensors.numpy", extra="train").save_file(arrays, folder / _LOGITS_FILE)
        atomic.write_json(folder / _OPTIONS_FILE, {name: item.to_dict() for name, item in self.options.items()})
        self.probe.save(folder)

    @classmethod
    def load(cls, folder: Path, labels: int) -> "Baselines | None":
        """Read what `save` wrote; None if there is nothing."""
        probe = LinearProbe.load(folder, labels)
        if probe is None:
            return None
        logits: dict[str, dict[str, Floats]] = {}
        for name, part in need("safetensors.numpy", extra="train").load_file(folder / _LOGITS_FILE).items():
            system, split = name.split("/")
            logits.setdefault(system, {})[split] = part
        return cls(
            logits=logits, options=runfiles.read_json(folder / _OPTIONS_FILE, dict[str, BaselineChoice]), probe=probe
        )


def fit(
    texts: dict[str, list[str]], features: dict[str, Floats], gold: dict[str, Ids], labels: int, *, metric: str
) -> Baselines:
    """Fit all baselines on `train` with options chosen on `validation`; logits are of the other splits."""
    probe, linear = linear_probe(features, gold, labels, metric=metric)
    chosen = {
        "majority": majority(gold["train"], labels, {split: len(part) for split, part in gold.items()}),
        "tfidf": tfidf(texts, gold, labels, metric=metric),
        "linear_probe": linear,
    }
    return Baselines(
        logits={
            system: {split: part for split, part in baseline.logits.items() if split != "train"}
            for system, baseline in chosen.items()
        },
        options={system: baseline.options for system, baseline in chosen.items() if baseline.options},
        probe=probe,
    )


def linear_probe(
    features: dict[str, Floats], gold: dict[str, Ids], labels: int, *, metric: str
) -> tuple[LinearProbe, Chosen]:
    """Fit logistic regression on standardized features; the scaling is folded into the weights of the probe."""
    scaler = StandardScaler().fit(features["train"])
    scaled = {name: scaler.transform(features[name]) for name in ("train", "validation")}
    model, chosen = _best_regression(scaled, gold, PROBE_C, metric)
    weight, bias = _full_head(model, labels)
    weight = weight / scaler.scale_
    bias = bias - weight @ scaler.mean_
    probe = LinearProbe(weight=weight.astype(np.float32), bias=bias.astype(np.float32))
    return probe, Chosen(logits={name: probe.logits(part) for name, part in features.items()}, options=chosen)


def _best_regression(
    features: Mapping[str, Floats | sparse.csr_matrix], gold: dict[str, Ids], strengths: Sequence[float], metric: str
) -> tuple[LogisticRegression, BaselineChoice]:
    best: tuple[float, LogisticRegression, BaselineChoice] | None = None
    for strength, (balancing, margin) in product(strengths, (("balanced", 0.0), (None, _UNWEIGHTED_MARGIN))):
        model = LogisticRegression(C=strength, class_weight=balancing, max_iter=500)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(features["train"], gold["train"])
        value = quick(gold["validation"], model.predict(features["validation"]))[metric] - margin
        log.debug("logistic regression C=%g class_weight=%s: validation %s %.3f", strength, balancing, metric, value)
        if best is None or value > best[0]:
            best = (value, model, BaselineChoice(C=strength, class_weight=balancing))
    assert best is not None
    return best[1], best[2]


def _full_head(model: LogisticRegression, labels: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return weight (C, H) and bias (C,) with a row for every label; scikit-learn has one row for two classes."""
    weight, bias = model.coef_, model.intercept_
    if labels == 2:
        weight, bias = np.vstack([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return weight, bias


def _logits(model: LogisticRegression, features: sparse.csr_matrix, labels: int) -> Floats:
    weight, bias = _full_head(model, labels)
    logits: Floats = np.asarray(features @ weight.T + bias, dtype=np.float32)
    return logits
