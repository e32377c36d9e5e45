"""`lorahub job`: a training as a Hub Job, which pushes its run because its disk is deleted at the end.

In: a resolved config and `Options`. `plan` only reads: the command that the Job runs, what has to be uploaded for it,
what it costs, and whether its push will be taken. `start` makes the repository to push to, uploads and starts the Job,
once: it is never started a second time by a retry. The token goes in as a secret and nowhere else.
"""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorahub import config as configs
from lorahub import durations
from lorahub.config import Config
from lorahub.data import sources
from lorahub.errors import HubError, PublishError
from lorahub.hub import client
from lorahub.publish import hardware, package, remote, uploads
from lorahub.publish.push import MAIN
from lorahub.publish.uploads import Upload

if TYPE_CHECKING:
    from huggingface_hub import JobInfo

# What a Job runs in: huggingface_hub's own default for uv.
IMAGE = "ghcr.io/astral-sh/uv:python3.12-bookworm"
SECRET = "HF_TOKEN"
LONGEST = "2h"
_WHEEL_FOLDER = "/lorahub"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the person asked for: where to run, where the run is pushed to, and how long it may take (`90m`, `2h`)."""

    flavor: str
    push: str
    timeout: str = LONGEST
    upload_data: bool = False
    private: bool = False
    token: str | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What would run: `command` with `dependency` in `IMAGE`, and then a push to `repo`.

    `wheel` is mounted, `data` is read from the Hub, each at the commit of its upload.
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
        """The command; where data is uploaded, it reads that commit whatever is uploaded later."""
        return [*self.command, *([f"--set=data.revision={json.dumps(commit)}"] if self.data else [])]

    def to_dict(self) -> dict[str, Any]:
        """The Job's spec for people and programs; of secrets the names."""
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

    Raises PublishError where the Job could not see the base or the data, or could not push at the end or would replace
    what lorahub did not write; HubError where the Hub refuses.
    """
    durations.seconds(options.timeout, option="--timeout takes")
    repo = remote.full_id(options.push, token=options.token)
    owner = str(client.call(client.api(options.token).whoami, doing="tell who you are")["name"])
    cost = hardware.of_job(options.flavor, token=options.token)
    if Path(config.base.id).is_dir():
        raise PublishError(
            f"the base {config.base.id} is a folder of this machine, which a Job does not see. Give --base USER/NAME."
        )
    _check_target(repo, options.token)
    data, config = _data(config, f"{owner}/{repo.split('/')[1]}-data", options)
    mine = package.find()
    wheel = Upload(repo=f"{owner}/lorahub-wheels", files={mine.wheel.name: mine.wheel.content}) if mine.wheel else None
    at = f"file://{_WHEEL_FOLDER}/{mine.wheel.name}" if mine.wheel else ""
    # Each setting is one word: huggingface_hub takes a word that is a file's name for a file to upload.
    settings = [f"--set={key}={json.dumps(value)}" for key, value in configs.differences(config).items()]
    private = ["--private"] if options.private else []
    for upload in (wheel, data):
        if upload:
            uploads.check(upload, token=options.token)
    return Plan(
        options=options,
        repo=repo,
        namespace=owner,
        command=["lorahub", "train", *settings, f"--push={repo}", *private],
        dependency=mine.requirement("train", wheel_at=at),
        cost=cost,
        wheel=wheel,
        data=data,
    )


def start(made: Plan) -> "JobInfo":
    """Make the repository that the Job pushes to, upload what it needs and start it.

    Raises HubError, and PublishError where it may have started unseen. Where it was not started, an empty repository
    may be left, which the next try uses.
    """
    from huggingface_hub import Volume, get_token

    options = made.options
    token = options.token or get_token()
    if not token:
        raise HubError("a Job needs a token to push its run, and there is none. Run `hf auth login` or give --token.")
    # Before anything is paid for: whoever may make it, or may write to it (see `plan`), may push to it hours later.
    client.call(
        lambda: client.api(options.token).create_repo(made.repo, private=options.private or None, exist_ok=True),
        doing=f"create {made.repo}",
    )
    volumes = []
    if made.wheel:
        at, source = uploads.send(made.wheel, token=options.token), made.wheel.repo
        volumes = [Volume(type=uploads.KIND, source=source, revision=at, mount_path=_WHEEL_FOLDER, read_only=True)]
    command, *arguments = made.command_at(uploads.send(made.data, token=options.token) if made.data else "")
    job: JobInfo = client.once(
        lambda: client.api(options.token).run_uv_job(
            command,
            script_args=arguments,
            dependencies=[made.dependency],
            image=IMAGE,
            flavor=options.flavor,
            timeout=options.timeout,
            secrets={SECRET: token},
            labels={"app": "lorahub"},
            volumes=volumes or None,
            namespace=made.namespace,
        ),
        doing=f"start a Job on {options.flavor}",
        lost="the Job started",
        done="started",
        look="with `hf jobs ps`",
    )
    return job


def follow(job: "JobInfo", *, token: str | None, tell: Callable[[str], None]) -> str:
    """Give each line of the Job's log to `tell` until it ends, and return how: COMPLETED, ERROR, CANCELED."""
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
    """What of the data has to be uploaded, and the config that finds it there."""
    source = sources.find(config.data.id, revision=config.data.revision)
    if source.kind in ("hub", "shipped") or (source.named and source.named.hub_id):
        return None, dataclasses.replace(config, data=dataclasses.replace(config.data, id=source.id))
    if not options.upload_data:
        raise PublishError(
            f"the data {source.id} lies on this machine, which a Job does not see. --upload-data puts it into the "
            f"private data set {repo}; or name one on the Hub."
        )
    # One file without splits is split by the seed, there as here.
    files: dict[str, bytes | Path] = {
        f"{'train' if name == 'all' else name}{Path(split.title).suffix}": Path(split.title)
        for name, split in source.splits.items()
    }
    return Upload(repo=repo, files=files), dataclasses.replace(
        config, data=dataclasses.replace(config.data, id=repo, revision=None)
    )


def _check_target(repo: str, token: str | None) -> None:
    """Raise where the push at the end of the Job would be refused: now that costs nothing."""
    there = remote.look(repo, MAIN, token=token)
    if there.head is None:
        return
    if there.foreign:
        raise PublishError(
            f"{repo} holds files that lorahub did not write ({there.foreign[0]}), and the Job would not replace them: "
            "look at it there, or choose another name for --push."
        )
    client.call(lambda: client.api(token).auth_check(repo, write=True), doing=f"let you write to {repo}")
