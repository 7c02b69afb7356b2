"""The promises of the Asterisk source."""

import gzip
import os
import stat
import wave

import pytest

from training.data.report import DataReport
from training.data.sources.asterisk import (
    G722_BYTES_PER_SECOND,
    SourceUnavailableError,
    fetch,
    lost_accents,
    parse_transcripts,
    read_asterisk,
)

TRANSCRIPTS = b"\n".join(
    [
        "\ufeff; Core Asterisk Sounds in Italian".encode(),
        b"",
        "good:  Questo è   un  testo.".encode(),
        "latin: La città è lontana.".encode("latin-1"),
        "dir/nested: ... per uscire dal menu…".encode(),
        b"; commented: Questo non conta.",
        b"question: Posta vocale. Casella di posta?",
        b"lost: La conferenza ? piena.",
        b"lost-end: il tempo sar? esattamente..",
        b"beep: un suono beep",
        b"direction: [suono delle scimmie urlanti]",
        b"angle: <beep ascending>",
        b"added: Ora disattivata. (You are now muted.)",
        b"own-key: own-key: Premere uno.",
        b"other-key: Premere due. good: Premere tre.",
        b"symbol: premere * per uscire",
        b"single: Attivato.",
        b"one/more: ... per ...",
        b"long: Una frase molto lunga.",
        b"silence/1: (1 secondo di silenzio)",
        b"absent: Questo file manca.",
        b"empty:",
        b"colon: Ecco le opzioni: premere uno::",
    ]
)
KEPT = {
    "good": "Questo è un testo.",
    "latin": "La città è lontana.",
    "dir/nested": "per uscire dal menu",
    "question": "Posta vocale. Casella di posta?",
    "colon": "Ecco le opzioni: premere uno",
}
LEFT_OUT = {
    "lost": "lost_accents",
    "lost-end": "lost_accents",
    "beep": "stage_direction",
    "direction": "stage_direction",
    "angle": "stage_direction",
    "added": "stage_direction",
    "own-key": "id_in_text",
    "other-key": "id_in_text",
    "symbol": "symbol_for_word",
    "single": "one_word",
    "one/more": "one_word",
    "long": "over_30_s",
    "silence/1": "silence",
    "absent": "no_audio",
    "empty": "no_transcript",
    "unknown": "no_transcript",
}


@pytest.fixture
def unpacked(tmp_path):
    """Packages as `dpkg -x` leaves them; any bytes are a valid G.722 stream."""
    root = tmp_path / "cache"
    doc = root / "usr/share/doc/asterisk-core-sounds-it"
    doc.mkdir(parents=True)
    (doc / "core-sounds-it.txt.gz").write_bytes(gzip.compress(TRANSCRIPTS))
    voice = root / "usr/share/asterisk/sounds/it_IT_m_Carlo"
    for key in KEPT.keys() | LEFT_OUT.keys() - {"absent"}:
        path = voice / f"{key}.g722"
        path.parent.mkdir(parents=True, exist_ok=True)
        seconds = 31 if key == "long" else 1
        path.write_bytes(bytes(range(256)) * (seconds * G722_BYTES_PER_SECOND // 256))
    return root


def test_every_trap_has_its_reason_and_the_rest_is_kept(unpacked, tmp_path):
    """What is not what the voice says is left out by the source's own rule, and counts as no fault."""
    utterances, dropped = read_asterisk(unpacked, "it", tmp_path / "wav")
    assert {u.id.removeprefix("asterisk-it/"): u.text for u in utterances} == KEPT
    assert {row.id.removeprefix("asterisk-it/"): row.reason for row in dropped} == LEFT_OUT
    assert all(row.by_source_rule for row in dropped)
    DataReport.of(utterances, dropped).check()


def test_utterances_say_who_speaks_and_under_which_licence(unpacked, tmp_path):
    """Speaker, source and licence come with every clip."""
    [good] = [u for u in read_asterisk(unpacked, "it", tmp_path / "wav")[0] if u.id == "asterisk-it/good"]
    assert (good.speaker, good.language, good.split) == ("it_IT_m_Carlo", "it", None)
    assert (good.source, good.licence) == ("asterisk-core-sounds-it", "CC-BY-3.0")


def test_usable_clips_become_plain_16_khz_wav_files_once(unpacked, tmp_path):
    """Downstream needs no G.722 decoder; a second reading writes nothing and says the same."""
    first = read_asterisk(unpacked, "it", tmp_path / "wav")
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "wav").rglob("*.wav")}
    assert {str(path) for path in written} == {u.audio.path for u in first[0]}
    with wave.open(first[0][0].audio.path) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16_000, 1, 2)
        assert file.getnframes() / 16_000 == first[0][0].audio.duration
    assert read_asterisk(unpacked, "it", tmp_path / "wav") == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "wav").rglob("*") if path.is_file()} == written


def test_a_recording_that_cannot_be_decoded_is_a_fault(unpacked, tmp_path):
    """Damage is not the source's own rule, so it counts towards the limit."""
    (unpacked / "usr/share/asterisk/sounds/it_IT_m_Carlo/good.g722").write_bytes(b"")
    utterances, dropped = read_asterisk(unpacked, "it", tmp_path / "wav")
    assert len(utterances) == len(KEPT) - 1
    assert [(row.id, row.reason) for row in dropped if not row.by_source_rule] == [("asterisk-it/good", "zero_length")]


def test_the_shared_checks_apply_too(unpacked, tmp_path):
    """Rows of this source pass the same token check as a folder's."""
    utterances, dropped = read_asterisk(unpacked, "it", tmp_path / "wav", count_tokens=lambda _: 1000)
    assert not utterances
    assert sum(row.reason == "too_many_tokens" for row in dropped) == len(KEPT)


def test_a_language_that_is_not_unpacked_is_named(unpacked, tmp_path):
    """Reading before fetching says what to do."""
    with pytest.raises(FileNotFoundError, match="fetch 'ru' first"):
        read_asterisk(unpacked, "ru", tmp_path / "wav")


def test_lines_are_decoded_one_by_one():
    """A Latin-1 line does not spoil the UTF-8 lines around it."""
    raw = "a: più\n".encode() + "b: però\r\n".encode("latin-1") + "c: 16:30 è tardi".encode()
    assert parse_transcripts(raw) == [("a", "più"), ("b", "però"), ("c", "16:30 è tardi")]


@pytest.mark.parametrize(
    "text",
    [
        "La conferenza ? piena.",
        "Quella opzione ? invalida. Prova ancora.",
        "il tempo sar? esattamente",
        "La chiamata non pu? essere completata cos? come composta.",
        "La lista ? È vuota",
        "riprova pi?.",
        "già finito, per? è così",
        "non ? così?",
        "per\ufffd dopo",
    ],
)
def test_lost_accents_are_seen(text):
    """A question mark in place of a letter is told from a real one."""
    assert lost_accents(text)


@pytest.mark.parametrize(
    "text",
    [
        "Casella di posta?",
        "Login non corretta. Casella di posta?",
        "Come va? Bene.",
        "Как дела? Хорошо.",
        "Davvero?!",
        "Che cosa vuol dire «ciao»?",
        '"Dove?" "Qui."',
        "Quanti? 12.",
        "Nessuna domanda.",
    ],
)
def test_real_questions_are_no_lost_accents(text):
    """Sentences that ask keep their place."""
    assert not lost_accents(text)


def test_fetch_without_apt_says_what_to_do_instead(tmp_path, monkeypatch):
    """A machine that is no Debian gets a way out, not a stack trace of a missing program."""
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SourceUnavailableError, match="this machine has no apt-get") as caught:
        fetch(["it"], tmp_path / "cache")
    assert "python -m training run --folder DIR" in str(caught.value)
    assert "Hub" in str(caught.value)


@pytest.fixture
def fake_tools(tmp_path, monkeypatch):
    """Stand-ins for apt-get and dpkg that log their calls; `fail` lists those that fail."""
    folder = tmp_path / "bin"
    folder.mkdir()
    scripts = {
        "apt-get": 'for p in "$@"; do test "$p" = "$1" || : > "$p.deb"; done',
        "dpkg": ': > "$3/unpacked"',
    }
    for name, body in scripts.items():
        script = folder / name
        script.write_text(
            "#!/bin/sh\n"
            f'echo "{name} $1" >> "{folder}/calls"\n'
            f'if grep -qx "{name} $1" "{folder}/fail" 2>/dev/null; then echo "E: broken" >&2; exit 100; fi\n'
            f"{body}\n"
        )
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
    return folder


def test_fetch_downloads_and_unpacks_once(tmp_path, fake_tools, monkeypatch):
    """A second run finds everything there; a relative cache folder works."""
    monkeypatch.chdir(tmp_path)
    root = fetch(["it"], tmp_path.relative_to(tmp_path) / "cache")
    assert root == tmp_path / "cache"
    assert (root / "unpacked").exists()
    assert (fake_tools / "calls").read_text().split("\n") == ["apt-get download", "dpkg -x", "dpkg -x", ""]
    fetch(["it"], root)
    assert (fake_tools / "calls").read_text().count("apt-get") == 1
    assert not list(root.rglob("*.deb"))


def test_an_interrupted_fetch_starts_over(tmp_path, fake_tools):
    """Nothing counts as fetched before it is unpacked."""
    (fake_tools / "fail").write_text("dpkg -x\n")
    with pytest.raises(SourceUnavailableError, match="broken"):
        fetch(["it"], tmp_path / "cache")
    (fake_tools / "fail").unlink()
    fetch(["it"], tmp_path / "cache")
    assert (tmp_path / "cache" / "unpacked").exists()


def test_a_failed_download_refreshes_the_lists_once(tmp_path, fake_tools):
    """An empty package list is refreshed; a package that is still not there ends it."""
    (fake_tools / "fail").write_text("apt-get download\n")
    with pytest.raises(SourceUnavailableError, match="E: broken"):
        fetch(["it"], tmp_path / "cache")
    calls = (fake_tools / "calls").read_text().split("\n")
    assert calls == ["apt-get download", "apt-get update", "apt-get download", ""]


def test_a_refresh_that_fails_says_that_it_needs_root(tmp_path, fake_tools):
    """Without root and without package lists, the message says so."""
    (fake_tools / "fail").write_text("apt-get download\napt-get update\n")
    with pytest.raises(SourceUnavailableError, match="needs root"):
        fetch(["it"], tmp_path / "cache")
