"""Claims: columns, labels, splits and leakage, on files as people have them."""

import json

import numpy as np
import pytest

from lorahub.config import DataConfig
from lorahub.data import claims, leakage, table_check
from lorahub.data.claimset import ClaimSet
from lorahub.data.named import NAMED
from lorahub.data.tables import Writer
from lorahub.errors import DataError


def rows(count=60, labels=("no", "yes")):
    return [
        {"claim": f"claim number {index} of this file", "label": labels[index % len(labels)]} for index in range(count)
    ]


def folder(tmp_path, parts, suffix=".csv"):
    for name, content in parts.items():
        with Writer(tmp_path / f"{name}{suffix}", kind=suffix) as writer:
            writer.write(content)
    return str(tmp_path)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_every_format_gives_the_same_claims(tmp_path, suffix):
    content = [{**row, "claim": row["claim"] + ' with "quotes", commas\tand é 😷'} for row in rows()]
    found = claims.load(DataConfig(id=folder(tmp_path, {"train": content, "test": content[:20]}, suffix)))
    assert found.labels.names == ("no", "yes")
    assert found.splits["test"].texts[3] == content[3]["claim"]
    expected = found.source.sha256["test"]
    assert expected == ClaimSet(texts=[row["claim"] for row in content[:20]], gold=np.arange(20) % 2).sha256(
        found.labels
    )


def test_one_file_is_split_by_label_and_the_same_way_each_time(tmp_path):
    content = rows(200, labels=("a", "a", "a", "b", "c"))
    path = folder(tmp_path, {"all": content}) + "/all.csv"
    first, second = (claims.load(DataConfig(id=path)) for _ in range(2))
    assert first.source.sha256 == second.source.sha256
    assert first.source.rows == {"train": 140, "validation": 20, "test": 40}
    shares = np.bincount(first.splits["test"].gold) / 40
    np.testing.assert_allclose(shares, [0.6, 0.2, 0.2], atol=0.03)
    texts = [set(part.texts) for part in first.splits.values()]
    assert not texts[0] & texts[1]
    assert not texts[0] & texts[2]
    other = claims.load(DataConfig(id=path, split_seed=1))
    assert other.source.sha256 != first.source.sha256


def test_missing_validation_is_taken_from_train_and_said(tmp_path):
    found = claims.load(DataConfig(id=folder(tmp_path, {"train": rows(100), "test": rows(30)})))
    assert found.source.rows == {"train": 90, "validation": 10, "test": 30}
    assert any("no validation" in text for text in found.warnings)


def test_class_indexes_and_minus_one_rows_as_pubhealth_has_them_on_the_hub(tmp_path, monkeypatch):
    content = [{"claim": f"health claim {index}", "label": [0, 1, 2, 3, -1][index % 5]} for index in range(100)]
    target = tmp_path / "pubhealth"
    target.mkdir()
    folder(target, {"train": content, "validation": content[:25], "test": content[25:50]}, ".parquet")
    monkeypatch.setenv("LORAHUB_DATA", str(tmp_path))
    found = claims.load(DataConfig(id="pubhealth"))
    assert found.labels.names == ("false", "mixture", "true", "unproven")
    assert found.source.rows["train"] == 80
    assert found.source.dropped_rows["train"] == 20
    assert found.splits["train"].gold[:4].tolist() == [0, 1, 2, 3]
    assert found.source.kind == "local copy"


def test_label_order_and_mapping_are_the_users(tmp_path):
    content = [{"text": f"sentence {index}", "verdict": str(index % 3)} for index in range(90)]
    path = folder(tmp_path, {"all": content}) + "/all.csv"
    config = DataConfig(id=path, labels=("yes", "no"), label_map={"0": "no", "1": "yes"}, drop_labels=("2",))
    with pytest.raises(DataError, match="gives the label away"):
        claims.load(DataConfig(id=path, claim="verdict", label="text"))
    found = claims.load(config)
    assert found.labels.names == ("yes", "no")
    assert found.source.rows == {"train": 42, "validation": 6, "test": 12}


def test_evidence_is_a_second_text_and_may_be_missing(tmp_path):
    content = [{**row, "evidence": "a long study" if index % 2 else None} for index, row in enumerate(rows())]
    target = folder(tmp_path, {"train": content}, ".jsonl")
    assert claims.load(DataConfig(id=target)).splits["train"].evidence is None
    found = claims.load(DataConfig(id=target, evidence="evidence"))
    assert set(found.splits["train"].evidence) == {"", "a long study"}
    assert found.splits["train"].joined()[1].startswith("claim number")


@pytest.mark.parametrize("column", ["explanation", "justification", "half_true_counts", "rationale", "label"])
def test_columns_that_leak_the_verdict_are_refused_unless_forced(tmp_path, column):
    content = [
        {**row, "explanation": "x", "justification": "x", "half_true_counts": "3", "rationale": "x"} for row in rows()
    ]
    target = folder(tmp_path, {"train": content})
    with pytest.raises(DataError, match="allow_leaking"):
        claims.load(DataConfig(id=target, evidence=column))
    forced = claims.load(DataConfig(id=target, evidence=column, allow_leaking=True))
    assert forced.splits["train"].evidence is not None


def test_a_test_label_that_training_never_saw_is_an_error_with_its_row(tmp_path):
    bad = [*rows(10), {"claim": "another", "label": "maybe"}]
    target = folder(tmp_path, {"train": rows(), "test": bad})
    with pytest.raises(DataError, match=r"test\.csv, row 11.*'maybe'"):
        claims.load(DataConfig(id=target))


def test_near_duplicates_between_splits_are_counted():
    rng = np.random.default_rng(0)
    train = [" ".join(f"word{number}" for number in rng.choice(200, 30)) for _ in range(30)]
    one_word, four_words = train[1].split(), train[2].split()
    one_word[7] = "autumn"
    four_words[2::8] = ["spring", "summer", "autumn", "winter"]
    test = [train[0].upper() + "!", " ".join(one_word), " ".join(four_words), "something else about bees and flowers"]
    exact, near = leakage.duplicates(train, test)
    assert (exact, near) == (1, 1)
    parts = {"train": train, "validation": ["nothing shared here"], "test": test}
    lines = leakage.report({name: ClaimSet(texts=texts, gold=np.zeros(len(texts))) for name, texts in parts.items()})
    assert len(lines) == 1
    assert "1 of 4 test claims" in lines[0]


def test_words_that_only_one_split_has_make_claims_differ():
    train = ["masks cause cancer in mice", "other words entirely here"]
    test = ["masks cause cancer in mice, announced Brazilian epidemiologist Ferreira yesterday during a symposium"]
    assert leakage.duplicates(train, test) == (0, 0)


def test_claims_without_words_are_compared_by_their_signs():
    assert leakage.duplicates(["😀😀", "hello there"], ["🔥🔥🔥", " 😀😀 "]) == (1, 0)


def test_shared_evidence_is_not_called_a_shared_claim(tmp_path):
    article = " ".join(f"word{place}" for place in range(200))
    train = [{**row, "evidence": article} for row in rows()]
    test = [{"claim": f"masks are useless outdoors {word}", "evidence": article, "label": label}
            for word, label in (("often", "no"), ("never", "yes"))]  # fmt: skip
    target = folder(tmp_path, {"train": train, "validation": [{**row, "evidence": ""} for row in test], "test": test})
    found = claims.load(DataConfig(id=target, evidence="evidence"))
    about_test = [line for line in found.warnings if "test claims" in line and "train" in line]
    assert about_test == ["2 of 2 test claims share their evidence with a claim of train."]


@pytest.mark.parametrize("count", [45, 60])
@pytest.mark.parametrize("seed", range(4))
def test_the_same_claim_never_stands_on_two_sides_of_our_own_split(tmp_path, count, seed):
    rng = np.random.default_rng(seed)
    drawn = [*rng.integers(0, count, 60), *[count] * 15]
    content = [
        {"claim": f"Claim {place}" + "!" * int(rng.integers(2)), "label": "yes" if place % 3 else "no"}
        for place in drawn
    ]
    path = folder(tmp_path, {"all": content}) + "/all.csv"
    found = claims.load(DataConfig(id=path, split_seed=seed))
    assert not [line for line in found.warnings if "also occur in" in line]
    texts = {name: {leakage.normalise(text) for text in part.texts} for name, part in found.splits.items()}
    assert sum(map(len, texts.values())) == len({leakage.normalise(row["claim"]) for row in content})
    sizes = found.source.rows
    assert sum(sizes.values()) == 75
    assert 8 <= sizes["test"] <= 22
    assert 3 <= sizes["validation"] <= 14
    for part in found.splits.values():
        assert np.bincount(part.gold, minlength=2).min() > 0


def test_splits_of_different_claims_are_those_of_plain_stratified_sampling(tmp_path):
    """Runs made before claims were kept together find their test claims again."""
    from sklearn.model_selection import train_test_split

    path = folder(tmp_path, {"all": rows(67)}) + "/all.csv"
    labels = np.arange(67) % 2
    rest, test = train_test_split(np.arange(67), test_size=13, stratify=labels, random_state=0)
    found = claims.load(DataConfig(id=path))
    assert found.splits["test"].texts == [rows(67)[place]["claim"] for place in np.sort(test)]


def test_too_few_rows_are_counted_before_the_first_cut(tmp_path):
    with pytest.raises(
        DataError, match=r"12 claims \(12 different\).*rarest label is .no. with 6 \(no 6, yes 6\).*validation_fraction"
    ):
        claims.load(DataConfig(id=folder(tmp_path, {"all": rows(12)}) + "/all.csv"))


def test_dropped_rows_of_one_file_are_recorded(tmp_path):
    content = [*rows(), *({"claim": f"dropped {place}", "label": "unclear"} for place in range(7))]
    path = folder(tmp_path, {"all": content}) + "/all.csv"
    found = claims.load(DataConfig(id=path, drop_labels=("unclear",)))
    assert found.source.dropped_rows == {"all": 7}


def test_json_booleans_are_labels(tmp_path):
    content = [{"claim": f"claim {place}", "label": place % 2 == 0} for place in range(40)]
    for suffix in (".jsonl", ".parquet"):
        target = tmp_path / suffix[1:]
        target.mkdir()
        found = claims.load(DataConfig(id=folder(target, {"all": content}, suffix) + f"/all{suffix}"))
        assert found.labels.names == ("false", "true")


FORMS = {
    "whole numbers": ([1.0, 0.0], ["1.0", "0.0"], ("0", "1")),
    "whole numbers, some without a point": ([1, 0], ["1.0", "0"], ("0", "1")),
    "booleans": ([True, False], ["True", "FALSE"], ("false", "true")),
    # As text in every format: one value is neither.
    "texts": (["True", "Mixture"], ["True", "Mixture"], ("Mixture", "True")),
    "codes": (["1.0", "1.0a"], ["1.0", "1.0a"], ("1.0", "1.0a")),
}


@pytest.mark.parametrize("kind", FORMS)
def test_one_data_set_has_one_label_set_in_every_format(kind, tmp_path):
    typed, texts, expected = FORMS[kind]
    found = {}
    for suffix, values in ((".csv", texts), (".tsv", texts), (".jsonl", typed), (".parquet", typed)):
        target = tmp_path / suffix[1:]
        target.mkdir()
        content = [{"claim": f"claim {place}", "label": values[place % 2]} for place in range(40)]
        # The splits have one form: only train holds both values.
        parts = {"train": content, "validation": content[:39], "test": content[::2]}
        data = claims.load(DataConfig(id=folder(target, parts, suffix)))
        found[suffix] = data.labels.names, data.source.sha256
        # The values may be named as they are in any format.
        named = {texts[0]: "first", texts[1]: "second"}
        data = claims.load(DataConfig(id=folder(target, parts, suffix), label_map=named, labels=("second", "first")))
        assert data.labels.names == ("second", "first")
        table = table_check.read(target / f"train{suffix}", claim="claim", label="label")
        assert table.labels == dict.fromkeys(expected, 20)
    assert found == dict.fromkeys(found, found[".parquet"])
    assert found[".csv"][0] == expected


def test_columns_may_be_written_in_another_case_where_that_is_clear(tmp_path):
    def load(header):
        path = tmp_path / "a.csv"
        path.write_text(header + "\n" + "".join(f"claim {place},{place % 2},x\n" for place in range(60)))
        return claims.load(DataConfig(id=str(path)))

    assert load("Claim,LABEL,other").splits["train"].texts[0].startswith("claim ")
    with pytest.raises(DataError, match="no column claim or text"):
        load("Claim,label,CLAIM")
    with pytest.raises(DataError, match="gives the label away"):
        claims.load(DataConfig(id=str(tmp_path / "a.csv"), claim="LABEL"))


def test_a_named_set_goes_before_a_folder_of_that_name(tmp_path, monkeypatch):
    from lorahub.data import sources

    (tmp_path / "starter-topic").mkdir()
    folder(tmp_path / "starter-topic", {"train": rows()})
    monkeypatch.chdir(tmp_path)
    assert sources.find("starter-topic").kind == "shipped"
    assert sources.find("./starter-topic").kind == "folder"


def test_the_starter_sets_are_large_varied_and_apart():
    names = [name for name in NAMED if name.startswith("starter-")]
    assert len(names) == 3
    for name in names:
        found = claims.load(DataConfig(id=name))
        assert found.source.rows == {"train": 440, "validation": 100, "test": 180}
        assert set(np.bincount(found.splits["test"].gold) > 15) == {True}
        assert found.warnings == []
    texts = [text for part in found.splits.values() for text in part.texts]
    assert len(set(texts)) == 720
    openings = [" ".join(text.lower().split()[:3]) for text in texts]
    assert max(openings.count(opening) for opening in openings) < 10, "templates with words swapped"


def test_auto_falls_back_to_the_shipped_set_and_says_so(monkeypatch):
    monkeypatch.delenv("LORAHUB_DATA", raising=False)
    found = claims.load(DataConfig())
    assert found.source.id == "starter-wording"
    assert "pubhealth cannot be reached" in found.warnings[0]


@pytest.mark.slow
def test_real_sets_load_with_their_own_labels(shared_data):
    expected = {"pubhealth": (9811, 4), "covid19_fake_news": (6420, 2), "liar": (10269, 6), "scifact": (822, 3)}
    for name, (count, labels) in expected.items():
        found = claims.load(DataConfig(id=name), compare=False)
        assert (len(found.splits["train"]), len(found.labels)) == (count, labels)
    with pytest.raises(DataError, match="half_true_counts"):
        claims.load(DataConfig(id="liar", evidence="half_true_counts"))


def test_a_million_rows_stream_in_the_memory_of_one(tmp_path):
    import tracemalloc

    from conftest import LONG

    from lorahub.data import tables

    count = 1_000_000 if LONG else 20_000
    path = tmp_path / "large.csv"
    with Writer(path, kind=".csv") as writer:
        for start in range(0, count, 1000):
            writer.write([{"claim": f"claim {start + index}", "label": "a"} for index in range(1000)])
    tracemalloc.start()
    assert sum(1 for _ in tables.open_table(path).rows()) == count
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000, json.dumps({"peak": peak})


def test_fewer_training_claims_keep_every_label_and_the_other_splits(tmp_path):
    rows = "".join(f"claim number {number},{'ab'[number % 4 == 0]}\n" for number in range(200))
    (tmp_path / "claims.csv").write_text("claim,label\n" + rows)
    whole = claims.load(DataConfig(id=str(tmp_path / "claims.csv")))
    fewer = claims.load(DataConfig(id=str(tmp_path / "claims.csv"), train_rows=40))
    assert len(fewer.splits["train"]) == 40
    assert set(fewer.splits["train"].texts) < set(whole.splits["train"].texts)
    assert (fewer.splits["train"].gold == 1).sum() == 10
    assert fewer.splits["test"].texts == whole.splits["test"].texts
    with pytest.raises(DataError, match=r"data.train_rows=200 cannot be drawn from 140 claims"):
        claims.load(DataConfig(id=str(tmp_path / "claims.csv"), train_rows=200))
