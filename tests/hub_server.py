"""A small Hugging Face Hub: speaks the Hub's HTTP protocol to the real huggingface_hub client, for tests.

Blobs lie on disk under `root`, repositories are lists of commits (path -> blob) in memory. Set HF_HUB_DISABLE_XET=1
before huggingface_hub is imported: uploads then go preupload -> LFS batch -> PUT -> verify -> commit. `fail` injects
faults, `requests` tells what was asked. Written from the client's own source; what the Hub refuses in a card is in
`hub_rules`.
"""

import base64
import hashlib
import json
import re
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, unquote

import anyio
import uvicorn
from hub_rules import listed, metadata_errors, shown_metadata
from starlette.applications import Starlette
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

# Of the length and letters of real ones.
ALICE, BOB, READER = "hf_" + "Alice" * 7, "hf_" + "Bob" * 12, "hf_" + "Reader" * 6
LFS_SUFFIXES = (".safetensors", ".bin", ".parquet", ".png", ".whl", ".pkl", ".pt")
LFS_BYTES = 10_000_000
ID = r"(?P<id>[^/]+/[^/]+)"
API = rf"/api/(?P<kind>model|dataset|space)s/{ID}"


class Refused(Exception):  # noqa: N818 - an answer, not a fault
    """An answer other than 200, with the headers from which the client makes its exception."""

    def __init__(self, status, message, code=None):
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


@dataclass(frozen=True)
class Blob:
    sha256: str
    sha1: str
    size: int
    lfs: bool

    @property
    def oid(self):
        return self.sha256 if self.lfs else self.sha1


@dataclass(frozen=True)
class Commit:
    id: str
    title: str
    files: dict
    parent: str | None
    date: str


@dataclass
class Repo:
    id: str
    kind: str = "model"
    private: bool = False
    gated: bool = False
    commits: dict = field(default_factory=dict)
    branches: dict = field(default_factory=dict)
    tags: dict = field(default_factory=dict)
    pulls: dict = field(default_factory=dict)

    def add(self, title, files, *, parent=None, ref="main"):
        seconds = time.time() + len(self.commits) / 1000
        date = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds * 1000) % 1000:03}Z"
        name = hashlib.sha1(f"{self.kind}{self.id}{title}{parent}{len(self.commits)}".encode()).hexdigest()
        self.commits[name] = Commit(id=name, title=title, files=files, parent=parent, date=date)
        refs = self.pulls if ref.startswith("refs/pr/") else self.branches
        refs[ref] = name
        return self.commits[name]

    def find(self, revision):
        name = self.branches.get(revision) or self.tags.get(revision) or self.pulls.get(revision) or revision
        if name not in self.commits:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[name]


@dataclass
class Fault:
    method: str
    pattern: str
    status: int | str
    times: int
    after: int
    headers: dict


class Hub:
    """The server's state and its answers; `with Hub(root).running():` serves it on a free port."""

    def __init__(self, root):
        self.root, self.url = Path(root), ""
        self.root.mkdir(parents=True, exist_ok=True)
        self.users = {ALICE: "alice", BOB: "bob"}
        self.read_only = {READER: "alice"}
        self.repos, self.collections, self.faults, self.requests = {}, {}, [], []
        self.hardware, self.jobs = {}, {}
        self.job_output, self.job_ends, self.job_message = [], "COMPLETED", None
        self.lock = threading.Lock()

    def fail(self, pattern, status=500, *, method="", times=1, after=0, headers=None):
        """Answer the next `times` requests whose METHOD and path match, after `after` of them, with `status`.

        `status` may also be "cut" (the body ends early), "slow" (the answer takes 3 seconds) or "lost" (the work is
        done, but the answer is a 500). The returned fault's `times` are those still to come.
        """
        self.faults.append(Fault(method, pattern, status, times, after, headers or {}))
        return self.faults[-1]

    def repo(self, identifier, kind="model"):
        return self.repos[kind, identifier]

    def files(self, identifier, revision="main", kind="model"):
        """path -> bytes of a repository."""
        found = self.repo(identifier, kind).find(revision).files
        return {path: (self.root / blob.sha256).read_bytes() for path, blob in found.items()}

    def sent(self, pattern, method=""):
        """The (method, path, status, request bytes) of the requests that match."""
        return [row for row in self.requests if row[0].startswith(method) and re.search(pattern, row[1])]

    def put(self, identifier, files, *, title="by hand", kind="model", ref="main", private=False):
        """Make a commit as somebody on the website would: path -> bytes, None to delete."""
        repo = self.repos.setdefault((kind, identifier), Repo(identifier, kind, private))
        head = repo.commits.get(repo.branches.get(ref))
        new = {
            **(head.files if head else {}),
            **{path: data and self.store(data, path) for path, data in files.items()},
        }
        return repo.add(title, {p: b for p, b in new.items() if b}, parent=head and head.id, ref=ref).id

    def store(self, data, path):
        lfs = path.endswith(LFS_SUFFIXES) or len(data) > LFS_BYTES
        sha256 = hashlib.sha256(data).hexdigest()
        (self.root / sha256).write_bytes(data)
        sha1 = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        return Blob(sha256=sha256, sha1=sha1, size=len(data), lfs=lfs)

    # -- serving ------------------------------------------------------------------------------------------------------

    @contextmanager
    def running(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
        methods = ["GET", "HEAD", "POST", "PUT", "DELETE"]
        app = Starlette(routes=[Route("/{path:path}", self.answer, methods=methods)])
        server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        self.url = f"http://127.0.0.1:{port}"
        try:
            yield self
        finally:
            server.should_exit = True
            thread.join(timeout=10)

    async def answer(self, request):
        path = request.scope["raw_path"].decode().partition("?")[0]
        body = await request.body()
        try:
            response = await self.respond(request, path, body)
        except Refused as error:
            headers = {"X-Error-Message": error.message}
            if error.code:
                headers["X-Error-Code"] = error.code
            response = JSONResponse({"error": error.message}, status_code=error.status, headers=headers)
        # A FileResponse answers a range with 206 once it is sent.
        status = 206 if response.status_code == 200 and "range" in request.headers else response.status_code
        self.requests.append((request.method, path, status, len(body)))
        return response

    async def respond(self, request, path, body):
        fault = self.fault(request.method, path)
        if fault is None:
            return self.work(request, path, body)
        status, headers = fault
        if status == "lost":
            self.work(request, path, body)
            status = 500
        if status == "slow":
            await anyio.sleep(3)
            return self.work(request, path, body)
        if status == "cut":
            return Response(b"", headers={"Content-Length": "100"})
        headers = {"X-Error-Message": f"injected {status}", **headers}
        body = {"error": f"injected {status}", "url": f"{self.url}/injected/{status}"}
        return JSONResponse(body, status_code=status, headers=headers)

    def fault(self, method, path):
        for fault in self.faults:
            if fault.times and method.startswith(fault.method) and re.search(fault.pattern, path):
                if fault.after:
                    fault.after -= 1
                    continue
                fault.times -= 1
                return fault.status, fault.headers
        return None

    def work(self, request, path, body):
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        user = self.users.get(token) or self.read_only.get(token)
        if token and user is None:
            raise Refused(401, "Invalid credentials in Authorization header")
        for method, pattern, function in ROUTES:
            found = re.fullmatch(pattern, path)
            if found and request.method in method:
                parts = {key: unquote(value) for key, value in found.groupdict().items() if value is not None}
                call = Call(self, request, body, user, token in self.read_only, parts)
                with self.lock:
                    return function(call, **{key: value for key, value in parts.items() if key not in ("kind", "id")})
        raise Refused(404, f"no such page: {request.method} {path}")


@dataclass
class Call:
    """One request: who asks, with what, about which repository."""

    hub: Hub
    request: object
    body: bytes
    user: str | None
    read_only: bool
    parts: dict

    @property
    def json(self):
        return json.loads(self.body or b"{}")

    def repo(self, *, write=False):
        kind = self.parts.get("kind", "model").rstrip("s/")
        found = self.hub.repos.get((kind, self.parts["id"]))
        mine = found is not None and found.id.split("/")[0] == self.user
        if found is None or (found.private and not mine):
            raise Refused(404, "Repository not found", "RepoNotFound")
        if found.gated and not mine and "resolve" in self.request.url.path:
            raise Refused(403, f"Access to model {found.id} is restricted.", "GatedRepo")
        if write and not self.user:
            raise Refused(401, "Invalid username or password.")
        if write and (self.read_only or (not mine and "create_pr" not in self.request.query_params)):
            raise Refused(403, "you need write access to this repository")
        return found


def whoami(call):
    if call.user is None:
        raise Refused(401, "Invalid username or password.")
    role = "read" if call.read_only else "write"
    token = {"displayName": "test", "role": role}
    return JSONResponse({"type": "user", "name": call.user, "orgs": [], "auth": {"accessToken": token}})


def create(call):
    wanted, owner = call.json, call.json.get("organization") or call.user
    if owner is None:
        raise Refused(401, "Invalid username or password.")
    if call.read_only or owner != call.user:
        raise Refused(403, f"You don't have the rights to create a {wanted.get('type', 'model')} under {owner}")
    kind, identifier = wanted.get("type", "model"), f"{owner}/{wanted['name']}"
    url = f"{call.hub.url}/{'' if kind == 'model' else kind + 's/'}{identifier}"
    if (kind, identifier) in call.hub.repos:
        return JSONResponse({"error": "You already created this repo", "url": url}, status_code=409)
    if kind == "space" and wanted.get("sdk") not in ("gradio", "docker", "static"):
        raise Refused(400, "a Space needs an sdk")
    repo = Repo(identifier, kind, private=wanted.get("visibility") == "private")
    call.hub.repos[kind, identifier] = repo
    first = {".gitattributes": b"*.safetensors filter=lfs\n"}
    if kind == "space":
        first["README.md"] = f"---\ntitle: {wanted['name']}\nemoji: 🐢\nsdk: {wanted['sdk']}\n---\n".encode()
    repo.add("initial commit", {path: call.hub.store(data, path) for path, data in first.items()})
    return JSONResponse({"url": url, "name": identifier})


def validate(call):
    errors = metadata_errors(call.json["content"], call.json.get("repoType"))
    found = [{"message": text} for text in errors]
    return JSONResponse({"errors": found, "warnings": []}, status_code=400 if errors else 200)


def preupload(call, revision):
    repo = call.repo(write=True)
    there = repo.find(revision).files
    files = [
        {
            "path": item["path"],
            "uploadMode": "lfs" if item["path"].endswith(LFS_SUFFIXES) or item["size"] > LFS_BYTES else "regular",
            "shouldIgnore": False,
            "oid": there[item["path"]].oid if item["path"] in there else None,
        }
        for item in call.json["files"]
    ]
    return JSONResponse({"files": files})


def lfs_batch(call):
    call.repo()
    objects = []
    for item in call.json["objects"]:
        row = {"oid": item["oid"], "size": item["size"]}
        if not (call.hub.root / item["oid"]).exists():
            upload = {"href": f"{call.hub.url}/lfs/{item['oid']}"}
            row["actions"] = {"upload": upload, "verify": {"href": f"{call.hub.url}/lfs/{item['oid']}/verify"}}
        objects.append(row)
    return JSONResponse({"transfer": "basic", "objects": objects})


def lfs_put(call, oid):
    if hashlib.sha256(call.body).hexdigest() != oid:
        raise Refused(400, "the content does not have this sha256")
    (call.hub.root / oid).write_bytes(call.body)
    return Response(status_code=200)


def lfs_verify(call, oid):
    path = call.hub.root / oid
    if not path.exists() or path.stat().st_size != call.json["size"]:
        raise Refused(404, "the object was not uploaded")
    return JSONResponse({})


def commit(call, revision):
    repo, pull = call.repo(write=True), "create_pr" in call.request.query_params
    head = repo.find(revision)
    files, title = dict(head.files), ""
    for line in call.body.splitlines():
        item = json.loads(line)
        key, value = item["key"], item["value"]
        if key == "header":
            title = value["summary"]
            if value.get("parentCommit") not in (None, head.id):
                raise Refused(412, "A commit has happened since. Please refresh and try again.")
        elif key == "file":
            files[value["path"]] = call.hub.store(base64.b64decode(value["content"]), value["path"])
        elif key == "lfsFile":
            stored = call.hub.root / value["oid"]
            if not stored.exists():
                raise Refused(400, f"LFS pointer pointed to a file that does not exist: {value['path']}")
            files[value["path"]] = Blob(sha256=value["oid"], sha1="", size=stored.stat().st_size, lfs=True)
        else:
            gone = value["path"].rstrip("/")
            kept = {path: blob for path, blob in files.items() if path != gone and not path.startswith(gone + "/")}
            if len(kept) == len(files):
                raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")
            files = kept
    if "README.md" in files:
        errors = metadata_errors((call.hub.root / files["README.md"].sha256).read_text(encoding="utf-8"), repo.kind)
        if errors:
            raise Refused(400, errors[0])
    ref = f"refs/pr/{len(repo.pulls) + 1}" if pull else revision
    made = repo.add(title, files, parent=head.id, ref=ref)
    answer = {"commitOid": made.id, "commitUrl": f"{call.hub.url}/{repo.id}/commit/{made.id}", "success": True}
    if pull:
        answer["pullRequestUrl"] = f"{call.hub.url}/{repo.id}/discussions/{ref.removeprefix('refs/pr/')}"
    return JSONResponse(answer)


def resolve(call, revision, path):
    repo = call.repo()
    at = repo.find(revision)
    if path not in at.files:
        raise Refused(404, "Entry not found", "EntryNotFound")
    blob = at.files[path]
    headers = {"X-Repo-Commit": at.id, "ETag": f'"{blob.oid}"', "Accept-Ranges": "bytes"}
    if blob.lfs:
        headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(blob.size)}
    return FileResponse(call.hub.root / blob.sha256, headers=headers, media_type="application/octet-stream")


def tree(call, revision, path=""):
    found, recursive = (
        call.repo().find(revision).files,
        call.request.query_params.get("recursive", "").lower() == "true",
    )
    rows = [row for row in entries(found) if not path or row["path"].startswith(f"{path}/")]
    if path and not rows:
        raise Refused(404, f"{path} does not exist on {revision}", "EntryNotFound")
    below = path.count("/") + 1 if path else 0
    return JSONResponse([row for row in rows if recursive or row["path"].count("/") == below])


def paths_info(call, revision):
    found = {row["path"]: row for row in entries(call.repo().find(revision).files)}
    asked = call.json["paths"] if call.body.startswith(b"{") else parse_qs(call.body.decode())["paths"]
    return JSONResponse([found[path] for path in asked if path in found])


def entries(files):
    """Files and the folders above them, as the Hub lists them."""
    folders = {str(folder) for path in files for folder in PurePosixPath(path).parents} - {"."}
    rows = [
        {"type": "directory", "path": path, "size": 0, "oid": hashlib.sha1(path.encode()).hexdigest()}
        for path in folders
    ]
    for path, blob in files.items():
        row = {"type": "file", "path": path, "size": blob.size, "oid": blob.oid}
        rows.append(row | ({"lfs": {"oid": blob.sha256, "size": blob.size, "pointerSize": 134}} if blob.lfs else {}))
    return sorted(rows, key=lambda row: row["path"])


def info(call, revision="main"):
    repo = call.repo()
    return JSONResponse(describe(call.hub, repo, repo.find(revision)))


def auth_check(call, write=""):
    call.repo(write=bool(write))
    return JSONResponse({})


def describe(hub, repo, at):
    card = (
        shown_metadata((hub.root / at.files["README.md"].sha256).read_text("utf-8", "replace"))
        if "README.md" in at.files
        else {}
    )
    tags = [*(card.get("tags") or []), *filter(None, [card.get("library_name"), card.get("pipeline_tag")])]
    for base in listed(card.get("base_model", [])):
        tags += [f"base_model:{base}", f"base_model:{card.get('base_model_relation', 'finetune')}:{base}"]
    tags += [f"dataset:{name}" for name in listed(card.get("datasets", []))]
    tags += [f"license:{card['license']}"] if "license" in card else []
    tags += [
        *listed(card.get("language", [])),
        *(["safetensors"] if any(p.endswith(".safetensors") for p in at.files) else []),
    ]
    dates = [item.date for item in repo.commits.values()]
    return {
        "id": repo.id, "modelId": repo.id, "author": repo.id.split("/")[0], "sha": at.id, "private": repo.private,
        "gated": "auto" if repo.gated else False, "disabled": False, "downloads": 0, "likes": 0,
        "tags": tags, "cardData": card,
        "library_name": card.get("library_name"), "pipeline_tag": card.get("pipeline_tag"),
        "createdAt": dates[0], "lastModified": dates[-1],
        "usedStorage": sum(blob.size for blob in at.files.values()),
        "siblings": [{"rfilename": path, "size": blob.size, "blobId": blob.oid} for path, blob in at.files.items()],
    }  # fmt: skip


def models(call):
    query = call.request.query_params
    found = []
    for (kind, identifier), repo in call.hub.repos.items():
        if kind != "model" or (repo.private and identifier.split("/")[0] != call.user):
            continue
        row = describe(call.hub, repo, repo.find("main"))
        wanted = [*query.getlist("filter"), *filter(None, [query.get("pipeline_tag")])]
        if not set(wanted) <= set(row["tags"]) or query.get("author") not in (None, row["author"]):
            continue
        if (query.get("search") or "").lower() in identifier.lower():
            found.append(row)
    start, limit = int(query.get("cursor", 0)), min(int(query.get("limit", 100)), 100)
    headers = {}
    if start + limit < len(found) and "limit" not in query:
        following = call.request.url.include_query_params(cursor=start + limit)
        headers["Link"] = f'<{following}>; rel="next"'
    return JSONResponse(found[start : start + limit], headers=headers)


def refs(call):
    repo = call.repo()

    def rows(names, prefix):
        return [{"name": name, "ref": f"{prefix}{name}", "targetCommit": commit} for name, commit in names.items()]

    answer = {"branches": rows(repo.branches, "refs/heads/"), "tags": rows(repo.tags, "refs/tags/"), "converts": []}
    return JSONResponse(answer | {"pullRequests": rows(repo.pulls, "")})


def branch(call, name):
    repo = call.repo(write=True)
    if name in repo.branches:
        raise Refused(409, f"Reference already exists: {name}")
    repo.branches[name] = repo.find(call.json.get("startingPoint") or "main").id
    return JSONResponse({})


def tag(call, revision):
    repo = call.repo(write=True)
    repo.tags[call.json["tag"]] = repo.find(revision).id
    return JSONResponse({})


def commits(call, revision):
    repo, rows = call.repo(), []
    at = repo.find(revision)
    while at is not None:
        rows.append({"id": at.id, "title": at.title, "message": "", "date": at.date, "authors": [{"user": "alice"}]})
        at = repo.commits.get(at.parent)
    return JSONResponse(rows)


def collect(call, slug):
    if slug not in call.hub.collections:
        raise Refused(404, "Collection not found")
    items = call.hub.collections[slug]
    item = call.json["item"]
    if item["id"] in [row["id"] for row in items]:
        raise Refused(409, "Item already in collection")
    items.append({"_id": str(len(items)), "id": item["id"], "type": item["type"], "position": len(items)})
    return JSONResponse(collection(call, slug))


def collection(call, slug):
    return {
        "slug": slug, "title": slug, "owner": {"name": call.user}, "items": call.hub.collections[slug], "theme": "blue",
        "lastUpdated": "2025-01-01T00:00:00.000Z", "position": 0, "private": False, "upvotes": 0,
    }  # fmt: skip


def get_collection(call, slug):
    return JSONResponse(collection(call, slug))


REVISION = r"(?P<revision>[^/]+)"
ROUTES = [
    ("GET", r"/api/whoami-v2", whoami),
    ("POST", r"/api/repos/create", create),
    ("POST", r"/api/validate-yaml", validate),
    ("GET", r"/api/models", models),
    ("GET", API, info),
    ("GET", rf"{API}/auth-check(?P<write>/write)?", auth_check),
    ("GET", rf"{API}/revision/{REVISION}", info),
    ("GET", rf"{API}/tree/{REVISION}(/(?P<path>.+))?", tree),
    ("POST", rf"{API}/paths-info/{REVISION}", paths_info),
    ("GET", rf"{API}/commits/{REVISION}", commits),
    ("POST", rf"{API}/preupload/{REVISION}", preupload),
    ("POST", rf"{API}/commit/{REVISION}", commit),
    ("GET", rf"{API}/refs", refs),
    ("POST", rf"{API}/branch/(?P<name>[^/]+)", branch),
    ("POST", rf"{API}/tag/{REVISION}", tag),
    ("POST", rf"/(?P<kind>datasets/|spaces/)?{ID}\.git/info/lfs/objects/batch", lfs_batch),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", lfs_put),
    ("POST", r"/lfs/(?P<oid>[0-9a-f]{64})/verify", lfs_verify),
    ("GET HEAD", rf"/(?P<kind>datasets/|spaces/)?{ID}/resolve/{REVISION}/(?P<path>.+)", resolve),
    ("GET", r"/api/collections/(?P<slug>.+)", get_collection),
    ("POST", r"/api/collections/(?P<slug>.+)/items", collect),
]
