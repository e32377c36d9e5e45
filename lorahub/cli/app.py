"""`lorahub app`: the web app on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from lorahub.errors import need


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
) -> None:
    """Start the web app: classify claims with several adapters and the base side by side."""
    need("torch", extra="train")
    need("gradio", extra="app")
    from lorahub.app import build

    build.launch(adapters, base=base, host=host, port=port, corrections=feedback, training=train)
