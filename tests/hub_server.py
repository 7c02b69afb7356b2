"""A Hugging Face Hub on the loopback interface: as much of its HTTP as `huggingface_hub` needs to push and to load.

It keeps what a real one keeps (repositories with commits, branches and tags; large files apart, by their sha256), asks
for a token, refuses a commit whose parent is not the branch's head, and can be told to let others be faster or to cut
connections. Written from the client's source and its answers to it; it speaks the LFS protocol, not Xet's.
"""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_secretsecretsecret"  # noqa: S105 - of this server alone
READER = "hf_readonlyreadonly"
LARGE = (".safetensors", ".bin", ".png", ".gz", ".wav")
"""What the Hub's own .gitattributes puts into large-file storage."""


@dataclass(frozen=True)
class File:
    """One file of a commit."""

    content: bytes
    is_lfs: bool

    @property
    def sha256(self):
        """Of the content, as large files are named by."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def oid(self):
        """Git's name: of the content, or of the pointer to a large file."""
        blob = self.content
        if self.is_lfs:
            blob = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(blob)}\n".encode()
        return hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()  # noqa: S324 - git's


@dataclass
class Repo:
    """One repository: each commit is a dictionary of paths to files."""

    private: bool
    commits: dict = field(default_factory=dict)
    parents: dict = field(default_factory=dict)
    branches: dict = field(default_factory=dict)
    tags: dict = field(default_factory=dict)

    def commit(self, branch, files):
        """Put a commit onto a branch; return its id."""
        parent = self.branches.get(branch)
        listing = sorted((path, file.oid) for path, file in files.items())
        oid = hashlib.sha1(json.dumps([parent, len(self.commits), listing]).encode()).hexdigest()  # noqa: S324 - git's
        self.commits[oid], self.parents[oid], self.branches[branch] = files, parent, oid
        return oid

    def find(self, revision):
        """Return the commit that a revision names, or None."""
        return (
            self.branches.get(revision) or self.tags.get(revision) or (revision if revision in self.commits else None)
        )


class HubServer:
    """A Hub that runs until it is closed.

    Attributes:
        endpoint: For HF_ENDPOINT.
        repos: By ``org/name``.
        objects: Large files by their sha256.
        requests: ``(method, path)`` of each, in order.
        authorizations: What the Authorization headers held.
        cut_uploads: So many uploads of large files are cut in the middle.
        cut_downloads: So many downloads are cut in the middle.
        cut_commits: So many commits are made, and their answers lost.
        cut_tags: So many requests for a tag are dropped unread.
        before_commit: Called with the branch just before a commit is looked at.
        before_branch: Called with the branch just before a branch is made.
    """

    def __init__(self):
        self.repos, self.objects, self.requests, self.authorizations = {}, {}, [], []
        self.cut_uploads = self.cut_downloads = self.cut_commits = self.cut_tags = 0
        self.before_commit = self.before_branch = lambda branch: None  # noqa: ARG005 - to be replaced
        self.lock = threading.RLock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def close(self):
        """Stop; more than once does no harm."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def count(self, method, pattern):
        """Return how many requests of a method had a path that a pattern matches."""
        return sum(m == method and re.search(pattern, path) is not None for m, path in self.requests)

    def new_repo(self, name, *, private):
        """Make a repository as the Hub does: with one commit that holds .gitattributes."""
        attributes = "".join(f"*{ending} filter=lfs diff=lfs merge=lfs -text\n" for ending in LARGE)
        self.repos[name] = Repo(private)
        self.repos[name].commit("main", {".gitattributes": File(attributes.encode(), is_lfs=False)})
        return self.repos[name]

    def edit(self, name, branch, path, content):
        """Commit a change of one file, as somebody else would."""
        repo = self.repos[name]
        files = repo.commits[repo.branches[branch]]
        return repo.commit(branch, {**files, path: File(content, is_lfs=path.endswith(LARGE))})


class _CutError(Exception):
    """The connection was cut."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def log_message(self, *_):
        """Say nothing."""

    def _serve(self):
        url = urlsplit(self.path)
        path = url.path
        self.body_read = False
        with self.hub.lock:
            self.hub.requests.append((self.command, path))
            self.hub.authorizations.append(self.headers.get("Authorization"))
        try:
            for method, pattern, handle in ROUTES:
                match = re.fullmatch(pattern, path)
                if match and self.command in method:
                    handle(self, *(unquote(part) for part in match.groups()))
                    break
            else:
                self._error(404, "", f"no such route: {self.command} {path}")
        except _CutError:
            self.close_connection = True
            self.connection.close()

    do_GET = do_HEAD = do_POST = do_PUT = _serve  # noqa: N815 - the library's names

    def _body(self):
        self.body_read = True
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _json(self, content, status=200, headers=()):
        self._send(json.dumps(content).encode(), status, [("Content-Type", "application/json"), *headers])

    def _send(self, content, status=200, headers=()):
        if not self.body_read:
            self._body()
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _error(self, status, code, message=""):
        headers = [("X-Error-Code", code)] if code else []
        self._json({"error": message}, status, [*headers, ("X-Error-Message", message)])

    def _who(self):
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _repo(self, name, *, write=False):
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and self._who() not in {TOKEN, READER}):
            status = 404 if self._who() in {TOKEN, READER} else 401
            self._error(status, "RepoNotFound", "Repository not found")
        elif write and self._who() != TOKEN:
            self._error(403, "", "Forbidden: you need write access")
        else:
            return repo
        return None

    def _commit_of(self, repo, revision):
        commit = repo.find(revision)
        if commit is None:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def whoami(self):
        if self._who() not in {TOKEN, READER}:
            return self._error(401, "", "Invalid credentials in Authorization header")
        return self._json({"type": "user", "name": "somebody", "orgs": [{"name": "org"}], "auth": {}})

    def create(self):
        asked = json.loads(self._body())
        name = f"{asked['organization']}/{asked['name']}"
        if asked.get("type") == "space":
            if not asked.get("sdk"):
                return self._error(400, "", "a Space needs an sdk")
            name = f"spaces/{name}"
        if self._who() not in {TOKEN, READER}:
            return self._error(401, "", "Invalid username or password.")
        if self._who() == READER:
            return self._error(403, "", "You don't have the rights to create a model under this namespace")
        with self.hub.lock:
            if name in self.hub.repos:
                error = "You already created this model repo"
                return self._json({"error": error, "url": f"{self.hub.endpoint}/{name}"}, 409)
            self.hub.new_repo(name, private=asked.get("visibility") == "private")
        return self._json({"url": f"{self.hub.endpoint}/{name}", "name": name})

    def validate_yaml(self):
        content = json.loads(self._body())["content"]
        match = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
        if match is None:
            return self._json({"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]})
        try:
            faults = card_faults(yaml.safe_load(match[1]))
        except yaml.YAMLError as error:
            faults = [str(error)]
        return self._json({"errors": [{"message": f} for f in faults], "warnings": []}, 400 if faults else 200)

    def info(self, name, revision="main"):
        if (repo := self._repo(name)) and (commit := self._commit_of(repo, revision)):
            files = [{"rfilename": path} for path in sorted(repo.commits[commit])]
            self._json({"id": name, "sha": commit, "private": repo.private, "siblings": files, "tags": []})

    def tree(self, name, revision):
        if (repo := self._repo(name)) and (commit := self._commit_of(repo, revision)):
            files = sorted(repo.commits[commit].items())
            self._json([_entry(path, file) for path, file in files])

    def refs(self, name):
        if repo := self._repo(name):
            self._json(
                {
                    "branches": [_ref("heads", *item) for item in repo.branches.items()],
                    "tags": [_ref("tags", *item) for item in repo.tags.items()],
                    "converts": [],
                }
            )

    def branch(self, name, branch):
        asked = json.loads(self._body() or b"{}")
        if repo := self._repo(name, write=True):
            self.hub.before_branch(branch)
            with self.hub.lock:
                commit = self._commit_of(repo, asked.get("startingPoint", "main"))
                if commit and branch in repo.branches:
                    self._error(409, "", "Reference already exists")
                elif commit:
                    repo.branches[branch] = commit
                    self._send(b"", 201)

    def tag(self, name, revision):
        if self.hub.cut_tags:
            self.hub.cut_tags -= 1
            raise _CutError
        asked = json.loads(self._body())
        if (repo := self._repo(name, write=True)) and (commit := self._commit_of(repo, revision)):
            with self.hub.lock:
                if asked["tag"] in repo.tags:
                    self._error(409, "", "Tag reference exists already")
                else:
                    repo.tags[asked["tag"]] = commit
                    self._send(b"", 201)

    def preupload(self, name, revision):
        asked = json.loads(self._body())
        if (repo := self._repo(name, write=True)) and (commit := self._commit_of(repo, revision)):
            answers = []
            for wanted in asked["files"]:
                is_lfs = wanted["path"].endswith(LARGE)
                there = repo.commits[commit].get(wanted["path"])
                oid = None if there is None else there.sha256 if there.is_lfs else there.oid
                mode = "lfs" if is_lfs else "regular"
                answers.append({"path": wanted["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
            self._json({"files": answers})

    def lfs_batch(self, name):
        asked = json.loads(self._body())
        if self._repo(name, write=True):
            objects = []
            for wanted in asked["objects"]:
                upload = {"href": f"{self.hub.endpoint}/storage/{wanted['oid']}"}
                known = wanted["oid"] in self.hub.objects
                objects.append({**wanted, **({} if known else {"actions": {"upload": upload}})})
            self._json({"transfer": "basic", "objects": objects})

    def store(self, oid):
        size = int(self.headers["Content-Length"])
        if self.hub.cut_uploads:
            self.hub.cut_uploads -= 1
            self.rfile.read(size // 2)
            raise _CutError
        content = self._body()
        if hashlib.sha256(content).hexdigest() != oid:
            return self._error(400, "", "another content than its name says")
        self.hub.objects[oid] = content
        return self._send(b"")

    def commit(self, name, branch):
        lines = [json.loads(line) for line in self._body().splitlines()]
        if not (repo := self._repo(name, write=True)):
            return None
        self.hub.before_commit(branch)
        with self.hub.lock:
            head = repo.branches.get(branch)
            if head is None:
                return self._error(404, "RevisionNotFound", f"Invalid rev id: {branch}")
            files = dict(repo.commits[head])
            for line in lines:
                value = line["value"]
                if line["key"] == "header":
                    if value.get("parentCommit", head) != head:
                        return self._error(412, "", "A commit has happened since. Please refresh and try again.")
                elif line["key"] == "file":
                    files[value["path"]] = File(base64.b64decode(value["content"]), is_lfs=False)
                elif line["key"] == "lfsFile":
                    if value["oid"] not in self.hub.objects:
                        return self._error(400, "", f"{value['path']} was never uploaded")
                    files[value["path"]] = File(self.hub.objects[value["oid"]], is_lfs=True)
                elif line["key"] == "deletedFile":
                    files.pop(value["path"])
                else:
                    return self._error(400, "", f"unknown operation {line['key']}")
            oid = repo.commit(branch, files)
        if self.hub.cut_commits:
            self.hub.cut_commits -= 1
            raise _CutError
        return self._json({"success": True, "commitOid": oid, "commitUrl": f"{self.hub.endpoint}/{name}/commit/{oid}"})

    def resolve(self, name, revision, path):
        if not ((repo := self._repo(name)) and (commit := self._commit_of(repo, revision))):
            return None
        file = repo.commits[commit].get(path)
        if file is None:
            return self._error(404, "EntryNotFound", "Entry not found")
        headers = [("X-Repo-Commit", commit), ("ETag", f'"{file.sha256 if file.is_lfs else file.oid}"')]
        if file.is_lfs:
            headers += [("X-Linked-Etag", f'"{file.sha256}"'), ("X-Linked-Size", str(len(file.content)))]
        start = int(match[1]) if (match := re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))) else 0
        content = file.content[start:]
        if self.command == "GET" and self.hub.cut_downloads and file.is_lfs:
            self.hub.cut_downloads -= 1
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            raise _CutError
        if start:
            headers.append(("Content-Range", f"bytes {start}-{len(file.content) - 1}/{len(file.content)}"))
        return self._send(content, 206 if start else 200, headers)


NAME = r"([^/]+/[^/]+)"
SPACE = r"(spaces/[^/]+/[^/]+)"
ROUTES = (
    (("GET",), "/api/whoami-v2", _Handler.whoami),
    (("POST",), "/api/repos/create", _Handler.create),
    (("POST",), "/api/validate-yaml", _Handler.validate_yaml),
    (("GET",), f"/api/models/{NAME}", _Handler.info),
    (("GET",), f"/api/models/{NAME}/revision/([^/]+)", _Handler.info),
    (("GET",), f"/api/models/{NAME}/tree/([^/]+)", _Handler.tree),
    (("GET",), f"/api/models/{NAME}/refs", _Handler.refs),
    (("POST",), f"/api/models/{NAME}/branch/([^/]+)", _Handler.branch),
    (("POST",), f"/api/models/{NAME}/tag/([^/]+)", _Handler.tag),
    (("POST",), f"/api/models/{NAME}/preupload/([^/]+)", _Handler.preupload),
    (("POST",), f"/{NAME}\\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    (("PUT",), "/storage/([0-9a-f]{64})", _Handler.store),
    (("POST",), f"/api/models/{NAME}/commit/([^/]+)", _Handler.commit),
    (("GET", "HEAD"), f"/{NAME}/resolve/([^/]+)/(.+)", _Handler.resolve),
    # A Space is kept as spaces/org/name.
    (("GET",), f"/api/{SPACE}", _Handler.info),
    (("GET",), f"/api/{SPACE}/revision/([^/]+)", _Handler.info),
    (("POST",), f"/api/{SPACE}/preupload/([^/]+)", _Handler.preupload),
    (("POST",), f"/api/{SPACE}/commit/([^/]+)", _Handler.commit),
)


def card_faults(metadata):
    """Return what the Hub would refuse of a model card's metadata (its specification: hub-docs' modelcard.md)."""
    faults = [
        f"language {language!r} must be an ISO 639-1, 639-2 or 639-3 code"
        for language in metadata.get("language") or []
        if not re.fullmatch("[a-z]{2,3}|multilingual|code", str(language))
    ]
    listed = {key: metadata.get(key) or [] for key in ("tags", "datasets", "metrics")}
    faults += [f"{key} must be strings" for key, items in listed.items() if not all(isinstance(i, str) for i in items)]
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", metadata.get("base_model", "org/name")):
        faults.append("base_model must be a model id")
    for result in (result for model in metadata.get("model-index") or [] for result in model["results"]):
        needed = [("task", "type", result.get("task", {}))]
        needed += [("dataset", key, result.get("dataset", {})) for key in ("name", "type")]
        needed += [("metric", key, metric) for metric in result.get("metrics", [{}]) for key in ("type", "value")]
        faults += [f"model-index: no {what}.{key}" for what, key, of in needed if of.get(key) in {None, ""}]
    return faults


def _entry(path, file):
    entry = {"type": "file", "path": path, "size": len(file.content), "oid": file.oid}
    if file.is_lfs:
        entry["lfs"] = {"oid": file.sha256, "size": len(file.content), "pointerSize": 130}
    return entry


def _ref(kind, name, commit):
    return {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": commit}
