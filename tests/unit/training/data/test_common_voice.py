"""The promises of the Common Voice source, on releases laid out as Mozilla Data Collective gives them out."""

import io
import os
import tarfile

import pytest

from training.data.sources.common_voice import read_common_voice, unpack
from training.data.sources.config import CommonVoiceSource
from training.data.sources.rows import SourceError

TITLES = ("client_id", "path", "sentence_id", "sentence", "up_votes", "locale")


@pytest.fixture
def release(tmp_path, write_wav):
    """Write a release: two clips a split, and validated.tsv with these and more."""
    folder = tmp_path / "cv-corpus-24.0-2025-12-05" / "it"
    split_rows = {
        "train": [("anna", "t1", "s1", "Prima frase."), ("bruno", "t2", "s2", "Seconda frase.")],
        "dev": [("carla", "d1", "s3", "Terza frase."), ("dario", "d2", "s4", "Quarta frase.")],
        "test": [("elsa", "e1", "s5", "Quinta frase."), ("fabio", "e2", "s6", "Sesta frase.")],
    }
    more = [
        ("anna", "v1", "s7", 'Disse: "ciao.'),
        ("gina", "v2", "s8", "Ottava frase."),
        ("elsa", "v3", "s9", "Di chi parla nel test."),
        ("gina", "v4", "s10", "quinta FRASE"),
        ("gina", "v5", "s4", "Quarta frase, ma corretta."),
    ]
    split_rows["validated"] = [row for rows in split_rows.values() for row in rows] + more
    for name, rows in split_rows.items():
        write_table(folder / f"{name}.tsv", [(c, f"{p}.mp3", i, s, "2", "it") for c, p, i, s in rows])
    for number, (_, clip, _, _) in enumerate(split_rows["validated"]):
        # A WAV by another name: FFmpeg looks at what is in a file.
        write_wav(folder / "clips" / f"{clip}.mp3", 0.1, hertz=200 + 20 * number)
    return folder


def write_table(path, rows, titles=TITLES):
    """Write a table as Common Voice does: tabs, no quoting."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join("\t".join(row) + "\n" for row in [titles, *rows]), encoding="utf-8")


def read(path, cache, **settings):
    """Read a release."""
    return read_common_voice(CommonVoiceSource(path=path, **settings), cache)


def clips(utterances):
    """Return the clips' names by split."""
    found = {}
    for utterance in utterances:
        found.setdefault(utterance.split, set()).add(utterance.id.rsplit("/", 1)[1].removesuffix(".mp3"))
    return found


def test_the_official_splits_are_kept(release, tmp_path):
    """Each table is its split, the client is the speaker, and the language comes from the locale."""
    utterances, dropped = read(release, tmp_path / "cache")
    assert not dropped
    assert clips(utterances) == {"train": {"t1", "t2"}, "dev": {"d1", "d2"}, "test": {"e1", "e2"}}
    first = utterances[0]
    assert (first.text, first.speaker, first.sentence_id) == ("Prima frase.", "anna", "s1")
    assert (first.language, first.licence) == ("it", "CC0-1.0")
    assert first.source == "common-voice:cv-corpus-24.0-2025-12-05/it"


def test_validated_leaves_out_speakers_and_sentences_of_dev_and_test(release, tmp_path):
    """Failure: more data than the official train set, but a speaker or a sentence of the test set among it."""
    utterances, dropped = read(release, tmp_path / "cache", splits="validated")
    assert clips(utterances) == {"train": {"t1", "t2", "v1", "v2"}, "dev": {"d1", "d2"}, "test": {"e1", "e2"}}
    assert {row.id.rsplit("/", 1)[1]: row.reason for row in dropped} == {
        "v3.mp3": "held_out_speaker",
        "v4.mp3": "held_out_sentence",
        "v5.mp3": "held_out_sentence",
    }
    assert all(row.by_source_rule for row in dropped)
    by_split = {name: {u.speaker for u in utterances if u.split == name} for name in ("train", "dev", "test")}
    assert by_split["train"].isdisjoint(by_split["dev"] | by_split["test"])


def test_a_quotation_mark_swallows_no_row(tmp_path, write_wav):
    """Failure: a CSV reader takes `"` for the begin of a cell and swallows the rows up to the next one."""
    folder = tmp_path / "it"
    sentences = ['"Ciao, disse lei.', "Poi uscì.", 'E lui: "Torna!', '"', "Fine\u2028della riga."]
    rows = [("anna", f"{i}.mp3", "", sentence, "2", "it") for i, sentence in enumerate(sentences)]
    for i in range(len(rows)):
        write_wav(folder / "clips" / f"{i}.mp3", hertz=300 + i)
    for name in ("dev", "test"):
        write_table(folder / f"{name}.tsv", [])
    write_table(folder / "train.tsv", rows)
    utterances, dropped = read(folder, tmp_path / "cache")
    n_lines = (folder / "train.tsv").read_bytes().count(b"\n")
    assert len(utterances) + len(dropped) == n_lines - 1
    assert [u.text for u in utterances] == [s for s in sentences if s != '"']
    assert [row.reason for row in dropped] == ["empty_text"]


def test_broken_rows_are_dropped_with_their_reason(release, tmp_path):
    """Failure: corrupt, empty and missing clips, and rows that were cut off. Each is told, and none is replaced."""
    (release / "clips" / "empty.mp3").write_bytes(b"")
    (release / "clips" / "noise.mp3").write_bytes(b"ID3 no audio" * 100)
    rows = [(f"x{i}", path, "", f"frase {i}", "2", "it") for i, path in enumerate(["empty.mp3", "noise.mp3", "no.mp3"])]
    rows += [("y", "../../secret.mp3", "", "ciao", "2", "it"), ("z", "", "", "ciao", "2", "it"), ("anna", "t1.mp3")]
    write_table(release / "train.tsv", rows)
    utterances, dropped = read(release, tmp_path / "cache")
    assert "train" not in clips(utterances)
    assert [row.reason for row in dropped] == [
        "outside_root",
        "missing_file",
        "malformed_row",
        "zero_length",
        "undecodable",
        "missing_file",
    ]
    assert not any(row.by_source_rule for row in dropped)


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_an_archive_is_unpacked_once(release, tmp_path, kind):
    """The archive reads as the folder does; a second reading unpacks nothing."""
    archive = tmp_path / f"cv-corpus-24.0-it.{kind}"
    with tarfile.open(archive, "w:gz" if kind == "tar.gz" else "w") as tar:
        tar.add(release.parent, arcname=release.parent.name)
    utterances, _ = read(archive, tmp_path / "cache")
    assert clips(utterances) == clips(read(release, tmp_path / "cache")[0])
    assert [u.id for u in utterances] == [u.id for u in read(release, tmp_path / "cache")[0]]
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert read(archive, tmp_path / "cache")[0] == utterances
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*") if path.is_file()} == written


def test_an_interrupted_unpacking_goes_on(release, tmp_path):
    """Without its mark a folder is not taken for whole: what is missing or cut off is unpacked, the rest stays."""
    archive = tmp_path / "cv.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(release, arcname="it")
    folder = unpack(archive, tmp_path / "cache")
    (folder / ".complete").unlink()
    cut_off, gone, whole = (folder / "it" / "clips" / f"{clip}.mp3" for clip in ("t1", "t2", "d1"))
    cut_off.write_bytes(cut_off.read_bytes()[:100])
    gone.unlink()
    os.utime(whole, ns=(1, 1))
    assert unpack(archive, tmp_path / "cache") == folder
    assert cut_off.read_bytes() == (release / "clips" / "t1.mp3").read_bytes()
    assert gone.is_file()
    assert whole.stat().st_mtime_ns == 1


@pytest.mark.parametrize("trap", ["parent", "link", "hard link", "fifo"])
def test_no_archive_writes_or_points_outside(tmp_path, trap):
    """Failure: an archive is a program for writing files. Only plain files below the folder come out of it."""
    archive = tmp_path / "cv.tar"
    with tarfile.open(archive, "w") as tar:
        member = tarfile.TarInfo("../../outside" if trap == "parent" else "it/clips/a.mp3")
        member.type = {"link": tarfile.SYMTYPE, "hard link": tarfile.LNKTYPE, "fifo": tarfile.FIFOTYPE}.get(
            trap, tarfile.REGTYPE
        )
        member.linkname = "/etc/passwd" if "link" in trap else ""
        content = b"x" if trap == "parent" else b""
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    with pytest.raises(SourceError, match=r"outside|no plain file"):
        unpack(archive, tmp_path / "a" / "cache")
    assert not (tmp_path / "outside").exists()
    assert not list(tmp_path.rglob("a.mp3"))


def test_a_damaged_archive_is_no_release(tmp_path):
    """A download that was cut off is an error, each time, and never half a data set."""
    archive = tmp_path / "cv.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        member = tarfile.TarInfo("it/train.tsv")
        member.size = 200_000
        tar.addfile(member, io.BytesIO(os.urandom(200_000)))
    archive.write_bytes(archive.read_bytes()[:50_000])
    for _ in range(2):
        with pytest.raises(SourceError, match=r"cv\.tar\.gz"):
            read(archive, tmp_path / "cache")
    with pytest.raises(SourceError, match="neither an archive nor a folder"):
        read(tmp_path / "absent.tar", tmp_path / "cache")


def test_of_several_languages_one_is_named(release, tmp_path, write_wav):
    """Of two languages none is guessed: the locale says which, and the error says what there is."""
    other = release.parent / "zh-CN"
    for name in ("train", "dev", "test"):
        write_table(other / f"{name}.tsv", [(name, f"{name}.mp3", "", f"你好 {name}", "2", "zh-CN")])
        write_wav(other / "clips" / f"{name}.mp3")
    with pytest.raises(SourceError, match="holds it, zh-CN: say with locale"):
        read(release.parent, tmp_path / "cache")
    utterances, _ = read(release.parent, tmp_path / "cache", locale="zh-CN")
    assert {u.language for u in utterances} == {"zh"}
    with pytest.raises(SourceError, match="say with locale"):
        read(release.parent, tmp_path / "cache", locale="fi")
    with pytest.raises(SourceError, match="no release of Common Voice"):
        read(other / "clips", tmp_path / "cache")


def test_spontaneous_speech_has_one_table(tmp_path, write_wav):
    """`ss-corpus-*.tsv` names splits itself; what it names none is left to the run's own split."""
    folder = tmp_path / "sps-corpus-2.0" / "it"
    titles = ("client_id", "audio_id", "audio_file", "transcription", "split")
    rows = [(f"c{i}", str(i), f"{i}.mp3", f"frase {i}", split) for i, split in enumerate(["train", "dev", "test", ""])]
    rows.append(("c9", "9", "9.mp3", "", "train"))  # recorded, but not written down yet
    write_table(folder / "ss-corpus-it.tsv", rows, titles)
    for i in (0, 1, 2, 3, 9):
        write_wav(folder / "audios" / f"{i}.mp3", hertz=300 + i)
    utterances, dropped = read(tmp_path / "sps-corpus-2.0", tmp_path / "cache", language="it")
    assert [(u.text, u.split) for u in utterances] == [
        ("frase 0", "train"),
        ("frase 1", "dev"),
        ("frase 2", "test"),
        ("frase 3", None),
    ]
    assert [row.reason for row in dropped] == ["empty_text"]
