"""The app as a Space or `python app.py` starts it: every adapter under runs/, or those named in LORAHUB_ADAPTERS."""

import os

from lorahub.app.build import launch

if __name__ == "__main__":
    launch(
        os.environ.get("LORAHUB_ADAPTERS", "").split() or None,
        base=os.environ.get("LORAHUB_BASE"),
        host=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"),
        port=int(os.environ.get("GRADIO_SERVER_PORT", "7860")),
    )
