"""The tab *Runs*: run folders and experiments' reports as they lie there, in a real browser and through the client."""

import json
import shutil
from contextlib import suppress

import pytest
from browser import VIEWS, fits, open_tab, served, shoot, tab_to, visits

from lorahub import records
from lorahub.app.tabs import experiments
from lorahub.app.tabs.runs import describe
from lorahub.errors import AdapterError, ConfigError
from lorahub.experiments.compare import report as compare_report
from lorahub.reports import cards, run_table

pytestmark = pytest.mark.slow

browser = pytest.mark.browser
REPORT = """# Quality against rank

![Macro F1 by rank](ranks.png)

| rank | macro F1 | trained parameters | seconds | difference to the rank above | detectable | file size |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
| 1 | 0.501 | 10,000 | 12 | -0.021 [-0.040, -0.002] | yes | 0.10 MB |
| 2 | 0.522 | 20,000 | 13 | +0.000 [-0.010, +0.010] | no | 0.20 MB |

<img src=x onerror="document.title='taken'">
"""


@pytest.fixture(scope="module")
def root(tiny_run, tmp_path_factory):
    """A folder of runs: one run, one experiment with a picture, one folder of neither."""
    folder = tmp_path_factory.mktemp("shown")
    shutil.copytree(tiny_run.folder, folder / "tiny")
    (folder / "ranks-tiny").mkdir()
    (folder / "ranks-tiny" / "ranks.md").write_text(REPORT)
    shutil.copy(tiny_run.folder / "plots" / "curve.png", folder / "ranks-tiny" / "ranks.png")
    (folder / "feedback").mkdir()
    (folder / "feedback" / "tiny.jsonl").write_text("{}\n")
    return folder


@pytest.fixture(scope="module")
def address(root, tiny_base):
    from lorahub.app import build
    from lorahub.serving.engine.engine import Engine

    page = build.build(Engine(str(tiny_base("bert")), [root / "tiny"]), root=root)
    with served(page) as address:
        yield address


@pytest.fixture
def visit(contexts, address):
    with visits(contexts, address) as go:
        yield go


@browser
@pytest.mark.parametrize(("size", "theme"), VIEWS)
def test_runs_and_experiments_are_shown(visit, root, size, theme):
    page = visit(size, theme)
    open_tab(page, "Runs")
    table = page.get_by_role("region", name="Finished runs")
    table.wait_for()
    record = records.load(root / "tiny")
    for figure in run_table.cells(record):
        assert figure in table.inner_text()
    for words in ("confusion matrix", "learning curve", "reliability diagram"):
        picture = page.get_by_role("img", name=f"tiny: {words}")
        assert picture.evaluate("image => image.complete && image.naturalWidth > 100")
    page.get_by_role("heading", name="Quality against rank").wait_for()
    assert page.get_by_label("Experiment").input_value() == "ranks-tiny"
    assert page.get_by_role("img", name="Macro F1 by rank").evaluate(
        "image => image.complete && image.naturalWidth > 100"
    )
    assert page.get_by_role("region", name="Quality against rank").count() == 1
    assert page.get_by_role("cell", name="-0.021 [-0.040, -0.002]").count() == 1
    assert page.title() == "lorahub"
    assert fits(page)
    shoot(page, f"runs-{size}-{theme}")


@browser
def test_a_run_that_was_trained_meanwhile_is_there_when_the_tab_is_opened(visit, root):
    page = visit()
    open_tab(page, "Runs")
    page.get_by_role("region", name="Finished runs").wait_for()
    shutil.copytree(root / "tiny", root / "later")
    try:
        open_tab(page, "Check a claim")
        open_tab(page, "Runs")
        page.get_by_role("region", name="Finished runs").get_by_role("rowheader", name="later").wait_for()
        page.get_by_label("Run", exact=True).click()
        page.get_by_role("option", name="later").click()
        page.get_by_role("heading", name="later", exact=True).wait_for()
    finally:
        shutil.rmtree(root / "later")


@browser
def test_the_tab_works_with_the_keyboard_alone(visit, root):
    shutil.copytree(root / "tiny", root / "second")
    try:
        page = visit()
        tab_to(page, "[role=tab]", key="Shift+Tab")  # from the claim, which has the focus
        page.keyboard.press("Enter")
        tab_to(page, "[aria-label='Finished runs']")
        tab_to(page, "input[aria-label='Run']")
        page.keyboard.press("ControlOrMeta+a")
        page.keyboard.type("second")
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="second", exact=True).wait_for()
        for name in ("Results on test", "Labels", "Quality against rank"):
            tab_to(page, f"[aria-label='{name}']")
        assert not page.get_by_role("listbox").count()
    finally:
        shutil.rmtree(root / "second")


def test_an_experiment_is_a_folder_with_markdown_that_is_no_run(root, tmp_path):
    assert list(experiments.gather(root)) == ["ranks-tiny"]
    report = experiments.read(root, "ranks-tiny")
    assert report == experiments.Report(
        markdown=REPORT, pictures={"ranks.png": (root / "ranks-tiny" / "ranks.png").read_bytes()}
    )
    for name in ("tiny", "feedback", "../shown/ranks-tiny"):
        with pytest.raises(ConfigError, match="there are ranks-tiny"):
            experiments.read(root, name)
    assert experiments.gather(tmp_path / "nothing") == {}


def test_what_lorahub_compare_writes_is_read_as_it_is(root, tmp_path):
    from lorahub.experiments.compare.run import compare

    found = compare([root / "tiny"], resamples=200)
    compare_report.build(found).save(tmp_path / "tiny-baselines")
    report = experiments.read(tmp_path, "tiny-baselines")
    made = experiments.render(report)
    assert made.count("<img ") == 1
    assert made.count("<table>") == 5
    assert compare_report.verdicts(found)[0] in made


def places(value, keys=()):
    """The keys of every number in JSON."""
    if isinstance(value, dict | list):
        inside = value.items() if isinstance(value, dict) else enumerate(value)
        return [place for key, item in inside for place in places(item, (*keys, key))]
    return [keys] if isinstance(value, int | float) and not isinstance(value, bool) else []


def test_a_record_of_any_numbers_is_shown_or_refused(tiny_run, tmp_path):
    """A downloaded record may hold zeros where a sound one cannot: no division fails as a bug."""
    content = (tiny_run.folder / "record.json").read_text(encoding="utf-8")
    # One of each name, the last, which is the adapter's or a baseline's on test.
    numbers = list(
        {[key for key in keys if isinstance(key, str)][-1]: keys for keys in places(json.loads(content))}.values()
    )
    assert ("happened", "total_parameters") in numbers
    refused = set()
    for keys in [*numbers, ("results", "test"), ("results", "validation"), ("results", "test", "adapter", "paired")]:
        values = json.loads(content)
        at = values
        for key in keys[:-1]:
            at = at[key]
        at[keys[-1]] = 0 if keys in numbers else {}
        (tmp_path / "record.json").write_text(json.dumps(values), encoding="utf-8")
        try:
            record = records.load(tmp_path)
        except AdapterError:
            refused.add(keys)
            continue
        shown = describe("tiny", tmp_path, record)
        assert ("Results on test" in shown) != ("tiny: record.json " in shown)
        assert run_table.cells(record)[0] == record.name
        assert run_table.verdict(record)
        with suppress(AdapterError):
            cards.render(record)
    assert ("happened", "total_parameters") in refused


def test_the_endpoints_give_records_and_reports(address, root):
    from gradio_client import Client
    from gradio_client.exceptions import AppError

    client = Client(address, verbose=False)
    (row,) = client.predict(api_name="/runs")
    assert row["run"] == "tiny"
    assert client.predict("tiny", api_name="/run") == records.load(root / "tiny").to_dict()
    assert client.predict(api_name="/experiments") == ["ranks-tiny"]
    assert client.predict("ranks-tiny", api_name="/experiment").startswith("# Quality against rank")
    for endpoint, words in (
        ("/run", "there is no run 'nobody'; there are tiny"),
        ("/experiment", "no experiment 'nobody'"),
    ):
        with pytest.raises(AppError, match=words):
            client.predict("nobody", api_name=endpoint)
