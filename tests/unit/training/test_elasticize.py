"""Elasticizing's judgement and what it looks at; the whole of it, on real speech, is in the integration tier."""

import hashlib
from contextlib import nullcontext

import pytest
from typer.testing import CliRunner

from registry import Registry, RegistryError
from training.__main__ import app
from training.config import make_config
from training.context import MAX_ELASTIC_LOSS
from training.data.manifest import AudioSlice, Utterance
from training.elasticize import MAX_LOSS, Evidence, attempt, describe, elasticize, to_learn_from
from training.evaluate import Hypothesis
from training.own_words import OWN_WORDS, SUFFIXES, find_audio
from training.shell import StepError

SENTENCE = "alpha bravo charlie delta echo foxtrot golf hotel india juliett"


def judged(language, n, *, own=False, wrong=0):
    """Return `n` clips, what the parent heard (all), and what the child heard (one word wrong in `wrong` of them)."""
    clips, before, after = [], [], []
    for i in range(n):
        name, text = f"{language} {own} {i}", f"{SENTENCE} {i}"
        source = OWN_WORDS if own else "test"
        audio = AudioSlice(path="a.wav", duration=3.0, sha256="0" * 64)
        clips.append(Utterance(id=name, audio=audio, text=text, language=language, source=source))
        heard = text.replace("golf", "gulf") if i < wrong else text
        for answers, said in ((before, text), (after, heard)):
            answers.append(Hypothesis(id=name, language=language, reference=text, hypothesis=said, duration=3.0))
    return clips, before, after


def tried(*groups, learned=("it",)):
    """Return the attempt on all groups together."""
    clips, before, after = ([one for group in groups for one in group[i]] for i in range(3))
    return attempt(32, clips, before, after, set(learned), seed=0)


def test_the_same_words_hold():
    """A child that hears what its parent hears may be served, in a language of the audio and in another."""
    found = tried(judged("it", 40), judged("en", 40))
    assert found.holds
    assert [found.languages[code].learned for code in ("it", "en")] == [True, False]


def test_one_language_that_is_worse_is_enough():
    """By more than a hundredth, in a language that people transcribed, though all together are within it."""
    found = tried(judged("it", 400), judged("en", 40, wrong=8))  # 8 of 440 words of en
    assert found.languages["en"].cost.difference.value > MAX_LOSS
    assert found.trial.all.difference.value < MAX_LOSS
    assert not found.languages["en"].holds
    assert not found.holds


def test_other_words_than_the_parents_are_not_worse_words():
    """Where only the parent's words are to compare with, a few may differ; many may not."""
    few, many = (tried(judged("it", 40, own=True, wrong=wrong)) for wrong in (8, 40))
    assert few.holds
    assert many.languages["it"].cost.difference.high <= MAX_ELASTIC_LOSS
    worse = judged("it", 40, own=True)
    silent = [heard.model_copy(update={"hypothesis": ""}) for heard in worse[2]]
    assert not tried((worse[0], worse[1], silent)).holds


def test_a_language_of_silences_is_not_judged():
    """There is no word in it to be wrong, and the other languages are judged as they are."""
    clips, before, after = judged("ru", 3)
    silent = [one.model_copy(update={"text": "", "no_speech": True}) for one in clips]
    before, after = ([one.model_copy(update={"reference": ""}) for one in heard] for heard in (before, after))
    assert tried(judged("it", 40), (silent, before, after)).languages.keys() == {"it"}


def test_what_people_wrote_goes_before_what_the_parent_heard():
    """A language with both is judged by the transcripts."""
    found = tried(judged("it", 20, own=True, wrong=20), judged("it", 20))
    assert found.languages["it"].transcribed
    assert found.languages["it"].cost.clips == 20


def test_the_smallest_margin_that_holds_is_served():
    """None, if none does."""
    good, bad = tried(judged("it", 40)), tried(judged("it", 40, wrong=40))
    assert Evidence(attempts=(bad, good)).margin == 32
    assert Evidence(attempts=(bad, bad)).margin is None
    text = "\n".join(describe(Evidence(attempts=(bad, good))))
    assert "margin 32: does not hold" in text
    assert "worse" in text


def test_what_judges_is_not_learned_from(tmp_path):
    """A recording that judges is told by its content, under another name, too."""
    for name, content in (("a.wav", b"a"), ("copy of a.wav", b"a"), ("b.wav", b"b")):
        (tmp_path / name).write_bytes(content)
    audio = AudioSlice(path="elsewhere.wav", duration=1.0, sha256=hashlib.sha256(b"a").hexdigest())
    judge = Utterance(id="a", audio=audio, text="a", language="it", source="test")
    assert to_learn_from(find_audio([tmp_path]), [judge]) == [tmp_path / "b.wav"]


@pytest.fixture
def parent(tmp_path):
    """Return a registry, and a version in it that has a checkpoint."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "model.safetensors").write_bytes(b"weights")
    store = Registry(tmp_path / "registry")
    return store, store.publish("whisper", source, context={"elastic": False, "margin": 0})


def test_two_do_not_teach_in_one_folder(tmp_path, parent, monkeypatch):
    """A second one that is started while the first listens is told so at once, and disturbs nothing."""
    store, version = parent
    (tmp_path / "clip.wav").write_bytes(b"a")
    sources = [{"kind": "folder", "path": tmp_path, "language": "it"}]
    config = make_config("test", {"name": "whisper", "base": version.ref, "max_steps": 1, "sources": sources})

    def start():
        elasticize(
            config, version, store, [tmp_path / "clip.wav"], tmp_path / "runs", say=lambda _: None, progress=nullcontext
        )

    def listen(*_):
        with pytest.raises(StepError, match=r"another process runs in .*whisper-.*: wait until it has ended"):
            start()
        raise StepError("the first one came this far")

    monkeypatch.setattr("training.elasticize.hear", listen)
    with pytest.raises(StepError, match="the first one came this far"):
        start()


def test_an_alias_that_is_none_is_told_at_once(tmp_path):
    """Not after half an hour of listening and learning: the registry is not even looked at."""
    (tmp_path / "a.wav").touch()
    arguments = ["elasticize", "whisper@production", "--audio", str(tmp_path), "--alias", "elastic"]
    with pytest.raises(RegistryError, match="'elastic' is no alias"):
        CliRunner().invoke(app, [*arguments, "--registry", str(tmp_path / "none")], catch_exceptions=False)


def test_audio_is_found_in_folders(tmp_path):
    """Below a folder, however deep and spelt, each once; other files are passed over."""
    (tmp_path / "deep").mkdir()
    names = ("b.WAV", "a.mp3", "deep/c.opus", "notes.txt", "clip.wav.json")
    for name in names:
        (tmp_path / name).touch()
    found = find_audio([tmp_path, tmp_path / "a.mp3"])
    assert [file.relative_to(tmp_path).as_posix() for file in found] == ["a.mp3", "b.WAV", "deep/c.opus"]


@pytest.mark.parametrize("names", [(), ("notes.txt", "deep/clip.wav.json"), ("deep/folder.wav/",)])
def test_a_folder_without_audio_is_refused(tmp_path, parent, names):
    """Whatever else is in it: the command names the folder and the suffixes that it looked for, and leaves no run."""
    store, version = parent
    folder = tmp_path / "recordings"
    folder.mkdir()
    for name in names:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.mkdir() if name.endswith("/") else path.touch()
    arguments = ["elasticize", version.ref, "--audio", str(folder), "--registry", str(store.root)]
    with pytest.raises(StepError) as refused:
        CliRunner().invoke(app, [*arguments, "--runs", str(tmp_path / "runs")], catch_exceptions=False)
    assert str(refused.value) == f"no audio in {folder}: looked for {', '.join(sorted(SUFFIXES))}"
    assert not (tmp_path / "runs").exists()
