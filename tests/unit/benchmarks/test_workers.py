"""A contender in its own process, and the services beside each other."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from benchmarks.servers import pss_bytes
from benchmarks.workers import ROOT, Worker
from training.shell import StepError

ECHO = """
    from benchmarks.peers.protocol import serve

    def load(options):
        print("noise of a library")
        def transcribe(clips):
            if options["word"] == "fail":
                raise ValueError("no such model")
            return [f"{options['word']} {clip.language} {len(clip.audio)}" for clip in clips]
        return transcribe, {"double": lambda request: {"value": 2 * request["value"]}}

    serve(load)
"""


@pytest.fixture
def worker(tmp_path):
    """Return the function that starts a contender that answers with a word, a language and a length."""

    def make(word):
        python = tmp_path / "python"  # stands for an environment's interpreter: the module's name is passed over
        script = tmp_path / "echo.py"
        script.write_text(textwrap.dedent(ECHO), encoding="utf-8")
        python.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" "{script}"\n', encoding="utf-8")
        python.chmod(0o755)
        return Worker(python, "echo", {"word": word}, tmp_path / "logs" / "echo.log")

    return make


def test_a_worker_transcribes_what_it_is_given(worker, tmp_path):
    """Samples are loaded before the clock starts, any other path is handed on; one time for each call."""
    np.save(tmp_path / "clip.npy", np.zeros(160, dtype=np.float32))
    clips = [(tmp_path / "clip.npy", "it"), ("12345", None)]
    with worker("said") as echo:
        together = echo.transcribe(clips)
        alone = echo.transcribe(clips, one_by_one=True)
    assert together["texts"] == alone["texts"] == ["said it 160", "said None 5"]
    assert (len(together["each"]), len(alone["each"])) == (1, 2)
    assert alone["seconds"] == pytest.approx(sum(alone["each"]))


def test_a_library_that_prints_does_not_disturb(worker, tmp_path):
    """What it prints is in the log, and answers are answers."""
    with worker("said") as echo:
        assert echo.ask({"do": "double", "value": 21}) == {"value": 42}
        assert echo.ask({"do": "memory"})["peak_bytes"] > 1_000_000
    assert "noise of a library" in (tmp_path / "logs" / "echo.log").read_text(encoding="utf-8")


def test_a_contender_that_fails_says_why(worker):
    """Its own message, and where its log is."""
    with worker("fail") as echo, pytest.raises(StepError, match=r"ValueError: no such model; see .*echo\.log"):
        echo.transcribe([("12345", None)])


def test_a_contender_that_dies_is_an_error(tmp_path):
    """An environment without the package ends the process, not the runner."""
    with (
        Worker("/bin/false", "echo", {}, tmp_path / "log") as dead,
        pytest.raises(StepError, match="ended with status 1"),
    ):
        dead.ask({"do": "memory"})


def test_a_worker_that_is_not_asked_is_not_started(tmp_path):
    """A measure whose rounds are all saved loads no model."""
    with Worker("/bin/false", "echo", {}, tmp_path / "log") as idle:
        assert idle is not None
    assert not (tmp_path / "log").exists()


def test_memory_counts_the_children():
    """The proportional set size of a process that started another is that of both."""
    code = "b = bytearray(50_000_000); input()"
    with subprocess.Popen(
        ["/bin/sh", "-c", f"{sys.executable} -c '{code}'; true"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as process:
        try:
            for _ in range(200):
                if pss_bytes(process.pid) > 50_000_000:
                    break
                os.sched_yield()
            else:
                pytest.fail("the child's 50 MB were not counted")
        finally:
            process.communicate(b"\n")
