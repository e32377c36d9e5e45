"""A benchmark's entry: the figure of the record, as the Hub's client reads it back, and only for a benchmark."""

import json

import pytest
import yaml
from huggingface_hub._eval_results import parse_eval_result_entries

from lorahub.errors import PublishError
from lorahub.publish import benchmark, push

pytestmark = pytest.mark.slow

REPO, DATA = "alice/tiny", "org/health"


@pytest.fixture
def run(run_folder, hub):
    """A run whose data was read from a benchmark on the Hub."""
    commit = hub.put(DATA, {"eval.yaml": b"name: Health\ntasks:\n- id: verdict\n- id: topic\n"}, kind="dataset")
    record = json.loads((run_folder / "record.json").read_text())
    record["environment"]["data"].update(id=DATA, kind="hub", revision=commit)
    (run_folder / "record.json").write_text(json.dumps(record))
    return run_folder


def publish(run, hub_base, **options):
    return push.send(push.plan(run, push.Options(base_id=hub_base, **options)))


def test_the_entry_is_the_records_figure_and_stays_on_the_next_push(hub, run, hub_base):
    done = publish(run, hub_base, benchmark="verdict=f1_macro")
    assert benchmark.FILE_NAME in done.sent
    (found,) = parse_eval_result_entries(yaml.safe_load(hub.files(REPO)[benchmark.FILE_NAME]))
    record = json.loads((run / "record.json").read_text())
    assert (found.dataset_id, found.task_id) == (DATA, "verdict")
    assert found.dataset_revision == record["environment"]["data"]["revision"]
    assert found.value == round(record["results"]["test"]["adapter"]["f1_macro"], 6)
    assert publish(run, hub_base).sent == [], "what was asked for once is not forgotten"
    assert benchmark.FILE_NAME in hub.files(REPO)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("verdict", "takes TASK=METRIC"),
        ("verdict=beauty", "one of accuracy"),
        ("nothing=accuracy", "no task 'nothing'; it has verdict, topic"),
    ],
)
def test_what_is_no_entry_of_it_is_refused(hub, run, hub_base, wanted, words):
    with pytest.raises(PublishError, match=words):
        publish(run, hub_base, benchmark=wanted)
    assert ("model", REPO) not in hub.repos


def test_a_data_set_that_is_no_benchmark_is_refused(hub, run, hub_base):
    hub.put(DATA, {"eval.yaml": b"name: Health\n"}, kind="dataset")
    record = json.loads((run / "record.json").read_text())
    for change, words in (({"revision": "main"}, "lists no tasks"), ({"kind": "file"}, "read from this machine")):
        record["environment"]["data"].update(change)
        (run / "record.json").write_text(json.dumps(record))
        with pytest.raises(PublishError, match=words):
            publish(run, hub_base, benchmark="verdict=accuracy")
    hub.put("org/plain", {"README.md": b"claims"}, kind="dataset")
    record["environment"]["data"].update(id="org/plain", kind="hub", revision="main")
    (run / "record.json").write_text(json.dumps(record))
    with pytest.raises(PublishError, match="is not a benchmark"):
        publish(run, hub_base, benchmark="verdict=accuracy")
