"""docs/training/failures.md: all of the known failures are there; and the tests that training's pages name exist."""

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "training" / "failures.md").read_text(encoding="utf-8")
N_FAILURES = 43
PROMISES = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")


def rows():
    """Return the page's rows: number, failure, what is done, tests."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line[:2] == "| "]
    return [row for row in cells if row[0].isdigit()]


def test_every_failure_has_a_row_of_its_own():
    """Forty-three of them, each once, each with something done about it."""
    assert sorted(int(row[0]) for row in rows()) == list(range(1, N_FAILURES + 1))
    assert all(len(row) == 4 and all(row) for row in rows())


@pytest.fixture(scope="module")
def written():
    """Return how often each file name and test is there."""
    return Counter(
        (path.name, test)
        for path in (ROOT / "tests").rglob("test_*.py")
        for test in re.findall(r"^def (test_\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE)
    )


def test_every_named_test_exists(written):
    """Whoever renames a test, or takes one away, hears of it here; and of a name that could be one of two."""
    for number, *_, named in rows():
        tests = re.findall(r"`(\w+\.py)::(\w+)`", named)
        assert tests, number
        assert {test: written[test] for test in tests} == dict.fromkeys(tests, 1), number


def test_every_promise_names_tests_that_exist(written):
    """Each row of the table of promises has one at least."""
    table = PROMISES.split("## What it promises")[1]
    promises = [line for line in table.splitlines() if line.startswith("| ") and not line.startswith("| promise")]
    assert len(promises) >= 10
    for line in promises:
        tests = re.findall(r"`(\w+\.py)::(\w+)`", line)
        assert tests, line
        assert {test: written[test] for test in tests} == dict.fromkeys(tests, 1), line
