"""A stand-in for the Hugging Face hub: repositories, commits, large files (LFS) and downloads.

The requests are those of huggingface_hub 2.4 without Xet (HF_HUB_DISABLE_XET=1).
"""

import base64
import hashlib
import json
import re
from typing import Any

import pytest
from huggingface_hub import constants

from tests.support.local_server import LocalServer, Request, Response

LARGE = (".safetensors", ".mp4", ".avi", ".png")
"""Endings of files that the hub stores with LFS."""


class Repository:
    """``commits``: files by commit; ``references``: commits by branch and tag."""

    def __init__(self, is_private: bool) -> None:
        self.is_private = is_private
        self.commits: dict[str, dict[str, bytes]] = {"0" * 40: {}}
        self.references = {"main": "0" * 40}

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.references["main"]]

    def resolve(self, revision: str) -> str | None:
        commit = self.references.get(revision, revision)
        return commit if commit in self.commits else None


class HubServer(LocalServer):
    """Repositories by type and name. Requests without the ``token`` are refused, also to read."""

    def __init__(self, token: str) -> None:
        super().__init__()
        self.token = token
        self.repositories: dict[str, Repository] = {}
        self.large_files: dict[str, bytes] = {}

    def refuse(self, status: int) -> Response:
        return Response(
            {"error": "refused by the stand-in server"}, status, {"X-Error-Message": "refused by the server"}
        )

    def respond(self, request: Request) -> Response:
        path = request.path
        if path.startswith("/lfs/"):  # signed addresses need no token
            self.large_files[path.removeprefix("/lfs/")] = request.body
            return Response()
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            message = {"X-Error-Message": "Invalid credentials in Authorization header"}
            return Response({"error": "Invalid credentials in Authorization header"}, 401, message)
        if path == "/api/repos/create":
            return self._create(request.json())
        if path == "/api/validate-yaml":
            return Response({"errors": [], "warnings": []})
        if found := re.fullmatch(r"/(datasets/)?([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", path):
            return self._describe_upload(request.json())
        if found := re.fullmatch(r"/(datasets/)?([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", path):
            repository = self.repositories[f"{(found[1] or 'models/')}{found[2]}"]
            return self._send_file(repository, found[3], found[4])
        found = re.fullmatch(r"/api/((?:datasets|models)/[\w.-]+/[\w.-]+)(?:/(\w+)/(.+))?", path)
        if found is None:
            raise NotImplementedError(f"{request.method} {path}")
        name, action, revision = found.groups()
        if name not in self.repositories:
            return Response({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        repository = self.repositories[name]
        commit = repository.resolve(revision or "main")
        if commit is None:
            return Response({"error": "Invalid rev id"}, 404, {"X-Error-Code": "RevisionNotFound"})
        if action == "preupload":
            return self._choose_modes(repository, request.json())
        if action == "commit":
            return self._commit(name, repository, request.body)
        if action == "tree":
            return Response([self._entry(path, content) for path, content in repository.commits[commit].items()])
        siblings = [{"rfilename": path} for path in repository.commits[commit]]
        facts = {"id": name.partition("/")[2], "sha": commit, "private": repository.is_private, "siblings": siblings}
        return Response({**facts, "tags": [], "downloads": 0, "likes": 0})

    def _create(self, given: dict[str, Any]) -> Response:
        name = f"{given['organization']}/{given['name']}"
        key = f"{given['type']}s/{name}"
        url = f"{self.url}/{name if given['type'] == 'model' else key}"
        if key in self.repositories:
            return Response({"error": "You already created this repo", "url": url}, 409)
        self.repositories[key] = Repository(given["visibility"] == "private")
        return Response({"url": url, "name": name})

    def _choose_modes(self, repository: Repository, given: dict[str, Any]) -> Response:
        files = []
        for file in given["files"]:
            path, held = file["path"], repository.files.get(file["path"])
            mode = "lfs" if path.endswith(LARGE) else "regular"
            entry = {"path": path, "uploadMode": mode, "shouldIgnore": False}
            files.append(entry if held is None else {**entry, "oid": _object_id(path, held)})
        return Response({"files": files})

    def _describe_upload(self, given: dict[str, Any]) -> Response:
        objects = []
        for file in given["objects"]:
            upload = {"upload": {"href": f"{self.url}/lfs/{file['oid']}", "header": {}}}
            objects.append(file if file["oid"] in self.large_files else {**file, "actions": upload})
        return Response({"objects": objects, "transfer": "basic"})

    def _commit(self, name: str, repository: Repository, body: bytes) -> Response:
        files = dict(repository.files)
        for line in body.decode().splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                content = self.large_files[value["oid"]]
                assert (hashlib.sha256(content).hexdigest(), len(content)) == (value["oid"], value["size"])
                files[value["path"]] = content
            elif item["key"] == "deletedFile":
                del files[value["path"]]
        commit = hashlib.sha1(body + self.url.encode() + bytes(len(repository.commits))).hexdigest()
        repository.commits[commit], repository.references["main"] = files, commit
        page = name.removeprefix("models/")
        return Response({"commitUrl": f"{self.url}/{page}/commit/{commit}", "commitOid": commit, "success": True})

    def _entry(self, path: str, content: bytes) -> dict[str, Any]:
        entry = {"type": "file", "path": path, "size": len(content), "oid": _git_id(content)}
        if path.endswith(LARGE):
            entry["lfs"] = {"oid": _object_id(path, content), "size": len(content), "pointerSize": 130}
        return entry

    def _send_file(self, repository: Repository, revision: str, path: str) -> Response:
        commit = repository.resolve(revision)
        assert commit is not None
        content = repository.commits[commit][path]
        return Response(content, headers={"ETag": f'"{_object_id(path, content)}"', "X-Repo-Commit": commit})


def _git_id(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


def _object_id(path: str, content: bytes) -> str:
    return hashlib.sha256(content).hexdigest() if path.endswith(LARGE) else _git_id(content)


def use_hub(monkeypatch: pytest.MonkeyPatch, server: HubServer, cache: str) -> None:
    """Let huggingface_hub in this process, which has read its environment already, use ``server``."""
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", cache)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
