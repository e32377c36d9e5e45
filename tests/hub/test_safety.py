"""Safety: what could harm the base or run code is refused, and the weights are not downloaded to find it out."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from safetensors.torch import load_file, save_file

from lorahub import runfiles
from lorahub.config import BaseConfig
from lorahub.errors import BaseModelError, UnsafeAdapterError
from lorahub.hub import fetch, rules, safety
from lorahub.models import adapters, base

CONFIG, WEIGHTS = runfiles.PEFT.config, runfiles.PEFT.weights
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
    "base weight": (
        tensors(lambda t: t.update({"base_model.model.bert.embeddings.word_embeddings.weight": torch.zeros(8, 32)})),
        "could overwrite the base",
    ),
    "foreign name": (tensors(lambda t: t.update({"model.x": torch.zeros(1)})), "not have a name of peft"),
    "half": (tensors(lambda t: t.pop(f"{QUERY}.lora_B.weight")), "only one half"),
    "rank": (setting(r=2), "does not fit the config's rank 2"),
    "huge rank": (setting(r=100_000), "not a rank"),
    "huge alpha": (setting(lora_alpha=1e9), "not a number up to"),
    "no head": (tensors(lambda t: [t.pop(k) for k in list(t) if "classifier" in k]), "random on every load"),
    "labels of another": (text("labels.json", '["a", "b"]'), "names 2 labels, but the head"),
    "control characters": (text("labels.json", '["a\\u001b[2J", "b", "c"]'), "control characters"),
    "pattern": (setting(target_modules=".*"), "not a list of layer names"),
    "pattern in a list": (setting(target_modules=["(a+)+$"]), "not a layer name"),
    "layers that are not adapted": (setting(layers_to_transform=[1], layers_pattern="layer"), "layers_to_transform"),
    "layer 0 alone": (setting(layers_to_transform=0), "not among target_modules and layers_to_transform"),
    "layers of another list": (setting(layers_to_transform=[0, 1], layers_pattern="layers"), "not among"),
    "no layer number": (setting(layers_to_transform=[-1]), "not numbers of layers"),
    "a layer as text": (setting(layers_to_transform="0"), "not numbers of layers"),
    "a pattern of layers": (setting(layers_to_transform=[0, 1], layers_pattern="(a+)+$"), "not a name"),
    "a list without layers": (setting(layers_pattern="layer"), "without layers_to_transform"),
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
    "no json": (text(CONFIG, "{"), "is not a JSON object"),
    "a deep config": (text(CONFIG, "[" * 60_000), "is not a JSON object"),
    "deep labels": (text("labels.json", "[" * 60_000), "is not a JSON list"),
    "a header that is a list": (header(b"[]"), "header cannot be read"),
    "a deep header": (header(b"[" * 60_000), "header cannot be read"),
    "a long config": (text(CONFIG, json.dumps({"x": "y" * 70_000})), "more than"),
    "broken header": (lambda folder: (folder / WEIGHTS).write_bytes(b"\xff" * 40), "header cannot be read"),
    "integers": (tensors(lambda t: t.update({f"{QUERY}.lora_A.weight": torch.ones(4, 32, dtype=torch.int32)})), "I32"),
}
# Beside the weights, whose size follows from the config.
BESIDE = sorted(set(runfiles.LIMITS) - {CONFIG, WEIGHTS, "labels.json"})
VALUES = {
    "not a number": (tensors(lambda t: t[f"{QUERY}.lora_A.weight"].fill_(float("nan"))), "not finite"),
    "infinite": (
        tensors(lambda t: t.update({f"{QUERY}.lora_A.weight": torch.full((4, 32), torch.inf).bfloat16()})),
        "not finite",
    ),
}  # fmt: skip


SOFT = "prompt_embeddings"
# By method: what is done to a sound adapter of it, and words of what is said.
OF_METHODS = {
    ("dora", "magnitude of another width"): (
        tensors(lambda t: t.update({f"{QUERY}.lora_magnitude_vector": torch.ones(3)})), "number of outputs"
    ),
    ("dora", "lost magnitude"): (tensors(lambda t: t.pop(f"{QUERY}.lora_magnitude_vector")), "no magnitude"),
    ("ia3", "base weight"): (tensors(lambda t: t.update({f"{QUERY}.weight": torch.ones(32, 32)})), "could overwrite"),
    ("ia3", "update of lora"): (tensors(lambda t: t.update({f"{QUERY}.lora_A.weight": torch.ones(4, 8)})), "overwrite"),
    ("ia3", "other layer"): (
        tensors(lambda t: t.update({"base_model.model.bert.embeddings.ia3_l": torch.ones(32, 1)})), "not among"
    ),
    ("ia3", "shape"): (tensors(lambda t: t.update({f"{QUERY}.ia3_l": torch.ones(32, 32)})), "one factor per output"),
    ("ia3", "inputs"): (setting(feedforward_modules=["query"]), "feedforward_modules is"),
    ("ia3", "pattern"): (setting(target_modules=".*"), "not a list of layer names"),
    ("ia3", "nothing"): (tensors(lambda t: [t.pop(key) for key in list(t) if "ia3" in key]), "adapts no layer"),
    ("prompt", "base weight"): (
        tensors(lambda t: t.update({"base_model.bert.pooler.dense.weight": torch.ones(32, 32)})), "could overwrite"
    ),
    ("prompt", "foreign name"): (tensors(lambda t: t.update({"model.x": torch.ones(1)})), "not have a name of peft"),
    ("prompt", "no prompt"): (tensors(lambda t: t.pop(SOFT)), "has no prompt_embeddings"),
    ("prompt", "shape"): (tensors(lambda t: t.update({SOFT: torch.ones(5, 32)})), "requires (6, 32)"),
    ("prompt", "count"): (setting(num_virtual_tokens=10**9), "not a size"),
    ("prompt", "no number"): (setting(token_dim="32"), "not a size"),
    ("prompt", "tokenizer"): (setting(tokenizer_name_or_path="evil/x"), "tokenizer_name_or_path is"),
    ("prompt", "text"): (setting(prompt_tuning_init="TEXT"), "prompt_tuning_init is"),
    ("prompt", "no head"): (tensors(lambda t: [t.pop(k) for k in list(t) if "classifier" in k]), "random on every"),
    ("prompt", "whole layers"): (setting(modules_to_save=["embeddings"]), "more than a classification head"),
    ("prefix", "shape"): (setting(num_layers=3), "requires (6, 192)"),
    ("prefix", "network"): (setting(prefix_projection=True), "prefix_projection is"),
    ("prefix", "two stacks"): (setting(num_transformer_submodules=2), "num_transformer_submodules is"),
    ("p-tuning", "network"): (setting(encoder_num_layers=10**6), "encoder_num_layers is"),
    ("p-tuning", "width"): (setting(encoder_hidden_size=10**9), "not a size"),
    ("p-tuning", "kind"): (setting(encoder_reparameterization_type="LSTM"), "encoder_reparameterization_type is"),
}  # fmt: skip


@pytest.fixture
def sound(make_adapter):
    """An adapter folder on a base of the Hub, with nothing wrong."""
    folder = make_adapter("bert", name="sound")
    setting(base_model_name_or_path="org/base", revision="a" * 40)(folder)
    return folder


def upload(hub, folder, name="alice/x"):
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return hub.put(name, {path: file.read_bytes() for path, file in files.items()})


def test_a_sound_adapter_has_no_finding_here_and_on_the_hub(hub, sound):
    commit = upload(hub, sound)
    assert safety.local(sound).findings == []
    report = safety.remote("alice/x", commit)
    assert report.findings == []
    assert report.labels == ["label0", "label1", "label2"]
    assert report.tensors[f"{QUERY}.lora_A.weight"] == (4, 32)
    assert fetch.adapter("alice/x").revision == commit


@pytest.mark.parametrize("numbers", [[1], 1])
@pytest.mark.parametrize("lists", ["layer", ["layers", "layer"], None])
def test_layers_are_selected_as_in_peft(make_adapter, numbers, lists):
    folder = make_adapter("bert", layers="last:1", name="top")
    setting(layers_to_transform=numbers, layers_pattern=lists)(folder)
    assert safety.local(folder).refused == []
    selected = rules.Targets.of(config := json.loads((folder / CONFIG).read_text()))
    own = LoraConfig(**{key: config[key] for key in ("target_modules", "layers_to_transform", "layers_pattern")})
    layer = "bert.encoder.layer.{}.attention.self.query".format
    for name in (layer(0), layer(1), layer(11), "bert.pooler.dense", "layer.1.attention.self.query", "query", "x.1.y"):
        assert bool(selected.selecting(name)) == bool(check_target_module_exists(own, name)), name
    assert selected.selecting(layer(1))
    assert not selected.selecting(layer(0))


@pytest.mark.slow
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


def test_markup_in_a_label_is_told(sound):
    text("labels.json", '["<b>a</b>", "b", "c"]')(sound)
    report = safety.local(sound)
    assert report.refused == []
    assert any("markup" in finding.text for finding in report.findings)


def test_pickles_and_programs_are_named_and_never_downloaded(hub, sound):
    (sound / "adapter_model.bin").write_bytes(b"x")
    (sound / "modeling.py").write_text("raise SystemExit")
    upload(hub, sound)
    found = fetch.adapter("alice/x")
    notes = [finding.text for finding in safety.local(sound).findings]
    assert any("pickled" in note for note in notes)
    assert any("program" in note for note in notes)
    expected = {CONFIG, WEIGHTS, "labels.json", "tokenizer_config.json", "tokenizer.json"}
    assert {path.name for path in found.folder.iterdir()} == expected


def test_a_name_that_leads_out_of_the_folder_is_refused(hub, sound):
    upload(hub, sound)
    commit = hub.put("alice/x", {"../../evil.json": b"{}"})
    assert any("out of its folder" in sentence for sentence in safety.remote("alice/x", commit).refused)


@pytest.mark.parametrize("method", ["dora", "rslora", "ia3", "prompt", "prefix", "p-tuning"])
def test_a_sound_adapter_of_every_method_may_be_fetched(method, hub, make_adapter):
    folder = make_adapter("bert", name=method, method=method)
    commit = upload(hub, folder, f"alice/{method}")
    assert safety.local(folder).refused == []
    assert fetch.adapter(f"alice/{method}").revision == commit


@pytest.mark.parametrize(("method", "case"), OF_METHODS)
def test_what_does_not_follow_from_a_methods_config_is_refused(method, case, hub, make_adapter):
    damage, words = OF_METHODS[method, case]
    folder = make_adapter("bert", name=method, method=method)
    damage(folder)
    assert any(words in sentence for sentence in safety.local(folder).refused)
    upload(hub, folder)
    with pytest.raises(UnsafeAdapterError):
        fetch.adapter("alice/x")


def test_a_head_alone_and_a_whole_model_are_looked_at_here_and_not_taken_from_the_hub(hub, make_adapter):
    head, whole = (make_adapter("bert", name=method, method=method) for method in ("linear-probe", "full"))
    for folder, file, config in (
        (head, "head.safetensors", "head_config.json"),
        (whole, "model.safetensors", "config.json"),
    ):
        assert safety.local(folder).refused == []
        upload(hub, folder, f"alice/{folder.name}")
        with pytest.raises(UnsafeAdapterError, match="has no adapter_config.json"):
            fetch.adapter(f"alice/{folder.name}")
        values = load_file(folder / file)
        save_file({**values, "bert.embeddings.extra": torch.full((2,), torch.nan)}, folder / file)
        assert any("overwrite" in text for text in safety.local(folder).refused) == (folder == head)
        save_file({**values, "classifier.bias": torch.full((3,), torch.nan)}, folder / file)
        assert any("not finite" in text for text in safety.local(folder).refused)
        save_file(values, folder / file)
        found = json.loads((folder / config).read_text())
        (folder / config).write_text(json.dumps({**found, "auto_map": {"AutoModel": "evil.Model"}}))
        assert any("auto_map" in text for text in safety.local(folder).refused)
        (folder / config).write_text(json.dumps(found))
        (folder / "labels.json").write_text('["a", "b"]')
        assert any("names 2 labels" in text for text in safety.local(folder).refused)


def test_a_whole_model_is_loaded_from_the_file_that_was_checked(make_adapter, cli):
    """transformers has several ways to read weights from elsewhere; all of them are refused before it is asked."""
    folder = make_adapter("bert", name="other-weights", method="full")
    config = json.loads((folder / "config.json").read_text())
    for change in (
        {"transformers_weights": "adapter_model.bin"},
        {"transformers_weights": "other.safetensors"},
        {"attribute_map": {"transformers_weights": "mine"}, "mine": "other.safetensors"},
        {"configuration_files": ["config.4.0.0.json"]},
    ):
        (folder / "config.json").write_text(json.dumps(config | change))
        assert any("load other files than model.safetensors" in text for text in safety.local(folder).refused)
    code, out, _ = cli("scan", folder)
    assert (code, "configuration_files" in out) == (1, True)
    (folder / "config.json").write_text(json.dumps(config))
    assert safety.local(folder).refused == []
    shutil.copy(folder / "model.safetensors", folder / "shard-00000-model-00001-of-00001.safetensors")
    assert any("in place of model.safetensors" in text for text in safety.local(folder).refused)


def test_weights_that_only_another_config_names_are_not_loaded(make_adapter, tiny_base):
    folder = make_adapter("bert", name="redirected", method="full")
    whole = base.load(BaseConfig(id=str(tiny_base("bert"))))
    assert adapters.load_with_peft(folder, whole) is not None
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.4.0.0.json").write_text(json.dumps(config | {"transformers_weights": "adapter_model.bin"}))
    (folder / "config.json").write_text(json.dumps(config | {"configuration_files": ["config.4.0.0.json"]}))
    with pytest.raises(BaseModelError, match=r"names 'adapter_model\.bin' as weights"):
        adapters.load_with_peft(folder, whole)


def test_a_base_in_shards_is_loaded_and_its_index_names_nothing_else(hub, tiny_base, tmp_path):
    base.load(BaseConfig(id=str(tiny_base("bert")))).model.save_pretrained(tmp_path, max_shard_size="20KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    index = tmp_path / "model.safetensors.index.json"
    assert len(shards) > 1
    for path in tiny_base("bert").glob("tokenizer*"):
        shutil.copy(path, tmp_path)
    assert base.load(BaseConfig(id=str(tmp_path))).model
    upload(hub, tmp_path, "org/shards")
    assert base.load(BaseConfig(id="org/shards")).model, "links into the Hub's cache are followed"
    torch.save({}, tmp_path / "weights.model")
    names = json.loads(index.read_text())
    names["weight_map"] = dict.fromkeys(names["weight_map"], "weights.model")
    index.write_text(json.dumps(names))
    upload(hub, tmp_path, "org/pickle")
    for identifier in (str(tmp_path), "org/pickle"):
        with pytest.raises(BaseModelError, match=r"names 'weights\.model', not a \.safetensors file"):
            fetch.base(identifier)


@pytest.mark.parametrize("pattern", BESIDE)
def test_a_file_that_fills_the_disk_is_refused_and_not_downloaded(hub, sound, pattern, monkeypatch):
    monkeypatch.setitem(runfiles.LIMITS, pattern, 10_000_000)
    name = pattern.replace("*", "x")
    (sound / name).parent.mkdir(exist_ok=True)
    (sound / name).write_bytes(bytes(10_000_001))
    upload(hub, sound)
    hub.requests.clear()
    with pytest.raises(UnsafeAdapterError, match="more than the 10,000,000"):
        fetch.adapter("alice/x")
    assert not hub.sent(name, "GET")


def test_many_small_pictures_fill_no_disk_either(hub, sound):
    (sound / "plots").mkdir()
    for name in ("a", "b", "c"):
        (sound / "plots" / f"{name}.png").write_bytes(bytes(6_000_000))
    upload(hub, sound)
    with pytest.raises(UnsafeAdapterError, match="18,000,000 bytes"):
        fetch.adapter("alice/x")
