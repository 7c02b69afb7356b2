"""benchmarks/results/latest.json has one form."""

import json

import pytest
from pydantic import ValidationError

from benchmarks.entries import LATEST, merge, read_entries, write_entries
from benchmarks.run import ORDER

PUBLIC = {"measure", "value", "unit", "against", "target", "met", "rounds", "wer"}


def test_results_are_a_list_with_the_promised_keys(tmp_path, entry):
    """Every object has measure, value, unit, against, target, met, rounds and wer."""
    path = tmp_path / "latest.json"
    write_entries([entry(), entry("start_to_ready", wer=None)], path)
    content = json.loads(path.read_text(encoding="utf-8"))
    assert all(set(row) >= PUBLIC for row in content)
    assert content[1]["wer"] is None


def test_results_are_read_as_they_were_written(tmp_path, entry):
    """Nothing is lost on the way through the file."""
    entries = [entry(detail={"rows": [{"low": 0.5}]}), entry("peers", target=None, met=None)]
    write_entries(entries, tmp_path / "latest.json")
    assert read_entries(tmp_path / "latest.json") == entries


def test_an_unknown_key_is_refused(tmp_path, entry):
    """A misspelt key is an error, not a figure that nobody sees."""
    path = tmp_path / "latest.json"
    path.write_text(json.dumps([{**entry().model_dump(), "valeu": 1.0}]), encoding="utf-8")
    with pytest.raises(ValidationError):
        read_entries(path)


def test_the_results_in_the_repository_are_valid():
    """What `make bench` left behind last has today's form, and only measures that exist."""
    assert {entry.measure for entry in read_entries(LATEST)} <= set(ORDER)


def test_one_measure_replaces_its_own_entries_only(entry):
    """`--only` leaves the other figures as they were, in the usual order."""
    old = [entry("a"), entry("b", value=1.0), entry("c")]
    merged = merge(old, [entry("b", value=2.0)], ["a", "b", "c"])
    assert [(one.measure, one.value) for one in merged] == [("a", 12.5), ("b", 2.0), ("c", 12.5)]
