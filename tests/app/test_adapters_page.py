"""The tab *Adapters* in a real browser and through gradio's own client: found, looked at, loaded, dropped, refused."""

import json
import re
import shutil

import pytest
from browser import VIEWS, ask, fits, open_tab, served, shoot, tab_to, visits

from lorahub.errors import UnsafeAdapterError

pytestmark = pytest.mark.slow

browser = pytest.mark.browser
CLAIM = "the vaccine may cause flu in the city"


@pytest.fixture(scope="module")
def root(tiny_run, tmp_path_factory):
    """Runs: one that fits, one of another base, one whose weights are pickled, one whose weights are damaged."""
    root = tmp_path_factory.mktemp("here") / "runs"
    for name in ("fitting", "of-another-base", "pickled", "damaged"):
        shutil.copytree(tiny_run.folder, root / name)
    config = root / "of-another-base" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": "someone/else"}))
    (root / "pickled" / "adapter_model.safetensors").rename(root / "pickled" / "adapter_model.bin")
    (root / "damaged" / "adapter_model.safetensors").write_bytes(b"no tensors")
    return root


@pytest.fixture(scope="module")
def engine(tiny_base, make_adapter):
    from lorahub.serving.engine.engine import Engine

    return Engine(str(tiny_base("bert")), [make_adapter("bert", labels=3, seed=1, name="first")], most_adapters=8)


@pytest.fixture(scope="module")
def address(engine, root):
    from lorahub.app import build

    page = build.build(engine, root=root)
    with served(page) as address:
        yield address


@pytest.fixture
def visit(contexts, address, engine):
    with visits(contexts, address) as go:

        def opened(*arguments):
            page = go(*arguments)
            open_tab(page, "Adapters")
            page.get_by_role("button", name="Search", exact=True).wait_for()
            return page

        yield opened
    for name in set(engine.names) - {"first"}:
        engine.drop(name)


def choose(page, identifier):
    field = page.get_by_role("combobox", name="Adapter", exact=True)
    field.fill(identifier)
    field.press("Enter")


def press(page, button):
    page.get_by_role("button", name=button, exact=True).click()


def said(page):
    return page.get_by_role("status", name="Adapter", exact=True)


@browser
def test_a_run_is_found_looked_at_loaded_asked_and_dropped(visit, engine):
    page = visit()
    page.get_by_role("textbox", name="Search").fill("fitting hedged")
    press(page, "Search")
    found = page.get_by_role("status", name="Found adapters").get_by_role("rowheader")
    found.first.wait_for()
    page.wait_for_function("document.querySelectorAll('[aria-label=\"Found adapters\"] tbody tr').length == 1")
    assert found.inner_text() == "fitting"
    choose(page, "fitting")
    press(page, "Inspect")
    said(page).get_by_text("Safe to load.").wait_for()
    assert "hedged, plain" in said(page).inner_text()
    press(page, "Load")
    said(page).get_by_text("Loaded: it answers as fitting.").wait_for()
    assert "No check failed." in said(page).inner_text()
    table = page.get_by_role("region", name="Loaded adapters")
    assert table.get_by_role("rowheader").all_inner_texts() == ["first", "fitting"]
    open_tab(page, "Check a claim")
    page.get_by_role("checkbox", name="fitting").check()
    ask(page, CLAIM)
    assert page.get_by_role("region", name="fitting").locator(".lh-verdict").first.inner_text() == (
        engine.classify([CLAIM], ["fitting"])["fitting"][0].label
    )
    open_tab(page, "Adapters")
    page.get_by_role("combobox", name="Loaded adapter").click()
    page.get_by_role("option", name="fitting").click()
    press(page, "Run checks")
    page.get_by_role("status", name="Checks").get_by_text("Checks of fitting").wait_for()
    press(page, "Drop")
    page.get_by_role("status", name="Drop").get_by_text("Dropped: fitting.").wait_for()
    assert engine.names == ["first"]
    open_tab(page, "Check a claim")
    page.get_by_role("checkbox", name="fitting").wait_for(state="detached")
    ask(page, "doctors never say that")  # what was ticked and is gone is not asked
    assert page.get_by_role("status", name="Answers").locator(".lh-card h3").all_inner_texts() == ["first"]


@browser
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("of-another-base", "was trained on someone/else, but the loaded base is tiny-bert"),
        ("pickled", "pickled and can run code"),
        ("damaged", "header cannot be read"),
        ("../../etc", "neither a run of this page nor an adapter on the Hub"),
    ],
)
def test_what_cannot_be_loaded_is_refused_with_its_reason(visit, engine, name, reason):
    page = visit("phone")
    choose(page, name)
    press(page, "Load")
    said(page).get_by_text(reason).wait_for()
    assert engine.names == ["first"]
    shoot(page, f"adapters-refused-{name.strip('./')}".replace("/", "-"))


@browser
def test_a_hub_out_of_reach_is_said_beside_what_is_here(visit):
    page = visit()
    page.get_by_role("checkbox", name="the Hub").check()
    page.get_by_role("textbox", name="Base").fill("")
    press(page, "Search")
    found = page.get_by_role("status", name="Found adapters")
    found.get_by_text("The Hub's adapters are not listed: cannot list adapters: HF_HUB_OFFLINE is set.").wait_for()
    assert "fitting" in found.inner_text()
    shoot(page, "adapters-no-hub")
    page.get_by_role("checkbox", name="this machine").uncheck()
    press(page, "Search")
    found.get_by_text("cannot list adapters: HF_HUB_OFFLINE is set.", exact=False).wait_for()
    found.get_by_role("table").wait_for(state="detached")


@browser
@pytest.mark.parametrize(("size", "theme"), VIEWS)
def test_the_tab_fits_the_screen(visit, size, theme):
    page = visit(size, theme)
    choose(page, "pickled")
    press(page, "Inspect")
    said(page).get_by_text("Refused: it is not loaded.").wait_for()
    assert fits(page)
    shoot(page, f"adapters-{size}-{theme}")


@browser
def test_the_tab_works_with_the_keyboard_alone(visit, engine):
    page = visit()
    tab_to(page, "input[placeholder^='Words of']")
    page.keyboard.type("fitting")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelectorAll('[aria-label=\"Found adapters\"] tbody tr').length == 1")
    tab_to(page, "input[aria-label='Adapter']")
    page.keyboard.type("fitting")
    page.keyboard.press("Enter")
    tab_to(page, "button.lh-load")
    page.keyboard.press("Enter")
    said(page).get_by_text("Loaded: it answers as fitting.").wait_for()


@pytest.fixture(scope="module")
def client(address):
    from gradio_client import Client

    return Client(address, verbose=False)


def test_a_program_does_all_that_a_person_can(client, engine, root):
    from gradio_client.exceptions import AppError

    listed = client.predict("hedged", "tiny-bert", ["this machine"], api_name="/adapters")
    assert listed["missing"] == ""
    assert {item["id"] for item in listed["found"]} >= {"fitting", "pickled"}
    assert client.predict("", "someone/else", ["this machine"], api_name="/adapters")["found"] == []
    assert client.predict("fitting", api_name="/inspect_adapter")["safety"]["safe"] is True
    assert client.predict("pickled", api_name="/inspect_adapter")["safety"]["safe"] is False
    for api_name, arguments in (
        ("/inspect_adapter", ["fitting"]),
        ("/inspect_adapter", ["damaged"]),
        ("/adapters", ["", "", ["this machine"]]),
        ("/runs", []),
        ("/run", ["fitting"]),
        ("/loaded_adapters", []),
    ):
        assert str(root) not in json.dumps(client.predict(*arguments, api_name=api_name)), api_name
    assert client.predict("fitting", api_name="/inspect_adapter")["id"] == "fitting"
    name = client.predict("fitting", api_name="/load_adapter")
    assert name == "fitting"
    with pytest.raises(AppError, match="fitting is loaded already; it answers as fitting"):
        client.predict("fitting", api_name="/load_adapter")
    held = {item["name"]: item for item in client.predict(api_name="/loaded_adapters")["adapters"]}
    assert held["fitting"]["loaded"]
    assert held["fitting"]["bytes"] > 1000
    assert client.predict(CLAIM, [name], "", api_name="/classify")["adapters"][name]["adapter"]["label"]
    assert client.predict(name, api_name="/drop_adapter") == name
    assert engine.names == ["first"]


@pytest.mark.parametrize(
    ("endpoint", "arguments", "words"),
    [
        ("/load_adapter", ["of-another-base"], "the loaded base is tiny-bert"),
        ("/load_adapter", ["pickled"], "pickled and can run code"),
        ("/load_adapter", ["/etc"], "neither a run of this page nor an adapter"),
        ("/inspect_adapter", [".."], "neither a run of this page nor an adapter"),
        ("/load_adapter", [" "], "Choose an adapter first."),
        ("/drop_adapter", ["nobody"], "no adapter 'nobody' is loaded"),
        ("/adapters", ["", "", ["the Hub"]], "HF_HUB_OFFLINE is set"),
        ("/adapters", ["", "", []], "Choose where to look"),
    ],
)
def test_the_endpoints_say_what_is_wrong(client, endpoint, arguments, words):
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError, match=re.escape(words)):
        client.predict(*arguments, api_name=endpoint)


def test_on_a_space_nobody_loads_or_drops_what_others_ask(engine, root):
    from lorahub.app import build

    endpoints = build.build(engine, root=root, changeable=False).get_api_info()["named_endpoints"]
    assert {"/adapters", "/inspect_adapter", "/loaded_adapters"} <= set(endpoints)
    assert not {"/load_adapter", "/drop_adapter"} & set(endpoints)


def test_an_adapter_of_the_hub_is_found_looked_at_and_loaded(hub, hub_base, run_folder, tmp_path):
    from lorahub.app.catalogue import HERE, HUB, Catalogue
    from lorahub.publish import push
    from lorahub.serving.engine.engine import Engine

    push.send(push.plan(run_folder, push.Options(base_id=hub_base, licence="mit")))
    hub.put("bob/other", {"README.md": b"---\nbase_model: org/other\ntags:\n- lorahub\n---\n"})
    catalogue = Catalogue(Engine(hub_base), tmp_path / "none")
    found = catalogue.listing(base="org/tiny-bert", where=[HERE, HUB])
    assert [item.id for item in found.adapters] == ["alice/tiny"]
    assert found.adapters[0].metrics["f1_macro"] > 0
    assert catalogue.inspect("alice/tiny").to_dict()["safety"]["safe"] is True
    assert catalogue.load("alice/tiny") == "tiny"
    [pulled] = catalogue.listing(where=[HERE]).adapters
    assert (pulled.where, pulled.id) == ("cache", f"alice/tiny@{found.adapters[0].revision}")
    assert catalogue.inspect(pulled.id).info.data == found.adapters[0].data
    files = {path.name: path.read_bytes() for path in run_folder.iterdir() if path.suffix == ".json"}
    hub.put("bob/unsafe", {**files, "adapter_model.bin": b"\x80"})
    with pytest.raises(UnsafeAdapterError, match="only adapter_model.bin, which is pickled"):
        catalogue.load("bob/unsafe")
