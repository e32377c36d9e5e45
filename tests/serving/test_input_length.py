"""How many tokens a model reads is a property of its run, and the same wherever the model is used."""

import numpy as np
import pytest

from lorahub import ClaimClassifier
from lorahub.config import BaseConfig
from lorahub.hub import fetch
from lorahub.models import adapters
from lorahub.models import base as bases
from lorahub.serving import load_checks
from lorahub.serving.loading import MixedPredictor, open_predictors
from lorahub.training.folder import probe_logits

pytestmark = pytest.mark.slow

ALONE = ("full", "ia3", "prompt", "prefix", "p-tuning")
POSITIONS, LENGTH, SHORT = 320, 256, 40
# Texts that differ in a few words: within the default length, between it and the length of the run, and beyond that.
PLAIN = ["city"] * 300
TEXTS = [" ".join([*PLAIN[:place], *["cancer"] * 20, *PLAIN[place + 20 :]]) for place in (60, 200, 270)]


@pytest.fixture(scope="module")
def folders(make_adapter):
    """One adapter per method that reads 256 tokens, beside two LoRA adapters that read 40 and 256."""
    made = {
        method: make_adapter("bert", method=method, name=method, max_length=LENGTH, positions=POSITIONS)
        for method in (*ALONE, "lora")
    }
    return {**made, "short": make_adapter("bert", name="short", max_length=SHORT, positions=POSITIONS)}


def reads(logits):
    """Return which of the words in TEXTS change the logits (4, C) of the texts and of one without them."""
    return [not np.allclose(row, logits[-1], atol=1e-5, rtol=0) for row in logits[:-1]]


def test_each_model_reads_the_length_of_its_run_also_beside_others(folders, tiny_base):
    base = str(tiny_base("bert", POSITIONS))
    texts = [*TEXTS, " ".join(PLAIN)]
    predictor = MixedPredictor(open_predictors(list(folders.values()), base))
    answered = predictor.logits(texts)
    found = {name: reads(answered[name]) for name in folders}
    assert found == {**{name: [True, True, False] for name in folders}, "short": [False, False, False]}
    for name in ALONE:
        (alone,) = open_predictors([folders[name]], base)
        np.testing.assert_allclose(alone.logits(texts)[name], answered[name], atol=1e-4)


def test_probes_load_checks_and_classifiers_read_the_same(folders, tiny_base):
    base = str(tiny_base("bert", POSITIONS))
    claims = load_checks.claims_of([load_checks.ProbeRow(claim=text, logits=[]) for text in (*TEXTS, " ".join(PLAIN))])
    for name in ALONE:
        (predictor,) = open_predictors([folders[name]], base)
        served = predictor.logits(claims.texts)[name]
        fresh = bases.load(BaseConfig(id=base), predictor.adapters[name].labels)
        # As `lorahub verify` measures it, with a config of the base that has another length.
        probed = probe_logits(adapters.load_with_peft(fetch.adapter(folders[name]).folder, fresh), fresh, claims)
        assert reads(probed) == [True, True, False], name
        np.testing.assert_allclose(probed, served, atol=1e-4)
        assert all(check.ok is not False for check in load_checks.check(predictor, name, claims)), name
        classifier = ClaimClassifier.from_pretrained(folders[name], base=base)
        assert reads(classifier.predict_proba(claims.texts)) == [True, True, False], name
