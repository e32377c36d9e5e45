"""The tab *Check a claim*: base and adapters side by side."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from lorahub.app import errors, gpu, present
from lorahub.errors import ConfigError, LorahubError
from lorahub.serving.engine import Engine, Verdict

# At most 60 characters each: gradio cuts the rest from an example's button.
EXAMPLES = (
    "Vitamin D cuts respiratory infections by a third.",
    "Every hospital in the country lies about its waiting times!",
    "The new tram line may reduce traffic, the council says.",
    "Unemployment fell to 4.1 percent in March.",
    "Teachers deserve so much better than this.",
)
# More cards than this do not fit beside one another.
_CHOSEN_AT_FIRST = 4


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What one question gave, as plain values: adapter name -> a verdict per text, with it and by the base alone."""

    verdicts: dict[str, list[Verdict]]
    base: dict[str, list[Verdict]]
    seconds: float
    device: str


Judge = Callable[[list[str], list[str], list[str] | None], Judged]


def judge(engine: Engine) -> Judge:
    """The function that puts texts, adapter names and evidence to the engine, on a borrowed GPU where one is lent.

    It raises AdapterError where an adapter is not loaded.
    """

    def ask(texts: list[str], adapters: list[str], evidence: list[str] | None) -> Judged:
        started = time.perf_counter()
        verdicts = engine.classify(texts, adapters, evidence=evidence)
        seconds = time.perf_counter() - started
        base = engine.classify_base(texts, adapters, evidence=evidence)
        return Judged(verdicts=verdicts, base=base, seconds=seconds, device=engine.device)

    # The engine is not among the arguments: it stays in the process that was forked with it.
    return gpu.borrowed(ask, lambda texts, adapters, evidence: gpu.seconds(len(texts), len(adapters)))


def answer(ask: Judge, claim: str, adapters: list[str], evidence: str = "") -> dict[str, Any]:
    """What the page shows and the `classify` endpoint returns: per adapter its verdict and the base's.

    Raises ConfigError where the claim or the adapters are missing, AdapterError where one is not loaded.
    """
    if not claim or not claim.strip():
        raise ConfigError("Type a claim first.")
    if not adapters:
        raise ConfigError("Choose at least one adapter.")
    judged = ask([claim.strip()], adapters, [evidence.strip()] if evidence and evidence.strip() else None)
    return {
        "claim": claim.strip(),
        "seconds": round(judged.seconds, 4),
        "device": judged.device,
        "adapters": {
            name: {"adapter": _plain(found[0]), "base": _plain(judged.base[name][0]) if name in judged.base else None}
            for name, found in judged.verdicts.items()
        },
    }


def render(found: dict[str, Any]) -> str:
    """The answer as the page's HTML."""
    cards = []
    for name, systems in found["adapters"].items():
        adapter, base = systems["adapter"], systems["base"]
        parts = [present.part("with the adapter", adapter["label"], adapter["calibrated"], base=False)]
        if base:
            parts.append(present.part("base alone", base["label"], base["probabilities"], base=True))
        else:
            parts.append(present.message("The base's own answer did not come with this adapter."))
        cards.append(present.card(name, parts))
    count = len(cards)
    return present.grid(
        found["claim"],
        cards,
        (
            f"{count} adapter{'s' if count > 1 else ''} answered in {found['seconds'] * 1000:.0f} ms on "
            f"{found['device'].upper()}.",
            "With the adapter: calibrated, where the adapter came with a calibration. Base alone: a logistic "
            "regression on what the base gives without the adapter. Both judge wording, not truth.",
        ),
    )


def build(engine: Engine, left_out: Sequence[str] = ()) -> None:
    """Lay out the tab inside the current gr.Blocks; `left_out` says which runs are not offered, and why."""
    names, ask = list(engine.adapters), judge(engine)
    # With one line, Enter sends and the field still grows; with more, Enter would only break the line.
    claim = gr.Textbox(label="Claim", placeholder="Type or paste one sentence", lines=1, max_lines=6, autofocus=True)
    chosen = gr.CheckboxGroup(names, value=names[:_CHOSEN_AT_FIRST], label="Adapters")
    gr.HTML(present.message(*(f"Left out: {reason}" for reason in left_out)), visible=bool(left_out))
    with gr.Accordion("Evidence (optional)", open=False):
        evidence = gr.Textbox(
            label="Evidence", info="For adapters trained on pairs of claim and evidence.", lines=3, max_lines=8
        )
    button = gr.Button("Check", variant="primary", elem_classes="lh-check")
    result = gr.HTML(
        present.message("Answers appear here." if names else "No adapter is loaded."),
        label="Answers",
        # The region stays while its content changes: only so is the change read out.
        html_template='<div role="status" aria-label="Answers">${value}</div>',
        min_height=90,
    )
    examples = gr.Examples([[text] for text in EXAMPLES], [claim], label="Examples")

    def check(claim: str, adapters: list[str], evidence: str) -> str:
        with errors.shown():
            try:
                return render(answer(ask, claim, adapters, evidence))
            except LorahubError as error:
                # In the place of the answers, where it stays; an older answer under it would look like this one's.
                return present.problem(str(error))

    def classify(claim: str, adapters: list[str], evidence: str = "") -> dict[str, Any]:
        """Judge one claim with the named adapters; returns label, probabilities and calibrated shares per adapter."""
        with errors.shown():
            return answer(ask, claim, adapters, evidence)

    inputs = [claim, chosen, evidence]
    # Who asks again before the answer came wants the answer to the last question.
    gr.on([button.click, claim.submit], check, inputs, result, trigger_mode="always_last", api_visibility="private")
    examples.load_input_event.then(check, inputs, result, api_visibility="private")
    gr.api(classify, api_name="classify")


def _plain(verdict: Verdict) -> dict[str, Any]:
    return {
        "label": verdict.label,
        "probabilities": verdict.probabilities,
        "calibrated": verdict.calibrated,
    }
