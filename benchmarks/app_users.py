"""Many visitors of one page at once, while adapters are loaded and dropped: are all answers right, and how fast.

Each visitor is a client of its own that asks random adapters about random claims; two more load adapters, ask them and
drop them again. The cache holds fewer adapters than are known, so that some have to leave and come back. Every answer
is checked against the adapter loaded alone by peft. The page runs in a process of its own, whose memory is watched.

    python benchmarks/app_users.py                              # 50 visitors for a minute on the default base
    python benchmarks/app_users.py --users 8 --seconds 10
"""

import argparse
import json
import multiprocessing
import random
import socket
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import torch

from lorahub.config import AdapterConfig, BaseConfig, DataConfig
from lorahub.data import claims
from lorahub.labels import LabelSet
from lorahub.models import adapters, methods
from lorahub.models import base as bases
from lorahub.stats.verdicts import softmax

STAYING, CHANGING = 6, 4  # adapters that visitors ask, and adapters that come and go
IN_MEMORY = 7
TOLERANCE = 1e-3  # of a probability
SAMPLES = 20  # of the page's memory
PATIENCE = 60  # seconds


def make(root, base):
    """Random adapters of different ranks, methods and label counts: name -> folder."""
    folders = {}
    for number in range(STAYING + CHANGING):
        name = f"{'staying' if number < STAYING else 'changing'}-{number}"
        method, rank, labels = ("lora", "dora", "rslora")[number % 3], 2 ** (1 + number % 4), 2 + number % 5
        torch.manual_seed(number)
        names = LabelSet(tuple(f"label{label}" for label in range(labels)))
        loaded = bases.load(BaseConfig(id=base, max_length=64), names)
        model = methods.attach(loaded, AdapterConfig(method=method, rank=rank, alpha=2.0 * rank))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.normal_(std=0.05)
        folders[name] = root / name
        adapters.save(model, folders[name], loaded, names, methods.TABLE[method].layout)
    return folders


def reference(folders, base, texts):
    """Adapter name -> probabilities (N, C) of the texts, each adapter loaded alone by peft."""
    found = {}
    for name, folder in folders.items():
        loaded = bases.load(BaseConfig(id=base, max_length=64), LabelSet.load(folder))
        model = adapters.load_with_peft(folder, loaded)
        batch = loaded.tokenizer(
            texts, padding=True, truncation=True, max_length=loaded.max_length, return_tensors="pt"
        )
        with torch.inference_mode():
            found[name] = softmax(model(**batch).logits.float().numpy())
    return found


def serve(base, root, port, ready):
    """The page, in a process of its own."""
    from lorahub.app import build
    from lorahub.serving.engine.engine import Engine

    engine = Engine(base, [root / f"staying-{number}" for number in range(STAYING)], most_adapters=IN_MEMORY)
    ready.put(build.serve(build.build(engine, root=root), "127.0.0.1", port))
    threading.Event().wait()


class Visitors:
    """What the visitors saw: seconds of each answer, and all that was wrong."""

    def __init__(self, address, texts, wanted, until):
        self.address, self.texts, self.wanted, self.until = address, texts, wanted, until
        self.seconds, self.changes, self.wrong = [], 0, []

    def _check(self, client, names, rng):
        row = rng.randrange(len(self.texts))
        started = time.perf_counter()
        found = client.predict(self.texts[row], names, "", 1.0, api_name="/classify")["adapters"]
        self.seconds.append(time.perf_counter() - started)
        for name in names:
            given, right = found[name]["adapter"], self.wanted[name][row]
            values = np.array(list(given["probabilities"].values()))
            top = np.sort(right)[::-1]
            sure = top[0] - top[1] > 2 * TOLERANCE
            if np.abs(values - right).max() > TOLERANCE or (sure and given["label"] != f"label{right.argmax()}"):
                self.wrong.append(f"{name} on {self.texts[row]!r}: {values} in place of {right}")

    def _protected(self, work, seed):
        from gradio_client import Client

        try:
            client = Client(self.address, verbose=False, httpx_kwargs={"timeout": PATIENCE})
            rng = random.Random(seed)
            while time.perf_counter() < self.until:
                work(client, rng)
        except Exception as error:  # any failure is a finding
            self.wrong.append(f"{type(error).__name__}: {error}")

    def ask(self, seed):
        names = [f"staying-{number}" for number in range(STAYING)]
        self._protected(lambda client, rng: self._check(client, rng.sample(names, rng.randint(1, 3)), rng), seed)

    def change(self, seed, mine):
        def work(client, rng):
            name = client.predict(rng.choice(mine), api_name="/load_adapter")
            self._check(client, [name], rng)
            client.predict(name, api_name="/drop_adapter")
            self.changes += 1

        self._protected(work, seed)

    def end(self, threads):
        """Wait for the last answers; one that does not come is a finding."""
        patience = time.perf_counter() + PATIENCE
        for thread in threads:
            thread.join(max(0.0, patience - time.perf_counter()))
        self.wrong.extend(f"no answer within {PATIENCE} s" for thread in threads if thread.is_alive())


def watch(process, until):
    """The page's resident memory in MB, sampled until the end."""
    samples, pause = [], max(0.1, (until - time.perf_counter()) / SAMPLES)
    while time.perf_counter() < until:
        samples.append(process.memory_info().rss / 1e6)
        time.sleep(pause)
    return samples


def run(base, texts, users, seconds):
    """What came out, as plain figures; `wrong` is empty where all was right."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "runs"
        folders = make(root, base)
        wanted = reference(folders, base, texts)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        context = multiprocessing.get_context("spawn")
        ready = context.Queue()
        page = context.Process(target=serve, args=(base, root, port, ready), daemon=True)
        page.start()
        try:
            seen = Visitors(ready.get(timeout=300), texts, wanted, until=time.perf_counter() + seconds)
            changing = [name for name in folders if name.startswith("changing")]
            threads = [threading.Thread(target=seen.ask, args=(seed,), daemon=True) for seed in range(users)]
            threads += [
                threading.Thread(target=seen.change, args=(users + half, changing[half::2]), daemon=True)
                for half in range(2)
            ]
            for thread in threads:
                thread.start()
            memory = watch(psutil.Process(page.pid), seen.until)
            seen.end(threads)
        finally:
            page.kill()
            page.join()
    # A sample more or less is what one request holds: medians of the last two quarters, once all was used for a while.
    quarter = max(1, len(memory) // 4)
    third, last = statistics.median(memory[-2 * quarter : -quarter]), statistics.median(memory[-quarter:])
    return {
        "users": users,
        "seconds": seconds,
        "answers": len(seen.seconds),
        "changes": seen.changes,
        "p50_seconds": float(np.percentile(seen.seconds, 50)) if seen.seconds else None,
        "p95_seconds": float(np.percentile(seen.seconds, 95)) if seen.seconds else None,
        "memory_mb": {"third_quarter": third, "last_quarter": last},
        "wrong": seen.wrong,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="minilm", help="Hub id or folder of the base.")
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--texts", type=Path, help="One claim a line; default: 50 of starter-checkable.")
    parser.add_argument("--json", action="store_true", help="Print one JSON object.")
    asked = parser.parse_args()
    if asked.texts:
        texts = asked.texts.read_text(encoding="utf-8").splitlines()
    else:
        texts = claims.load(DataConfig(id="starter-checkable")).splits["train"].texts[:50]
    found = run(asked.base, texts, asked.users, asked.seconds)
    if asked.json:
        print(json.dumps(found))
    else:
        memory, wrong = found["memory_mb"], len(found["wrong"])
        print(f"{found['users']} visitors, {found['seconds']:g} s: {found['answers']} answers, {wrong} wrong")
        print(
            f"p50 {found['p50_seconds']:.2f} s, p95 {found['p95_seconds']:.2f} s; {found['changes']} loaded and dropped"
        )
        third, last = memory["third_quarter"], memory["last_quarter"]
        print(f"memory {third:.0f} MB in the third quarter, {last:.0f} MB in the last")
        for line in found["wrong"][:10]:
            print(f"  {line}")
    sys.exit(1 if found["wrong"] else 0)


if __name__ == "__main__":
    main()
