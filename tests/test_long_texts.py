"""Texts that are longer than a model reads: every place where an answer or a figure is shown says so."""

import json

import pytest
from conftest import WORDS, learnable
from transformers import AutoTokenizer

from lorahub import ClaimClassifier
from lorahub.app import answers, cards
from lorahub.data import tables
from lorahub.data.batches import encode, words_read
from lorahub.reports import cards as run_cards
from lorahub.serving.loading import MixedPredictor, open_predictors

pytestmark = pytest.mark.slow

LIMIT = 64  # tokens of the tiny base, two of them special
SHORT, FULL, LONG = ("the flu", " ".join(["city"] * (LIMIT - 2)), " ".join(["city"] * LIMIT))


def test_cut_texts_are_found_and_their_words_are_counted(tiny_base):
    tokenizer = AutoTokenizer.from_pretrained(tiny_base("bert"))
    assert encode(tokenizer, [SHORT, FULL, LONG], None, max_length=LIMIT).truncated == {2}
    assert words_read(tokenizer, LONG, None, max_length=LIMIT) == LIMIT - 2
    # `flu.` is one word of two tokens, and only its first token is read.
    assert words_read(tokenizer, "the city flu. bus", None, max_length=5) == 2
    pairs = encode(tokenizer, [SHORT, SHORT, LONG], ["bus " * 10, "bus " * 70, ""], max_length=LIMIT)
    assert pairs.truncated == {1, 2}
    assert words_read(tokenizer, SHORT, "bus " * 70, max_length=LIMIT) == LIMIT - 3
    assert words_read(tokenizer, LONG, "bus", max_length=LIMIT) == LIMIT - 4


def test_commands_mark_claims_that_are_not_read_to_the_end(cli, tiny_run, make_adapter, tiny_base, claims_file):
    single = make_adapter("bert", method="ia3", name="single", labels=2)
    rows = [{"claim": text, "label": "plain"} for text in (SHORT, LONG, LONG, FULL)]
    source = claims_file(rows)
    flags = ["--base", tiny_base("bert"), "--adapter", tiny_run.folder, "--adapter", single]
    _, out, _ = cli("classify", SHORT, FULL, LONG, *flags, "--json")
    marks = [(found["adapter"], found["truncated"]) for found in json.loads(out)]
    # The adapter that runs apart reads 32 tokens.
    assert marks == [
        ("tiny", False), ("single", False), ("tiny", False), ("single", True), ("tiny", True), ("single", True),
    ]  # fmt: skip
    _, out, _ = cli("classify", LONG, *flags)
    assert "truncated)" in out
    output = source.with_name("out.csv")
    assert cli("classify", "--file", source, "--output", output, *flags)[0] == 0
    columns = [
        (row["tiny.truncated"].lower(), row["single.truncated"].lower()) for row in tables.open_table(output).rows()
    ]
    assert columns == [("false", "false"), ("true", "true"), ("true", "true"), ("false", "true")]
    evaluated = ["evaluate", tiny_run.folder, "--data", source, "--base", tiny_base("bert")]
    code, out, err = cli(*evaluated)
    assert "tiny: 50.0% of the claims are longer than it reads" in out, err
    _, out, _ = cli(*evaluated, "--json")
    assert json.loads(out)["tiny"]["truncated"] == 0.5


def test_the_page_says_how_many_words_were_read(tiny_engine, tiny_base, make_adapter):
    classify = answers.classifier(tiny_engine)
    for claim, words in ((FULL, None), (LONG, LIMIT - 2)):
        question = answers.Question(claim=claim, adapters=("tiny",))
        result = classify(question)
        assert result.adapters["tiny"].words_read == words
        sentence = "Only the first 62 words of the claim were read: this adapter reads no more."
        assert (sentence in cards.answers(result, question)) == (words is not None)


def test_a_mixed_request_keeps_the_marks_of_each_adapter(tiny_engine, tiny_base, make_adapter):
    single = make_adapter("bert", method="ia3", name="single", labels=2)
    mixed = MixedPredictor([tiny_engine, *open_predictors([single], str(tiny_base("bert")))])
    marks = {name: [verdict.truncated for verdict in verdicts] for name, verdicts in mixed.classify([FULL]).items()}
    assert marks == {"tiny": [False], "single": [True]}


def test_record_and_card_give_the_share_of_cut_claims(tiny_base, monkeypatch):
    monkeypatch.chdir(tiny_base("bert").parent)
    rows = learnable(80)
    long = " ".join(WORDS[:20] * 4)
    texts = [f"{row['claim']} {long if place % 4 < 2 else ''}" for place, row in enumerate(rows)]
    settings = {"train.min_steps": 2, "train.epochs": 0.1, "train.warmup": 0, "eval.bootstrap": 100}
    fitted = ClaimClassifier("tiny-bert", settings=settings).fit(texts, [row["label"] for row in rows])
    record = fitted.record_
    assert 0.2 < record.adapter().truncated < 0.8
    (warning,) = [text for text in record.progress.warnings if "tokens" in text]
    assert "of 64 training claims" in warning
    assert "are longer than 64 tokens, and their end is not read. The base reads no more." in warning
    card = run_cards.render(record)
    assert warning in card
    assert f"On test: {record.adapter().truncated:.1%} of the claims are longer than it reads" in card
