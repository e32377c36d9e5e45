"""K adapters on N claims: lorahub's one pass against peft's two ways, and against the floor, the base alone.

All four compute the same rows with the same attention, dtype and number of threads, in inference mode; before the
timing, the logits of lorahub and peft are compared. The floor has the engine's own batches, padded to the same lengths
(on a GPU the engine pads short passes a little further, and replays those that repeat). peft's two ways are faster with
larger batches (`--peer-tokens`), so they get them; one by one each adapter has its own batch. lorahub starts from
texts, the others from token ids.

With `--last N`, adapters on the last N layers (adapter.layers=last:N) are compared with adapters on all layers and with
the floor, both in lorahub.

Every round has different texts; the systems take turns within a round, and their order rotates from round to round. A
time is the median over the rounds, with the quartiles; a ratio is the median of the rounds' ratios. CPU time is printed
with wall time: it is the figure to read on a machine with other load.

    python benchmarks/side_by_side.py                              # MiniLM on the CPU, every K and N
    python benchmarks/side_by_side.py --adapters 8 --claims 1,16
    python benchmarks/side_by_side.py --adapters 8 --claims 1,16 --whole-last-layer
    python benchmarks/side_by_side.py --last 2 --adapters 8,32 --claims 1,16
    python benchmarks/side_by_side.py --shape 7b --dtype bfloat16  # random weights of Mistral's shape, for a GPU
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import textwrap
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from peft import PeftModel

from lorahub import atomic
from lorahub.config import AdapterConfig, BaseConfig, DataConfig
from lorahub.data import claims
from lorahub.data.batches import encode
from lorahub.labels import LabelSet
from lorahub.models import adapters, methods
from lorahub.models import base as bases
from lorahub.reports import tables
from lorahub.serving.engine import first_token
from lorahub.serving.engine.engine import Engine
from lorahub.serving.engine.scheduler import Job, Scheduler

RESULTS = Path(__file__).parent / "results"
LABELS = LabelSet(("false", "mixture", "true", "unproven"))
SYSTEMS = ("lorahub", "floor", "mixed batch", "one by one")
LAST = ("lorahub", "floor", "last layers")
MAX_LENGTH = 128
# Mistral-7B-v0.3.
SEVEN = {
    "vocab_size": 32768,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}


def make_adapters(root, config, count, layers="all"):
    """Write random LoRA adapters on all linear layers, rank 8, with updates of the size of the weights."""
    base = bases.load(config, LABELS)
    model = methods.attach(base, AdapterConfig(rank=8, alpha=16.0, targets=("all-linear",), layers=layers))
    std = base.model.config.hidden_size**-0.5
    folders = []
    for seed in range(count):
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.normal_(std=std)
        folders.append(root / f"{layers.replace(':', '-')}-{seed}")
        adapters.save(model, folders[-1], base, LABELS)
    return folders


def seven_billion(root, layers=None):
    """Write a base of Mistral-7B's shape with random weights, and MiniLM's tokenizer."""
    from transformers import AutoModel, AutoTokenizer, MistralConfig

    from lorahub.hub import fetch

    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModel.from_config(
            MistralConfig(**{**SEVEN, "num_hidden_layers": layers or SEVEN["num_hidden_layers"]}, pad_token_id=0)
        )
    torch.set_default_dtype(torch.float32)
    folder = root / "mistral-7b-shape"
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(fetch.base("minilm").folder).save_pretrained(folder)
    return folder


class Peers:
    """The base alone, and peft's model with every adapter loaded."""

    def __init__(self, config, folders):
        base = bases.load(config, LABELS)
        self.tokenizer, self.device, self.plain = base.tokenizer, base.device, base.model
        tuned = bases.load(config, LABELS)
        self.peft = PeftModel.from_pretrained(tuned.model, folders[0], adapter_name=folders[0].name)
        for folder in folders[1:]:
            self.peft.load_adapter(folder, folder.name)
        self.peft.eval()

    def batches(self, texts, copies, tokens):
        """Return the engine's batches of these texts, each text once, with this number of tokens per pass."""
        batches = []

        def keep(slices):
            (part,) = slices
            items = [part.job.items[place] for place in part.places]
            batches.append(self.tokenizer.pad(items, return_tensors="pt").to(self.device))
            return [torch.zeros(len(items), 1).numpy()]

        items = encode(self.tokenizer, texts, None, max_length=MAX_LENGTH).items
        Scheduler(keep, tokens=tokens, most=1).run([Job(items=items, adapters=range(copies))])
        return batches

    @torch.inference_mode()
    def floor(self, batches, names):
        """The base alone on every row: logits (K x N, C) per batch."""
        return [self.plain(**_repeated(batch, len(names))).logits.float().cpu() for batch in batches]

    @torch.inference_mode()
    def mixed(self, batches, names):
        """Every row with the name of its adapter: logits (K x N, C) per batch."""
        outputs = []
        for batch in batches:
            rows = [name for name in names for _ in range(len(batch["input_ids"]))]
            outputs.append(self.peft(**_repeated(batch, len(names)), adapter_names=rows).logits.float().cpu())
        return outputs

    @torch.inference_mode()
    def one_by_one(self, batches, names):
        """One active adapter after the other: logits (N, C) per adapter and batch."""
        outputs = []
        for name in names:
            self.peft.set_adapter(name, inference_mode=True)
            outputs += [self.peft(**batch).logits.float().cpu() for batch in batches]
        return outputs


def _repeated(batch, copies):
    return {key: value.repeat(copies, 1) for key, value in batch.items()}


def differences(engine, peers, names, texts):
    """Return the largest difference between the logits of lorahub and peft, and between peft's two ways."""
    items = encode(peers.tokenizer, texts, None, max_length=MAX_LENGTH).items
    batches = [peers.tokenizer.pad(items, return_tensors="pt").to(peers.device)]
    logits = engine.logits(texts, names)
    ours = torch.cat([torch.from_numpy(logits[name]) for name in names])
    theirs = [torch.cat(way(batches, names)) for way in (peers.mixed, peers.one_by_one)]
    return max((ours - other).abs().max().item() for other in theirs), (theirs[0] - theirs[1]).abs().max().item()


def measure(engine, peers, names, last, texts, *, rounds, seconds, peer_tokens):
    """Return system -> (wall, CPU) seconds per round; `texts` yields the texts of each round.

    `last` are names of adapters on the last layers; without them lorahub is compared with peft.
    """
    systems = LAST if last else SYSTEMS
    times = {system: [] for system in systems}
    started = time.perf_counter()
    while len(times["lorahub"]) < rounds or time.perf_counter() - started < seconds:
        some = next(texts)
        same = peers.batches(some, len(names), engine.tokens_per_pass)
        larger, alone = peers.batches(some, len(names), peer_tokens), peers.batches(some, 1, peer_tokens)
        runs = {
            "lorahub": partial(engine.logits, some, names),
            "floor": partial(peers.floor, same, names),
            "last layers": partial(engine.logits, some, last),
            "mixed batch": partial(peers.mixed, larger, names),
            "one by one": partial(peers.one_by_one, alone, names),
        }
        first = len(times["lorahub"]) % len(systems)
        for system in (*systems[first:], *systems[:first]):
            wall, cpu = time.perf_counter(), time.process_time()
            runs[system]()
            times[system].append((time.perf_counter() - wall, time.process_time() - cpu))
    # The first round of a size includes the allocation of memory.
    return {system: pairs[1:] for system, pairs in times.items()}


def cell(k, n, times):
    """Return the figures of one K and N: milliseconds, and ratios to lorahub and the floor in the same round."""
    figures = {"adapters": k, "claims": n, "rounds": len(times["lorahub"]), "systems": {}}
    for system, pairs in times.items():
        block = {}
        for place, clock in enumerate(("wall", "cpu")):
            own = [pair[place] for pair in pairs]
            low, middle, high = statistics.quantiles(own, n=4) if len(own) > 1 else own * 3
            block[clock] = {
                "ms": [round(1000 * value, 2) for value in (low, middle, high)],
                "to_floor": _ratio(own, [pair[place] for pair in times["floor"]]),
                "to_lorahub": _ratio(own, [pair[place] for pair in times["lorahub"]]),
            }
        figures["systems"][system] = block
    return figures


def _ratio(ours, theirs):
    """Return the quartiles of the rounds' ratios."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return [round(value, 3) for value in (statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3)]


# Columns of ratios: header, system and divisor.
RATIOS = {
    SYSTEMS: (
        ("lorahub / floor", "lorahub", "to_floor"),
        ("mixed / lorahub", "mixed batch", "to_lorahub"),
        ("one by one / lorahub", "one by one", "to_lorahub"),
    ),
    LAST: (
        ("lorahub / floor", "lorahub", "to_floor"),
        ("last layers / floor", "last layers", "to_floor"),
        ("last layers / lorahub", "last layers", "to_lorahub"),
    ),
}


def table(cells):
    """Return the Markdown table of the cells, two rows per cell."""
    systems = tuple(cells[0]["systems"])
    header = ("K", "N", "clock", *(f"{system}, ms" for system in systems), *(name for name, _, _ in RATIOS[systems]))
    lines = [
        (
            str(item["adapters"]),
            str(item["claims"]),
            clock,
            *("{1:.0f} ({0:.0f}–{2:.0f})".format(*item["systems"][system][clock]["ms"]) for system in systems),
            *(
                "{1:.2f} ({0:.2f}–{2:.2f})".format(*item["systems"][system][clock][divisor])
                for _, system, divisor in RATIOS[systems]
            ),
            str(item["rounds"]),
        )
        for item in cells
        for clock in ("wall", "cpu")
    ]
    return tables.markdown((*header, "rounds"), lines)


def texts_of(n):
    """Yield lists of n different claims of the starter data, without end."""
    every = claims.load(DataConfig(id="starter-checkable")).splits.values()
    known = list(dict.fromkeys(text for part in every for text in part.texts))
    place = 0
    while True:
        yield [known[(place + step) % len(known)] for step in range(n)]
        place += n


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", default="1,2,4,8,16,32", help="Values of K.")
    parser.add_argument("--claims", default="1,16,64", help="Values of N.")
    parser.add_argument("--last", type=int, help="Compare with adapters on this number of last layers.")
    parser.add_argument("--rounds", type=int, default=6, help="Minimum rounds of a cell; the first is not counted.")
    parser.add_argument("--seconds", type=float, default=10, help="Minimum seconds of a cell.")
    parser.add_argument("--threads", type=int, default=1, help="Threads of torch.")
    parser.add_argument("--peer-tokens", type=int, help="Tokens of a pass of peft; default: twice the engine's.")
    parser.add_argument(
        "--whole-last-layer", action="store_true", help="Compute the engine's last layer for every token."
    )
    parser.add_argument("--base", default="minilm", help="Hub id or folder of the base.")
    parser.add_argument("--shape", choices=("7b",), help="Random weights of this shape instead of a base.")
    parser.add_argument("--layers", type=int, help="Number of layers of that shape.")
    parser.add_argument("--dtype", default="float32", help="float32 or bfloat16.")
    parser.add_argument("--quantize", default="none", help="none or nf4.")
    parser.add_argument("--out", default="side-by-side", help="Name of the files under benchmarks/results.")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    ks, ns = ([int(part) for part in text.split(",")] for text in (asked.adapters, asked.claims))
    cells = []
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        base = str(seven_billion(root, asked.layers)) if asked.shape else asked.base
        config = BaseConfig(id=base, dtype=asked.dtype, quantize=asked.quantize, max_length=MAX_LENGTH)
        folders = make_adapters(root, config, max(ks))
        last = make_adapters(root, config, max(ks), f"last:{asked.last}") if asked.last else []
        if asked.whole_last_layer:
            first_token.wrap = lambda model: None
        engine, peers = Engine(base, [*folders, *last], config=config), Peers(config, last or folders)
        peer_tokens = asked.peer_tokens or 2 * engine.tokens_per_pass
        print(f"{engine.base_id}, {asked.dtype}, quantize {asked.quantize}, {engine.device}, {asked.threads} threads")
        names, some = [folder.name for folder in last or folders], next(texts_of(16))
        if engine.device != "cpu":
            for _ in range(5):  # repeated passes are replayed on a GPU, and the replay is compared
                engine.logits(some[:1], names)
        pairs = [differences(engine, peers, names, part) for part in (some[:1], some)]
        difference, own = map(max, zip(*pairs, strict=True))
        print(f"greatest difference between logits: lorahub's and peft's {difference:.1e}, peft's two ways {own:.1e}")
        # Below float32 the order of additions makes peft's ways differ too.
        if difference > (1e-4 if (asked.dtype, asked.quantize) == ("float32", "none") else max(0.1, 2 * own)):
            raise SystemExit("the logits differ; times would mean nothing")
        for n in ns:
            texts = texts_of(n)
            for k in ks:
                names, of_last = ([folder.name for folder in some[:k]] for some in (folders, last))
                times = measure(
                    engine,
                    peers,
                    names,
                    of_last,
                    texts,
                    rounds=asked.rounds,
                    seconds=asked.seconds,
                    peer_tokens=peer_tokens,
                )
                cells.append(cell(k, n, times))
                keep(
                    asked.out,
                    {
                        "asked": vars(asked),
                        "environment": environment(),
                        "differ": difference,
                        "peers_differ": own,
                        "cells": cells,
                    },
                )
                print(table(cells[-1:]), flush=True)
    print(table(cells))


def keep(name, found):
    """Write the figures as JSON and as Markdown (docs/engine.md)."""
    asked, where = found["asked"], found["environment"]
    model = asked["base"]
    if asked["shape"]:
        model = f"a base of the shape {asked['shape']}" + (f", {asked['layers']} layers" if asked.get("layers") else "")
    last = f" Last layers: adapter.layers=last:{asked['last']}." if asked["last"] else ""
    packages = ", ".join(f"{package} {number}" for package, number in where["packages"].items())
    about = (
        f"{model}, {asked['dtype']}, quantize {asked['quantize']}, {asked['threads']} thread(s) on {where['device']}; "
        f"{packages}.{last} Greatest difference between the logits of lorahub and of peft: {found['differ']:.1e}."
    )
    atomic.write_text(RESULTS / f"{name}.json", json.dumps(found, indent=1) + "\n")
    atomic.write_text(RESULTS / f"{name}.md", f"{textwrap.fill(about, 100)}\n\n{table(found['cells'])}\n")


def environment():
    """Return the device and the package versions."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    packages = {name: version(name) for name in ("torch", "transformers", "peft")}
    return {"device": device, "processors": os.cpu_count(), "packages": packages}


def _processor():
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.processor()


if __name__ == "__main__":
    main()
