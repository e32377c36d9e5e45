"""Every architecture with a sequence-classification class: does a tiny base train, reload and serve?

`python benchmarks/bases.py [ARCHITECTURE...]` updates lorahub/models/tested_bases.json, which `lorahub bases` shows.
"""

import json
import logging
import re
import sys
import tempfile
import warnings
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import tiny_bases  # noqa: E402

from lorahub.config import AdapterConfig, BaseConfig  # noqa: E402
from lorahub.data.batches import encode  # noqa: E402
from lorahub.errors import LorahubError, one_line  # noqa: E402
from lorahub.labels import LabelSet  # noqa: E402
from lorahub.models import adapters, methods  # noqa: E402
from lorahub.models import base as bases  # noqa: E402
from lorahub.serving.engine.engine import Engine  # noqa: E402

WRITTEN = ROOT / "lorahub" / "models" / "tested_bases.json"
LABELS = LabelSet(("a", "b", "c"))
TEXTS = ["the vaccine causes the flu", "every </s> tax", "never the water of the school bus in the city !", "doctors"]
STEPS = 2


def loaded(folder):
    return bases.load(BaseConfig(id=str(folder), max_length=48), LABELS)


def logits(base, model):
    batch = encode(base.tokenizer, TEXTS, None, max_length=base.max_length).items
    return model(**base.tokenizer.pad(batch, return_tensors="pt")).logits


def attempt(model_type, folder):
    """Return the status of an architecture, and the reason unless it trains."""
    try:
        tiny_bases.make(model_type, folder / "base")
    except Exception as error:  # of any library that the architecture needs
        return "not made", one_line(error)
    try:
        base = loaded(folder / "base")
        settings = AdapterConfig()
        methods.check(base, settings)
        model = methods.attach(base, settings)
        optimizer = torch.optim.AdamW([item for item in model.parameters() if item.requires_grad], lr=1e-2)
        for _ in range(STEPS):
            torch.nn.functional.cross_entropy(logits(base, model.train()), torch.tensor([0, 1, 2, 0])).backward()
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            trained = logits(base, model.eval())
            adapters.save(model, folder / "run", base, LABELS)
            again = loaded(folder / "base")
            reloaded = logits(again, adapters.load_with_peft(folder / "run", again))
        served = torch.from_numpy(Engine(str(folder / "base"), [folder / "run"]).logits(TEXTS)["run"])
    except LorahubError as error:
        return "refused", str(error).replace(str(folder), "FOLDER")
    except Exception as error:  # a gap of lorahub's
        return "fails", f"{type(error).__name__}: {one_line(error)}"
    spread = float(trained.max(0).values.sub(trained.min(0).values).max())
    for what, other in (("reloaded", reloaded), ("served", served)):
        difference = float((trained - other).abs().max())
        if not difference <= 0.02 * spread:
            return "fails", f"{what} logits are off by {difference:.2g}, the spread is {spread:.2g}"
    return "trains", ""


def row(model_type, status, reason):
    """Return one row of the table; a tiny model that does not run by itself is no test of its architecture."""
    reason = re.sub(r"^(the base base \(\S+\) cannot be trained on claims|peft cannot adapt base): ", "", reason)
    reason = re.split(r"\.? Choose|, and adapters with", re.sub(r"^base has", "the base has", reason))[0]
    if status == "not made":
        status, reason = "not tested", f"no tiny model was made: {reason}"
    elif re.search("size of tensor|mat1|tuple|learned nothing", reason):
        status, reason = "not tested", f"its tiny model does not run or learn: {reason}"
    return {"architecture": model_type, "status": status, "reason": reason[:110].strip()}


def main():
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    rows = {item["architecture"]: item for item in json.loads(WRITTEN.read_text(encoding="utf-8"))}
    for model_type in sys.argv[1:] or tiny_bases.REGISTERED:
        with tempfile.TemporaryDirectory() as folder:
            status, reason = attempt(model_type, Path(folder))
        print(f"{model_type:24} {status:9} {reason[:150]}", flush=True)
        rows[model_type] = row(model_type, status, reason)
        WRITTEN.write_text(json.dumps([rows[name] for name in sorted(rows)], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
