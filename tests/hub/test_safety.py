"""Safety: what could harm the base or run code is refused, and the weights are not downloaded to find it out."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorahub.errors import UnsafeAdapterError
from lorahub.hub import fetch, rules, safety

CONFIG, WEIGHTS = rules.CONFIG_FILE, rules.WEIGHTS_FILE
QUERY = "base_model.model.bert.encoder.layer.0.attention.self.query"


def setting(**values):
    def change(folder):
        config = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps({**config, **values}))

    return change


def tensors(change):
    def apply(folder):
        found = load_file(folder / WEIGHTS)
        change(found)
        save_file(found, folder / WEIGHTS)

    return apply


def text(name, content):
    return lambda folder: (folder / name).write_text(content)


def header(content):
    """A weights file with this header, which is JSON after its length in eight bytes."""
    return lambda folder: (folder / WEIGHTS).write_bytes(len(content).to_bytes(8, "little") + content)


HOSTILE = {
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "has no adapter_model.safetensors"),
    "no labels": (lambda folder: (folder / "labels.json").unlink(), "has no labels.json"),
    "base weight": (
        tensors(lambda t: t.update({"base_model.model.bert.embeddings.word_embeddings.weight": torch.zeros(8, 32)})),
        "could overwrite the base",
    ),
    "foreign name": (tensors(lambda t: t.update({"model.x": torch.zeros(1)})), "named unlike peft's"),
    "half": (tensors(lambda t: t.pop(f"{QUERY}.lora_B.weight")), "only one half"),
    "rank": (setting(r=2), "does not fit the config's rank 2"),
    "huge rank": (setting(r=100_000), "not a rank"),
    "huge alpha": (setting(lora_alpha=1e9), "not a number up to"),
    "no head": (tensors(lambda t: [t.pop(k) for k in list(t) if "classifier" in k]), "random on every load"),
    "labels of another": (text("labels.json", '["a", "b"]'), "names 2 labels and came with a head"),
    "markup": (text("labels.json", '["<b>a</b>", "b", "c"]'), "markup"),
    "pattern": (setting(target_modules=".*"), "not a list of layer names"),
    "pattern in a list": (setting(target_modules=["(a+)+$"]), "no layer name"),
    "whole layers": (setting(modules_to_save=["classifier", "embeddings"]), "more than a classification head"),
    "unknown method": (setting(peft_type="ADALORA"), "peft_type is 'ADALORA'"),
    "no method": (setting(peft_type=["LORA"]), "peft_type is"),
    "settings of another method": (setting(peft_type="IA3"), "r is '4'"),
    "other task": (setting(task_type="CAUSAL_LM"), "task_type is"),
    "biases of the base": (setting(bias="all"), "bias is 'all'"),
    "dora without magnitudes": (setting(use_dora=True), "no magnitude"),
    "dora that is no yes or no": (setting(use_dora="yes"), "use_dora is 'yes'"),
    "magnitudes without dora": (
        tensors(lambda t: t.update({f"{QUERY}.lora_magnitude_vector": torch.ones(32)})),
        "could overwrite the base",
    ),
    "prompt in a lora": (tensors(lambda t: t.update(prompt_embeddings=torch.ones(4, 32))), "could overwrite the base"),
    "pissa": (setting(init_lora_weights="pissa"), "would change the base"),
    "import": (setting(auto_mapping={"parent_library": "os", "base_model_class": "system"}), "auto_mapping is"),
    "megatron": (setting(megatron_core="evil"), "to import"),
    "replication": (setting(layer_replication=[[0, 1], [0, 1]]), "layer_replication is"),
    "unknown": (setting(brand_new_setting=1), "brand_new_setting is"),
    "no json": (text(CONFIG, "{"), "is no JSON object"),
    "a deep config": (text(CONFIG, "[" * 60_000), "is no JSON object"),
    "deep labels": (text("labels.json", "[" * 60_000), "is no JSON list"),
    "a header that is a list": (header(b"[]"), "no readable header"),
    "a deep header": (header(b"[" * 60_000), "no readable header"),
    "a long config": (text(CONFIG, json.dumps({"x": "y" * 70_000})), "more than"),
    "broken header": (lambda folder: (folder / WEIGHTS).write_bytes(b"\xff" * 40), "no readable header"),
    "integers": (tensors(lambda t: t.update({f"{QUERY}.lora_A.weight": torch.ones(4, 32, dtype=torch.int32)})), "I32"),
}
VALUES = {
    "not a number": (tensors(lambda t: t[f"{QUERY}.lora_A.weight"].fill_(float("nan"))), "not finite"),
    "infinite": (
        tensors(lambda t: t.update({f"{QUERY}.lora_A.weight": torch.full((4, 32), torch.inf).bfloat16()})),
        "not finite",
    ),
}  # fmt: skip


@pytest.fixture
def sound(make_adapter):
    """An adapter folder on a base of the Hub, with nothing wrong."""
    folder = make_adapter("bert", name="sound")
    setting(base_model_name_or_path="org/base", revision="a" * 40)(folder)
    return folder


def upload(hub, folder, name="alice/x"):
    return hub.put(name, {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()})


def test_a_sound_adapter_has_no_finding_here_and_on_the_hub(hub, sound):
    commit = upload(hub, sound)
    assert safety.local(sound).findings == []
    report = safety.remote("alice/x", commit)
    assert report.findings == []
    assert report.labels == ["label0", "label1", "label2"]
    assert report.tensors[f"{QUERY}.lora_A.weight"] == (4, 32)
    assert fetch.adapter("alice/x").revision == commit


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_wrong_is_found_before_the_weights_are_downloaded(hub, sound, case):
    damage, words = HOSTILE[case]
    damage(sound)
    assert any(words in sentence for sentence in safety.local(sound).refused)
    upload(hub, sound)
    hub.requests.clear()
    with pytest.raises(UnsafeAdapterError) as caught:
        fetch.adapter("alice/x")
    assert "\n" not in str(caught.value)
    assert not [row for row in hub.sent(WEIGHTS, "GET") if row[2] == 200], (
        "only a range of the weights may be asked for"
    )


@pytest.mark.parametrize("case", VALUES)
def test_values_that_are_no_numbers_are_found_after_the_download(hub, sound, case):
    damage, words = VALUES[case]
    damage(sound)
    upload(hub, sound)
    with pytest.raises(UnsafeAdapterError, match=words):
        fetch.adapter("alice/x")


def test_pickles_and_programs_are_named_and_never_downloaded(hub, sound):
    (sound / "adapter_model.bin").write_bytes(b"x")
    (sound / "modeling.py").write_text("raise SystemExit")
    upload(hub, sound)
    found = fetch.adapter("alice/x")
    notes = [finding.text for finding in safety.local(sound).findings]
    assert any("pickled" in note for note in notes)
    assert any("program" in note for note in notes)
    expected = {CONFIG, WEIGHTS, "labels.json", "tokenizer_config.json"}
    assert {path.name for path in found.folder.iterdir()} == expected


def test_a_name_that_leads_out_of_the_folder_is_refused(hub, sound):
    upload(hub, sound)
    commit = hub.put("alice/x", {"../../evil.json": b"{}"})
    assert any("out of its folder" in sentence for sentence in safety.remote("alice/x", commit).refused)
