"""The loop's demonstration, beside what `tests/integration/test_closed_loop.py` shows: what a second one does."""

import json

import pytest

from registry import Registry
from training.gate import Bounds, Comparison
from training.loop_demo import LANGUAGE, _verdict, loop_demo
from training.shell import Shell, StepError

REPORT = {
    "before": "loop@before",
    "corrected_clips": 120,
    "exact_before": 0.5,
    "exact_after": 0.9,
    "held_out_clips": 96,
    "wer_before": 0.135,
    "wer_after": 0.075,
    "wer_difference": [-0.06, -0.092, -0.029],
    "requests_meanwhile": 73,
    "requests_failed": 0,
    "versions_that_answered": [],
}


@pytest.fixture
def closed(tmp_path):
    """Return a registry whose `loop@production` came of a loop that was closed, and the folder of all runs."""
    store = Registry(tmp_path / "registry")
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text("{}")
    version = store.publish("loop", source, context={"elastic": False, "margin": 0})
    store.move_alias("loop", "production", version.id, expected=None, reason="it was closed")
    folder = tmp_path / "runs" / "loop-demo"
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps({**REPORT, "after": version.ref}))
    return store, tmp_path / "runs"


def test_a_loop_that_was_closed_is_told_again(closed, capsys):
    """What came of it is still in production: it could not be bettered by the same clips. How to begin anew is said."""
    store, runs = closed
    report = loop_demo(store.root, runs, 8700, Shell())
    assert report["exact_after"] == 0.9
    printed = capsys.readouterr().out
    assert "90 %" in printed
    assert "registry rollback loop" in printed


def test_unseen_clips_are_told_by_the_gate(closed, tmp_path):
    """The figures of the verdict that put the version into production, whatever else it says; none is an error."""
    store, _ = closed
    with pytest.raises(StepError, match="not promoted by a verdict"):
        _verdict(store)
    rates = [Bounds(value=value, low=value - 0.03, high=value + 0.03) for value in (0.135, 0.075, -0.06)]
    unseen = Comparison(clips=96, base=rates[0], candidate=rates[1], difference=rates[2])
    before = store.resolve("loop@production")
    (tmp_path / "source" / "config.json").write_text('{"better": true}')
    version = store.publish("loop", tmp_path / "source", context={"elastic": False, "margin": 0})
    verdict = {"passed": True, "comparisons": {LANGUAGE: unseen.model_dump(mode="json")}, "notes": []}
    name = store.record_verdict("loop", version.id, before.id, verdict).name
    store.move_alias("loop", "production", version.id, expected=before.id, reason="better", verdict=name)
    assert _verdict(store) == unseen
