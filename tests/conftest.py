"""Tiny real objects: one- and two-layer models of every architecture, tokenizers, and runs, all made here, offline."""

import gc
import json
import os
import signal
from pathlib import Path

import pytest
from browser import chromium, contexts  # noqa: F401 - fixtures
from hub_fixtures import hub, hub_base, program, run_folder  # noqa: F401 - fixtures

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if not os.environ.get("LORAHUB_GPU"):
    # What is written down here was computed on a CPU, whatever the machine has; `make test-gpu` is for the rest.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

# A shell lets what it starts in the background ignore Ctrl-C, and children inherit that; the tests send it to theirs.
signal.signal(signal.SIGINT, signal.default_int_handler)

LONG = bool(os.environ.get("LORAHUB_LONG"))
WORDS = """the a vaccine causes cures cancer flu water doctors say never always may might every city tax school bus
phone study of people found that rises falls cheap clean dirty is was not in and to for more less than ever ! . ?
,""".split()
_SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
ARCHITECTURES = ("bert", "roberta", "distilbert", "deberta-v2", "modernbert", "llama", "mistral", "qwen2", "qwen3")
_DECODERS = ("llama", "mistral", "qwen2", "qwen3")


def _tokenizer(model_type):
    """A word-level tokenizer; decoders get no pad token, as their real ones have none."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>", "<unk>"]
    vocabulary = {word: index for index, word in enumerate([*special, *WORDS])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    decoder = model_type in _DECODERS
    if not decoder:
        inner.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
        )
    tokens = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    if not decoder:
        tokens |= {"pad_token": "<pad>", "cls_token": "<s>", "sep_token": "</s>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, model_max_length=64, model_input_names=["input_ids", "attention_mask"], **tokens
    )


def _config(model_type, vocabulary):
    from transformers import AutoConfig

    # Room for the tokens that some tokenizer classes add by themselves.
    vocabulary += 8
    shape = {**_SHAPE, "vocab_size": vocabulary}
    if model_type == "distilbert":
        shape = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 64}
        shape |= {"vocab_size": vocabulary}
    if model_type == "deberta-v2":
        shape |= {"pooler_hidden_size": 32, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
    if model_type == "modernbert":
        shape |= {"global_attn_every_n_layers": 2, "cls_token_id": 1, "sep_token_id": 2}
    if model_type in _DECODERS:
        shape |= {"num_key_value_heads": 2, "pad_token_id": None}
    else:
        shape |= {"pad_token_id": 0}
    if model_type == "qwen3":
        shape |= {"head_dim": 8}
    return AutoConfig.for_model(model_type, bos_token_id=1, eos_token_id=2, **shape)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory):
    """(model_type, positions) -> folder of a tiny random base of that architecture, as it would lie on a disk."""
    import torch
    from transformers import AutoModel

    import lorahub.training.run  # noqa: F401

    # A training collects garbage before it measures memory; what is imported by now is exempt.
    gc.freeze()
    root, made = tmp_path_factory.mktemp("bases"), {}

    def make(model_type, positions=64):
        name = model_type if positions == 64 else f"{model_type}-{positions}"
        if name not in made:
            folder = root / f"tiny-{name}"
            tokenizer = _tokenizer(model_type)
            tokenizer.model_max_length = positions
            config = _config(model_type, len(tokenizer))
            config.max_position_embeddings = positions
            torch.manual_seed(7)
            model = AutoModel.from_config(config)
            # Random weights of the usual scale make every answer alike; larger ones make texts differ.
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.ndim > 1:
                        parameter.mul_(6)
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            made[name] = folder
        return made[name]

    return make


@pytest.fixture(scope="session")
def make_adapter(tiny_base, tmp_path_factory):
    """(model_type, labels, rank, method, ...) -> an adapter folder with random weights, saved as a run saves it.

    Other arguments are fields of AdapterConfig.
    """
    import torch

    from lorahub.config import AdapterConfig, BaseConfig
    from lorahub.labels import LabelSet
    from lorahub.models import adapters, base, methods

    def make(model_type, *, labels=3, rank=4, seed=0, name=None, max_length=32, method="lora", positions=64, **adapter):
        folder = tmp_path_factory.mktemp("adapters") / (name or f"{model_type}-{labels}-{rank}-{seed}")
        names = LabelSet(tuple(f"label{index}" for index in range(labels)))
        # Made before the seed is set: the first adapter on a base is to be the same as a later one.
        made = tiny_base(model_type, positions)
        torch.manual_seed(seed)
        loaded = base.load(BaseConfig(id=str(made), max_length=max_length), names)
        asked = AdapterConfig(method=method, rank=rank, alpha=2.0 * rank, prompt_tokens=6, **adapter)
        methods.check(loaded, asked)
        model = methods.attach(loaded, asked)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.normal_(std=0.2)
        adapters.save(model, folder, loaded, names, methods.TABLE[method].layout)
        return folder

    return make


def sentences(count, seed=0, low=3, high=18):
    """Different sentences of different lengths from the tiny vocabulary."""
    import random

    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(low, high))) for _ in range(count)]


@pytest.fixture
def claims_file(tmp_path):
    """Write rows as csv, tsv, jsonl or parquet and return the path."""
    from lorahub.data.tables import Writer

    def write(rows, name="claims.csv"):
        path = tmp_path / name
        with Writer(path, kind=path.suffix) as writer:
            writer.write(rows)
        return path

    return write


def learnable(count, seed=0):
    """Rows whose label follows from one word, so that a tiny model can learn them."""
    cues = {"hedged": "may", "plain": "never"}
    rows = []
    for index, text in enumerate(sentences(count, seed, low=2, high=8)):
        label = "hedged" if index % 2 else "plain"
        words = [word for word in text.split() if word not in cues.values()]
        rows.append({"claim": " ".join([cues[label], *words, str(index)]), "label": label})
    return rows


@pytest.fixture(scope="session")
def tiny_run(tiny_base, tmp_path_factory):
    """A finished run on a tiny BERT: its folder and its record."""
    from lorahub.training.run import train

    root = tmp_path_factory.mktemp("runs")
    data = root / "claims.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in learnable(240)), encoding="utf-8")
    settings = ["train.min_steps=60", "train.epochs=1", "train.batch_size=16", "eval.bootstrap=200"]
    return train(data=str(data), base=str(tiny_base("bert")), out=root / "tiny", settings=settings)


@pytest.fixture(scope="module")
def tiny_engine(tiny_base, tiny_run):
    """An engine of this file's tests with the tiny run's adapter."""
    from lorahub.serving.engine.engine import Engine

    return Engine(str(tiny_base("bert")), [tiny_run.folder])


@pytest.fixture(scope="module")
def make_page(tiny_engine, tiny_run, tmp_path_factory):
    """make_page() -> a page of the app for the tiny engine, on which visitors train and leave corrections."""
    from lorahub.app import build
    from lorahub.app.feedback import Feedback
    from lorahub.app.training_process import Trainer

    def make():
        trainer = Trainer(root=tmp_path_factory.mktemp("trained"), base="minilm", load=str)
        corrections = Feedback(tmp_path_factory.mktemp("feedback"))
        return build.build(tiny_engine, root=tiny_run.folder.parent, trainer=trainer, corrections=corrections)

    return make


@pytest.fixture
def cli(capsys, monkeypatch):
    """Run the command line in process: cli("train", "--data", ...) -> (exit code, stdout, stderr)."""
    from lorahub.cli.main import main

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["lorahub", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


@pytest.fixture(scope="session")
def shared_data():
    """The folder of real data sets, where there is one."""
    root = os.environ.get("LORAHUB_DATA")
    if not root or not Path(root).is_dir():
        pytest.skip("LORAHUB_DATA is not a folder: there are no real data sets")
    return Path(root)
