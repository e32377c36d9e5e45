"""What visitors may see of the Hub: nothing private, in no endpoint and no MCP tool, unless the owner allows it."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from browser import served

pytestmark = pytest.mark.slow

SECRET, PUBLIC = "alice/secret", "bob/public"
# What only the private repository holds.
WORD = "plain-secret"


@pytest.fixture
def put(hub, hub_base, run_folder):
    """Put the tiny run on the Hub; its labels depend on the repository."""

    def put(repo, labels, **how):
        base = hub_base.split("@")[0]
        matter = f"base_model: {base}\nbase_model_relation: adapter\nlabel_names: {labels}\ntags:\n- lorahub"
        card = f"---\n{matter}\n---\n"
        config = json.loads((run_folder / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = hub_base.split("@")[0]
        files = {path.name: path.read_bytes() for path in run_folder.iterdir() if path.is_file()}
        record = json.loads(files["record.json"])
        record["environment"]["labels"] = labels
        record["environment"]["base_id"] = hub_base.split("@")[0]
        record["environment"]["data"]["id"] = f"data of {repo}"
        files |= {"README.md": card.encode(), "labels.json": json.dumps(labels).encode()}
        files |= {"adapter_config.json": json.dumps(config).encode(), "record.json": json.dumps(record).encode()}
        return hub.put(repo, files, **how)

    return put


@pytest.fixture
def repositories(hub, put):
    """A private adapter of the owner and a public one, both pulled; and a gated one, pulled by who may."""
    from lorahub.hub import fetch

    commits = {
        SECRET: put(SECRET, ["hedged", WORD], private=True),
        PUBLIC: put(PUBLIC, ["hedged", "plain"]),
        "bob/gated": put("bob/gated", ["hedged", "plain"]),
    }
    for repo in commits:
        fetch.download(repo)
    hub.repo("bob/gated").gated = True
    return commits


@pytest.fixture
def pages(hub_base, tiny_base, tiny_run, tmp_path, monkeypatch):
    """pages(allowed) -> the address of a page whose visitors may see these private repositories."""
    from contextlib import ExitStack

    from lorahub.app import build
    from lorahub.app.feedback import Feedback
    from lorahub.app.training_process import Trainer
    from lorahub.app.visitor_access import VisitorAccess
    from lorahub.serving.engine.engine import Engine

    # A folder whose path looks like an id on the Hub is not listed as an adapter.
    (tmp_path / "notes" / "mine").mkdir(parents=True)
    (tmp_path / "notes" / "mine" / "diary.txt").write_text(WORD)
    monkeypatch.chdir(tmp_path)
    with ExitStack() as open_pages:

        def make(allowed=()):
            engine = Engine(hub_base, [])
            trainer = Trainer(root=tmp_path / "trained", base="minilm", load=str)
            page = build.build(
                engine,
                root=tmp_path / "none",
                trainer=trainer,
                corrections=Feedback(tmp_path / "feedback"),
                visitors=VisitorAccess(allowed),
            )
            return open_pages.enter_context(served(page))

        yield make


def call(address, endpoint, arguments):
    """The server's answer to a program, as it is sent."""
    begun = httpx.post(f"{address}gradio_api/call{endpoint}", json={"data": arguments}, timeout=60)
    if begun.status_code != 200:
        return begun.text
    return httpx.get(f"{address}gradio_api/call{endpoint}/{begun.json()['event_id']}", timeout=60).text


def mcp_answers(address, arguments):
    """What each MCP tool answers where its texts are one of `arguments`."""
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    async def run():
        answers = []
        async with (
            streamable_http_client(f"{address}gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            for tool in (await session.list_tools()).tools:
                for argument in arguments:
                    values = {name: value(schema, argument) for name, schema in tool.inputSchema["properties"].items()}
                    answers.append((tool.name, str((await session.call_tool(tool.name, values)).content)))
        return answers

    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(asyncio.run, run()).result()


def value(schema, text):
    """An argument that holds `text` wherever its type allows."""
    kind = schema.get("type") or next((one.get("type") for one in schema.get("anyOf", [])), "string")
    return {"array": [text], "number": 1, "integer": 1, "object": {}, "boolean": True}.get(kind, text)


def test_a_private_repository_is_invisible_in_every_endpoint_and_tool(pages, repositories, hub):
    address = pages()
    info = httpx.get(f"{address}gradio_api/info").json()["named_endpoints"]
    assert len(info) >= 16
    named = [SECRET, f"{SECRET}@{repositories[SECRET]}", "secret", "notes/mine"]
    hub.requests.clear()
    seen = {}
    for endpoint, described in info.items():
        for text in named:
            arguments = [value(one["type"], text) for one in described["parameters"]]
            seen[endpoint, text] = call(address, endpoint, arguments)
    for where in (["this machine"], ["the Hub"], ["this machine", "the Hub"]):
        seen["/adapters", str(where)] = call(address, "/adapters", ["", "", where])
    seen |= {(tool, number): answer for number, (tool, answer) in enumerate(mcp_answers(address, named))}
    for asked, answer in seen.items():
        assert WORD not in answer, asked
        assert "diary" not in answer, asked
        assert "data of alice/secret" not in answer, asked
        assert "is a bug" not in answer, asked
    assert SECRET not in seen["/adapters", "['this machine', 'the Hub']"]
    assert PUBLIC in seen["/adapters", "['this machine']"]
    assert PUBLIC in seen["/adapters", "['the Hub']"]
    assert "no public adapter alice/secret on the Hub" in seen["/load_adapter", SECRET]
    assert "no public data set alice/secret" in seen["/train", SECRET]
    # Nothing private was even asked for: without a token the Hub hides it.
    assert not [row for row in hub.requests if SECRET in row[1] and row[2] < 300]


def test_a_gated_repository_in_the_cache_is_not_passed_on(pages, repositories):
    address = pages()
    for endpoint in ("/inspect_adapter", "/load_adapter"):
        answer = call(address, endpoint, [f"bob/gated@{repositories['bob/gated']}"])
        assert "no public adapter bob/gated" in answer


def test_what_the_owner_allows_is_listed_inspected_and_loaded(pages, repositories):
    address = pages([SECRET])
    for where in (["this machine"], ["the Hub"]):
        assert WORD in call(address, "/adapters", ["", "", where])
    assert WORD in call(address, "/inspect_adapter", [SECRET])
    assert "event: complete" in call(address, "/load_adapter", [SECRET])


def test_without_the_hub_only_what_is_allowed_is_shown(pages, repositories, monkeypatch):
    closed, opened = pages(), pages([SECRET])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    answer = call(closed, "/adapters", ["", "", ["this machine"]])
    assert "Hub does not say which are public" in answer
    assert PUBLIC not in answer
    assert SECRET not in answer
    assert "event: error" in call(closed, "/load_adapter", [SECRET])
    assert SECRET in call(opened, "/adapters", ["", "", ["this machine"]])
    assert "event: complete" in call(opened, "/load_adapter", [SECRET])


def test_a_name_that_is_no_repository_is_refused_at_the_start(cli, tmp_path):
    code, _, err = cli("app", "--allow-private", "secret")
    assert code == 2
    assert "--allow-private names repositories as USER/NAME; found 'secret'" in err


def test_the_form_of_answers_of_mcp_is_read(pages, repositories):
    """The test above searches texts: an answer that names the public adapter is found by it."""
    [answer] = [text for tool, text in mcp_answers(pages(), [PUBLIC]) if tool == "inspect_adapter"]
    assert PUBLIC in answer
