"""The promises of measuring how the CPU engine is best run: everything is tried, and the answer is kept."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import speech.engine.tuning
from speech.engine.tuning import Measured, Tuning, cache_file, candidates, measure, read_cached, write_cached

FEW = [Tuning("int8", workers=1, threads=1), Tuning("float32", workers=1, threads=1), Tuning(workers=2, threads=1)]


@pytest.fixture
def quick(monkeypatch):
    """Try single threads and small batches, once: how long that takes is not the point."""
    monkeypatch.setattr(speech.engine.tuning, "candidates", lambda: iter(FEW))
    monkeypatch.setattr(speech.engine.tuning, "BATCHES", (1, 2, 4))
    monkeypatch.setattr(speech.engine.tuning, "ROUNDS", 1)


@pytest.mark.usefixtures("quick")
def test_every_way_is_measured_with_every_batch_size(tiny):
    """None is left out, and each takes time, alone and in a crowd."""
    measured = measure(tiny.export, 160)
    assert {result.tuning for result in measured} == {
        dataclasses.replace(tuning, batch=batch) for tuning in FEW for batch in (1, 2, 4)
    }
    assert len(measured) == 9
    assert all(0 < result.clip_s < 10 and 0 < result.crowd_s < 10 for result in measured)


def test_a_model_at_thirty_seconds_can_be_measured(tiny, monkeypatch):
    """A base model pays 1,500 positions a clip: some batch size is small enough for it."""
    monkeypatch.setattr(speech.engine.tuning, "candidates", lambda: iter(FEW[:1]))
    monkeypatch.setattr(speech.engine.tuning, "_fastest", lambda _run: 1.0)
    assert [result.tuning.batch for result in measure(tiny.export, 1500)] == [4]


def test_the_best_has_the_smallest_product(monkeypatch):
    """A tenth gained for a lone clip is worth a tenth in a crowd."""
    times = {"slow": (0.4, 0.4), "alone": (0.1, 0.3), "both": (0.14, 0.2), "crowd": (0.5, 0.07)}
    ways = {name: Measured(Tuning(name), *both) for name, both in times.items()}
    monkeypatch.setattr(speech.engine.tuning, "candidates", lambda: (way.tuning for way in ways.values()))
    monkeypatch.setattr(
        speech.engine.tuning, "_measure", lambda _folder, tuning, _positions: [ways[tuning.compute_type]]
    )
    assert [result.tuning.compute_type for result in measure(Path(), 64)] == ["both", "alone", "crowd", "slow"]


@pytest.mark.parametrize(
    ("cores", "workers", "threads"), [(1, [1, 1], [1, 1]), (2, [1, 1, 2], [2, 2, 1]), (16, [4, 4, 16], [4, 4, 1])]
)
def test_the_ways_use_the_cores_that_there_are(cores, workers, threads):
    """Both precisions are tried, and a worker a core, last; no way has more threads than there are cores."""
    script = (
        f"import os\nos.sched_getaffinity = lambda _: range({cores})\n"
        "import dataclasses, json, speech.engine.tuning as t\n"
        "print(json.dumps([dataclasses.asdict(way) for way in t.candidates()]))"
    )
    root = Path(speech.engine.tuning.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    ways = json.loads(done.stdout)
    assert [way["workers"] for way in ways] == workers
    assert [way["threads"] for way in ways] == threads
    assert [way["compute_type"] for way in ways[:2]] == ["int8", "float32"]


def test_the_default_is_tried():
    """Nothing is called better than what nobody tried."""
    assert Tuning() in candidates()


@pytest.mark.usefixtures("quick")
def test_the_measurement_prints_what_the_service_reads(tiny, monkeypatch, capsys):
    """One line of JSON, the best first, each with the fields of a tuning; whatever else runs goes first."""
    niceness = []  # that of this process could not be taken back, and the tests after this one have it, too
    monkeypatch.setattr(os, "nice", niceness.append)
    monkeypatch.setattr(sys, "argv", ["tuning", str(tiny.export), "64"])
    speech.engine.tuning._main()
    assert niceness == [19]
    printed = json.loads(capsys.readouterr().out)
    products = [result["clip_s"] * result["crowd_s"] for result in printed]
    assert products == sorted(products)
    assert {Tuning(**result["tuning"]).batch for result in printed} == {1, 2, 4}


def test_what_was_written_is_read(tmp_path):
    """A tuning survives a restart, in a folder that was not there."""
    path = tmp_path / "a" / "b" / "tuning.json"
    tuning = Tuning("float32", workers=3, threads=2, batch=16)
    write_cached(path, Tuning())
    write_cached(path, tuning)
    assert read_cached(path) == tuning
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        "7",
        "{}",
        '{"workers": 2}',
        '{"compute_type": "int8", "workers": 1, "threads": 2, "batch": 8, "horses": 4}',
        '{"compute_type": "int8", "workers": "many", "threads": 2, "batch": 8}',
        '{"compute_type": "int8", "workers": 1, "threads": 2.5, "batch": 8}',
        '{"compute_type": "int8", "workers": 0, "threads": 2, "batch": 8}',
        '{"compute_type": "int8", "workers": 1, "threads": true, "batch": 8}',
        '{"compute_type": "int8", "workers": 1, "threads": 2, "batch": -8}',
        '{"compute_type": "int4", "workers": 1, "threads": 2, "batch": 8}',
        '{"compute_type": ["int8"], "workers": 1, "threads": 2, "batch": 8}',
    ],
)
def test_what_is_damaged_or_foreign_is_no_tuning(tmp_path, text):
    """An engine is never loaded with half an answer, or with what only looks like one."""
    path = tmp_path / "tuning.json"
    path.write_text(text)
    assert read_cached(path) is None


def test_what_cannot_be_read_is_no_tuning(tmp_path):
    """No file, a folder in its place, or bytes that are no text."""
    assert read_cached(tmp_path / "missing.json") is None
    assert read_cached(tmp_path) is None
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    assert read_cached(tmp_path / "bytes.json") is None


def test_half_a_tuning_is_never_seen(tmp_path, monkeypatch):
    """If writing ends half way, what was there before is still there, whole."""
    path = tmp_path / "tuning.json"
    write_cached(path, Tuning("float32"))
    replaced = []

    def look(partial, target):
        replaced.append(partial)
        assert target == path
        assert read_cached(path) == Tuning("float32")  # the old one, until the new one is whole
        assert read_cached(partial) == Tuning("int8")
        raise OSError("power failure")

    monkeypatch.setattr(Path, "replace", look)
    with pytest.raises(OSError, match="power"):
        write_cached(path, Tuning("int8"))
    assert len(replaced) == 1
    assert read_cached(path) == Tuning("float32")


def test_each_version_context_and_machine_has_its_own(tmp_path, monkeypatch):
    """A tuning is kept for what it was measured with, and found again by the same."""
    ours = cache_file(tmp_path, "a" * 64, 160)
    assert cache_file(tmp_path, "a" * 64, 160) == ours
    assert ours.is_relative_to(tmp_path)
    others = [cache_file(tmp_path, "b" * 64, 160), cache_file(tmp_path, "a" * 64, 1500)]
    for name, value in (("processor", "another"), ("cores", 1234)):
        with monkeypatch.context() as patch:
            patch.setattr(speech.engine.tuning, name, lambda value=value: value)
            others.append(cache_file(tmp_path, "a" * 64, 160))
    monkeypatch.setattr(speech.engine.tuning.ctranslate2, "__version__", "0")
    others.append(cache_file(tmp_path, "a" * 64, 160))
    assert len({ours, *others}) == 6
