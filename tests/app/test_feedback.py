"""Corrections: kept only when sent, in files that training reads, on a Space in a data set that was named for it."""

import json
from pathlib import Path

import pytest

from lorahub.app import feedback
from lorahub.app.feedback import Feedback
from lorahub.errors import ConfigError, HubError


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_what_was_kept_is_data_to_train_on(tmp_path):
    from lorahub.config import DataConfig
    from lorahub.data import claims

    kept = Feedback(tmp_path / "feedback")
    for number in range(40):
        label = "true" if number % 2 else "false"
        path = kept.keep(claim=f"claim {number} “é”\n is {label}", label=label, adapter="health", evidence="a study")
    assert path == tmp_path / "feedback" / "health.jsonl"
    assert set(rows(path)[0]) == {"claim", "evidence", "label", "adapter", "date"}
    data = claims.load(DataConfig(id=str(path), evidence="evidence"))
    assert data.labels.names == ("false", "true")
    assert sum(len(split.texts) for split in data.splits.values()) == 40


def test_each_adapter_has_its_own_file_because_labels_differ(tmp_path):
    kept = Feedback(tmp_path)
    first = kept.keep(claim="a", label="true", adapter="health")
    second = kept.keep(claim="a", label="sport", adapter="topic")
    assert first != second
    assert [row["label"] for row in rows(second)] == ["sport"]


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(ConfigError, match="health.jsonl cannot be written"):
        Feedback(tmp_path / "taken").keep(claim="a", label="true", adapter="health")


@pytest.mark.parametrize(
    ("folder", "host", "kept"),
    [
        (None, "127.0.0.1", "runs/feedback"),
        (None, "0.0.0.0", None),
        (None, None, None),
        ("elsewhere", "0.0.0.0", "elsewhere"),
    ],
)
def test_strangers_write_nothing_here_unasked(folder, host, kept, monkeypatch):
    monkeypatch.delenv(feedback.DATASET, raising=False)
    found = feedback.opened(Path(folder) if folder else None, host=host, default=Path("runs/feedback"))
    assert (found.folder if found else None) == (Path(kept) if kept else None)


def test_on_a_space_corrections_go_to_the_data_set_that_its_environment_names(hub, monkeypatch):
    from lorahub.hub import client

    monkeypatch.setenv(feedback.DATASET, "alice/corrections")
    kept = feedback.opened(None)
    assert kept.where == "the data set alice/corrections on the Hub"
    path = kept.keep(claim="the vaccine causes flu", label="false", adapter="health")
    try:
        kept._scheduler.trigger().result()
    finally:
        kept._scheduler.stop()
    api = client.api()
    assert api.dataset_info("alice/corrections").private
    assert path.name in [entry.path for entry in api.list_repo_tree("alice/corrections", repo_type="dataset")]
    # After a restart the disk is empty: what is sent then lies beside what was sent before.
    assert path.name != "health.jsonl"


def test_a_data_set_that_cannot_be_had_is_said_at_the_start(hub, monkeypatch):
    monkeypatch.setenv(feedback.DATASET, "bob/corrections")
    with pytest.raises(HubError, match="open the data set bob/corrections"):
        feedback.opened(None)
