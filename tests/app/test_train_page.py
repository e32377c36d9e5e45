"""The tab *Train*: a real training in a process of its own, followed, stopped, and opened in the other tabs."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from browser import VIEWS, fits, open_tab, served, shoot, tab_to, visits
from conftest import learnable
from field_tables import documented
from playwright.sync_api import expect
from processes import Command

from lorahub import records
from lorahub.app.training_process import LONG, QUICK, Trainer, TrainingRequest, TrainingState
from lorahub.errors import ConfigError

pytestmark = pytest.mark.slow

browser = pytest.mark.browser
DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Enough claims for a training that can be watched."""
    path = tmp_path_factory.mktemp("data") / "wording.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in learnable(400)))
    return path


@pytest.fixture
def trainer(tiny_engine, tiny_base, tmp_path):
    made = Trainer(root=tmp_path, base=str(tiny_base("bert")), load=lambda folder: tiny_engine.add(folder)[0])
    yield made
    made.close()


def wait(trainer, is_reached, seconds=240):
    end = time.monotonic() + seconds
    while not is_reached(trainer.state):
        assert time.monotonic() < end, trainer.state
        time.sleep(0.1)
    return trainer.state


def test_a_training_is_followed_and_its_run_answers(trainer, tiny_engine, tmp_path):
    data = tmp_path / "wording.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in learnable(100)))
    started = trainer.start(TrainingRequest(data=str(data), method="lora", preset=QUICK, name="mine"))
    assert (started.name, started.running) == ("mine", True)
    with pytest.raises(ConfigError, match=r"mine is being trained \(.*\)\. Stop it, or wait\."):
        trainer.start(TrainingRequest(data=str(data), method="lora"))
    state = wait(trainer, lambda state: not state.running)
    record = records.load(tmp_path / "mine")
    assert state.error is None
    assert (state.step, state.total) == (record.progress.steps, record.progress.planned_steps)
    assert [point for point, _ in state.losses] == list(range(1, state.step + 1))
    assert list(state.validations) == [(row.step, row.f1_macro) for row in record.progress.curve]
    assert record.config.train.epochs == 1.0
    assert state.answers_as in tiny_engine.names
    assert tiny_engine.classify(["may never"], [state.answers_as])
    with pytest.raises(ConfigError, match="mine exists already"):
        trainer.start(TrainingRequest(data=str(data), method="lora", name="mine"))


def test_what_cannot_be_trained_is_told_in_the_trainings_own_words(trainer, data, tmp_path):
    trainer.start(TrainingRequest(data=str(tmp_path / "nothing.csv"), method="lora"))
    state = wait(trainer, lambda state: not state.running)
    assert "nothing.csv" in state.error
    assert "\n" not in state.error
    assert not list(tmp_path.glob("nothing*"))


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"data": " "}, "Choose the data"),
        ({"data": "x", "name": "../x"}, "a run's name is up to 100 letters"),
        ({"data": "x", "name": "..."}, "a run's name is up to 100 letters"),
        ({"data": "x", "name": "a" * 200_000 + "/"}, "a run's name is up to 100 letters"),
        ({"data": "x", "method": "lorra"}, "adapter.method"),
        ({"data": "x", "preset": "forever"}, "the preset is one of quick look"),
    ],
)
def test_what_makes_no_training_is_refused_before_one_begins(trainer, asked, words):
    with pytest.raises(ConfigError, match=words):
        trainer.start(TrainingRequest(**{"method": "lora", **asked}))
    assert trainer.state is None


def test_names_that_are_not_given_do_not_collide(tmp_path):
    request = TrainingRequest(data="a/claims.csv", method="dora", seed=3)
    assert request.folder(tmp_path).name == "claims-dora-s3"
    (tmp_path / "claims-dora-s3").mkdir()
    assert request.folder(tmp_path).name == "claims-dora-s3-2"


def test_an_error_of_a_library_shows_no_folder_of_the_machine(trainer, tmp_path, monkeypatch):
    """The datasets library looks for eve/e1 in the working directory, and says so."""
    code = (
        "import os, sys; cwd = os.getcwd(), os.path.expanduser('~');"
        "sys.exit('lorahub: no data file at ' + ' or '.join(f'{place}/eve/e1' for place in cwd))"
    )
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    trainer._follow(process, tmp_path / "none", TrainingState(name="none"))
    assert trainer.state.error == "no data file at eve/e1 or ~/eve/e1"


def test_a_long_curve_stays_short():
    state = TrainingState(name="x")
    event = {"event": "step", "total": 5000, "loss": 1.0, "learning_rate": 0.1, "samples_per_second": 9.0}
    for step in range(1, 5001):
        state = state.after({**event, "step": step, "validation": None})
    assert len(state.losses) <= 400
    assert state.losses[-1][0] >= 4990
    training = state.after({"event": "stage", "text": "training"})
    assert training.progress == "step 5,000 of 5,000"
    assert training.stoppable
    # Ctrl-C would lose what is being written then.
    assert not training.after({"event": "stage", "text": "evaluating on test"}).stoppable


def test_the_stream_is_as_documented_and_sigint_is_ctrl_c(data, tiny_base, tmp_path):
    """Read by a program that ignores SIGINT itself, as what a shell starts in the background does."""
    arguments = ["train", "--data", data, "--base", tiny_base("bert"), "--out", tmp_path / "run", "--events", "--json"]
    arguments += ["--set", "train.epochs=50", "--set", "train.evaluate_every=5"]
    training = Command(*arguments, handler=signal.SIG_IGN)
    training.until(lambda: '"validation": {' in training.err)
    training.send_signal(signal.SIGINT)
    assert training.wait(240) == 0, training.err
    assert json.loads(training.out)["happened"]["interrupted"]
    events = [json.loads(line) for line in training.err.splitlines() if line.startswith("{")]
    text = (DOCS / "training.md").read_text(encoding="utf-8")
    fields = {field for (field,) in documented(text[text.index("## Follow a training from a program") :])}
    assert set().union(*events) == fields
    assert {event["event"] for event in events} == {"stage", "step"}


@pytest.fixture
def address(tiny_engine, trainer, tiny_run):
    from lorahub.app import build

    page = build.build(tiny_engine, root=trainer.root, trainer=trainer)
    with served(page) as address:
        yield address


@pytest.fixture
def visit(contexts, address):
    with visits(contexts, address) as go:
        yield go


@browser
def test_a_training_is_watched_stopped_and_opened_with_the_keyboard_alone(visit, trainer, data):
    """Stop keeps the best so far. The training is held while more visitors come, so that they find it running."""
    page = visit()
    tab_to(page, "[role=tab]", key="Shift+Tab")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Start").wait_for()
    shoot(page, "train-desktop-light-opened")
    for selector, text in (
        ("input[aria-label='Data']", str(data)),
        ("input[aria-label='Preset']", LONG),
        ("input.scroll-hide", "watched"),
    ):
        tab_to(page, selector)
        page.keyboard.press("ControlOrMeta+a")
        page.keyboard.type(text, delay=10)
        if selector != "input.scroll-hide":
            page.keyboard.press("Enter")
            expect(page.locator(selector)).to_have_value(text)
    tab_to(page, "button.primary")
    page.keyboard.press("Enter")
    wait(trainer, lambda state: state and state.validations)
    os.kill(trainer._process.pid, signal.SIGSTOP)
    page.get_by_role("region", name="Training").get_by_text("Macro F1 on validation").wait_for()
    assert fits(page)
    shoot(page, "train-desktop-light")
    for size, theme in VIEWS[1:]:  # another visitor sees the same training
        other = visit(size, theme)
        open_tab(other, "Train")
        other.get_by_role("region", name="Training").get_by_text("watched: ").wait_for()
        assert fits(other)
        shoot(other, f"train-{size}-{theme}")
    tab_to(page, "button:not(.primary).lh-check")
    assert page.evaluate("document.activeElement.innerText") == "Stop, and keep the best so far"
    page.keyboard.press("Enter")
    wait(trainer, lambda state: state.stopping)
    assert trainer.stop().stopping  # a second press changes nothing
    os.kill(trainer._process.pid, signal.SIGCONT)
    page.get_by_role("status", name="Result").get_by_role("heading", name="watched").wait_for(timeout=200_000)
    shoot(page, "train-desktop-light-result")
    with pytest.raises(ConfigError, match="No training is running"):
        trainer.stop()
    name = trainer.state.answers_as
    assert records.load(trainer.root / name).progress.interrupted
    tab_to(page, "button:not(.primary).lh-check")
    assert page.evaluate("document.activeElement.innerText") == "Open in Check a claim"
    page.keyboard.press("Enter")
    page.get_by_role("tab", name="Check a claim", selected=True).wait_for()
    page.get_by_role("checkbox", name=name, checked=True).first.wait_for()


@browser
def test_what_is_wrong_is_said_on_the_page(visit, trainer):
    page = visit()
    open_tab(page, "Train")
    page.get_by_label("Name of the run (optional)").fill("a/b")
    page.get_by_role("button", name="Start").click()
    page.get_by_role("region", name="Training").get_by_text("a run's name is up to 100 letters").wait_for()


def test_a_page_without_a_trainer_has_no_such_tab_and_no_endpoint(tiny_engine, tiny_run):
    from lorahub.app import build

    page = build.build(tiny_engine, root=tiny_run.folder.parent)
    assert "/train" not in page.get_api_info()["named_endpoints"]
    assert "Train" not in [block.label for block in page.blocks.values() if type(block).__name__ == "Tab"]


@pytest.mark.parametrize(
    ("asked", "host", "space", "offered"),
    [
        (None, "127.0.0.1", False, True),
        (None, "0.0.0.0", False, False),
        (True, "0.0.0.0", False, True),
        (False, "127.0.0.1", False, False),
        (True, "127.0.0.1", True, False),
    ],
)
def test_training_is_for_this_machine_and_never_for_a_space(asked, host, space, offered, monkeypatch):
    from lorahub.app import build
    from lorahub.app.protection import Access

    monkeypatch.setenv("SPACE_ID", "user/space") if space else monkeypatch.delenv("SPACE_ID", raising=False)
    assert build._trains(asked, Access.parse(host)) is offered
