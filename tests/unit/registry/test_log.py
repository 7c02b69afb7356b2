"""The log: every move is there, and no other hand's edit goes unnoticed."""

import json

import pytest

from registry import DamagedRecordError
from registry.log import FIRST


@pytest.fixture
def moved(registry, publish):
    """A model whose production moved four times."""
    versions = [publish(f"v{i}") for i in range(4)]
    expected = None
    for i, version in enumerate(versions):
        registry.move_alias("tiny", "production", version.id, expected=expected, reason=f"move {i}")
        expected = version.id
    return registry


def path(registry):
    """The log's file."""
    return registry.root / "models" / "tiny" / "log.jsonl"


def lines(registry):
    """The log's lines."""
    return path(registry).read_bytes().splitlines(keepends=True)


def test_every_move_is_logged_in_order(moved):
    """The log tells of each move once, oldest first, and the chain starts at 64 zeros."""
    entries = moved.log("tiny")
    assert [entry.seq for entry in entries] == [1, 2, 3, 4]
    assert [entry.reason for entry in entries] == [f"move {i}" for i in range(4)]
    assert entries[0].prev_sha256 == FIRST == "0" * 64
    moved.verify_log("tiny")


def test_an_empty_log_is_fine(registry, publish):
    """A model whose aliases never moved has an empty, valid log."""
    publish()
    assert registry.log("tiny") == []
    registry.verify_log("tiny")


@pytest.mark.parametrize("number", range(3))
def test_a_changed_line_breaks_the_chain(moved, number):
    """Rewriting the reason of any move but the last is found at the line after it."""
    content = lines(moved)
    content[number] = content[number].replace(b"move ", b"hack ")
    path(moved).write_bytes(b"".join(content))
    with pytest.raises(DamagedRecordError, match=f"line {number + 2}"):
        moved.verify_log("tiny")


@pytest.mark.parametrize("number", range(4))
def test_a_removed_line_is_found(moved, number):
    """A missing line is found, the last included, since its alias still speaks of it."""
    content = lines(moved)
    del content[number]
    path(moved).write_bytes(b"".join(content))
    with pytest.raises(DamagedRecordError):
        moved.verify_log("tiny")


def test_a_removed_log_is_found(moved):
    """Aliases without the log that put them there are found."""
    path(moved).unlink()
    with pytest.raises(DamagedRecordError, match="which the log does not say"):
        moved.verify_log("tiny")


def test_swapped_and_repeated_lines_are_found(moved):
    """The order of the moves is part of the chain."""
    content = lines(moved)
    for forged in ([1, 0, 2, 3], [0, 1, 1, 2, 3], [0, 1, 2, 3, 3]):
        path(moved).write_bytes(b"".join(content[i] for i in forged))
        with pytest.raises(DamagedRecordError, match="does not continue"):
            moved.verify_log("tiny")


@pytest.mark.parametrize("change", [{"reason": "no reason"}, {"moved_at": "2020-01-01T00:00:00Z"}, {"changes": []}])
def test_a_rewritten_last_line_is_found_by_its_alias(moved, change):
    """The last line has no successor to betray it, but the alias disagrees."""
    content = lines(moved)
    entry = json.loads(content[-1])
    entry.update(change)
    content[-1] = json.dumps(entry).encode() + b"\n"
    path(moved).write_bytes(b"".join(content))
    with pytest.raises(DamagedRecordError, match="tiny@production"):
        moved.verify_log("tiny")


def test_an_alias_moved_by_hand_is_found(moved):
    """Editing an alias's file does not pass for a move."""
    file = moved.root / "models" / "tiny" / "aliases" / "production.json"
    alias = json.loads(file.read_bytes())
    alias["version"] = moved.log("tiny")[0].changes[0].after
    file.write_text(json.dumps(alias))
    with pytest.raises(DamagedRecordError, match="tiny@production"):
        moved.verify_log("tiny")


def test_a_deleted_alias_is_found(moved):
    """An alias that the log moved cannot vanish."""
    moved.move_alias("tiny", "shadow", moved.version_ids("tiny")[0], expected=None, reason="r")
    (moved.root / "models" / "tiny" / "aliases" / "production.json").unlink()
    with pytest.raises(DamagedRecordError, match="no such alias"):
        moved.verify_log("tiny")


@pytest.mark.parametrize("garbage", [b"nonsense\n", b"{}\n", b"\n", b"\xff\n"])
def test_a_line_that_is_no_entry_is_found(moved, garbage):
    """Whatever is appended by another hand is an error that names its line."""
    with path(moved).open("ab") as file:
        file.write(garbage)
    for call in (moved.log, moved.verify_log):
        with pytest.raises(DamagedRecordError, match="line 5"):
            call("tiny")


def test_a_line_that_was_never_finished_is_ignored_and_cut_off(moved):
    """A last line without its newline was never written: readers skip it, the next writer removes it."""
    with path(moved).open("ab") as file:
        file.write(b'{"seq": 5, "mov')
    assert len(moved.log("tiny")) == 4
    moved.verify_log("tiny")
    moved.rollback("tiny", reason="after the crash")
    assert [entry.seq for entry in moved.log("tiny")] == [1, 2, 3, 4, 5]
    moved.verify_log("tiny")


def test_an_old_damaged_line_does_not_stop_a_rollback(moved):
    """In an emergency the last good line is enough, and the damage stays visible."""
    content = lines(moved)
    content[0] = b"damaged\n"
    path(moved).write_bytes(b"".join(content))
    before = moved.alias("tiny", "previous").version
    assert moved.rollback("tiny", reason="emergency").version == before
    with pytest.raises(DamagedRecordError, match="line 1"):
        moved.verify_log("tiny")
