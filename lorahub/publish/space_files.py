"""The files of a Space, filled into the templates under `templates/space/`. Pure: text from values.

In: a `Space`, everything in it pinned. Out: README.md with the front matter that the Hub reads, app.py, and
requirements.txt. Source of the front matter's fields: huggingface.co/docs/hub/spaces-config-reference.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from lorahub.publish.pins import Pinned

# `lorahub space` finds its own Spaces by it, and people theirs.
TAG = "lorahub"
SDK = "gradio"
APP_FILE, CARD_FILE, REQUIREMENTS_FILE = "app.py", "README.md", "requirements.txt"
# ZeroGPU knows few versions; this one it has, and lorahub runs on it.
_PYTHON = "3.12"
_LONGEST_DESCRIPTION = 60
_TEMPLATES = Path(__file__).parent.parent / "templates" / "space"


@dataclass(frozen=True, kw_only=True)
class Space:
    """What a Space shows and runs on. `base_files` are fetched when it is built; `requirement` installs lorahub."""

    repo: str
    base: Pinned
    base_files: Sequence[str]
    adapters: Sequence[Pinned]
    hardware: str
    sdk_version: str
    requirement: str
    endpoint: str = "https://huggingface.co"

    @property
    def title(self) -> str:
        """The repository's name as a heading."""
        name = self.repo.split("/")[1].replace("-", " ").replace("_", " ").strip()
        return name[:1].upper() + name[1:]


def render(space: Space) -> dict[str, bytes]:
    """Return path -> content of the three files."""
    values = {
        "front_matter": _front_matter(space),
        "title": space.title,
        "requirement": space.requirement,
        "endpoint": space.endpoint,
        "base": str(space.base),
        "base_id": space.base.id,
        "base_revision": space.base.revision,
    }
    listed = "\n".join(
        f"- [`{one.id}`]({space.endpoint}/{one.id}/tree/{one.revision}) at `{one.revision}`" for one in space.adapters
    )
    named = "\n".join(f'    "{one}",' for one in space.adapters)
    return {
        CARD_FILE: _fill(CARD_FILE, adapters=listed, **values),
        APP_FILE: _fill(APP_FILE, adapters=named, **values),
        REQUIREMENTS_FILE: _fill(REQUIREMENTS_FILE, **values),
    }


def _fill(name: str, **values: str) -> bytes:
    template = (_TEMPLATES / f"{name}.tmpl").read_text(encoding="utf-8")
    return Template(template).substitute(values).encode()


def _front_matter(space: Space) -> str:
    from huggingface_hub import SpaceCardData

    count = len(space.adapters)
    models = dict.fromkeys([space.base.id, *(one.id for one in space.adapters)])
    data = SpaceCardData(
        title=space.title,
        emoji="⚖️",
        colorFrom="green",
        colorTo="gray",
        sdk=SDK,
        sdk_version=space.sdk_version,
        python_version=_PYTHON,
        app_file=APP_FILE,
        suggested_hardware=space.hardware,
        short_description=f"Judge a claim with {count} adapter{'s' if count > 1 else ''} on one base model"[
            :_LONGEST_DESCRIPTION
        ],
        license="apache-2.0",
        models=list(models),
        tags=[TAG, "text-classification", "lora"],
        preload_from_hub=[f"{space.base.id} {','.join(space.base_files)} {space.base.revision}"],
    )
    return str(data.to_yaml(line_break="\n")).rstrip()
