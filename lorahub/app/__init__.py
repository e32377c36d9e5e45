"""The Gradio app: adapters side by side on one claim, and the runs that made them."""

import atexit
import os
import shutil
import tempfile
from typing import Any, TypeAlias

# What an endpoint returns, and an event of `lorahub train --events`.
Json: TypeAlias = dict[str, Any]


def _own_folder() -> str:
    """Create the folder for the files of this process's visitors; it is deleted when the process ends."""
    folder, process = tempfile.mkdtemp(prefix="lorahub-app-", dir=os.environ.get("GRADIO_TEMP_DIR")), os.getpid()

    def delete() -> None:
        # Not by a forked process, as ZeroGPU has them, when that ends.
        if os.getpid() == process:
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(delete)
    return folder


# Gradio's own folder has the same name for every user and app of a machine, and what lies in it is served to anybody
# who knows the path. Gradio reads the variable when it is imported, so it is set before.
os.environ["GRADIO_TEMP_DIR"] = FOLDER = _own_folder()
