"""Open run folders of any method as predictors.

In: adapters as a user names them. Out: `Predictor`s: one `Engine` for all adapters that can share a base, and a
`SinglePredictor` for each of the others.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lorahub.config import BaseConfig
from lorahub.hub import fetch, safety
from lorahub.hub.fetch import Located
from lorahub.models import adapters as adapter_files
from lorahub.models.adapters import AdapterInfo
from lorahub.runfiles import free_name
from lorahub.serving.engine.engine import Engine
from lorahub.serving.predictor import Prediction, Predictor, Request, select_names
from lorahub.serving.single import SinglePredictor

log = logging.getLogger(__name__)


def open_predictors(
    adapters: Sequence[str | Path | Located],
    base: str | None = None,
    *,
    settings: BaseConfig | None = None,
    token: str | None = None,
) -> list[Engine | SinglePredictor]:
    """Open adapters of any method; a warning names each one that needs its own base.

    `base` replaces the recorded base. Repeated names are numbered. Raises BaseModelError and AdapterError.
    """
    settings = settings or BaseConfig()
    located = [fetch.adapter(item, token=token) for item in adapters]
    contents = [adapter_files.needs_own_base(safety.local(item.folder)) for item in located]
    shared = [item for item, content in zip(located, contents, strict=True) if content is None]
    predictors: list[Engine | SinglePredictor] = [Engine(base, shared, config=settings, token=token)] if shared else []
    for item, content in zip(located, contents, strict=True):
        if content is not None:
            name = free_name(item.name, [name for predictor in predictors for name in predictor.names])
            if len(located) > 1:
                log.warning("%s holds %s and cannot share a base: it runs separately, on its own base", name, content)
            predictors.append(SinglePredictor(item, base, settings, name=name, token=token))
    return predictors


class MixedPredictor(Predictor):
    """Several predictors as one; the adapters of each are computed in turn."""

    def __init__(self, predictors: Sequence[Predictor]) -> None:
        self._predictors = predictors

    @property
    def adapters(self) -> Mapping[str, AdapterInfo]:
        """The adapters of all predictors."""
        return {name: adapter for predictor in self._predictors for name, adapter in predictor.adapters.items()}

    @property
    def base_revision(self) -> str | None:
        """The commit of the base if all predictors share it, else None."""
        revisions = {predictor.base_revision for predictor in self._predictors}
        return revisions.pop() if len(revisions) == 1 else None

    def compute(self, request: Request) -> dict[str, Prediction]:
        """Return the predictions of all requested adapters, in the order of the request."""
        names = select_names(request.adapters, self.names)
        predictions: dict[str, Prediction] = {}
        for predictor in self._predictors:
            own = [name for name in predictor.names if name in names]
            if own:
                predictions |= predictor.compute(replace(request, adapters=own))
        return {name: predictions[name] for name in names}
