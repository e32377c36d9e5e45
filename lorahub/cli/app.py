"""`lorahub app`: the web page on this machine."""

from typing import Annotated

import typer

from lorahub.errors import need


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command(name="app")(serve)


def serve(
    adapters: Annotated[
        list[str] | None, typer.Argument(metavar="[ADAPTER...]", help="Run folders; default: all under runs/.")
    ] = None,
    base: Annotated[str | None, typer.Option(help="Base model; default: the first adapter's own.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 7860,
) -> None:
    """Open the app: a claim, and every adapter's answer beside the base's."""
    need("torch", extra="train")
    need("gradio", extra="app")
    from lorahub.app import build

    build.launch(adapters or None, base=base, host=host, port=port)
