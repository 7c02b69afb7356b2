"""The command line."""

import pytest
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.run import MEASURES, ORDER, describe
from registry import NotFoundError
from training.shell import StepError


def test_an_unknown_measure_is_refused_before_anything_is_installed(tmp_path):
    """The message lists the measures that there are."""
    arguments = ["run", "--only", "speed", "--runs", str(tmp_path)]
    with pytest.raises(StepError, match=r"no measure 'speed'.*engine_throughput"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert list(tmp_path.iterdir()) == []


def test_another_version_than_the_demonstrations_is_not_made(tmp_path):
    """A name that is not in the registry is an error, not half an hour of training another."""
    arguments = ["run", "--model", "mine@production", "--runs", str(tmp_path)]
    with pytest.raises(NotFoundError, match="mine"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_help_names_the_options():
    """`--only`, `--full` and `--fresh` are found without reading the code."""
    shown = CliRunner().invoke(app, ["run", "--help"], env={"COLUMNS": "120", "NO_COLOR": "1"}).output
    assert all(option in shown for option in ("--only", "--full", "--fresh", "--runs"))


def test_every_measure_has_its_place():
    """Whatever is measured is in the document's order, by its own name or those of its entries."""
    assert set(MEASURES) - set(ORDER) == {"memory"}  # its entries are memory_idle and memory_busy


def test_a_result_is_one_line(entry):
    """The figure, its target, the verdict and both sides."""
    line = describe(entry(met=False))
    assert "12.5 x (target >= 10): NOT met (ours 25, theirs 2 s of audio / s)" in line
