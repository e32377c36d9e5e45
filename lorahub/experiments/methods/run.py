"""`lorahub methods`: train several methods with several seeds on the same data and base, and compare them.

In: a recipe, methods and seeds. Out: a `MethodComparison`. Each run trains in a process of its own, so that its memory
can be measured, and leaves a run summary, `METHOD-sSEED.json`, in the output folder; existing ones are not run again.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from lorahub import config as configs
from lorahub.data import claims
from lorahub.errors import ConfigError
from lorahub.experiments import train_process
from lorahub.experiments.methods import result
from lorahub.experiments.methods.result import MethodComparison
from lorahub.experiments.train_process import ExpectedRun
from lorahub.hub import fetch
from lorahub.method_names import METHODS

log = logging.getLogger(__name__)

# The methods that the tutorial compares.
DEFAULT_METHODS = ("full", "lora", "qlora")
_NOT_IN_SETTINGS = ("adapter.method", "train.seed")


def methods(
    recipe: str | Path | None = None,
    *,
    names: Sequence[str] = DEFAULT_METHODS,
    seeds: int = 3,
    data: str | None = None,
    base: str | None = None,
    settings: Sequence[str] = (),
    out: str | Path | None = None,
    keep_runs: bool = True,
    reference: str | None = None,
    margin: float | None = None,
    on_run: Callable[[str, int, int], None] = lambda text, done, total: log.info("%s (%d of %d)", text, done, total),
) -> tuple[Path, MethodComparison]:
    """Train every method with every seed that is not trained yet; return the folder and the comparison.

    `recipe` and `settings` hold for all methods; fields that they do not set come from each method's own recipe. Seeds
    count from the recipe's. `out` is the folder of summaries and runs, by default runs/methods-DATA-BASE; without
    `keep_runs` a run's folder is deleted once its summary is written. The other methods are compared with `reference`,
    by default full, else the first; those that differ by less than
    `margin`, by default eval.margin, are equivalent. Raises ConfigError, DataError or TrainingError.
    """
    _check(names, seeds, settings, reference)
    if margin is not None:
        configs.load(None, [f"eval.margin={margin}"])
    settings = [*configs.flags(data=data, base=base, method=None, seed=None), *settings]
    first_seed = configs.load(recipe, settings).train.seed
    runs = [(name, seed) for seed in range(first_seed, first_seed + seeds) for name in names]
    own = {run: configs.flags(data=None, base=None, method=run[0], seed=run[1]) for run in runs}
    configurations = {run: configs.load(recipe, [*settings, *own[run]]) for run in runs}
    config = configurations[runs[0]]
    folder = Path(out or f"runs/methods-{Path(config.data.id).stem}-{Path(config.base.id).name}")
    train_process.check_folder(folder)
    read = claims.load(config.data, compare=False)
    base_id = fetch.base(config.base.id, revision=config.base.revision).id
    expected = {run: ExpectedRun(config=configurations[run], data=read, base_id=base_id) for run in runs}
    paths = {run: folder / f"{run[0]}-s{run[1]}.json" for run in runs}
    # Summaries of other recipes are refused before the first training starts.
    summaries = {run: train_process.load(path, expected[run]) for run, path in paths.items() if path.exists()}
    for place, run in enumerate(runs):
        if run not in summaries:
            method, seed = run
            on_run(f"{method}, seed {seed}", place, len(runs))
            arguments = [] if recipe is None else [str(recipe)]
            arguments += [part for setting in (*settings, *own[run]) for part in ("--set", setting)]
            summaries[run] = train_process.train(
                paths[run], arguments, expected[run], name=f"{method} with seed {seed}", keep_run=keep_runs
            )
    comparison = result.compare(
        [summaries[run] for run in sorted(runs, key=lambda run: names.index(run[0]))],
        read.splits["test"].gold,
        read.labels.names,
        reference=reference or ("full" if "full" in names else names[0]),
        options=config.eval,
        margin=margin or config.eval.margin,
    )
    return folder, comparison


def _check(names: Sequence[str], seeds: int, settings: Sequence[str], reference: str | None) -> None:
    for name in names:
        if name not in METHODS:
            raise ConfigError(f"--methods takes some of {', '.join(METHODS)}; found {name!r}.")
    if len(names) < 2 or len(set(names)) < len(names):
        raise ConfigError(f"--methods needs two or more different methods; found {', '.join(names) or 'none'}.")
    if seeds < 1:
        raise ConfigError(f"--seeds must be at least 1; found {seeds}.")
    if reference is not None and reference not in names:
        raise ConfigError(f"--reference {reference} is not among the methods: {', '.join(names)}.")
    for setting in settings:
        if setting.partition("=")[0].strip() in _NOT_IN_SETTINGS:
            raise ConfigError(f"--set {setting}: use --methods and --seeds to choose methods and seeds.")
