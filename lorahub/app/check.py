"""The tab *Check a claim*: base and adapters side by side."""

import time
from typing import Any

import gradio as gr

from lorahub.app import present
from lorahub.app.errors import shown
from lorahub.serving.engine import Engine, Verdict

EXAMPLES = (
    "Vitamin D supplements cut the risk of respiratory infections by a third.",
    "Every single hospital in the country lies about its waiting times!",
    "The new tram line may reduce traffic in the centre, according to the council.",
    "Unemployment fell to 4.1 percent in March, the statistics office said.",
    "Teachers deserve so much better than this.",
)


def answer(engine: Engine, claim: str, adapters: list[str], evidence: str = "") -> dict[str, Any]:
    """What the page shows and the `classify` endpoint returns: per adapter its verdict and the base's.

    Raises gr.Error with the sentence that a person needs.
    """
    if not claim or not claim.strip():
        raise gr.Error("Type a claim first.", title="No claim")
    if not adapters:
        raise gr.Error("Choose at least one adapter.", title="No adapter")
    second = [evidence.strip()] if evidence and evidence.strip() else None
    started = time.perf_counter()
    with shown():
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
        parts = [present.part(name, systems["adapter"]["label"], systems["adapter"]["calibrated"], base=False)]
        if systems["base"]:
            parts.append(
                present.part(
                    "base, without the adapter", systems["base"]["label"], systems["base"]["probabilities"], base=True
                )
            )
        cards.append(present.card(name, parts))
    count = len(cards)
    note = (
        f"{count} adapter{'s' if count > 1 else ''} in one pass: "
        f"{found['seconds'] * 1000:.0f} ms on {found['device']}. "
        "Bars of adapters are calibrated. Answers judge the wording of a claim; nothing is looked up."
    )
    return present.grid(cards, note)


def build(engine: Engine) -> None:
    """Lay out the tab inside the current gr.Blocks."""
    names = list(engine.adapters)
    with gr.Row(equal_height=True):
        claim = gr.Textbox(
            label="Claim", placeholder="Type or paste one sentence", lines=2, max_lines=6, scale=4, autofocus=True
        )
        button = gr.Button("Check", variant="primary", scale=1, min_width=120)
    chosen = gr.CheckboxGroup(names, value=names[:4], label="Adapters")
    with gr.Accordion("Evidence (for adapters trained on sentence pairs)", open=False):
        evidence = gr.Textbox(label="Evidence", lines=3, max_lines=8)
    gr.Examples([[text] for text in EXAMPLES], [claim], label="Examples")
    empty = "No adapter is loaded: train one with `lorahub train`." if not names else "Answers appear here."
    result = gr.HTML(present.message(empty), label="Answers")

    def check(claim: str, adapters: list[str], evidence: str) -> str:
        return render(answer(engine, claim, adapters, evidence))

    def classify(claim: str, adapters: list[str], evidence: str = "") -> dict[str, Any]:
        """Judge one claim with the named adapters; returns label, probabilities and calibrated shares per adapter."""
        return answer(engine, claim, adapters, evidence)

    inputs = [claim, chosen, evidence]
    button.click(check, inputs, result, api_visibility="private")
    claim.submit(check, inputs, result, api_visibility="private")
    gr.api(classify, api_name="classify")


def _plain(verdict: Verdict) -> dict[str, Any]:
    return {
        "label": verdict.label,
        "probabilities": verdict.probabilities,
        "calibrated": verdict.calibrated,
    }
