"""Claims of validation or test that stand, word for word or nearly, in an earlier split.

A near-duplicate is a pair with a cosine of at least 0.9 between TF-IDF vectors of words and word pairs: about one word
changed in ten. Such claims make a test score look better than it is; they are reported, never removed in silence.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

SIMILARITY = 0.9
# Beyond this many pairs the search for near-duplicates would take minutes; exact ones are always counted.
_MOST_PAIRS = 200_000_000
_CHUNK = 512


def report(splits: Mapping[str, Sequence[str]]) -> list[str]:
    """Return one sentence for every pair of splits that shares claims."""
    lines = []
    for earlier, later in (("train", "validation"), ("train", "test"), ("validation", "test")):
        exact, near = duplicates(splits[earlier], splits[later])
        if exact or near:
            total = len(splits[later])
            text = f"{exact} of {total:,} {later} claims also stand in {earlier}"
            text += "" if near is None else f", {near} more nearly so"
            lines.append(f"{text}: scores on {later} are a little too good.")
    return lines


def duplicates(earlier: Sequence[str], later: Sequence[str]) -> tuple[int, int | None]:
    """Count the claims of `later` that are in `earlier` exactly (case and punctuation aside) and nearly.

    The second count is None where the splits are too large to compare every pair.
    """
    seen = {_normalise(text) for text in earlier}
    rest = [text for text in later if _normalise(text) not in seen]
    exact = len(later) - len(rest)
    if len(earlier) * len(rest) > _MOST_PAIRS:
        return exact, None
    if not rest or not any(seen):
        return exact, 0
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), dtype=np.float32, token_pattern=r"\w+")
    try:
        reference = vectorizer.fit_transform(earlier)
    except ValueError:  # no words at all: numbers of emoji, say
        return exact, 0
    near = 0
    for start in range(0, len(rest), _CHUNK):
        similarity = vectorizer.transform(rest[start : start + _CHUNK]) @ reference.T
        near += int((similarity.max(axis=1).toarray() >= SIMILARITY).sum())
    return exact, near


def _normalise(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))
