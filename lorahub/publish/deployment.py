"""What a Job or a Space runs: this version of lorahub as it can be installed there, and rented hardware.

In: how this process installed lorahub, and a flavor such as `a10g-small`. Out: a `Package`, and a sentence with the
price from the Hub's own list. A checkout never counts as the release of its version.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from lorahub import __version__
from lorahub.errors import HubError, PublishError
from lorahub.hub import client

if TYPE_CHECKING:
    from huggingface_hub import JobHardwareInfo

NAME = "hf-lorahub"
# Matches lorahub's wheels of any version.
WHEELS = "hf_lorahub-*.whl"
_ROOT = Path(__file__).resolve().parents[2]

FREE_SPACE, ZERO_GPU = "cpu-basic", "zero-a10g"
_PRICES = "https://huggingface.co/pricing"
_PER_HOUR = {"second": 3600, "minute": 60, "hour": 1}


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """A wheel to upload."""

    name: str
    content: bytes


@dataclass(frozen=True, kw_only=True)
class Package:
    """What to install: `wheel` from where it is uploaded, else what is at `address`, else the release `version`."""

    version: str
    address: str | None = None
    wheel: Wheel | None = None

    def requirement(self, extra: str, *, wheel_at: str = "") -> str:
        """Return the line for pip or uv; `wheel_at` is the address of the uploaded wheel."""
        name = f"{NAME}[{extra}]"
        if self.wheel is not None:
            # The hash also makes a Space reinstall a changed wheel of the same name.
            return f"{name} @ {wheel_at}#sha256={sha256(self.wheel.content).hexdigest()}"
        return f"{name} @ {self.address}" if self.address else f"{name}=={self.version}"


def find_package() -> Package:
    """Return this lorahub as a package; building a wheel of a checkout takes seconds.

    Raises PublishError if the wheel cannot be built, or others cannot install what is installed here.
    """
    if (_ROOT / "pyproject.toml").is_file():
        return Package(version=__version__, wheel=_build(_ROOT))
    origin = metadata.distribution(NAME).read_text("direct_url.json")
    if not origin:
        return Package(version=__version__)
    direct = json.loads(origin)
    address, commit = direct["url"], direct.get("vcs_info", {}).get("commit_id")
    if commit:
        return Package(version=__version__, address=f"{direct['vcs_info']['vcs']}+{address}@{commit}")
    if not address.startswith("file:"):
        return Package(version=__version__, address=address)
    path = Path(unquote(urlsplit(address).path))
    if path.suffix == ".whl" and path.is_file():
        return Package(version=__version__, wheel=Wheel(name=path.name, content=path.read_bytes()))
    raise PublishError(
        f"lorahub was installed from {path.name}, which does not exist any more or is not a wheel, so others cannot "
        "install the same. Install a released version or a wheel, or run from a checkout."
    )


def _build(root: Path) -> Wheel:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, str(root)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise PublishError(
                f"the wheel of this checkout cannot be built ({reason}). Fix that, or install a released lorahub."
            )
        path = next(Path(folder).glob(WHEELS))
        return Wheel(name=path.name, content=path.read_bytes())


def space_cost(flavor: str, *, token: str | None) -> str:
    """Return what a Space with this hardware costs; raises PublishError if it does not exist."""
    from huggingface_hub import SpaceHardware

    if flavor == FREE_SPACE:
        return f"{flavor} is free"
    if flavor == ZERO_GPU:
        return f"{flavor} (ZeroGPU) is not billed by the hour; hosting it needs a PRO or Team account"
    known = [item.value for item in SpaceHardware]
    return _cost(flavor, client.api(token).list_spaces_hardware, known, "until you pause the Space")


def job_cost(flavor: str, *, token: str | None) -> str:
    """Return what a Job on this hardware costs; raises PublishError if it does not exist."""
    from huggingface_hub import JobHardware

    return _cost(flavor, client.api(token).list_jobs_hardware, [item.value for item in JobHardware], "while it runs")


def _cost(flavor: str, list_offers: "Callable[[], Sequence[JobHardwareInfo]]", known: list[str], until: str) -> str:
    try:
        offers = {offer.name: offer for offer in client.call(list_offers, doing="list its hardware")}
    except HubError:
        offers = {}  # prices are optional: without them the client's own list of names decides
    if flavor not in (offers or known):
        raise PublishError(f"the Hub has no hardware {flavor!r}. Choose one of {', '.join(offers or known)}.")
    if flavor not in offers:
        return f"{flavor} may be billed by the hour {until}; prices: {_PRICES}"
    offer = offers[flavor]
    dollars = offer.unit_cost_usd * _PER_HOUR[offer.unit_label]
    return f"{flavor} ({offer.pretty_name}, {offer.cpu}, {offer.ram}) costs ${dollars:.2f} an hour {until}"
