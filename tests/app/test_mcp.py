"""The page's endpoints as MCP tools, for a real MCP client over streamable HTTP."""

import ast
import asyncio
import base64
from concurrent.futures import ThreadPoolExecutor

import pytest
from browser import served
from conftest import learnable

pytestmark = pytest.mark.slow

CLAIM = "the vaccine may cause flu in the city"


@pytest.fixture(scope="module")
def address(make_page):
    with served(make_page()) as address:
        yield address


@pytest.fixture(scope="module")
def ask(address):
    """ask(tool, arguments) -> what the server answers; without a tool, the tools that it lists."""
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    async def call(tool, arguments):
        async with (
            streamable_http_client(f"{address}gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            return await (session.call_tool(tool, arguments) if tool else session.list_tools())

    # In a thread: where a browser was tested before, playwright's event loop still runs in this one.
    with ThreadPoolExecutor(max_workers=1) as thread:
        yield lambda tool=None, arguments=None: thread.submit(asyncio.run, call(tool, arguments)).result()


def value(answer):
    """Gradio writes an answer as Python would."""
    assert not answer.isError, answer.content[0].text
    return ast.literal_eval(answer.content[0].text)


def test_every_tool_and_argument_is_described(ask):
    tools = {tool.name: tool for tool in ask().tools}
    assert set(tools) == {
        "classify", "explain", "feedback", "compare", "adapters", "inspect_adapter", "loaded_adapters", "load_adapter",
        "drop_adapter", "runs", "run", "experiments", "experiment", "train", "training", "stop_training",
    }  # fmt: skip
    for tool in tools.values():
        assert tool.description
        for name, schema in tool.inputSchema["properties"].items():
            assert schema.get("description"), f"{tool.name}: {name} is not described"
    assert tools["classify"].inputSchema["properties"]["adapters"]["type"] == "array"


def test_classify_without_names_asks_every_loaded_adapter(ask, tiny_engine):
    assert list(value(ask("classify", {"claim": CLAIM}))["adapters"]) == list(tiny_engine.adapters)


def test_classify_answers_what_the_engine_answers(ask, tiny_engine):
    found = value(ask("classify", {"claim": CLAIM, "adapters": ["tiny"]}))["adapters"]["tiny"]["adapter"]
    (wanted,) = tiny_engine.classify([CLAIM], ["tiny"])["tiny"]
    assert found["label"] == wanted.label
    assert found["calibrated"] == pytest.approx(wanted.calibrated, abs=1e-5)


def test_an_error_comes_back_as_its_sentence(ask):
    answer = ask("classify", {"claim": CLAIM, "adapters": ["nobody"]})
    assert answer.isError
    assert "no adapter 'nobody' is loaded; loaded: tiny" in answer.content[0].text


def test_a_run_is_read_and_a_file_compared(ask):
    assert value(ask("run", {"name": "tiny"}))["name"] == "tiny"
    rows = "".join(f'"{row["claim"]}",{row["label"]}\n' for row in learnable(40))
    file = "data:text/csv;base64," + base64.b64encode(f"claim,label\n{rows}".encode()).decode()
    arguments = {"adapters": None, "claim": "", "label": "label", "evidence": "", "label_map": None}
    found, judged = value(ask("compare", {"file": file, **arguments}))
    assert found["results"]["tiny"]["n"] == 40
    assert judged["url"].endswith("file.classified.csv")
