"""The promises of every engine: one answer a window, in order, and a broken window harms nobody else."""

import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import speech
from speech.context import ElasticContext
from speech.engine import (
    MAX_NEW_TOKENS,
    CancelledError,
    DecodingOptions,
    DecodingResult,
    EngineError,
    Window,
    choose_language,
    compression_ratio,
    decode_in_batches,
    load_engine,
)
from speech.engine.tuning import Tuning

ELASTIC = ElasticContext(elastic=True, margin=0)


def marked(*seconds):
    """Make windows of these lengths, each with its index as the first sample."""
    made = []
    for i, length in enumerate(seconds):
        audio = np.zeros(round(length * 16_000), np.float32)
        audio[0] = i
        made.append(Window(audio))
    return made


def answer(window, positions):
    """Decode a window into its mark."""
    return DecodingResult(str(int(window.audio[0])), (), "it", 1.0, 0.0, 0.0, 0.0, positions)


def decode_by(made, context, max_batch, decode, **more):
    """Decode in batches of a fixed size."""
    return decode_in_batches(made, context, decode, batch_size=lambda _: max_batch, **more)


class Recorder:
    """A decoder that remembers its calls and chokes on some windows."""

    def __init__(self, *poisonous):
        self.poisonous = poisonous
        self.calls = []

    def __call__(self, positions, batch, _is_cancelled):
        """Answer a batch, or fail with the mark of the first window that cannot be decoded."""
        marks = [int(window.audio[0]) for window in batch]
        self.calls.append((positions, marks))
        for mark in marks:
            if mark in self.poisonous:
                raise RuntimeError(f"cannot decode {mark}")
        return [answer(window, positions) for window in batch]


@given(st.lists(st.floats(0.1, 30), max_size=12), st.integers(1, 5))
def test_answers_come_in_the_order_of_the_windows(seconds, max_batch):
    """Whatever is batched with what, each window gets its own answer, at its own context."""
    made = marked(*seconds)
    decode = Recorder()
    results = decode_by(made, ELASTIC, max_batch, decode)
    assert [result.text for result in results] == [str(i) for i in range(len(made))]
    assert [result.positions for result in results] == [ELASTIC.positions(w.audio.size) for w in made]
    for positions, marks in decode.calls:
        assert {ELASTIC.positions(made[i].audio.size) for i in marks} == {positions}
        assert len(marks) <= max_batch
    assert sorted(i for _, marks in decode.calls for i in marks) == list(range(len(made)))


@pytest.mark.parametrize("workers", [2, 3, 16])
def test_workers_change_neither_order_nor_answers(workers):
    """Several batches at once give what one after the other gives, failures included."""
    made = marked(*[0.5 + i % 7 for i in range(40)])
    alone = decode_by(made, ELASTIC, 4, Recorder(5, 17))
    together = decode_by(made, ELASTIC, 4, Recorder(5, 17), workers=workers)
    assert [str(answer) for answer in together] == [str(answer) for answer in alone]


def test_workers_do_work_at_the_same_time():
    """Two workers have two batches in hand: each waits for the other, and neither gives up."""
    both = threading.Barrier(2, timeout=10)

    def decode(positions, batch, _is_cancelled):
        both.wait()
        return [answer(window, positions) for window in batch]

    results = decode_by(marked(1, 5), ELASTIC, 8, decode, workers=2)
    assert [result.text for result in results] == ["0", "1"]


def test_a_call_holds_one_context():
    """Short windows do not pay for a long one that came along."""
    decode = Recorder()
    decode_by(marked(1, 30, 1.1, 29.9, 1.2), ELASTIC, 8, decode)
    assert [marks for _, marks in decode.calls] == [[0, 2, 4], [3, 1]]


def test_without_elasticity_all_share_one_call():
    """Where every window costs 30 s, all of them go together."""
    decode = Recorder()
    decode_by(marked(1, 30, 5), ElasticContext(), 8, decode)
    assert [positions for positions, _ in decode.calls] == [1500]


def test_batches_are_as_large_as_allowed():
    """Nine windows of one context are a batch of eight and one."""
    decode = Recorder()
    decode_by(marked(*[1.0] * 9), ELASTIC, 8, decode)
    assert [len(marks) for _, marks in decode.calls] == [8, 1]


def test_nothing_to_decode_is_no_call():
    """An empty list has an empty answer."""
    decode = Recorder()
    assert decode_by([], ELASTIC, 8, decode) == []
    assert decode.calls == []


@pytest.mark.parametrize("poisonous", range(8))
def test_a_window_that_cannot_be_decoded_fails_alone(poisonous):
    """Seven of eight are answered, wherever the eighth stands; its error says why."""
    results = decode_by(marked(*[1.0] * 8), ELASTIC, 8, Recorder(poisonous))
    for i, found in enumerate(results):
        if i == poisonous:
            assert isinstance(found, EngineError)
            assert str(found) == f"cannot decode {poisonous}"
        else:
            assert found.text == str(i)


@given(st.sets(st.integers(0, 7)))
def test_any_number_of_them_may_fail(poisonous):
    """Errors and answers do not mix."""
    results = decode_by(marked(*[1.0] * 8), ELASTIC, 8, Recorder(*poisonous))
    assert {i for i, found in enumerate(results) if isinstance(found, EngineError)} == poisonous


def test_a_culprit_is_found_by_halving():
    """One bad window of eight costs seven calls, not one a window and one more."""
    decode = Recorder(5)
    decode_by(marked(*[1.0] * 8), ELASTIC, 8, decode)
    assert len(decode.calls) == 7


def test_stopping_the_program_is_no_windows_error():
    """An interrupt is not swallowed."""

    def interrupted(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decode_by(marked(1), ELASTIC, 8, interrupted)


def test_a_loop_compresses_well():
    """Whisper's measure: repetition is above 2.4, speech below, nothing is 0."""
    assert compression_ratio("ha " * 100) > 2.4
    assert compression_ratio("Buongiorno a tutti, oggi parliamo del tempo che fa in città.") < 1.5
    assert compression_ratio("") == 0.0


@pytest.mark.parametrize(("seconds", "tokens"), [(0.02, 25), (1, 54), (1.1, 57), (5, 174), (30, MAX_NEW_TOKENS)])
def test_a_window_may_have_thirty_tokens_a_second(seconds, tokens):
    """Short windows stop loops early; none gets more than half of the decoder's positions."""
    assert Window(np.zeros(round(seconds * 16_000), np.float32)).max_new_tokens == tokens


def test_a_window_can_ask_for_thirty_seconds():
    """What is decoded again at full context pays for 1,500 positions, and is not batched with short ones."""
    decode = Recorder()
    first, second = marked(1, 1)
    results = decode_by([first, replace(second, full_context=True)], ELASTIC, 8, decode)
    assert [result.positions for result in results] == [96, 1500]
    assert [positions for positions, _ in decode.calls] == [96, 1500]


def test_kinds_do_not_share_a_call():
    """Windows of one context are split where the engine cannot mix them."""
    decode = Recorder()
    made = [replace(window, prompt=(1,) * (i % 2)) for i, window in enumerate(marked(1, 1, 1, 1))]
    decode_by(made, ELASTIC, 8, decode, kind=lambda window: len(window.prompt))
    assert sorted(marks for _, marks in decode.calls) == [[0, 2], [1, 3]]


def test_batches_may_be_smaller_where_windows_are_longer():
    """The size of a batch is asked for at each context."""
    decode = Recorder()
    decode_in_batches(
        marked(1, 1, 1, 30, 30), ELASTIC, decode, batch_size=lambda positions: 1 if positions > 1000 else 8
    )
    assert [marks for _, marks in decode.calls] == [[0, 1, 2], [3], [4]]


def test_the_cancelled_are_not_decoded():
    """Who is cancelled before its batch begins costs nothing, and its neighbours are answered."""
    decode = Recorder()
    results = decode_by(marked(1, 1, 1), ELASTIC, 8, decode, is_cancelled=lambda i: i == 1)
    assert [type(result) for result in results] == [DecodingResult, CancelledError, DecodingResult]
    assert decode.calls == [(96, [0, 2])]


def test_rows_know_whose_they_are():
    """An engine that asks about a row of its batch is told about the window in that row."""
    asked = []

    def decode(positions, batch, is_cancelled):
        asked.extend((int(window.audio[0]), is_cancelled(row)) for row, window in enumerate(batch))
        return [answer(window, positions) for window in batch]

    calls = []
    decode_by(marked(3, 1, 2), ELASTIC, 8, decode, is_cancelled=lambda i: calls.count(i) > 0 or bool(calls.append(i)))
    assert sorted(asked) == [(0, True), (1, True), (2, True)]


LOAD = """
import sys
from pathlib import Path
import numpy as np
from speech.context import ElasticContext
from speech.engine import Window, load_engine
from speech.engine.tuning import Tuning
import speech.transcribe
engine = load_engine(Path(sys.argv[1]), ElasticContext(elastic=True), device="cpu", tuning=Tuning(threads=1))
(result,) = engine.transcribe([Window(np.ones(8000, np.float32), "it")])
print(engine.description, result.positions, sorted({"torch", "transformers"} & sys.modules.keys()))
"""


def test_a_cpu_service_never_imports_torch(tiny):
    """Loading a version on a CPU and transcribing with it needs neither torch nor transformers."""
    run = subprocess.run(
        [sys.executable, "-c", LOAD, str(tiny.checkpoint)],
        cwd=Path(speech.__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip().startswith("ctranslate2 int8")
    assert run.stdout.strip().endswith("on cpu 96 []")


def test_auto_takes_the_cpu_where_no_gpu_is(tiny, monkeypatch):
    """Without a usable GPU the CTranslate2 export is loaded."""
    monkeypatch.setattr("speech.device._gpu_is_usable", lambda: False)
    engine = load_engine(tiny.checkpoint, ElasticContext(), tuning=Tuning(threads=1))
    assert engine.description.startswith("ctranslate2")
    assert engine.context == ElasticContext()


def test_cuda_without_a_gpu_is_an_error(tiny, monkeypatch):
    """Who asks for a GPU is not given a CPU in silence."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="finds no GPU"):
        load_engine(tiny.checkpoint, ElasticContext(), device="cuda")


def test_a_sample_has_no_beams():
    """A temperature takes their place; without one, they are as many as were asked for."""
    assert DecodingOptions(beam_size=5).beams == 5
    assert DecodingOptions(beam_size=5, temperature=0.2).beams == 1


@pytest.mark.parametrize(
    ("languages", "expected"),
    [((), ["it", "ru", "en"]), (("en", "ru"), ["ru", "en"]), (("EN",), ["en"]), (("it-IT", "en", "it"), ["it", "en"])],
)
def test_a_language_is_chosen_among_those_allowed(tokenizer, languages, expected):
    """The most probable first, with the shares that they have among all: they are not made to add up to one."""
    shares = {"en": 0.1, "it": 0.6, "ru": 0.3}
    chosen = choose_language(tokenizer, Window(np.zeros(10, np.float32), languages=languages), shares)
    assert list(chosen.among.items()) == [(code, shares[code]) for code in expected]
    assert (chosen.code, chosen.probability) == (expected[0], shares[expected[0]])
