"""Checks of the labels of a data set: scores, spellings of one label, and claims with several labels."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from lorahub.errors import DataError

_NUMBER = re.compile(r"[+-]?\d*[.,]?\d+(?:[eE][+-]?\d+)?")
_WHOLE = re.compile(r"[+-]?\d+(?:[.,]0*)?")
# Grades such as 1, 1.5, …, 5 are labels; more different fractions than these are a score, and so are more different
# whole numbers than these that have few claims each.
_MOST_FRACTIONS, _MOST_WHOLE, _CLAIMS_EACH = 10, 20, 5


def check_no_score(title: str, column: str, values: Mapping[str, int]) -> None:
    """Raise DataError if the values of a label column, with their counts, are so many numbers that it is a score."""
    if not all(map(_NUMBER.fullmatch, values)):
        return
    different, claims = len(values), sum(values.values())
    fractions = not all(map(_WHOLE.fullmatch, values))
    many = different > _MOST_FRACTIONS or 2 < claims < 2 * different
    if (fractions and many) or (different > _MOST_WHOLE and claims < _CLAIMS_EACH * different):
        raise DataError(
            f"{title}: the column {column} holds {different:,} different numbers: this looks like a score, not a "
            "label. Name another column with --set data.label=COLUMN, or write labels for ranges of the score."
        )


def spellings(title: str, cells: Mapping[str, int], name: Callable[[str], str], mapped: Iterable[str]) -> list[str]:
    """Return a note for each label that is spelled in several ways.

    `cells` counts the texts of the label column as they are in the file, `name` gives the label of such a text, and
    `mapped` are the texts that the user mapped to labels.
    """
    groups: dict[str, Counter[str]] = {}
    for text, count in cells.items():
        groups.setdefault(_plain(text), Counter())[text] += count
    notes, chosen = [], set(mapped)
    joining: dict[str, str] = {}
    for group in groups.values():
        names = Counter[str]()
        for text, count in group.items():
            names[name(text)] += count
        if len(group) < 2 or chosen & {text.strip() for text in group}:
            continue
        most = names.most_common(1)[0][0]
        joining |= {text.strip(): most for text in group if text.strip() != most}
        notes.append((", ".join(f"{text!r} ({count:,})" for text, count in group.most_common()), len(names) == 1, most))
    if not notes:
        return []
    shown = "; ".join(f"{texts}, read as {most!r}" if joined else texts for texts, joined, most in notes)
    return [
        f"{title}: labels that differ in case or spaces only: {shown}"
        + (f". Join them with --set 'data.label_map={json.dumps(joining, ensure_ascii=False)}'" if joining else "")
    ]


def conflicts(labelled: Iterable[tuple[str, str | None, str]]) -> list[str]:
    """Return a note with the number of claims (text, evidence, label) that occur with several labels."""
    labels: dict[tuple[str, str | None], set[str]] = {}
    every = set()
    for text, evidence, label in labelled:
        labels.setdefault((" ".join(text.casefold().split()), evidence), set()).add(label)
        every.add(label)
    count = sum(len(names) > 1 for names in labels.values())
    if not count:
        return []
    which = "both labels" if len(every) == 2 else "more than one label"
    return [f"{count:,} claim{'s have' if count > 1 else ' has'} {which}: the same text occurs with each of them"]


def _plain(text: str) -> str:
    """Return a label without case and spaces; hyphens and underscores between its words are spaces."""
    return re.sub(r"(?<=\w)[\s_-]+(?=\w)", " ", text.strip().casefold())
