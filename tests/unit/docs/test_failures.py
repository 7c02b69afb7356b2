"""docs/training/failures.md: all of the known failures are there, and the tests that it names exist."""

import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "training" / "failures.md").read_text(encoding="utf-8")
N_FAILURES = 43


def rows():
    """Return the page's rows: number, failure, what is done, tests."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line[:2] == "| "]
    return [row for row in cells if row[0].isdigit()]


def test_every_failure_has_a_row_of_its_own():
    """Forty-three of them, each once, each with something done about it."""
    assert sorted(int(row[0]) for row in rows()) == list(range(1, N_FAILURES + 1))
    assert all(len(row) == 4 and all(row) for row in rows())


def test_every_named_test_exists():
    """Whoever renames a test, or takes one away, hears of it here; and of a name that could be one of two."""
    written = Counter(
        (path.name, test)
        for path in (ROOT / "tests").rglob("test_*.py")
        for test in re.findall(r"^def (test_\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE)
    )
    for number, *_, named in rows():
        tests = re.findall(r"`(\w+\.py)::(\w+)`", named)
        assert tests, number
        assert {test: written[test] for test in tests} == dict.fromkeys(tests, 1), number
