"""Splits that keep claims, sources and time apart."""

import datetime

import numpy as np
import pytest

from lorahub.config import DataConfig
from lorahub.data import claims, columns
from lorahub.data.tables import Writer
from lorahub.errors import DataError
from lorahub.training.run import train

LABELS = ("no", "yes", "open")


def loaded(tmp_path, rows, suffix=".jsonl", **settings):
    path = tmp_path / f"all{suffix}"
    with Writer(path, kind=suffix) as writer:
        writer.write(rows)
    return claims.load(DataConfig(id=str(path), **settings))


def shared(data, values):
    """Return how many values of `values` (claim text -> value) are in more than one split."""
    found = [{values(text) for text in part.texts} for part in data.splits.values()]
    return sum(map(len, found)) - len(set().union(*found))


@pytest.mark.parametrize("seed", range(6))
def test_few_claims_with_many_evidences_stay_in_one_split(tmp_path, seed):
    """20 claims with 6 evidences each: all claims of validation were claims of train."""
    rows = [
        {"claim": f"Claim number {claim}", "label": LABELS[claim % 3], "evidence": f"evidence {claim} {number}"}
        for claim in range(20)
        for number in range(6)
    ]
    data = loaded(tmp_path, rows, evidence="evidence", split_seed=seed)
    assert shared(data, lambda text: text) == 0
    assert not [line for line in data.warnings if "also occur in" in line or "one by one" in line]
    for part in data.splits.values():
        assert np.bincount(part.gold, minlength=3).min() > 0
    assert sum(data.source.rows.values()) == 120
    assert 18 <= data.source.rows["test"] <= 36
    assert 12 <= data.source.rows["validation"] <= 24


def test_a_claim_with_two_labels_is_kept_together(tmp_path):
    rows = [
        {"claim": f"Claim number {claim}", "label": LABELS[(claim + number // 4) % 3]}
        for claim in range(18)
        for number in range(8)
    ]
    data = loaded(tmp_path, rows)
    assert shared(data, lambda text: text) == 0
    assert all(np.bincount(part.gold, minlength=3).min() > 0 for part in data.splits.values())


def test_only_a_label_without_enough_claims_is_split_row_by_row_with_its_counts(tmp_path):
    rows = [{"claim": f"Claim number {place % 30}", "label": LABELS[place % 30 % 2]} for place in range(180)]
    rows += [{"claim": f"Rare claim {place % 2}", "label": "open"} for place in range(16)]
    data = loaded(tmp_path, rows)
    assert all(np.bincount(part.gold, minlength=3).min() > 0 for part in data.splits.values())
    known = set(data.splits["train"].texts)
    for name in ("validation", "test"):
        assert {text.split()[0] for text in data.splits[name].texts if text in known} <= {"Rare"}
    (line, *_) = [line for line in data.warnings if "one by one" in line]
    assert "open: 16 rows of 2 different claims. That is too few to keep each of these claims in one split" in line
    assert "test and train share claims, and scores on test are too good" in line


def test_no_source_is_in_two_splits(tmp_path):
    rng = np.random.default_rng(3)
    # A few sources have most of the claims, and some claims are repeated by others.
    source = (rng.pareto(1.0, 600) * 3).astype(int) % 60
    rows = [
        {
            "claim": f"Claim {place % 550}",
            "label": LABELS[int(rng.integers(2))],
            "author": f"author {source[place % 550]}",
        }
        for place in range(600)
    ]
    authors = {row["claim"]: row["author"] for row in rows}
    data = loaded(tmp_path, rows, group="author")
    assert shared(data, authors.get) == 0
    assert shared(data, lambda text: text) == 0
    assert 90 <= data.source.rows["test"] <= 150
    assert shared(loaded(tmp_path, rows), authors.get) > 0, "a random split mixes them"
    assert shared(claims.ClaimData(labels=data.labels, splits=data.random, source=data.source), authors.get) > 0


def test_sources_that_cannot_be_split_are_an_error_with_their_number(tmp_path):
    rows = [{"claim": f"Claim {place}", "label": LABELS[place % 2], "site": f"site {place % 2}"} for place in range(80)]
    with pytest.raises(DataError, match=r"the label (no|yes) occurs in 1 of 2 sources \(data\.group\)"):
        loaded(tmp_path, rows, group="site")
    with pytest.raises(DataError, match=r"no column 'sight'.*'site'.*--set data\.group=COLUMN"):
        loaded(tmp_path, rows, group="sight")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_test_holds_the_newest_claims(tmp_path, suffix):
    start = datetime.date(2024, 1, 1)
    order = np.random.default_rng(0).permutation(200)
    rows = [
        {"claim": f"Claim {day}", "label": LABELS[int(day) % 2], "day": start + datetime.timedelta(days=int(day) // 2)}
        for day in order
    ]
    if suffix == ".csv":
        rows = [{**row, "day": row["day"].isoformat()} for row in rows]
    data = loaded(tmp_path, rows, suffix, date="day")
    days = {name: [int(text.split()[1]) // 2 for text in part.texts] for name, part in data.splits.items()}
    assert min(days["test"]) > max(*days["train"], *days["validation"])
    assert data.source.rows["test"] == 40, "both claims of a day are on one side"
    assert "test the newest by 'day'" in data.warnings[0]


def test_dates_of_every_kind_grow_with_time():
    kinds = [
        ["2023", "2024.5"],
        [2023, 2024.5],
        ["2023-12-31", "2024-01-01T00:00:00Z", "2024-01-01 12:30:00+00:00"],
        [datetime.date(2023, 12, 31), datetime.datetime(2024, 1, 1, 3)],
    ]
    for values in kinds:
        found = [columns.date_value(value, "here") for value in values]
        assert found == sorted(set(found))
    for value in ("yesterday", None, True, float("nan"), "2024-13-01"):
        with pytest.raises(DataError, match="here holds .* not a date such as 2026-11-30"):
            columns.date_value(value, "here")


@pytest.mark.slow
def test_a_run_reports_how_much_easier_a_random_split_is(tmp_path, tiny_base):
    # The word that tells the label changes with time.
    rows = [
        {
            "claim": f"{('flu', 'tax')[(place + place // 160) % 2]} claim {place}",
            "label": LABELS[place % 2],
            "year": place,
        }
        for place in range(200)
    ]
    path = tmp_path / "all.jsonl"
    with Writer(path, kind=".jsonl") as writer:
        writer.write(rows)
    settings = ["data.date=year", "train.min_steps=2", "train.epochs=0.1", "train.warmup=0", "eval.bootstrap=100"]
    run = train(data=str(path), base=str(tiny_base("bert")), out=tmp_path / "run", settings=settings)
    (line,) = [line for line in run.record.progress.warnings if "random split" in line]
    assert line.startswith("test split by data.date: TF-IDF has macro F1 0.")
    assert ", -0." in line, "it is worse on what is new"
