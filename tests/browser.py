"""A real Chromium for the tests of pages, and what they do with it."""

import os
import shutil
import socket
from contextlib import contextmanager
from pathlib import Path

import pytest

FLAGS = """--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync""".split()
ARTEFACTS = Path(__file__).parent / "artefacts"
SIZES = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}
# Each size and each theme once; `make test-long` has all four pairs.
VIEWS = [("desktop", "light"), ("phone", "dark")]
if os.environ.get("LORAHUB_LONG"):
    VIEWS += [("desktop", "dark"), ("phone", "light")]


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


@pytest.fixture(scope="session")
def contexts(chromium):
    """contexts(size) -> a context that the session's visits share, with its cache; a `fresh` one is a new visitor."""
    shared = {}

    def context(size, *, fresh):
        if fresh or size not in shared:
            made = chromium.new_context(viewport=SIZES[size], has_touch=size == "phone")
            if fresh:
                return made
            shared[size] = made
        return shared[size]

    yield context
    for one in shared.values():
        one.close()


@contextmanager
def visits(contexts, address):
    """Yields go(size, theme, query) -> the page, loaded; a request to another host or a script error fails the test."""
    pages, problems = [], []

    def go(size="desktop", theme="light", query="", *, fresh=False):
        page = contexts(size, fresh=fresh).new_page()
        pages.append(page.context if fresh else page)
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
    for opened in pages:
        opened.close()
    assert not problems


@contextmanager
def served(page):
    """Serve a page in this process and yield its address."""
    from lorahub.app import build

    yield build.serve(page, "127.0.0.1", free_port())
    page.close(verbose=False)


def open_tab(page, name):
    """Open a tab; on a phone, it may be in gradio's own menu."""
    tab = page.get_by_role("tab", name=name)
    if page.viewport_size["width"] < SIZES["desktop"]["width"]:
        page.wait_for_timeout(300)  # the page measures the tabs once it is laid out
        if not tab.is_visible():
            page.get_by_role("button", name="More tabs").click()
            tab = page.locator(".overflow-dropdown").get_by_text(name)
    tab.click()


def finish_animations(page):
    """Wait for the end of fades."""
    page.evaluate(
        """() => Promise.all(document.getAnimations()
             .filter(one => one.effect.getComputedTiming().endTime !== Infinity)
             .map(one => one.finished.catch(() => null)))"""
    )


def shoot(page, name):
    """Keep a picture of the whole page, to be looked at."""
    ARTEFACTS.mkdir(exist_ok=True)
    page.screenshot(path=ARTEFACTS / f"{name}.png", full_page=True, animations="disabled")


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
