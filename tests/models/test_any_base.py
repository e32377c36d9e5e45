"""Bases of every kind: each trains, is saved, gives the same logits when it is loaded, and serves; or is refused."""

import json

import numpy as np
import pytest
import tiny_bases
import torch
from conftest import learnable, sentences

from lorahub.config import BaseConfig
from lorahub.data.batches import encode
from lorahub.models import adapters, trial
from lorahub.models import base as bases
from lorahub.serving.engine.engine import Engine
from lorahub.training.run import train

# Unlimited positions and the last position; encoder-decoders; a shortened sequence; positions with an offset; hidden
# sizes that differ from the embedding's; layers that change an output in place.
TYPES = ("xlnet", "t5", "bart", "funnel", "camembert", "longformer", "mpnet", "opt", "electra", "albert")
TEXTS = ["the </s> vaccine <pad> <s>", "every tax", *sentences(4, low=2, high=40), "</s>", ""]


@pytest.fixture(scope="module")
def claims(tmp_path_factory):
    path = tmp_path_factory.mktemp("claims") / "claims.jsonl"
    rows = learnable(60)
    rows[3]["claim"] += " the tax </s> <pad>"
    rows[4]["claim"] += " the flu" * 60
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def trained(base, claims, out, *settings):
    fixed = ["train.epochs=1", "train.min_steps=2", "eval.bootstrap=100", "base.max_length=200"]
    return train(data=str(claims), base=str(base), out=out, settings=[*fixed, *settings]).folder


def by_peft(base, folder, texts):
    """Logits of one text at a time, as peft computes them on a base that was loaded again."""
    from lorahub.labels import LabelSet

    loaded = bases.load(BaseConfig(id=str(base), max_length=200), LabelSet.load(folder))
    model = adapters.load_with_peft(folder, loaded)
    rows = []
    for text in texts:
        items = encode(loaded.tokenizer, [text], None, max_length=loaded.max_length).items
        with torch.no_grad():
            rows.append(model(**loaded.tokenizer.pad(items, return_tensors="pt")).logits[0].numpy())
    return np.stack(rows)


def check(base, folder, texts=TEXTS):
    alone = by_peft(base, folder, texts)
    engine = Engine(str(base), [folder])
    together = engine.logits(texts)[folder.name]
    # Few steps leave a small spread: a difference counts in relation to it.
    spread = np.ptp(alone, axis=0).max()
    assert spread > 1e-4
    assert np.abs(together - alone).max() < 0.02 * spread
    assert set(engine.classify_base(texts)) == {folder.name}


@pytest.mark.parametrize("model_type", TYPES)
def test_a_base_trains_and_answers_as_peft_does(model_type, claims, tmp_path):
    base = tiny_bases.make(model_type, tmp_path / "base")
    # transformers' Funnel does not compute an input of two tokens, which an empty text is.
    texts = [text for text in TEXTS if text or model_type != "funnel"]
    check(base, trained(base, claims, tmp_path / "run"), texts)


def test_a_base_whose_answers_depend_on_other_claims_is_refused_in_one_line(claims, tmp_path, cli):
    base = tiny_bases.make("fnet", tmp_path / "base")
    code, _, err = cli("train", "--data", claims, "--base", base, "--out", tmp_path / "run")
    assert code == 2
    assert "depends on the claims that are computed with it" in err.splitlines()[-1]
    assert "Traceback" not in err


def test_a_head_of_another_size_is_replaced_and_the_reason_says_so(claims, tmp_path, caplog):
    base = tiny_bases.make("roberta", tmp_path / "base", labels=5)
    with caplog.at_level("INFO"):
        loaded = bases.load(BaseConfig(id=str(base)))
    assert loaded.reasons["head"] == "new: the base has one for 5 labels, which is not used"
    check(base, trained(base, claims, tmp_path / "run"))


def test_weights_of_other_shapes_are_refused(tmp_path):
    base = tiny_bases.make("bert", tmp_path / "base")
    path = base / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"intermediate_size": 48}))
    with pytest.raises(bases.BaseModelError, match="other shapes than its config.json"):
        bases.load(BaseConfig(id=str(base)))


def test_an_encoder_decoder_gets_an_end_token_that_its_tokenizer_does_not_add(tmp_path):
    loaded = bases.load(BaseConfig(id=str(tiny_bases.make("t5", tmp_path / "base", ends=False))))
    assert loaded.tokenizer("the tax")["input_ids"][-1] == loaded.tokenizer.eos_token_id
    assert loaded.tokenizer("the tax", "the flu")["input_ids"].count(loaded.tokenizer.eos_token_id) == 2
    trial.of_base(loaded)


@pytest.mark.parametrize("kind", ["unigram", "bpe", "wordpiece", "wordlevel"])
@pytest.mark.parametrize("text", ["the </s> tax", "</S>", "<pad><mask>", "</s>" * 90, "tax </s>"])
def test_special_tokens_in_a_text_are_text_for_every_tokenizer(kind, text):
    tokenizer = tiny_bases.tokenizer(kind)
    bases._encode_special_tokens_as_text(tokenizer)
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    for evidence, added in ((None, [0, 2]), (text, [0, 2, 2])):
        other = None if evidence is None else [evidence, "b"]
        items = encode(tokenizer, [text, "a tax"], other, max_length=40).items
        for item in items:
            ids = item["input_ids"]
            assert [token for token in ids if token in special] == added
            assert (ids[0], ids[-1]) == (0, 2)
            assert len(ids) <= 40


def test_the_printed_command_classifies_with_a_base_in_a_folder(claims, tmp_path, cli):
    import shlex

    base = tiny_bases.make("camembert", tmp_path / "a base")
    settings = ("--set", "train.min_steps=2", "--set", "train.epochs=1", "--set", "eval.bootstrap=100")
    code, out, err = cli("train", "--data", claims, "--base", base, "--out", tmp_path / "a run", *settings)
    assert code == 0, err
    command = shlex.split(out[out.index("lorahub classify") :])
    code, out, err = cli(*command[1:])
    assert code == 0, err
    assert "your claim" in out


def test_bases_lists_every_registered_architecture(cli):
    code, out, _ = cli("bases", "--json")
    rows = json.loads(out)
    assert code == 0
    assert [row["architecture"] for row in rows] == tiny_bases.REGISTERED
    assert {row["status"] for row in rows} <= {"trains", "refused", "fails", "not tested"}
    assert all(row["reason"] for row in rows if row["status"] != "trains")
    code, out, _ = cli("bases")
    assert f"{len(rows)} architectures: " in out
