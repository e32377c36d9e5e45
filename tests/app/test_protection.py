"""The server's own checks: foreign hosts and sites, the page's policy, uploads, limits, and wrong types."""

import asyncio
import base64
import json
import math
import os
import shutil
import socket
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from browser import ask, free_port, open_tab, served, visits
from conftest import LONG, sentences
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lorahub.app.protection import Access
from lorahub.errors import ConfigError

pytestmark = pytest.mark.slow
browser = pytest.mark.browser

CLAIM = "the vaccine may cause flu in the city"
RECORDING = bytes(1_234_567)
HOSTILE = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"


@pytest.fixture(scope="module")
def address(make_page):
    with served(make_page()) as address:
        yield address


@pytest.fixture(scope="module")
def serve(make_page):
    """serve(host, **options) -> the address on this machine of a page served in that way."""
    from lorahub.app import build

    with ExitStack() as pages:

        def start(host="127.0.0.1", **options):
            page, port = make_page(), free_port()
            build.serve(page, host, port, **options)
            pages.callback(page.close, verbose=False)
            return f"http://127.0.0.1:{port}/"

        yield start


def call(address, endpoint, data, **how):
    """Status and text of an endpoint's answer to a program."""
    begun = httpx.post(f"{address}gradio_api/call/{endpoint}", json={"data": data}, timeout=120, **how)
    if begun.status_code != 200:
        return begun.status_code, begun.text
    answer = httpx.get(f"{address}gradio_api/call/{endpoint}/{begun.json()['event_id']}", timeout=120)
    return answer.status_code, answer.text


# Hosts and origins


@pytest.mark.parametrize("path", ["", "config", "gradio_api/info", "gradio_api/mcp/", "gradio_api/queue/data"])
@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost@evil.example", "10.0.0.9", ""])
def test_a_foreign_host_is_refused_in_one_line(address, path, host):
    answer = httpx.get(address + path, headers={"Host": host})
    assert answer.status_code in (400, 403)
    assert "\n" not in answer.text
    assert "lorahub" not in answer.text


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST", "127.0.0.1", "[::1]"])
def test_the_names_of_this_machine_are_taken(address, name):
    assert httpx.get(f"{address}config", headers={"Host": f"{name}:7860"}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://localhost.evil.example"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"},
    ],
)
def test_what_another_site_sends_is_refused(address, headers):
    post = httpx.post(f"{address}gradio_api/call/classify", json={"data": [CLAIM, ["tiny"], "", 1]}, headers=headers)
    joined = httpx.get(f"{address}gradio_api/queue/data?session_hash=x", headers=headers)
    uploaded = httpx.post(f"{address}gradio_api/upload", files={"files": b"x"}, headers=headers)
    assert [one.status_code for one in (post, joined, uploaded)] == [403, 403, 403]
    assert "other sites" in post.json()["detail"]


def test_a_link_from_another_site_opens_the_page_with_its_headers(address):
    answer = httpx.get(address, headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"})
    assert answer.status_code == 200
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "same-origin"
    policy = answer.headers["Content-Security-Policy"]
    assert "frame-ancestors 'self'" in policy
    assert "huggingface.co" not in policy


def test_an_allowed_host_is_taken_and_may_frame_the_page(serve):
    address = serve(access=Access.parse("127.0.0.1", ["Claims.example.org"]))
    headers = {"Host": "claims.example.org", "Origin": "https://claims.example.org"}
    assert call(address, "runs", [], headers=headers)[0] == 200
    assert "frame-ancestors 'self' https://claims.example.org" in httpx.get(address).headers["Content-Security-Policy"]
    assert httpx.get(address, headers={"Host": "other.example.org"}).status_code == 403


def test_a_space_is_reached_under_its_own_name_in_the_hubs_frame(monkeypatch, serve):
    monkeypatch.setenv("SPACE_ID", "alice/claims")
    monkeypatch.setenv("SPACE_HOST", "alice-claims.hf.space")
    access = Access.parse("0.0.0.0")
    assert access.shared
    assert "alice-claims.hf.space" in access.names()
    from lorahub.app import protection

    def with_forwarded(text):
        scope = {"type": "http", "client": ("10.1.2.3", 1), "headers": [(b"x-forwarded-for", text)]}
        return protection.visitor(scope)

    assert with_forwarded(b"1.1.1.1, 8.8.8.8, 10.0.0.1") == "8.8.8.8"  # the first one is the visitor's own claim
    headers = protection.SecurityHeaders(None, access=access)._headers
    assert "https://huggingface.co" in headers["Content-Security-Policy"]


@pytest.mark.parametrize("name", ["https://x.org", "x.org/path", "a b", "user@x.org", "*"])
def test_what_is_no_host_name_is_refused_at_the_start(name):
    with pytest.raises(ConfigError, match="--allow-host is the name of a host"):
        Access.parse("127.0.0.1", [name])


@browser
def test_in_a_browser_a_rebound_name_and_another_site_get_nothing(chromium, address, tmp_path):
    """A page of another origin asks with all that a browser offers; a name that leads here is not this page's."""
    port = address.rstrip("/").rsplit(":", 1)[1]
    context = chromium.new_context()
    page = context.new_page()
    rebound = page.goto(f"http://rebound.localhost:{port}/")  # Chromium resolves *.localhost to this machine
    assert rebound.status == 403
    assert "not served under this host name" in page.content()
    from http.server import HTTPServer, SimpleHTTPRequestHandler

    (tmp_path / "index.html").write_text("<p>elsewhere</p>")
    elsewhere = HTTPServer(("127.0.0.1", 0), lambda *args: SimpleHTTPRequestHandler(*args, directory=str(tmp_path)))
    threading.Thread(target=elsewhere.serve_forever, daemon=True).start()
    try:
        page.goto(f"http://127.0.0.1:{elsewhere.server_port}/")
        found = page.evaluate(
            """async address => {
                const tries = {};
                const note = async (name, request) => {
                    try { const answer = await request(); tries[name] = answer.type + await answer.text(); }
                    catch (error) { tries[name] = "failed"; }
                };
                await note("read", () => fetch(address + "config"));
                await note("call", () => fetch(address + "gradio_api/call/runs", {method: "POST", body: '{"data":[]}',
                    headers: {"Content-Type": "application/json"}}));
                await note("simple", () => fetch(address + "gradio_api/call/runs", {method: "POST", mode: "no-cors",
                    body: '{"data":[]}'}));
                await note("events", () => fetch(address + "gradio_api/queue/data?session_hash=x"));
                return tries;
            }""",
            address,
        )
        assert "tiny" not in json.dumps(found)
        assert "event_id" not in json.dumps(found)
        page.set_content(f'<iframe src="{address}"></iframe>')
        page.wait_for_timeout(500)
        assert not page.frames[-1].url.startswith(address) or not page.frames[-1].locator("gradio-app").count()
    finally:
        elsewhere.shutdown()
        context.close()


@browser
def test_scripts_in_every_field_stay_text_and_the_policy_stops_nothing_of_the_page(contexts, address):
    with visits(contexts, address) as go:
        page = go(fresh=True)
        errors = []
        page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
        ask(page, CLAIM)
        page.get_by_role("button", name="Which words moved the answers?").click()
        page.get_by_role("heading", name="Which words moved the answers").wait_for()
        page.get_by_role("button", name="Evidence and strength").click()
        filled = set()
        for tab in page.get_by_role("tab").all_inner_texts():
            open_tab(page, tab)
            page.wait_for_timeout(500)
            for field in page.locator("input[type=text]:visible, textarea:visible, input:not([type]):visible").all():
                if field.is_editable():
                    field.fill(HOSTILE)
                    field.press("Enter")
                    filled.add(field.get_attribute("aria-label") or field.get_attribute("placeholder"))
            for button in page.locator("button.lh-check:visible").all():
                if button.is_enabled() and "Stop" not in button.inner_text():
                    button.click(force=True)  # it may have been disabled meanwhile, by an answer that came
                    page.wait_for_timeout(300)
            page.wait_for_timeout(700)
            assert page.title() == "lorahub"
            assert not page.locator("img[src=x]").count()
        assert len(filled) >= 6
        assert not [line for line in errors if "Content Security Policy" in line or "Refused to" in line]


# Uploads


def upload(address, content, name="claims.csv"):
    return httpx.post(f"{address}gradio_api/upload", files={"files": (name, content)}, timeout=60)


def test_the_path_of_an_upload_cannot_be_guessed(address):
    from lorahub.app import FOLDER

    first, second = (Path(upload(address, b"claim\nx\n").json()[0]) for _ in range(2))
    assert first != second  # the same content and name
    assert first.is_relative_to(FOLDER)
    assert first.read_bytes() == b"claim\nx\n"
    assert httpx.get(f"{address}gradio_api/file={first}").status_code == 200
    assert httpx.get(f"{address}gradio_api/file={first.parent.parent}").status_code == 403


def test_too_large_files_are_refused_and_leave_nothing(serve):
    from lorahub.app import FOLDER

    address = serve(file_mb=1)
    before = set(Path(FOLDER).rglob("*"))
    answer = upload(address, bytes(3_000_000))
    assert answer.status_code == 413
    assert "more than the 1 MB" in answer.text
    # Several files of one request count together.
    many = httpx.post(f"{address}gradio_api/upload", files=[("files", (f"{n}.csv", bytes(600_000))) for n in range(3)])
    assert many.status_code == 413
    assert set(Path(FOLDER).rglob("*")) == before
    assert httpx.post(f"{address}gradio_api/call/runs", content=bytes(17_000_000)).status_code == 413


def test_all_files_together_have_a_limit(serve, no_files):
    address = serve(file_mb=1)
    answers = [upload(address, bytes(900_000)).status_code for _ in range(8)]
    assert answers[0] == 200
    assert answers[-1] == 503


def stored():
    """What gradio may have stored: in the page's folder, in gradio's own, and where temporary files go by default."""
    from lorahub.app import FOLDER

    temporary = Path(tempfile.gettempdir())
    loose = {path for path in temporary.glob("tmp*") if path.is_file() and path.stat().st_size == len(RECORDING)}
    return {*Path(FOLDER).rglob("*"), *(temporary / "gradio").rglob("*"), *loose}


@pytest.fixture
def no_files():
    """Delete what earlier tests uploaded: the pages of a process share a folder."""
    from lorahub.app import FOLDER

    for path in Path(FOLDER).iterdir():
        shutil.rmtree(path, ignore_errors=True)


@pytest.mark.parametrize(
    "route",
    ["process_recording", "component_server", "vibe-edit", "vibe-code", "stream/x", "run-history/connect", "new-route"],
)
def test_routes_that_the_page_does_not_use_store_nothing(address, route):
    before = stored()
    answer = httpx.post(f"{address}gradio_api/{route}", files={"video": ("x.mp4", RECORDING)}, timeout=60)
    assert answer.status_code == 404
    assert "no such endpoint" in answer.json()["detail"]
    assert stored() == before


def test_what_mcp_clients_send_inline_is_stored_with_the_other_files_and_counted(serve, no_files):
    from gradio import mcp

    from lorahub.app import FOLDER

    assert Path(mcp.DEFAULT_TEMP_DIR) == Path(FOLDER)
    address = serve(file_mb=1)
    kind = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    file = "data:text/csv;base64," + base64.b64encode(b"claim\n" + b"x" * 900_000).decode()
    arguments = {"name": "compare", "arguments": {"file": file, "adapters": ["tiny"]}}
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": arguments}
    answers = [
        httpx.post(f"{address}gradio_api/mcp/", json=call, headers=kind, timeout=60).status_code for _ in range(8)
    ]
    assert answers[0] != 503
    assert answers[-1] == 503


def test_results_count_as_files(serve, no_files):
    address = serve(file_mb=1)
    path = upload(address, ("claim\n" + "the flu\n" * 3 + "x" * 700_000).encode()).json()[0]
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    answers = [call(address, "compare", [file, ["tiny"], "claim", "", "", None])[1] for _ in range(8)]
    assert "event: complete" in answers[0]
    assert "as many files of visitors as it may" in answers[-1]


def stalled(address, declared=1_000_000):
    """A connection that begins an upload and says no more."""
    port = int(address.rstrip("/").rsplit(":", 1)[1])
    connection = socket.create_connection(("127.0.0.1", port))
    head = 'Content-Disposition: form-data; name="files"; filename="x.csv"\r\nContent-Type: text/csv\r\n\r\n'
    connection.sendall(
        f"POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {declared}\r\n"
        f"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n{head}claim".encode()
    )
    return connection


def closed(connection, seconds):
    connection.settimeout(max(0.1, seconds))
    try:
        while connection.recv(4096):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


def test_stalled_uploads_and_silent_connections_are_dropped(serve, capfd):
    from lorahub.app import FOLDER

    address = serve(stall_seconds=1)
    before = set(Path(FOLDER).rglob("*"))
    silent = socket.create_connection(("127.0.0.1", int(address.rstrip("/").rsplit(":", 1)[1])))
    half = socket.create_connection(("127.0.0.1", int(address.rstrip("/").rsplit(":", 1)[1])))
    half.sendall(b"GET / HTTP/1.1\r\nHost: ")
    left = stalled(address)
    left.close()  # a visitor who goes away
    connections = [stalled(address) for _ in range(40)]
    end = time.monotonic() + 30
    assert all(closed(one, end - time.monotonic()) for one in (*connections, silent, half))
    assert set(Path(FOLDER).rglob("*")) == before
    assert upload(address, b"claim\nx\n").status_code == 200
    assert "Traceback" not in capfd.readouterr().err


def test_old_files_are_deleted_and_used_ones_kept(tmp_path):
    from lorahub.app.uploads import Uploads, used

    files = Uploads(folder=tmp_path, kept_seconds=1.0)
    old, kept = tmp_path / "a" / "old.csv", tmp_path / "b" / "kept.csv"
    for path in (old, kept):
        path.parent.mkdir()
        path.write_text("claim\n")
    time.sleep(1.2)
    used(kept)
    files.sweep()
    assert not old.parent.exists()
    assert kept.exists()


# Limits


def test_a_visitor_who_asks_too_often_waits_and_others_do_not():
    from lorahub.app.protection import RateLimit

    limit = RateLimit(None, requests_a_minute=60)
    assert [limit._wait("192.0.2.1") for _ in range(60)] == [0] * 60
    assert limit._wait("192.0.2.1") >= 1
    assert limit._wait("192.0.2.2") == 0
    assert limit._wait(None) == 0


def test_a_visitor_has_a_bounded_number_of_open_requests_and_others_are_answered():
    from starlette.responses import PlainTextResponse

    from lorahub.app.protection import _MOST_OPEN, RateLimit

    async def streams_then_answers():
        opened, end = [], asyncio.Event()

        async def stream(scope, receive, send):
            opened.append(scope["client"][0])
            await end.wait()
            await PlainTextResponse("fine")(scope, receive, send)

        limit, statuses = RateLimit(stream, requests_a_minute=10_000), []

        async def ask(address):
            async def send(message):
                statuses.extend([message["status"]] if message["type"] == "http.response.start" else [])

            scope = {"type": "http", "path": "/heartbeat", "method": "GET", "headers": [], "client": (address, 1)}
            await limit(scope, None, send)

        asked = [asyncio.create_task(ask("192.0.2.9")) for _ in range(_MOST_OPEN + 3)]
        asked.append(asyncio.create_task(ask("192.0.2.10")))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        refused = statuses.count(429)
        end.set()
        await asyncio.gather(*asked)
        await ask("192.0.2.9")  # the open ones have ended
        return opened, refused, statuses, limit._open

    with ThreadPoolExecutor(1) as thread:
        opened, refused, statuses, left = thread.submit(asyncio.run, streams_then_answers()).result()
    assert opened.count("192.0.2.9") == _MOST_OPEN + 1
    assert opened.count("192.0.2.10") == 1
    assert (refused, statuses.count(200)) == (3, _MOST_OPEN + 2)
    assert not left


def test_a_shared_page_answers_429_with_the_seconds_to_wait(make_page):
    from starlette.responses import PlainTextResponse

    from lorahub.app.protection import RateLimit

    limit, sent = RateLimit(PlainTextResponse("fine"), requests_a_minute=2), []

    async def send(message):
        sent.append(message)

    async def ask():
        scope = {"type": "http", "path": "/config", "method": "GET", "headers": [], "client": ("192.0.2.9", 1)}
        for _ in range(3):
            await limit(scope, None, send)

    # In a thread: Playwright runs an event loop in this one.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, ask()).result()
    starts = [message for message in sent if message["type"] == "http.response.start"]
    assert [one["status"] for one in starts] == [200, 200, 429]
    assert int(dict(starts[-1]["headers"])[b"retry-after"]) >= 1


@pytest.mark.parametrize(
    ("host", "shared"), [("127.0.0.1", False), ("::1", False), ("0.0.0.0", True), ("10.0.0.9", True)]
)
def test_others_change_nothing_and_are_limited_unless_the_owner_says_so(host, shared):
    access = Access.parse(host)
    assert access.shared is shared
    assert access.permits(None) is not shared
    assert access.permits(True)
    assert not access.permits(False)
    assert bool(access.requests_a_minute) is shared
    assert Access.parse(host, rate=0).requests_a_minute == 0


def test_a_shared_page_fetches_nothing_for_its_visitors(serve):
    address = serve("0.0.0.0")
    file = {"path": "https://example.org/claims.csv", "meta": {"_type": "gradio.FileData"}}
    assert "fetches nothing from other servers" in call(address, "compare", [file, None, "", "", "", None])[1]
    assert httpx.get(f"{address}gradio_api/file=https://example.org/x").status_code == 403
    # DNS rebinding needs a host name; an IP address of this machine is accepted.
    assert httpx.get(f"{address}config", headers={"Host": "192.168.1.7:7860"}).status_code == 200
    assert httpx.get(f"{address}config", headers={"Host": "evil.example"}).status_code == 403


@pytest.mark.parametrize(
    ("claim", "evidence", "adapters", "words"),
    [
        ("word " * 101, "", ["tiny"], "101 words"),
        ("two words", "x" * 6000, ["tiny"], "6,009 characters"),
        ("two words", "", [f"adapter{number}" for number in range(9)], "at most 8 adapters"),
    ],
)
def test_an_explanation_costs_bounded_work(address, claim, evidence, adapters, words):
    assert words in call(address, "explain", [claim, adapters, evidence, 1])[1]


# Types

WRONG = [None, 5, "x", [1], {}, {"path": "/etc/passwd"}, "\ud800", ["\ud800"]]


def test_wrong_types_are_refused_with_what_they_must_be_in_every_endpoint(address, capfd):
    info = httpx.get(f"{address}gradio_api/info").json()["named_endpoints"]
    valid = {"claim": CLAIM, "adapters": ["tiny"], "strength": 1.0, "where": ["this machine"]}
    bodies = []
    for endpoint, described in info.items():
        if endpoint in ("/train", "/stop_training"):
            continue  # right ones would start one; their types are those of the others
        names = [one["parameter_name"] for one in described["parameters"]]
        for place in range(len(names)):
            # Every value for each argument in `make test-long`, else two of them in turn.
            for wrong in WRONG if LONG else [WRONG[(len(bodies) + step) % len(WRONG)] for step in range(2)]:
                data = [valid.get(name, "") for name in names]
                data[place] = wrong
                bodies.append((endpoint, names[place], wrong, json.dumps({"data": data}).encode()))
        few = call(address, endpoint[1:], [])[1]
        assert not names or "are too few" in few or "event: complete" in few, (endpoint, few)

    def send(asked):
        endpoint, name, wrong, body = asked
        url, kind = f"{address}gradio_api/call{endpoint}", {"Content-Type": "application/json"}
        begun = httpx.post(url, content=body, headers=kind, timeout=20)
        assert begun.status_code in (200, 400, 422), (asked, begun.text)
        if begun.status_code == 200:
            answer = httpx.get(f"{url}/{begun.json()['event_id']}", timeout=20).text
            assert "is a bug" not in answer, asked
            assert '{"error": null}' not in answer, asked

    with ThreadPoolExecutor(8) as threads:
        print(f"{len(list(threads.map(send, bodies)))} calls with wrong types")
    assert "Traceback" not in capfd.readouterr().err
    assert "claim should be a valid string; found a number" in call(address, "classify", [5, ["tiny"], "", 1])[1]
    assert "adapters[0] should be a valid string" in call(address, "classify", [CLAIM, [5], "", 1])[1]
    assert "seed should be a valid integer" in call(address, "train", ["x", "lora", "x", "", "1"])[1]
    assert "file should be an uploaded file" in call(address, "compare", ["x", None, "", "", "", None])[1]
    outside = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
    assert "a file that was uploaded to this page" in call(address, "compare", [outside, None, "", "", "", None])[1]


@pytest.mark.parametrize("path", ["call/nothing", "call/v2/nothing", "call/v2/classify", "queue/join", "run/classify"])
@pytest.mark.parametrize(
    "body", [b"", b"5", b"[]", b"{}", b'{"data": 5}', b'{"data": [], "fn_index": 999999}', b"\xff"]
)
def test_bodies_that_are_no_call_are_refused(address, path, body, capfd):
    answer = httpx.post(f"{address}gradio_api/{path}", content=body, headers={"Content-Type": "application/json"})
    assert 400 <= answer.status_code < 500 or answer.status_code == 200
    assert "Traceback" not in capfd.readouterr().err


TEXTS = st.text(st.characters())
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.sampled_from(["tiny", CLAIM]),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=9), inside, max_size=3),
    max_leaves=6,
)
QUESTIONS = st.tuples(TEXTS, st.just(["tiny"]), TEXTS, st.floats(-1, 3))
ENDPOINTS = ("classify", "explain", "compare", "adapters", "inspect_adapter", "run", "experiment", "feedback")


@settings(max_examples=300 if LONG else 20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(endpoint=st.sampled_from(ENDPOINTS), arguments=st.lists(VALUES, max_size=6) | QUESTIONS, mark=st.uuids())
def test_any_body_gets_a_refusal_or_its_own_answer(address, capfd, endpoint, arguments, mark):
    """The body goes over HTTP as Python writes it: NaN and lone surrogates too. `mark` belongs to another request."""
    other = f"{CLAIM} {mark}"
    with ThreadPoolExecutor(2) as threads:
        beside = threads.submit(call, address, "classify", [other, ["tiny"], "", 1])
        body = json.dumps({"data": arguments}).encode()
        url, kind = f"{address}gradio_api/call/{endpoint}", {"Content-Type": "application/json"}
        begun = httpx.post(url, content=body, headers=kind, timeout=60)
        assert begun.status_code < 500, begun.text
        answer = begun.text
        if begun.status_code == 200:
            answer = httpx.get(f"{url}/{begun.json()['event_id']}", timeout=60).text
        status, answered = beside.result()
    assert status == 200
    assert json.loads(answered.split("data: ")[-1])[0]["claim"] == other
    assert "is a bug" not in answer
    assert str(mark) not in answer
    assert "Traceback" not in capfd.readouterr().err


# A full disk


def test_a_correction_that_does_not_fit_leaves_no_half_line(tmp_path):
    """With a limit on the size of files, which the system enforces as it does a full disk."""
    import resource
    import signal

    from lorahub.app.feedback import Feedback

    kept = Feedback(tmp_path)
    path = kept.keep(claim="first", label="true", adapter="health")
    whole = path.read_bytes()
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 40, limits[1]))
    try:
        with pytest.raises(ConfigError, match=r"health.jsonl cannot be written"):
            kept.keep(claim="second " * 50, label="true", adapter="health")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == whole
    kept.keep(claim="third", label="false", adapter="health")
    assert [json.loads(line)["claim"] for line in path.read_text().splitlines()] == ["first", "third"]


# Many at once


def resources():
    """Sockets and files that this process has open, and its memory in MB."""
    import psutil

    process = psutil.Process()
    return process.num_fds(), process.memory_info().rss / 1e6


@pytest.mark.long
@pytest.mark.skipif(not LONG, reason="300 requests and 400 uploads at once: make test-long")
def test_answers_are_right_beside_stalled_uploads_and_everything_is_released(serve, tiny_engine):
    from lorahub.app import FOLDER

    address = serve()
    claims = [f"{text} {number}" for number, text in enumerate(sentences(300, seed=6))]
    wanted = [tiny_engine.classify([claim], ["tiny"])["tiny"][0].label for claim in claims]
    call(address, "classify", [CLAIM, ["tiny"], "", 1])
    before, files = resources(), set(Path(FOLDER).rglob("*"))
    connections = [stalled(address) for _ in range(400)]

    def answered(claim):
        started = time.perf_counter()
        status, text = call(address, "classify", [claim, ["tiny"], "", 1])
        assert status == 200, text
        data = json.loads(text.split("data: ")[-1])
        return data[0]["adapters"]["tiny"]["adapter"]["label"], time.perf_counter() - started

    started = time.monotonic()
    with ThreadPoolExecutor(300) as threads:
        answers = list(threads.map(answered, claims))
    took = time.monotonic() - started
    assert [label for label, _ in answers] == wanted
    seconds = sorted(second for _, second in answers)
    end = started + 60 + took
    assert all(closed(one, end - time.monotonic()) for one in connections)
    released = time.monotonic() - started
    for one in connections:
        one.close()
    allowed = before[0] + 5, before[1] + 200
    while time.monotonic() < end:
        after = resources()
        if after[0] <= allowed[0] and after[1] < allowed[1] and not set(Path(FOLDER).rglob("*")) - files:
            break
        time.sleep(0.5)
    everything = time.monotonic() - started - took
    print(
        f"300 answers in {took:.1f} s, median {seconds[150]:.2f} s, 95 % {seconds[285]:.2f} s, slowest "
        f"{seconds[-1]:.2f} s; 400 stalled uploads closed after {released:.1f} s; descriptors {before[0]} -> "
        f"{after[0]}, memory {before[1]:.0f} -> {after[1]:.0f} MB, {everything:.1f} s after the last answer"
    )
    assert set(Path(FOLDER).rglob("*")) == files
    assert after[0] <= allowed[0]
    assert after[1] < allowed[1]
    assert math.isfinite(seconds[-1])
    assert os.path.isdir(FOLDER)
