"""A run's test result as an entry of a benchmark: `.eval_results/lorahub.yaml`, which the Hub's leaderboards read.

In: a record and `TASK=METRIC`. Out: the file. A benchmark is a data set on the Hub with an `eval.yaml` that lists its
tasks (https://huggingface.co/docs/hub/eval-results). It does not define the metric of a task, so the user names it.
"""

from http import HTTPStatus

import yaml

from lorahub.errors import HubError, PublishError
from lorahub.publish.repository import DATASET, Repository
from lorahub.records import RunRecord
from lorahub.reports import metadata

FILE_NAME = ".eval_results/lorahub.yaml"
_TASKS_FILE = "eval.yaml"


def entry(record: RunRecord, wanted: str, *, token: str | None) -> bytes:
    """Return the file for `wanted`, TASK=METRIC.

    Raises PublishError if the metric is unknown or the test data is not a benchmark with that task; HubError if the Hub
    refuses.
    """
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    task, _, metric = wanted.partition("=")
    if not task or metric not in metadata.METRICS:
        known = ", ".join(metadata.METRICS)
        raise PublishError(f"--benchmark takes TASK=METRIC with one of {known}; found {wanted!r}.")
    data, adapter = record.environment.data, record.adapter()
    if data.kind != "hub":
        raise PublishError(f"the test data {data.id} was read from this machine: train on the benchmark's Hub id.")
    tasks = _tasks(Repository(id=data.id, kind=DATASET, token=token), data.revision)
    if task not in tasks:
        raise PublishError(f"the benchmark {data.id} has no task {task!r}; it has {', '.join(tasks)}.")
    result = EvalResultEntry(
        dataset_id=data.id,
        task_id=task,
        value=round(adapter.metric(metric), 6),
        dataset_revision=data.revision,
        date=record.created,
        notes=f"{metric} on {adapter.n:,} {record.scored_split} claims",
    )
    return yaml.safe_dump(eval_result_entries_to_yaml([result]), sort_keys=False).encode()


def _tasks(data: Repository, revision: str | None) -> list[str]:
    try:
        text = data.download(_TASKS_FILE, revision).read_text(encoding="utf-8")
        return [str(task["id"]) for task in yaml.safe_load(text)["tasks"]]
    except HubError as error:
        if error.status == HTTPStatus.NOT_FOUND:
            raise PublishError(
                f"{data.id} is not a benchmark: it has no {_TASKS_FILE}. Push without --benchmark."
            ) from None
        raise
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError):
        raise PublishError(f"the {_TASKS_FILE} of {data.id} lists no tasks. Push without --benchmark.") from None
