"""A Hub on loopback: what huggingface_hub asks of the real one, kept in memory, with mistakes on request.

Files are sent as regular ones or by Git LFS in one part; Xet is a protocol of its own that is not spoken here, so
clients are told `HF_HUB_DISABLE_XET=1`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".bin", ".parquet")
KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}
_REPO = r"(?P<repo>[^/]+/[^/]+?)"
_KIND = r"(?P<kind>models|datasets|spaces)"


@dataclass(frozen=True)
class File:
    """One file of a commit.

    Args:
        content: Its bytes.
        large: Whether it is kept in the storage of large files.
    """

    content: bytes
    large: bool

    @property
    def oid(self) -> str:
        """How Git calls it."""
        text = self.pointer if self.large else self.content
        return hashlib.sha1(b"blob %d\0" % len(text) + text).hexdigest()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.large else self.oid

    @property
    def pointer(self) -> bytes:
        head = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\n"
        return f"{head}size {len(self.content)}\n".encode()


Tree = Mapping[str, File]


@dataclass
class Repo:
    """A repository: branches of commits, each a tree of files."""

    private: bool = False
    gated: bool = False
    disabled: bool = False
    trees: dict[str, Tree] = field(default_factory=dict)
    branches: dict[str, list[str]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.commit("main", {".gitattributes": File(b"*.safetensors filter=lfs\n", False)}, "initial commit")

    def commit(self, branch: str, tree: Tree, message: str) -> str:
        """Put a tree on a branch."""
        said = json.dumps([branch, len(self.trees), sorted((name, file.oid) for name, file in tree.items())])
        oid = hashlib.sha1(said.encode()).hexdigest()
        self.trees[oid], self.messages[oid] = dict(tree), message
        self.branches.setdefault(branch, []).append(oid)
        return oid

    def resolve(self, revision: str) -> str | None:
        """The commit of a branch, a tag or a commit."""
        if revision in self.branches:
            return self.branches[revision][-1]
        return revision if revision in self.trees else self.tags.get(revision)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """Names and contents on a branch, without what every repository has."""
        tree = self.trees[self.resolve(revision) or ""]
        return {name: file.content for name, file in tree.items() if name != ".gitattributes"}


@dataclass(frozen=True)
class Account:
    """Whom a token belongs to.

    Args:
        name: The user.
        role: `read`, `write` or `fineGrained`.
        orgs: Organisations with the user's role there.
        scoped: What a fine-grained token may do: entity and permissions.
    """

    name: str
    role: str = "write"
    orgs: Mapping[str, str] = field(default_factory=dict)
    scoped: tuple[tuple[str, str, tuple[str, ...]], ...] = ()

    def whoami(self) -> dict[str, Any]:
        token: dict[str, Any] = {"displayName": "a token", "role": self.role}
        if self.role == "fineGrained":
            scoped = [
                {"entity": {"type": kind, "name": name}, "permissions": list(may)} for kind, name, may in self.scoped
            ]
            token["fineGrained"] = {"global": [], "scoped": scoped}
        orgs = [{"type": "org", "name": name, "roleInOrg": role} for name, role in self.orgs.items()]
        return {
            "type": "user",
            "name": self.name,
            "orgs": orgs,
            "auth": {"type": "access_token", "accessToken": token},
        }

    def may_write(self, repo: str) -> bool:
        owner = repo.partition("/")[0]
        if self.role == "fineGrained":
            return any("repo.write" in may and name in (owner, repo) for _, name, may in self.scoped)
        member = owner == self.name or self.orgs.get(owner) in ("admin", "write", "contributor")
        return self.role == "write" and member

    def may_read(self, repo: str) -> bool:
        owner = repo.partition("/")[0]
        return owner == self.name or owner in self.orgs


@dataclass
class Fault:
    """Something that goes wrong with a request.

    Args:
        method: Of the requests.
        pattern: Found in their path.
        times: How many of them; None for all.
        status: What is answered; None: the connection is cut.
        headers: Of the answer.
        after: Whether the request is carried out first, so that only its answer is lost.
        skip: How many such requests go well first.
    """

    method: str
    pattern: str
    times: int | None = None
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    after: bool = False
    skip: int = 0

    def strikes(self, method: str, path: str) -> bool:
        if method != self.method or re.search(self.pattern, path) is None or self.times == 0:
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.times = None if self.times is None else self.times - 1
        return True


class Refused(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message or code


class Hub:
    """The server; `with Hub() as hub:` starts and ends it.

    Attributes:
        accounts: Whom each token belongs to.
        repos: Repositories by kind and name.
        objects: Large files by SHA-256, whether a commit has them or not.
        requests: Method and path of each request, in order.
        faults: What goes wrong.
        slept: How long its clients in this process have waited, in seconds.
    """

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}
        self.repos: dict[tuple[str, str], Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.faults: list[Fault] = []
        self.slept: list[float] = []
        self.lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=lambda: self._server.serve_forever(poll_interval=0.01), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Hub:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def model(self, name: str) -> Repo:
        """A repository of a model, which is there."""
        return self.repos["model", name]

    def writes(self) -> list[tuple[str, str]]:
        """Requests that ask for a change."""
        return [(method, path) for method, path in self.requests if method not in ("GET", "HEAD")]

    def fail(self, method: str, pattern: str, status: int, **more: Any) -> None:
        """Answer some requests with an error."""
        self.faults.append(Fault(method, pattern, status=status, **more))

    def cut(self, method: str, pattern: str, **more: Any) -> None:
        """Close the connection of some requests while they are on the way."""
        self.faults.append(Fault(method, pattern, **more))


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(_Handler):
        def __init__(self, *words: Any) -> None:
            self.hub = hub
            super().__init__(*words)

    return Handler


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *words: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self) -> None:
        path = urlsplit(self.path).path
        with self.hub.lock:
            self.hub.requests.append((self.command, path))
            fault = next((one for one in self.hub.faults if one.strikes(self.command, path)), None)
        if fault is not None and fault.status is None and not fault.after:
            self._cut()
            return
        body = self._body()
        if fault is not None and not fault.after:
            self._send(fault.status or 500, {"error": f"fault {fault.status}"}, fault.headers)
            return
        try:
            with self.hub.lock:
                status, answer, headers = self._routed(path, body)
        except Refused as error:
            status, answer = error.status, {"error": error.message}
            headers = {"X-Error-Code": error.code, "X-Error-Message": error.message}
        if fault is not None:
            self._cut()
        else:
            self._send(status, answer, headers)

    def _cut(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _send(self, status: int, answer: Any, headers: Mapping[str, str]) -> None:
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(content)), **headers}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    # --- what is asked -------------------------------------------------------------------------------------------

    def _account(self, *, needed: bool = True) -> Account | None:
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        if scheme == "Bearer" and token in self.hub.accounts:
            return self.hub.accounts[token]
        if scheme or needed:
            raise Refused(401, message="Invalid credentials in Authorization header")
        return None

    def _routed(self, path: str, body: bytes) -> tuple[int, Any, Mapping[str, str]]:
        for method, pattern, answer in ROUTES:
            found = re.fullmatch(pattern, path)
            if found is not None and self.command in method:
                parts = {name: unquote(part) for name, part in found.groupdict().items() if part is not None}
                given = answer(self, parts, body)
                return given if isinstance(given, tuple) else (200, given, {})
        raise Refused(404, message=f"nothing answers {self.command} {path}")

    def _repo(self, parts: Mapping[str, str], *, write: bool = False, content: bool = False) -> Repo:
        """A repository that the caller may see, as the real Hub tells the cases apart."""
        account, name = self._account(needed=write), parts["repo"]
        repo = self.hub.repos.get((KINDS.get(parts.get("kind", "models"), "model"), name))
        hidden = repo is None or (repo.private and (account is None or not account.may_read(name)))
        if repo is None or hidden:
            raise Refused(401 if account is None else 404, "RepoNotFound", "Repository not found")
        if repo.disabled:
            raise Refused(403, message="Access to this resource is disabled.")
        if repo.gated and (content or write) and (account is None or not account.may_read(name)):
            raise Refused(403, "GatedRepo", f"Access to model {name} is restricted")
        if write and (account is None or not account.may_write(name)):
            raise Refused(403, message="You don't have the rights to write here")
        return repo

    def _tree(self, repo: Repo, parts: Mapping[str, str]) -> tuple[str, Tree]:
        revision = parts.get("revision", "main")
        oid = repo.resolve(revision)
        if oid is None:
            raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return oid, repo.trees[oid]

    def whoami(self, parts: Mapping[str, str], body: bytes) -> Any:
        account = self._account()
        assert account is not None
        return account.whoami()

    def create(self, parts: Mapping[str, str], body: bytes) -> Any:
        account, asked = self._account(), json.loads(body)
        assert account is not None
        name = f"{asked.get('organization') or account.name}/{asked['name']}"
        if not account.may_write(name):
            raise Refused(403, message="You don't have the rights to create a model under this namespace")
        key = (asked.get("type") or "model", name)
        url = f"{self.hub.url}/{name}"
        if key in self.hub.repos:
            raise Refused(409, message="You already created this model repo")
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.hub.repos[key] = Repo(private=private)
        return {"url": url, "name": name}

    def info(self, parts: Mapping[str, str], body: bytes) -> Any:
        repo = self._repo(parts)
        oid, tree = self._tree(repo, parts)
        name = parts["repo"]
        return {
            "_id": "1", "id": name, "modelId": name, "author": name.partition("/")[0], "sha": oid, "tags": [],
            "private": repo.private, "gated": "manual" if repo.gated else False, "disabled": repo.disabled,
            "downloads": 0, "likes": 0, "siblings": [{"rfilename": file} for file in tree],
            "lastModified": "2025-01-01T00:00:00.000Z", "createdAt": "2025-01-01T00:00:00.000Z",
        }  # fmt: skip

    def check(self, parts: Mapping[str, str], body: bytes) -> Any:
        self._repo(parts, write="write" in parts, content=True)
        return {}

    def refs(self, parts: Mapping[str, str], body: bytes) -> Any:
        repo = self._repo(parts)
        branches = [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": oids[-1]}
            for name, oids in repo.branches.items()
        ]
        tags = [{"name": name, "ref": f"refs/tags/{name}", "targetCommit": oid} for name, oid in repo.tags.items()]
        return {"branches": branches, "tags": tags, "converts": []}

    def branch(self, parts: Mapping[str, str], body: bytes) -> Any:
        repo, name = self._repo(parts, write=True), parts["branch"]
        if name in repo.branches:
            raise Refused(409, message="Reference already exists")
        repo.branches[name] = [repo.branches["main"][-1]]
        return {}

    def tree(self, parts: Mapping[str, str], body: bytes) -> Any:
        _, tree = self._tree(self._repo(parts, content=True), parts)
        inside = parts.get("inside", "")
        found = []
        for name, file in sorted(tree.items()):
            if not name.startswith(f"{inside}/" if inside else ""):
                continue
            entry: dict[str, Any] = {"type": "file", "path": name, "oid": file.oid, "size": len(file.content)}
            if file.large:
                entry["lfs"] = {"oid": file.sha256, "size": len(file.content), "pointerSize": len(file.pointer)}
            found.append(entry)
        if inside and not found:
            raise Refused(404, "EntryNotFound", f"{inside} does not exist")
        return found

    def preupload(self, parts: Mapping[str, str], body: bytes) -> Any:
        _, tree = self._tree(self._repo(parts, write=True), parts)
        answers = []
        for asked in json.loads(body)["files"]:
            path, size = asked["path"], int(asked["size"])
            large = path.endswith(LARGE) or size > 10_000_000
            known = tree.get(path)
            answers.append(
                {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False,
                 "oid": known.etag if known is not None else None}
            )  # fmt: skip
        return {"files": answers}

    def batch(self, parts: Mapping[str, str], body: bytes) -> Any:
        self._repo(parts, write=True)
        objects = []
        for one in json.loads(body)["objects"]:
            answer: dict[str, Any] = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] not in self.hub.objects:
                answer["actions"] = {"upload": {"href": f"{self.hub.url}/objects/{one['oid']}"}}
            objects.append(answer)
        return {"transfer": "basic", "objects": objects}

    def put(self, parts: Mapping[str, str], body: bytes) -> Any:
        if hashlib.sha256(body).hexdigest() != parts["oid"]:
            raise Refused(400, message="the content is not what was announced")
        self.hub.objects[parts["oid"]] = body
        return {}

    def commit(self, parts: Mapping[str, str], body: bytes) -> Any:
        repo = self._repo(parts, write=True)
        head, before = self._tree(repo, parts)
        if parts["revision"] not in repo.branches:
            raise Refused(400, message="commits go to a branch")
        tree, summary = dict(before), ""
        for line in body.splitlines():
            entry = json.loads(line)
            key, value = entry["key"], entry["value"]
            if key == "header":
                summary = value["summary"]
                if value.get("parentCommit") not in (None, head):
                    raise Refused(412, message="A commit has happened since. Please refresh and try again.")
            elif key == "file":
                tree[value["path"]] = File(base64.b64decode(value["content"]), False)
            elif key == "lfsFile":
                if value["oid"] not in self.hub.objects:
                    raise Refused(400, message=f"{value['path']} was not uploaded")
                tree[value["path"]] = File(self.hub.objects[value["oid"]], True)
            elif key == "deletedFile" and tree.pop(value["path"], None) is None:
                raise Refused(404, "EntryNotFound", "A file with this name doesn't exist")
        oid = repo.commit(parts["revision"], tree, summary)
        url = f"{self.hub.url}/{parts['repo']}/commit/{oid}"
        return {"success": True, "commitOid": oid, "commitUrl": url, "pullRequestUrl": None}

    def card(self, parts: Mapping[str, str], body: bytes) -> Any:
        if "license: nonsense" in json.loads(body)["content"]:
            return 400, {"errors": [{"message": '"license" must be one of [apache-2.0, mit]'}], "warnings": []}, {}
        return {"errors": [], "warnings": []}

    def file(self, parts: Mapping[str, str], body: bytes) -> Any:
        oid, tree = self._tree(self._repo(parts, content=True), parts)
        file = tree.get(parts["file"])
        if file is None:
            return 404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": oid}
        content, status, headers = file.content, 200, {}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked is not None:
            start, end = int(asked[1]), int(asked[2] or len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            content, status = content[start : end + 1], 206
        headers |= {"X-Repo-Commit": oid, "ETag": f'"{file.etag}"', "Content-Type": "application/octet-stream"}
        if file.large:
            headers |= {"X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(len(file.content))}
        return status, content, headers


Answer = Callable[[_Handler, Mapping[str, str], bytes], Any]
ROUTES: list[tuple[tuple[str, ...], str, Answer]] = [
    (("GET",), "/api/whoami-v2", _Handler.whoami),
    (("POST",), "/api/repos/create", _Handler.create),
    (("POST",), "/api/validate-yaml", _Handler.card),
    (("GET",), rf"/api/{_KIND}/{_REPO}", _Handler.info),
    (("GET",), rf"/api/{_KIND}/{_REPO}/revision/(?P<revision>[^/]+)", _Handler.info),
    (("GET",), rf"/api/{_KIND}/{_REPO}/auth-check(?P<write>/write)?", _Handler.check),
    (("GET",), rf"/api/{_KIND}/{_REPO}/refs", _Handler.refs),
    (("POST",), rf"/api/{_KIND}/{_REPO}/branch/(?P<branch>[^/]+)", _Handler.branch),
    (("GET",), rf"/api/{_KIND}/{_REPO}/tree/(?P<revision>[^/]+)(?:/(?P<inside>.+))?", _Handler.tree),
    (("POST",), rf"/api/{_KIND}/{_REPO}/preupload/(?P<revision>[^/]+)", _Handler.preupload),
    (("POST",), rf"/api/{_KIND}/{_REPO}/commit/(?P<revision>[^/]+)", _Handler.commit),
    (("POST",), rf"/{_REPO}\.git/info/lfs/objects/batch", _Handler.batch),
    (("PUT",), r"/objects/(?P<oid>[0-9a-f]{64})", _Handler.put),
    (
        ("GET", "HEAD"),
        rf"/(?:{_KIND}/)?{_REPO}/resolve/(?P<revision>[^/]+)/(?P<file>.+)",
        _Handler.file,
    ),
]
