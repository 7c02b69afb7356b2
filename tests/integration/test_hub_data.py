"""A private data set is read from a Hub: the real client against a loopback server that speaks the Hub's protocol."""

import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import wave
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

TOKEN = "hf_" + "aB3" * 11
PINNED, LATER = "a" * 40, "b" * 40
README = b"---\nconfigs:\n- config_name: it\n  data_files:\n  - {split: train, path: it/train-*}\n---\n"

READ = """
import json, logging, sys
import datasets.config
from pathlib import Path
from training.data.sources.config import HubSource
from training.data.sources.hub import read_hub
from training.data.sources.rows import SourceError
logging.basicConfig(level=logging.DEBUG)
datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0  # after each stream, for its threads
try:
    utterances, dropped = read_hub(HubSource.model_validate_json(sys.argv[1]), Path(sys.argv[2]), seed=1)
    print(json.dumps([[u.text, u.speaker] for u in utterances]))
except SourceError as error:
    print(json.dumps(str(error)))
"""


def parquet(sentence, first, n=3):
    """Return a split of a few clips as its file."""
    rows = []
    for number in range(first, first + n):
        sound = io.BytesIO()
        with wave.open(sound, "wb") as file:
            file.setparams((1, 2, 16_000, 0, "NONE", ""))
            file.writeframes(np.random.default_rng(number).integers(-9000, 9000, 1600).astype("<i2").tobytes())
        audio = {"bytes": sound.getvalue(), "path": f"{number}.wav"}
        rows.append({"audio": audio, "sentence": f"{sentence} {number}", "client_id": f"c{number}", "votes": 2})
    content = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), content)
    return content.getvalue()


@pytest.fixture
def repositories():
    """Return what each commit of each data set holds."""
    early = {"README.md": README, "it/train-00000-of-00001.parquet": parquet("prima", 0)}
    late = {"README.md": README, "it/train-00000-of-00001.parquet": parquet("dopo", 10)}
    return {
        "team/calls": {PINNED: early, LATER: late},
        "team/scripted": {PINNED: {"scripted.py": b"raise SystemExit('a script ran')"}},
    }


def oid(content):
    """Return the name that the Hub gives a content."""
    return hashlib.sha256(content).hexdigest()[:40]


def asked(body):
    """Return the paths that a request asks for, as JSON or as a form."""
    return json.loads(body)["paths"] if body.startswith("{") else parse_qs(body)["paths"]


def tree(files, folder, *, deep):
    """List a folder as the Hub does: its files and folders, or with `deep` those of its folders, too."""
    prefix = f"{folder}/" if folder else ""
    entries = {}
    for path, content in files.items():
        if path.startswith(prefix):
            inner = path.removeprefix(prefix).split("/")
            for depth in range(1, len(inner)):
                directory = prefix + "/".join(inner[:depth])
                entries[directory] = {"type": "directory", "path": directory, "size": 0, "oid": oid(b"")}
            entries[path] = {"type": "file", "path": path, "size": len(content), "oid": oid(content)}
    return [one for path, one in entries.items() if deep or "/" not in path.removeprefix(prefix)]


@contextmanager
def serving(repositories, token):
    """Serve data sets to who has the token, and yield the address and the requests."""
    requests = []

    class Hub(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments):
            pass

        def answer(self, status, content=b"", **headers):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def do_GET(self):
            requests.append(f"{self.command} {self.path}")
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            address = urlsplit(self.path)
            parts = unquote(address.path).removeprefix("/api").strip("/").split("/")
            if len(parts) < 5:
                return self.answer(404)
            if self.headers.get("Authorization") != f"Bearer {token}":
                return self.answer(401, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
            repo, what, commit, rest = "/".join(parts[1:3]), parts[3], parts[4], "/".join(parts[5:])
            files = repositories.get(repo, {}).get(commit)
            if files is None:
                return self.answer(404, X_Error_Code="RevisionNotFound")
            if what == "resolve":
                return self.send_file(commit, files.get(rest))
            deep = parse_qs(address.query).get("recursive") == ["true"]
            facts = {
                "revision": lambda: {"id": repo, "sha": commit, "siblings": [{"rfilename": path} for path in files]},
                "tree": lambda: tree(files, rest, deep=deep),
                "paths-info": lambda: [one for one in tree(files, "", deep=True) if one["path"] in asked(body)],
            }[what]()
            return self.answer(200, json.dumps(facts).encode(), Content_Type="application/json")

        def send_file(self, commit, content):
            if content is None:
                return self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
            headers = {"X_Repo_Commit": commit, "ETag": f'"{oid(content)}"', "Accept_Ranges": "bytes"}
            if wanted := self.headers.get("Range"):
                start, _, end = wanted.removeprefix("bytes=").partition("-")
                stop = min(int(end) + 1 if end else len(content), len(content))
                part = {"Content_Range": f"bytes {start}-{stop - 1}/{len(content)}"}
                return self.answer(206, content[int(start) : stop], **headers, **part)
            return self.answer(200, content, **headers)

        do_HEAD = do_POST = do_GET  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def read(tmp_path, repositories):
    """Read a source in a process of its own, where the Hub is the loopback server."""

    def read(dataset, *, token=None, **settings):
        source = {"dataset": dataset, "revision": PINNED, "language": "it", **settings}
        with serving(repositories, TOKEN) as (address, requests):
            hidden = {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"}
            environment = {name: value for name, value in os.environ.items() if name not in hidden}
            environment |= {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home")}
            if token is not None:
                environment["HF_TOKEN"] = token
            done = subprocess.run(
                [sys.executable, "-c", READ, json.dumps(source), str(tmp_path / "cache")],
                env=environment,
                cwd=Path(__file__).parents[2],
                capture_output=True,
                text=True,
                check=False,
            )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout), done.stdout + done.stderr, requests

    return read


@pytest.mark.parametrize("streaming", [{}, {"streaming": True, "max_clips": 100, "shuffle_buffer": 1}])
def test_the_pinned_commit_of_a_private_data_set_is_read(read, tmp_path, streaming):
    """With a token in the environment the pinned commit is read, not a later one, and the token is kept nowhere."""
    answer, printed, requests = read("team/calls", token=TOKEN, config="it", **streaming)
    assert sorted(answer) == [[f"prima {n}", f"c{n}"] for n in range(3)]
    assert any(PINNED in request for request in requests)
    assert not any(LATER in request for request in requests)
    assert TOKEN not in printed
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert kept
    assert not [path for path in kept if TOKEN.encode() in path.read_bytes()]


def test_without_a_token_the_message_says_where_one_is_looked_for(read):
    """A private data set is not found without a token; the error says how to give one, and shows none that is wrong."""
    answer, _, _ = read("team/calls", config="it")
    assert "HF_TOKEN" in answer
    assert "hf auth login" in answer
    wrong = "hf_" + "wrongwrong" * 4
    answer, printed, _ = read("team/calls", config="it", token=wrong)
    assert "HF_TOKEN" in answer
    assert wrong not in printed


def test_a_script_on_the_hub_is_not_run(read):
    """A data set with a loading script is refused, with the branch to take."""
    answer, _, _ = read("team/scripted", token=TOKEN)
    assert "refs/convert/parquet" in answer


def test_a_stream_that_is_killed_goes_on(tmp_path):
    """Killed with SIGKILL while it streams, and again later, a reading ends as one that was left alone."""
    (tmp_path / "set").mkdir()
    for shard in range(4):
        (tmp_path / "set" / f"train-{shard:05d}-of-00004.parquet").write_bytes(parquet("frase", 250 * shard, 250))
    asked = {"path": str(tmp_path / "set"), "language": "it", "split": "train"}
    asked |= {"streaming": True, "max_clips": 900, "shuffle_buffer": 50}

    def command(cache):
        return [sys.executable, "-c", READ, json.dumps(asked), str(tmp_path / cache)]

    left_alone = json.loads(subprocess.run(command("whole"), capture_output=True, check=True).stdout)
    assert len(left_alone) == 900
    for wanted in (100, 400):
        with subprocess.Popen(command("killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as reading:
            while reading.poll() is None:
                listings = [*(tmp_path / "killed" / "rows").glob("*.jsonl")]
                if listings and listings[0].read_bytes().count(b"\n") >= wanted:
                    break
                time.sleep(0.002)
            reading.kill()
        assert reading.returncode == -signal.SIGKILL
    at_last = subprocess.run(command("killed"), capture_output=True, check=True, text=True)
    assert int(re.search(r"going on after (\d+) rows", at_last.stderr)[1]) >= 400
    assert json.loads(at_last.stdout) == left_alone
    whole, killed = ({path.name for path in (tmp_path / run / "clips").rglob("*.wav")} for run in ("whole", "killed"))
    assert killed == whole
