"""``python -m service transcribe``: every file's words beside it, whatever becomes of the others."""

import json
import os

import pytest
from typer.testing import CliRunner

import service.command_transcribe
import service.offline
from service.__main__ import app

pytestmark = pytest.mark.usefixtures("clips")


@pytest.fixture
def run(model, monkeypatch, tmp_path):
    """Return the command, in a folder of its own, with an engine that says which window it heard."""
    monkeypatch.setattr(service.command_transcribe, "load", lambda _settings: model)
    monkeypatch.chdir(tmp_path)

    monkeypatch.setenv("WHISPERLOOP_VAD", "false")  # which is right about tones: nobody speaks

    def invoke(*arguments, **options):
        return CliRunner().invoke(app, ["transcribe", *arguments], **options)

    return invoke


@pytest.fixture
def sizes(engine):
    """Return the function that tells how many windows were decoded together, call by call."""
    return lambda: [len(batch) for batch in engine.batches if batch]


@pytest.fixture
def clips(tmp_path, wav):
    """Write tones of different length: their names."""
    (tmp_path / "sub").mkdir()
    seconds = {"a.wav": 1.0, "b.wav": 2.0, "sub/c.wav": 3.0}
    for name, length in seconds.items():
        (tmp_path / name).write_bytes(wav(length))
    return seconds


def heard(text):
    """Return the length, in seconds, of what the engine heard."""
    return int(text.strip().removeprefix("n").partition("r")[0]) / 16_000


def test_a_folder_is_transcribed(run, clips, tmp_path):
    """Each file's words are beside it; one line each and one for all are on standard error, nothing on the other."""
    result = run(".")
    assert result.exit_code == 0, result.output
    assert {name: heard((tmp_path / name).with_suffix(".txt").read_text()) for name in clips} == clips
    lines = result.stderr.splitlines()
    assert lines[:3] == ["a.wav: 1.0 s → a.txt", "b.wav: 2.0 s → b.txt", "sub/c.wav: 3.0 s → c.txt"]
    assert lines[3].startswith("3 done, 6.0 s in ")
    assert result.stdout == ""


def test_short_files_share_batches(run, sizes):
    """What the engine gains by, without a server: one call for the windows of all whose language is known."""
    run(".", "--language", "it")
    assert sizes() == [3]


def test_files_in_memory_are_bounded(run, sizes, monkeypatch):
    """No more audio is gathered than the engine's largest batches hold."""
    monkeypatch.setattr("service.offline.TOGETHER_S", 3.0)
    run(".", "--language", "it")
    assert sizes() == [2, 1]


@pytest.mark.parametrize("language", [None, "it"])
def test_all_formats_are_written(run, tmp_path, language):
    """`all` is every format; they say the same."""
    given = [] if language is None else ["--language", language]
    assert run("a.wav", "-f", "all", *given).exit_code == 0
    made = {
        path.name: path.read_text()
        for path in tmp_path.iterdir()
        if path.name.startswith("a.") and path.suffix != ".wav"
    }
    assert sorted(made) == ["a.json", "a.srt", "a.tsv", "a.txt", "a.verbose.json", "a.vtt"]
    words = made["a.txt"].strip()
    assert all(words in text for text in made.values())
    assert json.loads(made["a.json"])["model"] == "echo@1"


def test_what_is_done_is_left_out(run, engine):
    """The same command goes on where it was; it says so; --overwrite begins anew."""
    run("a.wav")
    result = run(".")
    assert result.stderr.splitlines()[0] == "1 of 3 done already; --overwrite does them again"
    assert [b.audio.size for batch in engine.batches for b in batch].count(16_000) == 1
    engine.batches.clear()
    result = run(".")
    assert (result.exit_code, engine.batches) == (0, [])
    run(".", "--overwrite")
    assert sum(map(len, engine.batches)) == 3


def test_audio_that_changed_is_done_again(run, tmp_path, wav):
    """A transcript older than its audio is of something else."""
    run("a.wav")
    (tmp_path / "a.wav").write_bytes(wav(5.0))
    later = (tmp_path / "a.txt").stat().st_mtime + 1
    os.utime(tmp_path / "a.wav", (later, later))
    run("a.wav")
    assert heard((tmp_path / "a.txt").read_text()) == 5.0


def test_a_bad_file_does_not_end_the_run(run, tmp_path):
    """One clear line, the others are transcribed, exit status 1."""
    (tmp_path / "a.wav").write_bytes(b"no audio")
    result = run(".", "missing.wav")
    assert result.exit_code == 1
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert errors[0] == "error: there is no missing.wav"
    assert errors[1].startswith("error: a.wav: Not audio in a format that FFmpeg knows")
    assert (tmp_path / "sub" / "c.txt").exists()
    assert not (tmp_path / "a.txt").exists()
    assert result.stderr.splitlines()[-1].endswith("; 2 failed")


@pytest.mark.parametrize("together_s", [160.0, 0.5], ids=["short", "long"])
def test_what_can_be_heard_of_a_damaged_file_is_written(run, tmp_path, wav, monkeypatch, together_s):
    """With a line that says what is missing, and exit status 1, also the next time: a script that tries again knows."""
    monkeypatch.setattr(service.offline, "TOGETHER_S", together_s)
    (tmp_path / "cut.wav").write_bytes(wav(4.0)[: 44 + 2 * 2 * 16_000])
    result = run("cut.wav", "-f", "text", "-f", "json")
    assert result.exit_code == 1
    assert heard((tmp_path / "cut.txt").read_text()) == 2.0
    assert json.loads((tmp_path / "cut.json").read_text())["partial"]["code"] == "truncated_audio"
    line, summary = result.stderr.splitlines()
    assert line.startswith("error: cut.wav: The audio is cut off")
    assert line.endswith("What could be heard: 2.0 s → cut.txt, cut.json")
    assert summary.startswith("0 done, 2.0 s in ")
    assert summary.endswith("; 1 failed")
    again = run("cut.wav", "-f", "text", "-f", "json")
    assert (again.exit_code, again.stderr.splitlines()[0]) == (1, line)
    whole = tmp_path / "cut.wav"
    whole.write_bytes(wav(4.0))
    assert run("cut.wav", "-f", "text", "-f", "json").exit_code == 0
    assert run("cut.wav", "-f", "text", "-f", "json").stderr.splitlines() == [
        "1 of 1 done already; --overwrite does them again"
    ]


def test_a_window_that_cannot_be_decoded_harms_its_file_only(run, tmp_path, engine):
    """Those that it shared a batch with are transcribed."""
    engine.fails = lambda window: window.audio.size == 32_000
    result = run(".")
    assert result.exit_code == 1
    assert "error: b.wav: no /secret/words" in result.stderr.splitlines()
    assert (tmp_path / "a.txt").exists()
    assert (tmp_path / "sub" / "c.txt").exists()
    assert not (tmp_path / "b.txt").exists()


def test_silence_is_an_empty_transcript(run, tmp_path, wav):
    """And no error."""
    (tmp_path / "s.wav").write_bytes(wav(1.0, 0.0))
    assert run("s.wav", "-f", "srt").exit_code == 0
    assert (tmp_path / "s.srt").read_text() == ""


def test_an_output_folder_is_made(run, tmp_path):
    """With the subfolders of the folder that was named."""
    assert run(".", "-o", "out/deep", "-f", "vtt").exit_code == 0
    made = sorted(path.relative_to(tmp_path / "out/deep").as_posix() for path in (tmp_path / "out").rglob("*.vtt"))
    assert made == ["a.vtt", "b.vtt", "sub/c.vtt"]


def test_standard_input_to_standard_output(run, wav):
    """A pipe: the words alone are on standard output."""
    result = run("-", input=wav(1.0))
    assert result.exit_code == 0, result.output
    assert heard(result.stdout) == 1.0


def test_one_file_to_standard_output(run, tmp_path):
    """`-o -` writes no file."""
    result = run("a.wav", "-o", "-", "-f", "srt")
    assert result.stdout.startswith("1\n00:00:00,000 --> 00:00:01,000\nn16000")
    assert list(tmp_path.glob("*.srt")) == []


@pytest.mark.parametrize(
    "arguments", [("a.wav", "b.wav", "-o", "-"), (".", "-o", "-"), ("-", "-f", "srt", "-f", "vtt")]
)
def test_standard_output_holds_one_transcript(run, arguments, wav):
    """Several would be none."""
    result = run(*arguments, input=wav(1.0))
    assert result.exit_code == 1
    assert result.stderr == "error: standard output has room for one file in one format; name an --output-dir\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-f", "ass"), "--format is text, json, srt, vtt, tsv, verbose_json or all, not ass"),
        (("--task", "sing"), "--task is transcribe or translate, not sing"),
        (("--language", "tlh"), "Unknown language 'tlh'. This model knows: en, it, ru."),
        (("--languages", "tlh"), "Unknown language 'tlh'. This model knows: en, it, ru."),
        (("--language", "it", "--languages", "ru"), "give either --language or --languages"),
        (
            ("--temperature", "0.5", "--beam-size", "2"),
            "--beam-size has no effect on what is sampled, at a --temperature above 0",
        ),
        (("--device", "tpu"), "device (WHISPERLOOP_DEVICE): Input should be 'auto', 'cpu' or 'cuda'"),
    ],
)
def test_wrong_options_are_one_line(run, arguments, said):
    """What it is, and what it could be."""
    result = run("a.wav", *arguments)
    assert (result.exit_code, result.stderr) == (1, f"error: {said}\n")


def test_the_options_of_decoding_reach_the_engine(run, engine):
    """Languages to choose from, temperature, keywords and prompt are those of the HTTP endpoints."""
    engine.tokenizer.encode = lambda text: [ord(letter) for letter in text]  # this one's vocabulary has no words
    asked = ("--languages", "ru", "--languages", "it-IT", "--temperature", "0.4")
    result = run("a.wav", *asked, "--keywords", "Foo", "--keywords", "Bar", "--prompt", "baz")
    assert result.exit_code == 0, result.output
    (window,) = engine.batches[-1]
    assert window.languages == ("ru", "it")
    assert window.options.temperature == 0.4
    assert "".join(map(chr, window.prompt)) == "Foo, Bar baz"


def test_a_model_that_is_not_there_is_one_line(tmp_path, monkeypatch):
    """With what to run to get one."""
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["transcribe", "a.wav", "--registry", str(tmp_path / "none")])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: There is no whisper@production to serve (")
    assert len(result.stderr.splitlines()) == 1


def test_an_interruption_is_told(run, tmp_path, engine, monkeypatch):
    """What is done stays done, half a file is none, and the exit status is that of an interrupted program."""
    monkeypatch.setattr("service.offline.TOGETHER_S", 1.0)
    echo = engine.transcribe

    def transcribe(windows, *rest):
        if windows and windows[0].audio.size > 16_000:
            raise KeyboardInterrupt
        return echo(windows, *rest)

    monkeypatch.setattr(engine, "transcribe", transcribe)
    result = run(".")
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == "stopped with 1 of 3 done; the same command goes on with the rest"
    assert [path.name for path in sorted(tmp_path.rglob("*.txt"))] == ["a.txt"]


def test_a_folder_that_cannot_be_written_ends_the_run(run, tmp_path):
    """The next file would not fare better."""
    (tmp_path / "out").write_text("a file")
    result = run("a.wav", "-o", "out")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("error: cannot write out/a.txt: ")


def test_a_terminal_sees_a_bar_of_seconds(run, monkeypatch):
    """And the lines above it."""
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TERM", "xterm")
    result = run(".")
    assert "100 %" in result.stderr
    assert "× real time" in result.stderr
    assert "a.wav: 1.0 s → a.txt" in result.stderr
