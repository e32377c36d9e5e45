"""A study: what is searched, how, and where its trials are kept.

In: a `Search`. Out: its optuna study, new or gone on with; one that was made for something else is refused. What a
trial samples follows from the seed, the trial's place, and the trials that are finished: not from who runs it, nor from
how often the search was stopped.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import optuna
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from lorahub import config as configs
from lorahub.config import Config
from lorahub.data.claimset import ClaimData
from lorahub.errors import ConfigError
from lorahub.experiments.sweep import search_space
from lorahub.experiments.sweep.search_space import Choices, Range, Value

SAMPLERS = ("tpe", "grid", "random")
PRUNERS = ("median", "hyperband", "none")
_MADE_FOR = "made_for"
# A forest on fewer points says nothing.
_FEWEST_FOR_IMPORTANCE = 5


@dataclass(frozen=True, kw_only=True)
class Search:
    """What is searched. `asked` is what recipe and flags say by section and field; a study has `trials` places, which
    count from 1.
    """

    name: str
    asked: dict[str, Any]
    space: tuple[Range, ...]
    trials: int
    sampler: str = "tpe"
    pruner: str = "median"
    seed: int = 0

    @cached_property
    def config(self) -> Config:
        """The config that is searched around."""
        return configs.from_dict(self.asked)

    def config_with(self, values: Mapping[str, Value]) -> Config:
        """The config of a trial; raises ConfigError where its values do not go together."""
        return configs.from_dict(search_space.asked_with(self.asked, values))

    @cached_property
    def points(self) -> list[dict[str, Value]]:
        """The combinations of a grid in order; empty for other samplers."""
        return search_space.grid(self.space) if self.sampler == "grid" else []

    def given(self, place: int) -> dict[str, Value]:
        """The values that a place has before anything is sampled: a point of the grid, or first the recipe's own."""
        if self.points:
            return self.points[place - 1]
        return (search_space.own_values(self.space, self.config) or {}) if place == 1 else {}

    def sampler_of(self, place: int) -> optuna.samplers.BaseSampler:
        """What samples the values of a place that are not given."""
        seed = int(np.random.SeedSequence((self.seed, place)).generate_state(1)[0])
        if self.sampler == "tpe":
            return optuna.samplers.TPESampler(seed=seed)
        return optuna.samplers.RandomSampler(seed=seed)

    def suggest(self, trial: optuna.Trial) -> dict[str, Value]:
        """The values of a trial, sampled where they are not given."""
        return {item.field: _suggest(trial, item) for item in self.space}

    def made_for(self, data: ClaimData, base_id: str) -> dict[str, dict[str, Any]]:
        """What has to stay the same while a study goes on, by section and name; nothing in it is a path."""
        return {
            **configs.to_dict(configs.published(self.config, data_id=data.source.id, base_id=base_id)),
            "sha256": data.source.sha256,
            "search": {
                "ranges": [str(item) for item in self.space],
                "sampler": self.sampler,
                "pruner": self.pruner,
                "seed": self.seed,
            },
        }


def make_or_open(search: Search, storage: BaseStorage, data: ClaimData, base_id: str) -> optuna.Study:
    """The study of a search; raises ConfigError where one of that name was made for something else."""
    made_for = search.made_for(data, base_id)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=search.name,
        storage=storage,
        pruner=_pruner(search.pruner),
        direction="maximize",
        load_if_exists=True,
    )
    then = study.user_attrs.get(_MADE_FOR)
    if then is None and not study.get_trials(deepcopy=False):
        study.set_user_attr(_MADE_FOR, made_for)
    elif found := configs.first_difference(then or {}, made_for):
        changed, was, now = found
        raise ConfigError(
            f"the study {search.name!r} is of another search: {changed} was {was!r} and is {now!r} now. Choose another "
            "--out or --name, or give the command of then."
        )
    return study


def load(search: Search, storage: BaseStorage) -> optuna.Study:
    """The study that `make_or_open` has opened, in another process."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.load_study(study_name=search.name, storage=storage, pruner=_pruner(search.pruner))


def importance(study: optuna.Study) -> dict[str, float]:
    """Each field's share of the variance of quality over the space, largest first: fANOVA, Hutter et al. 2014, ICML.

    Empty where too few trials are finished, or all are equally good.
    """
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(finished) < _FEWEST_FOR_IMPORTANCE or len({trial.value for trial in finished}) == 1:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return {
        name: float(share)
        for name, share in optuna.importance.get_param_importances(study, evaluator=evaluator).items()
    }


def _suggest(trial: optuna.Trial, item: Range) -> Value:
    if isinstance(item, Choices):
        chosen: Value = trial.suggest_categorical(item.field, item.choices)  # type: ignore[assignment]
        return chosen
    if item.whole:
        return trial.suggest_int(item.field, int(item.low), int(item.high), log=item.log)
    return trial.suggest_float(item.field, item.low, item.high, log=item.log)


def _pruner(name: str) -> optuna.pruners.BasePruner:
    """`median` stops what is worse than the median of the trials before it at the same evaluation, from the second
    evaluation and the sixth trial on; `hyperband`: Li et al. 2018, arXiv:1603.06560, in optuna's asynchronous form.
    """
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=2)
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource="auto", reduction_factor=3)
    return optuna.pruners.NopPruner()
