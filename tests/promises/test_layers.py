"""The layout holds: layers import only from layers to their left, files are short, names say something."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "lorahub"
MODULES = sorted(PACKAGE.rglob("*.py"))
HEAVY = {"torch", "transformers", "peft", "accelerate", "gradio", "bitsandbytes", "datasets", "matplotlib"}
HEAVY_LAYERS = {"models", "training", "serving"}
HEAVY_MODULES = {
    "lorahub.data.batches",
    *(f"lorahub.experiments.estimate.{name}" for name in ("footprint", "run", "skeleton", "trace")),
}
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "misc", "tools"}


def layers():
    """Layer -> rank, from the picture in docs/architecture.md; layers joined by a dot do not know each other."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    picture = re.search(r"```layers\n(.*?)\n```", text, re.S).group(1)
    return {
        layer: (rank, place)
        for rank, group in enumerate(picture.split("│"))
        for place, side in enumerate(group.split("·"))
        for layer in side.split()
    }


def name_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def layer_of(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "lorahub"


def imports(path, *, top_level=False):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_layer_imports_only_from_layers_to_its_left(path):
    order = layers()
    if path.parent == PACKAGE and path.name in ("__init__.py", "__main__.py"):
        return  # the two front doors: one names every layer lazily, the other only starts the command line
    here = layer_of(name_of(path))
    for imported in imports(path):
        if not imported.startswith("lorahub."):
            continue
        there = layer_of(imported)
        if there == here or there == "__version__":
            continue
        assert there in order, f"{there} is not drawn in docs/architecture.md"
        (rank_here, side_here), (rank_there, side_there) = order[here], order[there]
        assert rank_there <= rank_here, f"{name_of(path)} imports {imported}, which lies to its right"
        assert rank_here != rank_there or side_here == side_there, f"{here} and {there} do not know each other"


def test_no_cycle_among_modules():
    # Imports in functions and under TYPE_CHECKING count, too.
    graph = {
        name_of(path): {imported for imported in imports(path) if imported.startswith("lorahub.")} for path in MODULES
    }
    seen, path = set(), []

    def visit(module):
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module in seen or module not in graph:
            return
        path.append(module)
        for imported in graph[module]:
            visit(imported)
        path.pop()
        seen.add(module)

    for module in graph:
        visit(module)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_is_listed_short_and_well_named(path):
    assert path.stem not in FORBIDDEN_NAMES
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
    if path.name != "__init__.py":
        text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
        listed = f"`{path.relative_to(PACKAGE).as_posix()}`"
        assert listed in text, f"docs/architecture.md has no line for {listed}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_light_modules_do_not_import_heavy_packages_at_the_top(path):
    module = name_of(path)
    layer = layer_of(module)
    if layer in HEAVY_LAYERS or module in HEAVY_MODULES:
        return
    allowed = {"gradio"} if layer == "app" else set()
    heavy = {imported.split(".")[0] for imported in imports(path, top_level=True)} & HEAVY
    assert heavy <= allowed


def test_spaces_stays_data():
    assert not list((ROOT / "spaces").rglob("__init__.py"))


def test_the_app_file_is_short():
    assert len((ROOT / "app.py").read_text(encoding="utf-8").splitlines()) <= 30
