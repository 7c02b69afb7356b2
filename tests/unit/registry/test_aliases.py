"""Aliases: moved by compare-and-swap, logged, and swapped back by a rollback."""

import multiprocessing
import os
import threading
from pathlib import Path

import pytest

from registry import (
    AliasConflictError,
    DamagedRecordError,
    InvalidNameError,
    NotFoundError,
    Registry,
    RegistryError,
    hash_file,
)


def move(registry, alias, version, expected, **more):
    """Move an alias of the model tiny."""
    return registry.move_alias("tiny", alias, version, expected=expected, reason="test", **more)


def test_an_alias_names_its_version(registry, publish):
    """A moved alias resolves to its version and says when, why and to what it moved."""
    version = publish()
    alias = registry.move_alias("tiny", "production", version.id, expected=None, reason="first one")
    assert registry.resolve("tiny@production") == version
    assert registry.alias("tiny", "production") == alias
    assert registry.aliases("tiny") == {"production": alias}
    assert (alias.version, alias.reason, alias.seq, alias.verdict) == (version.id, "first one", 1, None)
    assert alias.manifest_sha256 == hash_file(version.path / "manifest.json")
    assert alias.moved_at.tzinfo is not None


def test_a_move_needs_the_right_expectation(registry, publish):
    """A caller whose belief is out of date moves nothing, and learns what is there."""
    old, new = publish(), publish("second")
    move(registry, "candidate", old.id, None)
    for expected in (None, new.id, "nonsense"):
        with pytest.raises(AliasConflictError) as caught:
            move(registry, "candidate", new.id, expected)
        assert (caught.value.expected, caught.value.found) == (expected, old.id)
    with pytest.raises(AliasConflictError, match="no such alias"):
        move(registry, "canary", new.id, old.id)
    assert registry.resolve("tiny@candidate") == old
    assert len(registry.log("tiny")) == 1


def test_moving_production_keeps_the_old_as_previous(registry, publish):
    """Previous follows production, and one log entry tells of both."""
    one, two, three = (publish(text) for text in ("one", "two", "three"))
    move(registry, "production", one.id, None)
    assert registry.alias("tiny", "previous") is None
    move(registry, "production", two.id, one.id)
    move(registry, "production", three.id, two.id)
    assert registry.resolve("tiny@production") == three
    assert registry.resolve("tiny@previous") == two
    last = registry.log("tiny")[-1]
    assert [(c.alias, c.before, c.after) for c in last.changes] == [
        ("production", two.id, three.id),
        ("previous", one.id, two.id),
    ]
    assert registry.alias("tiny", "previous").seq == last.seq


def test_a_move_is_durable_step_by_step(registry, publish, monkeypatch):
    """The log is on the disk before production's file is replaced, and that before previous's."""
    one, two = publish("one"), publish("two")
    move(registry, "production", one.id, None)
    steps = []
    replace = os.replace

    def record_replace(source, target):
        steps.append(f"replace {Path(target).name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", lambda handle: steps.append(Path(f"/proc/self/fd/{handle}").readlink().name))
    monkeypatch.setattr(os, "replace", record_replace)
    move(registry, "production", two.id, one.id)
    steps = ["temporary" if step.endswith(".tmp") else step for step in steps]
    assert steps == [
        *("log.jsonl", "tiny"),
        *("temporary", "replace production.json", "aliases"),
        *("temporary", "replace previous.json", "aliases"),
    ]


def test_other_aliases_leave_previous_alone(registry, publish):
    """Only production has a previous."""
    one, two = publish("one"), publish("two")
    for alias in ("candidate", "canary", "shadow"):
        move(registry, alias, one.id, None)
        move(registry, alias, two.id, one.id)
    assert registry.alias("tiny", "previous") is None
    assert list(registry.aliases("tiny")) == ["candidate", "canary", "shadow"]


def test_moving_an_alias_to_where_it_is_changes_nothing(registry, publish):
    """A repeated move is no move: previous stays, and the log stays."""
    one, two = publish("one"), publish("two")
    move(registry, "production", one.id, None)
    first = move(registry, "production", two.id, one.id)
    assert move(registry, "production", two.id, two.id) == first
    assert registry.resolve("tiny@previous") == one
    assert len(registry.log("tiny")) == 2


def test_an_alias_cannot_name_what_does_not_exist(registry, publish):
    """Unknown versions, aliases and verdicts are refused before anything is written."""
    version = publish()
    with pytest.raises(NotFoundError, match=version.id):
        move(registry, "production", "20200101T000000Z-00000000", None)
    with pytest.raises(InvalidNameError):
        move(registry, "prod", version.id, None)
    with pytest.raises(InvalidNameError):
        move(registry, "production", "../x", None)
    with pytest.raises(NotFoundError, match="verdict"):
        move(registry, "production", version.id, None, verdict="../../etc/passwd")
    assert registry.aliases("tiny") == {}
    assert registry.log("tiny") == []


def test_a_move_names_the_verdict_that_allowed_it(registry, publish):
    """The verdict's file name is in the alias and in the log."""
    old, new = publish(), publish("second")
    path = registry.record_verdict("tiny", new.id, old.id, {"pass": True})
    alias = move(registry, "production", new.id, None, verdict=path.name)
    assert alias.verdict == path.name
    assert registry.log("tiny")[-1].verdict == path.name


def test_rollback_swaps_production_and_previous(registry, publish):
    """Rolling back twice is where we were, and each step is in the log."""
    one, two = publish("one"), publish("two")
    move(registry, "production", one.id, None)
    move(registry, "production", two.id, one.id)
    assert registry.rollback("tiny", reason="errors rose").version == one.id
    assert registry.resolve("tiny@production") == one
    assert registry.resolve("tiny@previous") == two
    assert registry.log("tiny")[-1].reason == "errors rose"
    assert registry.rollback("tiny", reason="again").version == two.id
    assert registry.resolve("tiny@previous") == one
    registry.verify_log("tiny")


def test_rollback_needs_a_previous_version(registry, publish):
    """With nothing to roll back to, the message says so and nothing moves."""
    version = publish()
    with pytest.raises(NotFoundError, match="roll back"):
        registry.rollback("tiny", reason="r")
    move(registry, "production", version.id, None)
    with pytest.raises(NotFoundError, match="there is: production"):
        registry.rollback("tiny", reason="r")
    assert registry.resolve("tiny@production") == version


def test_rollback_to_a_damaged_version_is_refused(registry, publish):
    """A rollback never puts damaged bytes into production."""
    one, two = publish("one"), publish("two")
    move(registry, "production", one.id, None)
    move(registry, "production", two.id, one.id)
    (one.path / "config.json").unlink()
    with pytest.raises(RegistryError, match=r"config\.json"):
        registry.rollback("tiny", reason="r")
    assert registry.resolve("tiny@production") == two


@pytest.mark.parametrize("content", [b"", b"{}", b"nonsense", b'{"alias": "candidate"}'])
def test_a_damaged_alias_is_an_error_and_not_absent(registry, publish, content):
    """An alias file that cannot be read is never taken for an alias that does not exist."""
    version = publish()
    move(registry, "production", version.id, None)
    path = registry.root / "models" / "tiny" / "aliases" / "production.json"
    path.write_bytes(content)
    with pytest.raises(DamagedRecordError, match="tiny@production"):
        registry.resolve("tiny@production")


def test_an_alias_file_under_another_name_is_damage(registry, publish):
    """Copying candidate's file over production's does not promote it."""
    old, new = publish(), publish("second")
    move(registry, "production", old.id, None)
    move(registry, "candidate", new.id, None)
    folder = registry.root / "models" / "tiny" / "aliases"
    (folder / "production.json").write_bytes((folder / "candidate.json").read_bytes())
    with pytest.raises(DamagedRecordError, match="says it is candidate"):
        registry.resolve("tiny@production")


def test_of_racing_threads_exactly_one_wins(registry, publish):
    """Eight threads with the same expectation: one moves the alias, seven are told."""
    start = publish("start")
    targets = [publish(f"t{i}") for i in range(8)]
    move(registry, "production", start.id, None)
    barrier, won, lost = threading.Barrier(8), [], []

    def race(target):
        barrier.wait()
        try:
            won.append(move(Registry(registry.root), "production", target.id, start.id).version)
        except AliasConflictError as error:
            lost.append(error.found)

    threads = [threading.Thread(target=race, args=(target,)) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)
    assert set(lost) == set(won)
    assert registry.resolve("tiny@production").id == won[0]
    assert len(registry.log("tiny")) == 2
    registry.verify_log("tiny")


def _race(root, target, expected, barrier, results):
    barrier.wait()
    try:
        move(Registry(root), "candidate", target, expected)
        results.put("won")
    except AliasConflictError:
        results.put("lost")


def test_of_racing_processes_exactly_one_wins(registry, publish):
    """Two processes with the same expectation: one moves the alias, one is told; ten times over."""
    context = multiprocessing.get_context("fork")
    one, two = publish("one"), publish("two")
    move(registry, "candidate", one.id, None)
    expected = one.id
    for _ in range(10):
        target = two.id if expected == one.id else one.id
        barrier, results = context.Barrier(2), context.Queue()
        racers = [
            context.Process(target=_race, args=(registry.root, target, expected, barrier, results)) for _ in range(2)
        ]
        for racer in racers:
            racer.start()
        outcome = sorted(results.get(timeout=30) for _ in racers)
        for racer in racers:
            racer.join()
        assert outcome == ["lost", "won"]
        expected = target
    assert len(registry.log("tiny")) == 11
    registry.verify_log("tiny")


def test_a_stamp_changes_with_each_move(registry, publish):
    """Who follows an alias looks at its stamp: none before there is an alias, another after each move, and no other."""
    assert registry.alias_stamp("tiny", "production") is None
    first, second = publish("first"), publish("second")
    stamps = []
    for version, expected in ((first, None), (second, first.id), (first, second.id)):
        registry.move_alias("tiny", "production", version.id, expected=expected, reason="test")
        stamps.append(registry.alias_stamp("tiny", "production"))
        assert registry.alias_stamp("tiny", "production") == stamps[-1]
    assert len(set(stamps)) == 3
    assert registry.alias_stamp("tiny", "canary") is None
