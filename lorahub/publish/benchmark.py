"""A run's test result as an entry of a benchmark: `.eval_results/lorahub.yaml`, from which the Hub makes leaderboards.

In: a record and `TASK=METRIC`. Out: the file. A benchmark is a data set of the Hub with an `eval.yaml` that names its
tasks (https://huggingface.co/docs/hub/eval-results). Which metric a task means is nowhere said in a form for programs,
so whoever pushes names it.
"""

from http import HTTPStatus

import yaml

from lorahub.errors import HubError, PublishError
from lorahub.hub import client
from lorahub.publish import remote
from lorahub.records import RunRecord
from lorahub.reports import metadata

FILE_NAME = ".eval_results/lorahub.yaml"
_TASKS_FILE = "eval.yaml"


def entry(record: RunRecord, wanted: str, *, token: str | None) -> bytes:
    """Return the file for `wanted`, TASK=METRIC.

    Raises PublishError where the metric is unknown, the test data is no benchmark or has no such task; HubError where
    the Hub refuses.
    """
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    task, _, metric = wanted.partition("=")
    if not task or metric not in metadata.METRICS:
        known = ", ".join(metadata.METRICS)
        raise PublishError(f"--benchmark takes TASK=METRIC with one of {known}; found {wanted!r}.")
    data, adapter = record.environment.data, record.adapter()
    if data.kind != "hub":
        raise PublishError(f"the test data {data.id} was read from this machine: train on the benchmark's Hub id.")
    tasks = _tasks(data.id, data.revision, token)
    if task not in tasks:
        raise PublishError(f"the benchmark {data.id} has no task {task!r}; it has {', '.join(tasks)}.")
    result = EvalResultEntry(
        dataset_id=data.id,
        task_id=task,
        value=round(adapter.metric(metric), 6),
        dataset_revision=data.revision,
        date=record.created,
        notes=f"{metric} on {adapter.n:,} test claims",
    )
    return yaml.safe_dump(eval_result_entries_to_yaml([result]), sort_keys=False).encode()


def _tasks(repo: str, revision: str | None, token: str | None) -> list[str]:
    api = client.api(token)
    try:
        path = remote.download(api, repo, _TASKS_FILE, revision, kind="dataset")
    except HubError as error:
        if error.status == HTTPStatus.NOT_FOUND:
            raise PublishError(f"{repo} is no benchmark: it has no {_TASKS_FILE}. Push without --benchmark.") from None
        raise
    try:
        return [str(task["id"]) for task in yaml.safe_load(path.read_text(encoding="utf-8"))["tasks"]]
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError):
        raise PublishError(f"the {_TASKS_FILE} of {repo} lists no tasks. Push without --benchmark.") from None
