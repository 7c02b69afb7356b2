"""The manifest: what a folder consists of, and what may not become a version."""

import hashlib
import json
import os
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from registry import FileEntry, Manifest, PublishError, content_digest, describe, hash_file
from registry.manifest import to_json, version_id

ENTRY = FileEntry(sha256="0" * 64, size=1)


def manifest(**changes):
    """Make a valid manifest, but for the changes."""
    fields = {
        "name": "tiny",
        "version": "1",
        "created_at": datetime(2026, 1, 31, tzinfo=UTC),
        "parent": None,
        "base": None,
        "context": {"elastic": True, "margin": 50},
        "normalizer_version": "1",
        "files": {"config.json": ENTRY},
    }
    return Manifest(**{**fields, **changes})


def test_hash_file_is_sha256_and_counts_bytes(tmp_path):
    """The hash is the plain sha256 of the bytes, and progress hears of each byte once."""
    data = os.urandom(3 << 20)
    (tmp_path / "a").write_bytes(data)
    told = []
    assert hash_file(tmp_path / "a", told.append) == hashlib.sha256(data).hexdigest()
    assert sum(told) == len(data)


def test_describe_lists_files_by_relative_path(make_source):
    """Every file is there with its size and hash, under a path with forward slashes."""
    source = make_source()
    files = describe(source)
    assert sorted(files) == ["config.json", "ctranslate2/model.bin", "model.safetensors"]
    for path, entry in files.items():
        data = (source / path).read_bytes()
        assert entry == FileEntry(sha256=hashlib.sha256(data).hexdigest(), size=len(data))


@pytest.mark.parametrize(
    "path",
    [
        "pytorch_model.bin",
        "PYTORCH_MODEL.BIN",
        "other/model.bin",
        "ctranslate2/deeper/model.bin",
        "x-ctranslate2/model.bin",
        "weights.pt",
        "weights.pth",
        "data.pkl",
        "data.pickle",
        "last.ckpt",
        "modeling_whisper.py",
        "ctranslate2/hook.py",
        "ctranslate2/x.pkl",
    ],
)
def test_files_that_could_run_code_are_refused(tmp_path, path):
    """A pickle or a script never becomes part of a version, and the message names it."""
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_bytes(b"x")
    with pytest.raises(PublishError, match=path):
        describe(tmp_path)


@pytest.mark.parametrize("kind", ["link to a file", "link to a folder", "dangling link", "fifo"])
def test_links_and_devices_are_refused(tmp_path, kind):
    """Only regular files are described, and the message names what is not one."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("x")
    folder = tmp_path / "folder"
    folder.mkdir()
    odd = folder / "odd"
    if kind == "fifo":
        os.mkfifo(odd)
    else:
        targets = {"link to a file": outside / "file", "link to a folder": outside, "dangling link": outside / "no"}
        odd.symlink_to(targets[kind])
    with pytest.raises(PublishError, match="odd"):
        describe(folder)


@pytest.mark.parametrize("name", ["a\\b", "a\nb", "a\x1bb"])
def test_file_names_that_others_misread_are_refused(tmp_path, name):
    """A backslash or a control character in a file name is refused."""
    (tmp_path / name).write_text("x")
    with pytest.raises(PublishError, match="misread"):
        describe(tmp_path)


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../up", "a/../b", "a//b", "./a", "a/", "a\\b", "a\x00", ".."])
def test_a_manifest_cannot_name_files_outside_its_folder(path):
    """A hostile manifest is refused before any of its paths is used."""
    with pytest.raises(ValidationError):
        manifest(files={path: ENTRY})


@pytest.mark.parametrize(
    "changes",
    [
        {"schema_version": 2},
        {"created_at": datetime(2026, 1, 1)},  # noqa: DTZ001 - a time without a zone is the point
        {"unknown": 1},
        {"context": {"margin": float("nan")}},
        {"context": {"margin": object()}},
        {"extra": {"x": float("inf")}},
        {"files": {"a": {"sha256": "short", "size": 1}}},
        {"files": {"a": {"sha256": "0" * 64, "size": -1}}},
        {"files": {"a": {"sha256": "0" * 64, "size": 1, "more": 1}}},
    ],
)
def test_malformed_manifests_are_refused(changes):
    """Unknown fields, other schemas, naive times, and what JSON cannot hold are refused."""
    with pytest.raises((ValidationError, TypeError)):
        manifest(**changes)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(context=st.dictionaries(st.text(max_size=5), JSON, max_size=3), name=st.text("abc", min_size=1))
def test_manifests_round_trip(context, name):
    """A manifest written and read back is the same, whatever its opaque parts hold."""
    written = manifest(context=context, name=name, extra={"more": context})
    assert Manifest.model_validate_json(to_json(written)) == written


def test_a_manifest_cannot_be_changed():
    """Nobody edits a manifest by accident."""
    with pytest.raises(ValidationError):
        manifest().name = "other"


def test_json_is_stable():
    """The same record is the same bytes, whatever the order that it was made in."""
    assert to_json({"b": 1, "a": [2]}) == to_json({"a": [2], "b": 1})
    assert json.loads(to_json({"ü": "é"})) == {"ü": "é"}
    with pytest.raises(ValueError, match="JSON"):
        to_json({"x": float("nan")})


FILES = st.dictionaries(
    st.text("abc/.-", min_size=1, max_size=8),
    st.binary(min_size=32, max_size=32).map(lambda b: FileEntry(sha256=b.hex(), size=1)),
    min_size=1,
    max_size=4,
)


@given(files=FILES, other=FILES)
def test_the_content_digest_depends_on_content_alone(files, other):
    """The order of files changes nothing; another name or another hash changes everything."""
    shuffled = dict(reversed(files.items()))
    assert content_digest(files) == content_digest(shuffled)
    assert (content_digest(files) == content_digest(other)) == (files == other)


def test_swapping_two_contents_changes_the_digest():
    """The digest binds each hash to its name."""
    one, two = FileEntry(sha256="1" * 64, size=1), FileEntry(sha256="2" * 64, size=1)
    assert content_digest({"a": one, "b": two}) != content_digest({"a": two, "b": one})


def test_version_ids_tell_utc_time_and_content():
    """An id is the UTC time and the first eight digits of the content digest, in any time zone."""
    files = {"a": ENTRY}
    there = datetime(2026, 2, 1, 1, 59, 59, tzinfo=timezone(timedelta(hours=2)))
    assert version_id(there, files) == f"20260131T235959Z-{content_digest(files)[:8]}"


def test_size_adds_up():
    """The manifest's size is that of its files."""
    assert manifest(files={"a": FileEntry(sha256="0" * 64, size=2), "b": ENTRY}).size == 3
