"""`lorahub bases`."""

import json
from collections import Counter
from importlib import resources

from lorahub.cli.options import Json


def bases(as_json: Json = False) -> None:
    """List the architectures that were tested as bases, each as a tiny random model: trains, refused or not tested.

    Trains means that a few steps, saving, loading and serving gave equal logits.
    """
    from lorahub.cli import show

    rows = json.loads(resources.files("lorahub.models").joinpath("tested_bases.json").read_text(encoding="utf-8"))
    if as_json:
        show.print_json(rows)
        return
    counts = Counter(row["status"] for row in rows)
    title = f"{len(rows)} architectures: " + ", ".join(f"{count} {status}" for status, count in counts.most_common())
    show.table(
        ("architecture", "status", "reason"),
        [(row["architecture"], row["status"], row["reason"]) for row in rows],
        title=title,
    )
