"""The engine: which adapters read evidence, and warming up."""

import json
import logging
import shutil

import numpy as np
import pytest
from conftest import sentences

from lorahub.serving.engine.engine import Engine


@pytest.fixture(scope="module")
def pair_and_single(tiny_run, tmp_path_factory):
    """The same adapter twice: once with a record of claims alone, once with one of claims and evidence."""
    folder = shutil.copytree(tiny_run.folder, tmp_path_factory.mktemp("pairs") / "pair")
    record = json.loads((folder / "record.json").read_text())
    record["asked"]["data"]["evidence"] = "source"
    (folder / "record.json").write_text(json.dumps(record))
    return folder, tiny_run.folder


def test_evidence_reaches_only_adapters_that_were_trained_with_it(pair_and_single, tiny_base, caplog):
    engine = Engine(str(tiny_base("bert")), pair_and_single)
    texts, evidence = sentences(4, seed=2), sentences(4, seed=3)
    alone, beside = engine.logits(texts), engine.logits(texts, evidence=evidence)
    np.testing.assert_allclose(alone["pair"], alone["tiny"], atol=1e-5)
    np.testing.assert_allclose(beside["tiny"], alone["tiny"], atol=1e-5)
    assert np.abs(beside["pair"] - alone["pair"]).max() > 1e-2
    assert "pair was trained on claims with evidence" in caplog.text


def test_no_warning_if_no_evidence_is_missing(pair_and_single, tiny_base, caplog):
    engine = Engine(str(tiny_base("bert")), pair_and_single)
    with caplog.at_level(logging.WARNING):
        engine.classify(["the vaccine"], ["tiny"])
        engine.classify(["the vaccine"], ["pair"], evidence=["a study"])
    assert caplog.text == ""


def test_warm_up_runs_the_base_and_the_adapters_up_to_the_longest_input(tiny_run, tiny_base):
    engine = Engine(str(tiny_base("bert")), [tiny_run.folder])
    seen, run = [], engine._forward.run
    engine._scheduler._run = lambda slices: (seen.append((slices[0].job.kind, slices[0].job.longest)), run(slices))[1]
    engine.warm_up()
    assert {kind for kind, _ in seen} == {"features", "logits"}
    assert max(tokens for _, tokens in seen) == engine._base.max_length
    assert engine.status().requests == 0
