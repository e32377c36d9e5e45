"""What the local Hub rents out: hardware of Spaces, and Jobs with their logs. Importing this adds the routes.

A Job runs nothing: a test says with `hub.job_output` what it prints and with `hub.job_ends` how it ends.
"""

import asyncio
import json

import hub_server
from hub_server import API, Refused
from starlette.responses import JSONResponse, StreamingResponse

FLAVORS = {
    "cpu-basic": ("CPU Basic", "2 vCPU", "16 GB", 0.0),
    "t4-small": ("Nvidia T4 - small", "4 vCPU", "15 GB", 0.4 / 60),
    "a10g-small": ("Nvidia A10G - small", "4 vCPU", "15 GB", 1.0 / 60),
}
NAMESPACE = r"/api/jobs/(?P<namespace>[^/]+)"
JOB = rf"{NAMESPACE}/(?P<job>job-[0-9]+)"


def offered(call):
    rows = [
        {
            "name": name, "prettyName": pretty, "cpu": cpu, "ram": ram, "accelerator": None, "unitLabel": "minute",
            "unitCostUSD": dollars, "unitCostMicroUSD": round(dollars * 1e6),
        }
        for name, (pretty, cpu, ram, dollars) in FLAVORS.items()
    ]  # fmt: skip
    return JSONResponse(rows)


def runtime(call):
    repo = call.repo()
    return JSONResponse(state(call.hub, repo.id))


def request_hardware(call):
    repo, flavor = call.repo(write=True), call.json["flavor"]
    if flavor not in (*FLAVORS, "zero-a10g"):
        raise Refused(400, f"Invalid flavor: {flavor}")
    call.hub.hardware[repo.id] = flavor
    return JSONResponse(state(call.hub, repo.id))


def state(hub, identifier):
    wanted = hub.hardware.get(identifier)
    return {"stage": "BUILDING", "hardware": {"current": None, "requested": wanted}}


def start(call, namespace):
    if call.user is None or namespace != call.user:
        raise Refused(403, f"You can't start jobs in {namespace}")
    if call.json["flavor"] not in FLAVORS:
        raise Refused(400, f"Invalid flavor: {call.json['flavor']}")
    name = f"job-{len(call.hub.jobs) + 1}"
    call.hub.jobs[name] = {"spec": call.json, "stage": "RUNNING"}
    return JSONResponse(described(call.hub, name))


def show(call, namespace, job):
    if job not in call.hub.jobs:
        raise Refused(404, "Job not found")
    return JSONResponse(described(call.hub, job))


def described(hub, name):
    job = hub.jobs[name]
    spec = job["spec"]
    return {
        "id": name, "createdAt": "2026-01-01T00:00:00.000Z", "dockerImage": spec.get("dockerImage"),
        "command": spec["command"], "arguments": spec["arguments"], "environment": spec["environment"],
        "flavor": spec["flavor"], "labels": spec.get("labels"),
        "status": {"stage": job["stage"], "message": hub.job_message if job["stage"] == "ERROR" else None},
        "owner": {"id": "1", "name": "alice", "type": "user"},
    }  # fmt: skip


def logs(call, namespace, job):
    if job not in call.hub.jobs:
        raise Refused(404, "Job not found")
    hub = call.hub

    async def lines():
        for line in ("===== Job started at 2026-01-01 =====", *hub.job_output):
            yield f"data: {json.dumps({'timestamp': '2026-01-01T00:00:00Z', 'data': line})}\n\n"
        while hub.job_ends is None:
            await asyncio.sleep(0.05)
            yield ": keep-alive\n\n"
        hub.jobs[job]["stage"] = hub.job_ends

    return StreamingResponse(lines(), media_type="text/event-stream")


def cancel(call, namespace, job):
    call.hub.jobs[job]["stage"] = "CANCELED"
    return JSONResponse({})


hub_server.ROUTES += [
    ("GET", r"/api/(spaces|jobs)/hardware", offered),
    ("GET", rf"{API}/runtime", runtime),
    ("POST", rf"{API}/hardware", request_hardware),
    ("POST", NAMESPACE, start),
    ("GET", JOB, show),
    ("GET", rf"{JOB}/logs", logs),
    ("POST", rf"{JOB}/cancel", cancel),
]
