"""The report on ranks: the plateau, its uncertainty, and truncation against training."""

import json
from pathlib import Path

import numpy as np
import pytest
from field_tables import documented, leaves, matches

from lorahub.experiments.ranks import report
from lorahub.experiments.ranks.result import SPLITS, CurveInfo, RankResult, build_curves

PAGE = (Path(__file__).parents[2] / "docs" / "ranks.md").read_text(encoding="utf-8")
ABOUT = CurveInfo(
    run="high", data="claims.csv", base="minilm", method="rslora", seed=3, rank=8, epochs=4.0,
    claims={"train": 1500, "validation": 800, "test": 1200}, metric="f1_macro", confidence=0.9, resamples=400,
)  # fmt: skip


def made(truncated, retrained=None):
    """Return curves whose ranks change the given shares of the answers."""
    rng = np.random.default_rng(0)
    gold = {split: rng.integers(0, 2, ABOUT.claims[split]) for split in SPLITS}
    best = {split: np.where(rng.random(len(ids)) < 0.9, ids, 1 - ids) for split, ids in gold.items()}

    def results(shares, kept):
        return [
            RankResult(
                rank=rank, alpha=2.0 * rank, scale=2.0, kept=kept and kept[rank],
                answers={
                    split: np.where(rng.random(len(ids)) < share, 1 - ids, ids) for split, ids in best.items()
                },
            )
            for rank, share in shares.items()
        ]  # fmt: skip

    kept = {1: 0.5, 2: 0.8, 4: 0.95, 8: 1.0}
    truncated, retrained = results(truncated, kept), results(retrained or {}, None)
    return build_curves(ABOUT, gold, 2, truncated=truncated, retrained=retrained, margin=0.02)


@pytest.fixture(scope="module")
def both():
    return made({1: 0.4, 2: 0.2, 4: 0, 8: 0}, {1: 0.0, 4: 0.3, 8: 0})


def test_the_sentences(both):
    sentences = report.build(both).sentences
    assert sentences[0] == (
        "By truncation, the plateau begins at rank 4 (no other in 90 % of resamples): the lowest that validation shows "
        "to be at most 0.02 below rank 8 in macro F1: +0.000 [-0.007, +0.007]."
    )
    # Rank 1 is as good as rank 8, but rank 4 above it is not.
    assert sentences[1].startswith("By training at each rank, the plateau begins at rank 8 (no other in 90 %")
    assert sentences[2].startswith("At rank 1, truncated minus trained: macro F1 on validation -0.")
    assert sentences[2].endswith("], worse.")
    assert sentences[3].startswith("At rank 4, truncated minus trained: macro F1 on validation +0.")
    assert sentences[3].endswith("], better.")
    assert len(sentences) == 4


def test_without_a_plateau_it_says_so():
    found = made({1: 0.4, 2: 0.3, 4: 0.1, 8: 0})
    assert report.build(found).sentences == [
        "By truncation, the plateau begins at rank 8 (no other in 90 % of resamples): validation does not show a lower "
        "rank to be within 0.02 of its macro F1."
    ]
    assert "another seed" not in report.build(found).explanation
    assert found.retrained is None


def test_the_table_has_the_run_once_and_both_ways_side_by_side(both):
    table = report.build(both).tables[0]
    rows = table.rows
    assert [row[:2] for row in rows] == [
        ("1", "truncated"), ("1", "trained at it"), ("2", "truncated"), ("4", "truncated"), ("4", "trained at it"),
        ("8", "the run"),
    ]  # fmt: skip
    assert [row[3] for row in rows] == ["50.0%", "", "80.0%", "95.0%", "", "100.0%"]
    assert rows[-1][5] == rows[-1][7] == ""
    assert all(len(row) == len(table.header) for row in rows)


def test_the_files(both, tmp_path):
    written = report.build(both).save(tmp_path)
    assert [path.name for path in written] == ["ranks.md", "ranks.png", "ranks.json"]
    text = written[0].read_text()
    for words in (
        "high: rslora of rank 8 on claims.csv, 1,500 training claims, 4 epochs, seed 3, minilm",
        "(ranks.png)",
    ):
        assert words in text
    assert written[1].read_bytes().startswith(b"\x89PNG")
    assert json.loads(written[2].read_text()) == json.loads(json.dumps(both.to_dict()))


def test_every_field_is_documented(both):
    fields, paths = documented(PAGE), [path for path, _ in leaves(json.loads(json.dumps(both.to_dict())))]
    for path in paths:
        assert any(matches(field, path) for field in fields), f"docs/ranks.md lacks {'.'.join(path)}"
    for field in fields:
        assert field == ("CURVE",) or any(matches(field, path) for path in paths), f"no {'.'.join(field)} in the JSON"
