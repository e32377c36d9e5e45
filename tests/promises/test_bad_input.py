"""Bad input: one line that names the file, the place and the fix, exit code 2, and nothing left behind.

A row of a table is what went wrong, the words that the line must hold, and how to bring it about. Rows on data, configs
and adapters ask for a base that does not exist, so they also show that what is cheap to check is checked first.
"""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file

from lorahub.data.tables import Writer
from lorahub.stats.predictions import Predictions, fingerprints

NO_BASE = "no-such-base"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
QUERY = "base_model.model.bert.encoder.layer.0.attention.self.query"


@pytest.fixture(scope="module")
def sound(make_adapter, tiny_base):
    """An adapter folder with nothing wrong; rows damage copies of it."""
    tiny_base("roberta")  # made here, so that its progress bars are not in a row's output
    return make_adapter("bert", name="sound")


class Desk:
    """Prepares files under a folder and returns arguments for the command line."""

    def __init__(self, folder, sound, tiny_base):
        self.folder, self.sound, self.tiny_base, self.out = folder, sound, tiny_base, folder / "out"

    def file(self, name, content=""):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def table(self, name, rows):
        path = self.file(name)
        with Writer(path, kind=path.suffix) as writer:
            writer.write(rows)
        return path

    def good(self, name="good.csv", **extra):
        rows = [{"claim": f"the vaccine causes {place}", "label": ("yes", "no")[place % 2]} for place in range(60)]
        return self.table(name, [{**row, **extra} for row in rows])

    def train(self, data, *settings, base=NO_BASE, out=None):
        flags = [flag for setting in settings for flag in ("--set", setting)]
        return ["train", "--data", data, "--base", base, "--out", out or self.out, *flags]

    def reads(self, name, content, *settings):
        """Train on a file with this content."""
        return self.train(self.file(name, content), *settings)

    def recipe(self, content, *more):
        return ["train", self.file("my.yaml", content), "--data", self.good(), "--out", self.out, *more]

    def adapter(self, name="mine"):
        return shutil.copytree(self.sound, self.folder / name)

    def classify(self, adapter, *more, base=NO_BASE):
        return ["classify", "--adapter", adapter, "--base", base, *(more or ["the vaccine causes flu"])]

    def without(self, *names, **files):
        """Classify with an adapter from which files were removed, and to which others were added."""
        folder = self.adapter()
        for name in names:
            (folder / name).unlink()
        for name, content in files.items():
            (folder / name.replace("__", ".")).write_text(content)
        return self.classify(folder)

    def config(self, **changes):
        """Classify with an adapter whose config says something else."""
        folder = self.adapter()
        found = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps({**found, **changes}))
        return self.classify(folder)

    def tensors(self, change, base=NO_BASE):
        """Classify with an adapter whose tensors were changed in place by `change`."""
        folder = self.adapter()
        found = load_file(folder / WEIGHTS)
        change(found)
        save_file(found, folder / WEIGHTS)
        return self.classify(folder, base=base)

    def cut(self, name):
        """Classify with an adapter of which one file was cut in half."""
        folder = self.adapter()
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])
        return self.classify(folder)

    def classify_file(self, content, *more, output="verdicts.csv"):
        where = ["--file", self.file("claims.csv", content), "--output", self.folder / output]
        return self.classify(self.adapter(), *where, *more)

    def base(self, change):
        """Train on a base that was damaged by `change(folder)`."""
        folder = shutil.copytree(self.tiny_base("bert"), self.folder / "mybase")
        change(folder)
        return self.train(self.good(), base=folder)

    def probe(self, base=NO_BASE, **arrays):
        """Classify with an adapter whose linear probe holds these arrays; without them it is a sound one."""
        folder = self.adapter()
        sound = {"weight": np.zeros((3, 32), np.float32), "bias": np.zeros(3, np.float32)}
        save_arrays({**sound, **arrays}, folder / "linear_probe.safetensors")
        return self.classify(folder, base=base)

    def record(self, **values):
        """List a run whose record is this one."""
        folder = self.adapter()
        (folder / "record.json").write_text(json.dumps(values))
        return ["runs", folder]

    def judged(self, name, *, claims=("a", "b", "c"), labels=3, gold=(0, 1, 2)):
        """A run with its kept answers to these claims, a line of logits for each."""
        folder = self.adapter(name)
        (folder / "labels.json").write_text(json.dumps([f"label{index}" for index in range(labels)]))
        logits = np.eye(labels, dtype=np.float32)[list(gold)]
        kept = Predictions(sha256=fingerprints(claims), gold=np.array(gold), logits=logits)
        for system in ("adapter", "majority"):
            kept.save(folder, "test", system)
        return folder

    def compare(self, *arguments):
        """Compare a sound run with its majority baseline, and what else is given."""
        return ["compare", self.judged("one"), *arguments]


def _corrupt_parquet(desk):
    """A file with a sound footer whose first page is noise."""
    path = desk.good("claims.parquet")
    content = bytearray(path.read_bytes())
    content[4:60] = bytes(range(200, 256))
    path.write_bytes(content)
    return desk.train(path)


def _damaged_predictions(desk):
    folder = desk.judged("other")
    path = folder / "predictions" / "test.adapter.parquet"
    path.write_bytes(path.read_bytes()[:100])
    return desk.compare(folder)


def _folder(desk, *names):
    for name in names:
        desk.good(f"mydata/{name}")
    return desk.folder / "mydata"


def _unknown_test_label(desk):
    folder = _folder(desk, "train.csv")
    desk.file("mydata/test.csv", "claim,label\na,no\nb,ye\n")
    return desk.train(folder)


def _half_a_head(desk):
    return desk.tensors(lambda found: found.pop("base_model.model.classifier.bias"), base=desk.tiny_base("bert"))


def _wide_head(found):
    found["base_model.model.classifier.weight"] = torch.zeros(3, 48)


def _without_weights(desk, **others):
    def change(folder):
        (folder / "model.safetensors").unlink()
        for name in others:
            (folder / name.replace("__", ".")).write_bytes(b"pickle")

    return desk.base(change)


def _shards(desk, name):
    """Train on a base whose index names this file, a pickle, as its only shard."""

    def change(folder):
        (folder / "model.safetensors").unlink()
        (folder.parent / "beside.safetensors").write_bytes(b"pickle")
        (folder / "weights.model").write_bytes(b"pickle")
        (folder / "link.safetensors").symlink_to(folder.parent / "beside.safetensors")
        (folder / "other.safetensors").write_bytes(b"")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"classifier.bias": name}}))

    return desk.base(change)


def _base_setting(desk, **values):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | values))

    return desk.base(change)


def _no_head(found):
    for name in [name for name in found if "classifier" in name]:
        del found[name]


TEN = "".join(f"claim {place},{'no' if place % 2 else 'yes'}\n" for place in range(10))
LINES = "".join(json.dumps({"claim": f"claim {place}", "label": "ab"[place % 2]}) + "\n" for place in range(10))
DEVICE = "cuda" if sys.platform == "darwin" else "mps"

DATA = {
    "a label that is a text": (
        ["xxxxx", "200 characters", "data.label"],
        lambda d: d.train(
            d.table("long.csv", [{"claim": f"claim {n}", "label": "x" * 300 if n % 2 else "y"} for n in range(60)])
        ),
    ),
    "a missing file": (["no file", "gone.csv", "Check the path"], lambda d: d.train(d.folder / "gone.csv")),
    "a folder without train": (["mydata", "no train file", "holds train"], lambda d: d.train(_folder(d, "test.csv"))),
    "an ending that is not read": (["a.xls", ".xlsx", ".parquet", "Save"], lambda d: d.reads("a.xls", "x")),
    "an xlsx file that is none": (["a.xlsx", "not a readable xlsx", "csv"], lambda d: d.reads("a.xlsx", "x")),
    "a sheet of a file without sheets": (
        ["good.csv", "no sheets", "'x'"],
        lambda d: d.train(d.good(), "data.sheet=x"),
    ),
    "an empty file": (["a.csv", "empty", "header"], lambda d: d.reads("a.csv", "")),
    "an empty jsonl": (["a.jsonl", "no row", "Add"], lambda d: d.reads("a.jsonl", "\n\n")),
    "a header and no row": (["a.csv", "no row", "Add"], lambda d: d.reads("a.csv", "claim,label\n")),
    "no row after dropping": (
        ["a.csv", "20 rows", "data.drop_labels", "fewer"],
        lambda d: d.reads("a.csv", "claim,label\n" + TEN + TEN, 'data.drop_labels=["no", "yes"]'),
    ),
    "no claim column": (
        ["a.csv", "claim", "words, label", "data.claim"],
        lambda d: d.reads("a.csv", "words,label\na,b\n"),
    ),
    "no label column": (
        ["a.csv", "label", "claim, mark", "data.label"],
        lambda d: d.reads("a.csv", "claim,mark\na,b\n"),
    ),
    "a separator that is ambiguous": (
        ["a.csv", "commas and semicolons", "ambiguous", "quotes"],
        lambda d: d.reads("a.csv", "claim;text,label\na;b,no\nc;d,yes\n"),
    ),
    "a quote in a csv that swallows rows": (
        ["a.csv, row 3", "quote", "swallow"],
        lambda d: d.reads("a.csv", "claim,label\na,no\nb,yes\n" + '"c,no\nd,yes\na size of 5",yes\n' + TEN),
    ),
    "text behind a closing quote": (
        ["a.csv, row 2", "closing quote", "Double"],
        lambda d: d.reads("a.csv", 'claim,label\n"a, b",no\n"c" d,yes\n'),
    ),
    "no header": (
        ["a.csv", "first row looks like data: add a header, or name columns by position", "data.claim=1"],
        lambda d: d.reads("a.csv", TEN),
    ),
    "a flag named claim": (
        ["a.csv", "'claim'", "'0', '1'", "'text' holds texts", "data.claim=text"],
        lambda d: d.reads("a.csv", "claim,text,label\n" + "".join(f"{n % 2},the flu is {n},no\n" for n in range(9))),
    ),
    "scores": (
        ["a.csv", "label holds 60 different numbers: this looks like a score", "data.label"],
        lambda d: d.reads("a.csv", "claim,label\n" + "".join(f"claim {n},0.{n + 10}\n" for n in range(60))),
    ),
    "a rare label": (
        ["a.csv", "rarest label is 'mixture' with 1", "mixture 1, no 100, yes 100", "data.drop_labels"],
        lambda d: d.reads("a.csv", "claim,label\n" + TEN * 20 + "a claim,mixture\n"),
    ),
    "a quote in a tsv that swallows rows": (
        ["a.tsv, row 1", "quote", ".csv"],
        lambda d: d.reads("a.tsv", 'claim\tlabel\n"a\tno\nb"\tyes\n'),
    ),
    "a misspelt column": (
        ["good.csv", "'cliam'", "data.claim", "Did you mean 'claim'?"],
        lambda d: d.train(d.good(), "data.claim=cliam"),
    ),
    "no evidence column": (
        ["good.csv", "'proof'", "data.evidence", "claim, label", "Name one"],
        lambda d: d.train(d.good(), "data.evidence=proof"),
    ),
    "a header that repeats a name": (
        ["a.csv", "label", "Rename"],
        lambda d: d.reads("a.csv", "claim,label,label\na,b,c\n"),
    ),
    "a ragged csv row": (
        ["a.csv, row 2", "3 cells", "comma"],
        lambda d: d.reads("a.csv", "claim,label\na,no\nb, or c,yes\n"),
    ),
    "a ragged tsv row": (["a.tsv, row 1", "3 cells", "tab"], lambda d: d.reads("a.tsv", "claim\tlabel\na\tb\tc\n")),
    "a quote left open": (
        ["a.csv, row 2", "quote", "Close"],
        lambda d: d.reads("a.csv", 'label,claim\nno,"a"\nyes,"b\nno,c\n'),
    ),
    "a quote left open in a long file": (
        ["a.csv, row 1", "quote", "Close"],
        lambda d: d.reads("a.csv", 'claim,label\n"' + TEN * 2000),
    ),
    "a quote left open in the header": (
        ["a.csv", "header", "quote"],
        lambda d: d.reads("a.csv", '"claim,label\n' + TEN * 2000),
    ),
    "Windows-1251": (
        ["a.csv, line 12", "0xcf", "Windows-1251", "iconv"],
        lambda d: d.reads("a.csv", b"claim,label\n" + TEN.encode() + "Правительство Москвы,no\n".encode("cp1251")),
    ),
    "Windows-1250 in jsonl": (
        ["a.jsonl, line 11", "Windows-1250", "UTF-8", "iconv"],
        lambda d: d.reads("a.jsonl", LINES.encode() + '{"claim": "Rząd wydał złote", "label": "a"}\n'.encode("cp1250")),
    ),
    "two encodings": (
        ["a.csv", "line 13", "mixes encodings"],
        lambda d: d.reads("a.csv", ("claim,label\n" + TEN).encode() + "é,no\n".encode("cp1252") + "é,no\n".encode()),
    ),
    "UTF-16 without a mark": (
        ["a.csv", "byte order mark", "iconv"],
        lambda d: d.reads("a.csv", ("claim,label\n" + TEN).encode("utf-16-le")),
    ),
    "a broken jsonl line": (
        ["a.jsonl, row 11", "JSON", "one line"],
        lambda d: d.reads("a.jsonl", LINES + '{"claim": \n'),
    ),
    "a jsonl row that is a list": (
        ["a.jsonl, row 11", "object", '"claim"'],
        lambda d: d.reads("a.jsonl", LINES + '["b", "no"]\n'),
    ),
    "half an emoji": (
        ["a.jsonl, row 11", "surrogate", "fix"],
        lambda d: d.reads("a.jsonl", LINES + '{"claim": "b \\ud83d", "label": "a"}\n'),
    ),
    "an empty claim": (
        ["a.csv, row 2", "'claim' is empty", "Remove"],
        lambda d: d.reads("a.csv", "claim,label\na,no\n  ,yes\n"),
    ),
    "a claim that is a number": (
        ["a.jsonl, row 11", "'claim'", "7", "not text"],
        lambda d: d.reads("a.jsonl", LINES + '{"claim": 7, "label": "a"}\n'),
    ),
    "a claim that is null": (
        ["a.jsonl, row 11", "'claim'", "None", "not text"],
        lambda d: d.reads("a.jsonl", LINES + '{"claim": null, "label": "a"}\n'),
    ),
    "a label that is null": (
        ["a.jsonl, row 11", "'label'", "None", "remove the row"],
        lambda d: d.reads("a.jsonl", LINES + '{"claim": "b", "label": null}\n'),
    ),
    "an empty label": (["a.csv, row 1", "'label' is empty", "Remove"], lambda d: d.reads("a.csv", "claim,label\na,\n")),
    "a label that is a fraction": (
        ["a.jsonl, row 11", "0.5", "'label'", "score", "data.label"],
        lambda d: d.reads("a.jsonl", LINES + '{"claim": "b", "label": 0.5}\n'),
    ),
    "a label that is a list": (
        ["a.jsonl, row 11", "['a']", "'label'", "text"],
        lambda d: d.reads("a.jsonl", LINES + '{"claim": "b", "label": ["a"]}\n'),
    ),
    "one class only": (
        ["a.csv", "'no'", "at least two", "data.label"],
        lambda d: d.reads("a.csv", "claim,label\na,no\nb,no\n"),
    ),
    "a test label that training lacks": (["test.csv, row 2", "'ye'", "Did you mean 'yes'?"], _unknown_test_label),
    "a label in data.labels without claims": (
        ["good.csv", "maybe", "data.labels"],
        lambda d: d.train(d.good(), "data.labels=['no', 'yes', maybe]"),
    ),
    "one name in data.labels": (["data.labels", "'no'", "two"], lambda d: d.train(d.good(), "data.labels=['no']")),
    "too few rows to split": (
        ["a.csv", "2 claims", "Add claims"],
        lambda d: d.reads("a.csv", "claim,label\na,no\nb,yes\n"),
    ),
    "splits that leave nothing to train on": (
        ["good.csv", "data.validation_fraction"],
        lambda d: d.train(d.good(), "data.test_fraction=0.5", "data.validation_fraction=0.5"),
    ),
    "a parquet file that is none": (["a.parquet", "parquet", "Write it again"], lambda d: d.reads("a.parquet", "PAR1")),
    "a corrupt parquet page": (["claims.parquet", "parquet", "Write it again"], _corrupt_parquet),
    "an explanation as claim": (
        ["good.csv", "'explanation'", "gives the label away", "allow_leaking"],
        lambda d: d.train(d.good(explanation="so"), "data.claim=explanation"),
    ),
    "LIAR's counts as evidence": (
        ["good.csv", "'half_true_counts'", "gives the label away", "allow_leaking"],
        lambda d: d.train(d.good(half_true_counts="3"), "data.evidence=half_true_counts"),
    ),
    "an unknown data set": (["'nosuchset'", "pubhealth", "starter-wording"], lambda d: d.train("nosuchset")),
    "a Hub id with the Hub out of reach": (["'some/set'", "Hub", "network", "--data"], lambda d: d.train("some/set")),
    "two files for one split": (
        ["mydata", "train.csv", "train.jsonl", "Keep one"],
        lambda d: d.train(_folder(d, "train.csv", "train.jsonl")),
    ),
}

SETTINGS = {
    "an unknown section": (["section", "trian", "train"], "trian.epochs=3"),
    "an unknown field": (["train.epoch", "Did you mean train.epochs?"], "train.epoch=3"),
    "a word for a number": (["train.epochs", "a number", "many"], "train.epochs=many"),
    "a fraction for a whole number": (["train.batch_size", "whole number", "2.5"], "train.batch_size=2.5"),
    "a value below its range": (["train.batch_size", "at least 1"], "train.batch_size=0"),
    "a value above its range": (["adapter.dropout", "at most 0.95"], "adapter.dropout=0.99"),
    "a seed that numpy does not take": (["train.seed", "at most"], "train.seed=4294967296"),
    "layers without a number": (["adapter.layers", "all or last:N", "'last:two'"], "adapter.layers=last:two"),
    "no layers": (["adapter.layers", "all or last:N", "'last:0'"], "adapter.layers=last:0"),
    "a choice that there is not": (["train.schedule", "Did you mean cosine?"], "train.schedule=cosin"),
    "a setting without =": (["--set", "section.field=value", "train.epochs"], "train.epochs"),
    "a setting without section": (["--set", "section.field=value"], "epochs=3"),
    "a setting that is no YAML": (["--set data.labels", "YAML"], "data.labels=[a"),
    "NaN": (["train.learning_rate", "a number", "nan"], "train.learning_rate=.nan"),
    "a label no that YAML reads as False": (["data.labels", "quotes", "False"], "data.labels=[no, yes]"),
}

RECIPE = {
    "no such recipe": (["'gone.yaml'", "YAML file", "pubhealth"], lambda d: ["train", "gone.yaml", "--out", d.out]),
    "broken YAML": (["my.yaml, line 3", "YAML"], lambda d: d.recipe("train:\n  epochs: [1\n")),
    "a list": (["my.yaml", "sections", "train"], lambda d: d.recipe("- train\n")),
    "not UTF-8": (["my.yaml", "UTF-8", "Save"], lambda d: d.recipe("# café\n".encode("latin-1"))),
    "an unknown field in it": (["my.yaml", "Did you mean train.epochs?"], lambda d: d.recipe("train: {epoch: 3}\n")),
    "a section that holds a word": (
        ["my.yaml", "'train'", "field: value", "'fast'"],
        lambda d: d.recipe("train: fast\n", "--seed", 1),
    ),
}

ADAPTER = {
    "no folder": (["'gone'", "lorahub runs"], lambda d: d.classify("gone")),
    "no config": (["mine", CONFIG, "did not finish"], lambda d: d.without(CONFIG)),
    "a config that is no JSON": ([CONFIG, "JSON", "train again"], lambda d: d.without(adapter_config__json="{")),
    "a config that is a list": ([CONFIG, "JSON object"], lambda d: d.without(adapter_config__json="[]")),
    "another kind of adapter": ([CONFIG, "'ADALORA'", "LORA", "IA3"], lambda d: d.config(peft_type="ADALORA")),
    "settings of another method": ([CONFIG, "with PREFIX_TUNING"], lambda d: d.config(peft_type="PREFIX_TUNING")),
    "another task": ([CONFIG, "CAUSAL_LM", "SEQ_CLS"], lambda d: d.config(task_type="CAUSAL_LM")),
    "rank 0": ([CONFIG, "r "], lambda d: d.config(r=0)),
    "another rank": ([WEIGHTS, "config's rank 9", "train again"], lambda d: d.config(r=9)),
    "a pattern as target_modules": (
        [CONFIG, "target_modules", "list of layer names", "'.*query'", "train again"],
        lambda d: d.config(target_modules=".*query"),
    ),
    "no weights": (["mine", WEIGHTS, "train again"], lambda d: d.without(WEIGHTS)),
    "pickled weights only": (
        ["mine", "adapter_model.bin", "can run code", "not loaded", "train again"],
        lambda d: d.without(WEIGHTS, adapter_model__bin="x"),
    ),
    "weights cut short": ([WEIGHTS, "damaged", "train again"], lambda d: d.cut(WEIGHTS)),
    "no head": ([WEIGHTS, "'classifier'", "random", "train again"], lambda d: d.tensors(_no_head)),
    "half a head": (["mine", "classifier", "bias"], _half_a_head),
    "NaN": (
        [WEIGHTS, "query.lora_A", "not finite numbers", "train again"],
        lambda d: d.tensors(lambda found: found[f"{QUERY}.lora_A.weight"].fill_(torch.nan)),
    ),
    "a tensor named like a base weight": (
        [WEIGHTS, "query.base_layer.weight", "overwrite the base", "train again"],
        lambda d: d.tensors(lambda found: found.update({f"{QUERY}.base_layer.weight": torch.zeros(32, 32)})),
    ),
    "a labels.json of another length": (
        ["mine", "labels.json", "2 labels", "[3]", "train again"],
        lambda d: d.without(labels__json='["a", "b"]'),
    ),
    "a labels.json that is no list": (["labels.json", "list"], lambda d: d.without(labels__json='{"a": 0}')),
    "a labels.json that repeats a name": (
        ["labels.json", "'a'"],
        lambda d: d.without(labels__json='["a", "a", "b"]'),
    ),
    "a calibration of another length": (
        ["calibration.json", "3 labels", "train again"],
        lambda d: d.without(calibration__json='{"temperature": 1, "bias": [0, 0]}'),
    ),
    "a damaged linear probe": (
        ["linear_probe.safetensors", "damaged", "train again"],
        lambda d: d.without(linear_probe__safetensors="x"),
    ),
    "a linear probe for other labels": (
        ["linear_probe.safetensors", "3 labels", "(2, 32)", "train again"],
        lambda d: d.probe(weight=np.zeros((2, 32), np.float32)),
    ),
    "a linear probe with a bias of another length": (
        ["linear_probe.safetensors", "3 labels", "(3, 1)"],
        lambda d: d.probe(bias=np.zeros((3, 1), np.float32)),
    ),
    "a linear probe with NaN": (
        ["linear_probe.safetensors", "weight", "not finite"],
        lambda d: d.probe(weight=np.full((3, 32), np.nan, np.float32)),
    ),
    "a linear probe of integers": (
        ["linear_probe.safetensors", "bias", "not finite"],
        lambda d: d.probe(bias=np.zeros(3, np.int32)),
    ),
    "a linear probe of another base": (
        ["mine", "linear probe", "48 features", "32", "train again"],
        lambda d: d.probe(weight=np.zeros((3, 48), np.float32), base=d.tiny_base("bert")),
    ),
    "a head of another width": (
        ["mine", "classifier.weight", "train again"],
        lambda d: d.tensors(_wide_head, base=d.tiny_base("bert")),
    ),
    "an adapter of another base": (
        ["mine", "tiny-bert", "tiny-roberta", "--base"],
        lambda d: d.classify(d.adapter(), base=d.tiny_base("roberta")),
    ),
    "an adapter whose base is not given": (
        ["tiny-bert", "--base"],
        lambda d: ["classify", "--adapter", d.adapter(), "the vaccine causes flu"],
    ),
    "an unfinished run": (["mine", "record.json", "did not finish"], lambda d: ["runs", d.adapter()]),
    "no run": (["gone", "lorahub runs"], lambda d: ["runs", "gone"]),
    "a record of a newer schema": (["record.json", "schema 99", "Upgrade"], lambda d: d.record(schema=99)),
    "a record of a schema that never was": (["record.json", "schema"], lambda d: d.record(schema=0)),
    "a record that nests too deep": (
        ["record.json", "JSON", "train again"],
        lambda d: ["runs", d.file("deep/record.json", "[" * 60_000).parent],
    ),
    "a record without results": (["record.json", "results", "train again"], lambda d: d.record(schema=1)),
}

CLASSIFY = {
    "no adapter": (["--adapter", "lorahub runs"], lambda d: ["classify", "a claim"]),
    "neither text nor file": (["TEXT", "--file"], lambda d: ["classify", "--adapter", d.adapter()]),
    "both text and file": (["TEXT", "--file"], lambda d: d.classify_file("claim\na\n", "the flu")),
    "a file and no output": (["--file", "--output"], lambda d: d.classify(d.adapter(), "--file", d.good())),
    "an output and no file": (["--file", "--output"], lambda d: d.classify(d.adapter(), "a", "--output", d.out)),
    "an output that is the input": (
        ["--output", "claims.csv", "another name"],
        lambda d: d.classify_file("claim\na\n", output="claims.csv"),
    ),
    "an ending that is not written": (
        ["new/verdicts.xlsx", ".xlsx", ".parquet"],
        lambda d: d.classify_file("claim\na\n", output="new/verdicts.xlsx"),
    ),
    "an output that exists": (
        ["verdicts.csv exists", "--force"],
        lambda d: [*d.classify_file("claim\na\n"), d.file("verdicts.csv", "old")][:-1],
    ),
    "standard input and a text": (["standard input", "no other TEXT"], lambda d: d.classify(d.adapter(), "-", "a")),
    "an output that is a folder": (
        ["mine.csv is a folder", "one file"],
        lambda d: d.classify(d.adapter("mine.csv"), "--file", d.good(), "--output", d.folder / "mine.csv"),
    ),
    "a missing file": (
        ["no file", "gone.csv"],
        lambda d: d.classify(d.adapter(), "--file", d.folder / "gone.csv", "--output", "new.csv"),
    ),
    "no claim column": (["claims.csv", "words", "--claim"], lambda d: d.classify_file("words\na\n")),
    "no evidence column": (
        ["claims.csv", "proof", "--evidence"],
        lambda d: d.classify_file("claim\na\n", "--evidence", "proof"),
    ),
    "a verdict column already there": (
        ["claims.csv", "'mine.label'", "Rename"],
        lambda d: [*d.classify_file("claim,mine.label\na,b\n"), "--base", d.tiny_base("bert")],
    ),
    "an empty text": (["TEXT number 2", "empty"], lambda d: d.classify(d.adapter(), "the flu", " ")),
    "an empty claim in the file": (
        ["claims.csv, row 2", "'claim'", "Remove"],
        lambda d: [*d.classify_file("claim\nthe flu\n  \n"), "--base", d.tiny_base("bert")],
    ),
    "a file without rows": (
        ["claims.csv", "no row"],
        lambda d: [*d.classify_file("claim\n"), "--base", d.tiny_base("bert")],
    ),
    "labels that the adapter does not know": (
        ["good.csv", "sound", "label_map"],
        lambda d: ["evaluate", d.sound, "--data", d.good(), "--base", d.tiny_base("bert")],
    ),
    "a split that there is not": (
        ["--split", "validation", "'tset'"],
        lambda d: ["evaluate", d.sound, "--data", d.good(), "--split", "tset"],
    ),
}

COMPARE = {
    "no such run": (["'gone'", "lorahub runs"], lambda d: d.compare("gone")),
    "a run named twice": (["one", "twice"], lambda d: d.compare(d.folder / "one")),
    "other claims": (
        ["one and other", "different test claims", "2 have the same sha256", "--data"],
        lambda d: d.compare(d.judged("other", claims=("a", "b", "x"))),
    ),
    "fewer claims": (
        ["one and other", "of 3 and 2", "2 have the same sha256"],
        lambda d: d.compare(d.judged("other", claims=("a", "b"), gold=(0, 1))),
    ),
    "other gold labels": (
        ["one and other", "a different gold label", "one version"],
        lambda d: d.compare(d.judged("other", gold=(0, 1, 1))),
    ),
    "other labels": (
        ["other", "label0, label1,", "same labels"],
        lambda d: d.compare(d.judged("other", labels=4)),
    ),
    "damaged predictions": (["test.adapter.parquet", "damaged", "train again"], _damaged_predictions),
    "predictions of other labels": (
        [".parquet", "2 labels", "train again"],
        lambda d: ["compare", d.file("labels.json", '["a", "b"]').rename(d.judged("one") / "labels.json").parent],
    ),
    "one run without baselines": (
        ["mine", "no stored predictions of its baselines", "second adapter"],
        lambda d: ["compare", d.adapter()],
    ),
    "nothing to compare on": (
        ["mine", "record.json", "--data"],
        lambda d: d.compare(d.adapter()),
    ),
    "a system that there is not": (
        ["one:majorty", "majority", "'majorty'"],
        lambda d: d.compare(f"{d.folder / 'one'}:majorty"),
    ),
    "a baseline that was not kept": (
        ["one", "tfidf", "cannot be computed"],
        lambda d: d.compare("--require-better", "tfidf"),
    ),
    "a required run that is not there": (["'gone'", "lorahub runs"], lambda d: d.compare("--require-better", "gone")),
    "a required run that is among the compared": (
        ["--require-better", "remove it"],
        lambda d: d.compare("--require-better", d.folder / "one"),
    ),
    "a metric that there is not": (["--metric", "f1_macro", "'f1'"], lambda d: d.compare("--metric", "f1")),
    "a split that there is not": (["--split", "validation", "'tset'"], lambda d: d.compare("--split", "tset")),
    "two things on stdout": (["--json", "--markdown", "--output"], lambda d: d.compare("--json", "--markdown")),
    "an output that is a file": (
        ["--output", "notes is a file", ".csv"],
        lambda d: d.compare("--output", d.file("notes", "x")),
    ),
    "an output that is a run": (
        ["--output", "run folder", "another"],
        lambda d: d.compare("--output", d.file("old/record.json", "{}").parent),
    ),
    "an output table that is a folder": (
        ["all.csv is a folder"],
        lambda d: d.compare("--output", d.file("all.csv/x", "x").parent),
    ),
}

BASE = {
    "an unknown base": (["'no-such-base'", "folder", "Hub id", "minilm"], lambda d: d.train(d.good())),
    "a Hub id with the Hub out of reach": (
        ["'some/base'", "Hub", "network", "minilm"],
        lambda d: d.train(d.good(), base="some/base"),
    ),
    "a folder without config.json": (
        ["mybase", "config.json", "save_pretrained"],
        lambda d: d.base(lambda folder: (folder / "config.json").unlink()),
    ),
    "a broken config.json": (
        ["mybase", "config.json"],
        lambda d: d.base(lambda folder: (folder / "config.json").write_text("{")),
    ),
    "an unknown architecture": (
        ["mybase", "nosuch"],
        lambda d: d.base(lambda folder: (folder / "config.json").write_text('{"model_type": "nosuch"}')),
    ),
    "no tokenizer": (
        ["mybase", "tokenizer"],
        lambda d: d.base(lambda folder: [path.unlink() for path in folder.glob("tokenizer*")]),
    ),
    "no weights": (["mybase", ".safetensors", "save_pretrained"], _without_weights),
    "pickled weights only": (
        ["mybase", ".safetensors", "run code"],
        lambda d: _without_weights(d, pytorch_model__bin=1),
    ),
    "an index that names a pickle": (["index.json", "'weights.model'"], lambda d: _shards(d, "weights.model")),
    "an index that leads out": (["index.json", "'../beside.saf"], lambda d: _shards(d, "../beside.safetensors")),
    "an index with a path": (["index.json", "not a .safe"], lambda d: _shards(d, str(d.folder / "beside.safetensors"))),
    "an index that names a link": (["link.safetensors", "leads out"], lambda d: _shards(d, "link.safetensors")),
    "an index without its shard": (["index.json", "none.safetensors"], lambda d: _shards(d, "none.safetensors")),
    "an index that is a number": (["index.json", "weight_map"], lambda d: _shards(d, 3)),
    "other weights": (
        ["mybase", "'adapter_model.bin'", "transformers_weights"],
        lambda d: _base_setting(d, transformers_weights="adapter_model.bin"),
    ),
    "other weights under another name": (
        ["mybase", "'adapter_model.bin'", "transformers_weights"],
        lambda d: _base_setting(d, attribute_map={"transformers_weights": "mine"}, mine="adapter_model.bin"),
    ),
    "weights cut short": (
        ["mybase", "cannot be loaded"],
        lambda d: d.base(lambda folder: (folder / "model.safetensors").write_bytes(b"\x08" + bytes(20))),
    ),
    "an adapter as base": (["mine", "adapter", "--base"], lambda d: d.train(d.good(), base=d.adapter())),
    "a layer that the base lacks": (
        ["adapter.targets", "'q_prjo'", "query", "all-linear"],
        lambda d: d.train(d.good(), "adapter.targets=q_prjo", base=d.tiny_base("bert")),
    ),
    "more layers than the base has": (
        ["adapter.layers=last:3", "has 2 layers", "up to 2"],
        lambda d: d.train(d.good(), "adapter.layers=last:3", base=d.tiny_base("bert")),
    ),
    "layers for a method without any": (
        ["adapter.layers=last:1", "ia3 has no layers", "lora, qlora"],
        lambda d: d.train(d.good(), "adapter.layers=last:1", "adapter.method=ia3"),
    ),
    "a device that is not there": (
        ["base.device", DEVICE, "base.device=auto"],
        lambda d: d.train(d.good(), f"base.device={DEVICE}"),
    ),
    "half precision without a GPU": (
        ["train.mixed_precision", "fp16", "auto"],
        lambda d: d.train(d.good(), "base.device=cpu", "train.mixed_precision=fp16"),
    ),
}

OUT = {
    "a file": (["--out", "taken is a file"], lambda d: d.train(d.good(), out=d.file("taken", "x"))),
    "inside a file": (["--out", "taken is a file"], lambda d: d.train(d.good(), out=d.file("taken", "x") / "run")),
    "a finished run": (
        ["mine", "finished run", "--force"],
        lambda d: d.train(d.good(), out=d.file("mine/record.json", "{}").parent),
    ),
    "a folder with other files": (
        ["mine", "not empty", "another --out"],
        lambda d: d.train(d.good(), out=d.file("mine/thesis.txt", "x").parent),
    ),
}

SET_ROWS = {
    name: (words, lambda d, setting=setting: d.train(d.good(), setting)) for name, (words, setting) in SETTINGS.items()
}
GROUPS = {
    "data": DATA,
    "config": SET_ROWS,
    "recipe": RECIPE,
    "adapter": ADAPTER,
    "classify": CLASSIFY,
    "compare": COMPARE,
    "base": BASE,
    "out": OUT,
}
ROWS = [
    pytest.param(words, build, id=f"{group}: {name}")
    for group, rows in GROUPS.items()
    for name, (words, build) in rows.items()
]


def everything(folder):
    """Every path under `folder`, with the content of the files."""
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize(("words", "build"), ROWS)
def test_bad_input_is_one_line_with_the_fix_and_leaves_nothing(
    words, build, cli, tmp_path, sound, tiny_base, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    arguments = build(Desk(tmp_path, sound, tiny_base))
    before = everything(tmp_path)
    code, out, err = cli(*arguments)
    assert code == 2, err
    assert err.count("\n") == 1, err
    assert err.startswith("lorahub: ")
    assert "Traceback" not in err
    missing = [word for word in words if word not in err]
    assert not missing, err
    assert out == ""
    assert everything(tmp_path) == before
