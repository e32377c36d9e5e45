"""The tab *Check a claim*: base and adapters side by side."""

import time
from collections.abc import Sequence
from typing import Any

import gradio as gr

from lorahub.app import errors, present
from lorahub.serving.engine import Engine, Verdict

EXAMPLES = (
    "Vitamin D supplements cut the risk of respiratory infections by a third.",
    "Every single hospital in the country lies about its waiting times!",
    "The new tram line may reduce traffic in the centre, according to the council.",
    "Unemployment fell to 4.1 percent in March, the statistics office said.",
    "Teachers deserve so much better than this.",
)
# More cards than this do not fit beside one another.
_CHOSEN_AT_FIRST = 4


def answer(engine: Engine, claim: str, adapters: list[str], evidence: str = "") -> dict[str, Any]:
    """What the page shows and the `classify` endpoint returns: per adapter its verdict and the base's.

    Raises gr.Error with the sentence that a person needs.
    """
    if not claim or not claim.strip():
        raise errors.sentence("Type a claim first.", title="No claim")
    if not adapters:
        raise errors.sentence("Choose at least one adapter.", title="No adapter")
    second = [evidence.strip()] if evidence and evidence.strip() else None
    with errors.shown():
        started = time.perf_counter()
        verdicts = engine.classify([claim.strip()], adapters, evidence=second)
        seconds = time.perf_counter() - started
        base = engine.classify_base([claim.strip()], adapters, evidence=second)
    return {
        "claim": claim.strip(),
        "seconds": round(seconds, 4),
        "device": engine.device,
        "adapters": {
            name: {"adapter": _plain(found[0]), "base": _plain(base[name][0]) if name in base else None}
            for name, found in verdicts.items()
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
            f"{count} adapter{'s' if count > 1 else ''} in one pass: {found['seconds'] * 1000:.0f} ms on "
            f"{found['device'].upper()}.",
            "With the adapter: calibrated on validation claims. Base alone: a logistic regression on what the base "
            "gives without the adapter. Both judge wording, not truth.",
        ),
    )


def build(engine: Engine, left_out: Sequence[str] = ()) -> None:
    """Lay out the tab inside the current gr.Blocks; `left_out` says which runs are not offered, and why."""
    names = list(engine.adapters)
    with gr.Row(equal_height=True):
        # With one line, Enter sends and the field still grows; with more, Enter would only break the line.
        claim = gr.Textbox(
            label="Claim",
            placeholder="Type or paste one sentence",
            lines=1,
            max_lines=6,
            scale=4,
            min_width=240,
            autofocus=True,
        )
        button = gr.Button("Check", variant="primary", scale=1, min_width=120)
    chosen = gr.CheckboxGroup(names, value=names[:_CHOSEN_AT_FIRST], label="Adapters")
    gr.HTML(present.message(*(f"Left out: {reason}" for reason in left_out)), visible=bool(left_out))
    with gr.Accordion("Evidence, for adapters trained on pairs of claim and evidence", open=False):
        evidence = gr.Textbox(label="Evidence", lines=3, max_lines=8)
    examples = gr.Examples([[text] for text in EXAMPLES], [claim], label="Examples")
    result = gr.HTML(
        present.message("Answers appear here." if names else "No adapter is loaded."),
        label="Answers",
        # The region stays while its content changes: only so is the change read out.
        html_template='<div role="status" aria-label="Answers">${value}</div>',
        min_height=120,
    )

    def check(claim: str, adapters: list[str], evidence: str) -> str:
        return render(answer(engine, claim, adapters, evidence))

    def classify(claim: str, adapters: list[str], evidence: str = "") -> dict[str, Any]:
        """Judge one claim with the named adapters; returns label, probabilities and calibrated shares per adapter."""
        return answer(engine, claim, adapters, evidence)

    inputs = [claim, chosen, evidence]
    gr.on([button.click, claim.submit], check, inputs, result, api_visibility="private")
    examples.load_input_event.then(check, inputs, result, api_visibility="private")
    gr.api(classify, api_name="classify")


def _plain(verdict: Verdict) -> dict[str, Any]:
    return {
        "label": verdict.label,
        "probabilities": verdict.probabilities,
        "calibrated": verdict.calibrated,
    }
