"""Data sets and bases of the Hub, read by the real libraries in a program of its own, and recorded as what they are."""

import json

import pytest
from conftest import WORDS, learnable
from hub_data import CONVERTED, HEALTH_FACT, VERDICTS, converted, health_rows, parquet
from hub_fixtures import TOKEN

from lorahub.errors import DataError
from lorahub.publish import push

SETTINGS = ("train.min_steps=30", "train.epochs=1", "train.batch_size=16", "eval.bootstrap=200")
FLAWED = (("some claim", -1), ("", 2), (None, 0), ("  ", -1), ("a claim without a verdict", None))
SPLITS = {
    "train": health_rows(120, 1, flawed=FLAWED),
    "validation": health_rows(40, 2, flawed=FLAWED[:2]),
    "test": health_rows(40, 3),
}
pytestmark = pytest.mark.slow


@pytest.fixture
def there(program, tmp_path):
    """Train on data and a base of the Hub, in a process that finds no local data, and return the record."""

    def train(data, base, *settings):
        out = tmp_path / "runs" / "there"
        flags = [word for setting in (*SETTINGS, *settings) for word in ("--set", setting)]
        process = program("train", "--data", data, "--base", base, "--out", out, *flags, LORAHUB_DATA="")
        assert process.returncode == 0, process.stderr
        assert "Generating" not in process.stderr, "no progress bar where stderr is no terminal"
        return json.loads((out / "record.json").read_text())

    return train


@pytest.fixture
def here(tiny_base, tmp_path):
    """Train on local data and the same base as a folder, and return the record."""
    from lorahub.training.run import train

    def run(data):
        out = tmp_path / "runs" / "here"
        return train(data=str(data), base=str(tiny_base("bert")), out=out, settings=SETTINGS).record.to_dict()

    return run


@pytest.fixture
def health_fact(hub):
    """PUBHEALTH as it lies on the Hub: a loading script that nobody runs, and the Hub's conversion to parquet."""
    script = {"README.md": b"---\nlicense: mit\n---\n", "health_fact.py": b"raise SystemExit('a script was run')\n"}
    hub.put(HEALTH_FACT, script, kind="dataset")
    return hub.put(HEALTH_FACT, converted(SPLITS), kind="dataset", ref=CONVERTED)


def test_pubhealth_and_a_base_at_a_revision_from_the_hub_give_the_figures_of_local_files(
    hub, hub_base, health_fact, there, here, program, tmp_path, monkeypatch
):
    base, older = hub_base.split("@")
    hub.put(base, {"model.safetensors": b"what main holds now is no model"})
    remote = there("pubhealth", base, f"base.revision={older}")
    data = remote["environment"]["data"]
    assert (data["kind"], data["id"], data["revision"]) == ("hub", HEALTH_FACT, health_fact)
    assert data["rows"] == {"train": 120, "validation": 40, "test": 40}
    assert data["dropped_rows"] == {"train": 5, "validation": 2}
    environment = remote["environment"]
    assert (environment["base_id"], environment["base_revision"], environment["base_origin"]) == (base, older, "hub")
    assert environment["labels"] == list(VERDICTS)
    assert not hub.sent(r"health_fact\.py", "GET"), "the repository's script was downloaded"

    folder = tmp_path / "data" / "pubhealth"
    folder.mkdir(parents=True)
    for name, rows in SPLITS.items():
        (folder / f"{name}.parquet").write_bytes(parquet(rows))
    monkeypatch.setenv("LORAHUB_DATA", str(folder.parent))
    local = here("pubhealth")
    assert local["environment"]["data"]["kind"] == "local copy"
    assert local["environment"]["data"]["sha256"] == data["sha256"]
    assert local["environment"]["data"]["dropped_rows"] == data["dropped_rows"]
    assert local["results"] == remote["results"]
    found = remote["results"]["test"]
    print(f"macro F1 on test: {found['adapter']['f1_macro']:.4f} from the Hub and from files; ", end="")
    print(f"majority {found['majority']['f1_macro']:.4f}; dropped {data['dropped_rows']}")
    assert found["adapter"]["f1_macro"] > found["majority"]["f1_macro"]

    hub.put(HEALTH_FACT, converted({**SPLITS, "test": health_rows(40, 9)}), kind="dataset", ref=CONVERTED)
    push.send(push.plan(tmp_path / "runs" / "there", push.Options()))
    matter = hub.files("alice/there")["README.md"].decode().split("---")[1]
    assert f"- {HEALTH_FACT}" in matter
    assert f"revision: {health_fact}" in matter
    checked = program("verify", "alice/there", "--base", f"{base}@{older}", "--json", LORAHUB_DATA="")
    checks = {check["name"]: check for check in json.loads(checked.stdout)["checks"]}
    assert checks["data revision"]["found"] == health_fact, "the newer conversion must not be read"
    assert checked.returncode == 0, checks


def test_any_data_set_of_the_hub_is_read_at_its_revision_with_its_class_names(hub, there, here, tiny_base, claims_file):
    rows = health_rows(160, 1, flawed=(("a claim without a verdict", -1),))
    older = hub.put("carol/claims", {"data/train-00000-of-00001.parquet": parquet(rows)}, kind="dataset")
    hub.put("carol/claims", {"data/train-00000-of-00001.parquet": parquet(health_rows(80, 5))}, kind="dataset")
    remote = there(f"carol/claims@{older}", tiny_base("bert"))
    data = remote["environment"]["data"]
    assert (data["kind"], data["id"], data["revision"]) == ("hub", "carol/claims", older)
    assert sum(data["rows"].values()) == 160
    assert data["dropped_rows"] == {"train": 1}
    assert remote["environment"]["labels"] == list(VERDICTS)

    local = here(
        claims_file([{"claim": row["claim"], "label": VERDICTS[row["label"]]} for row in rows[:-1]], "claims.jsonl")
    )
    assert local["environment"]["data"]["sha256"] == data["sha256"]
    assert local["results"] == remote["results"]
    print(f"macro F1 on test: {remote['results']['test']['adapter']['f1_macro']:.4f} from the Hub and from a file")


LOADING = """
import sys
from lorahub.config import DataConfig
from lorahub.data import claims
from lorahub.errors import DataError
for name in sys.argv[2:]:
    try:
        print(claims.load(DataConfig(id=name), token=sys.argv[1]).source.revision)
    except DataError as error:
        print(error)
"""


def test_what_cannot_be_had_from_the_hub_is_one_line(hub, health_fact, program):
    rows = health_rows(160, 1, flawed=((WORDS[0], 1), ("", 1)))
    hub.put("carol/empty", {"train.parquet": parquet(rows)}, kind="dataset")
    hub.put("carol/hidden", {"train.parquet": parquet(rows)}, kind="dataset", private=True)
    own = hub.put("alice/own", {"train.parquet": parquet(health_rows(160, 1))}, kind="dataset", private=True)
    expected = {
        "pubhealth": health_fact,
        HEALTH_FACT: health_fact,
        # Its other revision, which is in the cache by now, must not stand in.
        f"{HEALTH_FACT}@main": "the datasets library can read nothing at",
        f"{HEALTH_FACT}@no-such-branch": "cannot be loaded from the Hub",
        "carol/none": "cannot be loaded from the Hub",
        "carol/hidden": "cannot be loaded from the Hub",
        "alice/own": own,
        "carol/empty": "row 162: column 'claim' is empty",
    }
    process = program(TOKEN, *expected, code=LOADING, token=None, LORAHUB_DATA="")
    answers = process.stdout.splitlines()
    assert len(answers) == len(expected), process.stderr + process.stdout
    for answer, (name, words) in zip(answers, expected.items(), strict=True):
        assert words in answer
        assert len(answer) == 40 or name.split("@")[0] in answer


OPENED = """
import sys
opened = []
sys.addaudithook(lambda event, found: opened.append(str(found[0])) if event == "open" else None)
from lorahub.config import DataConfig
from lorahub.data import claims
from lorahub.errors import DataError
for column in ("claim", "image", "images"):
    try:
        print(claims.load(DataConfig(id="carol/pictures", claim=column)).source.revision)
    except DataError as error:
        print(error)
print([name for name in opened if name.endswith("private.png")])
"""


def test_no_cell_of_a_data_set_opens_a_file_or_another_repository(hub, program, tmp_path):
    png = b"\x89PNG\r\n\x1a\n"
    hub.put("alice/secret", {"private.png": png}, kind="dataset", private=True)
    (tmp_path / "private.png").write_bytes(png)
    kinds = ("image", "audio", "video", "pdf", "nifti")
    features = "".join(f"  - name: {kind}\n    dtype: {kind}\n" for kind in kinds)
    readme = (
        "---\ndataset_info:\n  features:\n  - name: claim\n    dtype: string\n  - name: label\n    dtype: string\n"
        f"{features}  - name: images\n    list: image\n---\n"
    )
    targets = ("hf://datasets/alice/secret@main/private.png", str(tmp_path / "private.png"))
    rows = []
    for index, row in enumerate(learnable(60)):
        named = dict.fromkeys(kinds, targets[index % 2])
        rows.append({"claim": row["claim"], "label": row["label"], **named, "images": [targets[index % 2]]})
    lines = "\n".join(map(json.dumps, rows))
    commit = hub.put("carol/pictures", {"README.md": readme.encode(), "train.jsonl": lines.encode()}, kind="dataset")
    process = program(code=OPENED, LORAHUB_DATA="")
    assert process.returncode == 0, process.stderr
    revision, image, images, opened = process.stdout.splitlines()
    assert revision == commit
    assert "the column 'image' holds files" in image
    assert "the column 'images' holds files" in images
    assert opened == "[]"
    assert not hub.sent("alice/secret")


def test_files_outside_of_the_repository_are_refused(hub, program, tmp_path):
    import datasets

    from lorahub.data import hub_rows

    private = parquet(health_rows(160, 1))
    hub.put("alice/secret", {"train.parquet": private}, kind="dataset", private=True)
    local = tmp_path / "train.parquet"
    local.write_bytes(private)
    names = {"carol/other": "hf://datasets/alice/secret@main/train.parquet", "carol/local": str(local)}
    for name, file in names.items():
        readme = f"---\nconfigs:\n- config_name: default\n  data_files: {json.dumps(file)}\n---\n"
        hub.put(name, {"README.md": readme.encode()}, kind="dataset")
    process = program(TOKEN, *names, code=LOADING, token=None, LORAHUB_DATA="")
    answers = process.stdout.splitlines()
    assert len(answers) == 2, process.stderr
    for answer, name in zip(answers, names, strict=True):
        assert f"the data set {name!r} cannot be loaded" in answer
    assert not hub.sent("alice/secret/resolve", "GET")

    # Older versions of the library build it.
    builder = datasets.load_dataset_builder("parquet", data_files=str(local), cache_dir=str(tmp_path / "cache"))
    with pytest.raises(DataError, match="outside of the repository"):
        hub_rows.check_files(builder)
