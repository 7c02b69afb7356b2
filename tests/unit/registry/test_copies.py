"""Copies: what of a version may be missing from one, and what may not."""

import pytest

from registry import Copy, DamagedVersionError, PublishError, Registry
from registry.copies import COPY, is_public

SOURCE = "elsewhere"


@pytest.fixture
def source(registry, make_source):
    """A version with a private file, published elsewhere, as a folder that was fetched: without that file."""
    folder = make_source()
    (folder / "hyps").mkdir()
    (folder / "hyps" / "test.jsonl.gz").write_bytes(b"what people said")
    home = Registry(registry.root / "home").publish("tiny", folder, context={})
    (home.path / "hyps").chmod(0o755)
    (home.path / "hyps" / "test.jsonl.gz").unlink()
    return home


def adopt(registry, source, *absent):
    """Take a fetched version in."""
    return registry.adopt(source.path, Copy(repo="org/tiny", commit="0" * 40, absent=absent))


@pytest.mark.parametrize(
    ("path", "public"),
    [
        ("model.safetensors", True),
        ("model-00001-of-00002.safetensors", True),
        ("ctranslate2/model.bin", True),
        ("curves/wer.png", True),
        ("README.md", True),
        ("hyps/model.safetensors", False),
        ("hyps/test.jsonl.gz", False),
        ("smoke/clip.wav", False),
        ("smoke/expected.json", False),
        ("curves/deep/wer.png", False),
        ("data-report.json", False),
        ("gate.html", False),
        ("verdict.json", False),
    ],
)
def test_only_what_is_listed_is_public(path, public):
    """What nobody has listed stays at home; a pattern for the root lets nothing out of a folder."""
    assert is_public(path) is public


def test_a_copy_may_lack_what_stayed_at_home(registry, source):
    """A copy has the original's id and manifest, is whole without its private files, and is taken in once."""
    copy = adopt(registry, source, "hyps/test.jsonl.gz")
    assert (copy.ref, copy.manifest_sha256()) == (source.ref, source.manifest_sha256())
    registry.verify(copy)
    assert adopt(registry, source, "hyps/test.jsonl.gz") == copy
    assert registry.versions("tiny") == [copy]
    assert not list((registry.root / ".tmp").iterdir())


def test_an_original_may_lack_nothing(registry, source):
    """Where a version was published, the loss of a private file is damage."""
    with pytest.raises(DamagedVersionError, match=r"hyps/test\.jsonl\.gz: expected a file, found nothing"):
        Registry(source.path.parents[3]).verify(source)
    with pytest.raises(PublishError):
        adopt(registry, source)
    assert registry.models() == []


@pytest.mark.parametrize("file", ["model.safetensors", "ctranslate2/model.bin"])
def test_a_copy_may_lose_nothing_else(registry, source, file):
    """Of a copy, too, a file that was there and is gone is damage."""
    copy = adopt(registry, source, "hyps/test.jsonl.gz")
    (copy.path / file).unlink()
    with pytest.raises(DamagedVersionError, match=f"{file}: expected a file"):
        registry.verify(copy)


@pytest.mark.parametrize(
    "record",
    [
        b'{"repo": "org/tiny", "commit": "0", "absent": ["hyps/test.jsonl.gz", "model.safetensors"]}',
        b'{"repo": "org/tiny"}',
        b"nonsense",
    ],
)
def test_no_record_excuses_lost_weights(registry, source, record):
    """A record that would let weights be missing, or is none, is damage itself."""
    copy = adopt(registry, source, "hyps/test.jsonl.gz")
    (copy.path / COPY).chmod(0o644)
    (copy.path / COPY).write_bytes(record)
    (copy.path / "model.safetensors").unlink()
    with pytest.raises(DamagedVersionError, match=r"copy\.json"):
        registry.verify(copy)


def test_a_record_that_is_a_link_is_damage(registry, source, tmp_path):
    """The record must be a file of the version's own."""
    copy = adopt(registry, source, "hyps/test.jsonl.gz")
    (copy.path / COPY).rename(tmp_path / COPY)
    (copy.path / COPY).symlink_to(tmp_path / COPY)
    with pytest.raises(DamagedVersionError, match="a regular file"):
        registry.verify(copy)


def test_another_version_of_the_same_id_is_not_replaced(registry, source):
    """What is there stays, and the other is refused."""
    there = adopt(registry, source, "hyps/test.jsonl.gz")
    manifest = source.path / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_text(manifest.read_text().replace('"context": {}', '"context": {"elastic": true}'))
    with pytest.raises(PublishError, match="is there already, and is another"):
        adopt(registry, source, "hyps/test.jsonl.gz")
    assert registry.version("tiny", there.id) == there


@pytest.mark.parametrize(("old", "new"), [("config.json", "modeling.py"), ("config.json", "weights.pt")])
def test_code_is_not_taken_in(registry, source, old, new):
    """A manifest that lists a file that could run code is refused, whatever its hash."""
    manifest = source.path / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_text(manifest.read_text().replace(old, new))
    with pytest.raises(PublishError, match="could run code"):
        adopt(registry, source)
    assert registry.models() == []
