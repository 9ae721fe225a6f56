"""A stand-in for the server of W&B: GraphQL, file stream and upload of files, as far as training runs use them.

The queries are those of the program wandb-core of W&B 0.31, whose binary file contains their text.
"""

import base64
import hashlib
import json
from typing import Any

from tests.support.local_server import LocalServer, Request, Response

ENTITY = "lab"


class Run:
    """A run on the server. ``history``: logged values by step; ``files``: uploaded files."""

    def __init__(self, name: str, project: str) -> None:
        self.name, self.project = name, project
        self.config: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}
        self.host = ""
        self.lines: dict[str, list[str]] = {}
        self.files: dict[str, bytes] = {}
        self.exit_code: int | None = None
        self.inputs: list[str] = []
        self.outputs: list[str] = []

    @property
    def history(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines.get("wandb-history.jsonl", [])]

    def values(self, key: str) -> list[Any]:
        """All values that were logged as ``key``."""
        return [step[key] for step in self.history if key in step]


class WandbServer(LocalServer):
    """Runs and artifacts that were sent. With ``key``, other API keys are refused."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = key
        self.runs: dict[str, Run] = {}
        self.artifacts: dict[str, dict[str, Any]] = {}

    def refuse(self, status: int) -> Response:
        return Response({"data": None, "errors": [{"message": "refused by the stand-in server"}]}, status)

    def describe(self, request: Request) -> str:
        operation = request.json().get("query", "") if request.path == "/graphql" else ""
        return f"{request.method} {request.path} {operation[:80]}"

    def respond(self, request: Request) -> Response:
        if request.path.startswith("/storage/"):  # signed addresses need no key
            return self._receive_file(request)
        _, _, credentials = request.headers.get("Authorization", "").partition(" ")
        if base64.b64decode(credentials).decode() != f"api:{self.key}":
            return self.refuse(401)
        if request.path == "/graphql":
            given = request.json()
            variables = given.get("variables") or {}
            operation = given["query"].split("(")[0].split("{")[0].split()[-1]
            return Response({"data": getattr(self, f"_{operation}")(variables)})
        if request.path.endswith("/file_stream"):
            return self._receive_stream(request)
        raise NotImplementedError(f"{request.method} {request.path}")

    def _receive_stream(self, request: Request) -> Response:
        run, given = self.runs[request.path.split("/")[-2]], request.json()
        for name, part in given.get("files", {}).items():
            lines = run.lines.setdefault(name, [])
            lines[part["offset"] : part["offset"] + len(part["content"])] = part["content"]
        if "wandb-summary.json" in given.get("files", {}):
            run.summary = json.loads(given["files"]["wandb-summary.json"]["content"][-1])
        if given.get("complete"):
            run.exit_code = given["exitcode"]
        return Response({"exitcode": None, "limits": {}})

    def _receive_file(self, request: Request) -> Response:
        _, _, kind, owner, name = request.path.split("/", 4)
        (self.runs[owner].files if kind == "run" else self.artifacts[owner]["files"])[name] = request.body
        return Response()

    def _ServerFeaturesQuery(self, given: dict[str, Any]) -> Any:
        return {"serverInfo": {"features": []}}

    def _Viewer(self, given: dict[str, Any]) -> Any:
        teams = {"edges": [{"node": {"name": ENTITY}}]}
        return {
            "viewer": {"id": "user", "entity": ENTITY, "username": "user", "email": "", "flags": "{}", "teams": teams}
        }

    def _RunResumeStatus(self, given: dict[str, Any]) -> Any:
        run = self.runs.get(given["name"])
        bucket = None if run is None else self._bucket(run)
        return {"model": {"id": "p", "name": given["project"], "entity": {"id": "e", "name": ENTITY}, "bucket": bucket}}

    def _bucket(self, run: Run) -> dict[str, Any]:
        config = {key: {"value": value} for key, value in run.config.items()}
        history, events = (run.lines.get(f"wandb-{name}.jsonl", []) for name in ("history", "events"))
        return {
            "id": run.name,
            "name": run.name,
            "displayName": run.name,
            "summaryMetrics": json.dumps(run.summary),
            "logLineCount": 0,
            "historyLineCount": len(history),
            "eventsLineCount": len(events),
            "historyTail": json.dumps(history[-1:]),
            "eventsTail": json.dumps(events[-1:]),
            "config": json.dumps(config),
            "tags": [],
            "notes": None,
            "wandbConfig": json.dumps({"t": 1}),
        }

    def _UpsertBucket(self, given: dict[str, Any]) -> Any:
        name = given["name"]
        is_new = name not in self.runs
        run = self.runs.setdefault(name, Run(name, given["project"]))
        if given.get("host") is not None:
            run.host = given["host"]
        if given.get("config"):
            run.config = {key: entry["value"] for key, entry in json.loads(given["config"]).items()}
        if given.get("summaryMetrics"):
            run.summary = json.loads(given["summaryMetrics"])
        project = {"id": "p", "name": run.project, "entity": {"id": "e", "name": ENTITY}}
        bucket = {**self._bucket(run), "description": "", "sweepName": None, "project": project}
        return {"upsertBucket": {"bucket": bucket, "inserted": is_new}}

    def _CreateRunFiles(self, given: dict[str, Any]) -> Any:
        files = [
            {"name": name, "uploadUrl": f"{self.url}/storage/run/{given['run']}/{name}"} for name in given["files"]
        ]
        return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}

    def _CreateArtifact(self, given: dict[str, Any]) -> Any:
        given = given["input"]
        name = (
            given["artifactCollectionName"]
            if "artifactCollectionName" in given
            else given["artifactCollectionNames"][0]
        )
        identity = f"{name}-{given['digest']}"
        found = self.artifacts.setdefault(identity, {"files": {}, "state": "PENDING", **given, "name": name})
        if given.get("runName"):
            self.runs[given["runName"]].outputs.append(name)
        sequence = {"id": name, "latestArtifact": None}
        return {"createArtifact": {"artifact": {"id": identity, "state": found["state"], "artifactSequence": sequence}}}

    def _CreateArtifactManifest(self, given: dict[str, Any]) -> Any:
        url = f"{self.url}/storage/artifact/{given['artifactID']}/{given['name']}"
        file = {"id": "f", "uploadUrl": url, "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": given["artifactID"], "file": file}}}

    def _UpdateArtifactManifest(self, given: dict[str, Any]) -> Any:
        url = f"{self.url}/storage/artifact/{given['artifactManifestID']}/wandb_manifest.json"
        file = {"id": "f", "uploadUrl": url, "uploadHeaders": []}
        return {"updateArtifactManifest": {"artifactManifest": {"id": given["artifactManifestID"], "file": file}}}

    def _CreateArtifactFiles(self, given: dict[str, Any]) -> Any:
        edges = []
        for file in given["input"]["artifactFiles"]:
            path = f"artifact/{file['artifactID']}/{file['name']}"
            node = {"storagePath": path, "uploadUrl": f"{self.url}/storage/{path}", "uploadHeaders": []}
            edges.append({"node": {**node, "uploadMultipartUrls": None, "artifact": {"id": file["artifactID"]}}})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _CommitArtifact(self, given: dict[str, Any]) -> Any:
        found = self.artifacts[given["artifactID"]]
        found["state"] = "COMMITTED"
        return {"commitArtifact": {"artifact": {"id": given["artifactID"], "digest": found["digest"]}}}

    def _ArtifactType(self, given: dict[str, Any]) -> Any:
        return {"project": {"artifact": None}}

    def _ArtifactByID(self, given: dict[str, Any]) -> Any:
        found = self.artifacts[given["id"]]
        project = {"id": "p", "internalId": "p", "name": found["projectName"], "entity": {"name": ENTITY}}
        collection = {"__typename": "ArtifactSequence", "name": found["name"], "project": project}
        fields = {
            "__typename": "Artifact",
            "id": given["id"],
            "artifactSequence": collection,
            "versionIndex": 0,
            "artifactType": {"name": found["artifactTypeName"]},
            "description": None,
            "metadata": found["metadata"],
            "ttlDurationSeconds": 0,
            "ttlIsInherited": True,
            "tags": [],
            "historyStep": None,
            "state": found["state"],
            "size": 0,
            "digest": found["digest"],
            "commitHash": None,
            "fileCount": 1,
            "createdAt": "2026-01-01T00:00:00",
            "updatedAt": None,
            "aliases": [],
        }
        return {"artifact": fields}

    def _UseArtifact(self, given: dict[str, Any]) -> Any:
        given = given["input"]
        self.runs[given["runName"]].inputs.append(self.artifacts[given["artifactID"]]["name"])
        return {"useArtifact": {"artifact": {"id": given["artifactID"]}}}


def digest_of(content: bytes) -> str:
    """MD5 in base64, the format of digests in W&B manifests."""
    return base64.b64encode(hashlib.md5(content).digest()).decode()
