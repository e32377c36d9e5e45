"""Starting and ending the app as a person does, and what is said when it cannot start."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
from browser import free_port

ROOT = Path(__file__).parents[2]


@contextmanager
def listening():
    """A port in use, and the number of connections that came."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        came = []

        def accept():
            try:
                while True:
                    connection, _ = server.accept()
                    came.append(connection.recv(200))
                    connection.close()
            except OSError:
                return  # closed: the test is over

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1], came
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.slow
def test_the_app_serves_calls_nobody_keeps_nothing_and_ends_on_ctrl_c(tiny_run, tiny_base, tmp_path):
    from gradio_client import Client

    port, folders = free_port(), [tmp_path / name for name in ("home", "cwd", "temporary")]
    for one in folders:
        one.mkdir()
    # The start is quiet only if nothing comes through the proxy that any client of the web would take.
    with listening() as (proxy, came):
        environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
        environment |= dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), f"http://127.0.0.1:{proxy}")
        environment |= {"no_proxy": "127.0.0.1,localhost", "LORAHUB_ADAPTERS": str(tiny_run.folder)}
        environment |= {"LORAHUB_BASE": str(tiny_base("bert")), "GRADIO_SERVER_PORT": str(port)}
        environment |= {"PYTHONPATH": str(ROOT), "HOME": str(folders[0]), "TMPDIR": str(folders[2])}
        app = subprocess.Popen(
            [sys.executable, ROOT / "app.py"],
            cwd=folders[1],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            line = app.stdout.readline()
            address = f"http://127.0.0.1:{port}/"
            assert line == f"lorahub: tiny on tiny-bert: open {address} (Ctrl-C ends it)\n"
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(f"{address}?claim=the+secretword+cures&adapters=tiny") as page:
                text = page.read().decode()
            assert "fonts.googleapis.com" not in text
            client = Client(address, verbose=False)
            for endpoint in ("/classify", "/explain"):
                client.predict("the secretword cures flu", ["tiny"], "secretword", 1.0, api_name=endpoint)
            with pytest.raises(Exception, match="loaded"):
                client.predict("the secretword cures flu", ["nobody"], "", 1.0, api_name="/classify")
            app.send_signal(signal.SIGINT)
            out, err = app.communicate(timeout=60)
        finally:
            app.kill()
    assert app.returncode == 0, err
    assert out == "lorahub: the app has ended.\n"
    assert err.startswith(f"lorahub: starting at {address.removesuffix('/')}")
    assert "Traceback" not in err
    assert came == []
    # What visitors ask is neither in the log nor in a file.
    assert "secretword" not in err
    written = [path for one in folders for path in one.rglob("*") if path.is_file()]
    assert not [path for path in written if b"secretword" in path.read_bytes()]
    assert not list(folders[1].iterdir())


@pytest.mark.slow
def test_a_port_in_use_is_one_line(cli, tiny_run, tiny_base):
    with listening() as (port, _):
        code, out, err = cli("app", tiny_run.folder, "--base", tiny_base("bert"), "--port", port)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert f"127.0.0.1, port {port} (Address already in use)" in err
    assert "--port" in err


def test_no_run_yet_is_one_line_that_says_how_to_get_one(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = cli("app", "--port", free_port())
    assert (code, out) == (2, "")
    assert err.count("\n") == 2  # after the line that says where the app starts
    assert "lorahub train --data starter-wording" in err


def test_runs_that_do_not_fit_are_left_out_with_the_reason(tiny_run, tiny_base, make_adapter, tmp_path):
    from lorahub.app import build
    from lorahub.errors import AdapterError

    for name in ("good", "other-base", "damaged"):
        shutil.copytree(tiny_run.folder, tmp_path / name)
    config = tmp_path / "other-base" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": "someone/else"}))
    (tmp_path / "damaged" / "adapter_model.safetensors").write_bytes(b"no tensors")
    engine, left_out = build.load(tmp_path, str(tiny_base("bert")))
    assert list(engine.adapters) == ["good"]
    assert len(left_out) == 2
    reasons = "\n".join(left_out)
    assert "other-base was trained on someone/else, but the loaded base is tiny-bert" in reasons
    assert "damaged" in reasons
    shutil.rmtree(tmp_path / "good")
    with pytest.raises(AdapterError, match="can be shown"):
        build.load(tmp_path, str(tiny_base("bert")))


def test_a_newest_run_whose_base_is_gone_hides_no_other_run(tiny_run, tiny_base, tmp_path, monkeypatch):
    """Its base was a folder of which only the name is on record; the older run's base is to be had by that name."""
    from lorahub.app import build

    monkeypatch.chdir(tiny_base("bert").parent)
    for name, base, created in (("old", "tiny-bert", "2020"), ("new", "gone", "2030")):
        folder = shutil.copytree(tiny_run.folder, tmp_path / "runs" / name)
        record = json.loads((folder / "record.json").read_text())
        record["created"] = f"{created}-01-01T00:00:00+00:00"
        record["environment"]["base_id"] = base
        (folder / "record.json").write_text(json.dumps(record))
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": base}))
    engine, left_out = build.load(tmp_path / "runs")
    assert list(engine.adapters) == ["old"]
    assert "new" in left_out[0]
