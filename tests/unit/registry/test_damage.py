"""Damage is found before use, and the file is named."""

import json
import shutil

import pytest

from registry import DamagedVersionError, Registry, RegistryError


def overwrite(path, data):
    """Write into a read-only file."""
    path.chmod(0o644)
    path.write_bytes(data)


def expect_damage(registry, version, file):
    """Check that the damage is found and its file named, by verify and by an alias move."""
    with pytest.raises(DamagedVersionError) as caught:
        registry.verify(version)
    assert caught.value.file == file
    assert file in str(caught.value)
    assert version.ref in str(caught.value)
    with pytest.raises(RegistryError):
        registry.move_alias(version.name, "candidate", version.id, expected=None, reason="r")
    assert registry.alias(version.name, "candidate") is None


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "ctranslate2/model.bin"])
def test_any_flipped_bit_is_found(registry, publish, file):
    """A single changed bit, wherever it is, names its file."""
    version = publish()
    path = version.path / file
    good = path.read_bytes()
    places = range(0, len(good) * 8, max(1, len(good) * 8 // 16))
    for place in places:
        bad = bytearray(good)
        bad[place // 8] ^= 1 << place % 8
        overwrite(path, bytes(bad))
        expect_damage(registry, version, file)
    overwrite(path, good)
    registry.verify(version)


@pytest.mark.parametrize("size", [0, 1, 150, 499])
def test_truncation_is_found_by_size(registry, publish, size):
    """A file that lost its end is named, with both sizes."""
    version = publish()
    path = version.path / "model.safetensors"
    overwrite(path, path.read_bytes()[:size])
    expect_damage(registry, version, "model.safetensors")
    with pytest.raises(DamagedVersionError, match=f"500 bytes, found {size} bytes"):
        registry.verify(version)


def test_a_missing_file_is_found(registry, publish):
    """A file that is gone is named."""
    version = publish()
    (version.path / "config.json").unlink()
    expect_damage(registry, version, "config.json")


@pytest.mark.parametrize("file", ["extra.txt", "ctranslate2/.hidden", "sub/manifest.json"])
def test_an_extra_file_is_found(registry, publish, file):
    """A file that was not published is named, however well it hides."""
    version = publish()
    (version.path / file).parent.mkdir(exist_ok=True)
    (version.path / file).write_text("x")
    expect_damage(registry, version, file)


def test_swapped_files_are_found(registry, make_source):
    """Two files of one size that changed places are found by their hashes."""
    source = make_source()
    (source / "a.txt").write_text("aaaa")
    (source / "b.txt").write_text("bbbb")
    version = registry.publish("tiny", source, context={})
    overwrite(version.path / "a.txt", b"bbbb")
    overwrite(version.path / "b.txt", b"aaaa")
    expect_damage(registry, version, "a.txt")


def test_a_link_in_place_of_a_file_is_found(registry, publish, tmp_path):
    """A link is damage, even to the very same bytes."""
    version = publish()
    file = version.path / "config.json"
    shutil.copyfile(file, tmp_path / "same")
    file.unlink()
    file.symlink_to(tmp_path / "same")
    expect_damage(registry, version, "config.json")


def test_a_link_in_place_of_a_version_is_found(registry, publish, tmp_path):
    """A version's folder must be where the registry put it."""
    version = publish()
    shutil.move(version.path, tmp_path / "elsewhere")
    version.path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DamagedVersionError, match="a link"):
        registry.version("tiny", version.id)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"schema_version": 2}'], ids=range(7)
)
def test_an_unreadable_manifest_is_damage(registry, publish, content):
    """Whatever stands in the manifest's place gives the registry's own error, at once."""
    version = publish()
    overwrite(version.path / "manifest.json", content)
    with pytest.raises(DamagedVersionError, match=r"manifest\.json"):
        registry.resolve(version.ref)
    expect_damage(registry, version, "manifest.json")


def test_a_missing_or_linked_or_huge_manifest_is_damage(registry, publish, tmp_path):
    """The manifest must be a small regular file."""
    version = publish()
    path = version.path / "manifest.json"
    path.rename(tmp_path / "m")
    expect_damage(registry, version, "manifest.json")
    path.symlink_to(tmp_path / "m")
    expect_damage(registry, version, "manifest.json")
    path.unlink()
    with path.open("wb") as file:
        file.truncate(17 << 20)
    expect_damage(registry, version, "manifest.json")


def test_a_manifest_that_was_rewritten_with_its_files_is_found(registry, publish):
    """Changing a file and its hash together breaks the version's id, which holds their digest."""
    version = publish()
    other = publish("second")
    manifest = json.loads((version.path / "manifest.json").read_bytes())
    manifest["files"] = json.loads((other.path / "manifest.json").read_bytes())["files"]
    overwrite(version.path / "manifest.json", json.dumps(manifest).encode())
    for file in other.manifest.files:
        overwrite(version.path / file, (other.path / file).read_bytes())
    with pytest.raises(DamagedVersionError, match=r"manifest\.json"):
        registry.verify(registry.version("tiny", version.id))


def test_another_versions_manifest_is_found(registry, publish):
    """A manifest that speaks of another version is damage."""
    version, other = publish(), publish("second")
    overwrite(version.path / "manifest.json", (other.path / "manifest.json").read_bytes())
    with pytest.raises(DamagedVersionError, match=other.id):
        registry.version("tiny", version.id)


def test_a_manifest_edited_under_an_alias_is_found_on_resolve(registry, publish):
    """An alias pins its version's manifest, so that even its opaque parts cannot be changed."""
    version = publish()
    registry.move_alias("tiny", "production", version.id, expected=None, reason="r")
    path = version.path / "manifest.json"
    overwrite(path, path.read_bytes().replace(b'"margin": 50', b'"margin": 51'))
    with pytest.raises(DamagedVersionError, match=r"manifest\.json"):
        registry.resolve("tiny@production")


def test_damage_to_one_version_leaves_the_others(registry, publish):
    """The old version still resolves and verifies when the new one is damaged."""
    old, new = publish(), publish("second")
    registry.move_alias("tiny", "production", old.id, expected=None, reason="r")
    overwrite(new.path / "config.json", b"damaged")
    with pytest.raises(DamagedVersionError):
        registry.move_alias("tiny", "production", new.id, expected=old.id, reason="r")
    served = Registry(registry.root).resolve("tiny@production")
    assert served == old
    registry.verify(served)


def test_only_what_is_loaded_may_be_hashed(registry, publish):
    """Hashing one folder finds what is damaged there, and passes over the bytes of the rest, but not their number."""
    version = publish()
    weights = version.path / "model.safetensors"
    good = weights.read_bytes()
    overwrite(weights, bytes(byte ^ 1 for byte in good))
    registry.verify(version, under="ctranslate2")
    overwrite(weights, good[:-1])
    with pytest.raises(DamagedVersionError, match=r"model\.safetensors"):
        registry.verify(version, under="ctranslate2")
    overwrite(weights, good)
    export = version.path / "ctranslate2" / "model.bin"
    overwrite(export, bytes(byte ^ 1 for byte in export.read_bytes()))
    with pytest.raises(DamagedVersionError, match=r"ctranslate2/model\.bin"):
        registry.verify(version, under="ctranslate2")
