"""Compare `lorahub estimate` with the memory of trainings: estimate, measurement and ratio of each model and method.

The measurement comes from the record of a fresh process: on a CPU its peak resident size while training, minus its size
before the base is loaded; on a GPU the peak of torch's allocator. Every training is one cell, a JSON file under
benchmarks/results/estimate/; cells that exist are not run again. Estimates are always computed again.

    python benchmarks/estimate.py                  # one to 110 million parameters, on the CPU
    python benchmarks/estimate.py --table          # print the table and run nothing
    python benchmarks/estimate.py --gpu            # 7 billion parameters, on the GPU of this machine
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorahub import atomic

RESULTS = Path(__file__).parent / "results" / "estimate"
# Claims by split, each of base.max_length tokens; three steps, the last with best weights kept from an evaluation.
CLAIMS = {"train": 32, "validation": 64, "test": 8}
SETTINGS = ("train.epochs=3", "train.min_steps=0", "train.evaluate_every=2", "eval.bootstrap=100")


@dataclass(frozen=True, kw_only=True)
class Model:
    """The embedded base if `config` is empty, else one with random weights and MiniLM's tokenizer."""

    name: str
    tokens: int
    config: dict[str, Any] = field(default_factory=dict)

    def base(self, scratch):
        """Return the value of base.id."""
        return scratch / self.name if self.config else self.name

    def full_config(self):
        from transformers import AutoConfig

        return AutoConfig.for_model(**{"vocab_size": 30_522, "pad_token_id": 0, **self.config})

    def describe(self, scratch):
        """Write the files that an estimate needs."""
        if self.config:
            self.full_config().save_pretrained(self.base(scratch))

    def write(self, scratch, device="cpu"):
        """Write the files that a training needs; on a GPU in bfloat16, as large bases are published."""
        import torch
        from transformers import AutoModel, AutoTokenizer

        from lorahub.hub import fetch

        if self.config:
            torch.manual_seed(0)
            with torch.device(device):
                model = AutoModel.from_config(
                    self.full_config(), dtype=torch.float32 if device == "cpu" else torch.bfloat16
                )
            model.save_pretrained(self.base(scratch))
            AutoTokenizer.from_pretrained(fetch.base("minilm").folder).save_pretrained(self.base(scratch))


def llama(**shape):
    return {"model_type": "llama", "max_position_embeddings": 512, **shape}


MODELS = (
    Model(name="minilm", tokens=128),
    Model(name="bert-110m", tokens=64, config={"model_type": "bert"}),
    Model(
        name="llama-108m", tokens=64,
        config=llama(
            hidden_size=768, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=12, num_key_value_heads=4
        ),
    ),
    Model(
        name="distilbert-24m", tokens=96,
        config={"model_type": "distilbert", "dim": 512, "n_layers": 4, "n_heads": 8, "hidden_dim": 1536},
    ),
    Model(
        name="bert-1m", tokens=16,
        config={
            "model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 64,
        },
    ),
)  # fmt: skip
# The shape of Llama 2 7B with its vocabulary size.
ON_GPU = Model(
    name="llama-7b", tokens=256,
    config=llama(
        hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=32,
        vocab_size=32_000,
    ),
)  # fmt: skip


def write_claims(folder):
    """Write starter sentences, joined until they exceed every max_length here, with two alternating labels."""
    from lorahub.config import DataConfig
    from lorahub.data import claims

    texts = claims.load(DataConfig(id="starter-wording"), compare=False).splits["train"].texts
    folder.mkdir()
    for offset, (name, count) in enumerate(CLAIMS.items()):
        rows = []
        for row in range(count):
            first = 100 * offset + 7 * row
            many = " ".join(texts[(first + more) % len(texts)] for more in range(26))
            rows.append({"claim": f"{name} {row}: {many}", "label": "ab"[row % 2]})
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def settings(model, method, scratch):
    return [
        *SETTINGS, f"base.id={model.base(scratch)}", f"base.max_length={model.tokens}", f"adapter.method={method}"
    ]  # fmt: skip


def train(model, method, scratch):
    """Train in a fresh process; return the cell with the memory of its record."""
    out = scratch / f"{model.name}-{method}"
    command = [sys.executable, "-m", "lorahub", "train", "--data", str(scratch / "claims"), "--out", str(out)]
    for item in settings(model, method, scratch):
        command += ["--set", item]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    record = json.loads((out / "record.json").read_text(encoding="utf-8"))
    memory, environment = record["happened"]["memory"], record["environment"]
    on_gpu = memory["gpu_peak_bytes"]
    return {
        "base": model.name,
        "method": method,
        "tokens": model.tokens,
        "measured_bytes": memory["cpu_peak_bytes"] - memory["cpu_before_bytes"] if on_gpu is None else on_gpu,
        "memory": memory,
        "trainable_parameters": record["happened"]["trainable_parameters"],
        "cpu_seconds": record["happened"]["cpu_seconds"],
        "environment": {key: environment[key] for key in ("packages", "python", "device", "threads", "git")},
    }


def estimated_bytes(model, method, scratch, device="cpu"):
    """Return the estimated bytes of a cell."""
    from lorahub.experiments.estimate.run import estimate

    estimated = estimate(methods=[method], devices=[device], settings=settings(model, method, scratch)[:-1])
    return estimated.costs[0].peak_bytes


def run(models, methods, scratch, device):
    """Train every cell that is missing."""
    write_claims(scratch / "claims")
    for model in models:
        missing = [method for method in methods if not path_of(model, method).exists()]
        if missing:
            model.write(scratch, device)
        for method in missing:
            print(f"training {model.name} with {method}", file=sys.stderr)
            RESULTS.mkdir(parents=True, exist_ok=True)
            atomic.write_text(path_of(model, method), json.dumps(train(model, method, scratch), indent=1) + "\n")


def path_of(model, method):
    return RESULTS / f"{model.name}-{method}.json"


def show(models, methods, scratch, device):
    """Print one line per cell."""
    print(f"{'base':16}{'method':8}{'tokens':>7}{'estimate MB':>13}{'measured MB':>13}{'ratio':>7}")
    ratios = []
    for model in models:
        model.describe(scratch)
        for method in methods:
            if path_of(model, method).exists():
                measured = json.loads(path_of(model, method).read_text(encoding="utf-8"))["measured_bytes"]
                estimate = estimated_bytes(model, method, scratch, device)
                ratios.append(estimate / measured)
                print(
                    f"{model.name:16}{method:8}{model.tokens:7}{estimate / 1e6:13,.0f}{measured / 1e6:13,.0f}"
                    f"{ratios[-1]:7.2f}"
                )
    if ratios:
        print(f"Largest error: {max(ratios, key=lambda ratio: abs(ratio - 1)) - 1:+.0%}.")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="Print the table and run nothing.")
    parser.add_argument("--gpu", action="store_true", help="Train the large model on a GPU instead.")
    options = parser.parse_args()
    models = (ON_GPU,) if options.gpu else MODELS
    methods = ("lora", "qlora") if options.gpu else ("full", "lora", "qlora")
    with tempfile.TemporaryDirectory() as folder:
        if not options.table:
            run(models, methods, Path(folder), "cuda" if options.gpu else "cpu")
        show(models, methods, Path(folder), "h100" if options.gpu else "cpu")


if __name__ == "__main__":
    main()
