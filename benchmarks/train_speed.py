"""Training speed: lorahub's loop against transformers' Trainer with the same adapter, on the same claims.

Peers: `tuned` is the Trainer with batches of similar length, padded to the longest claim; `tuned bf16` is the same with
`bf16=True`; `stock` pads every claim to the limit, as tutorials do. All have the same base, adapter (rank, dropout,
targets), batch size, learning rate, optimizer and number of threads, and train for one epoch on the same claims in each
round, without evaluation (lorahub evaluates one claim of each label). Loading and tokenizing are not timed. The systems
take turns, in an order that rotates; a ratio is the median of the rounds' ratios, with the smallest and the largest.
CPU time is printed with wall time: it is the figure to read on a machine with other load.

    python benchmarks/train_speed.py
    python benchmarks/train_speed.py --systems lorahub,tuned,stock --rounds 9
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import replace

import numpy as np
import torch
from accelerate.state import AcceleratorState
from side_by_side import RESULTS, environment
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

from lorahub import atomic
from lorahub import config as configs
from lorahub.config import Config
from lorahub.data import claims
from lorahub.data.claimset import ClaimData
from lorahub.models import base as bases
from lorahub.models import methods
from lorahub.reports.tables import markdown
from lorahub.training import loop
from lorahub.training.session import TrainingSession

PEERS = ("tuned", "tuned bf16", "stock")
SYSTEMS = ("lorahub", *PEERS)


def part(data: ClaimData, count: int, seed: int) -> ClaimData:
    """Return the data with `count` training claims, and one claim of each label in the other splits."""
    train = data.splits["train"]
    rows = np.random.default_rng(seed).permutation(len(train))[:count]
    few = train.take(np.array([np.flatnonzero(train.gold == label)[0] for label in range(len(data.labels))]))
    return replace(data, splits={"train": train.take(rows), "validation": few, "test": few})


def lorahub(config: Config, data: ClaimData):
    """Return a function that trains one epoch with lorahub."""
    session = TrainingSession(config, data)
    session.attach()
    return lambda: loop.fit(session)


def trainer(config: Config, data: ClaimData, kind: str):
    """Return a function that trains one epoch with the Trainer."""
    torch.manual_seed(config.train.seed)
    base = bases.load(config.base, data.labels)
    model = methods.attach(base, config.adapter)
    train = data.splits["train"]
    padding = {"padding": "max_length", "max_length": config.base.max_length} if kind == "stock" else {}
    encoded = base.tokenizer(train.texts, truncation=True, **padding)
    rows = [
        {**{key: encoded[key][row] for key in encoded}, "labels": int(train.gold[row])}
        for row in range(len(train.gold))
    ]
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        num_train_epochs=1,
        per_device_train_batch_size=config.train.batch_size,
        learning_rate=config.train.learning_rate,
        lr_scheduler_type="linear",
        train_sampling_strategy="random" if kind == "stock" else "group_by_length",
        bf16=kind == "tuned bf16",
        use_cpu=True,
        seed=config.train.seed,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    return Trainer(model, arguments, train_dataset=rows, data_collator=DataCollatorWithPadding(base.tokenizer)).train


def measure(systems, rounds, config, data, count):
    """Yield after each round system -> (wall, CPU) seconds per round."""
    times = {name: [] for name in systems}
    for number in range(rounds):
        some, start = part(data, count, number), number % len(systems)
        for name in (*systems[start:], *systems[:start]):
            # accelerate keeps one precision per process.
            AcceleratorState._reset_state(True)
            run = lorahub(config, some) if name == "lorahub" else trainer(config, some, name)
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
        yield times


def figures(times, count):
    """Return system -> claims per second, and how many times faster lorahub is: median, smallest, largest."""
    found = {}
    for name, pairs in times.items():
        found[name] = {}
        for place, clock in enumerate(("wall", "cpu")):
            ratios = [theirs[place] / ours[place] for ours, theirs in zip(times["lorahub"], pairs, strict=True)]
            found[name][clock] = {
                "claims_a_second": count / statistics.median(pair[place] for pair in pairs),
                "lorahub_is_faster_by": [statistics.median(ratios), min(ratios), max(ratios)],
            }
    return found


def table(found):
    """Return the figures as a Markdown table."""
    rows = []
    for name, clocks in found.items():
        cells = [name]
        for figures in clocks.values():
            middle, low, high = figures["lorahub_is_faster_by"]
            cells += [f"{figures['claims_a_second']:.1f}"]
            cells += ["-" if name == "lorahub" else f"{middle:.2f} ({low:.2f} to {high:.2f})"]
        rows.append(cells)
    header = ("system", "claims/s", "lorahub faster by", "claims per CPU second", "lorahub faster by, CPU")
    return markdown(header, rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--data", default="pubhealth")
    parser.add_argument("--claims", type=int, default=320, help="training claims per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    systems = options.systems.split(",")
    if systems[0] != "lorahub" or not set(systems) <= set(SYSTEMS):
        raise SystemExit(f"--systems begins with lorahub and names some of {', '.join(PEERS)}.")
    torch.set_num_threads(options.threads)
    same = [f"data.id={options.data}", "train.epochs=1", "train.min_steps=0", "train.class_weights=none"]
    config = configs.load(overrides=same)
    data = claims.load(config.data)
    for times in measure(systems, options.rounds, config, data, options.claims):
        found = figures(times, options.claims)
        print(table(found), flush=True)
    atomic.write_json(
        RESULTS / "train-speed.json",
        {**environment(), "claims": options.claims, "data": options.data, "systems": found},
    )
    atomic.write_text(RESULTS / "train-speed.md", table(found))


if __name__ == "__main__":
    main()
