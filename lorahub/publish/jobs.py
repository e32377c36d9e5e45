"""`lorahub job`: train as a Hub Job, which pushes its run because its disk is deleted at the end.

In: a resolved config and `Options`. `plan` only reads: the command of the Job, the uploads that it needs, its price,
and whether its push will be accepted. `start` creates the repository to push to, uploads, and starts the Job once,
without retries. The token is passed as a secret only.
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorahub import config as configs
from lorahub import durations
from lorahub.config import Config, DataConfig
from lorahub.data import columns, sources, tables
from lorahub.data.rows import Table
from lorahub.errors import HubError, PublishError
from lorahub.hub import client
from lorahub.publish import deployment, guard, repository, uploads
from lorahub.publish.repository import DATASET, MAIN, Repository
from lorahub.publish.uploads import Upload

if TYPE_CHECKING:
    from huggingface_hub import JobInfo

# The default image of huggingface_hub for uv.
IMAGE = "ghcr.io/astral-sh/uv:python3.12-bookworm"
SECRET = "HF_TOKEN"
LONGEST = "2h"
_WHEEL_FOLDER = "/lorahub"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a Job: hardware, repository to push to, and longest duration (`90m`, `2h`).

    `force` replaces a classifier in the repository.
    """

    flavor: str
    push: str
    timeout: str = LONGEST
    upload_data: bool = False
    private: bool = False
    force: bool = False
    token: str | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The result of `plan`: `command` runs with `dependency` installed and pushes to `repo`.

    The Job mounts `wheel` and reads `data` from the Hub, each at the commit of its upload.
    """

    options: Options
    repo: str
    namespace: str
    command: list[str]
    dependency: str
    cost: str
    wheel: Upload | None = None
    data: Upload | None = None

    def command_at(self, commit: str) -> list[str]:
        """Return the command, which reads uploaded data at its commit."""
        return [*self.command, *([f"--set=data.revision={json.dumps(commit)}"] if self.data else [])]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form of the Job; secrets appear by name only."""
        return {
            "image": IMAGE,
            "command": ["uv", "run", "--with", self.dependency, *self.command_at("COMMIT-OF-THE-UPLOAD")],
            "flavor": self.options.flavor,
            "timeout": self.options.timeout,
            "cost": self.cost,
            "secrets": [SECRET],
            "uploads": {one.repo: sorted(one.files) for one in (self.wheel, self.data) if one},
        }


def plan(config: Config, options: Options) -> Plan:
    """Decide what the Job does; nothing is sent.

    Raises PublishError if the Job could not read the base or the data, or if its push would fail or replace what
    lorahub did not write; HubError if the Hub refuses.
    """
    durations.seconds(options.timeout, option="--timeout takes")
    token = options.token
    target = Repository(id=repository.full_id(options.push, token=token), token=token)
    owner = repository.current_user(token)
    cost = deployment.job_cost(options.flavor, token=token)
    if Path(config.base.id).is_dir():
        raise PublishError(
            f"the base {config.base.id} is a folder of this machine, which a Job cannot read. Give --base USER/NAME."
        )
    _check_target(target, options)
    data, config = _data(config, f"{owner}/{target.id.split('/')[1]}-data", options)
    package = deployment.find_package()
    wheel, address = None, ""
    if package.wheel:
        wheel = Upload(repo=f"{owner}/lorahub-wheels", files={package.wheel.name: package.wheel.content})
        address = f"file://{_WHEEL_FOLDER}/{package.wheel.name}"
    for upload in (wheel, data):
        if upload:
            uploads.check(upload, token=token)
    # Each setting is one word: huggingface_hub would upload a file if a word were its name.
    settings = [f"--set={key}={json.dumps(value)}" for key, value in configs.differences(config).items()]
    flags = [flag for flag, given in (("--private", options.private), ("--force-push", options.force)) if given]
    return Plan(
        options=options,
        repo=target.id,
        namespace=owner,
        command=["lorahub", "train", *settings, f"--push={target.id}", *flags],
        dependency=package.requirement("train", wheel_at=address),
        cost=cost,
        wheel=wheel,
        data=data,
    )


def start(job: Plan) -> "JobInfo":
    """Create the repository that the Job pushes to, upload what it needs and start it.

    Raises HubError, and PublishError if the Job may have started although the answer was lost. If it did not start, an
    empty repository may remain, which the next attempt uses.
    """
    from huggingface_hub import Volume, get_token

    options = job.options
    token = options.token or get_token()
    if not token:
        raise HubError("a Job needs a token to push its run, and there is none. Run `hf auth login` or give --token.")
    # Before anything costs money: who may create the repository, or write to it (see `plan`), may push to it later.
    Repository(id=job.repo, token=options.token).create(private=options.private)
    volumes = []
    if job.wheel:
        commit, source = uploads.send(job.wheel, token=options.token), job.wheel.repo
        volumes = [Volume(type=DATASET, source=source, revision=commit, mount_path=_WHEEL_FOLDER, read_only=True)]
    command, *arguments = job.command_at(uploads.send(job.data, token=options.token) if job.data else "")
    started: JobInfo = client.once(
        lambda: client.api(options.token).run_uv_job(
            command,
            script_args=arguments,
            dependencies=[job.dependency],
            image=IMAGE,
            flavor=options.flavor,
            timeout=options.timeout,
            secrets={SECRET: token},
            labels={"app": "lorahub"},
            volumes=volumes or None,
            namespace=job.namespace,
        ),
        doing=f"start a Job on {options.flavor}",
        lost="the Job started",
        done="started",
        look="with `hf jobs ps`",
    )
    return started


def follow(job: "JobInfo", *, token: str | None, tell: Callable[[str], None]) -> str:
    """Pass each line of the Job's log to `tell` until the Job ends; return COMPLETED, ERROR or CANCELED."""
    api, name, namespace = client.api(token), job.id, job.owner.name

    def watch() -> None:
        for line in api.fetch_job_logs(job_id=name, namespace=namespace, follow=True):
            tell(client.redact(line.rstrip("\n")))

    client.call(watch, doing=f"send the log of {name}", tries=1)
    status = client.call(
        lambda: api.inspect_job(job_id=name, namespace=namespace), doing=f"say how {name} ended"
    ).status
    if status.message:
        tell(client.redact(status.message))
    return str(getattr(status.stage, "value", status.stage))


def _data(config: Config, repo: str, options: Options) -> tuple[Upload | None, Config]:
    """Return the data to upload, if any, and the config that reads it from the Hub."""
    source = sources.find(config.data.id, revision=config.data.revision, sheet=config.data.sheet)
    if source.kind in ("hub", "shipped") or (source.named and source.named.hub_id):
        return None, replace(config, data=replace(config.data, id=source.id))
    if not options.upload_data:
        raise PublishError(
            f"the data {source.id} is on this machine, where a Job cannot read it. --upload-data puts it into the "
            f"private data set {repo}; or name one on the Hub."
        )
    # A file without splits becomes train, which is split by the seed as it is here.
    files: dict[str, bytes | Path] = {}
    for name, split in source.splits.items():
        suffix, content = _readable_there(split, config.data)
        files[f"{'train' if name == 'all' else name}{suffix}"] = content
    return Upload(repo=repo, files=files), replace(
        config, data=replace(config.data, id=repo, revision=None, sheet=None)
    )


def _readable_there(table: Table, data: DataConfig) -> tuple[str, bytes | Path]:
    """Return the ending and the content of a file for the datasets library: another format than its own as jsonl."""
    read = columns.without_header(table, (data.claim, data.label, data.evidence, data.group, data.date))
    path = Path(table.title)
    if not read.notes and path.suffix.lower() in tables.WRITTEN:
        return path.suffix, path
    with tempfile.TemporaryDirectory() as folder:
        converted = Path(folder) / "rows.jsonl"
        with tables.Writer(converted, kind=converted.suffix) as writer:
            for row in read.rows():
                writer.write([row])
        return converted.suffix, converted.read_bytes()


def _check_target(target: Repository, options: Options) -> None:
    """Raise if the push at the end of the Job would be refused, before it costs money."""
    remote = guard.look(target, MAIN)
    if remote.head is None:
        return
    if not options.force and (remote.foreign or remote.record):
        what = f"files that lorahub did not write ({remote.foreign[0]})" if remote.foreign else "a classifier"
        raise PublishError(
            f"{target} holds {what}, and the Job would not replace it: check it there, then choose another name for "
            "--push, or replace it with --force-push."
        )
    client.call(lambda: target.api.auth_check(target.id, write=True), doing=f"let you write to {target}")
