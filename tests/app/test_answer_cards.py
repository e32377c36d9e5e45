"""Who agrees, who is unsure, and which words moved an answer, as a reader without colors gets them."""

from urllib.parse import parse_qs

from test_html import NASTY, Reader

from lorahub.app import answers, cards
from lorahub.app.answers import AdapterAnswer, Answers
from lorahub.serving.attribution import Attribution
from lorahub.serving.predictor import Verdict


def verdict(label, labels=("false", "true"), **more):
    shares = {name: 0.8 if name == label else 0.2 / (len(labels) - 1) for name in labels}
    return Verdict(label=label, probabilities=shares, calibrated=shares, **more)


def answered(verdicts, base=None, heads=(), **more):
    """Answers and their question, as the engine's verdicts would give them."""
    question = answers.Question(claim=NASTY, adapters=tuple(verdicts), **more)
    adapters = {
        name: AdapterAnswer(adapter=one, base=(base or {}).get(name), scales=name not in heads)
        for name, one in verdicts.items()
    }
    agreement = answers.agreement(verdicts)
    result = Answers(
        claim=NASTY, strength=question.strength, seconds=0.01, device="cpu", adapters=adapters, agreement=agreement
    )
    return result, question


def test_only_adapters_with_the_same_labels_agree_or_disagree():
    same, _ = answered({"a": verdict("true"), "b": verdict("true", ("true", "false")), "c": verdict("x", ("x", "y"))})
    assert cards.agreement(same) == ["a and b agree: true."]
    split, _ = answered({"a": verdict("true"), "b": verdict("false"), "c": verdict("true")})
    assert cards.agreement(split) == ["The adapters with the same labels disagree. a and c: true; b: false."]
    alone, _ = answered({"a": verdict("true"), "c": verdict("x", ("x", "y"))})
    assert cards.agreement(alone) == []


def test_it_is_said_where_the_base_alone_answers_differently():
    two = {"a": verdict("true"), "c": verdict("x", ("x", "y"))}
    differing, _ = answered(two, {"a": verdict("false"), "c": verdict("x", ("x", "y"))})
    assert cards.agreement(differing) == ["The base alone answers differently from a."]
    same, _ = answered(two, two)
    assert cards.agreement(same) == ["The base alone agrees."]
    partly, _ = answered(two, {"a": verdict("true")})  # nothing is known of the other's base
    assert cards.agreement(partly) == ["The base alone agrees with a."]


def test_an_answer_below_the_threshold_is_marked_in_words():
    sure, asked = answered({"a": verdict("true")})
    unsure, _ = answered({"a": verdict("true", abstain=True)})
    assert "Unsure" not in cards.answers(sure, asked)
    assert "Unsure: 80% is below this adapter's threshold. Let a person decide." in "".join(
        Reader(cards.answers(unsure, asked)).texts
    )


def test_another_strength_is_said_with_what_it_costs_and_what_it_cannot_change():
    both = {"a": verdict("true"), "head": verdict("x", ("x", "y"))}
    text = "".join(Reader(cards.answers(*answered(both, heads=["head"], strength=0.5))).texts)
    assert (
        "Strength 0.5: 0.5 times each adapter's change. Calibration and threshold were chosen for strength 1." in text
    )
    assert text.count("with the adapter at 0.5") == 2
    assert text.count("no strength") == 1
    trained = "".join(Reader(cards.answers(*answered(both, heads=["head"]))).texts)
    assert "trength" not in trained
    base = "".join(Reader(cards.answers(*answered(both, strength=0.0))).texts)
    assert "Strength 0: each adapter's head on the base itself." in base


def test_every_value_stays_text():
    nasty = verdict(NASTY, (NASTY, "b"), abstain=True)
    read = Reader(cards.answers(*answered({NASTY: nasty}, {NASTY: nasty})))
    assert "script" not in read.tags
    assert sum(text == NASTY for text in read.texts) == 5  # heading, two verdicts, two bars
    assert f"“{NASTY}”" in read.texts


def test_the_largest_share_comes_first_and_the_bar_is_as_wide():
    made = cards.answers(*answered({"one": verdict("b", ("a", "b"))}))
    assert made.index("b</span>") < made.index("a</span>")
    assert "width:80.0%" in made
    assert "20%" in Reader(made).texts


def test_the_link_holds_the_whole_question():
    asked = answers.Question(claim="a & b = ä?", adapters=("x y", "z&"), evidence="so; it says", strength=0.5)
    assert parse_qs(cards.link(asked).removeprefix("?")) == {
        "claim": ["a & b = ä?"],
        "adapters": ["x y", "z&"],
        "evidence": ["so; it says"],
        "strength": ["0.5"],
    }


def test_marked_words_need_no_color_and_stay_text():
    claim = f"cures {NASTY} not flu"
    spans = [(0, 5), (len(claim) - 7, len(claim) - 4), (len(claim) - 3, len(claim))]
    attribution = Attribution(label=NASTY, probability=0.8, spans=spans, effects=[0.314, -0.05, 0.004])
    made = cards.words(claim, {NASTY: attribution})
    read = Reader(made)
    assert "script" not in read.tags
    text = "".join(read.texts)
    assert f"cures+31 {NASTY} not\u22125 flu" in text
    assert "solid line and plus" in text
    assert "dashed line and minus" in text
