"""The promises of preparing a run's data: several sources, put together, weighted and split."""

import json
import re
import shutil
import tomllib
import typing
import wave
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from training.config import ConfigError, make_config
from training.data.manifest import fingerprint, read_manifest, write_manifest
from training.data.mix import mix
from training.data.report import DataReport, TooManyDroppedError
from training.data.sources.config import Source
from training.prepare import prepare

GUIDE = Path(__file__).parents[3] / "docs" / "training" / "data.md"
SNIPPETS = re.findall(r"```toml\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)


def test_the_guide_shows_every_kind():
    """No kind of source is without an example."""
    shown = {source.kind for text in SNIPPETS for source in make_config("guide", tomllib.loads(text)).sources}
    assert shown == {model.model_fields["kind"].default for model in typing.get_args(typing.get_args(Source)[0])}


@pytest.fixture
def write_clip():
    """Write a short clip of noise."""

    def write(path, seed):
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = np.random.default_rng(seed).integers(-9000, 9000, 1600).astype("<i2")
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, 16_000, 0, "NONE", ""))
            file.writeframes(samples.tobytes())

    return write


@pytest.fixture
def own(tmp_path, write_clip):
    """Write a folder of twenty clips."""
    for n in range(20):
        write_clip(tmp_path / "own" / f"{n}.wav", n)
    lines = "".join(f"{n}.wav,frase mia {n}\n" for n in range(20))
    (tmp_path / "own" / "metadata.csv").write_text("file_name,text\n" + lines)
    return {"kind": "folder", "path": tmp_path / "own", "language": "IT"}


@pytest.fixture
def general(tmp_path, write_clip):
    """Write a NeMo manifest of forty clips."""
    lines = []
    for n in range(40):
        write_clip(tmp_path / "general" / f"{n}.wav", 100 + n)
        lines.append(json.dumps({"audio_filepath": f"{n}.wav", "duration": 0.1, "text": f"frase di tutti {n}"}))
    (tmp_path / "general" / "all.json").write_text("\n".join(lines))
    return {"kind": "nemo", "path": tmp_path / "general" / "all.json", "language": "it-IT", "use": "train"}


def read(tokenizer, cache, *sources, **settings):
    """Prepare the data of some sources."""
    return prepare(make_config("x", {"sources": list(sources), **settings}), tokenizer, cache)


def test_sources_are_put_together_by_weight(tokenizer, tmp_path, own, general):
    """Weights hold for training only, survive the manifest, and say how often a clip is seen."""
    data = read(
        tokenizer, tmp_path / "cache", own | {"weight": 2}, general | {"weight": 0.25}, test_clips=4, dev_clips=1
    )
    assert {u.language for u in data.utterances} == {"it"}
    assert {(u.source, u.split, u.weight) for u in data.utterances} == {
        ("folder:own", "test", 1.0),
        ("folder:own", "dev", 1.0),
        ("folder:own", "train", 2.0),
        ("nemo:all.json", "train", 0.25),
    }
    write_manifest(tmp_path / "run" / "manifest.jsonl", data.utterances)
    train = [u for u in read_manifest(tmp_path / "run" / "manifest.jsonl") if u.split == "train"]
    assert Counter(u.source for u in mix(train, seed=1)) == {"folder:own": 30, "nemo:all.json": 10}


def test_weights_change_the_run_and_not_what_it_is_measured_on(tokenizer, tmp_path, own, general):
    """Another weight is another data set to train on, on the same dev and test sets."""
    plain, weighted = (read(tokenizer, tmp_path / "cache", own | {"weight": w}, general) for w in (1, 2))
    assert plain.fingerprint != weighted.fingerprint
    for name in ("dev", "test"):
        assert fingerprint(plain.of(name)) == fingerprint(weighted.of(name))


def test_use_is_for_clips_without_a_split(tokenizer, tmp_path, own, general):
    """`use` puts a source's clips where one says; nothing is drawn from them, nor on their account."""
    data = read(tokenizer, tmp_path / "cache", own, general)
    assert Counter((u.source, u.split) for u in data.utterances) == {
        ("nemo:all.json", "train"): 40,
        ("folder:own", "train"): 15,
        ("folder:own", "test"): 4,
        ("folder:own", "dev"): 1,
    }
    data = read(tokenizer, tmp_path / "cache", own | {"use": "test"}, general | {"use": None})
    assert Counter(u.split for u in data.utterances if u.source == "folder:own") == {"test": 20}
    assert Counter(u.split for u in data.utterances if u.source == "nemo:all.json") == {"train": 38, "dev": 2}


@pytest.fixture
def other(tmp_path, write_clip):
    """Write another folder of the name of the first, with clips of its own under the same names."""
    for n in range(20):
        write_clip(tmp_path / "other" / "own" / f"{n}.wav", 500 + n)
    lines = "".join(f"{n}.wav,altra cosa {n}\n" for n in range(20))
    (tmp_path / "other" / "own" / "metadata.csv").write_text("file_name,text\n" + lines)
    return {"kind": "folder", "path": tmp_path / "other" / "own", "language": "it"}


def test_folders_of_one_name_are_two(tokenizer, tmp_path, own, other):
    """Failure: two folders of one name, whose clips overwrite each other. Ids and sources tell them apart."""
    data = read(tokenizer, tmp_path / "cache", own, other)
    assert {(one.id, one.source): one.text for one in data.utterances if "/0.wav" in one.id} == {
        ("own/0.wav", "folder:own"): "frase mia 0",
        ("own/0.wav~2", "folder:own~2"): "altra cosa 0",
    }
    assert len(data.utterances) == 40
    assert data.report.dropped == ()


@pytest.mark.parametrize("use", ["replay", "guards"])
def test_a_folder_goes_by_one_name_wherever_it_is_used(tokenizer, tmp_path, own, other, general, use):
    """Also where it is rehearsed or watched beside a folder of its name; named twice there, it is halved as always."""
    data = read(tokenizer, tmp_path / "cache", own, **{use: [other]})
    assert {one.source for one in getattr(data, use)} == {"folder:own~2"}
    ids = [one.id for one in (*data.utterances, *data.replay, *data.guards)]
    assert len(set(ids)) == len(ids) == 40
    both = read(tokenizer, tmp_path / "cache", general | {"use": None}, replay=[other], guards=[own, other])
    halves = ({one.id for one in part if one.text.startswith("altra")} for part in (both.replay, both.guards))
    assert all(0 < len(half) < 20 for half in halves)


def test_a_source_that_is_named_twice_is_reported(tokenizer, tmp_path, own):
    """Its clips are there once, and the others are left out, and said to be."""
    (tmp_path / "own" / "metadata.csv").write_text("file_name,text\n0.wav,una frase\n1.wav,un'altra\n2.wav,ecco\n")
    with pytest.raises(TooManyDroppedError, match=r"duplicate_id: 3 \(own/0.wav"):
        read(tokenizer, tmp_path / "cache", own, own)
    report = DataReport.model_validate_json((tmp_path / "cache" / "last-report.json").read_text())
    assert (report.n_kept, report.n_faulty) == (3, 3)


def test_a_dev_set_that_is_given_is_not_heard_whole(tokenizer, tmp_path, own, general):
    """Thousands of clips at every evaluation would take the hours of the training; what is not needed is told."""
    sources = [own | {"use": "train"}, general | {"use": "dev"}]
    test = {"kind": "folder", "path": tmp_path / "own" / "t", "language": "it", "use": "test"}
    shutil.copytree(tmp_path / "own", tmp_path / "own" / "t")
    lines = "".join(f"{n}.wav,prova {n}\n" for n in range(20))
    (tmp_path / "own" / "t" / "metadata.csv").write_text("file_name,text\n" + lines)
    whole = read(tokenizer, tmp_path / "cache", *sources, test)
    assert len(whole.of("dev")) == 40
    data = read(tokenizer, tmp_path / "cache", *sources, test, dev_clips=7)
    assert (len(data.of("dev")), len(data.of("test")), len(data.of("train"))) == (7, 20, 20)
    assert Counter(one.reason for one in data.report.dropped) == {"more_dev_than_wanted": 33}
    assert data.report.n_faulty == 0
    more = read(tokenizer, tmp_path / "cache", *sources, test, dev_clips=9)
    assert {u.id for u in data.of("dev")} < {u.id for u in more.of("dev")}


def test_failure_29_a_hundred_clips_are_enough_to_choose(tokenizer, tmp_path, own, general, write_clip):
    """Of a dev set that is given, a hundred clips a language are heard at each evaluation unless one wants more."""
    lines = []
    for n in range(110):
        write_clip(tmp_path / "general" / f"dev-{n}.wav", 1000 + n)
        lines.append(json.dumps({"audio_filepath": f"dev-{n}.wav", "duration": 0.1, "text": f"altra {n}"}))
    (tmp_path / "general" / "dev.json").write_text("\n".join(lines))
    given = general | {"use": "dev", "path": tmp_path / "general" / "dev.json"}
    data = read(tokenizer, tmp_path / "cache", own, given)
    assert len([one for one in data.of("dev") if one.source == "nemo:dev.json"]) == 100
    assert Counter(one.reason for one in data.report.dropped) == {"more_dev_than_wanted": 10}


def test_failure_36_a_row_in_a_language_without_a_token_is_refused(tokenizer, tmp_path, own, general):
    """The model cannot be told to speak it: which language of the data it is, is said before anything is trained."""
    rows = [json.loads(line) for line in (tmp_path / "general" / "all.json").read_text().splitlines()]
    named = [json.dumps(row | {"lang": "it" if i else "xx"}) for i, row in enumerate(rows)]
    (tmp_path / "general" / "all.json").write_text("\n".join(named))
    with pytest.raises(ConfigError, match="knows no language 'xx'"):
        read(tokenizer, tmp_path / "cache", own, {name: general[name] for name in ("kind", "path", "use")})


@pytest.mark.parametrize(("bad_own", "bad_general", "refused"), [(0, 3, False), (0, 6, True), (3, 0, True)])
def test_each_part_of_the_data_has_its_own_faults(tokenizer, tmp_path, own, general, bad_own, bad_general, refused):
    """Bad rows among many to rehearse are not held against one's own clips, nor do good ones hide bad ones."""
    with (tmp_path / "own" / "metadata.csv").open("a") as file:
        file.write("".join(f"gone-{n}.wav,testo\n" for n in range(bad_own)))
    with (tmp_path / "general" / "all.json").open("a") as file:
        for n in range(20):
            (tmp_path / "general" / f"more-{n}.wav").write_bytes((tmp_path / "general" / f"{n}.wav").read_bytes())
            line = {"audio_filepath": f"more-{n}.wav", "duration": 0.1, "text": f"altra frase {n}"}
            file.write("\n" + json.dumps(line))
        for n in range(bad_general):
            file.write("\n" + json.dumps({"audio_filepath": f"gone-{n}.wav", "duration": 0.1, "text": f"testo {n}"}))
    settings = {"sources": [own], "replay": [general], "test_clips": 4, "dev_clips": 1}
    config = make_config("x", settings)
    if refused:
        with pytest.raises(TooManyDroppedError):
            prepare(config, tokenizer, tmp_path / "cache")
    else:
        assert prepare(config, tokenizer, tmp_path / "cache").report.n_faulty == bad_general


def test_a_language_that_the_model_does_not_know_is_refused(tokenizer, tmp_path, general):
    """It is known before anything is read."""
    with pytest.raises(ConfigError, match="Unknown language 'fi'"):
        read(tokenizer, tmp_path / "cache", general | {"language": "fi"})


def test_a_guard_that_is_trained_on_is_left_out(tokenizer, tmp_path, own, general, write_clip):
    """The gate would refuse it, after all the training: by its sentence, or by its audio; and the report says so."""
    lines = [
        {"audio_filepath": "said.wav", "duration": 0.1, "text": "Frase mia 3!"},
        {"audio_filepath": "heard.wav", "duration": 0.1, "text": "un altro testo"},
    ]
    write_clip(tmp_path / "general" / "said.wav", 500)
    shutil.copyfile(tmp_path / "own" / "4.wav", tmp_path / "general" / "heard.wav")
    with (tmp_path / "general" / "all.json").open("a") as file:
        file.write("".join("\n" + json.dumps(line) for line in lines))
    test = {"kind": "folder", "path": tmp_path / "test", "language": "it", "use": "test"}
    write_clip(tmp_path / "test" / "t.wav", 600)
    (tmp_path / "test" / "metadata.csv").write_text("file_name,text\nt.wav,una frase di prova\n")
    config = {"sources": [own | {"use": "train"}, test], "guards": [general | {"use": None}], "dev_clips": 1}
    data = prepare(make_config("x", config), tokenizer, tmp_path / "cache")
    train = {u.id for u in data.of("train")}
    left_out = {one.detail for one in data.report.dropped if one.reason == "trained_guard"}
    expected = {
        f"it is trained on: {text!r}"
        for text, clip in (("Frase mia 3!", "own/3.wav"), ("un altro testo", "own/4.wav"))
        if clip in train
    }
    assert expected
    assert left_out == expected
    assert len(data.guards) == 42 - len(expected)


def test_a_few_corrections_leave_the_other_languages_their_test_set(tokenizer, tmp_path, own, write_clip):
    """A test set is a fifth of its own language's clips, and not of those of the smallest."""
    write_clip(tmp_path / "few" / "f.wav", 700)
    write_clip(tmp_path / "few" / "g.wav", 701)
    write_clip(tmp_path / "few" / "h.wav", 702)
    (tmp_path / "few" / "metadata.csv").write_text("file_name,text\nf.wav,odin\ng.wav,dva\nh.wav,tri\n")
    few = {"kind": "folder", "path": tmp_path / "few", "language": "ru"}
    data = read(tokenizer, tmp_path / "cache", own, few)
    assert Counter(u.language for u in data.of("test")) == {"it": 4, "ru": 1}


@pytest.mark.parametrize(("name", "what"), [("test", "it: the test set"), ("dev", "the dev set")])
def test_a_set_of_silences_is_refused(tokenizer, tmp_path, own, general, monkeypatch, name, what):
    """There is no error rate of it, which is said before anything is trained."""
    from training import prepare as preparing

    def silent(*args, **kwargs):
        kept, dropped = read_nemo(*args, **kwargs)
        return [one.model_copy(update={"text": "", "no_speech": True}) for one in kept], dropped

    read_nemo = preparing.read_nemo
    monkeypatch.setattr(preparing, "read_nemo", silent)
    with pytest.raises(ConfigError, match=f"{what} is silences alone"):
        read(tokenizer, tmp_path / "cache", own, general | {"use": name})


def test_the_same_clips_in_another_part_are_other_data(tokenizer, tmp_path, own, general):
    """What was learned and is only rehearsed now, or only watched, is a change that a retraining must see."""
    general.pop("use")
    cache, sizes = tmp_path / "cache", {"test_clips": 4, "dev_clips": 1}
    learned = read(tokenizer, cache, own, general | {"use": "train"}, **sizes)
    rehearsed = read(tokenizer, cache, own, replay=[general], **sizes)
    watched = read(tokenizer, cache, own, guards=[general], **sizes)
    ids = [{one.id for one in (*data.utterances, *data.replay, *data.guards)} for data in (learned, rehearsed, watched)]
    assert ids[0] == ids[1] == ids[2]
    assert len({data.fingerprint for data in (learned, rehearsed, watched)}) == 3
    assert read(tokenizer, cache, own, replay=[general], **sizes).fingerprint == rehearsed.fingerprint
