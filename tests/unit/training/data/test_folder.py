"""The promises of the folder source, and of the row checks that all sources share."""

import json
import logging
import math

import pytest

from training.data.checks import MAX_LABEL_TOKENS, SPECIAL_TOKENS
from training.data.report import DataReport, TooManyDroppedError
from training.data.sources.folder import read_folder
from training.data.sources.rows import SourceError


def write_csv(folder, *lines):
    """Write a metadata.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def reasons(dropped):
    """Return reason by id."""
    return {row.id: row.reason for row in dropped}


def test_clips_are_paired_by_name_not_by_order(tmp_path, write_wav):
    """Of rec_1 … rec_12, where rec_10 sorts before rec_2, each keeps its own text and length."""
    numbers = range(1, 13)
    for n in numbers:
        write_wav(tmp_path / f"rec_{n}.wav", n / 20)
    write_csv(tmp_path, "file_name,text", *(f"rec_{n}.wav,frase numero {n}" for n in numbers))
    utterances, dropped = read_folder(tmp_path, language="it")
    assert not dropped
    assert [u.id for u in utterances] == [f"{tmp_path.name}/rec_{n}.wav" for n in numbers]
    for n, utterance in zip(numbers, utterances, strict=True):
        assert utterance.text == f"frase numero {n}"
        assert utterance.audio.duration == pytest.approx(n / 20)
        assert utterance.audio.path == str(tmp_path / f"rec_{n}.wav")
    assert len({u.audio.sha256 for u in utterances}) == 12


def test_train_in_a_folders_own_name_is_no_split(tmp_path, write_wav):
    """Only a top folder called exactly `train`, `dev`, `validation` or `test` means a split."""
    root = tmp_path / "train" / "my-train-data"
    for clip in ("training/a.wav", "old_test/b.wav", "train/c.wav", "deep/test/d.wav", "dev.wav"):
        write_wav(root / clip)
    write_csv(
        root,
        "file_name,text",
        "training/a.wav,ciao",
        "old_test/b.wav,ciao",
        "train/c.wav,ciao",
        "deep/test/d.wav,ciao",
        "dev.wav,ciao",
    )
    utterances, _ = read_folder(root, language="it")
    assert [u.split for u in utterances] == [None, None, "train", None, None]


def test_metadata_inside_split_folders(tmp_path, write_wav):
    """Each split folder may hold its own metadata, and its clips take its split."""
    for name in ("train", "validation", "test"):
        write_wav(tmp_path / name / "a.wav")
        write_csv(tmp_path / name, "file_name,text", f"a.wav,frase di {name}")
    utterances, dropped = read_folder(tmp_path, language="it")
    assert not dropped
    assert {u.text: u.split for u in utterances} == {
        "frase di train": "train",
        "frase di validation": "dev",
        "frase di test": "test",
    }
    assert {u.id for u in utterances} == {f"{tmp_path.name}/{name}/a.wav" for name in ("train", "validation", "test")}


def test_csv_quotes_commas_and_byte_order_mark(tmp_path, write_wav):
    """Quoted cells keep their commas and quotes, and Excel's byte order mark is no part of a name."""
    write_wav(tmp_path / "a.wav")
    write_wav(tmp_path / "b.wav")
    text = 'file_name,text\na.wav,"Disse: ""ciao"", poi uscì."\nb.wav,l\'altro "testo"\n'
    (tmp_path / "metadata.csv").write_text(text, encoding="utf-8-sig")
    utterances, _ = read_folder(tmp_path, language="it")
    assert [u.text for u in utterances] == ['Disse: "ciao", poi uscì.', 'l\'altro "testo"']


def test_an_unbalanced_quote_swallows_no_row(tmp_path, write_wav):
    """A quote that runs over lines is a fault that somebody sees, whether or not it is ever closed."""
    for name in "abc":
        write_wav(tmp_path / f"{name}.wav")
    write_csv(tmp_path, "file_name,text", 'a.wav,"ciao', 'b.wav,a tutti"', "c.wav,bene")
    utterances, dropped = read_folder(tmp_path, language="it")
    assert [u.text for u in utterances] == ["bene"]
    assert reasons(dropped) == {"metadata.csv:3": "malformed_row"}
    write_csv(tmp_path, "file_name,text", 'a.wav,"ciao', "b.wav,bene")
    with pytest.raises(SourceError, match="unexpected end of data"):
        read_folder(tmp_path, language="it")


def test_rows_with_too_many_or_too_few_cells_are_dropped(tmp_path, write_wav):
    """An unquoted comma does not shorten a transcript."""
    write_wav(tmp_path / "a.wav")
    write_csv(tmp_path, "file_name,text", "a.wav,prima, poi", "a.wav", "a.wav,giusto")
    utterances, dropped = read_folder(tmp_path, language="it")
    assert [u.text for u in utterances] == ["giusto"]
    assert reasons(dropped) == {"metadata.csv:2": "malformed_row", "metadata.csv:3": "malformed_row"}


def test_jsonl_with_all_optional_columns(tmp_path, write_wav):
    """Language, speaker and split come from the row when it names them."""
    write_wav(tmp_path / "a.wav")
    write_wav(tmp_path / "test" / "b.wav")
    rows = [
        {"file_name": "a.wav", "sentence": "привет всем", "language": "ru", "client_id": "x1", "split": "validation"},
        {"file_name": "test/b.wav", "sentence": "ciao", "split": "train", "age": 7},
    ]
    text = "\n".join(json.dumps(row) for row in rows) + "\n{broken\n[]\n"
    (tmp_path / "metadata.jsonl").write_text(text)
    utterances, dropped = read_folder(tmp_path, language="it")
    assert [(u.language, u.speaker, u.split) for u in utterances] == [("ru", "x1", "dev"), ("it", None, "train")]
    assert reasons(dropped) == {"metadata.jsonl:3": "malformed_row", "metadata.jsonl:4": "malformed_row"}


def test_numbers_in_jsonl_are_text(tmp_path, write_wav):
    """A speaker who is a number is one: else speakers could cross the splits unseen, and intervals be too narrow."""
    write_wav(tmp_path / "a.wav")
    write_wav(tmp_path / "b.wav")
    rows = [
        {"file_name": "a.wav", "text": 42, "speaker_id": 1089, "split": True},
        {"file_name": "b.wav", "text": math.nan, "speaker_id": math.nan},
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    [utterance], dropped = read_folder(tmp_path, language="it")
    assert (utterance.text, utterance.speaker, utterance.split) == ("42", "1089", None)
    assert list(reasons(dropped).values()) == ["empty_text"]


def test_the_choice_of_text_column_is_fixed_and_reported(tmp_path, write_wav, caplog):
    """Of several text columns the first known one counts, or the one asked for; the log says which."""
    write_wav(tmp_path / "a.wav")
    write_csv(tmp_path, "file_name,text,raw,transcription", "a.wav,uno,due,tre")
    with caplog.at_level(logging.INFO):
        assert read_folder(tmp_path, language="it")[0][0].text == "tre"
    assert "transcripts from column 'transcription'" in caplog.text
    assert read_folder(tmp_path, language="it", text_column="raw")[0][0].text == "due"


@pytest.mark.parametrize(
    ("header", "text_column", "message"),
    [
        ("file,text", None, "no column file_name"),
        ("file_name,words", None, "no text column transcription or"),
        ("file_name,text", "words", "no text column words"),
    ],
)
def test_a_missing_column_is_named(tmp_path, header, text_column, message):
    """A folder without the needed columns is refused, and the message lists those it has."""
    write_csv(tmp_path, header, "a.wav,ciao")
    with pytest.raises(SourceError, match=message):
        read_folder(tmp_path, language="it", text_column=text_column)


def test_a_folder_needs_one_metadata_file(tmp_path):
    """None is an error that says what is expected, and two are one too."""
    with pytest.raises(SourceError, match="holds no metadata"):
        read_folder(tmp_path, language="it")
    write_csv(tmp_path, "file_name,text")
    (tmp_path / "metadata.jsonl").write_text("")
    with pytest.raises(SourceError, match="keep one"):
        read_folder(tmp_path, language="it")


def test_every_unusable_row_is_dropped_with_its_reason(tmp_path, write_wav):
    """Missing, corrupt, empty, wordless, too long, repeated: each has its own code, and nothing replaces it."""
    for name in ("good", "wordless", "silent", "blank", "odd", "other"):
        write_wav(tmp_path / f"{name}.wav")
    write_wav(tmp_path / "long.wav", 30.1, rate=8000)
    write_wav(tmp_path / "edge.wav", 30.0, rate=16_000)
    write_wav(tmp_path / "zero.wav", 0)
    (tmp_path / "nothing.wav").write_bytes(b"")
    (tmp_path / "corrupt.wav").write_bytes(b"RIFF no audio at all" * 50)
    (tmp_path / "folder.wav").mkdir()
    write_csv(
        tmp_path,
        "file_name,text,language,split",
        "good.wav,buongiorno,,",
        "edge.wav,trenta secondi esatti,,",
        "absent.wav,ciao,,",
        "folder.wav,ciao,,",
        ",ciao,,",
        "corrupt.wav,ciao,,",
        "zero.wav,ciao,,",
        "nothing.wav,ciao,,",
        "long.wav,ciao,,",
        "blank.wav,  ,,",
        "wordless.wav,?! …,,",
        "odd.wav,ciao,Italian,",
        "other.wav,ciao,,holdout",
        "good.wav,un altro testo,,",
        "./good.wav,ancora un altro,,",
    )
    utterances, dropped = read_folder(tmp_path, language="it")
    assert [u.text for u in utterances] == ["buongiorno", "trenta secondi esatti"]
    found = sorted((row.id.removeprefix(f"{tmp_path.name}/"), row.reason) for row in dropped)
    assert found == sorted(
        [
            ("absent.wav", "missing_file"),
            ("folder.wav", "missing_file"),
            ("metadata.csv:6", "missing_file"),
            ("corrupt.wav", "undecodable"),
            ("zero.wav", "zero_length"),
            ("nothing.wav", "zero_length"),
            ("long.wav", "too_long"),
            ("blank.wav", "empty_text"),
            ("wordless.wav", "empty_text"),
            ("odd.wav", "unknown_language"),
            ("metadata.csv:14", "unknown_split"),
            ("good.wav", "duplicate_id"),
            ("good.wav", "duplicate_id"),
        ]
    )
    assert not any(row.by_source_rule for row in dropped)
    with pytest.raises(TooManyDroppedError, match="duplicate_id: 2"):
        DataReport.of(utterances, dropped).check()


def test_a_folder_without_one_good_row_yields_none(tmp_path):
    """All rows bad means no utterance, not an endless search for a substitute."""
    write_csv(tmp_path, "file_name,text", *(f"{n}.wav,ciao" for n in range(20)))
    utterances, dropped = read_folder(tmp_path, language="it")
    assert utterances == []
    assert {row.reason for row in dropped} == {"missing_file"}
    with pytest.raises(TooManyDroppedError, match="20 of 20"):
        DataReport.of(utterances, dropped).check()


def test_rows_without_a_language_are_dropped(tmp_path, write_wav):
    """A language is never guessed: the row or the caller names it."""
    write_wav(tmp_path / "a.wav")
    write_wav(tmp_path / "b.wav")
    write_csv(tmp_path, "file_name,text,language", "a.wav,ciao,it", "b.wav,ciao,")
    utterances, dropped = read_folder(tmp_path, language=None)
    assert [u.language for u in utterances] == ["it"]
    assert [row.reason for row in dropped] == ["no_language"]


def test_labels_beyond_the_decoder_are_dropped(tmp_path, write_wav):
    """The special tokens count: 443 tokens of text fit, 444 do not."""
    for name in "ab":
        write_wav(tmp_path / f"{name}.wav")
    fits = MAX_LABEL_TOKENS - SPECIAL_TOKENS
    write_csv(tmp_path, "file_name,text", "a.wav," + "x " * fits, "b.wav," + "x " * (fits + 1))
    utterances, dropped = read_folder(tmp_path, language="it", count_tokens=lambda text: len(text.split()))
    assert [u.id for u in utterances] == [f"{tmp_path.name}/a.wav"]
    assert [(row.reason, row.detail) for row in dropped] == [("too_many_tokens", "449 of at most 448")]


def test_no_row_reaches_outside_the_folder(tmp_path, write_wav):
    """Parent steps, absolute paths and links out are dropped unread; links inside are fine."""
    root = tmp_path / "root"
    secret = write_wav(tmp_path / "secret.wav")
    write_wav(root / "clips" / "a.wav")
    (root / "out.wav").symlink_to(secret)
    (root / "in.wav").symlink_to(root / "clips" / "a.wav")
    (root / "loop.wav").symlink_to(root / "loop.wav")
    write_csv(
        root,
        "file_name,text",
        "../secret.wav,ciao",
        f"{secret},ciao",
        "out.wav,ciao",
        "clips/../clips/a.wav,ciao",
        "loop.wav,ciao",
        "in.wav,ciao",
    )
    utterances, dropped = read_folder(root, language="it")
    assert [u.id for u in utterances] == ["root/in.wav"]
    assert [(row.id, row.reason) for row in dropped] == [
        ("metadata.csv:2", "outside_root"),
        ("metadata.csv:3", "outside_root"),
        ("metadata.csv:4", "outside_root"),
        ("metadata.csv:5", "outside_root"),
        ("metadata.csv:6", "missing_file"),
    ]


def test_a_name_that_no_file_can_have_is_a_missing_file(tmp_path):
    """A NUL in a name drops its row and not the run."""
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "a\0.wav", "text": "ciao"}))
    utterances, dropped = read_folder(tmp_path, language="it")
    assert not utterances
    assert reasons(dropped) == {"metadata.jsonl:1": "missing_file"}


def test_windows_line_ends_are_no_part_of_a_text(tmp_path, write_wav):
    """A CSV saved on Windows reads as any other."""
    write_wav(tmp_path / "a.wav")
    (tmp_path / "metadata.csv").write_bytes("file_name,text\r\na.wav,più\r\n".encode())
    assert [u.text for u in read_folder(tmp_path, language="it")[0]] == ["più"]


def test_a_csv_in_another_encoding_is_refused(tmp_path, write_wav):
    """Latin-1 is not guessed: wrong accents in a transcript are worse than an error."""
    write_wav(tmp_path / "a.wav")
    (tmp_path / "metadata.csv").write_bytes("file_name,text\na.wav,più\n".encode("latin-1"))
    with pytest.raises(SourceError, match="utf-8"):
        read_folder(tmp_path, language="it")


@pytest.mark.parametrize("table", ["csv", "jsonl"])
def test_silences_are_named_as_such(tmp_path, write_wav, table):
    """A clip in which nobody speaks needs no text, and may have none; without its column, a missing text is a fault."""
    said = {"a.wav": ("ciao", ""), "b.wav": ("", "true"), "c.wav": ("", ""), "d.wav": ("ciao", "1")}
    for n, name in enumerate(said):
        write_wav(tmp_path / name, 0.1 + n / 100)
    if table == "csv":
        write_csv(tmp_path, "file_name,text,no_speech", *(f"{name},{text},{no}" for name, (text, no) in said.items()))
    else:
        rows = [{"file_name": name, "text": text, "no_speech": bool(no)} for name, (text, no) in said.items()]
        (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    utterances, dropped = read_folder(tmp_path, language="it")
    assert [(u.text, u.no_speech) for u in utterances] == [("ciao", False), ("", True)]
    assert sorted(row.reason for row in dropped) == ["empty_text", "malformed_row"]
