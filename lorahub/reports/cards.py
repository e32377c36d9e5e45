"""The card: README.md of a run folder, written from its record alone.

Out: Markdown with front matter, ready to publish. Text that a person writes around the marked sections is kept by
`sections.merge`. `lorahub verify` compares the verdict, the tables and the comparisons of a card with a new one, so
their wording stays the same between versions.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from string import Template

import numpy as np

from lorahub import config as configs
from lorahub import records, runfiles
from lorahub.errors import AdapterError
from lorahub.records import RunRecord
from lorahub.reports import metadata, snippets, tables
from lorahub.runfiles import ProbeRow
from lorahub.stats.results import SystemResult

_TEMPLATE = Path(__file__).parent.parent / "templates" / "card.md"
# A recall measured on fewer claims has an interval wider than about +-15 points.
_SMALL_CLASS = 50
_LOW_RECALL = 0.3
_OFTEN_CONFUSED = 0.3
_HIGH_ECE = 0.1
# The start of the summary by method.
_METHODS = {
    "lora": "A LoRA adapter for",
    "qlora": "A QLoRA adapter for",
    "dora": "A DoRA adapter for",
    "rslora": "A rank-stabilized LoRA adapter for",
    "prompt": "A soft prompt (prompt tuning) for",
    "prefix": "A prefix (prefix tuning) for",
    "p-tuning": "A soft prompt (P-tuning) for",
    "ia3": "An (IA)3 adapter for",
    "full": "A full fine-tuning of",
    "linear-probe": "A classification head on the frozen base",
}
# How choices and figures of a run are related, by the split of the figures.
_CHOSEN = {
    "test": "was made on validation",
    "validation": "was made on the same claims, since no test split was held out: the figures are too good",
}
# The paper of a method: authors as in BibTeX, title, year, arXiv id.
_LORA = ("Hu, Edward J. and Shen, Yelong and Wallis, Phillip and Allen-Zhu, Zeyuan and Li, Yuanzhi and "
         "Wang, Shean and Wang, Lu and Chen, Weizhu", "LoRA: Low-Rank Adaptation of Large Language Models",
         2021, "2106.09685")  # fmt: skip
_PAPERS = {
    "lora": _LORA,
    "qlora": ("Dettmers, Tim and Pagnoni, Artidoro and Holtzman, Ari and Zettlemoyer, Luke",
              "QLoRA: Efficient Finetuning of Quantized LLMs", 2023, "2305.14314"),
    "dora": ("Liu, Shih-Yang and Wang, Chien-Yi and Yin, Hongxu and Molchanov, Pavlo and Wang, Yu-Chiang Frank and "
             "Cheng, Kwang-Ting and Chen, Min-Hung", "DoRA: Weight-Decomposed Low-Rank Adaptation", 2024, "2402.09353"),
    "rslora": ("Kalajdzievski, Damjan", "A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA", 2023,
               "2312.03732"),
    "prompt": ("Lester, Brian and Al-Rfou, Rami and Constant, Noah",
               "The Power of Scale for Parameter-Efficient Prompt Tuning", 2021, "2104.08691"),
    "prefix": ("Li, Xiang Lisa and Liang, Percy", "Prefix-Tuning: Optimizing Continuous Prompts for Generation", 2021,
               "2101.00190"),
    "p-tuning": ("Liu, Xiao and Zheng, Yanan and Du, Zhengxiao and Ding, Ming and Qian, Yujie and Yang, Zhilin and "
                 "Tang, Jie", "GPT Understands, Too", 2021, "2103.10385"),
    "ia3": ("Liu, Haokun and Tam, Derek and Muqeeth, Mohammed and Mohta, Jay and Huang, Tenghao and Bansal, Mohit and "
            "Raffel, Colin", "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning",
            2022, "2205.05638"),
}  # fmt: skip
_HYPERPARAMETERS = {
    "adapter": ("method", "rank", "alpha", "dropout", "target_modules"),
    "train": ("learning_rate", "batch_size", "epochs", "min_steps", "warmup", "schedule", "weight_decay", "seed"),
    "base": ("max_length", "quantize"),
}
_LONGEST_EXAMPLE, _WIDGET = 160, 4
# Characters that Markdown or HTML would read in a name, and underscores at the edge of a word.
_MARKUP = re.compile(r"[\\`*\[\]<>~$&]|(?<!\w)_|_(?!\w)")


def render(
    record: RunRecord,
    *,
    probe: Sequence[ProbeRow] = (),
    repo: str | None = None,
    licence: str | None = None,
    language: str | None = None,
) -> str:
    """Return the card; its snippets load the adapter from `repo`, or from the folder of the card.

    `probe` are claims with logits (C,): examples of labels and code. `licence` and `language` are Hub ids such as mit
    and en; see `metadata.card_data` for the defaults. Raises AdapterError if the record lacks what a card shows.
    """
    with records.shown(record):
        return _render(record, [row for row in probe if len(row.logits) == len(record.labels)], repo, licence, language)


def probe(folder: Path) -> list[ProbeRow]:
    """Return the probe of a run folder for its card; empty if it cannot be read."""
    try:
        return runfiles.read_json(folder / runfiles.PROBE, list[ProbeRow])
    except AdapterError:
        return []


def _render(
    record: RunRecord, rows: Sequence[ProbeRow], repo: str | None, licence: str | None, language: str | None
) -> str:
    claims = [] if record.config.data.evidence else [row.claim for row in rows]
    front_matter = metadata.card_data(record, licence=licence, language=language, examples=claims[:_WIDGET])
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        front_matter=f"{front_matter.to_yaml(line_break=chr(10))}\n",
        name=escape(record.name),
        summary=_summary(record, english=front_matter.language == "en"),
        verdict=tables.verdict(record),
        split=record.scored_split,
        chosen=_CHOSEN[record.scored_split],
        labels=_labels(record, rows),
        results=tables.markdown(tables.results_header(record), tables.results(record)),
        confidence=f"{record.config.eval.confidence:.0%}",
        calibrated=(
            "; only the adapter's probabilities are calibrated"
            if tables.results_header(record) == tables.HEADER
            else ", without and with a temperature fitted on validation"
        ),
        comparisons=_bullets(list(tables.comparisons(record).values())),
        per_label=tables.markdown(
            tables.LABEL_HEADER, [(escape(name), *cells) for name, *cells in tables.per_label(record)]
        ),
        curve=tables.folded("Learning curve", "![Learning curve](plots/curve.png)") if record.progress.curve else "",
        abstaining=_abstaining(record),
        training=_bullets(_training(record)),
        hyperparameters=_hyperparameters(record),
        data=_data(record),
        limits=_bullets(_limits(record)),
        links=_bullets(_links(record)),
        citation=_citation(record),
        **snippets.values(record, rows[0] if rows else None, repo),
    )


def escape(text: str) -> str:
    """Return a name as Markdown that shows it literally."""
    return _MARKUP.sub(lambda match: f"\\{match[0]}", " ".join(text.split()))


def code(text: str) -> str:
    """Return a name as a Markdown code span, whatever backticks it has."""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    space = " " if "`" in text else ""
    return f"{fence}{space}{' '.join(text.split())}{space}{fence}"


def _labels(record: RunRecord, rows: Sequence[ProbeRow]) -> str:
    """Return a table of the labels, each with a claim of the probe that gets it."""
    examples: dict[int, str] = {}
    for row in rows:
        examples.setdefault(int(np.argmax(row.logits)), row.claim)
    cells = []
    for index, name in enumerate(record.labels):
        claim = " ".join(examples.get(index, "").split())
        short = claim if len(claim) <= _LONGEST_EXAMPLE else f"{claim[:_LONGEST_EXAMPLE]}…"
        cells.append((str(index), code(name), escape(short)))
    text = "| id | label | a claim that gets it |\n| ---: | --- | --- |\n"
    return text + "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells)


def _hyperparameters(record: RunRecord) -> str:
    values = configs.to_dict(record.config)
    lines = [
        f"{name.replace('_', ' ')}: {code(str(values[section][name]))}"
        for section, names in _HYPERPARAMETERS.items()
        for name in names
        if values.get(section, {}).get(name) not in (None, "")
    ]
    changed = [f"`{key}={value}`" for key, value in configs.differences(record.config).items()]
    lines.append(f"settings that differ from lorahub's defaults: {', '.join(changed) or 'none'}")
    packages = ", ".join(f"{name} {version}" for name, version in record.environment.packages.items())
    return _bullets([*lines, f"versions: Python {record.environment.python}, {packages}"])


def _links(record: RunRecord) -> list[str]:
    environment, named = record.environment, metadata.named_set(record)
    lines = (
        [f"base: [{environment.base_id}](https://hf.co/{environment.base_id})"] if "/" in environment.base_id else []
    )
    if named and named.hub_id:
        lines.append(f"data: [{named.hub_id}](https://hf.co/datasets/{named.hub_id})")
    elif environment.data.kind == "hub":
        lines.append(f"data: [{environment.data.id}](https://hf.co/datasets/{environment.data.id})")
    paper = _PAPERS.get(record.config.adapter.method)
    lines += [f"method: [{paper[1]}](https://arxiv.org/abs/{paper[3]})"] if paper else []
    return [*lines, "made with: [lorahub](https://pypi.org/project/hf-lorahub/)"]


def _citation(record: RunRecord) -> str:
    """Return the BibTeX entry of the method's paper, or of lorahub for a method without one."""
    paper = _PAPERS.get(record.config.adapter.method)
    if paper is None:
        return "@software{lorahub,\n  title = {lorahub},\n  url = {https://pypi.org/project/hf-lorahub/}\n}"
    authors, title, year, number = paper
    key = f"{authors.split(',')[0].lower()}{year}"
    fields = {"author": authors, "title": title, "year": year, "eprint": number, "archivePrefix": "arXiv"}
    return f"@article{{{key},\n" + ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items()) + "\n}"


def _bullets(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _summary(record: RunRecord, *, english: bool) -> str:
    labels = ", ".join(map(code, record.labels))
    return (
        f"{_METHODS[record.config.adapter.method]} `{record.environment.base_id}` that sorts "
        f"{'English claims' if english else 'claims'} into {labels}. It was trained with lorahub on "
        f"{code(record.environment.data.id)}."
    )


def _abstaining(record: RunRecord) -> str:
    """Return the section on the abstention threshold; empty for an older record."""
    adapter, options = record.adapter(), record.config.eval
    if adapter.selective is None:
        return ""
    lines = [tables.abstaining(adapter.selective)]
    if adapter.selective.threshold is not None:
        lines.append(
            f"The threshold was chosen on validation, so that on similar claims at most {options.abstain_risk:.0%} of "
            f"the answers are wrong, with certainty {options.confidence:.0%} (selection with guaranteed risk, Geifman "
            "and El-Yaniv 2017). Below it lorahub marks the label: a person should decide."
        )
    lines.append(
        f"The area under the risk-coverage curve is {adapter.selective.aurc:.3f}; an uninformative confidence gives "
        f"the share of wrong answers, {1 - adapter.accuracy:.3f}."
    )
    plot = tables.folded("Risk and coverage", "![Risk and coverage](plots/coverage.png)")
    return f"\n### Abstaining\n\n{' '.join(lines)}\n{plot}"


def _training(record: RunRecord) -> list[str]:
    progress, environment, train = record.progress, record.environment, record.config.train
    trained, total = progress.trainable_parameters, progress.total_parameters
    revision = environment.base_revision
    return [
        f"{trained:,} of {total:,} parameters trained ({trained / total:.1%})",
        f"{progress.steps:,} steps, {progress.epochs:.1f} epochs, {progress.seconds:.0f} s on {environment.device}; "
        f"kept step {progress.best_step:,} by validation {train.metric}",
        *([f"rank {progress.rank.trained} trained, kept {progress.rank.why}"] if progress.rank else []),
        f"base `{environment.base_id}`, {f'revision `{revision}`' if revision else 'a folder without a revision'}, "
        f"seed {train.seed}",
    ]


def _data(record: RunRecord) -> str:
    data, named = record.environment.data, metadata.named_set(record)
    rows = [(split, f"{data.rows[split]:,}", f"`{digest}`") for split, digest in data.sha256.items()]
    revision = f", revision `{data.revision}`" if data.revision else ""
    origin = f" On the Hub: [{named.hub_id}](https://hf.co/datasets/{named.hub_id})." if named and named.hub_id else ""
    counts = ", ".join(f"{split} {count}" for split, count, _ in rows)
    licence = f" The license of the data: {named.licence}." if named and named.licence else ""
    hashes = (
        "The sha256 of a split covers its texts and label names in order and does not depend on the file format.\n\n"
        f"{tables.markdown(('split', 'claims', 'sha256'), rows)}"
    )
    facts = f"{code(data.id)} ({data.kind}{revision}), claims: {counts}.{origin}{licence}"
    return f"{facts}\n{tables.folded('sha256', hashes)}".rstrip()


def _limits(record: RunRecord) -> list[str]:
    """Return sentences that follow from the figures on test."""
    adapter = record.adapter()
    lines = []
    for index, name in enumerate(record.labels):
        row, about = adapter.per_label[name], []
        if row.support < _SMALL_CLASS:
            about.append(f"{code(name)} has {row.support} test claims: its recall of {row.recall:.2f} is uncertain.")
        if row.recall < _LOW_RECALL:
            about.append(f"It finds {row.recall:.0%} of the {code(name)} claims: absence of that answer means little.")
        about += _confused(record.labels, index, adapter)
        lines += [" ".join(about)] if about else []
    if adapter.ece > _HIGH_ECE:
        lines.append(f"Confidence is off by {adapter.ece:.2f} on average: do not read it as a probability.")
    if adapter.truncated:
        lines.append(f"On test: {tables.truncation(adapter.truncated)}")
    selective, risk = adapter.selective, record.config.eval.abstain_risk
    if selective and selective.threshold is not None and selective.accuracy is not None:
        wrong = 1 - selective.accuracy
        if wrong > risk:
            lines.append(f"Where it does not abstain, {wrong:.0%} of test answers are wrong; the limit was {risk:.0%}.")
    lines += [f"Reported during training: {text}" for text in record.progress.warnings]
    return [
        *lines,
        "It is for people who sort many claims before somebody reads them. It reads the wording of a claim and looks "
        "nothing up: its answer is a reason to check, not a fact, and no ground for removing or ranking what somebody "
        "said. It is untested on topics, years and languages other than those of its training data.",
    ]


def _confused(labels: list[str], index: int, adapter: SystemResult) -> list[str]:
    """Return a sentence if a large share of a label's claims gets the same wrong label."""
    answers = adapter.confusion[index]
    wrong = max((other for other in range(len(labels)) if other != index), key=lambda other: answers[other])
    if not sum(answers) or answers[wrong] / sum(answers) < _OFTEN_CONFUSED:
        return []
    return [f"It calls {answers[wrong]} of {sum(answers)} {code(labels[index])} claims {code(labels[wrong])}."]
