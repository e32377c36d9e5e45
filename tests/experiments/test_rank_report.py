"""The report on ranks: what is said of a plateau, of its uncertainty, and of truncation beside training."""

import json
from pathlib import Path

import numpy as np
import pytest
from field_tables import documented, leaves, matches

from lorahub.experiments.ranks import report as ranks_report
from lorahub.experiments.ranks.curves import SPLITS, About, Tried, curves

PAGE = (Path(__file__).parents[2] / "docs" / "ranks.md").read_text(encoding="utf-8")
ABOUT = About(
    run="high", data="claims.csv", base="minilm", method="rslora", seed=3, rank=8, epochs=4.0,
    claims={"train": 1500, "validation": 800, "test": 1200}, metric="f1_macro", confidence=0.9, resamples=400,
)  # fmt: skip


def made(truncated, retrained=None):
    """Curves whose ranks turn the given shares of the right answers."""
    rng = np.random.default_rng(0)
    gold = {split: rng.integers(0, 2, ABOUT.claims[split]) for split in SPLITS}
    best = {split: np.where(rng.random(len(ids)) < 0.9, ids, 1 - ids) for split, ids in gold.items()}

    def tried(shares, kept):
        return [
            Tried(
                rank=rank, alpha=2.0 * rank, scale=2.0, kept=kept and kept[rank],
                answers={
                    split: np.where(rng.random(len(ids)) < share, 1 - ids, ids) for split, ids in best.items()
                },
            )
            for rank, share in shares.items()
        ]  # fmt: skip

    kept = {1: 0.5, 2: 0.8, 4: 0.95, 8: 1.0}
    return curves(ABOUT, gold, 2, truncated=tried(truncated, kept), retrained=tried(retrained or {}, None))


@pytest.fixture(scope="module")
def both():
    return made({1: 0.4, 2: 0.2, 4: 0, 8: 0}, {1: 0.0, 4: 0.3, 8: 0})


def test_the_sentences(both):
    sentences = ranks_report.verdicts(both)
    assert sentences[0] == (
        "By truncation, the plateau begins at rank 4 (no other in 90 % of resamples): the smallest whose macro F1 on "
        "validation is inside the noise of rank 8: +0.000 [+0.000, +0.000]."
    )
    assert sentences[1].startswith("By training at each rank, the plateau begins at rank 1 (no other in 90 %")
    assert sentences[2].startswith("At rank 1, truncated less trained: macro F1 on validation -0.")
    assert sentences[2].endswith("], worse.")
    assert sentences[3].startswith("At rank 4, truncated less trained: macro F1 on validation +0.")
    assert sentences[3].endswith("], better.")
    assert len(sentences) == 4


def test_without_a_plateau_it_says_so():
    found = made({1: 0.4, 2: 0.3, 4: 0.1, 8: 0})
    assert ranks_report.verdicts(found) == [
        "By truncation, the plateau begins at rank 8 (no other in 90 % of resamples): every lower rank that was tried "
        "is detectably worse on validation."
    ]
    assert "another seed" not in ranks_report.explanation(found)
    assert found.retrained is None


def test_the_table_has_the_run_once_and_both_ways_side_by_side(both):
    rows = ranks_report.rows(both)
    assert [row[:2] for row in rows] == [
        ("1", "truncated"), ("1", "trained at it"), ("2", "truncated"), ("4", "truncated"), ("4", "trained at it"),
        ("8", "the run"),
    ]  # fmt: skip
    assert [row[3] for row in rows] == ["50.0%", "", "80.0%", "95.0%", "", "100.0%"]
    assert rows[-1][5] == rows[-1][7] == ""
    assert all(len(row) == len(ranks_report.header(both)) for row in rows)


def test_the_files(both, tmp_path):
    written = ranks_report.save(both, tmp_path)
    assert [path.name for path in written] == ["ranks.md", "ranks.png", "ranks.json"]
    told = written[0].read_text()
    for words in (
        "high: rslora of rank 8 on claims.csv, 1,500 training claims, 4 epochs, seed 3, minilm",
        "(ranks.png)",
    ):
        assert words in told
    assert written[1].read_bytes().startswith(b"\x89PNG")
    assert json.loads(written[2].read_text()) == json.loads(json.dumps(both.to_dict()))


def test_every_field_is_documented(both):
    fields, paths = documented(PAGE), [path for path, _ in leaves(json.loads(json.dumps(both.to_dict())))]
    for path in paths:
        assert any(matches(field, path) for field in fields), f"docs/ranks.md lacks {'.'.join(path)}"
    for field in fields:
        assert field == ("CURVE",) or any(matches(field, path) for path in paths), f"no {'.'.join(field)} in the JSON"
