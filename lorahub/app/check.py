"""The tab *Check a claim*: base and adapters side by side, which words moved them, and what should have come out."""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from lorahub.app import answers, cards, errors, present
from lorahub.app.answers import Question
from lorahub.app.feedback import Feedback
from lorahub.errors import ConfigError, LorahubError
from lorahub.serving.engine import Engine

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
# The regions stay while their content changes: only so is the change read out.
_REGION = '<div role="status" aria-label="{}">${{value}}</div>'


def build(
    engine: Engine, page: gr.Blocks, tab: gr.Tab, *, left_out: Sequence[str] = (), corrections: Feedback | None = None
) -> None:
    """Lay out the tab inside the current gr.Blocks; `left_out` says which runs are not offered, and why."""
    judge, attribute = answers.judge(engine), answers.attribute(engine)
    names = list(engine.adapters)
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
        html_template=_REGION.format("Answers"),
        min_height=90,
    )
    # The question to which the answers on the page belong, whatever is typed meanwhile.
    asked = gr.State(None)
    with gr.Column(visible=False) as after:
        why = gr.Button("Which words moved the answers?", elem_classes="lh-check")
        words = gr.HTML("", label="Words", html_template=_REGION.format("Words"))
        corrected = _correction(engine, asked, corrections) if corrections else None
    examples = gr.Examples([[text] for text in EXAMPLES], [claim], label="Examples")

    inputs, outputs = [claim, chosen, evidence], [result, asked, after, words]
    outputs += [corrected] if corrected else []

    def check(claim: str, adapters: list[str], evidence: str) -> list[Any]:
        with errors.shown():
            try:
                question = answers.question(claim, adapters, evidence)
                shown = cards.answers(answers.classified(judge, question), question)
            except LorahubError as error:
                # In the place of the answers, where it stays; an older answer under it would look like this one's.
                question, shown = None, present.problem(str(error))
            who = [gr.Dropdown(list(question.adapters), value=question.adapters[0])] if question else [gr.Dropdown()]
            return [shown, question, gr.Column(visible=question is not None), ""] + (who if corrected else [])

    def open_link(request: gr.Request) -> list[Any]:
        """Fill in what the page's address asks, and ask it; a visitor who has begun to type is left alone."""
        loaded, wanted = list(engine.adapters), request.query_params
        ticked = [name for name in wanted.getlist("adapters") or loaded[:_CHOSEN_AT_FIRST] if name in loaded]
        offered = gr.skip() if loaded == names else gr.CheckboxGroup(loaded, value=ticked)
        if not wanted.get("claim"):
            return [gr.skip(), offered, *[gr.skip()] * (1 + len(outputs))]
        filled = [wanted["claim"], gr.CheckboxGroup(loaded, value=ticked), wanted.get("evidence", "")]
        return [*filled, *check(wanted["claim"], wanted.getlist("adapters") or ticked, wanted.get("evidence", ""))]

    def explain_again(question: Question) -> str:
        with errors.shown():
            try:
                return cards.words(answers.explained(attribute, question))
            except LorahubError as error:
                return present.problem(str(error))

    def offer(adapters: list[str]) -> gr.CheckboxGroup:
        """The adapters that are loaded now; what was ticked stays ticked where it still is there."""
        loaded = list(engine.adapters)
        return gr.CheckboxGroup(loaded, value=[name for name in adapters if name in loaded])

    # Who asks again before the answer came wants the answer to the last question.
    gr.on([button.click, claim.submit], check, inputs, outputs, trigger_mode="always_last", api_visibility="private")
    examples.load_input_event.then(check, inputs, outputs, api_visibility="private")
    why.click(explain_again, asked, words, api_visibility="private")
    page.load(open_link, None, [*inputs, *outputs], api_visibility="private")
    tab.select(offer, chosen, chosen, show_progress="hidden", api_visibility="private")
    _endpoints(judge, attribute)


def _correction(engine: Engine, asked: gr.State, corrections: Feedback) -> gr.Dropdown:
    """Where a visitor says what an answer should have been; returns the field that names the adapter."""
    with gr.Accordion("An answer is wrong", open=False):
        gr.HTML(present.message(f"What you send, the claim with it, is kept in {corrections.where}."))
        with gr.Row():
            adapter = gr.Dropdown([], label="Adapter", interactive=True)
            label = gr.Dropdown([], label="It should be", interactive=True)
        send = gr.Button("Send correction", elem_classes="lh-check")
        thanks = gr.HTML("", label="Correction", html_template=_REGION.format("Correction"))

    def labels(name: str) -> gr.Dropdown:
        known = engine.adapters.get(name)
        return gr.Dropdown(list(known.labels.names) if known else [], value=None)

    def keep(question: Question, name: str, label: str | None) -> str:
        with errors.shown():
            try:
                correct(engine, corrections, question, name, label)
                return present.message(f"Kept: for {name} the claim is {label}.")
            except LorahubError as error:
                return present.problem(str(error))

    def correction(claim: str, label: str, adapter: str, evidence: str = "") -> str:
        """Keep what an adapter should have answered to a claim, for training; returns where it is kept."""
        with errors.shown():
            correct(engine, corrections, answers.question(claim, [adapter], evidence), adapter, label)
            return corrections.where

    adapter.change(labels, adapter, label, show_progress="hidden", api_visibility="private")
    send.click(keep, [asked, adapter, label], thanks, api_visibility="private")
    gr.api(correction, api_name="feedback")
    return adapter


def correct(engine: Engine, corrections: Feedback, question: Question, adapter: str, label: str | None) -> None:
    """Keep a correction; raises ConfigError where the adapter is not loaded or has no such label."""
    known = engine.adapters.get(adapter)
    if known is None:
        raise ConfigError(f"no adapter {adapter!r} is loaded, so its labels are not known. Load it first.")
    if label not in known.labels.names:
        raise ConfigError(f"Choose what the answer should be; {adapter} has {', '.join(known.labels.names)}.")
    corrections.keep(claim=question.claim, label=label, adapter=adapter, evidence=question.evidence)


def _endpoints(judge: answers.Judge, attribute: answers.Attribute) -> None:
    def classify(claim: str, adapters: list[str], evidence: str = "") -> dict[str, Any]:
        """Judge one claim with the named adapters.

        Returns per adapter its verdict and the base's (label, probabilities, calibrated, abstain), the seconds it took,
        and which adapters with the same labels agree.
        """
        with errors.shown():
            return answers.classified(judge, answers.question(claim, adapters, evidence))

    def explain(claim: str, adapters: list[str], evidence: str = "") -> dict[str, Any]:
        """Tell which words of a claim moved the named adapters' answers.

        Each word is left out alone: its effect is how far the label's calibrated probability falls without it.
        """
        with errors.shown():
            return answers.explained(attribute, answers.question(claim, adapters, evidence))

    gr.api(classify, api_name="classify")
    gr.api(explain, api_name="explain")
