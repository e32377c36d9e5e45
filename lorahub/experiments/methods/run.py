"""`lorahub methods`: the same data and base under several methods and seeds, and what each method costs.

In: a recipe, methods and seeds. Out: a `MethodTable`. Each run trains in a process of its own, so that its memory is
its own, and leaves one cell, `METHOD-sSEED.json`, in the output folder; cells that are there are not run again.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from lorahub import config as configs
from lorahub.config import METHODS, Config
from lorahub.data import claims
from lorahub.errors import ConfigError
from lorahub.experiments import train_process
from lorahub.experiments.methods import table as methods_table
from lorahub.experiments.methods.table import MethodTable
from lorahub.experiments.run_summary import SPLIT
from lorahub.experiments.train_process import Wanted
from lorahub.hub import fetch

log = logging.getLogger(__name__)

# What the tutorial compares.
DEFAULT = ("full", "lora", "qlora")
_OWN = ("adapter.method", "train.seed")


def methods(
    recipe: str | Path | None = None,
    *,
    names: Sequence[str] = DEFAULT,
    seeds: int = 3,
    data: str | None = None,
    base: str | None = None,
    settings: Sequence[str] = (),
    out: str | Path | None = None,
    keep_runs: bool = True,
    reference: str | None = None,
    on_run: Callable[[str, int, int], None] = lambda text, done, total: log.info("%s (%d of %d)", text, done, total),
) -> tuple[Path, MethodTable]:
    """Train every method with every seed where that is not done yet; return the folder and the table.

    What `recipe` and `settings` say holds for all methods; what they leave open comes from each method's own recipe.
    Seeds count from the recipe's. `out` is the folder of cells and runs, by default runs/methods-DATA-BASE; without
    `keep_runs` a run's folder is deleted once its cell is written. `reference` is the method that the others are
    compared with: by default full, else the first. Raises ConfigError, DataError or TrainingError.
    """
    _check(names, seeds, settings, reference)
    flags = configs.flags(data=data, base=base, method=None, seed=None)
    first = configs.load(recipe, [*flags, *settings]).train.seed
    asked = {
        (name, seed): configs.load(
            recipe, [*flags, *settings, *configs.flags(data=None, base=None, method=name, seed=seed)]
        )
        for seed in range(first, first + seeds)
        for name in names
    }
    config = next(iter(asked.values()))
    folder = Path(out) if out is not None else Path("runs") / _default_name(config)
    train_process.check_folder(folder)
    read = claims.load(config.data, compare=False)
    base_id = fetch.base(config.base.id, revision=config.base.revision).id
    wanted = {key: Wanted(config=item, data=read, base_id=base_id) for key, item in asked.items()}
    paths = {key: folder / f"{key[0]}-s{key[1]}.json" for key in wanted}
    # Cells that do not fit are found before hours are spent on the others.
    cells = {key: train_process.load(path, wanted[key]) for key, path in paths.items() if path.exists()}
    for place, (key, path) in enumerate(paths.items()):
        if key not in cells:
            on_run(f"{key[0]}, seed {key[1]}", place, len(paths))
            arguments = _arguments(recipe, [*flags, *settings], *key)
            name = f"{key[0]} with seed {key[1]}"
            cells[key] = train_process.train(path, arguments, wanted[key], name=name, keep_run=keep_runs)
    table = methods_table.table(
        [cells[name, seed] for name in names for seed in range(first, first + seeds)],
        read.splits[SPLIT].gold,
        read.labels.names,
        reference=reference or ("full" if "full" in names else names[0]),
        metric="f1_macro",
        resamples=config.eval.bootstrap,
        confidence=config.eval.confidence,
    )
    return folder, table


def _check(names: Sequence[str], seeds: int, settings: Sequence[str], reference: str | None) -> None:
    for name in names:
        if name not in METHODS:
            raise ConfigError(f"--methods takes some of {', '.join(METHODS)}; found {name!r}.")
    if len(names) < 2 or len(set(names)) < len(names):
        raise ConfigError(f"--methods needs two or more that differ; found {', '.join(names) or 'none'}.")
    if seeds < 1:
        raise ConfigError(f"--seeds must be at least 1; found {seeds}.")
    if reference is not None and reference not in names:
        raise ConfigError(f"--reference {reference} is none of the compared: {', '.join(names)}.")
    for setting in settings:
        if setting.partition("=")[0].strip() in _OWN:
            raise ConfigError(f"--set {setting}: methods and seeds are chosen with --methods and --seeds.")


def _default_name(config: Config) -> str:
    return f"methods-{Path(config.data.id).stem}-{Path(config.base.id).name}"


def _arguments(recipe: str | Path | None, settings: Sequence[str], name: str, seed: int) -> list[str]:
    """What `lorahub train` is told for one method and seed."""
    own = configs.flags(data=None, base=None, method=name, seed=seed)
    told = [] if recipe is None else [str(recipe)]
    return [*told, *(part for setting in (*settings, *own) for part in ("--set", setting))]
