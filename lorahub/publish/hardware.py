"""Rented hardware: what a name stands for and what it costs, for Spaces and for Jobs.

In: a flavor such as `a10g-small`. Out: a sentence with its price, from the Hub's own list where that can be reached.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from lorahub.errors import HubError, PublishError
from lorahub.hub import client

if TYPE_CHECKING:
    from huggingface_hub import JobHardwareInfo

FREE_SPACE, ZERO_GPU = "cpu-basic", "zero-a10g"
_PRICES = "https://huggingface.co/pricing"
_AN_HOUR = {"second": 3600, "minute": 60, "hour": 1}


def of_space(flavor: str, *, token: str | None) -> str:
    """What a Space on this flavor costs; raises PublishError where there is no such flavor."""
    from huggingface_hub import SpaceHardware

    if flavor == FREE_SPACE:
        return f"{flavor} is free"
    if flavor == ZERO_GPU:
        return f"{flavor} (ZeroGPU) is not billed by the hour; to host it takes a PRO or Team account"
    known = [item.value for item in SpaceHardware]
    return _cost(flavor, client.api(token).list_spaces_hardware, known, "until you pause the Space")


def of_job(flavor: str, *, token: str | None) -> str:
    """What a Job on this flavor costs; raises PublishError where there is no such flavor."""
    from huggingface_hub import JobHardware

    return _cost(flavor, client.api(token).list_jobs_hardware, [item.value for item in JobHardware], "while it runs")


def _cost(flavor: str, offered: "Callable[[], Sequence[JobHardwareInfo]]", known: list[str], until: str) -> str:
    try:
        rows = {row.name: row for row in client.call(offered, doing="list its hardware")}
    except HubError:
        # A price that cannot be had stops nobody: without it the client's own list of names decides.
        rows = {}
    if flavor not in (rows or known):
        raise PublishError(f"the Hub has no hardware {flavor!r}. Choose one of {', '.join(rows or known)}.")
    if flavor not in rows:
        return f"{flavor} may be billed by the hour {until}; prices: {_PRICES}"
    row = rows[flavor]
    dollars = row.unit_cost_usd * _AN_HOUR[row.unit_label]
    return f"{flavor} ({row.pretty_name}, {row.cpu}, {row.ram}) costs ${dollars:.2f} an hour {until}"
