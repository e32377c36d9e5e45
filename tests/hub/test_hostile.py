"""Hostile folders and repositories end in a refusal of one line or in finite numbers; never in a traceback."""

from collections import Counter

import hostile
import pytest
from conftest import LONG

from lorahub.errors import LorahubError
from lorahub.hub import fetch, safety, search
from lorahub.serving.engine.engine import Engine

pytestmark = pytest.mark.slow
SEED = 13


@pytest.fixture(scope="module")
def engine(tiny_base, tiny_run):
    return Engine(str(tiny_base("bert")), [tiny_run.folder])


@pytest.fixture(scope="module")
def folder(tiny_run, tmp_path_factory):
    return hostile.Folder(tiny_run.folder, tmp_path_factory.mktemp("hostile") / "runs" / "target")


def print_counts(title, outcomes, slow):
    """Print the counts by outcome."""
    by_outcome = Counter()
    for (_, outcome), count in outcomes.items():
        by_outcome[outcome] += count
    print(f"\n{title}: {sum(outcomes.values())} cases, {dict(by_outcome)}; slowest {max(slow)}")
    return by_outcome


def test_the_corpus_is_large():
    assert len(hostile.CASES) >= 300
    assert len({str(case) for case in hostile.CASES}) >= 300


def test_every_hostile_folder_is_refused_or_answers(engine, folder):
    outcomes, slow = Counter(), []
    failures = hostile.run(hostile.CASES if LONG else hostile.CASES[::9], folder, engine, outcomes, slow)
    print_counts("folders", outcomes, slow)
    assert not failures, "\n".join(failures)
    assert hostile.judge(folder.path, engine) == "finite answers"


@pytest.mark.parametrize(
    "count", [60, pytest.param(5000, marks=[pytest.mark.long, pytest.mark.skipif(not LONG, reason="make test-long")])]
)
def test_every_mutation_is_refused_or_answers(engine, folder, count):
    outcomes, slow = Counter(), []
    failures = hostile.run(hostile.mutations(folder, SEED, count), folder, engine, outcomes, slow)
    print_counts("mutations", outcomes, slow)
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("method", ["dora", "ia3", "prompt", "linear-probe", "full"])
def test_mutations_of_every_method_are_refused_or_answer(engine, make_adapter, tmp_path, method):
    target = hostile.Folder(make_adapter("bert", name=method, method=method), tmp_path / "runs" / "target")
    source = make_adapter("bert", name=method, method=method)
    for path in source.iterdir():
        target.files.setdefault(path.name, path.read_bytes())
    outcomes, slow = Counter(), []
    failures = hostile.run(hostile.mutations(target, method, 300 if LONG else 5), target, engine, outcomes, slow)
    print_counts(method, outcomes, slow)
    assert not failures, "\n".join(failures)


REPOSITORIES = [case for case in hostile.CASES if case.kind not in ("special file", "sizes", "file names", "origin")]


def test_every_hostile_repository_is_refused_or_loaded_and_none_breaks_the_list(hub, engine, folder):
    outcomes, failures = Counter(), []
    step = 1 if LONG else 21
    for number, case in enumerate(REPOSITORIES[::step]):
        folder.restore()
        case.change(folder.path)
        files = {path.relative_to(folder.path).as_posix(): path for path in folder.path.rglob("*") if path.is_file()}
        repo = f"alice/x{number}"
        hub.put(repo, {name: path.read_bytes() for name, path in files.items()})
        try:
            with hostile.limited(case):
                details = search.inspect(repo)
                list(details.lines())
                located = fetch.adapter(repo)
                outcomes["loaded"] += bool(safety.local(located.folder))
        except LorahubError as error:
            hostile.one_line(error)
            outcomes["refused"] += 1
        except Exception as error:
            failures.append(f"{case}: {type(error).__name__} {str(error)[:200]}")
    with hostile.limited("the list"):
        rows = [search.row(info) for info in search.hub("tiny-bert", limit=1000) + search.hub(limit=1000)]
    print(f"\nrepositories: {dict(outcomes)}, {len(rows)} listed")
    folder.restore()
    assert not failures, "\n".join(failures)
