"""The page in a real browser and through gradio's own client, on a real server with tiny adapters."""

import json
import re
import threading
from pathlib import Path

import pytest
from browser import VIEWS, ask, finish_animations, fits, open_tab, served, shoot, tab_to, visits
from conftest import sentences

from lorahub.labels import LabelSet
from lorahub.reports import run_table, tables

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CLAIM = "the vaccine may cause flu in the city"
LONG = "supported by some people of the city but never by the doctors"
HOSTILE = "<img src=x onerror=\"document.title='taken'\">${document.title='taken'} {{value}} **bold** &amp;"

browser = pytest.mark.browser


@pytest.fixture(scope="module")
def engine(tiny_base, tiny_run, make_adapter):
    """A run with its record and probe, and adapters without: of many labels, of long names, of hostile names."""
    from lorahub.serving.engine.engine import Engine

    folders = [tiny_run.folder]
    for name, names in {
        "topics": ["city", "health", "money", "nature", "school", "traffic"],
        "long-names-of-labels-and-of-the-adapter": [LONG, "refuted", "not enough evidence either way"],
        "hostile": [HOSTILE, "plain"],
    }.items():
        folder = make_adapter("bert", labels=len(names), seed=len(name), name=name)
        LabelSet(tuple(names)).save(folder)
        folders.append(folder)
    return Engine(str(tiny_base("bert")), folders)


@pytest.fixture(scope="module")
def corrections(tmp_path_factory):
    """The folder of the visitors' corrections."""
    return tmp_path_factory.mktemp("corrections")


@pytest.fixture(scope="module")
def address(engine, tiny_run, corrections):
    """The real server, in this process."""
    from lorahub.app import build
    from lorahub.app.feedback import Feedback

    page = build.build(
        engine,
        root=tiny_run.folder.parent,
        left_out=["old was trained on another base."],
        corrections=Feedback(corrections),
    )
    with served(page) as address:
        yield address


@pytest.fixture
def visit(contexts, address):
    with visits(contexts, address) as go:
        yield go


@pytest.fixture(scope="module")
def client(address):
    from gradio_client import Client

    return Client(address, verbose=False)


def verdicts(page):
    """Adapter name -> the verdict lines of its card."""
    return {
        card.locator("h3").inner_text(): card.locator(".lh-verdict").all_inner_texts()
        for card in page.get_by_role("status", name="Answers").locator(".lh-card").all()
    }


def expected(engine, claim):
    found, base = engine.classify([claim]), engine.classify_base([claim])
    return {name: [rows[0].label, *(row.label for row in base.get(name, []))] for name, rows in found.items()}


@browser
@pytest.mark.parametrize("send", ["button", "enter"])
def test_every_adapters_verdict_stands_beside_the_bases(visit, engine, send):
    page = visit()
    if send == "button":
        ask(page, CLAIM)
    else:
        page.get_by_role("textbox", name="Claim", exact=True).fill(CLAIM)
        page.keyboard.press("Enter")
        page.get_by_role("heading", name=f"“{CLAIM}”").wait_for()
    assert verdicts(page) == expected(engine, CLAIM)
    assert re.search(r"4 adapters answered in \d+ ms on CPU", page.get_by_role("status", name="Answers").inner_text())
    page.get_by_role("checkbox", name="hostile").uncheck()
    ask(page, "doctors never say that")
    assert set(verdicts(page)) == set(engine.adapters) - {"hostile"}


@browser
def test_what_is_missing_is_said_and_no_empty_result_shown(visit, engine):
    page = visit()
    answers = page.get_by_role("status", name="Answers")
    ask(page, CLAIM)
    page.get_by_role("textbox", name="Claim", exact=True).fill("   ")
    page.get_by_role("button", name="Check", exact=True).click()
    answers.get_by_text("Type a claim first.").wait_for()
    assert not page.locator(".lh-card").count()
    shoot(page, "empty-claim")
    for name in engine.adapters:
        page.get_by_role("checkbox", name=name).uncheck()
    page.get_by_role("textbox", name="Claim", exact=True).fill(CLAIM)
    page.keyboard.press("Enter")
    answers.get_by_text("Choose at least one adapter.").wait_for()
    assert not page.locator(".lh-card").count()


@browser
def test_what_looks_like_code_is_shown_as_text(visit, engine):
    page = visit()
    ask(page, HOSTILE)
    assert verdicts(page) == expected(engine, HOSTILE)
    assert HOSTILE in page.locator(".lh-card").last.inner_text()
    assert page.title() == "lorahub"
    assert not page.locator("img[src=x]").count()


@browser
def test_an_example_is_answered_with_one_click(visit):
    page = visit("phone")
    example = "Teachers deserve so much better than this."
    page.get_by_text(example).click()
    page.get_by_role("heading", name=f"“{example}”").wait_for()


@browser
def test_the_page_works_with_the_keyboard_alone(visit, engine):
    page = visit()
    page.keyboard.type(CLAIM)  # the field has the focus when the page opens
    tab_to(page, "input[type=checkbox]")
    page.keyboard.press("Space")  # the first adapter is left out
    tab_to(page, "button.lh-check")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name=f"“{CLAIM}”").wait_for()
    assert list(verdicts(page)) == list(engine.adapters)[1:]
    tab_to(page, "[role=tab]", key="Shift+Tab")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Finished runs").wait_for()


@browser
def test_a_link_puts_its_question_again(visit, engine):
    page = visit()
    page.get_by_role("checkbox", name="hostile").uncheck()
    page.get_by_role("button", name="Evidence and strength").click()
    page.get_by_role("textbox", name="Evidence").fill("a study of the city")
    finish_animations(page)
    page.get_by_role("spinbutton").fill("0.5")
    page.get_by_role("spinbutton").press("Tab")
    ask(page, CLAIM)
    page.get_by_text("Strength 0.5: 0.5 times").wait_for()
    query = page.get_by_role("link", name="Link to this question").get_attribute("href").replace("?", "&", 1)
    shared = visit(query=query)
    shared.get_by_role("heading", name=f"“{CLAIM}”").wait_for()
    assert verdicts(shared) == verdicts(page)
    assert shared.get_by_role("textbox", name="Claim", exact=True).input_value() == CLAIM
    assert not shared.get_by_role("checkbox", name="hostile").is_checked()
    assert shared.get_by_role("checkbox", name="topics").is_checked()
    shared.get_by_text("Strength 0.5: 0.5 times").wait_for()


@browser
@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("adapters=gone", "no adapter 'gone' is loaded"),
        ("strength=much", "Give 0 (the base) to 2"),
        ("strength=7", "The strength is 7.0. Give 0"),
    ],
)
def test_a_link_that_cannot_be_followed_says_why(visit, query, words):
    page = visit(query=f"&claim=water&{query}")
    page.get_by_role("status", name="Answers").get_by_text(words).wait_for()
    assert not page.locator(".lh-card").count()


@browser
def test_the_words_that_moved_the_answers_are_marked(visit, engine):
    from lorahub.serving import attribution

    page = visit()
    ask(page, CLAIM)
    page.get_by_role("textbox", name="Claim", exact=True).fill(
        "typed meanwhile"
    )  # what is explained is what was answered
    page.get_by_role("button", name="Which words moved the answers?").click()
    region = page.get_by_role("status", name="Words")
    region.get_by_role("heading", name="Which words moved the answers").wait_for()
    found = attribution.leave_one_out(engine, CLAIM)
    for card, one in zip(region.locator(".lh-card").all(), found.values(), strict=True):
        assert card.locator("mark").all_inner_texts() == [
            CLAIM[start:end] + f"{round(100 * effect):+}".replace("-", "\u2212")
            for (start, end), effect in zip(one.spans, one.effects, strict=True)
            if round(100 * effect)
        ]
    assert region.locator("mark").count() > 3
    ask(page, "doctors never say that")
    assert not region.locator(".lh-card").count()  # an older explanation does not stay under a newer answer


@browser
def test_a_wrong_answer_is_corrected_and_only_that_is_kept(visit, corrections, engine):
    page = visit("phone")
    ask(page, CLAIM)
    assert not list(corrections.iterdir())
    page.get_by_role("button", name="An answer is wrong").click()
    page.get_by_role("combobox", name="Adapter").click()
    page.get_by_role("option", name="topics").click()
    page.get_by_role("button", name="Send correction").click()
    answer = page.get_by_role("status", name="Correction")
    answer.get_by_text("Choose what the answer should be; topics has city, health").wait_for()
    page.get_by_role("combobox", name="It should be").click()
    shoot(page, "correction")
    page.get_by_role("option", name="money").click()
    page.get_by_role("button", name="Send correction").click()
    answer.get_by_text("Kept: for topics the claim is money.").wait_for()
    [path] = corrections.iterdir()
    row = json.loads(path.read_text())
    assert (path.name, row["claim"], row["label"], row["adapter"]) == ("topics.jsonl", CLAIM, "money", "topics")
    path.unlink()


@browser
def test_who_has_to_wait_sees_the_place_in_the_queue(visit, engine, monkeypatch):
    go_on, classify = threading.Event(), engine.classify
    monkeypatch.setattr(engine, "classify", lambda *args, **more: go_on.wait(120) and classify(*args, **more))
    pages = [visit(fresh=True) for _ in range(6)]  # of one browser, the sixth would wait for a connection
    for page in pages:
        page.get_by_role("textbox", name="Claim", exact=True).fill(CLAIM)
        page.get_by_role("button", name="Check", exact=True).click()
    pages[-1].get_by_text("queue: 2/2").wait_for()
    shoot(pages[-1], "queue")
    go_on.set()
    for page in pages:
        page.get_by_role("heading", name=f"“{CLAIM}”").wait_for()


@browser
def test_runs_shows_the_table_and_one_runs_figures_and_pictures(visit, tiny_run):
    page = visit()
    open_tab(page, "Runs")
    table = page.get_by_role("region", name="Finished runs")
    table.get_by_role("rowheader").first.wait_for()
    assert table.get_by_role("rowheader").all_inner_texts() == ["tiny"]
    for figure in run_table.cells(tiny_run.record):
        assert figure in table.inner_text()
    results = page.get_by_role("region", name="Results on test").inner_text()
    for row in tables.results(tiny_run.record):
        for figure in row:
            assert figure in results
    for words in ("confusion matrix", "learning curve", "reliability diagram"):
        picture = page.get_by_role("img", name=f"tiny: {words}")
        assert picture.evaluate("image => image.complete && image.naturalWidth > 100")


@browser
@pytest.mark.parametrize(("size", "theme"), VIEWS)
def test_the_page_fits_the_screen(visit, size, theme):
    page = visit(size, theme)
    assert fits(page)
    shoot(page, f"{size}-{theme}-opened")
    ask(page, CLAIM)
    assert fits(page)
    shoot(page, f"{size}-{theme}-answers")
    page.get_by_role("button", name="Which words moved the answers?").click()
    page.get_by_role("heading", name="Which words moved the answers").wait_for()
    assert fits(page)
    shoot(page, f"{size}-{theme}-words")
    open_tab(page, "Runs")
    page.get_by_role("heading", name="Finished runs").wait_for()
    assert fits(page)
    shoot(page, f"{size}-{theme}-runs")


def test_the_endpoint_answers_what_the_engine_answers(client, engine):
    for claim in sentences(3, seed=5):
        found = client.predict(claim, ["topics", "tiny"], "", api_name="/classify")
        verdicts, base = engine.classify([claim], ["topics", "tiny"]), engine.classify_base([claim], ["tiny"])
        assert list(found["adapters"]) == ["topics", "tiny"]
        for name, systems in found["adapters"].items():
            assert systems["adapter"]["label"] == verdicts[name][0].label
            assert systems["adapter"]["calibrated"] == pytest.approx(verdicts[name][0].calibrated, abs=1e-5)
            assert systems["adapter"]["probabilities"] == pytest.approx(verdicts[name][0].probabilities, abs=1e-5)
        assert found["adapters"]["topics"]["base"] is None
        assert found["adapters"]["tiny"]["base"]["label"] == base["tiny"][0].label


def test_the_endpoint_takes_a_strength(client, engine):
    for strength in (0.0, 0.5, 2.0):
        found = client.predict(CLAIM, ["tiny"], "", strength, api_name="/classify")["adapters"]["tiny"]["adapter"]
        wanted = engine.classify([CLAIM], ["tiny"], strength=strength)["tiny"][0]
        assert found["probabilities"] == pytest.approx(wanted.probabilities, abs=1e-5)


def test_the_endpoint_gives_evidence_to_the_adapters_that_may_read_it(client, engine):
    claim, evidence = "the vaccine cures flu", "doctors say that it never was in the study"
    both = ["topics", "tiny"]  # of the first nobody knows how it was trained; the second saw claims alone
    found = client.predict(claim, both, evidence, api_name="/classify")["adapters"]
    alone = client.predict(claim, both, "", api_name="/classify")["adapters"]
    wanted = engine.classify([claim], ["topics"], evidence=[evidence])["topics"][0]
    assert found["topics"]["adapter"]["calibrated"] == pytest.approx(wanted.calibrated, abs=1e-5)
    assert found["topics"]["adapter"] != alone["topics"]["adapter"]
    assert found["tiny"]["adapter"]["calibrated"] == pytest.approx(alone["tiny"]["adapter"]["calibrated"], abs=1e-5)


@pytest.mark.parametrize(
    ("claim", "adapters", "words"),
    [
        (" ", ["tiny"], "Type a claim first."),
        (CLAIM, ["nobody"], "no adapter 'nobody' is loaded; loaded: tiny, topics"),
    ],
)
def test_the_endpoint_says_what_is_wrong(client, claim, adapters, words):
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError, match=re.escape(words)):
        client.predict(claim, adapters, "", api_name="/classify")


def test_the_endpoints_are_named_and_described(client, tiny_run):
    named = client.view_api(return_format="dict")["named_endpoints"]
    documented = re.findall(r"^\| `(/\w+)`", (ROOT / "docs" / "app.md").read_text(encoding="utf-8"), re.M)
    # A page that others visit does not train; test_train_page.py has these.
    assert {*documented} - {*named} == {"/train", "/training", "/stop_training"}
    assert {*named} <= {*documented}
    assert all(endpoint["description"] for endpoint in named.values())
    assert [parameter["parameter_name"] for parameter in named["/classify"]["parameters"]] == [
        "claim",
        "adapters",
        "evidence",
        "strength",
    ]
    found = client.predict(api_name="/runs")
    assert found == [dict(zip(run_table.COLUMNS, run_table.cells(tiny_run.record), strict=True))]


def test_the_endpoint_tells_which_words_moved_an_answer(client, engine):
    from lorahub.serving import attribution

    found = client.predict(CLAIM, ["topics"], "", api_name="/explain")["adapters"]["topics"]
    wanted = attribution.leave_one_out(engine, CLAIM, ["topics"])["topics"]
    assert [word["word"] for word in found["words"]] == CLAIM.split()
    assert [word["effect"] for word in found["words"]] == pytest.approx(wanted.effects, abs=1e-5)


def test_the_endpoint_keeps_a_correction_for_the_adapters_labels_only(client, corrections):
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError, match="topics has city, health"):
        client.predict(CLAIM, "true", "topics", "", api_name="/feedback")
    assert not list(corrections.iterdir())
    client.predict(CLAIM, "city", "topics", "", api_name="/feedback")
    [path] = corrections.iterdir()
    assert json.loads(path.read_text())["label"] == "city"
    path.unlink()
