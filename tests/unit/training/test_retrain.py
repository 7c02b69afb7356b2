"""When retraining learns, when it does nothing, and what it leaves behind; the turn of the loop itself is not run."""

import json
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from training import retrain as module
from training.command_retrain import decision_key
from training.retrain import BusyError, Turn, is_running, last_decision, only_one, reports, retrain
from training.rules import Rules

ROOT = Path(__file__).parents[3]
PROMOTED = Turn(result="promoted", detail="it: better", version="whisper@2", verdict="2-vs-1-1.json", run="runs/x")


class Loop:
    """Data that can grow, and a turn of the loop that counts."""

    def __init__(self, runs):
        self.runs, self.clips, self.turns, self.comes_to = runs, {"a", "b"}, 0, PROMOTED
        self.said = []

    def look(self):
        """Return key and clips, as they are now."""
        return "+".join(sorted(self.clips)), set(self.clips)

    def turn(self):
        """Come to what is to come, or fail with it."""
        self.turns += 1
        if isinstance(self.comes_to, BaseException):
            raise self.comes_to
        return self.comes_to

    def __call__(self, **more):
        """Retrain."""
        return retrain("whisper", self.runs, look=self.look, turn=self.turn, say=self.said.append, **more)


@pytest.fixture
def loop(tmp_path):
    """Return a loop of two clips that nobody has learned from."""
    return Loop(tmp_path)


@pytest.fixture
def hook():
    """Return a server's address, the messages that it took, and the statuses that it answers next."""
    messages, statuses = [], []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(statuses.pop(0) if statuses else 204)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/hook?secret=s3cret", messages, statuses
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_first_one_learns_and_the_second_has_nothing_to_do(loop):
    """The same data, recipe and base come to the same, so they are trained on once."""
    assert loop().result == "promoted"
    second = loop()
    assert (second.result, loop.turns) == ("no_change", 1)
    assert "promoted: it: better" in second.detail
    assert loop().result == "no_change"


@pytest.mark.parametrize("result", ["refused", "undecided", "candidate", "promoted"])
def test_what_was_decided_is_not_tried_again(loop, result):
    """Whatever the decision was."""
    loop.comes_to = Turn(result=result, detail="so")
    assert loop().result == result
    assert loop().result == "no_change"
    assert loop.turns == 1


def test_new_clips_are_learned(loop):
    """The report says how many."""
    assert loop().new_clips == 2
    loop.clips |= {"c"}
    report = loop()
    assert (report.result, report.new_clips, loop.turns) == ("promoted", 1, 2)


def test_too_few_new_clips_wait_for_more(loop):
    """They are counted from the last decision, not from the last look, so that a few a night are enough some day."""
    loop()
    for clips in ({"c"}, {"c", "d"}):
        loop.clips |= clips
        assert loop(min_new_clips=3).result == "too_little"
    loop.clips |= {"e"}
    assert loop(min_new_clips=3).result == "promoted"
    assert loop.turns == 2


def test_the_first_one_needs_no_number_of_clips(loop):
    """Nothing was learned yet: all clips are worth it."""
    assert loop(min_new_clips=1000).result == "promoted"


def test_another_recipe_is_a_change(loop, monkeypatch):
    """Without one new clip."""
    loop()
    monkeypatch.setattr(loop, "look", lambda: ("another key", set(loop.clips)))
    assert loop().result == "promoted"


def test_what_lint_refused_is_new_once_it_is_mended(loop):
    """Taking the bad clip out leaves clips that nobody learned from yet, however many are wanted."""
    loop()
    loop.clips |= {"c", "d", "bad"}
    loop.comes_to = Turn(result="lint", detail="1 errors")
    assert loop(min_new_clips=2).result == "lint"
    loop.clips -= {"bad"}
    loop.comes_to = PROMOTED
    report = loop(min_new_clips=2)
    assert (report.result, report.new_clips) == ("promoted", 2)


def test_a_failed_one_is_reported_and_tried_again(loop):
    """Its error goes on to whoever called; the next one does not take it for a decision."""
    loop.comes_to = RuntimeError("the disk is full\nand more")
    with pytest.raises(RuntimeError, match="the disk is full"):
        loop()
    kept = reports(loop.runs / "retrain" / "whisper")[-1]
    assert (kept.result, kept.detail) == ("failed", "RuntimeError: the disk is full")
    loop.comes_to = PROMOTED
    assert (loop().result, loop.turns) == ("promoted", 2)


def test_data_that_cannot_be_read_are_a_failure(loop, monkeypatch):
    """Nothing was trained, and what was decided before stays the last decision."""
    loop()
    monkeypatch.setattr(loop, "look", lambda: (_ for _ in ()).throw(OSError("no folder")))
    with pytest.raises(OSError, match="no folder"):
        loop()
    folder = loop.runs / "retrain" / "whisper"
    assert [report.result for report in reports(folder)] == ["promoted", "failed"]
    assert last_decision(folder).result == "promoted"


def test_one_at_a_time(loop):
    """A second one, of this process or another, does nothing and says so; afterwards the way is free."""
    folder = loop.runs / "retrain" / "whisper"
    assert not is_running(folder)
    program = f"""
import sys, time
from pathlib import Path
from training.retrain import only_one
with only_one(Path({str(folder)!r})):
    print("in", flush=True)
    time.sleep(60)
"""
    other = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert other.stdout.readline() == "in\n"
    assert is_running(folder)
    with pytest.raises(BusyError, match="another retraining of whisper runs"):
        loop()
    assert loop.turns == 0
    other.send_signal(signal.SIGKILL)  # the lock dies with its process
    other.communicate()
    assert not is_running(folder)
    assert loop().result == "promoted"
    with only_one(folder), pytest.raises(BusyError):
        loop()


def test_a_report_is_posted(loop, hook):
    """As JSON whose `text` a chat service shows; nothing is posted where nothing happened."""
    url, messages, _ = hook
    report = loop(webhook=url)
    assert messages == [
        {"text": "Whisperloop, whisper: promoted. it: better", "report": report.model_dump(mode="json")}
    ]
    loop(webhook=url)
    assert len(messages) == 1


def test_a_failure_is_posted(loop, hook):
    """Before the error goes on."""
    url, messages, _ = hook
    loop.comes_to = RuntimeError("no")
    with pytest.raises(RuntimeError):
        loop(webhook=url)
    assert messages[0]["report"]["result"] == "failed"


def test_an_interrupted_one_ends_at_once(loop, hook):
    """Whoever pressed Ctrl+C knows."""
    url, messages, _ = hook
    loop.comes_to = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        loop(webhook=url)
    assert messages == []
    assert reports(loop.runs / "retrain" / "whisper")[-1].detail == "interrupted; the next one goes on"


def test_a_webhook_that_does_not_answer_changes_nothing(loop, hook, monkeypatch):
    """It is tried three times; what was learned stands, and the log has no address, which may hold a secret."""
    monkeypatch.setattr(module.time, "sleep", lambda _: None)
    url, messages, statuses = hook
    statuses += [500, 302, 404]
    assert loop(webhook=url).result == "promoted"
    assert len(messages) == 3
    assert loop.said[-1] == "the report could not be sent: status 404"
    loop.clips |= {"c"}
    assert loop(webhook="http://127.0.0.1:1/s3cret").result == "promoted"
    assert loop.said[-1] == "the report could not be sent: ConnectError"
    assert not any("s3cret" in line for line in loop.said)


def test_reports_survive_a_kill(loop, monkeypatch):
    """They are replaced as a whole: a process that dies while it writes leaves those that were there."""
    loop()
    loop.clips |= {"c"}

    def die(*_):
        raise OSError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", die)
        with pytest.raises(OSError, match="no space"):
            loop()
    assert [report.result for report in reports(loop.runs / "retrain" / "whisper")] == ["promoted"]
    assert loop().result == "promoted"


def test_reports_do_not_grow_for_ever(loop, monkeypatch):
    """Of nights on which nothing happened, the last is kept; the decision is not forgotten, whatever came since."""
    monkeypatch.setattr(module, "KEPT_REPORTS", 3)
    folder = loop.runs / "retrain" / "whisper"
    for _ in range(5):
        loop()
    assert [report.result for report in reports(folder)] == ["promoted", "no_change"]
    monkeypatch.setattr(loop, "look", lambda: (_ for _ in ()).throw(OSError("no folder")))
    for _ in range(5):
        with pytest.raises(OSError, match="no folder"):
            loop()
    assert [report.result for report in reports(folder)] == ["failed"] * 3
    assert last_decision(folder).result == "promoted"


def test_what_was_refused_is_looked_at_again():
    """When the gate's margins change, or lint is told to accept more; not for the same said in another order."""
    before = decision_key("run", Rules(), ("a", "b"))
    assert decision_key("run", Rules(), ("b", "a", "a")) == before
    assert decision_key("run", Rules(other_speech=0.03), ("a", "b")) != before
    assert decision_key("run", Rules(), ("a",)) != before
