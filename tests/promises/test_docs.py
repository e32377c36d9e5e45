"""The documentation follows the code: generated blocks are fresh, every field has help, every recipe loads."""

import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lorahub import config

ROOT = Path(__file__).parents[2]
GENERATE = [sys.executable, str(ROOT / "docs" / "generate.py")]
FIELDS = [
    pytest.param(schema, id=f"{section}.{name}")
    for section in config.SECTIONS
    for name, schema in config.field_schemas(section).items()
]
RECIPES = sorted((ROOT / "lorahub" / "recipes").glob("*.yaml"))


def test_generated_blocks_are_fresh():
    done = subprocess.run([*GENERATE, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"


@pytest.mark.slow
def test_a_stale_block_is_named(tmp_path):
    """On a copy of what the generator reads, with one default changed by hand."""
    for name in ("benchmarks", "lorahub"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("docs", "spaces"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("README.md", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    page = tmp_path / "docs" / "configuration.md"
    page.write_text(page.read_text(encoding="utf-8").replace("| `cosine` |", "| `linear` |"), encoding="utf-8")
    command = [sys.executable, str(tmp_path / "docs" / "generate.py")]
    done = subprocess.run([*command, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "stale: docs/configuration.md\n" in done.stdout
    assert "| `linear` |" in page.read_text(encoding="utf-8"), "--check changes nothing"
    subprocess.run(command, capture_output=True, check=True)
    assert page.read_text(encoding="utf-8") == (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")


def test_spaces_is_what_lorahub_space_writes():
    written = runpy.run_path(str(ROOT / "docs" / "generate.py"))["space"]()
    assert {path.name: path.read_bytes() for path in (ROOT / "spaces").iterdir()} == written
    assert len(written["app.py"].splitlines()) <= 30


@pytest.mark.parametrize("schema", FIELDS)
def test_every_field_has_help(schema):
    assert len(schema["description"].split()) >= 3
    assert schema["description"].rstrip().endswith(".")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_loads_and_says_what_it_is(path):
    assert path.read_text(encoding="utf-8").startswith("# ")
    assert config.load(path) == config.load(path.stem)
    changed = config.differences(config.load(path))
    assert changed or path.stem == config.AdapterConfig().method, "a recipe that changes nothing is no recipe"


def test_the_recipe_in_the_documentation_loads(tmp_path):
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(re.search(r"```yaml\n(.*?)```", page, re.S).group(1), encoding="utf-8")
    assert config.differences(config.load(recipe))["data.drop_labels"] == ["unclear"]


PAGES = (
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
    *sorted((ROOT / "docs").glob("*.md")),
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_markdown_is_wrapped_at_100_columns(page):
    """Outside of tables, code blocks, pictures and generated blocks."""
    text = re.sub(r"<!-- generated: .*?<!-- end: ", "", page.read_text(encoding="utf-8"), flags=re.S)
    text = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.S | re.M)
    long = [line for line in text.splitlines() if len(line) > 100 and not re.match(r" *(\||!\[|- `[^`]+`: )", line)]
    assert not long


def test_no_file_has_the_markers_of_an_unfinished_merge():
    folders = (ROOT / name for name in ("lorahub", "docs", "tests", "spaces", "benchmarks"))
    files = [
        path for folder in folders for path in folder.rglob("*") if path.suffix in {".py", ".md", ".yaml", ".tmpl"}
    ]
    assert len(files) > 300
    marked = [path.name for path in files if re.search(r"^(<{7}|>{7}) ", path.read_text(encoding="utf-8"), re.M)]
    assert not marked
