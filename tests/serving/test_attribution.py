"""Word attribution: each word left out alone, in one call, on the calibrated probability."""

import dataclasses

import pytest

from lorahub.errors import AdapterError, ConfigError

CLAIM = "the vaccine may cause flu, doctors never say that!"


@pytest.fixture(scope="module")
def engine(tiny_base, tiny_run, make_adapter):
    from lorahub.serving.engine.engine import Engine

    return Engine(str(tiny_base("bert")), [tiny_run.folder, make_adapter("bert", labels=5, seed=3, name="other")])


def test_an_effect_is_what_the_label_loses_without_the_word(engine):
    from lorahub.serving import attribution

    found = attribution.leave_one_out(engine, CLAIM)
    assert list(found) == ["tiny", "other"]
    for name, one in found.items():
        whole = engine.classify([CLAIM], [name])[name][0]
        assert (one.label, one.probability) == (whole.label, pytest.approx(whole.calibrated[whole.label], abs=1e-5))
        assert [CLAIM[start:end] for start, end in one.spans] == CLAIM.replace(",", " ,").replace("!", " !").split()
        for span, effect in zip(one.spans, one.effects, strict=True):
            [rest] = engine.classify([attribution.without(CLAIM, span)], [name])[name]
            assert effect == pytest.approx(whole.calibrated[whole.label] - rest.calibrated[whole.label], abs=1e-5)
        assert max(map(abs, one.effects)) > 0.001


def test_all_versions_are_one_call(engine, monkeypatch):
    from lorahub.serving import attribution

    calls, classify = [], engine.classify
    monkeypatch.setattr(
        engine, "classify", lambda texts, *rest, **named: calls.append(texts) or classify(texts, *rest, **named)
    )
    attribution.leave_one_out(engine, CLAIM, ["tiny"], evidence="a study of the city")
    [texts] = calls
    assert len(texts) == 1 + 11


@pytest.mark.parametrize(
    ("claim", "word", "rest"),
    [
        ("flu cures water", "flu", "cures water"),
        ("flu cures water", "cures", "flu water"),
        ("flu cures water.", "water", "flu cures."),
        ("it isn't 4.1 percent", "4.1", "it isn't percent"),
        ("cheap/clean", "/", "cheap clean"),
        ("say (never) again", "never", "say () again"),
    ],
)
def test_a_claim_without_a_word_is_still_a_sentence(claim, word, rest):
    from lorahub.serving import attribution

    start = claim.index(word)
    assert attribution.without(claim, (start, start + len(word))) == rest


@pytest.mark.parametrize(("claim", "count"), [("vaccine", 1), ("flu " * 101, 101)])
def test_too_few_and_too_many_words_are_an_error_with_their_number(engine, claim, count):
    from lorahub.serving import attribution

    with pytest.raises(ConfigError, match=f"has {count} words"):
        attribution.leave_one_out(engine, claim, ["tiny"])


def test_an_adapter_that_is_not_loaded_is_named(engine):
    from lorahub.serving import attribution

    with pytest.raises(AdapterError, match="'nobody'"):
        attribution.leave_one_out(engine, CLAIM, ["nobody"])


def test_an_attribution_is_plain_values(engine):
    """On ZeroGPU it is sent to the page from another process."""
    import pickle

    from lorahub.serving import attribution

    found = attribution.leave_one_out(engine, CLAIM, ["tiny"])
    assert {name: dataclasses.asdict(one) for name, one in pickle.loads(pickle.dumps(found)).items()} == {
        name: dataclasses.asdict(one) for name, one in found.items()
    }
