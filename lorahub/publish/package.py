"""The lorahub that is running, as another machine can install it: a release, an address, or a wheel built here.

In: how this process came by the package. Out: a `Package`. A checkout never passes for the release of its version.
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlsplit

from lorahub import __version__
from lorahub.errors import PublishError

NAME = "hf-lorahub"
# The names of all wheels of ours, of any version.
WHEELS = "hf_lorahub-*.whl"
_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """A wheel to upload."""

    name: str
    content: bytes


@dataclass(frozen=True, kw_only=True)
class Package:
    """What to install: the release `version`, else what is at `address`, else `wheel` from where it is uploaded to."""

    version: str
    address: str | None = None
    wheel: Wheel | None = None

    def requirement(self, extra: str, *, wheel_at: str = "") -> str:
        """The line for pip or uv; `wheel_at` is the address of the uploaded wheel."""
        name = f"{NAME}[{extra}]"
        if self.wheel is not None:
            # The hash also makes a Space install a wheel of the same name anew.
            return f"{name} @ {wheel_at}#sha256={sha256(self.wheel.content).hexdigest()}"
        return f"{name} @ {self.address}" if self.address else f"{name}=={self.version}"


def find() -> Package:
    """Return what stands for this lorahub; from a checkout a wheel is built, which takes seconds.

    Raises PublishError where it cannot be built, or nobody else can get at what is installed here.
    """
    if (_ROOT / "pyproject.toml").is_file():
        return Package(version=__version__, wheel=_build(_ROOT))
    noted = metadata.distribution(NAME).read_text("direct_url.json")
    if not noted:
        return Package(version=__version__)
    direct = json.loads(noted)
    address, commit = direct["url"], direct.get("vcs_info", {}).get("commit_id")
    if commit:
        return Package(version=__version__, address=f"{direct['vcs_info']['vcs']}+{address}@{commit}")
    if not address.startswith("file:"):
        return Package(version=__version__, address=address)
    path = Path(unquote(urlsplit(address).path))
    if path.suffix == ".whl" and path.is_file():
        return Package(version=__version__, wheel=Wheel(name=path.name, content=path.read_bytes()))
    raise PublishError(
        f"lorahub was installed from {path.name}, which is not there any more or is no wheel, so others cannot install "
        "the same. Install a released version or a wheel, or run from a checkout."
    )


def _build(root: Path) -> Wheel:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, str(root)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise PublishError(
                f"the wheel of this checkout cannot be built ({reason}). Mend that, or install a released lorahub."
            )
        path = next(Path(folder).glob(WHEELS))
        return Wheel(name=path.name, content=path.read_bytes())
