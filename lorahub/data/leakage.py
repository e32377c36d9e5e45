"""Duplicates between splits: claims of validation or test that also occur in an earlier split.

A near-duplicate is a pair with a cosine of at least 0.9 between TF-IDF vectors of words and word pairs: about one word
changed in twenty. Such claims make a test score look better than it is. They are reported, never removed.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from lorahub.data.claimset import ClaimSet
from lorahub.data.sources import SPLITS

SIMILARITY = 0.9
# With more pairs than this the search for near-duplicates would take minutes; exact ones are always counted.
_MAX_PAIRS = 200_000_000
_CHUNK = 512


def report(splits: Mapping[str, ClaimSet]) -> list[str]:
    """Return one sentence for every pair of splits that shares claims, and one if it shares evidence."""
    lines = []
    for earlier, later in combinations((name for name in SPLITS if name in splits), 2):
        before, after = splits[earlier], splits[later]
        exact, near = duplicates(before.texts, after.texts)
        if exact or near:
            text = f"{exact} of {len(after):,} {later} claims also occur in {earlier}"
            text += "" if near is None else f", {near} more are near-duplicates"
            lines.append(f"{text}: scores on {later} are slightly optimistic.")
        known = set(before.evidence or ()) - {""}
        shared = sum(text in known for text in after.evidence or ())
        if shared:
            lines.append(f"{shared} of {len(after):,} {later} claims share their evidence with a claim of {earlier}.")
    return lines


def duplicates(earlier: Sequence[str], later: Sequence[str]) -> tuple[int, int | None]:
    """Count the claims of `later` that occur in `earlier` exactly (ignoring case and punctuation) and nearly.

    The second count is None if the splits are too large to compare every pair.
    """
    seen = {normalise(text) for text in earlier}
    rest = [text for text in later if normalise(text) not in seen]
    exact = len(later) - len(rest)
    if len(earlier) * len(rest) > _MAX_PAIRS:
        return exact, None
    if not rest or not earlier:
        return exact, 0
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), dtype=np.float32, token_pattern=r"\w+")
    try:
        # Fitted on both: words that only later claims have must count, because they make claims differ.
        vectorizer.fit([*earlier, *rest])
    except ValueError:  # no words at all, for example only emoji
        return exact, 0
    reference = vectorizer.transform(earlier)
    near = 0
    for start in range(0, len(rest), _CHUNK):
        similarity = vectorizer.transform(rest[start : start + _CHUNK]) @ reference.T
        near += int((similarity.max(axis=1).toarray() >= SIMILARITY).sum())
    return exact, near


def normalise(text: str) -> str:
    """Return the words of a claim in lower case; the stripped text if it has none, such as emoji."""
    return " ".join(re.findall(r"\w+", text.lower())) or text.strip()
