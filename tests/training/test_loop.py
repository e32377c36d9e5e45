"""The loop's parts: batches, weights, alarms."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import step_gradients
import torch

from lorahub.data.batches import LengthGroupedBatches, encode
from lorahub.errors import TrainingError
from lorahub.labels import LabelSet
from lorahub.training import alarms
from lorahub.training.loop import class_weights
from lorahub.training.session import TrainingSession

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("grouped", [True, False])
def test_every_claim_once_an_epoch_in_an_order_that_follows_from_the_seed(grouped):
    lengths = np.random.default_rng(0).integers(3, 90, 517).tolist()
    sampler = LengthGroupedBatches(lengths, 16, seed=5, grouped=grouped)
    first = list(sampler)
    assert sorted(row for batch in first for row in batch) == list(range(517))
    assert len(first) == len(sampler) == 33
    assert list(LengthGroupedBatches(lengths, 16, seed=5, grouped=grouped)) == first
    sampler.set_epoch(1)
    assert list(sampler) != first
    assert list(LengthGroupedBatches(lengths, 16, seed=6, grouped=grouped)) != first


def test_length_groups_save_padding():
    lengths = np.random.default_rng(1).integers(5, 120, 2000).tolist()

    def padded(grouped):
        batches = LengthGroupedBatches(lengths, 32, seed=0, grouped=grouped)
        return sum(len(batch) * max(lengths[row] for row in batch) for batch in batches)

    assert padded(True) < 0.65 * padded(False)
    assert padded(True) < 1.1 * sum(lengths)


def test_class_weights_average_to_one_over_the_claims():
    gold = np.repeat([0, 1, 2], [900, 90, 10])
    assert class_weights(gold, 3, "none") == [1.0, 1.0, 1.0]
    for kind, ratio in (("sqrt", 10**0.5), ("balanced", 10.0)):
        weights = np.array(class_weights(gold, 3, kind))
        assert weights[gold].mean() == pytest.approx(1)
        assert weights[1] / weights[0] == pytest.approx(ratio)


def expected_gradients(base, claim_weights=1.0):
    """Return the gradients of the weighted mean of the loss over all claims, without batches."""
    session = TrainingSession(step_gradients.config(base), step_gradients.DATA, splits=("train",))
    session.attach()
    tokenizer, gold = session.base.tokenizer, step_gradients.GOLD
    batch = tokenizer(step_gradients.TEXTS, padding=True, return_tensors="pt")
    logits = session.model(**batch).logits.float()
    losses = torch.nn.functional.cross_entropy(logits, torch.from_numpy(gold), reduction="none")
    weights = torch.tensor(class_weights(gold, 2, "balanced"))[torch.from_numpy(gold)]
    (losses * weights * claim_weights).mean().backward()
    return [item.grad for item in session.model.parameters() if item.requires_grad]


@pytest.fixture(scope="module")
def weighted(tiny_base):
    return expected_gradients(tiny_base("llama"))


def assert_average(steps, expected):
    """The mean over steps of the same number of claims: the weights stay those of the whole training split."""
    for values, wanted in zip(zip(*steps, strict=True), expected, strict=True):
        torch.testing.assert_close(sum(values) / len(values), wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("batch", "accumulation"), [(12, 1), (4, 3), (5, 3), (1, 12), (4, 1), (1, 1), (4, 5)])
def test_class_weights_do_not_depend_on_how_claims_are_batched(batch, accumulation, tiny_base, weighted):
    steps = step_gradients.of_steps(
        tiny_base("llama"), f"train.batch_size={batch}", f"train.gradient_accumulation={accumulation}"
    )
    assert_average(steps, weighted)


def test_weights_of_claims_multiply_their_loss_relative_to_their_mean(tiny_base):
    weight = np.array([3.0, 1.0, 1.0, 0.5, 2.0, 1.0, 1.0, 4.0, 1.0, 1.0, 0.25, 6.0])
    train = dataclasses.replace(step_gradients.CLAIMS, weight=weight)
    data = dataclasses.replace(step_gradients.DATA, splits={**step_gradients.DATA.splits, "train": train})
    steps = step_gradients.of_steps(tiny_base("llama"), "train.batch_size=4", data=data)
    assert_average(steps, expected_gradients(tiny_base("llama"), torch.from_numpy(weight / weight.mean())))


@pytest.mark.long  # two processes that import everything
def test_class_weights_do_not_depend_on_the_number_of_processes(tiny_base, weighted, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    settings = ["base.device=cpu", "train.batch_size=2", "train.gradient_accumulation=3"]
    program = Path(step_gradients.__file__)
    done = subprocess.run(
        [*command, str(program), str(tiny_base("llama")), str(tmp_path / "steps.pt"), *settings],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (step,) = torch.load(tmp_path / "steps.pt")
    assert_average([step], weighted)


def test_alarms_name_the_cause_and_the_fix():
    labels = LabelSet(("a", "b", "c"))
    gold = np.array([0, 1, 2])
    assert "every validation claim" in alarms.one_class(np.zeros(3, int), gold, labels)
    assert alarms.one_class(gold, gold, labels) is None
    assert "never predicted on validation: c" in alarms.never_predicted(np.array([0, 1, 1]), gold, labels)
    with pytest.raises(TrainingError, match="step 7"):
        alarms.check_loss(float("nan"), 7, 1e-3)


def test_only_the_evidence_of_a_pair_is_truncated(tiny_base):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_base("bert"))
    claim, evidence = "the vaccine causes flu .", " ".join(["study"] * 60)
    encoded = encode(tokenizer, [claim, claim], [evidence, ""], max_length=20)
    found = encoded.items
    assert len(found[0]["input_ids"]) == 20
    text = tokenizer.decode(found[0]["input_ids"])
    assert all(word in text for word in claim.split())
    assert "study" in text
    assert encoded.truncated == {0}
    long = " ".join(["vaccine"] * 60)
    assert len(encode(tokenizer, [long], [evidence], max_length=20).items[0]["input_ids"]) <= 20


def _byte_level():
    """A byte-level tokenizer, for which a character may be several tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special, alphabet = ["<s>", "<pad>", "</s>"], pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(["the vaccine causes flu"] * 5, trainer)
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize("claim", ["😀🔥🤮" * 30, "le café déjà vu " * 20, "ワクチンは" * 20])
def test_a_long_claim_of_a_pair_is_cut_between_characters(claim):
    tokenizer = _byte_level()
    for length in range(14, 24):
        for evidence in ("", "flu causes"):
            ids = encode(tokenizer, [claim], [evidence], max_length=length).items[0]["input_ids"]
            assert len(ids) <= length
            kept = tokenizer.decode(ids[1 : ids.index(2)])
            # All of the room but less than a character, and one token for the evidence.
            assert claim.startswith(kept)
            assert ids.index(2) - 1 > length - 4 - 1 - 4


def test_a_claim_of_a_pair_is_cut_where_one_alone_would_be(tiny_base):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_base("bert"))
    claim = "the vaccine, unheard of, causes flu. " * 10
    whole = tokenizer(claim, add_special_tokens=False)["input_ids"]
    for length in range(10, 30):
        ids = encode(tokenizer, [claim], [""], max_length=length).items[0]["input_ids"]
        assert ids[1:-2] == whole[: len(ids) - 3]
        assert len(ids) == length - 1
