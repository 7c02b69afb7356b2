"""The promises of static memory and captured steps, on a CPU: a tracer stands in for CUDA's capture.

Like a CUDA graph, a trace repeats the operations of one call on the tensors of that call, and runs no Python.
"""

import numpy as np
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import scaled_dot_product_attention

from speech.context import BUCKETS, MAX_POSITIONS, ElasticContext
from speech.engine import DecodingOptions, Window
from speech.engine.torch_engine import TorchEngine, batch_size, static_memory
from speech.engine.torch_graphs import ROWS, WARM_UPS, Graphs, Memory, padded_rows

CPU = torch.device("cpu")
FEW = 12  # tokens


class Traces(Graphs):
    """Captures and replays as on a GPU."""

    def __init__(self):
        super().__init__(CPU)
        self.replays = []

    def run(self, key, function):
        """Call for warming up, trace, and from then on repeat the trace."""
        if key not in self._captured:
            for _ in range(WARM_UPS):
                function()
            self._captured[key] = make_fx(lambda: function())()  # noqa: PLW0108 - it sets attributes on what it traces
        self.replays.append(key)
        return self._captured[key]()


@pytest.fixture(autouse=True)
def few_tokens(monkeypatch):
    """Stop early: a random model seldom ends by itself."""
    monkeypatch.setattr(Window, "max_new_tokens", FEW)


@pytest.fixture(scope="module")
def engine(tiny):
    """Return the engine as it is on a CPU."""
    return TorchEngine.load(tiny.checkpoint, ElasticContext(elastic=True), device="cpu")


@pytest.fixture
def traced(engine, monkeypatch):
    """Return the engine with the memory and the graphs that it has on a GPU, and as many rows."""
    twin = TorchEngine(engine._model, engine.tokenizer, engine.context)
    twin._memory, twin._graphs = static_memory(engine._model), Traces()
    monkeypatch.setattr(twin, "batch_size", batch_size)
    monkeypatch.setattr("speech.engine.torch_decoding._steps_a_look", lambda _: 4)
    return twin


def windows(chirp, n, *, seconds=1.0):
    """Return windows that differ in level, language, previous text and timestamps."""
    return [
        Window(
            chirp(seconds, low=100 + 90 * i) * (0.2 + 0.1 * i),
            (None, "it", "ru")[i % 3],
            prompt=tuple(range(40, 40 + 7 * (i % 4))),
            options=DecodingOptions(without_timestamps=i % 5 > 0),
        )
        for i in range(n)
    ]


def test_replayed_steps_find_what_plain_ones_find(engine, traced, chirp):
    """Batches of other sizes and lengths, one after another in the same memory, have the answers of a CPU."""
    for n, seconds in [(3, 1.0), (1, 1.0), (7, 4.0), (4, 1.0), (5, 4.0)]:
        batch = windows(chirp, n, seconds=seconds)
        for ours, plain in zip(traced.transcribe(batch), engine.transcribe(batch), strict=True):
            assert (ours.tokens, ours.language) == (plain.tokens, plain.language)
            assert ours.avg_logprob == pytest.approx(plain.avg_logprob, abs=1e-4)
            assert ours.no_speech_prob == pytest.approx(plain.no_speech_prob, rel=1e-3)
    replays = traced._graphs.replays
    assert len(set(replays)) < len(replays) / 3
    assert {key[0] for key in replays} == {"encode", "step"}


def test_rows_that_left_take_their_graph_with_them(engine, traced, chirp):
    """When rows have ended, the steps of fewer are replayed."""
    cancelled = set(range(2, 8))
    results = traced.transcribe(windows(chirp, 8), lambda i: bool(traced._graphs.replays) and i in cancelled)
    expected = engine.transcribe(windows(chirp, 8))
    assert [result.tokens for result in results[:2]] == [result.tokens for result in expected[:2]]
    rows = [key[2] for key in traced._graphs.replays if key[0] == "step"]
    assert rows == sorted(rows, reverse=True)
    assert {rows[0], rows[-1]} == {8, 2}


@pytest.mark.parametrize("static", [False, True])
def test_no_lane_is_left_with_nothing_to_see(engine, traced, chirp, monkeypatch, static):
    """Not every kernel gives numbers then; padding and idle rows see something, too."""
    seen = []

    def watched(*tensors, attn_mask=None, **options):
        if attn_mask is not None:
            seen.append(bool(attn_mask.any(-1).all()))
        return scaled_dot_product_attention(*tensors, attn_mask=attn_mask, **options)

    monkeypatch.setattr("speech.engine.torch_decoder.scaled_dot_product_attention", watched)
    traced._graphs = Graphs(CPU)
    window = Window(chirp(1.0), "it")
    prompted = Window(chirp(1.0), "it", prompt=tuple(range(100)))
    for batch in ([prompted, prompted, prompted, window], [window] * 3, [prompted] * 3):
        (traced if static else engine).transcribe(batch)  # what was left by the fourth row is idle in the next
    assert seen
    assert all(seen)


def test_idle_rows_leave_nothing_that_is_not_a_number(traced, chirp):
    """What is masked is multiplied by zero, so all that lies in the memory must be finite."""
    for n in (7, 3, 5):
        traced.transcribe(windows(chirp, n))
    flat = traced._memory._flat
    assert {"keys", "values", "cross_keys", "cross_values"} <= flat.keys()
    assert all(bool(tensor.isfinite().all()) for tensor in flat.values())


def test_warming_up_captures_what_requests_need(traced, chirp, monkeypatch):
    """After it, batches of the usual lengths capture nothing more."""
    monkeypatch.setattr("speech.engine.torch_engine.WARM_UP_SECONDS", (1,))
    monkeypatch.setattr(traced, "batch_size", lambda _: 8)  # more take long to trace
    traced.warm_up()
    captured = set(traced._graphs._captured)
    assert {key[2] for key in captured if key[0] == "step"} == {1, 2, 4, 8}
    for n, seconds in [(1, 0.9), (7, 1.0)]:
        traced.transcribe(windows(chirp, n, seconds=seconds))
    assert set(traced._graphs._captured) == captured


def test_beams_have_memory_of_their_own(engine, traced, chirp):
    """They are decoded without graphs, and equally."""
    window = Window(chirp(1.0), "it", options=DecodingOptions(beam_size=3))
    traced.transcribe([window])
    traced._graphs.replays.clear()
    assert traced.transcribe([window])[0].tokens == engine.transcribe([window])[0].tokens
    assert {key[0] for key in traced._graphs.replays} == {"encode"}


def test_every_context_fits_into_static_memory():
    """No context has more encoder positions, times its rows, than memory is kept for."""
    for positions in BUCKETS:
        assert batch_size(positions) * positions <= 16 * MAX_POSITIONS
        assert batch_size(positions) in {16, 32} or positions > 750
    assert (batch_size(96), batch_size(MAX_POSITIONS)) == (32, 16)


def test_memory_is_cut_at_the_same_place_and_zeroed():
    """The same shape has the same address; another may share it, but none reaches beyond."""
    memory = Memory({"keys": 24, "tokens": 8}, dtype=torch.float32, device=CPU)
    one, other = memory.cut("keys", (2, 3, 4)), memory.cut("keys", (2, 5))
    assert one.data_ptr() == other.data_ptr() == memory.cut("keys", (2, 3, 4)).data_ptr()
    assert one.count_nonzero() == 0
    assert memory.cut("tokens", (8,), torch.long).dtype == torch.long
    with pytest.raises(ValueError, match="keys"):
        memory.cut("keys", (5, 5))


def test_without_cuda_functions_are_simply_called():
    """Nothing is captured, also under a key that was there before."""
    graphs = Graphs(CPU)
    assert [float(graphs.run("key", torch.tensor(i).clone)) for i in range(3)] == [0.0, 1.0, 2.0]


def test_rows_are_padded_up():
    """To the next size for which there is a graph."""
    assert [padded_rows(n) for n in (1, 2, 3, 5, 8, 9, 17, 32)] == [1, 2, 4, 8, 8, 16, 32, 32]
    assert np.all(np.diff(ROWS) > 0)
