"""`ClaimClassifier`: a scikit-learn classifier of texts that is saved, loaded and pushed like a Hub model.

In: texts and labels, or a run folder. Out: labels and calibrated probabilities. `training.run` trains, a `Predictor`
predicts, and the saved or pushed files are a run folder as `lorahub push` publishes it. A fitted classifier holds that
folder as bytes, so that it can be pickled; the base is loaded by its id.

It has the methods of huggingface_hub's ModelHubMixin without inheriting them: those write a `config.json`, which keeps
transformers from loading an adapter folder, and a card from a template.
"""

import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import JsonValue
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, column_or_1d

from lorahub import atomic, config, records, runfiles
from lorahub.config import BaseConfig, Config
from lorahub.data import claims, columns
from lorahub.data.claimset import ClaimSet
from lorahub.errors import ConfigError, DataError, LorahubError, one_line
from lorahub.hub import fetch
from lorahub.labels import LabelSet
from lorahub.publish import push, repository
from lorahub.serving.loading import open_predictors
from lorahub.serving.predictor import Prediction, Predictor, Request
from lorahub.stats.verdicts import Floats, calibrated, decide
from lorahub.training import run
from lorahub.training.folder import check_free
from lorahub.training.session import unchanged_random_state

log = logging.getLogger(__name__)

# Config fields that have their own parameter.
_OWN_SETTINGS = ("base.id", "adapter.method", "train.seed")


class UnfittedError(LorahubError, NotFittedError):  # type: ignore[misc]
    """Raised by methods that need a fitted classifier."""


class ClaimClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Train an adapter on texts and predict labels.

    `base` is a Hub id, a folder or `minilm`; `method` is how it is adapted. `settings` are any other fields of the
    sections base, adapter, train and eval, as in {"train.epochs": 3}. `fit` sets two stratified fractions of its texts
    aside: `validation_fraction` to choose checkpoint, bias and temperature, `test_fraction` for the figures in
    `record_` and the card. With a test fraction of 0 it trains on these texts too, and the figures are those on
    validation, which are too good. `seed` is the training seed. Parameters are validated in `fit`.

    Fitted attributes: `classes_`, sorted, and `record_`, the run's record (None for an adapter without one).
    """

    def __init__(
        self,
        base: str | Path = "minilm",
        *,
        method: str = "lora",
        settings: Mapping[str, Any] | None = None,
        validation_fraction: float = 0.1,
        test_fraction: float = 0.1,
        seed: int = 0,
    ) -> None:
        self.base = base
        self.method = method
        self.settings = settings
        self.validation_fraction = validation_fraction
        self.test_fraction = test_fraction
        self.seed = seed

    def fit(self, X: Iterable[str], y: Iterable[Any], sample_weight: Iterable[float] | None = None) -> Self:
        """Train on texts and their labels: lists, arrays or Series, one label per text.

        `sample_weight` (N,) multiplies the loss of each text in training; only the relation of the weights matters. A
        text of weight 0 is left out. Baselines, calibration and figures count all other texts alike. The state of the
        global random generators does not change.

        Raises a LorahubError; those about parameters and data (ConfigError, DataError) are ValueErrors too.
        """
        settings = self._config()
        texts = _texts(X)
        weight = _weights(sample_weight, len(texts))
        kept = np.arange(len(texts)) if weight is None else np.flatnonzero(weight)
        classes, gold = _labels(y, len(texts), kept)
        names = LabelSet(tuple(str(label) for label in classes.tolist()))
        examples = ClaimSet(
            texts=[texts[row] for row in kept], gold=gold, weight=None if weight is None else weight[kept]
        )
        data = claims.from_memory(examples, names, settings.data)
        with tempfile.TemporaryDirectory() as parent, unchanged_random_state():
            trained = run.run(settings, data, Path(parent) / run.default_name(settings))
            (predictor,) = open_predictors([trained.folder], str(self.base), settings=settings.base)
            self._set_fitted(trained.folder, classes, predictor, settings.base)
        return self

    def predict(self, X: Iterable[str]) -> npt.NDArray[Any]:
        """Return the label (N,) of each text: the arg max of `predict_proba`."""
        prediction = self._predict(X)
        labels: npt.NDArray[Any] = self.classes_[decide(prediction.logits, prediction.calibration)]
        return labels

    def predict_proba(self, X: Iterable[str]) -> Floats:
        """Return probabilities (N, C) in the order of `classes_`, calibrated on the validation fraction.

        A validation fraction of fewer than 50 texts is too small to calibrate on.
        """
        prediction = self._predict(X)
        return calibrated(prediction.logits, prediction.calibration)

    @classmethod
    def from_pretrained(
        cls, identifier: str | Path, *, revision: str | None = None, token: str | None = None, base: str | None = None
    ) -> Self:
        """Return a fitted classifier from a run folder, a run's name or a Hub id; `classes_` are its label names.

        Its parameters are those of the run, so that a clone trains in the same way. `base` replaces the recorded base;
        it is required for an adapter trained on a local folder, and for one on the Hub whose base is not MiniLM. Raises
        AdapterError if the adapter does not exist or is not safe to load, BaseModelError and HubError.
        """
        located = fetch.adapter(f"{identifier}@{revision}" if revision else identifier, token=token)
        record = records.load(located.folder) if runfiles.is_finished(located.folder) else None
        settings = record.config if record else Config()
        loaded, defaults = settings.base, config.method_defaults(settings.adapter.method)
        if located.repo is not None:
            # A repository on the Hub decides how long texts may be, but not which base is loaded, or how.
            loaded = BaseConfig(max_length=settings.base.max_length)
            settings = replace(settings, base=replace(defaults.base, max_length=settings.base.max_length))
        with unchanged_random_state():
            (predictor,) = open_predictors([located], base, settings=loaded, token=token)
        (adapter,) = predictor.adapters.values()
        classifier = cls(
            base or adapter.base_id,
            method=settings.adapter.method,
            settings=_settings(settings, defaults),
            validation_fraction=settings.data.validation_fraction,
            test_fraction=settings.data.test_fraction,
            seed=settings.train.seed,
        )
        classifier._set_fitted(located.folder, np.array(adapter.labels.names), predictor, loaded)
        return classifier

    def save_pretrained(self, folder: str | Path, *, force: bool = False) -> None:
        """Write the run folder, complete or not at all; `force` replaces an existing run. Raises AdapterError."""
        files = self._fitted().files_
        check_free(Path(folder), force=force)
        with atomic.replacing_folder(Path(folder)) as part:
            _write(files, part)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = False,
        token: str | None = None,
        branch: str = repository.MAIN,
        create_pr: bool = False,
        commit_message: str | None = None,
        base_id: str | None = None,
        license: str | None = None,  # noqa: A002 - the name on the Hub
        language: str | None = None,
        force: bool = False,
    ) -> str:
        """Publish the run folder as `lorahub push` does and return the URL of the commit or pull request.

        `base_id` is the Hub id of a base that was a local folder; `force` replaces files that are newer or unknown on
        the Hub. Raises AdapterError, PublishError and HubError.
        """
        options = push.Options(
            repo=repo_id, private=private, token=token, revision=branch, create_pr=create_pr, message=commit_message,
            base_id=base_id, licence=license, language=language, force=force,
        )  # fmt: skip
        with self._folder() as folder:
            plan = push.plan(folder, options)
            for line in plan.worse:
                log.warning("%s", line)
            done = push.send(plan)
            # The folder now records this push, and the next one builds on it.
            self.files_ = _read(folder)
        return done.pull_request or f"{done.url}/commit/{done.commit}"

    def _config(self) -> Config:
        """Return the resolved configuration; raises ConfigError."""
        settings = {} if self.settings is None else self.settings
        if not isinstance(settings, Mapping):
            raise ConfigError(f'settings takes a mapping, as in {{"train.epochs": 3}}; found {settings!r}.')
        own = next((key for key in settings if str(key).startswith("data.") or key in _OWN_SETTINGS), None)
        if own is not None:
            raise ConfigError(f"settings names {own}, which `fit` or a separate parameter sets. Remove it there.")
        values = {
            "data.id": claims.MEMORY,
            "data.validation_fraction": self.validation_fraction,
            "data.test_fraction": self.test_fraction,
            "base.id": str(self.base),
            "adapter.method": self.method,
            "train.seed": self.seed,
            **settings,
        }
        sections: config.Sections = {}
        for key, value in values.items():
            section, _, name = str(key).partition(".")
            # A parameter search passes numpy scalars.
            sections.setdefault(section, {})[name] = value.item() if isinstance(value, np.generic) else value
        return config.from_dict(sections)

    def _set_fitted(self, folder: Path, classes: npt.NDArray[Any], predictor: Predictor, settings: BaseConfig) -> None:
        """Take over a run folder and its opened predictor."""
        self.classes_ = classes
        self.files_ = _read(folder)
        self.record_ = records.load(folder) if runfiles.RECORD in self.files_ else None
        # After unpickling exactly this base is loaded again.
        self._base = replace(settings, id=str(self.base), revision=predictor.base_revision)
        self._predictor = predictor

    def _fitted(self) -> Self:
        if not self.__sklearn_is_fitted__():
            raise UnfittedError("this ClaimClassifier is not fitted. Call fit, or load one with from_pretrained.")
        return self

    def _predict(self, X: Iterable[str]) -> Prediction:
        if "_predictor" not in vars(self._fitted()):
            with self._folder() as folder, unchanged_random_state():
                (self._predictor,) = open_predictors([folder], self._base.id, settings=self._base)
        (prediction,) = self._predictor.predict(Request(_texts(X))).values()
        return prediction

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        """Write the run folder to a temporary place for the duration of the block."""
        files = self._fitted().files_
        with tempfile.TemporaryDirectory() as parent:
            folder = Path(parent) / "adapter"
            folder.mkdir()
            _write(files, folder)
            yield folder

    def __getstate__(self) -> dict[str, Any]:
        # The predictor holds the base, which is loaded again on demand.
        return {key: value for key, value in super().__getstate__().items() if key != "_predictor"}

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "files_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.one_d_array, tags.input_tags.string = False, True, True
        return tags


def _settings(settings: Config, defaults: Config) -> dict[str, JsonValue] | None:
    """Return the fields that differ from the defaults of their method and have no parameter of their own."""
    changed = {
        key: value
        for key, value in config.differences(settings, defaults).items()
        if not key.startswith("data.") and key not in _OWN_SETTINGS
    }
    return changed or None


def _texts(X: Any) -> list[str]:
    if isinstance(X, str) or not isinstance(X, Iterable) or getattr(X, "ndim", 1) != 1:
        description = f"{type(X).__name__} of shape {X.shape}" if hasattr(X, "shape") else f"{X!r:.60}"
        raise DataError(f"X takes a list, array or Series of texts; found {description}. Of a table give one column.")
    texts = []
    for place, value in enumerate(X):
        if not isinstance(value, str):
            raise DataError(f"X[{place}] is {value!r:.60}, not text. Remove it, or convert it to text.")
        texts.append(columns.clean_text(value, f"X[{place}]"))
    return texts


def _weights(sample_weight: Any, count: int) -> npt.NDArray[np.float64] | None:
    """Return the checked weights (N,), or None for none."""
    if sample_weight is None:
        return None
    try:
        weights: npt.NDArray[np.float64] = _check_sample_weight(
            sample_weight, np.empty((count, 1)), dtype=np.float64, ensure_non_negative=True
        )
    except (ValueError, TypeError) as error:
        raise DataError(f"sample_weight: {one_line(error)}. Give one number of at least 0 per text.") from error
    return weights


def _labels(y: Any, count: int, kept: npt.NDArray[np.int64]) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """Return the sorted classes (C,) of the labels in the rows `kept`, and the index of each of them (N,)."""
    try:
        labels = column_or_1d(y, warn=True)
        check_classification_targets(labels)
        if len(labels) != count:
            raise ValueError(f"X holds {count:,} texts and y {len(labels):,} labels")
        classes, gold = np.unique(labels[kept], return_inverse=True)
    except (ValueError, TypeError) as error:  # values that numpy and scikit-learn cannot read, sort or take as classes
        raise DataError(f"y holds no class labels ({one_line(error)}). Give one label per text.") from error
    if len(classes) < 2:
        content = f"only one class, {classes[0]!s}" if len(classes) else "no label"
        raise DataError(f"y holds {content}; a classifier needs at least two classes. Add texts of another class.")
    return classes, gold.astype(np.int64)


def _read(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def _write(files: Mapping[str, bytes], folder: Path) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
