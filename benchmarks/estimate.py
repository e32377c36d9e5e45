"""`lorahub estimate` against the memory that trainings take: estimate, measured and ratio, model by model.

Measured is what the record says of a fresh process: its peak resident size while it trains, less its size before the
base is loaded. Every training is one cell, a JSON under benchmarks/results/estimate/, written when it ends; cells that
exist are not run again. Estimates are made anew. The models are the embedded MiniLM and two of more than 100 million
parameters, built from configs with random weights; two small ones, which are not judged, give the constants of
`training/heap.py`.

    python benchmarks/estimate.py                  # run what is missing (about ten minutes of processor time), print
    python benchmarks/estimate.py --table          # only print
    python benchmarks/estimate.py --constants      # what the small models say about the constants
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from lorahub import atomic

RESULTS = Path(__file__).parent / "results" / "estimate"
METHODS = ("full", "lora", "qlora")
# Claims by split, each as long as base.max_length allows; three steps, of which the last finds best weights there.
CLAIMS = {"train": 32, "validation": 64, "test": 8}
SETTINGS = ("train.epochs=3", "train.min_steps=0", "train.evaluate_every=2", "eval.bootstrap=100")
_WORDS = 30_522  # of MiniLM's tokenizer, which every model here has
# name -> (tokens, config), or None for the embedded base.
JUDGED = {
    "minilm": (128, None),
    "bert-110m": (64, {"model_type": "bert"}),
    "llama-108m": (
        64,
        {
            "model_type": "llama", "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12,
            "num_attention_heads": 12, "num_key_value_heads": 4, "max_position_embeddings": 512,
        },
    ),
}  # fmt: skip
SMALL = {
    "distilbert-24m": (
        96, {"model_type": "distilbert", "dim": 512, "n_layers": 4, "n_heads": 8, "hidden_dim": 1536}
    ),
    "qwen2-18m": (
        96,
        {
            "model_type": "qwen2", "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 5,
            "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 512,
        },
    ),
    "bert-1m": (16, {
        "model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 64,
    }),
}  # fmt: skip


def write_base(name, folder):
    """Save a model of the config with random weights, and MiniLM's tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    from lorahub.hub import fetch

    shape = {"vocab_size": _WORDS, **{**JUDGED, **SMALL}[name][1]}
    torch.manual_seed(0)
    AutoModel.from_config(AutoConfig.for_model(**shape)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(fetch.base("minilm").folder).save_pretrained(folder)


def write_claims(folder):
    """Starter sentences, joined until they are longer than any max_length here, with two labels in turn."""
    from lorahub.config import DataConfig
    from lorahub.data import claims

    texts = claims.load(DataConfig(id="starter-wording"), compare=False).splits["train"].texts
    folder.mkdir()
    for offset, (name, count) in enumerate(CLAIMS.items()):
        rows = []
        for row in range(count):
            first = 100 * offset + 7 * row
            many = " ".join(texts[(first + more) % len(texts)] for more in range(14))
            rows.append({"claim": f"{name} {row}: {many}", "label": "ab"[row % 2]})
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def settings(base, tokens, method):
    return [*SETTINGS, f"base.id={base}", f"base.max_length={tokens}", f"adapter.method={method}"]


def run_cell(name, method, base, data, scratch):
    """Train in a fresh process and keep what its record says of memory."""
    tokens = {**JUDGED, **SMALL}[name][0]
    out = scratch / f"{name}-{method}"
    command = [sys.executable, "-m", "lorahub", "train", "--data", str(data), "--out", str(out)]
    for item in settings(base, tokens, method):
        command += ["--set", item]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    record = json.loads((out / "record.json").read_text(encoding="utf-8"))
    memory, environment = record["happened"]["memory"], record["environment"]
    cell = {
        "base": name,
        "method": method,
        "tokens": tokens,
        "measured_bytes": memory["cpu_peak_bytes"] - memory["cpu_before_bytes"],
        "memory": memory,
        "trainable_parameters": record["happened"]["trainable_parameters"],
        "cpu_seconds": record["happened"]["cpu_seconds"],
        "environment": {key: environment[key] for key in ("packages", "python", "device", "threads", "git")},
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    atomic.write_text(RESULTS / f"{name}-{method}.json", json.dumps(cell, indent=1) + "\n")


def estimated(name, method, base):
    """The estimate of a cell on this machine's processor."""
    from lorahub.experiments.estimate import estimate

    tokens = {**JUDGED, **SMALL}[name][0]
    found = estimate(base=str(base), names=[method], devices=["cpu"], settings=settings(base, tokens, method)[:-1])
    return found.costs[0]


def configs_only(scratch):
    """name -> what `lorahub estimate` needs of each base: a config.json."""
    from transformers import AutoConfig

    found = {}
    for name, (_, shape) in {**JUDGED, **SMALL}.items():
        if shape is None:
            found[name] = name
            continue
        found[name] = scratch / "configs" / name
        AutoConfig.for_model(vocab_size=_WORDS, pad_token_id=0, **shape).save_pretrained(found[name])
    return found


def run(names, scratch):
    """Train every cell that is missing."""
    missing = [(name, method) for name in names for method in METHODS if not path_of(name, method).exists()]
    if not missing:
        return
    data = scratch / "claims"
    write_claims(data)
    for name, method in missing:
        base = name
        if name != "minilm":
            base = scratch / name
            if not base.exists():
                write_base(name, base)
        print(f"training {name} with {method}", file=sys.stderr)
        run_cell(name, method, base, data, scratch)


def path_of(name, method):
    return RESULTS / f"{name}-{method}.json"


def show(names, bases):
    """Print one line a cell; return the ratios."""
    print(f"{'base':16}{'method':8}{'tokens':>7}{'estimate MB':>13}{'measured MB':>13}{'ratio':>7}")
    ratios = []
    for name in names:
        for method in METHODS:
            if path_of(name, method).exists():
                cell = json.loads(path_of(name, method).read_text(encoding="utf-8"))
                found = estimated(name, method, bases[name]).peak_bytes
                ratios.append(found / cell["measured_bytes"])
                print(
                    f"{name:16}{method:8}{cell['tokens']:7}{found / 1e6:13,.0f}{cell['measured_bytes'] / 1e6:13,.0f}"
                    f"{ratios[-1]:7.2f}"
                )
    return ratios


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="Run nothing.")
    parser.add_argument("--constants", action="store_true", help="The small models instead.")
    asked = parser.parse_args()
    names = list(SMALL if asked.constants else JUDGED)
    with tempfile.TemporaryDirectory() as folder:
        if not asked.table:
            run(names, Path(folder))
        ratios = show(names, configs_only(Path(folder)))
    print(f"mean ratio {statistics.mean(ratios):.2f}, farthest {max(ratios, key=lambda ratio: abs(ratio - 1)):.2f}")


if __name__ == "__main__":
    main()
