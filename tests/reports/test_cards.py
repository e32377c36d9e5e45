"""The card: complete, publishable, and a person's own words in it survive."""

from dataclasses import replace

import pytest
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from lorahub.reports import cards, metadata, sections, tables

OWN = "Ask me at the seminar.\n"


@pytest.fixture
def record(tiny_run):
    """The tiny run's record as that of a PUBHEALTH run on a base from the Hub."""
    found = tiny_run.record.model_copy(deep=True)
    environment = found.environment
    environment.data = replace(environment.data, id="pubhealth", kind="local copy")
    environment.base_id, environment.base_revision, environment.base_origin = "org/base", "a" * 40, "hub"
    return found


def test_the_metadata_round_trips_through_the_hubs_own_classes(record):
    card = ModelCard(cards.render(record))
    matter = card.data.to_dict()
    assert matter["library_name"] == "peft"
    assert matter["base_model"] == "org/base"
    assert matter["base_model_relation"] == "adapter"
    assert matter["pipeline_tag"] == "text-classification"
    assert matter["datasets"] == ["ImperialCollegeLondon/health_fact"]
    assert matter["language"] == "en"
    assert "license" not in matter, "the license of the data is not that of the adapter"
    assert {"lora", "lorahub"} <= set(matter["tags"])
    assert matter["label_names"] == ["hedged", "plain"]
    results = card.data.eval_results
    assert all(isinstance(result, EvalResult) for result in results)
    assert len(results) == 2 * len(metadata.METRICS)
    found = {(r.dataset_split, r.metric_name): r.metric_value for r in results}
    test = record.adapter()
    assert found["test", "Macro F1"] == pytest.approx(test.f1_macro, abs=1e-6)
    assert found["test", "Accuracy"] == pytest.approx(test.accuracy, abs=1e-6)
    again = ModelCardData(**matter).to_dict()
    assert again == matter


def test_a_licence_that_nobody_named_is_left_out_and_an_asked_one_wins(record, tiny_run):
    assert "license" not in sections.front_matter(cards.render(tiny_run.record))
    given = sections.front_matter(cards.render(record, licence="apache-2.0", language="de"))
    assert (given["license"], given["language"]) == ("apache-2.0", "de")


def test_a_card_for_the_hub_names_the_repository_and_holds_no_placeholder(record):
    card = cards.render(record, repo="alice/tiny")
    assert "--adapter alice/tiny --base org/base" in card
    assert 'PeftModel.from_pretrained(base, "alice/tiny")' in card
    assert f'revision="{"a" * 40}"' in card
    for word in ("FOLDER", "More Information", "TODO", "$", "None", "your-"):
        assert word not in card


def test_the_use_comes_first_with_a_claim_of_the_probe_and_its_answer(record, tiny_run):
    probe = cards.probe(tiny_run.folder)
    card = cards.render(record, probe=probe, repo="alice/tiny")
    places = [card.index(f"lorahub:begin {name} ") for name in ("summary", "use", "results", "labels", "training")]
    assert places == sorted(places)
    answer = record.labels[max(range(2), key=lambda index: probe[0].logits[index])]
    assert f'tokenizer(["{probe[0].claim}"]' in card
    assert f'print([labels[index] for index in logits.argmax(-1)])  # ["{answer}"]' in card
    assert sections.front_matter(card)["widget"] == [{"text": row.claim} for row in probe[:4]]
    mine = card.replace(probe[0].claim, "mine")
    assert sections.front_matter(sections.merge(mine, card))["widget"][0] == {"text": "mine"}
    calls = card.split("Other calls of peft and transformers")[1].split("</details>")[0]
    for words in (
        "need `num_labels` and `id2label`",
        'id2label = {0: "hedged", 1: "plain"}',
        "AutoPeftModel",
        "pipeline(",
    ):
        assert words in calls
    calibration = record.environment.calibration
    record.environment.calibration = calibration.model_copy(update={"temperature": 2.5})
    assert "(logits / 2.5).softmax(-1)" in cards.render(record)
    record.environment.calibration = calibration.model_copy(update={"temperature": 1.0})
    assert ".softmax(-1)" not in cards.render(record)


def test_names_of_labels_are_shown_literally_whatever_characters_they_have(record):
    from markdown_it import MarkdownIt

    names = ["*true*", "<b>`a`|b_</b>"]
    record.environment.labels = names
    for systems in record.results.values():
        for result in systems.values():
            result.per_label = dict(zip(names, result.per_label.values(), strict=True))
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(cards.render(record).split("---\n", 2)[2])
    shown = html.split("Per label")[1]
    assert "<td>*true*</td>" in shown
    assert shown.count("<td>&lt;b&gt;`a`|b_&lt;/b&gt;</td>") == 1
    assert "<b>" not in html
    assert "<code>&lt;b&gt;`a`|b_&lt;/b&gt;</code>" in html.split("Labels")[1]


def test_every_setting_that_differs_from_the_default_is_named(record):
    training = cards.render(record).split("## How it was trained")[1].split("<!--")[0]
    for setting in ("train.min_steps=60", "train.epochs=1.0", "train.batch_size=16", "eval.bootstrap=200"):
        assert setting in training
    assert "train.learning_rate" not in training


def test_limits_follow_from_the_figures(record):
    adapter = record.adapter()
    adapter.per_label["plain"].recall, adapter.per_label["plain"].support = 0.1, 12
    adapter.confusion[1] = [11, 1]
    adapter.ece = 0.31
    limits = cards.render(record).split("## Limits")[1]
    assert "`plain` has 12 test claims" in limits
    assert "It finds 10% of the `plain` claims" in limits
    assert "It calls 11 of 12 `plain` claims `hedged`." in limits
    assert "off by 0.31" in limits


def test_a_persons_words_survive_and_the_sections_are_new(record):
    card = cards.render(record)
    edited = card.replace("<!-- lorahub:begin data -->", f"## Thanks\n\n{OWN}\n<!-- lorahub:begin data -->")
    edited = edited.replace("library_name: peft", "library_name: peft\nthumbnail: x.png").replace(
        "- lora\n", "- lora\n- mine\n"
    )
    record.adapter().ece_calibrated = 0.77777
    fresh = cards.render(record, repo="alice/tiny")
    merged = sections.merge(edited, fresh)
    assert OWN in merged
    assert merged.index(OWN) < merged.index("## Data")
    assert "0.778" in merged
    assert "alice/tiny" in merged
    matter = sections.front_matter(merged)
    assert matter["thumbnail"] == "x.png"
    assert "mine" in matter["tags"]
    assert sections.own(merged) == sections.own(edited) != sections.own(card)
    assert sections.merge(merged, fresh) == merged


def test_an_untouched_card_merges_to_the_fresh_one(record):
    card, fresh = cards.render(record), cards.render(record, repo="alice/tiny")
    merged = sections.merge(card, fresh)
    assert sections.front_matter(merged) == sections.front_matter(fresh)
    assert merged.split("---\n", 2)[2] == fresh.split("---\n", 2)[2]


def test_a_card_of_somebodys_own_keeps_all_its_words(record):
    merged = sections.merge("# My adapter\n\nBy hand.\n", cards.render(record))
    assert merged.split("---\n", 2)[2].startswith("# My adapter\n\nBy hand.\n")
    for name in ("summary", "labels", "results", "training", "data", "limits", "use"):
        assert merged.count(f"<!-- lorahub:begin {name} -->") == 1


def test_a_lost_section_comes_back_in_its_place(record):
    card = cards.render(record)
    start, end = card.index("<!-- lorahub:begin data -->"), card.index("<!-- lorahub:end data -->")
    merged = sections.merge(card[:start] + card[end + len("<!-- lorahub:end data -->\n") :], card)
    assert merged.index("## How it was trained") < merged.index("## Data") < merged.index("## Limits")


def test_the_card_says_how_often_it_abstains_and_where_that_keeps_less_than_asked(record):
    found = record.adapter().selective
    found.threshold, found.answered, found.coverage, found.accuracy = 0.71, 12, 0.25, 0.75
    found.interval.coverage, found.interval.accuracy = [0.14, 0.4], [0.428, 0.945]
    card = cards.render(record)
    text = card.split("### Abstaining")[1].split("<!--")[0]
    assert "It answers 25.0% [14.0%, 40.0%] of the claims" in text
    assert "with a confidence of at least 0.71, with accuracy 0.750 [0.428, 0.945]" in text
    assert "at most 20% of the answers are wrong, with certainty 95%" in text
    assert f"curve is {found.aurc:.3f}" in text
    assert "Where it does not abstain, 25% of test answers are wrong; the limit was 20%." in card
    found.threshold = 0.0
    assert "Its threshold is 0: it answers every claim, with accuracy 0.750" in cards.render(record)
    found.threshold = 0.71
    found.answered, found.coverage, found.accuracy = 0, 0.0, None
    assert "It abstains from every claim" in cards.render(record)
    found.threshold = None
    assert "never abstains" in cards.render(record).split("### Abstaining")[1]
    record.adapter().selective = None
    assert "Abstaining" not in cards.render(record), "an older record"


def test_an_older_record_gives_the_card_that_it_gave(record):
    """`lorahub verify` compares cards: without the newer fields, columns and sentences are those of then."""
    assert "| system | claims | accuracy | weighted F1 | macro F1 | ECE, raw | ECE, temperature |" in cards.render(
        record
    )
    older = record.model_copy(deep=True)
    for result in older.results["test"].values():
        result.ece_raw = result.ece_calibrated = None
    card = cards.render(older)
    assert "| system | accuracy | weighted F1 | macro F1 | ECE |" in card
    assert "only the adapter's probabilities are calibrated" in card
    assert "Too few claims" not in card


def test_too_few_claims_to_tell_is_said_and_no_probability_is_certain(record):
    row = record.adapter().paired["tfidf"]["f1_macro"]
    record.adapter().paired["tfidf"]["f1_macro"] = replace(row, difference=0.05, interval=(-0.2, 0.3), detectable=False)
    assert tables.comparisons(record)["tfidf"].startswith("Too few claims to tell: macro F1 +0.050 [-0.200, +0.300]")
    shares = (0.0, 0.004, 0.006, 0.5, 0.994, 0.996, 1.0)
    assert [tables.probability(share) for share in shares] == ["<1%", "<1%", "1%", "50%", "99%", ">99%", ">99%"]
