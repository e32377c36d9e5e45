"""The Optuna study of a search: sampler, pruner, objective values and the trials that have ended.

In: a `Search`. Out: its study, new or continued. A study that belongs to a different search is refused.
"""

import base64
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from lorahub import config as configs
from lorahub.config import Config
from lorahub.data.claimset import ClaimData
from lorahub.errors import ConfigError
from lorahub.experiments.sweep import search_space
from lorahub.experiments.sweep.result import FAILED, FINISHED, PRUNED, TrialResult
from lorahub.experiments.sweep.search_space import Choices, Range, Value
from lorahub.experiments.sweep.storage import MAX_RETRIES, retry
from lorahub.stats.verdicts import Ids

SAMPLERS = ("tpe", "grid", "random")
PRUNERS = ("median", "hyperband", "none")
# Attributes of the study and of its trials.
_IDENTITY = "made_for"
_ERROR, _ANSWERS, _COST, _REPEATED = "error", "answers", "cost", "repeats"
# A search ends after so many repeated configurations for each trial: its space has hardly any others.
_MOST_REPEATS = 10
# fANOVA on fewer trials is not meaningful.
_MIN_TRIALS_FOR_IMPORTANCE = 5


@dataclass(frozen=True, kw_only=True)
class Search:
    """What is searched. `recipe` includes the overrides of flags; `trials` is how many to complete.

    A trial is complete if it finished or was pruned. Failed and interrupted trials do not count.
    """

    name: str
    recipe: configs.Sections
    space: tuple[Range, ...]
    trials: int
    sampler: str = "tpe"
    pruner: str = "median"
    seed: int = 0

    @cached_property
    def config(self) -> Config:
        """The config that the search starts from."""
        return configs.from_dict(self.recipe)

    def config_with(self, values: Mapping[str, Value]) -> Config:
        """Return the config of a trial; raises ConfigError where its values cannot be combined."""
        return configs.from_dict(search_space.recipe_with(self.recipe, values))

    def suggest(self, trial: optuna.Trial) -> dict[str, Value]:
        """Return the sampled values of a trial by field."""
        return {item.field: _suggest(trial, item) for item in self.space}

    def set_sampler(self, study: optuna.Study, process: int) -> None:
        """Set the sampler for the next trial that a process of this machine runs.

        Its seed depends on the number of trials so far: a continued search must not repeat its first random values.
        """
        if self.sampler == "grid":
            # One seed for all processes: they take the points in the same order.
            study.sampler = optuna.samplers.GridSampler(search_space.grid(self.space), seed=self.seed)
            return
        entropy = (self.seed, len(study.get_trials(deepcopy=False)), process)
        seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        trials = study.get_trials(deepcopy=False)
        # TPE would propose its favorite again.
        repeats = any(_REPEATED in trial.user_attrs for trial in trials[-1:])
        by_tpe = self.sampler == "tpe" and not repeats
        sampler = optuna.samplers.TPESampler if by_tpe else optuna.samplers.RandomSampler
        study.sampler = sampler(seed=seed)

    def is_done(self, study: optuna.Study) -> bool:
        """Return whether no further trial is needed.

        That is so with `trials` complete ones or, since the config itself may be at fault, as many that failed, or if
        the space has no other configurations. A grid is done when every point has ended and none is queued again.
        """
        trials = study.get_trials(deepcopy=False)
        if isinstance(study.sampler, optuna.samplers.GridSampler):
            queued = any(trial.state == TrialState.WAITING for trial in trials)
            return not queued and study.sampler.is_exhausted(study)
        complete = sum(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in trials)
        failed = sum(_ERROR in trial.user_attrs for trial in trials)
        repeated = sum(_REPEATED in trial.user_attrs for trial in trials)
        return (
            complete >= self.trials
            or failed >= self.trials
            or complete + failed >= self.configurations
            or repeated >= _MOST_REPEATS * self.trials
        )

    @cached_property
    def configurations(self) -> float:
        """The number of configurations of the space; infinity if a range has infinitely many values."""
        values = [item.values() for item in self.space]
        return math.prod(math.inf if known is None else len(known) for known in values)

    def identity(self, data: ClaimData, base_id: str) -> configs.Sections:
        """Return what must not change between two calls of a search, by section and name; it contains no path."""
        return {
            **configs.to_dict(configs.published(self.config, data_id=data.source.id, base_id=base_id)),
            "sha256": {**data.source.sha256},
            "search": {
                "ranges": [str(item) for item in self.space],
                "sampler": self.sampler,
                "pruner": self.pruner,
                "seed": self.seed,
                "selected_on": "half of validation",
            },
        }


def create(search: Search, storage: BaseStorage, data: ClaimData, base_id: str) -> optuna.Study:
    """Create or continue the study of a search; raises ConfigError where one of that name is of another search."""
    study = load(search, storage)
    identity, stored = search.identity(data, base_id), study.user_attrs.get(_IDENTITY)
    if stored is None and not study.get_trials(deepcopy=False):
        study.set_user_attr(_IDENTITY, identity)
        own_values = search_space.own_values(search.space, search.config)
        if own_values and search.sampler != "grid":
            study.enqueue_trial(own_values, skip_if_exists=True)
    elif difference := configs.first_difference(stored or {}, identity):
        name, before, now = difference
        raise ConfigError(
            f"the study {search.name!r} belongs to another search: {name} was {before!r} and is {now!r} now. Choose "
            "another --out or --name, or repeat the first command."
        )
    return study


def load(search: Search, storage: BaseStorage) -> optuna.Study:
    """Open the study of a search, with its pruner and sampler."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        study_name=search.name,
        storage=storage,
        pruner=_pruner(search.pruner),
        direction="maximize",
        load_if_exists=True,
    )
    search.set_sampler(study, process=0)
    return study


def set_cost(trial: optuna.Trial, cost: Mapping[str, float]) -> None:
    """Store the seconds, steps and trained parameters of a trial."""
    trial.set_user_attr(_COST, dict(cost))


def set_answers(trial: optuna.Trial, answers: Ids) -> None:
    """Store the label ids of a trial on validation (N,)."""
    trial.set_user_attr(_ANSWERS, base64.b64encode(zlib.compress(answers.astype("<u2").tobytes())).decode())


def repeats(trial: optuna.Trial) -> bool:
    """Return whether the configuration of a trial was trained before, and mark the trial as a repetition."""
    ended = trial.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    earlier = next((item.number for item in ended if item.params == trial.params), None)
    if earlier is not None:
        trial.set_user_attr(_REPEATED, earlier)
    return earlier is not None


def set_error(trial: optuna.Trial, error: str) -> None:
    """Store why a trial cannot be trained; it is not run again."""
    trial.set_user_attr(_ERROR, error)


def requeue(study: optuna.Study, number: int) -> None:
    """Queue an interrupted trial again, with the same values."""
    trial = study.get_trials()[number]
    if trial.state == TrialState.FAIL and not {_ERROR, _REPEATED} & trial.user_attrs.keys():
        retry(study, trial)


def results(study: optuna.Study, search: Search) -> list[TrialResult]:
    """Return the trials that have ended, by number, up to the one that completed the search.

    Several processes may end a few more trials. All of them report the same trials.
    """
    ended = [trial for trial in study.get_trials(deepcopy=False) if _state(trial)]
    ended.sort(key=lambda trial: (trial.datetime_complete, trial.number))
    complete = np.cumsum([trial.state != TrialState.FAIL for trial in ended])
    kept = ended[: int(np.searchsorted(complete, search.trials)) + 1]
    return [_result(trial) for trial in sorted(kept, key=lambda trial: trial.number)]


def importance(study: optuna.Study) -> dict[str, float]:
    """Return each field's share of the variance of quality, largest first: fANOVA, Hutter et al. 2014, ICML.

    Empty with too few finished trials, or if all are equally good.
    """
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(finished) < _MIN_TRIALS_FOR_IMPORTANCE or len({trial.value for trial in finished}) == 1:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(share) for name, share in shares.items()}


def _state(trial: FrozenTrial) -> str | None:
    """Return how a trial ended; None if it has not ended, is run again, or repeats another one."""
    if trial.state != TrialState.FAIL:
        return {TrialState.COMPLETE: FINISHED, TrialState.PRUNED: PRUNED}.get(trial.state)
    if _REPEATED in trial.user_attrs:
        return None
    given_up = len(retry.retry_history(trial)) >= MAX_RETRIES
    return FAILED if given_up or _ERROR in trial.user_attrs else None


def _result(trial: FrozenTrial) -> TrialResult:
    state, cost, answers = _state(trial), trial.user_attrs.get(_COST, {}), None
    if state == FINISHED:
        packed = zlib.decompress(base64.b64decode(trial.user_attrs[_ANSWERS]))
        answers = np.frombuffer(packed, dtype="<u2").astype(np.int64)
    lost = f"it was interrupted {MAX_RETRIES + 1} times" if state == FAILED else None
    return TrialResult(
        trial=trial.number + 1,
        state=str(state),
        value=trial.value,
        values=trial.params,
        seconds=cost.get("seconds"),
        steps=cost.get("steps"),
        trainable_parameters=cost.get("trainable_parameters"),
        error=trial.user_attrs.get(_ERROR, lost),
        answers=answers,
    )


def _suggest(trial: optuna.Trial, item: Range) -> Value:
    if isinstance(item, Choices):
        chosen: Value = trial.suggest_categorical(item.field, item.choices)  # type: ignore[assignment]
        return chosen
    if item.whole:
        return trial.suggest_int(item.field, int(item.low), int(item.high), log=item.log)
    return trial.suggest_float(item.field, item.low, item.high, log=item.log)


def _pruner(name: str) -> optuna.pruners.BasePruner:
    """Return a pruner by name.

    `median` stops a trial that is worse than the median of earlier trials at the same evaluation, from the second
    evaluation and the sixth trial on. `hyperband`: Li et al. 2018, arXiv:1603.06560, in Optuna's asynchronous form.
    """
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=2)
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource="auto", reduction_factor=3)
    return optuna.pruners.NopPruner()
