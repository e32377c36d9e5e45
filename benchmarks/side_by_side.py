"""K adapters on N claims: lorahub's one pass against peft's two ways, and against the floor, the base alone.

All four answer the same rows with the same attention, dtype and number of threads, in inference mode; before anything
is timed, lorahub's and peft's logits are held against each other. The floor has the engine's own batches, padded to the
same lengths (on a GPU the engine pads short passes a little further, and replays those that come again). peft's two
ways are faster with larger ones (`--peer-tokens`), so they get them; one by one an adapter has a batch to itself.
lorahub is given texts, the others token ids.

Every round takes other texts; the systems take turns within a round, and their order changes from round to round. A
time is the median over the rounds, with the quartiles; a ratio is the median of the rounds' own ratios. CPU time is
printed beside wall time: on a machine that has other work it is the one to look at.

    python benchmarks/side_by_side.py                              # MiniLM on the CPU, every K and N
    python benchmarks/side_by_side.py --adapters 8 --claims 1,16
    python benchmarks/side_by_side.py --adapters 8 --claims 1,16 --whole-last-layer
    python benchmarks/side_by_side.py --shape 7b --dtype bfloat16  # random weights of Mistral's shape, for a GPU
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
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


def make_adapters(root, config, count):
    """Folders of random LoRA adapters on all linear layers, rank 8, whose updates are of the size of the weights."""
    base = bases.load(config, LABELS)
    model = methods.attach(base, AdapterConfig(rank=8, alpha=16.0, targets=("all-linear",)))
    std = base.model.config.hidden_size**-0.5
    folders = []
    for seed in range(count):
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.normal_(std=std)
        folders.append(root / f"adapter-{seed}")
        adapters.save(model, folders[-1], base, LABELS)
    return folders


def seven_billion(root, layers=None):
    """A base of Mistral-7B's shape with random weights, and MiniLM's tokenizer: its words are what they are."""
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
        """The batches that the engine makes of these texts, each text once, where it has so many tokens a pass."""
        found = []

        def keep(slices):
            (part,) = slices
            items = [part.job.items[place] for place in part.places]
            found.append(self.tokenizer.pad(items, return_tensors="pt").to(self.device))
            return [torch.zeros(len(items), 1).numpy()]

        items = encode(self.tokenizer, texts, None, max_length=MAX_LENGTH)
        Scheduler(keep, tokens=tokens, most=1).run([Job(items=items, adapters=range(copies))])
        return found

    @torch.inference_mode()
    def floor(self, batches, names):
        """The base alone on every row: a batch's logits (K x N, C)."""
        return [self.plain(**_repeated(batch, len(names))).logits.float().cpu() for batch in batches]

    @torch.inference_mode()
    def mixed(self, batches, names):
        """Every row with the name of its adapter: a batch's logits (K x N, C)."""
        found = []
        for batch in batches:
            rows = [name for name in names for _ in range(len(batch["input_ids"]))]
            found.append(self.peft(**_repeated(batch, len(names)), adapter_names=rows).logits.float().cpu())
        return found

    @torch.inference_mode()
    def one_by_one(self, batches, names):
        """One adapter active, then the next: for each a batch's logits (N, C)."""
        found = []
        for name in names:
            self.peft.set_adapter(name, inference_mode=True)
            found += [self.peft(**batch).logits.float().cpu() for batch in batches]
        return found


def _repeated(batch, copies):
    return {key: value.repeat(copies, 1) for key, value in batch.items()}


def differences(engine, peers, names, texts):
    """The greatest differences between logits: of lorahub's and peft's, in both ways, and of peft's two."""
    items = encode(peers.tokenizer, texts, None, max_length=MAX_LENGTH)
    batches = [peers.tokenizer.pad(items, return_tensors="pt").to(peers.device)]
    found = engine.logits(texts, names)
    ours = torch.cat([torch.from_numpy(found[name]) for name in names])
    theirs = [torch.cat(way(batches, names)) for way in (peers.mixed, peers.one_by_one)]
    return max((ours - logits).abs().max().item() for logits in theirs), (theirs[0] - theirs[1]).abs().max().item()


def measure(engine, peers, names, texts, *, rounds, seconds, peer_tokens):
    """System -> its (wall, CPU) seconds, a pair a round; `texts` gives the next round's texts."""
    found = {system: [] for system in SYSTEMS}
    began = time.perf_counter()
    while len(found["lorahub"]) < rounds or time.perf_counter() - began < seconds:
        some = next(texts)
        same = peers.batches(some, len(names), engine.tokens_per_pass)
        larger, alone = peers.batches(some, len(names), peer_tokens), peers.batches(some, 1, peer_tokens)
        runs = {
            "lorahub": partial(engine.logits, some, names),
            "floor": partial(peers.floor, same, names),
            "mixed batch": partial(peers.mixed, larger, names),
            "one by one": partial(peers.one_by_one, alone, names),
        }
        first = len(found["lorahub"]) % len(SYSTEMS)
        for system in (*SYSTEMS[first:], *SYSTEMS[:first]):
            wall, cpu = time.perf_counter(), time.process_time()
            runs[system]()
            found[system].append((time.perf_counter() - wall, time.process_time() - cpu))
    # The first round of a size pays for memory that later ones find.
    return {system: times[1:] for system, times in found.items()}


def cell(k, n, times):
    """The figures of one K and N: milliseconds, and ratios to lorahub's and to the floor's own round."""
    found = {"adapters": k, "claims": n, "rounds": len(times["lorahub"]), "systems": {}}
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
        found["systems"][system] = block
    return found


def _ratio(ours, theirs):
    return round(statistics.median(a / b for a, b in zip(ours, theirs, strict=True)), 3)


def rows(cells):
    """The table, a line a cell."""
    for item in cells:
        for clock in ("wall", "cpu"):
            systems = {system: block[clock] for system, block in item["systems"].items()}
            yield (
                str(item["adapters"]),
                str(item["claims"]),
                clock,
                *("{1:.0f} ({0:.0f}–{2:.0f})".format(*systems[system]["ms"]) for system in SYSTEMS),
                f"{systems['lorahub']['to_floor']:.2f}",
                f"{systems['mixed batch']['to_lorahub']:.2f}",
                f"{systems['one by one']['to_lorahub']:.2f}",
                str(item["rounds"]),
            )


HEADER = ("K", "N", "clock", *(f"{system}, ms" for system in SYSTEMS), "lorahub / floor", "mixed / lorahub",
          "one by one / lorahub", "rounds")  # fmt: skip


def texts_of(n):
    """Endless lists of n different claims, shipped with the package."""
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
    parser.add_argument("--rounds", type=int, default=6, help="Fewest rounds of a cell; the first is not counted.")
    parser.add_argument("--seconds", type=float, default=10, help="A cell goes on for at least so long.")
    parser.add_argument("--threads", type=int, default=1, help="Threads of torch.")
    parser.add_argument("--peer-tokens", type=int, help="Tokens of a pass of peft; left out, twice the engine's.")
    parser.add_argument("--whole-last-layer", action="store_true", help="The engine's last layer for every token too.")
    parser.add_argument("--base", default="minilm", help="Hub id or folder of the base.")
    parser.add_argument("--shape", choices=("7b",), help="Random weights of this shape in place of a base.")
    parser.add_argument("--layers", type=int, help="Of that shape only so many layers, for a smaller GPU or less time.")
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
        if asked.whole_last_layer:
            first_token.wrap = lambda model: None
        engine, peers = Engine(base, folders, config=config), Peers(config, folders)
        peer_tokens = asked.peer_tokens or 2 * engine.tokens_per_pass
        print(f"{engine.base_id}, {asked.dtype}, quantize {asked.quantize}, {engine.device}, {asked.threads} threads")
        names, some = [folder.name for folder in folders], next(texts_of(16))
        if engine.device != "cpu":
            for _ in range(5):  # what comes again is replayed there, and then the replay is compared
                engine.logits(some[:1], names)
        found = [differences(engine, peers, names, part) for part in (some[:1], some)]
        apart, own = map(max, zip(*found, strict=True))
        print(f"greatest difference between logits: lorahub's and peft's {apart:.1e}, peft's two ways {own:.1e}")
        # In fewer bits than 32 peft's ways differ too, by what the order of sums makes of the rounding.
        if apart > (1e-4 if (asked.dtype, asked.quantize) == ("float32", "none") else max(0.1, 2 * own)):
            raise SystemExit("they do not answer alike; times would mean nothing")
        for n in ns:
            texts = texts_of(n)
            for k in ks:
                names = [folder.name for folder in folders[:k]]
                times = measure(
                    engine, peers, names, texts, rounds=asked.rounds, seconds=asked.seconds, peer_tokens=peer_tokens
                )
                cells.append(cell(k, n, times))
                keep(
                    asked.out,
                    {
                        "asked": vars(asked),
                        "environment": environment(),
                        "differ": apart,
                        "peers_differ": own,
                        "cells": cells,
                    },
                )
                print(tables.markdown(HEADER, list(rows(cells[-1:]))), flush=True)
    print(tables.markdown(HEADER, list(rows(cells))))


def keep(name, found):
    """Write the figures as JSON, and for people as Markdown (docs/engine.md)."""
    asked, where = found["asked"], found["environment"]
    model = asked["base"]
    if asked["shape"]:
        model = f"a base of the shape {asked['shape']}" + (f", {asked['layers']} layers" if asked.get("layers") else "")
    packages = ", ".join(f"{package} {number}" for package, number in where["packages"].items())
    about = (
        f"{model}, {asked['dtype']}, quantize {asked['quantize']}, {asked['threads']} thread(s) on {where['device']}; "
        f"{packages}. Greatest difference between the logits of lorahub and of peft: {found['differ']:.1e}."
    )
    table = tables.markdown(HEADER, list(rows(found["cells"])))
    atomic.write_text(RESULTS / f"{name}.json", json.dumps(found, indent=1) + "\n")
    atomic.write_text(RESULTS / f"{name}.md", f"{about}\n\n{table}\n")


def environment():
    """What the figures depend on beside the code."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    packages = {name: version(name) for name in ("torch", "transformers", "peft")}
    return {"device": device, "processors": os.cpu_count(), "packages": packages}


def _processor():
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.processor()


if __name__ == "__main__":
    main()
