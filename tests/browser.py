"""A real Chromium for the tests of pages, and what they do with it."""

import shutil
import socket
from contextlib import contextmanager
from pathlib import Path

import pytest

FLAGS = """--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync""".split()
ARTEFACTS = Path(__file__).parent / "artefacts"
SIZES = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}


@pytest.fixture(scope="session")
def chromium():
    """A real Chromium; CI installs Debian's."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium on this machine: the page is not tested in a browser (apt-get install chromium)")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield opened
        opened.close()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def visits(chromium, address):
    """Yields go(size, theme, query) -> the page, loaded; a request to another host or a script error fails the test."""
    contexts, problems = [], []

    def go(size="desktop", theme="light", query=""):
        context = chromium.new_context(viewport=SIZES[size], has_touch=size == "phone")
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(120_000)  # a busy machine is no fault of the page
        page.on(
            "request",
            lambda request: request.url.startswith((address, "data:", "blob:")) or problems.append(request.url),
        )
        page.on("pageerror", lambda error: problems.append(str(error)))
        # File dialogs are intercepted from now on: asked for with the key press, that may come too late for it.
        page.on("filechooser", lambda dialog: None)
        page.goto(f"{address}?__theme={theme}{query}")
        page.get_by_role("tab").first.wait_for()
        return page

    yield go
    for context in contexts:
        context.close()
    assert not problems


def open_tab(page, name):
    """Where there is no room for its name, a tab stands in gradio's own menu."""
    page.wait_for_timeout(300)  # the page measures them once it is laid out
    tab = page.get_by_role("tab", name=name)
    if not tab.is_visible():
        page.get_by_role("button", name="More tabs").click()
        tab = page.locator(".overflow-dropdown").get_by_text(name)
    tab.click()


def shoot(page, name):
    """Keep a picture of the whole page, to be looked at."""
    ARTEFACTS.mkdir(exist_ok=True)
    page.wait_for_timeout(400)  # fades
    page.screenshot(path=ARTEFACTS / f"{name}.png", full_page=True)


def fits(page):
    """Whether the page is no wider than the screen."""
    return page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def ask(page, claim):
    """Put a claim to the adapters and wait for their answers."""
    page.get_by_role("textbox", name="Claim", exact=True).fill(claim)
    page.get_by_role("button", name="Check", exact=True).click()
    page.get_by_role("heading", name=f"“{claim}”").wait_for()


def tab_to(page, selector, *, key="Tab"):
    """Press Tab until an element that matches has the focus; a person would give up after 20."""
    for _ in range(20):
        page.keyboard.press(key)
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    pytest.fail(f"{selector} is not reached with {key}")
