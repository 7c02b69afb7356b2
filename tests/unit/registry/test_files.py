"""Durable files: old or new, never between, and a walk that follows nothing."""

import os
import threading
import time
from pathlib import Path

import pytest

from registry import files


def test_write_atomically_replaces_and_leaves_nothing_behind(tmp_path):
    """The file holds the new bytes and no temporary file remains."""
    path = tmp_path / "alias.json"
    files.write_atomically(path, b"old")
    files.write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert [child.name for child in tmp_path.iterdir()] == ["alias.json"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_keeps_the_old_bytes(tmp_path, monkeypatch, call):
    """When the disk refuses before the replacement, readers keep the old file and no trace remains."""
    path = tmp_path / "alias.json"
    path.write_bytes(b"old")

    def refuse(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(OSError, match="No space"):
        files.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [child.name for child in tmp_path.iterdir()] == ["alias.json"]


def test_write_atomically_syncs_before_and_after_the_replacement(tmp_path, monkeypatch):
    """The bytes are on the disk before the name points at them, and the name is afterwards."""
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append("fsync"), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda *paths: (calls.append("replace"), replace(*paths)))
    files.write_atomically(tmp_path / "a", b"x")
    assert calls == ["fsync", "replace", "fsync"]


def test_temporary_names_are_unique(tmp_path, monkeypatch):
    """Two writers never share a temporary file, even where locks do nothing."""
    seen = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (seen.append(str(a)), replace(a, b)))
    for _ in range(20):
        files.write_atomically(tmp_path / "a", b"x")
    assert len(set(seen)) == 20


def test_readers_see_old_or_new_while_writers_write(tmp_path):
    """A reader that never stops reading finds only whole contents."""
    path = tmp_path / "a"
    contents = {bytes([65 + i]) * 10_000 for i in range(4)}
    path.write_bytes(min(contents))
    stop = threading.Event()

    def write():
        while not stop.is_set():
            for content in contents:
                files.write_atomically(path, content)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert all(path.read_bytes() in contents for _ in range(500))
    finally:
        stop.set()
        thread.join()


def test_write_synced_never_overwrites(tmp_path):
    """A file that exists is not written over."""
    files.write_synced(tmp_path / "a", b"x")
    with pytest.raises(FileExistsError):
        files.write_synced(tmp_path / "a", b"y")


def test_make_folder_is_idempotent_and_syncs_each_new_name(tmp_path, monkeypatch):
    """Each folder that is made is made durable in its parent; one that exists costs nothing."""
    synced = []
    real = files.fsync_dir
    monkeypatch.setattr(files, "fsync_dir", lambda folder: (synced.append(folder), real(folder)))
    assert files.make_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert synced == [tmp_path, tmp_path / "a"]
    files.make_folder(tmp_path / "a" / "b")
    assert len(synced) == 2


def test_fsync_tree_reaches_every_file_and_folder(tmp_path, monkeypatch):
    """Nothing in the tree is forgotten."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_text("x")
    (tmp_path / "top").write_text("x")
    synced = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(str(Path(f"/proc/self/fd/{handle}").readlink())))
    files.fsync_tree(tmp_path)
    expected = {tmp_path, tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a" / "b" / "file", tmp_path / "top"}
    assert sorted(synced) == sorted(map(str, expected))


def test_walk_lists_links_without_following_them(tmp_path):
    """A link to a folder is reported as a link, and what it leads to stays unseen."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("x")
    inside = tmp_path / "inside"
    (inside / "sub").mkdir(parents=True)
    (inside / "sub" / "file").write_text("x")
    (inside / "link").symlink_to(outside)
    assert [path for path, _ in files.walk(inside)] == ["link", "sub/file"]


def test_copy_file_copies_bytes_and_tells_of_them(tmp_path):
    """Every byte arrives and is counted once; the source's permissions stay behind."""
    source = tmp_path / "a"
    source.write_bytes(os.urandom(files.CHUNK + 5))
    source.chmod(0o755)
    told = []
    files.copy_file(source, tmp_path / "b", told.append)
    assert (tmp_path / "b").read_bytes() == source.read_bytes()
    assert sum(told) == files.CHUNK + 5
    assert not (tmp_path / "b").stat().st_mode & 0o111


def test_the_lock_admits_one_at_a_time(tmp_path):
    """Threads that lock the same file never overlap."""
    inside = 0
    worst = 0

    def work():
        nonlocal inside, worst
        for _ in range(5):
            with files.locked(tmp_path / ".lock"):
                inside += 1
                worst = max(worst, inside)
                time.sleep(0.001)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert worst == 1


def test_the_lock_is_let_go_after_an_error(tmp_path):
    """A writer that fails does not lock out the next."""
    with pytest.raises(ValueError, match="x"), files.locked(tmp_path / ".lock"):
        raise ValueError("x")
    with files.locked(tmp_path / ".lock"):
        pass
