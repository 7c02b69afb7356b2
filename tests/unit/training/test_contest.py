"""One way into production: two versions measured and judged, the verdict kept, the alias moved or not."""

import json
import shutil
from contextlib import contextmanager

import pytest
from typer.testing import CliRunner

from registry import Registry
from training.__main__ import app
from training.contest import PAGE, VERDICT, TestSet, force, hold, keep, looks_at, promote, zero_shot_of
from training.data.manifest import write_manifest
from training.evaluate import Hypothesis
from training.gate import Verdict
from training.learned import Learned, known_of, learned, write_learned
from training.rules import Rules
from training.shell import StepError

WORDS = "uno due tre quattro cinque"
OTHERS = "sei sette otto nove dieci"


@pytest.fixture(autouse=True)
def cheap(monkeypatch):
    """Judge by fewer resamples, shorter sounds and no long recording: how finely is not the matter here."""
    monkeypatch.setattr("speech.scores.N_RESAMPLES", 1000)
    monkeypatch.setattr("training.guards.SOUND_S", 1.0)
    monkeypatch.setattr("training.guards.MIN_LONG_S", 1000.0)


@pytest.fixture
def clips(speech):
    """Return twelve clips of speech, with texts of six words each, as if of a file each, and their folder."""
    utterances, folder = speech
    audio = [u.audio.model_copy(update={"sha256": f"{i:064x}"}) for i, u in enumerate(utterances[:12])]
    pairs = zip(utterances, audio, strict=False)
    return [u.model_copy(update={"text": f"{WORDS} {u.id}", "audio": file}) for u, file in pairs], folder


def said(clips, n_wrong):
    """Return hypotheses of which the first `n_wrong` words are wrong."""
    words = WORDS.split()
    return [
        Hypothesis(
            id=u.id,
            language=u.language,
            reference=u.text,
            hypothesis=" ".join(["no"] * n_wrong + words[n_wrong:] + [u.id]),
        )
        for u in clips
    ]


@pytest.fixture
def registry(tiny, tmp_path):
    """Return a registry with two versions of one model, the first in production, and both versions."""
    store = Registry(tmp_path / "registry")
    versions = []
    for i in range(2):
        folder = tmp_path / f"staged{i}"
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights")
        (folder / "tokenizer.json").write_bytes((tiny.checkpoint / "tokenizer.json").read_bytes())
        (folder / "made.json").write_text(str(i), encoding="utf-8")
        parent = versions[0].ref if versions else None
        versions.append(store.publish("m", folder, parent=parent, context={}))
    store.move_alias("m", "production", versions[0].id, expected=None, reason="first")
    return store, *versions


@contextmanager
def progress(_what, _total):
    """Show nothing."""
    yield lambda _: None


@pytest.fixture
def contest(registry, clips, tmp_path, steady, monkeypatch):
    """Return the function that holds a contest between production and the second version, and its data."""
    monkeypatch.setattr("training.measure.load", lambda _: steady("uno"))
    store, old, new = registry
    utterances, folder = clips

    def make(before, after, looks=0, **changes):
        data = TestSet(**{"test": utterances, "audio_root": folder, "guards": {}, "train": [], **changes})
        known = {old.ref: said(utterances, before), new.ref: said(utterances, after)}
        settings = {"cache": tmp_path / "cache", "seed": 1, "rules": Rules(), "say": lambda _: None}
        return hold(
            new, old, zero_shot_of(new, store), data, progress=progress, known=known, looks=looks, **settings
        ), data

    return make


def production(store):
    """Return the version in production."""
    return store.alias("m", "production").version


def test_the_better_one_takes_productions_place(contest, registry, tmp_path):
    """A passed verdict is kept in the registry and in the folder, with its page, and named by the move."""
    store, _, new = registry
    held, data = contest(3, 1)
    assert held.verdict.decision == "promote"
    assert held.measured is not None
    name = keep(held, store, data, tmp_path / "run")
    promote(held, store, name)
    assert production(store) == new.id
    assert store.log("m")[-1].verdict == name
    assert store.log("m")[-1].reason == "passed the gate"
    assert Verdict.model_validate(store.verdict("m", name)) == held.verdict
    assert json.loads((tmp_path / "run" / VERDICT).read_text())["decision"] == "promote"
    assert "may go into production" in (tmp_path / "run" / PAGE).read_text()


def taught(version, clips):
    """Let a version say that it has learned clips."""
    write_learned(version.path, learned(clips, Learned()))


@pytest.mark.parametrize("side", [1, 2])
def test_clips_that_one_side_learned_are_left_out(contest, registry, clips, side):
    """Production knew four of twelve by heart, from another round: the candidate is compared on the other eight."""
    store_and_versions, utterances = registry, clips[0]
    taught(store_and_versions[side], utterances[:4])
    held, _ = contest(3, 1, train=None)
    assert held.verdict.comparisons["it"].clips == 8
    assert any("4 of 12 clips of test are left out" in note for note in held.verdict.notes)
    assert len(held.before) == len(held.after) == len(held.test) == 8  # the page is of what was compared


def test_guards_that_one_side_learned_are_left_out(contest, registry, clips):
    """Those of their clips: the note names the set."""
    taught(registry[1], clips[0][:2])
    held, _ = contest(3, 1, test=clips[0][4:], guards={"other": clips[0][:4]}, train=None)
    assert any("2 of 4 clips of other are left out" in note for note in held.verdict.notes)


@pytest.mark.parametrize("what", ["the test set", "the guard other"])
def test_what_was_learned_whole_judges_nobody(contest, registry, clips, monkeypatch, what):
    """A language, or a guard, of which nothing is left is an error before anything is heard: it would not be missed."""
    monkeypatch.setattr("training.contest.score", lambda *_: pytest.fail("it was measured"))
    russian = [clip.model_copy(update={"language": "ru"}) for clip in clips[0][:4]]
    taught(registry[1], russian)
    sets = {"test": [*russian, *clips[0][4:]]} if what == "the test set" else {"guards": {"other": russian}}
    if "guards" in sets:
        sets["test"] = clips[0][4:]
    with pytest.raises(StepError, match=rf"each clip of {what} in ru was learned by m@.*use = .test."):
        contest(3, 1, **sets)


def test_what_the_candidate_itself_was_trained_on_refuses(contest, registry, clips):
    """Its own training data are at hand: a test set among them is a refusal with a verdict, and no error."""
    taught(registry[2], clips[0])
    held, _ = contest(3, 1, train=clips[0])
    assert held.verdict.decision == "refuse"
    assert any("that was trained on" in reason for reason in held.verdict.refusals)


def test_who_does_not_say_all_that_it_learned_is_named(contest, registry):
    """Trained before versions said so, or fetched without: it may know test clips by heart. The first has no parent."""
    _, old, new = registry
    held, _ = contest(3, 1, train=None)
    notes = [note for note in held.verdict.notes if "not all is known of what" in note]
    assert len(notes) == 1
    assert new.ref in notes[0]
    write_learned(new.path, learned([], known_of(old)))
    held, _ = contest(3, 1, train=None)
    assert not any("not all is known of what" in note for note in held.verdict.notes)


def test_the_worse_one_does_not(contest, registry):
    """A refused candidate moves nothing, and nothing further was measured of it; to promote it is a bug."""
    store, old, _ = registry
    held, _ = contest(1, 3)
    assert held.verdict.decision == "refuse"
    assert held.measured is None
    with pytest.raises(ValueError, match="did not let it through"):
        promote(held, store, "none")
    assert production(store) == old.id


def test_looks_at_a_test_set_are_counted(contest, registry, tmp_path):
    """Each other version that met these clips, once, whatever came of it; from ten on, the verdict says so."""
    store, old, new = registry
    held, data = contest(3, 1)
    assert looks_at(store, new, data.test) == 0
    for _ in range(2):
        keep(held, store, data, tmp_path / "run")
    assert looks_at(store, new, data.test) == 0  # its own
    assert looks_at(store, old, data.test) == 1
    assert looks_at(store, old, data.test[1:]) == 0
    notes = [contest(3, 1, looks=looks)[0].verdict.notes for looks in (9, 80)]
    assert not any("compared on these very clips" in note for note in notes[0])
    assert any("80 other versions were compared on these very clips" in note for note in notes[1])


def test_force_is_written_down(contest, registry, tmp_path):
    """Promoted by force, the verdict stays a refusal, and verdict, log and page hold the reason."""
    store, _, new = registry
    held, data = contest(1, 3)
    forced = force(held, "the customer asked for it")
    name = keep(forced, store, data, tmp_path)
    promote(forced, store, name)
    assert production(store) == new.id
    kept = store.verdict("m", name)
    assert (kept["passed"], kept["decision"], kept["forced"]) == (False, "refuse", "the customer asked for it")
    assert store.log("m")[-1].reason == "forced past the gate (refuse): the customer asked for it"
    assert "the customer asked for it" in (tmp_path / PAGE).read_text()


def test_who_was_not_compared_with_production_does_not_take_its_place(contest, registry, tmp_path):
    """If production is another version than the one that was beaten, nothing moves, and the message says what to do."""
    store, old, _ = registry
    held, data = contest(3, 1)
    (tmp_path / "third").mkdir()
    (tmp_path / "third" / "model.safetensors").write_bytes(b"third")
    third = store.publish("m", tmp_path / "third", context={})
    store.move_alias("m", "production", third.id, expected=old.id, reason="meanwhile")
    with pytest.raises(StepError, match="judge it against m@production"):
        promote(held, store, keep(held, store, data, tmp_path / "run"))
    assert production(store) == third.id


def test_a_test_that_was_trained_on_is_refused(contest, clips):
    """However good the scores: a test clip among the training clips is an overlap, also of a guard."""
    utterances, _ = clips
    held, _ = contest(3, 1, train=utterances[:1])
    assert held.verdict.decision == "refuse"
    assert any("that was trained on" in reason for reason in held.verdict.refusals)
    other = [utterances[0].model_copy(update={"text": "altro", "language": "ru"})]
    held, _ = contest(3, 1, train=other, guards={"ru": other})
    assert held.verdict.decision == "refuse"


def test_what_the_caller_knows_is_refused(registry, clips, tmp_path):
    """That a recipe's data have changed, say, is a reason to refuse, and stands among the others."""
    _, old, new = registry
    utterances, folder = clips
    data = TestSet(utterances, folder, {}, [])
    held = hold(
        new,
        old,
        None,
        data,
        cache=tmp_path,
        seed=1,
        rules=Rules(),
        say=lambda _: None,
        progress=progress,
        known={old.ref: said(utterances, 3), new.ref: said(utterances, 1)},
        refusals=["the recipe's data have changed"],
    )
    assert held.verdict.decision == "refuse"
    assert "refused: the recipe's data have changed" in held.verdict.reasons


def test_what_is_not_known_of_the_data_is_said(contest):
    """Where the training data are not at hand, the verdict says that an overlap could not be looked for."""
    held, _ = contest(3, 1, train=None)
    assert any("whether a test clip was trained on is not known" in note for note in held.verdict.notes)


# The commands.


@pytest.fixture
def command(registry, clips, tmp_path, steady, monkeypatch):
    """Return the function that runs `python -m training` on the two versions, which hear what a test says."""
    store, old, new = registry
    utterances, folder = clips
    placed = [
        u.model_copy(update={"audio": u.audio.model_copy(update={"path": str(folder / u.audio.path)})})
        for u in utterances
    ]
    write_manifest(tmp_path / "manifest.jsonl", placed)
    write_manifest(tmp_path / "few.jsonl", placed[:5])
    heard = {}
    monkeypatch.setattr("training.measure.load", lambda version: steady(heard[version.id]))

    def invoke(*arguments, before="no", after="no", manifest="manifest.jsonl"):
        heard.update({old.id: before, new.id: after})
        where = ["--manifest", str(tmp_path / manifest), "--registry", str(store.root), "--runs", str(tmp_path)]
        return CliRunner().invoke(app, [*arguments, *where])

    return invoke


def test_gate_judges_two_versions_again(command, registry):
    """Better: status 0, and production moves only with --promote; the second time, what was scored is read."""
    store, old, new = registry
    run = command("gate", new.ref, before=OTHERS, after=WORDS)
    assert run.exit_code == 0, run.output
    assert f"{new.ref}: promote" in run.stdout
    assert production(store) == old.id
    again = command("gate", new.ref, "--against", "m@production", "--promote", before=OTHERS, after=WORDS)
    assert again.exit_code == 0
    assert "a test set is scored once" in again.stderr
    assert production(store) == new.id


def test_gate_refuses_with_status_3(command, registry):
    """Worse: status 3, as `run` has it, and as JSON if asked for; --promote moves nothing."""
    store, old, new = registry
    run = command("gate", new.ref, "--promote", "--json", before=WORDS, after=OTHERS)
    assert run.exit_code == 3
    assert json.loads(run.stdout)["decision"] == "refuse"
    assert production(store) == old.id
    assert len(store.verdicts("m")) == 1


def test_gate_does_not_decide_with_status_4(command, registry):
    """Too few clips: status 4, and how many more."""
    _, _, new = registry
    run = command("gate", new.ref, before=OTHERS, after=WORDS, manifest="few.jsonl")
    assert run.exit_code == 4, run.output
    assert "not enough data to decide: 5 more utterances needed" in run.stdout


@pytest.mark.parametrize("names", [("one/manifest.jsonl", "one/manifest.jsonl"), ("long-form.jsonl",)])
def test_guards_of_one_name_are_refused(command, registry, tmp_path, names):
    """Only the last would be measured, and the verdict would not say so."""
    _, _, new = registry
    (tmp_path / "one").mkdir()
    for name in names:
        shutil.copyfile(tmp_path / "few.jsonl", tmp_path / name)
    guards = [part for name in names for part in ("--guard", str(tmp_path / name))]
    run = command("gate", new.ref, *guards, before=OTHERS, after=WORDS)
    assert run.exit_code == 2
    assert "already" in run.stderr


@pytest.mark.parametrize("arguments", [["--force"], ["--force", "--reason", "  "], ["--reason", "why"]])
def test_force_needs_a_reason_and_a_reason_force(command, registry, arguments):
    """Neither goes without the other, and nothing is measured or moved before that is said."""
    store, old, new = registry
    run = command("gate", new.ref, *arguments, before=WORDS, after=OTHERS)
    assert run.exit_code == 2
    assert store.verdicts("m") == []
    assert production(store) == old.id


def test_force_promotes_what_was_refused(command, registry):
    """With a reason, production moves, and the log says who was overruled and why."""
    store, _, new = registry
    run = command("gate", new.ref, "--force", "--reason", "a demonstration", before=WORDS, after=OTHERS)
    assert run.exit_code == 0, run.output
    assert production(store) == new.id
    assert store.log("m")[-1].reason == "forced past the gate (refuse): a demonstration"


def test_evaluate_prints_a_table_or_json(command, registry):
    """Rates with intervals, what was resampled, the figures beside, where the hypotheses lie, that it is once."""
    _, _, new = registry
    table = command("evaluate", new.ref, after=WORDS)
    assert table.exit_code == 0, table.output
    assert "scored now" in table.stdout
    assert "12 sentences" in table.stdout
    assert "0.167" in table.stdout  # the sixth word of six
    answer = json.loads(command("evaluate", new.ref, "--json", after=WORDS).stdout)
    assert answer["scored_now"] is False
    assert answer["scores"]["it"]["wer"]["value"] == pytest.approx(1 / 6)
    assert answer["scores"]["it"]["blocks"] == "sentence"
    assert answer["beside"]["letters_a_minute_of_no_speech_as_served"] == 0
    assert answer["record"]["decoding"].startswith("greedy")


def test_evaluate_wants_one_set_and_a_known_split(command, registry):
    """Two sets at once, a split that is none and a language without clips are refused with one line."""
    _, _, new = registry
    assert command("evaluate", new.ref, "--split", "train").exit_code == 2
    assert "give exactly one of" in str(command("evaluate", new.ref, "--folder", "x").exception)
    assert "has no test clip in ru" in str(command("evaluate", new.ref, "--language", "ru").exception)
