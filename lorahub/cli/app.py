"""`lorahub app`: the web app on this machine."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from lorahub.cli import terminal
from lorahub.errors import need

_MOST_MB = 100_000


def serve(
    adapters: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ADAPTER",
            envvar="LORAHUB_ADAPTERS",
            help="Run folders, names under runs/ or USER/NAME[@REVISION]; default: runs that share a base.",
        ),
    ] = None,
    base: Annotated[
        str | None, typer.Option(envvar="LORAHUB_BASE", help="Base model; default: that of the first adapter.")
    ] = None,
    host: Annotated[str, typer.Option(envvar="GRADIO_SERVER_NAME", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(envvar="GRADIO_SERVER_PORT", help="Port to listen on.", min=1, max=65535)] = 7860,
    feedback: Annotated[
        Path | None,
        typer.Option(
            envvar="LORAHUB_FEEDBACK",
            metavar="DIR",
            help="Store the corrections of visitors here, as ADAPTER.jsonl; default: runs/feedback on a loopback "
            "--host, else none are accepted.",
        ),
    ] = None,
    train: Annotated[
        bool | None,
        typer.Option(
            "--train/--no-train",
            help="Let every visitor of the page train on this machine; default: only on a loopback --host.",
        ),
    ] = None,
    load: Annotated[
        bool | None,
        typer.Option(
            "--load/--no-load",
            help="Let every visitor load and drop adapters for all; default: only on a loopback --host.",
        ),
    ] = None,
    allow_private: Annotated[
        list[str] | None,
        typer.Option(
            envvar="LORAHUB_ALLOW_PRIVATE",
            metavar="USER/NAME",
            help="Let visitors use this private repository with your token; repeatable. All others are asked for "
            "without a token.",
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            envvar="LORAHUB_ALLOW_HOST",
            metavar="NAME",
            help="Host name under which the page is reached, as behind a proxy; repeatable.",
        ),
    ] = None,
    rate: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Requests a minute that one visitor may send, 0 for no limit; default: 600, on a loopback --host 0.",
        ),
    ] = None,
    max_upload: Annotated[
        int,
        typer.Option(metavar="MB", min=1, max=_MOST_MB, help="Largest file of a visitor; five such files are kept."),
    ] = 200,
) -> None:
    """Start the web app: classify claims with several adapters and the base side by side."""
    from lorahub.app import listening

    listening.check_free(host, port)
    if find_spec("torch") and find_spec("gradio"):
        terminal.line(f"lorahub: starting at http://{host}:{port}; libraries and the base take some seconds", err=True)
    need("torch", extra="train")
    need("gradio", extra="app")
    from lorahub.app import build

    build.launch(
        adapters,
        base=base,
        host=host,
        port=port,
        corrections=feedback,
        training=train,
        loading=load,
        private=allow_private or (),
        allowed_hosts=allow_host or (),
        rate=rate,
        file_mb=max_upload,
    )
