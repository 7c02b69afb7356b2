"""A writer may stop at any moment: readers see old or new, never between, and a retry succeeds.

Each promise is tried twice: with every call that touches the disk failing once (the disk is full),
and with the process ending there and then, so that nothing is cleaned up (kill -9).
"""

import contextlib
import errno
import multiprocessing
import os
from datetime import timedelta

import pytest

from registry import AliasConflictError, Registry, RegistryError

CALLS = ("fsync", "rename", "replace", "mkdir", "chmod")
CONTEXT = {"elastic": True, "margin": 50}


class Disk:
    """Counts the calls that touch the disk, and stops the writer at the k-th."""

    def __init__(self, monkeypatch, k, stop):
        self.calls, self.k, self.stop = 0, k, stop
        for name in CALLS:
            monkeypatch.setattr(os, name, self.wrap(getattr(os, name)))

    def wrap(self, real):
        """Stop instead of the k-th call; all others are done."""

        def call(*args, **kwargs):
            self.calls += 1
            if self.calls == self.k:
                self.stop()
            return real(*args, **kwargs)

        return call


def disk_full():
    """Fail as a full disk does."""
    raise OSError(errno.ENOSPC, "No space left on device")


def die():
    """End the process as kill -9 does."""
    os._exit(9)


def stopped_at(k, how, work):
    """Do the work with a disk that stops at call k; tell whether there was such a call."""
    if how == "full disk":
        with pytest.MonkeyPatch.context() as monkeypatch:
            disk = Disk(monkeypatch, k, disk_full)
            # Making a folder that is there already may fail without consequence.
            with contextlib.suppress(RegistryError):
                work()
            return disk.calls >= k

    def child():
        with pytest.MonkeyPatch.context() as monkeypatch:
            Disk(monkeypatch, k, die)
            work()

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    assert process.exitcode in {0, 9}
    return process.exitcode == 9


def check_whole(registry):
    """Check that whatever a reader finds is whole."""
    for name in registry.models():
        for version in registry.versions(name):
            registry.verify(version)
        for alias in registry.aliases(name):
            registry.verify(registry.resolve(f"{name}@{alias}"))
        registry.verify_log(name)


@pytest.mark.parametrize("how", ["full disk", "kill -9"])
def test_publish_is_all_or_nothing(tmp_path, make_source, how):
    """Stopped at any call, a publication leaves the old versions, or the new one whole; then it can be repeated."""
    old_source, source = make_source("old"), make_source("new")
    for k in range(1, 1000):
        registry = Registry(tmp_path / f"registry-{k}")
        old = registry.publish("tiny", old_source, context=CONTEXT)
        stopped = stopped_at(k, how, lambda: registry.publish("tiny", source, context=CONTEXT))  # noqa: B023
        check_whole(registry)
        assert registry.versions("tiny")[0] == old
        if how == "full disk":
            assert list((registry.root / ".tmp").iterdir()) == []

        new = registry.publish("tiny", source, context=CONTEXT)
        assert registry.versions("tiny") == [old, new]
        check_whole(registry)
        registry.collect_garbage(timedelta(seconds=-1))
        assert list((registry.root / ".tmp").iterdir()) == []
        assert registry.versions("tiny") == [old, new]
        if not stopped:
            break
    assert k > 15


@pytest.mark.parametrize("how", ["full disk", "kill -9"])
def test_the_first_publication_is_all_or_nothing(tmp_path, make_source, how):
    """Stopped at any call, the very first publication leaves an empty registry, or one with a whole version."""
    source = make_source()
    for k in range(1, 1000):
        registry = Registry(tmp_path / f"registry-{k}")
        stopped = stopped_at(k, how, lambda: registry.publish("tiny", source, context=CONTEXT))  # noqa: B023
        check_whole(registry)
        new = registry.publish("tiny", source, context=CONTEXT)
        assert registry.versions("tiny") == [new]
        if not stopped:
            break
    assert k > 15


@pytest.mark.parametrize("retry", ["the same call", "after looking again"])
@pytest.mark.parametrize("how", ["full disk", "kill -9"])
@pytest.mark.parametrize("alias", ["production", "candidate"])
def test_an_alias_move_is_all_or_nothing(tmp_path, make_source, how, alias, retry):
    """Stopped at any call, a move leaves the alias old or new, and a retry ends where the move was to end."""
    for k in range(1, 1000):
        registry = Registry(tmp_path / f"registry-{k}")
        zero, one, two = (registry.publish("tiny", make_source(t), context={}).id for t in ("zero", "one", "two"))
        registry.move_alias("tiny", alias, zero, expected=None, reason="setup")
        registry.move_alias("tiny", alias, one, expected=zero, reason="setup")

        def move(expected):
            return registry.move_alias("tiny", alias, two, expected=expected, reason="the move")  # noqa: B023

        stopped = stopped_at(k, how, lambda: move(one))  # noqa: B023
        check_whole(registry)
        seen = registry.alias("tiny", alias).version
        assert seen in {one, two}
        assert stopped or seen == two

        if retry == "after looking again":
            move(seen)
        elif seen == one:
            move(one)
        else:
            with pytest.raises(AliasConflictError) as caught:
                move(one)
            assert caught.value.found == two
        check_whole(registry)
        assert registry.alias("tiny", alias).version == two
        if alias == "production":
            assert registry.alias("tiny", "previous").version == one
            assert registry.rollback("tiny", reason="back").version == one
            assert registry.alias("tiny", "previous").version == two
            check_whole(registry)
        if not stopped:
            break
    assert k > 4


@pytest.mark.parametrize("how", ["full disk", "kill -9"])
def test_a_rollback_is_all_or_nothing(tmp_path, make_source, how):
    """Stopped at any call, a rollback leaves production old or new, and production and previous stay a pair."""
    for k in range(1, 1000):
        registry = Registry(tmp_path / f"registry-{k}")
        one, two = (registry.publish("tiny", make_source(t), context={}).id for t in ("one", "two"))
        registry.move_alias("tiny", "production", one, expected=None, reason="setup")
        registry.move_alias("tiny", "production", two, expected=one, reason="setup")
        stopped = stopped_at(k, how, lambda: registry.rollback("tiny", reason="back"))  # noqa: B023
        check_whole(registry)
        seen = registry.alias("tiny", "production").version
        assert registry.rollback("tiny", reason="again").version == ({one, two} - {seen}).pop()
        assert registry.alias("tiny", "previous").version == seen
        check_whole(registry)
        if not stopped:
            break
    assert k > 4


def test_a_stopped_move_never_takes_effect_later(registry, publish, monkeypatch):
    """A move that failed before its alias was replaced is undone in the log by the next writer, not done by it."""
    one, two = publish("one"), publish("two")
    registry.move_alias("tiny", "production", one.id, expected=None, reason="setup")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: disk_full())
        with pytest.raises(RegistryError, match="No space"):
            registry.move_alias("tiny", "production", two.id, expected=one.id, reason="failed")
    assert [entry.reason for entry in registry.log("tiny")] == ["setup", "failed"]
    registry.verify_log("tiny")

    registry.move_alias("tiny", "candidate", two.id, expected=None, reason="something else")
    assert registry.resolve("tiny@production") == one
    entries = registry.log("tiny")
    assert [(entry.seq, entry.undoes) for entry in entries] == [(1, None), (2, None), (3, 2), (4, None)]
    registry.verify_log("tiny")


@pytest.mark.parametrize("how", ["full disk", "kill -9"])
def test_a_verdict_is_all_or_nothing(tmp_path, make_source, how):
    """Stopped at any call, recording leaves no verdict or a whole one, and a retry adds one."""
    for k in range(1, 1000):
        registry = Registry(tmp_path / f"registry-{k}")
        version = registry.publish("tiny", make_source(), context={})
        registry.record_verdict("tiny", version.id, "base", {"first": True})
        stopped = stopped_at(k, how, lambda: registry.record_verdict("tiny", version.id, "base", {"pass": True}))  # noqa: B023
        before = registry.verdicts("tiny")
        assert registry.verdict("tiny", before[0].name) == {"first": True}
        assert all(registry.verdict("tiny", path.name) == {"pass": True} for path in before[1:])
        path = registry.record_verdict("tiny", version.id, "base", {"pass": True})
        assert registry.verdicts("tiny") == [*before, path]
        if not stopped:
            break
    assert k > 2


def test_readers_beside_a_publisher_see_only_whole_versions(tmp_path, make_source):
    """A process that keeps listing and verifying while another publishes never finds half a version."""
    registry = Registry(tmp_path / "registry")
    sources = [make_source(f"s{i}") for i in range(20)]

    def publish_all():
        for source in sources:
            registry.publish("tiny", source, context={})

    writer = multiprocessing.get_context("fork").Process(target=publish_all)
    writer.start()
    while writer.is_alive():
        check_whole(registry)
    writer.join()
    assert writer.exitcode == 0
    assert len(registry.versions("tiny")) == 20
