"""One trained model on its own base, for methods that cannot share one: soft prompts, (IA)3, a full model.

In: a run folder. Out: a `Predictor` with one adapter, computed as peft and transformers compute it.
"""

from collections.abc import Mapping
from concurrent.futures import CancelledError
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from lorahub import runfiles
from lorahub.config import BaseConfig
from lorahub.data.batches import encode
from lorahub.errors import ConfigError
from lorahub.hub import safety
from lorahub.hub.fetch import Located
from lorahub.models import adapters as adapter_files
from lorahub.models import base as bases
from lorahub.models.adapters import AdapterInfo
from lorahub.serving.engine.compatibility import base_config
from lorahub.serving.predictor import Prediction, Predictor, Request, select_names

_ROWS_PER_PASS = 64


class SinglePredictor(Predictor):
    """A run's model under `name`; `base` replaces the base recorded in the run, which a full model does not need.

    Raises BaseModelError and AdapterError.
    """

    def __init__(
        self, located: Located, base: str | None, settings: BaseConfig, *, name: str, token: str | None = None
    ) -> None:
        folder, report = located.folder, safety.local(located.folder)
        safety.refuse(report, folder)
        self._info = adapter_files.read_info(folder, report, name=name)
        full_model = report.layout is runfiles.FULL_MODEL
        if full_model:
            config = replace(settings, id=str(folder), revision=None)
        else:
            config = base_config(base, located, self._info, settings)
        self._base = bases.load(config, self._info.labels, token=token)
        if full_model:
            self._model: nn.Module = self._base.model
            self._base.truncate_at(self._info.max_length or self._base.max_length, "as in training")
        else:
            self._model = adapter_files.load_with_peft(folder, self._base)

    @property
    def adapters(self) -> Mapping[str, AdapterInfo]:
        """The one adapter by its name."""
        return {self._info.name: self._info}

    @property
    def base_revision(self) -> str | None:
        """The commit of the base on the Hub; None for a folder and for a full model."""
        return self._base.resolved.revision

    @property
    def precision(self) -> str:
        """The name of the dtype in which the base computes."""
        return self._base.precision

    def compute(self, request: Request) -> dict[str, Prediction]:
        """Return the adapter's logits; texts are processed from the longest to the shortest."""
        base, info = self._base, self._info
        names = select_names(request.adapters, self.adapters)
        if request.strength != 1:
            raise ConfigError(f"{info.name} has no scalable LoRA update, but strength is {request.strength}. Use 1.")
        evidence = request.evidence_for(info.name, info)
        encoded = encode(base.tokenizer, request.texts, evidence, max_length=base.max_length)
        items = encoded.items
        order = sorted(range(len(items)), key=lambda row: -len(items[row]["input_ids"]))
        logits = np.zeros((len(items), len(info.labels)), np.float32)
        for start in range(0, len(order), _ROWS_PER_PASS):
            if request.stop is not None and request.stop.is_set():
                raise CancelledError("the request was cancelled")
            rows = order[start : start + _ROWS_PER_PASS]
            batch = base.tokenizer.pad([items[row] for row in rows], return_tensors="pt").to(base.device)
            with torch.inference_mode():
                logits[rows] = self._model(**batch).logits.float().cpu().numpy()
        prediction = Prediction(
            logits=logits, labels=info.labels, calibration=info.calibration, truncated=encoded.truncated
        )
        return dict.fromkeys(names, prediction)
