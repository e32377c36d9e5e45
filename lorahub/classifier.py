"""`ClaimClassifier`: an adapter as a scikit-learn classifier of texts, saved, loaded and pushed as Hub models are.

In: texts and labels, or a run folder. Out: labels and calibrated probabilities. Training is `training.run`, answers are
the engine's, and what is saved or pushed is a run folder, by the one path of `lorahub push`. A fitted classifier holds
that folder as bytes, so that it can be pickled; the base is found by its id.

It has the methods of huggingface_hub's ModelHubMixin and does not inherit them: those write a `config.json`, which
keeps transformers from loading an adapter folder, and a card from a template.
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
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d

from lorahub import atomic, config, records
from lorahub.config import BaseConfig, Config
from lorahub.data import claims, columns
from lorahub.errors import ConfigError, DataError, LorahubError, one_line
from lorahub.hub import fetch
from lorahub.labels import LabelSet
from lorahub.publish import push
from lorahub.serving.single import Answers, answering
from lorahub.stats.verdicts import Floats, calibrated, decide
from lorahub.training import run
from lorahub.training.folder import check_free
from lorahub.training.session import Watcher

log = logging.getLogger(__name__)

# Config fields that are parameters of their own.
_OWN_SETTINGS = ("base.id", "adapter.method", "train.seed")


class UnfittedError(LorahubError, NotFittedError):  # type: ignore[misc]
    """An answer was asked of a classifier that has not been fitted."""


class ClaimClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Trains an adapter on texts and answers with labels.

    Parameters are checked in `fit`. `base` is a Hub id, a folder or `minilm`, `method` how it is adapted; `settings`
    are any other fields of the sections base, adapter, train and eval, as in {"train.epochs": 3}. `fit` sets two shares
    of its claims aside, stratified: on `validation_fraction` it chooses checkpoint, bias and temperature, on
    `test_fraction` it measures what `record_` and the card report. `seed` is the training seed.

    Fitted: `classes_`, sorted, and `record_`, the run's record (None for an adapter that came without one).
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

    def fit(self, X: Iterable[str], y: Iterable[Any]) -> Self:
        """Train on texts and their labels: lists, arrays or Series, one label a text.

        Raises a LorahubError; those about parameters and data (ConfigError, DataError) are ValueErrors too.
        """
        asked = self._config()
        texts = _texts(X)
        classes, gold = _labels(y, len(texts))
        names = LabelSet(tuple(str(label) for label in classes.tolist()))
        data = claims.from_memory(texts, gold, names, asked.data)
        with tempfile.TemporaryDirectory() as place:
            done = run.run(asked, data, Path(place) / run.default_name(asked), Watcher())
            (answers,) = answering([done.folder], str(self.base), settings=asked.base)
            self._adopt(done.folder, classes, answers, asked.base)
        return self

    def predict(self, X: Iterable[str]) -> npt.NDArray[Any]:
        """The label (N,) of each text: the arg max of `predict_proba`."""
        engine, logits = self._logits(X)
        labels: npt.NDArray[Any] = self.classes_[decide(logits, _only(engine).calibration)]
        return labels

    def predict_proba(self, X: Iterable[str]) -> Floats:
        """Probabilities (N, C) in the order of `classes_`.

        They are calibrated on the claims that `fit` set aside for validation; fewer than 50 are too few to do so.
        """
        engine, logits = self._logits(X)
        return calibrated(logits, _only(engine).calibration)

    @classmethod
    def from_pretrained(
        cls, identifier: str | Path, *, revision: str | None = None, token: str | None = None, base: str | None = None
    ) -> Self:
        """A fitted classifier from a run folder, a run's name or a Hub id; its `classes_` are the label names.

        Its parameters are those of the run, so that a clone trains in the same way. `base` is where the base is: for an
        adapter whose base was a local folder, and for one on the Hub, unless its base is our own. Raises AdapterError
        where it is not there or not safe to load, BaseModelError and HubError.
        """
        found = fetch.adapter(f"{identifier}@{revision}" if revision else identifier, token=token)
        record = records.load(found.folder) if (found.folder / records.FILE_NAME).exists() else None
        asked = config.from_dict(record.asked) if record else Config()
        if found.repo is not None:
            # A repository on the Hub says how long its texts are, and not which base is loaded, or how.
            asked = replace(asked, base=BaseConfig(max_length=asked.base.max_length))
        (engine,) = answering([found], base, settings=asked.base, token=token)
        made = cls(
            base or _only(engine).base_id,
            method=asked.adapter.method,
            settings=_settings(asked),
            validation_fraction=asked.data.validation_fraction,
            test_fraction=asked.data.test_fraction,
            seed=asked.train.seed,
        )
        made._adopt(found.folder, np.array(_only(engine).labels.names), engine, asked.base)
        return made

    def save_pretrained(self, folder: str | Path, *, force: bool = False) -> None:
        """Write the run folder, whole or not at all; `force` allows to replace a run. Raises AdapterError."""
        target = Path(folder)
        files = self._fitted().files_
        check_free(target, force=force)
        with atomic.replacing_folder(target) as part:
            _write(files, part)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = False,
        token: str | None = None,
        branch: str = push.MAIN,
        create_pr: bool = False,
        commit_message: str | None = None,
        base_id: str | None = None,
        license: str | None = None,  # noqa: A002 - the card's and the Hub's word
        language: str | None = None,
        force: bool = False,
    ) -> str:
        """Publish the adapter with its evidence as `lorahub push` does; returns the URL of the commit or pull request.

        `base_id` says where on the Hub a base is that was a local folder, `force` allows to replace what is newer or
        unknown there. Raises AdapterError, PublishError and HubError.
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
            # The folder now remembers this push, and a next one builds on that.
            self.files_ = _read(folder)
        return done.pull_request or f"{done.url}/commit/{done.commit}"

    def _config(self) -> Config:
        """The resolved configuration; raises ConfigError."""
        settings = {} if self.settings is None else self.settings
        if not isinstance(settings, Mapping):
            raise ConfigError(f'settings takes a mapping, as in {{"train.epochs": 3}}; found {settings!r}.')
        own = next((key for key in settings if str(key).startswith("data.") or key in _OWN_SETTINGS), None)
        if own is not None:
            raise ConfigError(f"settings names {own}, which fit or a parameter of its own decides. Remove it there.")
        given = {
            "data.id": claims.MEMORY,
            "data.validation_fraction": self.validation_fraction,
            "data.test_fraction": self.test_fraction,
            "base.id": str(self.base),
            "adapter.method": self.method,
            "train.seed": self.seed,
            **settings,
        }
        sections: dict[str, dict[str, Any]] = {}
        for key, value in given.items():
            section, _, name = str(key).partition(".")
            # A search over parameters hands out numpy's numbers.
            sections.setdefault(section, {})[name] = value.item() if isinstance(value, np.generic) else value
        return config.from_dict(sections)

    def _adopt(self, folder: Path, classes: npt.NDArray[Any], engine: Answers, asked: BaseConfig) -> None:
        """Become what a folder holds."""
        self.classes_ = classes
        self.files_ = _read(folder)
        self.record_ = records.load(folder) if records.FILE_NAME in self.files_ else None
        # What an engine after unpickling must load: this very base.
        self._base = replace(asked, id=str(self.base), revision=engine.base_revision)
        self._engine = engine

    def _fitted(self) -> Self:
        if not self.__sklearn_is_fitted__():
            raise UnfittedError("this ClaimClassifier is not fitted. Call fit, or load one with from_pretrained.")
        return self

    def _logits(self, X: Iterable[str]) -> tuple[Answers, Floats]:
        """Raw logits (N, C), and the engine that gave them."""
        if "_engine" not in vars(self._fitted()):
            with self._folder() as folder:
                (self._engine,) = answering([folder], self._base.id, settings=self._base)
        (logits,) = self._engine.logits(_texts(X)).values()
        return self._engine, logits

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        """The run folder, for as long as the block lasts."""
        files = self._fitted().files_
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "adapter"
            folder.mkdir()
            _write(files, folder)
            yield folder

    def __getstate__(self) -> dict[str, Any]:
        # The engine holds the base, which is loaded again when it is needed.
        return {key: value for key, value in super().__getstate__().items() if key != "_engine"}

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "files_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.one_d_array, tags.input_tags.string = False, True, True
        return tags


def _settings(asked: Config) -> dict[str, Any] | None:
    """What differs from the defaults and is no parameter of its own."""
    changed = {
        key: value
        for key, value in config.differences(asked).items()
        if not key.startswith("data.") and key not in _OWN_SETTINGS
    }
    return changed or None


def _only(engine: Answers) -> Any:
    (adapter,) = engine.adapters.values()
    return adapter


def _texts(X: Any) -> list[str]:
    if isinstance(X, str) or not isinstance(X, Iterable) or getattr(X, "ndim", 1) != 1:
        found = f"{type(X).__name__} of shape {X.shape}" if hasattr(X, "shape") else f"{X!r:.60}"
        raise DataError(f"X takes a list, array or Series with one text each; found {found}. Of a table give a column.")
    values = list(X)
    wrong = next((place for place, value in enumerate(values) if not isinstance(value, str)), None)
    if wrong is not None:
        raise DataError(f"X[{wrong}] is {values[wrong]!r:.60}, not text. Remove it, or turn it into text.")
    return [columns.clean_text(value, f"X[{place}]") for place, value in enumerate(values)]


def _labels(y: Any, count: int) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """The classes (C,), sorted, and each label's place among them (N,)."""
    try:
        labels = column_or_1d(y, warn=True)
        check_classification_targets(labels)
        classes, gold = np.unique(labels, return_inverse=True)
    except (ValueError, TypeError) as error:  # whatever numpy and scikit-learn cannot read, sort or call classes
        raise DataError(f"y holds no class labels ({one_line(error)}). Give one label a text.") from error
    if len(labels) != count:
        raise DataError(f"X holds {count:,} texts and y {len(labels):,} labels. Give one label a text.")
    if len(classes) < 2:
        found = f"only one class, {classes[0]!s}" if len(classes) else "no label"
        raise DataError(f"y holds {found}; a classifier needs at least two classes. Add claims of another.")
    return classes, gold.astype(np.int64)


def _read(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def _write(files: Mapping[str, bytes], folder: Path) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
