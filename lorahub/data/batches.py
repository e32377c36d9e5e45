"""Batches of token ids from claims.

In: a ClaimSet and a tokenizer. Out: `input_ids` (B, T) int64, `attention_mask` (B, T), `labels` (B,) int64, and `row`
(B,) int64, the index of each claim in its set; T is the longest claim of the batch. Independent of models.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import PreTrainedTokenizerBase
from transformers.trainer_pt_utils import get_length_grouped_indices

from lorahub.data.claimset import ClaimSet

# What a tokenizer returns for one text, with `labels` and `row`.
Item = dict[str, int | list[int]]

_CHUNK = 1000
_MASK = "attention_mask"


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Tokenized texts without padding: what the tokenizer returns for each, and the rows of those that were cut.

    `paired` is whether each text is followed by its evidence.
    """

    items: list[dict[str, list[int]]]
    truncated: frozenset[int]
    paired: bool = False


class EncodedClaims(Dataset[Item]):
    """A tokenized ClaimSet; items are not padded.

    `truncated` holds the rows of claims that are not read to the end; `weight` (N,) is that of the ClaimSet.
    """

    def __init__(self, claims: ClaimSet, tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> None:
        self.gold, self.weight = claims.gold, claims.weight
        self.encodings: list[dict[str, list[int]]] = []
        truncated: list[int] = []
        for start in range(0, len(claims), _CHUNK):
            stop = start + _CHUNK
            pairs = None if claims.evidence is None else claims.evidence[start:stop]
            encoded = encode(tokenizer, claims.texts[start:stop], pairs, max_length=max_length)
            self.encodings += encoded.items
            truncated += [start + row for row in encoded.truncated]
        self.truncated = frozenset(truncated)

    @property
    def lengths(self) -> list[int]:
        """Number of tokens of each claim."""
        return [len(encoding["input_ids"]) for encoding in self.encodings]

    def __len__(self) -> int:
        return len(self.encodings)

    def __getitem__(self, row: int) -> Item:
        return {**self.encodings[row], "labels": int(self.gold[row]), "row": row}


def encode(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], evidence: Sequence[str] | None, *, max_length: int
) -> Encoded:
    """Tokenize without padding. Only the evidence of a pair is truncated, unless the claim alone is too long.

    A special token that is written in a text (`</s>`) is encoded as text; a text without any token becomes one token.
    """
    texts, pairs = list(texts), None if evidence is None else list(evidence)
    if not texts:
        return Encoded(items=[], truncated=frozenset(), paired=pairs is not None)
    items = _rows(tokenizer(texts, pairs, verbose=False), len(texts))
    special = _SpecialTokens(tokenizer, paired=pairs is not None)
    written = [row for row, item in enumerate(items) if special.are_written(item)]
    if written:
        for row in written:
            texts[row] = special.broken(texts[row])
            if pairs is not None:
                pairs[row] = special.broken(pairs[row])
        second = None if pairs is None else [pairs[row] for row in written]
        again = _rows(tokenizer([texts[row] for row in written], second, verbose=False), len(written))
        for row, item in zip(written, again, strict=True):
            items[row] = item
    long = [row for row, item in enumerate(items) if len(item["input_ids"]) > max_length]
    if long:
        second = None if pairs is None else [pairs[row] for row in long]
        shorter = _truncate(tokenizer, [texts[row] for row in long], second, max_length)
        for row, item in zip(long, shorter, strict=True):
            items[row] = item
    for row in written:
        special.replace(items[row])
    for item in items:
        if not item["input_ids"]:
            item.update({key: [special.neutral if key == "input_ids" else int(key == _MASK)] for key in item})
    return Encoded(items=items, truncated=frozenset(long), paired=pairs is not None)


class _SpecialTokens:
    """Special tokens that are written in a text, and that a tokenizer encodes as themselves.

    `split_special_tokens` prevents most of it. A vocabulary that has them as pieces still matches them (Unigram), and
    so does a text that normalization turns into one. The unknown token is not counted: any text may contain it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, paired: bool) -> None:
        unknown = tokenizer.unk_token_id
        self.ids = set(tokenizer.all_special_ids) - {unknown}
        names = sorted(set(tokenizer.all_special_tokens) - {tokenizer.unk_token}, key=len, reverse=True)
        self.pattern = re.compile("|".join(map(re.escape, names)) or "(?!)", re.IGNORECASE)
        choices = (unknown, tokenizer.eos_token_id, tokenizer.pad_token_id)
        self.neutral = next((token for token in choices if token is not None), 0)
        self.added: list[int] = [
            token for token in tokenizer("a", "a" if paired else None)["input_ids"] if token in self.ids
        ]

    def are_written(self, item: dict[str, list[int]]) -> bool:
        """Return whether an encoded text has more special tokens than the tokenizer adds."""
        return sum(map(self.ids.__contains__, item["input_ids"])) > len(self.added)

    def broken(self, text: str) -> str:
        """Return the text with a space behind the first character of each special token."""
        return self.pattern.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)

    def replace(self, item: dict[str, list[int]]) -> None:
        """Replace the special tokens that are left inside an encoded text by the unknown token.

        Those that the tokenizer adds are the first and the last ones: as many at the start as it adds there.
        """
        ids = item["input_ids"]
        excess = sum(map(self.ids.__contains__, ids)) - len(self.added)
        if excess <= 0:
            return
        inside = [place for place, token in enumerate(ids) if token in self.ids]
        start = 0
        while (
            start < len(self.added) and start < len(ids) and ids[start] == self.added[start] and inside[start] == start
        ):
            start += 1
        for place in inside[start : start + excess]:
            ids[place] = self.neutral


def words_read(tokenizer: PreTrainedTokenizerBase, text: str, evidence: str | None, *, max_length: int) -> int:
    """Return how many words of a text, followed by its evidence, `encode` keeps; a word that is cut does not count."""
    room = max_length - tokenizer.num_special_tokens_to_add(pair=evidence is not None)
    if evidence is None:
        return _words(text, _cut(tokenizer, text, room))
    read = _cut(tokenizer, text, room - 1)
    if read != text:
        return _words(text, read)
    left = room - len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    return len(text.split()) + _words(evidence, _cut(tokenizer, evidence, left))


def _words(text: str, read: str) -> int:
    """Return the number of whole words of a text in the prefix that was read."""
    is_cut = not read[-1:].isspace() and not text[len(read) :][:1].isspace() and len(read) < len(text)
    return len(read.split()) - is_cut


def _truncate(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], evidence: list[str] | None, max_length: int
) -> list[dict[str, list[int]]]:
    if evidence is None:
        return _rows(tokenizer(texts, truncation=True, max_length=max_length), len(texts))
    # `only_second` cannot shorten a claim that fills the input by itself, so the claim is cut first.
    limit = max_length - tokenizer.num_special_tokens_to_add(pair=True) - 1
    claims = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    short = [
        text if len(ids) <= limit else _cut(tokenizer, text, limit) for text, ids in zip(texts, claims, strict=True)
    ]
    batch = tokenizer(short, evidence, truncation="only_second", max_length=max_length)
    return _rows(batch, len(texts))


def _cut(tokenizer: PreTrainedTokenizerBase, text: str, limit: int) -> str:
    """Return the longest prefix of the text with at most `limit` tokens.

    Characters are cut, not tokens: decoding changes the spaces between them, and a byte-level token may be a part of a
    character.
    """
    fast = tokenizer.is_fast
    while True:
        encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=fast, verbose=False)
        count = len(encoding["input_ids"])
        if count <= limit:
            return text
        # The start of the first token beyond the limit; slow tokenizers have no offsets, so it is estimated. The
        # shorter text may have other tokens, hence the loop, which removes at least one character each time.
        end = encoding["offset_mapping"][limit][0] if fast else len(text) * limit // count
        text = text[: min(end, len(text) - 1)]


def _rows(batch: Any, count: int) -> list[dict[str, list[int]]]:
    return [{key: batch[key][row] for key in batch} for row in range(count)]


class LengthGroupedBatches(Sampler[list[int]]):
    """Batches of row indexes: every row once per epoch, similar lengths together, batches in random order.

    The order depends only on the seed and the epoch.
    """

    def __init__(self, lengths: list[int], batch_size: int, *, seed: int, grouped: bool = True) -> None:
        self.lengths, self.batch_size, self.seed, self.grouped = lengths, batch_size, seed, grouped
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that determines the order of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
        if self.grouped:
            order = get_length_grouped_indices(self.lengths, self.batch_size, generator=generator)
        else:
            order = torch.randperm(len(self.lengths), generator=generator).tolist()
        starts = torch.arange(0, len(order), self.batch_size)
        for index in torch.randperm(len(starts), generator=generator).tolist():
            start = int(starts[index])
            yield order[start : start + self.batch_size]


class Collate:
    """Pads encoded claims to the longest of them."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer

    def __call__(self, items: list[Item]) -> dict[str, torch.Tensor]:
        """Return one padded batch."""
        extra = {key: torch.tensor([item[key] for item in items]) for key in ("labels", "row")}
        encodings = [{key: value for key, value in item.items() if key not in extra} for item in items]
        return {**self.tokenizer.pad(encodings, return_tensors="pt"), **extra}


def training_batches(
    claims: EncodedClaims, tokenizer: PreTrainedTokenizerBase, *, batch_size: int, seed: int, grouped: bool
) -> DataLoader[Item]:
    """Shuffled batches for training; call `loader.batch_sampler.set_epoch` before each epoch."""
    sampler = LengthGroupedBatches(claims.lengths, batch_size, seed=seed, grouped=grouped)
    return DataLoader(claims, batch_sampler=sampler, collate_fn=Collate(tokenizer))
