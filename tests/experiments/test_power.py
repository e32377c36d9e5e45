"""`lorahub power`: the claims that a difference needs, against simulation, and what the data set has."""

import json
from pathlib import Path

import numpy as np
import pytest
from field_tables import documented, leaves, matches

from lorahub.experiments.power import report
from lorahub.experiments.power.run import power
from lorahub.stats import bootstrap, equivalence, few_claims, paired

PAGE = (Path(__file__).parents[2] / "docs" / "power.md").read_text(encoding="utf-8")


def draw(rng, claims, disagreement, difference):
    """Return gold ids, and answers of two systems that disagree on a share of the claims."""
    lost, gained = (disagreement - difference) / 2, (disagreement + difference) / 2
    gold = rng.integers(0, 2, claims)
    kind = rng.choice(3, p=[lost, gained, 1 - disagreement], size=claims)
    return gold, np.where(kind == 0, 1 - gold, gold), np.where(kind == 1, 1 - gold, gold)


@pytest.mark.slow
def test_the_claims_detect_the_difference_and_show_equivalence_with_power_80_percent():
    result = power(data="starter-wording", difference=0.05, disagreements=[0.2])
    row = next(row for row in result.requirements if row.metric == "accuracy")
    rng, detected, shown, trials = np.random.default_rng(0), 0, 0, 200
    for _ in range(trials):
        answers = draw(rng, row.to_detect, 0.2, 0.05)
        difference = paired.differences(*answers, 2, resamples=400, confidence=0.95)["accuracy"]
        detected += difference.detectable
        answers = draw(rng, row.to_show, 0.2, 0.0)
        draws = bootstrap.paired_draws(*answers, 2, resamples=400).metrics["accuracy"]
        unseen = few_claims.unseen_flips(answers[0], answers[1:], 2, metric="accuracy", confidence=0.95)
        shown += equivalence.test([draws], [unseen], row.to_show, margin=0.05, confidence=0.95)[0].equivalent
    assert detected / trials == pytest.approx(0.8, abs=0.09)
    assert shown / trials == pytest.approx(0.8, abs=0.09)


def test_it_counts_the_claims_that_the_data_has(cli):
    code, out, err = cli("power", "--data", "starter-wording", "--difference", 0.02, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert (found["data"], found["split"], found["claims"]) == ("starter-wording", "test", 180)
    assert sum(found["labels"].values()) == 180
    accuracy = [row for row in found["requirements"] if row["metric"] == "accuracy"]
    assert [row["disagreement"] for row in accuracy] == [0.05, 0.1, 0.2, 0.4]
    # (1.96 + 0.84)^2 psi / d^2
    assert accuracy[1]["to_detect"] == pytest.approx(7.849 * 0.1 / 0.02**2, rel=0.001)
    assert accuracy[1]["detectable"] == pytest.approx(np.sqrt(7.849 * 0.1 / 180), rel=0.001)
    macro = [row for row in found["requirements"] if row["metric"] == "f1_macro"]
    assert all(row["to_detect"] >= other["to_detect"] for row, other in zip(macro, accuracy, strict=True))
    for path, _ in leaves(found):
        assert any(matches(field, path) for field in documented(PAGE)), f"docs/power.md lacks {path}"


def test_the_sentences_say_whether_they_are_enough():
    few = report.build(power(data="starter-wording", difference=0.02)).sentences
    assert few[0].startswith("Too few claims for a difference of 0.02 in accuracy: 982 or more are needed")
    many = report.build(power(data="starter-wording", difference=0.2)).sentences
    assert many[0].startswith("Enough claims for a difference of 0.2 in accuracy if the systems disagree on up to")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--difference", 0], "--difference is between 0 and 1, as in 0.02; found 0"),
        (["--difference", 1], "--difference is between 0 and 1"),
        (["--disagreement", 0.01], "--disagreement 0.01 is not between the difference, 0.02, and 1"),
        (["--split", "dev"], "--split is one of train, validation, test; found 'dev'"),
        (["--data", "nowhere.csv"], "nowhere.csv"),
    ],
)
def test_bad_input_is_one_line(cli, arguments, words):
    code, out, err = cli("power", "--data", "starter-wording", *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert len(err.strip().splitlines()) == 1
