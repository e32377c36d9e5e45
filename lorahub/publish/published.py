"""What a run folder remembers of its pushes: `published.json`, which stays on this machine.

In: a run folder. Out: which commit this folder last put on which branch of which repository, and where its base is on
the Hub. Without it a push cannot tell somebody's later change on the Hub from what it sent itself.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lorahub import atomic

FILE_NAME = "published.json"


@dataclass(kw_only=True)
class Published:
    """`commits` and `pull_requests` map `user/name@branch` to a commit and to the ref of the last pull request.

    `base_id` is `user/name@revision`, `benchmark` TASK=METRIC.
    """

    commits: dict[str, str] = field(default_factory=dict)
    pull_requests: dict[str, str] = field(default_factory=dict)
    base_id: str | None = None
    benchmark: str | None = None

    @classmethod
    def load(cls, folder: Path) -> "Published":
        """Read what the folder remembers; a folder without the file, or with a damaged one, remembers nothing."""
        try:
            values = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
            return cls(
                commits=dict(values["commits"]),
                pull_requests=dict(values.get("pull_requests", {})),
                base_id=values["base_id"],
                benchmark=values.get("benchmark"),
            )
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            # Forgetting is safe: the push then compares the records.
            return cls()

    def save(self, folder: Path) -> None:
        """Write the file, atomically."""
        atomic.write_json(folder / FILE_NAME, asdict(self))
