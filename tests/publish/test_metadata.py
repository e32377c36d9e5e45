"""A card's metadata: what the Hub refuses is refused by the local one too, ours never is, and all of it comes back."""

from dataclasses import replace

import pytest
import yaml
from hub_rules import LANGUAGES, LICENCES, TASKS, metadata_errors
from huggingface_hub import CommitOperationAdd, ModelCard, ModelCardData

from lorahub import records
from lorahub.data.named import NAMED
from lorahub.errors import HubError
from lorahub.hub import client
from lorahub.reports import cards, metadata, sections

pytestmark = pytest.mark.slow

REPO = "alice/card"
GOOD = {
    "license": "mit",
    "language": ["en", "gsw", "multilingual"],
    "pipeline_tag": "text-classification",
    "library_name": "peft",
    "base_model": "org/base",
    "base_model_relation": "adapter",
    "datasets": ["org/claims", "imdb"],
    "metrics": ["accuracy", "f1"],
    "tags": ["lora"],
    "label_names": ["no", "yes"],
    "model-index": [
        {
            "name": "card",
            "results": [
                {
                    "task": {"type": "text-classification"},
                    "dataset": {"type": "org/claims", "name": "claims", "split": "test"},
                    "metrics": [{"type": "accuracy", "value": 0.0}],
                }
            ],
        }
    ],
}
RESULT = GOOD["model-index"][0]["results"][0]
BAD = {
    "a licence of one's own": ({"license": "my-own-words"}, '"license" with value'),
    "a licence's full name": ({"license": "Apache license 2.0"}, '"license" with value'),
    "a language's name": ({"language": "english"}, '"language" with value'),
    "a language with its country": ({"language": ["en", "en-GB"]}, "'en-GB'"),
    "norway as YAML reads it": ({"language": [False]}, '"language" with value False'),
    "a task that is none": ({"pipeline_tag": "claim-checking"}, '"pipeline_tag" with value'),
    "a base that is a path": ({"base_model": "/models/base"}, '"base_model" with value'),
    "a relation that is none": ({"base_model_relation": "child"}, '"base_model_relation" with value'),
    "a data set with a space": ({"datasets": ["my claims"]}, '"datasets" with value'),
    "data sets without a list": ({"datasets": "org/claims"}, '"datasets" must be an array'),
    "metrics without a list": ({"metrics": "f1"}, '"metrics" must be an array'),
    "a tag that is a number": ({"tags": [1]}, '"tags" with value 1'),
    "an index that is no list": ({"model-index": {"name": "card"}}, '"model-index" must be an array'),
    "a model without a name": ({"model-index": [{"results": [RESULT]}]}, "model-index[0].name"),
    "a model without results": ({"model-index": [{"name": "card"}]}, "model-index[0].results"),
    **{
        f"a result without {part}": (
            {"model-index": [{"name": "card", "results": [RESULT, {**RESULT, part: {}}]}]},
            f"model-index[0].results[1].{part}",
        )
        for part in ("task", "dataset", "metrics")
    },
    "a metric without a value": (
        {"model-index": [{"name": "card", "results": [{**RESULT, "metrics": [{"type": "f1"}]}]}]},
        "metrics[0].value",
    ),
    "a result on a folder": (
        {"model-index": [{"name": "card", "results": [{**RESULT, "dataset": {"type": "/data/x", "name": "x"}}]}]},
        "dataset.type",
    ),
}


def send(card):
    operation = CommitOperationAdd("README.md", card.encode())
    api = client.api()
    return client.call(lambda: api.create_commit(REPO, [operation], commit_message="card"), doing="take the card")


def card_of(matter):
    return f"---\n{yaml.safe_dump(matter)}---\n# card\n"


@pytest.fixture
def repo(hub):
    client.api().create_repo(REPO)
    return hub.repo(REPO)


@pytest.mark.parametrize("case", BAD)
def test_the_hub_refuses_bad_metadata_and_names_it(hub, repo, case):
    change, words = BAD[case]
    with pytest.raises(HubError) as caught:
        send(card_of({**GOOD, **change}))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(repo.commits) == 1
    assert not hub.sent("/commit/"), "it is refused before anything is sent"
    assert send(card_of(GOOD)).oid == repo.find("main").id


def test_yaml_that_cannot_be_read_is_refused(hub, repo):
    with pytest.raises(HubError, match="Invalid YAML metadata"):
        send("---\nlicense: [mit\n---\n# card\n")


def test_the_lists_are_whole_and_hold_all_that_lorahub_writes_itself():
    assert (len(LICENCES), len(TASKS), len(LANGUAGES)) == (83, 57, 8102)
    assert {"no", "de", "zh", "gsw"} <= LANGUAGES
    assert {row.licence for row in NAMED.values() if row.licence} <= LICENCES
    assert {row.language for row in NAMED.values()} <= LANGUAGES


def test_a_runs_metadata_comes_back_from_the_card_as_it_went_in(tiny_run):
    record = records.load(tiny_run.folder)
    record.environment.data = replace(record.environment.data, id="org/claims", kind="hub", revision="f" * 40)
    written = metadata.card_data(record, licence="mit", language="en")
    card = cards.render(record, repo="alice/tiny", licence="mit", language="en")
    assert metadata_errors(card) == []
    read = ModelCard(card).data
    assert read.to_dict() == written.to_dict()
    assert read.eval_results == written.eval_results
    assert len(read.eval_results) == len(metadata.METRICS) * len(record.results)
    found = {(result.dataset_split, result.metric_name): result for result in read.eval_results}
    for split, systems in record.results.items():
        for key, (kind, name, arguments) in metadata.METRICS.items():
            result = found[split, name]
            assert result.metric_value == pytest.approx(systems["adapter"].metric(key), abs=1e-6)
            assert (result.metric_type, result.metric_args) == (kind, arguments)
            assert (result.dataset_type, result.dataset_revision) == ("org/claims", "f" * 40)
    again = ModelCardData(**read.to_dict(), ignore_metadata_errors=False)
    assert again.to_dict() == written.to_dict()
    mine = card.replace("license: mit", "license: cc-by-4.0\nwidget:\n- text: a claim")
    merged = sections.merge(mine, cards.render(record, repo="alice/tiny"))
    kept = ModelCard(merged).data
    assert (kept.license, kept.widget) == ("cc-by-4.0", [{"text": "a claim"}])
    assert kept.eval_results == written.eval_results
    assert metadata_errors(merged) == []
