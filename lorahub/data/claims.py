"""Claims: rows become checked texts with labels, in train, validation and test.

In: a DataConfig, or texts and labels in memory. Out: a `ClaimData` of `ClaimSet`s that share one `LabelSet`, with a
sha256 per split. Every problem with the data is one DataError that names the file, the row or column, and the fix.
"""

import difflib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lorahub.config import DataConfig
from lorahub.data import columns, hub_rows, label_check, leakage, split
from lorahub.data.claimset import ClaimData, ClaimSet, DataSource
from lorahub.data.rows import Table
from lorahub.data.sources import SPLITS, Source, find
from lorahub.data.split import Splitter
from lorahub.errors import DataError
from lorahub.labels import LabelSet

# The recorded id and kind of claims that were passed in memory.
MEMORY = "memory"
# Columns written after the verdict was known, which give it away: PUBHEALTH's explanation is the journalist's verdict
# in words, LIAR's counts include the claim itself, SciFact's rationale exists for two of the labels only.
_LEAKING = re.compile(
    r"explanation|justification|rationale|ruling|verdict|(\w+ )?rating|veracity|truth(fulness)?|factuality|credibility|"
    r"evidence_labels?|\w*_counts?|label\w*",
    re.I,
)


def load(config: DataConfig, *, token: str | None = None, compare: bool = True) -> ClaimData:
    """Find, read, check and (if needed) split the data; raises DataError.

    A private data set on the Hub is read with `token`, else with the login. With `compare` the warnings name claims
    that splits have in common; finding them takes most of the time.
    """
    if not config.test_fraction:
        raise DataError("data.test_fraction is 0, but figures need test claims. Give a fraction above 0.")
    source = find(config.id, revision=config.revision, sheet=config.sheet, token=token)
    raw, notes = _read(source, [name for name in (*SPLITS, "all") if name in source.splits], config)
    warnings = [*([source.note] if source.note else []), *notes]
    dropped = {name: rows.dropped for name, rows in raw.items() if rows.dropped}
    whole = raw.pop("all", None)
    train = whole if whole is not None else raw["train"]
    labels = _label_set(train.label_names, source, train)
    sets, splitter, random = {name: _encode(rows, labels) for name, rows in raw.items()}, None, None
    if whole is not None:
        splitter, everything = Splitter(config, labels, whole.title), _encode(whole, labels)
        sets = splitter.three_ways(everything)
        how = "stratified" if config.date is None else f"test the newest by {config.date!r}"
        warnings.append(f"one file: split by seed {config.split_seed}, {how}, into {_sizes(sets)}.")
        if compare and (config.group or config.date):
            random = Splitter(config, labels, whole.title).three_ways(split.random_again(everything))
    elif len(sets) < len(SPLITS):
        splitter, published = Splitter(config, labels, train.title), sets
        sets, added = splitter.complete(sets)
        warnings.append(f"no {' or '.join(added)} file: taken from train by seed {config.split_seed}: {_sizes(sets)}.")
        if compare and (config.group or config.date) and "test" in added:
            again = {name: split.random_again(part) for name, part in published.items()}
            random, _ = Splitter(config, labels, train.title).complete(again)
    elif config.group or config.date:
        warnings.append("data.group and data.date have no effect: the data has its own three splits.")
    warnings += splitter.notes if splitter else []
    if config.train_rows:
        warnings.append(f"data.train_rows: {config.train_rows:,} of {len(sets['train']):,} training claims.")
        sets["train"] = split.fewer(sets["train"], config.train_rows, config.split_seed, train.title)
        if random:
            random["train"] = split.fewer(random["train"], config.train_rows, config.split_seed, train.title)
    _require_every_label(sets["train"], labels, train.title)
    warnings += leakage.report(sets) if compare else []
    return replace(_claim_data(labels, sets, source, dropped, warnings), random=random)


def load_split(source: Source, config: DataConfig, name: str, labels: Sequence[str]) -> ClaimData:
    """Return one published split under its name; all claims, as `all`, if the data has no splits.

    The label set consists of `labels` and the further labels of the claims. Raises DataError.
    """
    if name not in source.splits and "all" not in source.splits:
        raise DataError(f"{source.id} has no {name} split; it has {', '.join(source.splits)}. Choose one with --split.")
    name = name if name in source.splits else "all"
    parts, notes = _read(source, [name], replace(config, group=None, date=None))
    raw = parts[name]
    names = LabelSet(tuple(dict.fromkeys((*labels, *sorted(set(raw.names))))))
    dropped = {name: raw.dropped} if raw.dropped else {}
    return _claim_data(
        names, {name: _encode(raw, names)}, source, dropped, [*([source.note] if source.note else []), *notes]
    )


def from_memory(claims: ClaimSet, labels: LabelSet, config: DataConfig) -> ClaimData:
    """Split claims whose texts are checked (`clean_text`) like one file; every label must occur.

    Only the fractions and the split seed of `config` are used. Raises DataError if there are too few claims.
    """
    splitter = Splitter(config, labels, MEMORY)
    sets = splitter.three_ways(claims)
    _require_every_label(sets["train"], labels, MEMORY)
    warnings = [*splitter.notes, *leakage.report(sets)]
    return _claim_data(labels, sets, Source(id=MEMORY, kind=MEMORY, splits={}), {}, warnings)


def _claim_data(
    labels: LabelSet, sets: dict[str, ClaimSet], source: Source, dropped: dict[str, int], warnings: list[str]
) -> ClaimData:
    described = DataSource(
        id=source.id,
        kind=source.kind,
        revision=source.revision,
        sha256={name: claims.sha256(labels) for name, claims in sets.items()},
        rows={name: len(claims) for name, claims in sets.items()},
        dropped_rows=dropped,
    )
    return ClaimData(labels=labels, splits=sets, source=described, warnings=warnings)


@dataclass(kw_only=True)
class _RawSet:
    """A split whose labels are still names; `label_names` is data.labels in the form of the column."""

    title: str
    texts: list[str] = field(default_factory=list)
    evidence: list[str] | None = None
    names: list[str] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    dropped: int = 0
    group: list[str] | None = None
    date: list[float] | None = None
    label_names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Cells:
    """The cells of a split: its columns and, by row, the number (from 1), the label as text, claim and evidence.

    A row ends with its source and date, None where no such column is configured. `labels` counts the texts of the label
    column as they are in the file; `notes` are for the user.
    """

    title: str
    columns: tuple[str, str, str | None]
    rows: list[tuple[int, str, Any, Any, str | None, float | None]]
    dropped: int
    labels: Counter[str]
    notes: list[str]


def _read(source: Source, names: Sequence[str], config: DataConfig) -> tuple[dict[str, _RawSet], list[str]]:
    """Read splits, and return them with notes for the user; the form of their labels depends on all of them."""
    cells = {name: _cells(source, source.splits[name], config) for name in names}
    form = columns.label_form(
        {label for part in cells.values() for _, label, *_ in part.rows if label != hub_rows.NO_LABEL}
    )
    parts = {name: _raw_set(source, part, config, form) for name, part in cells.items()}
    first = next(iter(parts.values()))
    notes = list(dict.fromkeys(note for part in cells.values() for note in part.notes))
    if source.named is None:
        kept = Counter(name for part in parts.values() for name in part.names)
        label_check.check_no_score(first.title, next(iter(cells.values())).columns[1], kept)
        spelled = sum((part.labels for part in cells.values()), Counter[str]())
        notes += label_check.spellings(first.title, spelled, lambda text: form(text.strip()), config.label_map)
    notes += label_check.conflicts(
        (text, None if part.evidence is None else part.evidence[place], part.names[place])
        for part in parts.values()
        for place, text in enumerate(part.texts)
    )
    return parts, [f"{note}." for note in notes]


def _cells(source: Source, part: Table, config: DataConfig) -> _Cells:
    part = columns.without_header(part, (config.claim, config.label, config.evidence, config.group, config.date))
    (claim, label, evidence), notes = _choose_columns(source, part, config)
    drop_incomplete = source.named is not None and source.named.drop_incomplete
    group, date = (
        None if column is None else columns.choose(part, column, (), flag=f"--set data.{name}=COLUMN")
        for name, column in (("group", config.group), ("date", config.date))
    )
    rows, dropped, labels = [], 0, Counter[str]()
    for number, row in enumerate(part.rows(), start=1):
        text, value = columns.cell(row, claim), columns.cell(row, label)
        if drop_incomplete and (_is_empty(text) or _is_empty(value)):
            dropped += 1
            continue
        where = f"{part.title}, row {number}: column"
        name = columns.label_text(value, f"{where} {label!r}")
        if isinstance(value, str):
            labels[value] += 1
        second = None if evidence is None else columns.cell(row, evidence)
        # A claim without a source is a source of its own.
        by = None if group is None else columns.cell(row, group)
        origin = None if group is None else str(f"row {number}" if _is_empty(by) else by).strip()
        day = None if date is None else columns.date_value(columns.cell(row, date), f"{where} {date!r}")
        rows.append((number, name, text, second, origin, day))
    return _Cells(
        title=part.title,
        columns=(claim, label, evidence),
        rows=rows,
        dropped=dropped,
        labels=labels,
        notes=[*part.notes, *notes],
    )


def _raw_set(source: Source, cells: _Cells, config: DataConfig, form: Callable[[str], str]) -> _RawSet:
    claim, _, evidence = cells.columns
    given = {**(source.named.label_map if source.named else {}), **config.label_map}
    label_map = {form(value): name for value, name in given.items()}
    drop = {hub_rows.NO_LABEL, *(source.named.drop_labels if source.named else ()), *map(form, config.drop_labels)}
    raw = _RawSet(title=cells.title, evidence=[] if evidence else None, dropped=cells.dropped)
    raw.group, raw.date = [] if config.group else None, [] if config.date else None
    raw.label_names = tuple(name if name in label_map.values() else form(name) for name in config.labels)
    for number, label, text, second, origin, day in cells.rows:
        where, value = f"{cells.title}, row {number}: column", form(label)
        if value in drop or label_map.get(value) in drop:
            raw.dropped += 1
            continue
        raw.texts.append(columns.clean_text(text, f"{where} {claim!r}"))
        raw.names.append(label_map.get(value, value))
        raw.rows.append(number)
        if raw.evidence is not None:
            # A claim may lack evidence.
            raw.evidence.append(columns.clean_text(second, f"{where} {evidence!r}", empty_ok=True))
        if raw.group is not None and origin is not None:
            raw.group.append(origin)
        if raw.date is not None and day is not None:
            raw.date.append(day)
    if not raw.texts:
        if raw.dropped:
            raise DataError(f"{cells.title}: data.drop_labels drops all of its {raw.dropped} rows. Drop fewer labels.")
        raise DataError(f"{cells.title} has no rows. Add some.")
    return raw


def _is_empty(value: Any) -> bool:
    return value is None or isinstance(value, str) and not value.strip()


def _choose_columns(source: Source, part: Table, config: DataConfig) -> tuple[tuple[str, str, str | None], list[str]]:
    """Return the claim, label and evidence columns of a split, and notes; raises DataError naming the columns."""

    def choose(field: str, wanted: str | None, candidates: tuple[str, ...]) -> str:
        if wanted in part.unread:
            raise DataError(
                f"{part.title}: the column {wanted!r} holds files, which are not read. "
                f"Name a column of text with --set data.{field}=COLUMN."
            )
        return columns.choose(part, wanted, candidates, flag=f"--set data.{field}=COLUMN")

    named = source.named
    claim = choose("claim", config.claim, (*((named.claim,) if named else ()), *columns.CLAIMS))
    label = choose("label", config.label, (*((named.label,) if named else ()), *columns.LABELS))
    evidence = None if config.evidence is None else choose("evidence", config.evidence, ())
    for flag, column in (("data.claim", claim), ("data.evidence", evidence)):
        if column and not config.allow_leaking and (column == label or _LEAKING.fullmatch(column)):
            raise DataError(
                f"{part.title}: the column {column!r} ({flag}) gives the label away: it is written once the verdict "
                "is known. Choose another column, or force it with --set data.allow_leaking=true."
            )
    notes = []
    if named is None:
        odd = columns.check_holds_texts(part, claim, named=config.claim is not None, flag="--set data.claim=COLUMN")
        others = columns.known(part.columns, columns.LABELS) if config.label is None else []
        notes += [odd] if odd else []
        if others and len(others) > 1:
            notes.append(
                f"{part.title}: the label is read from {label!r}; {', '.join(map(repr, set(others) - {label}))} may be "
                "labels too, and data.label names another column"
            )
    return (claim, label, evidence), notes


def _label_set(configured: Sequence[str], source: Source, train: _RawSet) -> LabelSet:
    present = set(train.names)
    if len(present) == 1:
        raise DataError(
            f"{train.title}: every row has the label {train.names[0]!r}; a classifier needs at least two. "
            "Check data.label, data.label_map and data.drop_labels."
        )
    names = tuple(configured) or (source.named.labels if source.named else ())
    if not names or (not configured and not present <= set(names)):
        # A variant of a named set (other label names, a subset of columns) keeps its own labels.
        return LabelSet.from_values(present)
    return LabelSet(tuple(names))


def _encode(raw: _RawSet, labels: LabelSet) -> ClaimSet:
    for name, number in zip(raw.names, raw.rows, strict=True):
        if name not in labels.ids:
            near = difflib.get_close_matches(name, labels.names, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise DataError(
                f"{raw.title}, row {number}: the label {name!r} is not among {', '.join(labels.names)}.{hint} "
                "Map it with data.label_map or leave its rows out with data.drop_labels."
            )
    date = None if raw.date is None else np.array(raw.date)
    return ClaimSet(texts=raw.texts, evidence=raw.evidence, gold=labels.encode(raw.names), group=raw.group, date=date)


def _require_every_label(train: ClaimSet, labels: LabelSet, title: str) -> None:
    counts = np.bincount(train.gold, minlength=len(labels))
    absent = [name for name, count in zip(labels.names, counts, strict=True) if count == 0]
    if absent:
        raise DataError(
            f"{title}: no training claim has the label {', '.join(absent)}, so it cannot be learned. "
            "Add such claims or remove the label from data.labels."
        )


def _sizes(sets: Mapping[str, ClaimSet]) -> str:
    return " / ".join(f"{len(sets[name]):,} {name}" for name in SPLITS)
