"""The tab *Check a claim*: base and adapters side by side, which words moved them, and what should have come out."""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from lorahub.app import answers, cards, errors, present
from lorahub.app.answers import Question
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
# More cards than this do not fit beside one another.
_CHOSEN_AT_FIRST = 4
Answered = tuple[Question, dict[str, list[str]]]


def build(
    engine: Engine, page: gr.Blocks, tab: gr.Tab, *, left_out: Sequence[str] = (), corrections: Feedback | None = None
) -> gr.CheckboxGroup:
    """Lay out the tab inside the current gr.Blocks; returns the field that chooses adapters.

    `left_out` says which runs are not offered, and why.
    """
    judge, attribute = answers.judge(engine), answers.attribute(engine)
    names = engine.names
    # With one line, Enter sends and the field still grows; with more, Enter would only break the line.
    claim = gr.Textbox(label="Claim", placeholder="Type or paste one sentence", lines=1, max_lines=6, autofocus=True)
    chosen = gr.CheckboxGroup(names, value=names[:_CHOSEN_AT_FIRST], label="Adapters")
    gr.HTML(present.message(*(f"Left out: {reason}" for reason in left_out)), visible=bool(left_out))
    with gr.Accordion("Evidence and strength", open=False):
        evidence = gr.Textbox(
            label="Evidence", info="For adapters trained on pairs of claim and evidence.", lines=3, max_lines=8
        )
        strength = gr.Slider(
            0, answers.STRONGEST, value=1, step=0.1, label="Adapter strength", info="0: the base. 1: as trained."
        )
    button = gr.Button("Check", variant="primary", elem_classes="lh-check")
    result = gr.HTML(
        present.message("Answers appear here." if names else "No adapter is loaded."),
        label="Answers",
        html_template=present.region("Answers"),
        min_height=90,
    )
    # The question to which the answers on the page belong, whatever is typed meanwhile, and each adapter's labels.
    asked, followed, offered = gr.State(None), gr.State(None), gr.State(names)
    with gr.Column(visible=False) as after:
        why = gr.Button("Which words moved the answers?", elem_classes="lh-check")
        words = gr.HTML("", label="Words", html_template=present.region("Words"))
        corrected = _correction(judge, asked, corrections) if corrections else None
    examples = gr.Examples([[text] for text in EXAMPLES], [claim], label="Examples")

    inputs, outputs = [claim, chosen, evidence, strength], [result, asked, after, words]
    outputs += [corrected] if corrected else []

    def check(claim: str, adapters: list[str], evidence: str, strength: float) -> list[Any]:
        with errors.shown():
            try:
                question = answers.question(claim, adapters, evidence, strength)
                found = answers.classified(judge, question)
            except LorahubError as error:
                # In the place of the answers, where it stays; an older answer under it would look like this one's.
                return [
                    present.problem(str(error)),
                    None,
                    gr.Column(visible=False),
                    "",
                    *([gr.skip()] * bool(corrected)),
                ]
            names = list(question.adapters)
            offered = [gr.Dropdown(names, value=names[0])] if corrected else []
            answered = (question, {name: answers.labels(found, name) for name in names})
            return [cards.answers(found, question), answered, gr.Column(visible=True), "", *offered]

    def follow(request: gr.Request) -> dict[str, Any] | None:
        """What the page's address asks; None where it asks nothing."""
        wanted = request.query_params
        asks = {key: wanted.get(key, "") for key in ("claim", "evidence", "strength")}
        return {**asks, "adapters": wanted.getlist("adapters")} if asks["claim"] else None

    def fill(followed: dict[str, Any]) -> list[Any]:
        """Fill in what a link asks, and ask it."""
        loaded, claim, evidence = engine.names, followed["claim"], followed["evidence"]
        named = followed["adapters"] or loaded[:_CHOSEN_AT_FIRST]
        text = followed["strength"] or "1"
        strength = float(text) if text.replace(".", "", 1).isdecimal() else -1.0  # refused with its reason
        ticked = gr.CheckboxGroup(loaded, value=[name for name in named if name in loaded])
        return [claim, ticked, evidence, max(0.0, strength), *check(claim, named, evidence, strength)]

    def explain_again(answered: Answered) -> str:
        with errors.shown():
            try:
                return cards.words(answers.explained(attribute, answered[0]))
            except LorahubError as error:
                return present.problem(str(error))

    def offer(loaded: list[str], adapters: list[str]) -> gr.CheckboxGroup:
        """The adapters that are loaded now; what was ticked stays ticked where it still is there."""
        return gr.CheckboxGroup(loaded, value=[name for name in adapters if name in loaded])

    # Who asks again before the answer came wants the answer to the last question.
    gr.on([button.click, claim.submit], check, inputs, outputs, trigger_mode="always_last", api_visibility="private")
    examples.load_input_event.then(check, inputs, outputs, api_visibility="private")
    why.click(explain_again, asked, words, api_visibility="private")
    # In two steps: what an event may write to forgets what a visitor does there while the event runs, and both events
    # come as soon as the page opens. A state that stays as it is sets off nothing.
    page.load(follow, None, followed, show_progress="hidden", api_visibility="private")
    followed.change(fill, followed, [*inputs, *outputs], api_visibility="private")
    tab.select(lambda: engine.names, None, offered, show_progress="hidden", api_visibility="private")
    offered.change(offer, [offered, chosen], chosen, show_progress="hidden", api_visibility="private")
    _endpoints(judge, attribute)
    return chosen


def _correction(judge: answers.Judge, asked: gr.State, corrections: Feedback) -> gr.Dropdown:
    """Where a visitor says what an answer should have been; returns the field that names the adapter."""
    with gr.Accordion("An answer is wrong", open=False):
        gr.HTML(present.message(f"What you send, the claim with it, is kept in {corrections.where}."))
        with gr.Row():
            adapter = gr.Dropdown([], label="Adapter", interactive=True)
            label = gr.Dropdown([], label="It should be", interactive=True)
        send = gr.Button("Send correction", elem_classes="lh-check")
        thanks = gr.HTML("", label="Correction", html_template=present.region("Correction"))

    def offer(answered: Answered, name: str) -> gr.Dropdown:
        return gr.Dropdown(answered[1][name] if answered else [], value=None)

    def keep(answered: Answered, name: str, label: str | None) -> str:
        with errors.shown():
            try:
                question, labels = answered
                _keep(corrections, question, name, label, labels[name])
                return present.message(f"Kept: for {name} the claim is {label}.")
            except LorahubError as error:
                return present.problem(str(error))

    def feedback(claim: str, label: str, adapter: str, evidence: str = "") -> str:
        """Keep what an adapter should have answered to a claim, for training; returns where it is kept.

        Args:
            claim: one sentence
            label: what the adapter should have answered, one of its labels
            adapter: the adapter that was wrong
            evidence: the second text that it was given

        """
        with errors.shown():
            question = answers.question(claim, [adapter], evidence)
            found = answers.classified(judge, question)
            _keep(corrections, question, adapter, label, answers.labels(found, adapter))
            return corrections.where

    adapter.change(offer, [asked, adapter], label, show_progress="hidden", api_visibility="private")
    send.click(keep, [asked, adapter, label], thanks, api_visibility="private")
    gr.api(feedback, api_name="feedback")
    return adapter


def _keep(corrections: Feedback, question: Question, adapter: str, label: str | None, labels: list[str]) -> None:
    if label is None or label not in labels:
        raise ConfigError(f"Choose what the answer should be; {adapter} has {', '.join(labels)}.")
    corrections.keep(claim=question.claim, label=label, adapter=adapter, evidence=question.evidence)


def _endpoints(judge: answers.Judge, attribute: answers.Attribute) -> None:
    def classify(claim: str, adapters: list[str], evidence: str = "", strength: float = 1.0) -> dict[str, Any]:
        """Judge one claim with the named adapters; strength 0 is the base, 1 the adapters as trained, 2 the most.

        Returns per adapter its verdict and the base's (label, probabilities, calibrated, abstain), the seconds it took,
        and which adapters with the same labels agree.

        Args:
            claim: one sentence
            adapters: names of loaded adapters
            evidence: a second text, for adapters trained on pairs of claim and evidence
            strength: how strong the adapters' change of the base is

        """
        with errors.shown():
            return answers.classified(judge, answers.question(claim, adapters, evidence, strength))

    def explain(claim: str, adapters: list[str], evidence: str = "", strength: float = 1.0) -> dict[str, Any]:
        """Tell which words of a claim moved the named adapters' answers.

        Each word is left out alone: its effect is how far the label's calibrated probability falls without it.

        Args:
            claim: one sentence
            adapters: names of loaded adapters
            evidence: a second text, for adapters trained on pairs of claim and evidence
            strength: how strong the adapters' change of the base is

        """
        with errors.shown():
            return answers.explained(attribute, answers.question(claim, adapters, evidence, strength))

    gr.api(classify, api_name="classify")
    gr.api(explain, api_name="explain")
