"""Publishing: a folder becomes an immutable version, once, whole or not at all."""

import os
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest

from registry import NotFoundError, PublishError, Registry, describe
from registry import publish as publishing

CONTEXT = {"elastic": True, "margin": 50}


def test_a_published_version_holds_the_same_files(registry, make_source):
    """Each file of the source is in the version, byte for byte, and the manifest describes it."""
    source = make_source()
    version = registry.publish(
        "tiny",
        source,
        parent="tiny@x",
        base="hub:a/b@main",
        context=CONTEXT,
        normalizer_version="3",
        extra={"run": "r1"},
    )
    assert version.path == registry.root / "models" / "tiny" / "versions" / version.id
    assert version.ref == f"tiny@{version.id}"
    assert version.manifest.files == describe(source)
    for path in version.manifest.files:
        assert (version.path / path).read_bytes() == (source / path).read_bytes()
    kept = version.manifest
    assert (kept.parent, kept.base, kept.context) == ("tiny@x", "hub:a/b@main", CONTEXT)
    assert (kept.normalizer_version, kept.extra) == ("3", {"run": "r1"})
    registry.verify(version)
    assert registry.version("tiny", version.id) == version
    assert registry.resolve(version.ref) == version


def test_published_files_are_read_only(publish):
    """No file of a version has a write permission left."""
    version = publish()
    paths = [path for path in version.path.rglob("*") if path.is_file()]
    assert len(paths) == 4
    assert all(path.stat().st_mode & 0o777 == 0o444 for path in paths)


def test_the_source_is_left_alone(make_source, publish):
    """Publishing changes neither the source's files nor their permissions."""
    source = make_source()
    before = {path: (path.stat().st_mode, path.stat().st_mtime_ns) for path in source.rglob("*")}
    publish()
    assert before == {path: (path.stat().st_mode, path.stat().st_mtime_ns) for path in source.rglob("*")}


def test_publishing_the_same_twice_gives_the_same_version(registry, publish):
    """The second time nothing is copied and the first version comes back."""
    first = publish()
    assert publish() == first
    assert registry.version_ids("tiny") == [first.id]
    assert list((registry.root / ".tmp").iterdir()) == []


@pytest.mark.parametrize("change", [{"parent": "tiny@x"}, {"base": "tiny@x"}, {"context": {"elastic": False}}])
def test_another_origin_is_another_version(registry, make_source, change):
    """The same files with another parent, base or context are published anew, even within a second."""
    first = registry.publish("tiny", make_source(), context=CONTEXT)
    second = registry.publish("tiny", make_source(), **{"context": CONTEXT, **change})
    assert registry.versions("tiny") == [first, second]
    assert registry.publish("tiny", make_source(), **{"context": CONTEXT, **change}) == second


def test_another_name_is_another_version(registry, publish):
    """Versions belong to their model alone."""
    first, second = publish(name="tiny"), publish(name="other")
    assert first.ref != second.ref
    assert registry.models() == ["other", "tiny"]


def test_a_damaged_version_is_published_again(registry, publish):
    """Publishing what was damaged since gives a whole version, and never the damaged one."""
    first = publish()
    file = first.path / "config.json"
    file.chmod(0o644)
    file.write_text("[]")
    second = publish()
    assert second.id != first.id
    registry.verify(second)


def test_versions_are_listed_oldest_first(registry, publish):
    """The order is that of publication, also within one second."""
    published = [publish(text) for text in ("one", "two", "three", "four")]
    assert registry.versions("tiny") == published


def test_a_source_with_a_manifest_is_refused(registry, make_source):
    """The registry writes the manifest itself, and never over another."""
    source = make_source()
    (source / "manifest.json").write_text("{}")
    with pytest.raises(PublishError, match=r"manifest\.json"):
        registry.publish("tiny", source, context={})
    assert registry.models() == []


def test_a_source_must_be_a_folder_with_files(registry, tmp_path):
    """Nothing, a file, or an empty folder is no version."""
    empty, file = tmp_path / "empty", tmp_path / "file"
    empty.mkdir()
    file.write_text("x")
    for source in (empty, file, tmp_path / "missing"):
        with pytest.raises(PublishError):
            registry.publish("tiny", source, context={})
    assert registry.models() == []


def test_unsafe_files_and_bad_context_publish_nothing(registry, make_source):
    """A pickle, or a context that JSON cannot hold, leaves the registry as it was."""
    with pytest.raises(PublishError):
        registry.publish("tiny", make_source(), context={"margin": float("nan")})
    (make_source() / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(PublishError, match=r"pytorch_model\.bin"):
        registry.publish("tiny", make_source(), context={})
    assert registry.models() == []
    assert not (registry.root / ".tmp").exists() or not list((registry.root / ".tmp").iterdir())


def test_a_source_that_changes_meanwhile_is_noticed(registry, make_source, monkeypatch):
    """A file that differs between hashing and copying stops the publication, by name."""
    real = publishing.copy_file

    def copy_changed(source, target, progress=None):
        if source.name == "model.safetensors":
            source.write_bytes(b"second" * 100)
        real(source, target, progress)

    monkeypatch.setattr(publishing, "copy_file", copy_changed)
    with pytest.raises(PublishError, match=r"model\.safetensors changed"):
        registry.publish("tiny", make_source(), context={})
    assert registry.models() == []


def test_progress_hears_of_each_byte_three_times(registry, make_source):
    """Hashed, copied and checked: a bar over three times the size ends full."""
    told = []
    version = registry.publish("tiny", make_source(), context={}, progress=told.append)
    assert sum(told) == 3 * version.manifest.size


def test_everything_is_on_the_disk_before_the_rename_and_the_rename_after_it(registry, make_source, monkeypatch):
    """Files, then their folders and the manifest, are forced to the disk first; the new name last."""
    steps = []
    fsync, rename = os.fsync, os.rename

    def record_fsync(handle):
        steps.append(Path(f"/proc/self/fd/{handle}").readlink())
        fsync(handle)

    def record_rename(source, target):
        steps.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "rename", record_rename)
    version = registry.publish("tiny", make_source(), context={})
    cut = steps.index("rename")
    staging = next(step for step in steps[:cut] if step.parent.name == ".tmp")
    before = [step.relative_to(staging).as_posix() for step in steps[:cut] if step.is_relative_to(staging)]
    assert {*version.manifest.files, "ctranslate2", "."} <= set(before)
    assert before[-2:] == ["manifest.json", "."]
    assert steps[cut + 1 :] == [version.path.parent, *list(version.path.parents)[1:4]]


def test_unknown_models_and_versions_are_named_with_what_exists(registry, publish):
    """The message lists what would have worked, and what to run."""
    with pytest.raises(NotFoundError, match="import --help"):
        registry.resolve("tiny@production")
    version = publish()
    with pytest.raises(NotFoundError, match="no model 'huge'; there is: tiny"):
        registry.resolve("huge@production")
    with pytest.raises(NotFoundError, match=version.id):
        registry.resolve("tiny@production")
    with pytest.raises(NotFoundError, match=version.id):
        registry.version("tiny", "20200101T000000Z-00000000")


def test_stray_files_are_no_models(registry, publish):
    """What somebody dropped into the folder is not listed."""
    version = publish()
    (registry.root / "models" / "empty").mkdir()
    (registry.root / "models" / "readme.txt").write_text("x")
    (version.path.parent / ".DS_Store").mkdir()
    assert registry.models() == ["tiny"]
    assert registry.versions("tiny") == [version]


def test_many_publishers_at_once_make_one_version(registry, make_source):
    """Threads that publish the same folder all get the same version."""
    source, found = make_source(), []
    threads = [
        threading.Thread(target=lambda: found.append(Registry(registry.root).publish("tiny", source, context=CONTEXT)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert {version.id for version in found} == set(registry.version_ids("tiny"))
    assert len(registry.version_ids("tiny")) == 1


def test_garbage_is_collected_only_when_old(registry, publish):
    """Leftovers older than an hour go; younger ones and versions stay."""
    version = publish()
    old, young = registry.root / ".tmp" / "old", registry.root / ".tmp" / "young"
    for folder in (old, young):
        (folder / "sub").mkdir(parents=True)
        (folder / "sub" / "file").write_text("x")
    aliases = registry.root / "models" / "tiny" / "aliases"
    aliases.mkdir()
    leftover = aliases / ".production.json.abc.tmp"
    leftover.write_text("x")
    long_ago = time.time() - 7200
    for path in (old / "sub" / "file", old / "sub", old, leftover, *version.path.rglob("*")):
        os.utime(path, (long_ago, long_ago))
    assert sorted(registry.collect_garbage()) == sorted([old, leftover])
    assert not old.exists()
    assert not leftover.exists()
    assert young.exists()
    registry.verify(version)
    assert registry.collect_garbage(older_than=timedelta(seconds=-1)) == [young]
    assert registry.collect_garbage() == []


def test_a_staging_folder_that_is_still_written_to_is_kept(registry, publish):
    """A long copy is no garbage: its newest file counts, not its oldest folder."""
    publish()
    staging = registry.root / ".tmp" / "slow"
    staging.mkdir()
    (staging / "file").write_text("x")
    os.utime(staging, (0, 0))
    assert registry.collect_garbage() == []
    assert staging.exists()
