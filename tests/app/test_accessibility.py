"""axe-core on every page in every state: no serious finding from our settings, labels or styles.

Gradio's own are listed in gradio_findings.json by rule and selector. The list may only shrink: what is no longer found
has to leave it.
"""

import json
import re
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from browser import VIEWS, ask, finish_animations, open_tab, served, visits

from lorahub.app.tabs.check import EXAMPLES

pytestmark = pytest.mark.browser
KNOWN = Path(__file__).parent / "gradio_findings.json"


@pytest.fixture(scope="module")
def address(tiny_base, tiny_run, tmp_path_factory):
    from lorahub.app import build
    from lorahub.app.feedback import Feedback
    from lorahub.app.training_process import TRAINING, Trainer, TrainingState
    from lorahub.serving.engine.engine import Engine

    engine = Engine(str(tiny_base("bert")), [tiny_run.folder])
    state = TrainingState(
        name="watched", stage=TRAINING, step=3, total=9, loss=0.5, losses=((1, 0.7), (3, 0.5)), validations=((3, 0.8),)
    )
    page = build.build(
        engine,
        root=tiny_run.folder.parent,
        corrections=Feedback(tmp_path_factory.mktemp("feedback")),
        trainer=Trainer(root=tmp_path_factory.mktemp("trained"), base="minilm", load=str, state=state),
    )
    with served(page) as address:
        yield address


def check(page):
    ask(page, "the vaccine may cause flu in the city")
    page.get_by_role("button", name="Evidence and strength").click()
    page.get_by_role("button", name="Which words moved the answers?").click()
    page.get_by_role("heading", name="Which words moved the answers").wait_for()
    page.get_by_role("button", name="An answer is wrong").click()
    page.get_by_role("combobox", name="It should be").wait_for()


def compare(page):
    open_tab(page, "Compare on a file")
    page.locator("input[type=file]").first.set_input_files(
        {
            "name": "claims.csv",
            "mimeType": "text/csv",
            "buffer": b"claim,label\nwater is clean,plain\nflu may rise,hedged\n",
        }
    )
    page.get_by_role("status", name="File").get_by_text("rows").first.wait_for()
    page.get_by_role("button", name="Compare", exact=True).click()
    page.get_by_role("heading", name="Rows", exact=True).wait_for()


def adapters(page):
    open_tab(page, "Adapters")
    page.get_by_role("combobox", name="Adapter", exact=True).fill("tiny")
    page.get_by_role("combobox", name="Adapter", exact=True).press("Enter")
    page.get_by_role("button", name="Inspect").click()
    page.get_by_text("Safe to load.").wait_for()


def runs(page):
    open_tab(page, "Runs")
    page.get_by_role("heading", name="Finished runs").wait_for()


def train(page):
    open_tab(page, "Train")
    page.get_by_text("watched: step 3 of 9").wait_for()
    page.get_by_text("Macro F1 on validation", exact=True).wait_for()


STATES = (check, compare, adapters, runs, train)


# What differs between builds of Gradio.
_PASSING = re.compile(r"[.]svelte-[a-z0-9]+|#component-[0-9]+|range_id_[0-9]+|:nth-child[(][0-9]+[)]")


def findings(page):
    """Serious and critical findings as "rule selector"."""
    page.wait_for_timeout(100)  # a fade begins with the next picture
    finish_animations(page)
    response = Axe().run(page, options={"resultTypes": ["violations"]}).response
    return {
        f"{violation['id']} {_PASSING.sub('', ' '.join(node['target']))}"
        for violation in response["violations"]
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    }


@pytest.fixture(scope="module")
def found(contexts, address):
    """State, size and theme -> its findings."""
    results = {}
    with visits(contexts, address) as visit:
        for size, theme in VIEWS:
            page = visit(size, theme)
            page.get_by_text(EXAMPLES[-1]).wait_for()
            results["opened", size, theme] = findings(page)
            for state in STATES:
                state(page)
                results[state.__name__, size, theme] = findings(page)
    return results


def test_nothing_serious_is_ours(found):
    known = set(json.loads(KNOWN.read_text()))
    assert {where: rest for where, these in found.items() if (rest := these - known)} == {}


def test_the_list_of_gradios_own_only_shrinks(found):
    assert set(json.loads(KNOWN.read_text())) - set().union(*found.values()) == set()
