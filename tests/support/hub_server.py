# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""A small Hub for tests: the part of its HTTP API that huggingface_hub uses to push and load a model, on loopback.

    python tests/support/hub_server.py FOLDER

prints its address and serves until it is ended. Repositories lie in FOLDER: repos.json has the commits, blobs/ the
contents by their hash. Files of LFS_THRESHOLD bytes or more take the LFS way, in parts of PART_SIZE bytes. The storage
client `hf_xet` has a protocol of its own, so clients run with HF_HUB_DISABLE_XET=1.

Tokens: "writer" may write, "reader" may read private repositories, any other one is not valid.

Faults, for tests of interruptions: a POST to /_test/faults with a list of
`{"method": "PUT", "path": "/lfs/", "skip": 2, "times": 1, "status": 403}` makes the third request whose method is PUT
and whose path has /lfs/ in it fail with this status; "status": "drop" reads "after_bytes" of the body and cuts the
connection, "status": "slow" waits ten seconds first. /_test/requests lists all requests so far.
"""

import base64
import hashlib
import json
import re
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml


LFS_THRESHOLD = 1 << 20
PART_SIZE = 4 << 20
CHUNK = 1 << 16
WRITERS, READERS = {"writer"}, {"writer", "reader"}
MODEL = r"/(?P<repo>[\w.-]+/[\w.-]+)"
REVISION = r"/(?P<revision>[^/]+)"

ROUTES: list[tuple[str, re.Pattern, Callable]] = []


def route(method: str, pattern: str):
    def register(function: Callable) -> Callable:
        ROUTES.append((method, re.compile(pattern), function))
        return function

    return register


class ApiError(Exception):
    def __init__(self, status: int, message: str, code: str = ""):
        self.status, self.message, self.code = status, message, code


class Storage:
    """Repositories in memory and in a folder, which a new server on the same folder goes on with."""

    def __init__(self, folder: Path):
        self.blobs, self.parts = folder / "blobs", folder / "parts"
        self.blobs.mkdir(parents=True, exist_ok=True)
        self.parts.mkdir(exist_ok=True)
        self.index = folder / "repos.json"
        self.repos: dict[str, Any] = json.loads(self.index.read_text()) if self.index.is_file() else {}
        self.faults: list[dict[str, Any]] = []
        self.requests: list[dict[str, Any]] = []
        self.lock = threading.Lock()

    def commit(self, repo: str, title: str, files: dict[str, Any]) -> str:
        commits = self.repos[repo]["commits"]
        oid = hashlib.sha1(json.dumps([len(commits), repo, title, files], sort_keys=True).encode()).hexdigest()
        commits.append({"oid": oid, "title": title, "files": files})
        self.index.write_text(json.dumps(self.repos))
        return oid

    def take_fault(self, method: str, path: str) -> dict[str, Any] | None:
        with self.lock:
            for fault in self.faults:
                if fault["method"] == method and fault["path"] in path and fault["times"] > 0:
                    if fault.get("skip", 0) > 0:
                        fault["skip"] -= 1
                        continue
                    fault["times"] -= 1
                    return fault
        return None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "HubServer"

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        try:
            self._serve()
        except (BrokenPipeError, ConnectionResetError):  # the client is gone
            self.close_connection = True

    do_GET = do_POST = do_PUT = do_HEAD

    def _serve(self):
        self.received = 0
        self.path = unquote(self.path)
        path = urlsplit(self.path).path
        record = {"method": self.command, "path": path, "status": 0, "bytes": 0}
        self.server.storage.requests.append(record)
        fault = None if path.startswith("/_test") else self.server.storage.take_fault(self.command, path)
        if fault and fault["status"] == "slow":
            time.sleep(10)
        elif fault and fault["status"] == "drop":
            self._read_body(fault.get("after_bytes", 0))
            record |= {"status": "drop", "bytes": self.received}
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        elif fault:
            self._read_body()
            record["status"] = fault["status"]
            self._send(fault["status"], b"injected", {"X-Error-Message": "injected"})
            return
        try:
            for method, pattern, function in ROUTES:
                match = pattern.fullmatch(path)
                if match and method in (self.command, {"HEAD": "GET"}.get(self.command)):
                    status, body, headers = function(self, **match.groupdict())
                    break
            else:
                raise ApiError(404, f"no such route: {self.command} {path}", "EntryNotFound")
        except ApiError as error:
            self._read_body()
            status, body = error.status, json.dumps({"error": error.message}).encode()
            headers = {"X-Error-Message": error.message} | ({"X-Error-Code": error.code} if error.code else {})
        record |= {"status": status, "bytes": self.received}
        self._send(status, body, headers)

    def _send(self, status: int, body: bytes | Path, headers: dict[str, str]):
        self.send_response(status)
        length = body.stat().st_size if isinstance(body, Path) else len(body)
        begin = 0
        if isinstance(body, Path) and (match := re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))):
            begin = int(match[1])
            headers = headers | {"Content-Range": f"bytes {begin}-{length - 1}/{length}"}
        for name, value in ({"Content-Type": "application/json"} | headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length - begin))
        self.end_headers()
        if self.command == "HEAD":
            return
        if isinstance(body, Path):
            with open(body, "rb") as file:
                file.seek(begin)
                shutil.copyfileobj(file, self.wfile)
        else:
            self.wfile.write(body)

    def _chunks(self):
        """The body of the request, with a length or in HTTP chunks."""
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            left = int(self.headers.get("Content-Length", 0))
            while left and (chunk := self.rfile.read(min(left, CHUNK))):
                left -= len(chunk)
                yield chunk

    def _read_body(self, at_most: float = float("inf"), target=None) -> bytes:
        kept = []
        if self.received:
            return b""
        for chunk in self._chunks():
            self.received += len(chunk)
            if target:
                target.write(chunk)
            else:
                kept.append(chunk)
            if self.received > at_most:
                break
        return b"".join(kept)

    def json(self) -> Any:
        return json.loads(self._read_body() or b"{}")

    def repo(self, name: str, *, write: bool = False) -> dict[str, Any]:
        """
        Raises:
            ApiError: 401, 403 or 404, as the Hub answers.
        """
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        self.check_token(token)
        repo = self.server.storage.repos.get(name)
        if repo is None or (repo["private"] and token not in READERS):
            raise ApiError(404 if token else 401, "Repository not found", "RepoNotFound")
        if write:
            self.check_writer()
        return repo

    def check_token(self, token: str):
        if token and token not in READERS:
            raise ApiError(401, "Invalid credentials in Authorization header")

    def check_writer(self):
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        self.check_token(token)
        if not token:
            raise ApiError(401, "Invalid username or password.")
        if token not in WRITERS:
            raise ApiError(403, "You don't have the rights to write here")

    def files(self, name: str, revision: str) -> tuple[str, dict[str, Any]]:
        commits = self.repo(name)["commits"]
        for commit in reversed(commits):
            if revision in ("main", commit["oid"]):
                return commit["oid"], commit["files"]
        raise ApiError(404, f"Invalid rev id: {revision}", "RevisionNotFound")


class HubServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), Handler)
        self.storage = Storage(folder)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.storage_url = f"http://localhost:{self.server_port}/cdn"  # another host name, as on the Hub


def ok(value: Any, status: int = 200) -> tuple[int, bytes, dict[str, str]]:
    return status, json.dumps(value).encode(), {}


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@route("POST", "/_test/faults")
def set_faults(request):
    request.server.storage.faults = request.json()
    return ok({})


@route("GET", "/_test/requests")
def list_requests(request):
    return ok(request.server.storage.requests[:-1])


@route("GET", "/api/whoami-v2")
def who_am_i(request):
    request.check_writer()
    return ok({"type": "user", "name": "org", "orgs": [], "auth": {"type": "access_token"}})


@route("POST", "/api/repos/create")
def create_repo(request):
    asked = request.json()
    request.check_writer()
    storage = request.server.storage
    name = f"{asked.get('organization') or 'org'}/{asked['name']}"
    answer = {"url": f"{request.server.url}/{name}", "name": name, "id": name}
    if name in storage.repos:
        return ok(answer | {"error": "You already created this model repo"}, 409)
    private = asked.get("visibility") == "private" or bool(asked.get("private"))
    with storage.lock:
        storage.repos[name] = {"private": private, "commits": []}
        storage.commit(name, "initial commit", {})
    return ok(answer)


@route("POST", "/api/validate-yaml")
def validate_yaml(request):
    content = request.json()["content"]
    match = re.match(r"---\n(.*?)\n---(\n|$)", content, re.DOTALL)
    data = yaml.safe_load(match[1]) if match else {}
    wrong = [key for key in ("license", "pipeline_tag") if not isinstance(data.get(key, ""), str)]
    errors = [{"message": f"{key} must be a string"} for key in wrong]
    return ok({"errors": errors, "warnings": []}, 400 if wrong else 200)


def model_info(request, repo, revision="main"):
    oid, files = request.files(repo, revision)
    siblings = [{"rfilename": name} for name in files]
    private = request.repo(repo)["private"]
    return ok({"_id": oid, "id": repo, "modelId": repo, "sha": oid, "private": private, "siblings": siblings})


route("GET", f"/api/models{MODEL}")(model_info)
route("GET", f"/api/models{MODEL}/revision{REVISION}")(model_info)


@route("GET", f"/api/models{MODEL}/tree{REVISION}(/(?P<folder>.*))?")
def list_tree(request, repo, revision, folder=None):
    _, files = request.files(repo, revision)
    entries = []
    for name, file in files.items():
        if folder and not name.startswith(f"{folder}/"):
            continue
        entry = {"type": "file", "path": name, "size": file["size"], "oid": file["oid"][:40]}
        if file["lfs"]:
            entry["lfs"] = {"oid": file["oid"], "size": file["size"], "pointerSize": 130}
        entries.append(entry)
    if folder and not entries:
        raise ApiError(404, f"{folder} does not exist", "EntryNotFound")
    return ok(entries)


@route("POST", f"/api/models{MODEL}/preupload{REVISION}")
def preupload(request, repo, revision):
    asked = request.json()["files"]
    request.repo(repo, write=True)
    _, files = request.files(repo, revision)
    return ok(
        {
            "files": [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["size"] >= LFS_THRESHOLD else "regular",
                    "shouldIgnore": False,
                    "oid": files.get(file["path"], {}).get("oid"),
                }
                for file in asked
            ]
        }
    )


@route("POST", f"{MODEL}.git/info/lfs/objects/batch")
def lfs_batch(request, repo):
    asked = request.json()["objects"]
    request.repo(repo, write=True)
    objects = []
    for entry in asked:
        oid, size = entry["oid"], entry["size"]
        answer: dict[str, Any] = {"oid": oid, "size": size}
        if not (request.server.storage.blobs / oid).is_file():
            base = f"{request.server.url}/lfs/{oid}"
            upload: dict[str, Any] = {"href": f"{base}/whole"}
            if size > PART_SIZE:
                parts = range(1, -(-size // PART_SIZE) + 1)
                header = {"chunk_size": str(PART_SIZE)} | {f"{part:05}": f"{base}/{part}" for part in parts}
                upload = {"href": f"{base}/complete", "header": header}
            verify = {"href": f"{request.server.url}/{repo}.git/info/lfs/verify"}
            answer["actions"] = {"upload": upload, "verify": verify}
        objects.append(answer)
    return ok({"transfer": "multipart", "objects": objects})


@route("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})/(?P<part>\d+|whole)")
def lfs_put(request, oid, part):
    path = request.server.storage.parts / f"{oid}.{part}"
    with open(path, "wb") as file:
        request._read_body(target=file)
    if part == "whole":
        _keep_blob(request.server.storage, oid, [path])
    return 200, b"", {"ETag": f'"{part}"'}


@route("POST", r"/lfs/(?P<oid>[0-9a-f]{64})/complete")
def lfs_complete(request, oid):
    parts = request.json()["parts"]
    if any(part["etag"] != f'"{part["partNumber"]}"' for part in parts):
        raise ApiError(400, "wrong etag")
    storage = request.server.storage
    _keep_blob(storage, oid, [storage.parts / f"{oid}.{part['partNumber']}" for part in parts])
    return ok({})


def _keep_blob(storage: Storage, oid: str, parts: list[Path]) -> None:
    whole = storage.parts / f"{oid}.joined"
    digest = hashlib.sha256()
    with open(whole, "wb") as target:
        for part in parts:
            content = part.read_bytes()
            digest.update(content)
            target.write(content)
            part.unlink()
    if digest.hexdigest() != oid:
        raise ApiError(400, "the content does not have this hash")
    whole.rename(storage.blobs / oid)


@route("POST", f"{MODEL}.git/info/lfs/verify")
def lfs_verify(request, repo):
    asked = request.json()
    path = request.server.storage.blobs / asked["oid"]
    if not path.is_file() or path.stat().st_size != asked["size"]:
        raise ApiError(404, "not uploaded")
    return ok({})


@route("POST", f"/api/models{MODEL}/commit{REVISION}")
def commit(request, repo, revision):
    lines = [json.loads(line) for line in request._read_body().splitlines()]
    request.repo(repo, write=True)
    storage = request.server.storage
    title = ""
    with storage.lock:
        files = dict(request.files(repo, revision)[1])
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                title = value["summary"]
            elif line["key"] == "file":
                content = base64.b64decode(value["content"])
                oid = git_oid(content)
                (storage.blobs / oid).write_bytes(content)
                files[value["path"]] = {"oid": oid, "size": len(content), "lfs": False}
            elif line["key"] == "lfsFile":
                if not (storage.blobs / value["oid"]).is_file():
                    raise ApiError(400, f"{value['path']} was not uploaded")
                files[value["path"]] = {"oid": value["oid"], "size": value["size"], "lfs": True}
            elif files.pop(value["path"], None) is None:  # deletedFile
                raise ApiError(404, "A file with this name doesn't exist", "EntryNotFound")
        oid = storage.commit(repo, title, files)
    return ok({"success": True, "commitOid": oid, "commitUrl": f"{request.server.url}/{repo}/commit/{oid}"})


@route("GET", f"{MODEL}/resolve{REVISION}/(?P<name>.+)")
def resolve(request, repo, revision, name):
    oid, files = request.files(repo, revision)
    if name not in files:
        raise ApiError(404, f"{name} is not there", "EntryNotFound")
    file = files[name]
    headers = {"X-Repo-Commit": oid, "ETag": f'"{file["oid"]}"', "Content-Type": "application/octet-stream"}
    if not file["lfs"]:
        return 200, request.server.storage.blobs / file["oid"], headers
    linked = {"X-Linked-ETag": f'"{file["oid"]}"', "X-Linked-Size": str(file["size"])}
    location = f"{request.server.storage_url}/{file['oid']}"
    return 302, b"", headers | linked | {"Location": location}


@route("GET", "/cdn/(?P<oid>[0-9a-f]{64})")
def cdn(request, oid):
    status = 206 if "Range" in request.headers else 200
    return status, request.server.storage.blobs / oid, {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"}


if __name__ == "__main__":
    server = HubServer(Path(sys.argv[1]))
    print(server.url, flush=True)
    server.serve_forever()
