"""Verdicts: kept for good, numbered, and never overwritten."""

import threading

import pytest

from registry import DamagedRecordError, InvalidNameError, NotFoundError, RegistryError


def test_verdicts_count_up_and_stay(registry, publish):
    """Each verdict on the same two versions gets the next number; the earlier ones stay as they were."""
    old, new = publish(), publish("second")
    paths = [registry.record_verdict("tiny", new.id, old.id, {"round": i}) for i in range(12)]
    assert [path.name for path in paths] == [f"{new.id}-vs-{old.id}-{i}.json" for i in range(1, 13)]
    assert registry.verdicts("tiny") == paths
    assert [registry.verdict("tiny", path.name) for path in paths] == [{"round": i} for i in range(12)]


def test_a_gap_is_not_filled(registry, publish):
    """A removed verdict's number is not given to another unless it was the last."""
    version = publish()
    paths = [registry.record_verdict("tiny", version.id, "base", {}) for _ in range(3)]
    paths[0].unlink()
    assert registry.record_verdict("tiny", version.id, "base", {}).name.endswith("-4.json")


def test_writers_at_once_lose_nothing(registry, publish):
    """Eight threads that record at once leave eight verdicts."""
    version = publish()
    threads = [
        threading.Thread(target=registry.record_verdict, args=("tiny", version.id, "base", {"i": i})) for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    recorded = [registry.verdict("tiny", path.name)["i"] for path in registry.verdicts("tiny")]
    assert sorted(recorded) == list(range(8))


def test_verdicts_are_on_versions_that_exist(registry, publish):
    """The candidate must exist, and the base must at least be an id."""
    version = publish()
    with pytest.raises(NotFoundError):
        registry.record_verdict("tiny", "20200101T000000Z-00000000", version.id, {})
    with pytest.raises(InvalidNameError):
        registry.record_verdict("tiny", version.id, "../base", {})
    assert registry.verdicts("tiny") == []


@pytest.mark.parametrize("verdict", [{"wer": float("nan")}, {"x": object()}])
def test_what_json_cannot_hold_is_refused(registry, publish, verdict):
    """A verdict that could not be read back is not written."""
    version = publish()
    with pytest.raises(RegistryError, match="JSON"):
        registry.record_verdict("tiny", version.id, "base", verdict)
    assert registry.verdicts("tiny") == []


@pytest.mark.parametrize("name", ["", "..", "../../log.jsonl", "/etc/passwd", "none.json"])
def test_only_listed_verdicts_can_be_read(registry, publish, name):
    """A file name that is not listed is refused, wherever it would lead."""
    publish()
    with pytest.raises(NotFoundError, match="verdict"):
        registry.verdict("tiny", name)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"[]", b"\xff"])
def test_a_damaged_verdict_is_an_error(registry, publish, content):
    """A verdict that is no JSON object is not taken for an answer."""
    version = publish()
    path = registry.record_verdict("tiny", version.id, "base", {"pass": True})
    path.write_bytes(content)
    with pytest.raises(DamagedRecordError, match=path.name):
        registry.verdict("tiny", path.name)
