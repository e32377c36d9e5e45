"""The tab *Check a claim*: answers of base and adapters side by side, the words that moved them, and corrections."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import gradio as gr

from lorahub.app import Json, adapter_choice, answers, cards, errors, html
from lorahub.app.answers import Answers, Classify, Explain, Question
from lorahub.app.feedback import Feedback
from lorahub.errors import ConfigError, LorahubError
from lorahub.serving.engine.engine import Engine

# At most 60 characters each: gradio cuts the rest from an example's button.
EXAMPLES = (
    "Vitamin D cuts respiratory infections by a third.",
    "Every hospital in the country lies about its waiting times!",
    "The new tram line may reduce traffic, the council says.",
    "Unemployment fell to 4.1 percent in March.",
    "Teachers deserve so much better than this.",
)
# One explanation at a time: it classifies up to 808 texts, and claims are answered meanwhile.
_ONE_AT_A_TIME: dict[str, int | str] = {"concurrency_limit": 1, "concurrency_id": "explanations"}
# More cards do not fit side by side.
_CHOSEN_AT_FIRST = 4
_PRIVATE = {"api_visibility": "private"}


def build(
    engine: Engine, page: gr.Blocks, tab: gr.Tab, *, left_out: Sequence[str] = (), corrections: Feedback | None = None
) -> gr.CheckboxGroup:
    """Lay out the tab inside the current gr.Blocks and return the field that chooses adapters.

    `left_out` says which runs are not offered, and why.
    """
    classify, explain = answers.classifier(engine), answers.explainer(engine)
    names = engine.names
    # With one line, Enter sends and the field still grows; with more, Enter would only break the line.
    claim = gr.Textbox(label="Claim", placeholder="Type or paste one sentence", lines=1, max_lines=6, autofocus=True)
    chosen = gr.CheckboxGroup(names, value=names[:_CHOSEN_AT_FIRST], label="Adapters")
    gr.HTML(html.note(*(f"Left out: {reason}" for reason in left_out)), visible=bool(left_out))
    with gr.Accordion("Evidence and strength", open=False):
        evidence = gr.Textbox(
            label="Evidence", info="For adapters trained on pairs of claim and evidence.", lines=3, max_lines=8
        )
        strength = gr.Slider(
            0, answers.MAX_STRENGTH, value=1, step=0.1, label="Adapter strength", info="0: the base. 1: as trained."
        )
    button = gr.Button("Check", variant="primary", elem_classes="lh-check")
    shown = gr.HTML(
        html.note("Answers appear here." if names else "No adapter is loaded."),
        label="Answers",
        html_template=html.region("Answers"),
        min_height=90,
    )
    # The question and answers that the page shows, whatever is typed meanwhile; and what the page's address asks.
    answered, linked = gr.State(None), gr.State(None)
    with gr.Column(visible=False) as after:
        why = gr.Button("Which words moved the answers?", elem_classes="lh-check")
        words = gr.HTML("", label="Words", html_template=html.region("Words"))
        corrected = [_correction(classify, answered, corrections)] if corrections else []
    examples = gr.Examples([[text] for text in EXAMPLES], [claim], label="Examples")

    @errors.shown()
    def check(claim: str, adapters: list[str], evidence: str, strength: float) -> list[Any]:
        try:
            question = Question.parse(claim, adapters, evidence, strength)
            result = classify(question)
        except LorahubError as error:
            # In the place of the answers: older answers below it would look like those to this claim.
            return [html.problem(str(error)), None, gr.Column(visible=False), "", *[gr.skip() for _ in corrected]]
        names = list(question.adapters)
        offered = [gr.Dropdown(names, value=names[0]) for _ in corrected]
        return [cards.answers(result, question), (question, result), gr.Column(visible=True), "", *offered]

    def read_link(request: gr.Request) -> tuple[str, list[str], str, str] | None:
        """Return claim, adapters, evidence and strength of the page's address; None where it has no claim."""
        query = request.query_params
        claim, evidence, strength = (query.get(key, "") for key in ("claim", "evidence", "strength"))
        return (claim, query.getlist("adapters"), evidence, strength or "1") if claim else None

    def follow_link(linked: tuple[str, list[str], str, str]) -> list[Any]:
        """Fill in what a link asks, and ask it."""
        claim, adapters, evidence, number = linked
        loaded = engine.names
        adapters = adapters or loaded[:_CHOSEN_AT_FIRST]
        strength = float(number) if number.replace(".", "", 1).isdecimal() else -1.0  # refused with its reason
        fields = [claim, adapter_choice.ticked(loaded, adapters), evidence, max(0.0, strength)]
        return fields + check(claim, adapters, evidence, strength)

    @errors.in_place
    def explain_answers(answered: tuple[Question, Answers]) -> str:
        return cards.words(answered[0].claim, explain(answered[0]))

    inputs, outputs = [claim, chosen, evidence, strength], [shown, answered, after, words, *corrected]
    # A visitor who asks again before the answer came gets the answer to the last question.
    gr.on([button.click, claim.submit], check, inputs, outputs, trigger_mode="always_last", **_PRIVATE)
    examples.load_input_event.then(check, inputs, outputs, **_PRIVATE)
    why.click(explain_answers, answered, words, **_ONE_AT_A_TIME, **_PRIVATE)
    # In two steps, as in adapter_choice: both events come as soon as the page opens.
    page.load(read_link, None, linked, show_progress="hidden", **_PRIVATE)
    linked.change(follow_link, linked, [*inputs, *outputs], **_PRIVATE)
    adapter_choice.refresh_on_open(engine, tab, chosen)
    _endpoints(classify, explain, lambda: list(engine.adapters))
    return chosen


def _correction(classify: Classify, answered: gr.State, corrections: Feedback) -> gr.Dropdown:
    """Lay out the fields for what an answer should have been; return the one that names the adapter."""
    with gr.Accordion("An answer is wrong", open=False):
        gr.HTML(html.note(f"What you send, the claim with it, is kept in {corrections.where}."))
        with gr.Row():
            adapter = gr.Dropdown([], label="Adapter", interactive=True)
            label = gr.Dropdown([], label="It should be", interactive=True)
        send = gr.Button("Send correction", elem_classes="lh-check")
        thanks = gr.HTML("", label="Correction", html_template=html.region("Correction"))

    def offer_labels(answered: tuple[Question, Answers] | None, adapter: str) -> gr.Dropdown:
        return gr.Dropdown(answered[1].labels(adapter) if answered else [], value=None)

    def keep(question: Question, answers: Answers, adapter: str, label: str | None) -> None:
        labels = answers.labels(adapter)
        if label is None or label not in labels:
            raise ConfigError(f"Choose what the answer should be; {adapter} has {', '.join(labels)}.")
        corrections.keep(claim=question.claim, label=label, adapter=adapter, evidence=question.evidence)

    @errors.in_place
    def keep_typed(answered: tuple[Question, Answers], adapter: str, label: str | None) -> str:
        keep(*answered, adapter, label)
        return html.note(f"Kept: for {adapter} the claim is {label}.")

    @errors.endpoint
    def feedback(claim: str, label: str, adapter: str, evidence: str = "") -> str:
        """Keep what an adapter should have answered to a claim, for training; returns where it is kept.

        Args:
            claim: one sentence
            label: what the adapter should have answered, one of its labels
            adapter: the adapter that was wrong
            evidence: the second text that it was given

        """
        question = Question.parse(claim, [adapter], evidence)
        keep(question, classify(question), adapter, label)
        return corrections.where

    adapter.change(offer_labels, [answered, adapter], label, show_progress="hidden", **_PRIVATE)
    send.click(keep_typed, [answered, adapter, label], thanks, **_PRIVATE)
    gr.api(feedback, api_name="feedback")
    return adapter


def _endpoints(classifier: Classify, explainer: Explain, loaded: Callable[[], list[str]]) -> None:
    @errors.endpoint
    def classify(claim: str, adapters: list[str] = [], evidence: str = "", strength: float = 1.0) -> Json:  # noqa: B006
        """Classify one claim with adapters; strength 0 is the base, 1 the adapters as trained, 2 the maximum.

        Returns per adapter its verdict and the base's (label, probabilities, calibrated, abstain, truncated), the
        seconds it took, and which adapters with the same labels agree.

        Args:
            claim: one sentence
            adapters: names of loaded adapters; default: all of them
            evidence: a second text, for adapters trained on pairs of claim and evidence
            strength: how strong the adapters' change of the base is

        """
        return asdict(classifier(Question.parse(claim, adapters or loaded(), evidence, strength)))

    @errors.endpoint
    def explain(claim: str, adapters: list[str] = [], evidence: str = "", strength: float = 1.0) -> Json:  # noqa: B006
        """Find which words of a claim moved the named adapters' answers.

        Each word is left out alone: its effect is how far the label's calibrated probability falls without it.

        Args:
            claim: one sentence
            adapters: names of loaded adapters; default: all of them
            evidence: a second text, for adapters trained on pairs of claim and evidence
            strength: how strong the adapters' change of the base is

        """
        question = Question.parse(claim, adapters or loaded(), evidence, strength)
        return answers.explanation(question.claim, explainer(question))

    gr.api(classify, api_name="classify")
    gr.api(explain, api_name="explain", **_ONE_AT_A_TIME)
