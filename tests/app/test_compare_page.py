"""The tab *Compare on a file* in a real browser and through gradio's own client."""

import csv
import json
import time

import pytest
from browser import VIEWS, fits, open_tab, served, shoot, tab_to, visits
from conftest import LONG, learnable, sentences
from playwright.sync_api import expect
from sklearn.metrics import accuracy_score

from lorahub.app.gpu_batches import GpuBatchPredictor
from lorahub.data import tables
from lorahub.labels import LabelSet

pytestmark = pytest.mark.slow

browser = pytest.mark.browser
HOSTILE = "<img src=x onerror=\"document.title='taken'\">"


@pytest.fixture(scope="module")
def engine(tiny_base, tiny_run, make_adapter):
    """A trained adapter, one of the same labels, and one of other and hostile ones."""
    from lorahub.serving.engine.engine import Engine

    rival, topics = (
        make_adapter("bert", labels=count, seed=count, name=name) for count, name in ((2, "rival"), (3, "topics"))
    )
    LabelSet(("plain", "hedged")).save(rival)
    LabelSet(("city", "health", HOSTILE)).save(topics)
    return Engine(str(tiny_base("bert")), [tiny_run.folder, rival, topics])


@pytest.fixture(scope="module")
def address(engine, tiny_run):
    from lorahub.app import build

    page = build.build(engine, root=tiny_run.folder.parent)
    with served(page) as address:
        yield address


@pytest.fixture
def visit(contexts, address):
    with visits(contexts, address) as go:

        def opened(*arguments):
            page = go(*arguments)
            open_tab(page, "Compare on a file")
            page.get_by_role("button", name="Compare", exact=True).wait_for()
            return page

        yield opened


@pytest.fixture
def labelled(claims_file):
    return claims_file(learnable(300, seed=4), "claims.csv")


def choose(page, path):
    if page.get_by_role("button", name="Clear").count():
        page.get_by_role("button", name="Clear").first.click()
        # The rows of the file before would be taken for those of the next one.
        page.get_by_role("status", name="File").get_by_text("A row holds one claim").wait_for()
    page.locator("input[type=file]").first.set_input_files(path)
    page.get_by_role("status", name="File").get_by_text("rows").first.wait_for()


def compare(page):
    page.get_by_role("button", name="Compare", exact=True).click()
    page.get_by_role("status", name="Comparison").get_by_role("heading", name="Rows", exact=True).wait_for()


@browser
@pytest.mark.parametrize(("size", "theme"), VIEWS)
def test_a_labelled_file_is_compared_and_downloaded(visit, labelled, size, theme):
    page = visit(size, theme)
    shoot(page, f"compare-{size}-{theme}-opened")
    choose(page, labelled)
    assert "300 rows" in page.get_by_role("status", name="File").inner_text()
    assert page.get_by_label("Claim column").input_value() == "claim"
    assert page.get_by_label("Label column").input_value() == "label"
    compare(page)
    assert fits(page)
    shoot(page, f"compare-{size}-{theme}")
    result = page.get_by_role("status", name="Comparison")
    assert "No figures for topics: its labels are city, health" in result.inner_text()
    with page.expect_download() as downloading:
        page.get_by_role("button", name="Download the classified file").click()
    with open(downloading.value.path(), newline="") as file:
        rows = list(csv.DictReader(file))
    assert downloading.value.suggested_filename == "claims.classified.csv"
    assert len(rows) == 300
    accuracy = accuracy_score([row["label"] for row in rows], [row["tiny.label"] for row in rows])
    figures = result.get_by_role("region", name="Figures").get_by_role("row", name="tiny").inner_text()
    assert f"{accuracy:.3f} [" in figures
    differ = sum(row["tiny.label"] != row["rival.label"] for row in rows)
    assert f"disagree on {differ:,} of 300 rows" in result.inner_text()
    first = result.get_by_role("region", name="Rows").locator("tbody tr").first
    assert {"hedged", "plain"} <= {cell.split()[-2] for cell in first.locator("td").all_inner_texts()[2:4]}
    matrices = [result.get_by_role("region", name=f"Confusion matrix of {name}") for name in ("tiny", "rival")]
    for matrix, name in zip(matrices, ("tiny", "rival"), strict=True):
        gold, answer = (matrix.get_by_role(role).all_inner_texts() for role in ("rowheader", "columnheader"))
        assert (gold, answer[1:]) == (["hedged", "plain"], ["hedged", "plain"])  # rival has them the other way round
        counts = [[sum((r["label"], r[f"{name}.label"]) == (g, a) for r in rows) for a in gold] for g in gold]
        assert [int(cell) for cell in matrix.locator("td").all_inner_texts()] == [*counts[0], *counts[1]]


@browser
def test_columns_are_chosen_by_hand_and_labels_mapped(visit, claims_file):
    rows = [{"words": row["claim"], "gold": "1" if row["label"] == "plain" else "0"} for row in learnable(40)]
    page = visit()
    page.locator("input[type=file]").first.set_input_files(claims_file(rows, "own.jsonl"))
    told = page.get_by_role("status", name="File")
    told.get_by_text("Choose the column that holds the claims.").wait_for()
    for label, column in (("Claim column", "words"), ("Label column", "gold")):
        page.get_by_label(label).click()
        page.get_by_role("option", name=column).click()
        page.get_by_role("listbox").wait_for(state="detached")  # it fades, and the next list has the same names
    told.get_by_text("Labels: 1 (20), 0 (20).").wait_for()
    page.get_by_role("button", name="Label names (optional)").click()
    page.get_by_role("textbox", name="Label names").fill("1 = plain\n0 = hedged")
    page.get_by_role("textbox", name="Label names").blur()
    told.get_by_text("Labels: plain (20), hedged (20).").wait_for()
    compare(page)
    assert page.get_by_role("region", name="Confusion matrix of tiny").count() == 1


@browser
def test_a_file_without_labels_shows_answers_and_where_they_differ(visit, claims_file):
    rows = [{"claim": text} for text in sentences(250, seed=3)]
    rows[7]["claim"] = HOSTILE
    page = visit("phone")
    choose(page, claims_file(rows, "plain.parquet"))
    page.get_by_role("checkbox", name="topics").uncheck()
    compare(page)
    assert fits(page)
    shoot(page, "compare-without-labels")
    result = page.get_by_role("status", name="Comparison")
    assert result.get_by_role("region", name="Rows").locator("tbody tr").count() == 200
    assert not result.get_by_role("region", name="Figures").count()
    assert result.get_by_role("region", name="Agreement").count() == 1
    assert page.title() == "lorahub"


@browser
@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("broken.csv", 'claim,label\n"never closed,a\n', "broken.csv, row 1 opens a quote that is never closed"),
        ("empty.csv", "claim,label\n", "empty.csv has a header but no row"),
        ("gap.csv", "claim,label\nthe flu,hedged\n,plain\n", "gap.csv, row 2: column 'claim' is empty"),
    ],
)
def test_an_error_is_shown_as_what_it_is(visit, tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    page = visit()
    page.locator("input[type=file]").first.set_input_files(tmp_path / name)
    page.get_by_role("status", name="File").get_by_text(words).wait_for()
    page.get_by_role("button", name="Compare", exact=True).click()
    page.get_by_role("status", name="Comparison").get_by_text(words).wait_for()
    assert "/tmp" not in page.get_by_role("status", name="Comparison").inner_text()


@browser
def test_without_a_file_it_says_so(visit):
    page = visit()
    page.get_by_role("button", name="Compare", exact=True).click()
    page.get_by_role("status", name="Comparison").get_by_text("Choose a file first.").wait_for()


@browser
def test_cancel_ends_the_work_and_the_next_file_is_taken(visit, monkeypatch, claims_file, labelled):
    asked, predict = [], GpuBatchPredictor.predict

    def slow(predictor, request):
        asked.append(len(request.texts))
        time.sleep(0.5)  # so slow that it is not done before a hand reaches the button, however fast the machine is
        return predict(predictor, request)

    page = visit()
    cancel = page.get_by_role("button", name="Cancel")
    assert cancel.is_disabled()  # there is nothing to end, and a finished comparison to lose
    choose(page, claims_file([{"claim": text} for text in sentences(20_000, seed=1)], "long.csv"))
    monkeypatch.setattr(GpuBatchPredictor, "predict", slow)
    page.get_by_role("button", name="Compare", exact=True).click()
    page.get_by_text("rows classified").first.wait_for()
    shoot(page, "compare-progress")
    cancel.click()
    page.get_by_role("status", name="Comparison").get_by_text("Cancelled: nothing was kept.").wait_for()
    page.wait_for_timeout(1000)
    done = len(asked)
    page.wait_for_timeout(1000)
    assert sum(asked) < 20_000
    assert len(asked) == done
    monkeypatch.undo()
    choose(page, labelled)
    compare(page)
    expect(cancel).to_be_disabled()


@browser
def test_the_tab_works_with_the_keyboard_alone(visit, labelled):
    page = visit()
    tab_to(page, "button[aria-label='Click to upload or drop files']")
    with page.expect_file_chooser() as choosing:
        page.keyboard.press("Enter")
    choosing.value.set_files(labelled)
    page.get_by_role("status", name="File").get_by_text("300 rows").wait_for()
    tab_to(page, "input[aria-label='Evidence column']")
    page.get_by_role("listbox").wait_for()
    for _ in range(3):  # tiny stays ticked, the others do not
        tab_to(page, "input[type=checkbox]")
        assert not page.get_by_role("listbox").count()  # it does not stay open over what comes next
        if page.evaluate("document.activeElement.closest('label').innerText.trim() != 'tiny'"):
            page.keyboard.press("Space")
    tab_to(page, "button.primary")
    page.keyboard.press("Enter")
    result = page.get_by_role("status", name="Comparison")
    result.get_by_role("heading", name="Rows", exact=True).wait_for()
    assert result.get_by_role("region", name="Figures").get_by_role("rowheader").all_inner_texts() == ["tiny"]
    tab_to(page, "[aria-label='Rows']")  # long tables scroll with the arrows
    before = page.evaluate("document.activeElement.scrollTop")
    page.keyboard.press("PageDown")
    page.wait_for_function("before => document.activeElement.scrollTop > before", arg=before)
    tab_to(page, "button:not(.primary).lh-check", key="Shift+Tab")
    with page.expect_download() as downloading:
        page.keyboard.press("Enter")
    assert downloading.value.suggested_filename == "claims.classified.csv"


@browser
@pytest.mark.parametrize(
    "count",
    [
        pytest.param(5_000, marks=pytest.mark.slow),
        pytest.param(
            100_000,
            marks=[pytest.mark.long, pytest.mark.skipif(not LONG, reason="100,000 rows on the page: make test-long")],
        ),
    ],
)
def test_a_long_file_is_judged_whole_and_its_first_200_rows_are_shown(visit, claims_file, count):
    rows = learnable(count, seed=9)
    page = visit()
    choose(page, claims_file(rows, "long.parquet"))
    page.get_by_role("checkbox", name="topics").uncheck()
    page.get_by_role("button", name="Compare", exact=True).click()
    result = page.get_by_role("status", name="Comparison")
    result.get_by_role("heading", name="Rows", exact=True).wait_for(timeout=900_000)
    shown = result.get_by_role("region", name="Rows").locator("tbody tr")
    assert shown.count() == 200
    with page.expect_download() as downloading:
        page.get_by_role("button", name="Download the classified file").click()
    judged = list(
        tables.open_table(downloading.value.path().rename(downloading.value.path().with_suffix(".parquet"))).rows()
    )
    assert [row["claim"] for row in judged] == [row["claim"] for row in rows]
    differ = [row["tiny.label"] != row["rival.label"] for row in judged]
    assert f"disagree on {sum(differ):,} of {count:,} rows. Shown are 200 of" in result.inner_text()
    first = [int(text) for text in shown.get_by_role("rowheader").all_inner_texts()]
    assert first == [place + 1 for place, one in enumerate(differ) if one][:200]


@pytest.fixture(scope="module")
def client(address):
    from gradio_client import Client

    return Client(address, verbose=False)


def test_the_endpoint_gives_the_figures_and_the_file(client, labelled):
    from gradio_client import handle_file

    found, judged = client.predict(handle_file(labelled), ["tiny", "rival"], "", "label", "", None, api_name="/compare")
    with open(judged, newline="") as file:
        rows = list(csv.DictReader(file))
    answers = [row["tiny.label"] for row in rows]
    assert found["results"]["tiny"]["accuracy"] == pytest.approx(
        accuracy_score([row["label"] for row in rows], answers)
    )
    assert found["rows"] == 300
    assert [len(found["comparisons"]), len(found["shown"])] == [1, 200]
    json.dumps(found, allow_nan=False)


def test_the_endpoint_says_what_is_wrong(client, labelled):
    from gradio_client import handle_file
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError, match="no adapter 'nobody' is loaded"):
        client.predict(handle_file(labelled), ["nobody"], "", "label", "", None, api_name="/compare")
    with pytest.raises(AppError, match="claims.csv has no column 'gold'; it has claim, label"):
        client.predict(handle_file(labelled), None, "claim", "gold", "", None, api_name="/compare")


def test_a_file_of_the_server_cannot_be_asked_for(address, tiny_run):
    """Only what was uploaded is read."""
    import httpx

    secret = tiny_run.folder.parent / "claims.jsonl"
    file = {"path": str(secret), "meta": {"_type": "gradio.FileData"}}
    call = httpx.post(f"{address}gradio_api/call/compare", json={"data": [file, None, "claim", "label", "", None]})
    answer = httpx.get(f"{address}gradio_api/call/compare/{call.json()['event_id']}", timeout=60).text
    assert "event: error" in answer
    assert "hedged" not in answer
