"""What only a GPU can show: `make test-gpu`. Real weights, real speech; the CPU's answers are the measure."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch

from speech.context import ElasticContext
from speech.engine import DecodingOptions, Window, load_engine
from speech.engine.torch_engine import TorchEngine
from speech.scores import difference_interval, word_errors
from speech.text import normalize
from training.data.manifest import load_audio
from training.demo import serving

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here"),
]

CLIPS = 96
ELASTIC = ElasticContext(elastic=True, margin=64)
CONTEXTS = pytest.mark.parametrize("context", [ElasticContext(), ELASTIC], ids=["30 s", "elastic"])
MAX_LOSS = 0.02


@pytest.fixture(scope="module")
def clips(italian):
    """Return clips of all lengths up to 30 s."""
    fitting = sorted((one for one in italian if one.audio.duration <= 30), key=lambda one: one.audio.duration)
    return fitting[:: max(1, len(fitting) // CLIPS)][:CLIPS]


@pytest.fixture(scope="module")
def windows(clips, tmp_path_factory):
    """Return their windows, in an order that mixes lengths."""
    made = [Window(load_audio(one, tmp_path_factory.getbasetemp()), "it") for one in clips]
    return [made[i] for i in np.random.default_rng(0).permutation(len(made))]


@pytest.fixture(scope="module")
def exact(base):
    """Return a function that loads the base in float32, without the tensor cores' shorter mantissas."""

    def load(context, device):
        torch.set_float32_matmul_precision("highest")
        return TorchEngine.load(base.path, context, device=device, dtype=torch.float32)

    return load


@CONTEXTS
def test_the_gpu_says_what_the_cpu_says(exact, windows, context):
    """In float32 the graphs, the padded rows and the kernels of a GPU give the tokens that the CPU gives."""
    some = windows[:32]
    on_gpu, on_cpu = (exact(context, device).transcribe(some) for device in ("cuda", "cpu"))
    assert [one.tokens for one in on_gpu] == [one.tokens for one in on_cpu]
    for one, other in zip(on_gpu, on_cpu, strict=True):
        assert one.avg_logprob == pytest.approx(other.avg_logprob, abs=0.01)
        assert one.no_speech_prob == pytest.approx(other.no_speech_prob, abs=1e-3)


@CONTEXTS
def test_company_changes_nothing(exact, windows, context):
    """A window alone and in a full batch gives the same tokens, in float32."""
    engine = exact(context, "cuda")
    together = engine.transcribe(windows)
    alone = [engine.transcribe([window])[0] for window in windows]
    assert [one.tokens for one in together] == [one.tokens for one in alone]


@CONTEXTS
def test_bfloat16_costs_no_words(base, exact, clips, tmp_path, context):
    """As served, in bfloat16, the WER is not worse than in float32: the upper bound stays within 0.02."""
    windows = [Window(load_audio(one, tmp_path), "it") for one in clips]
    engines = (exact(context, "cuda"), load_engine(base.path, context))
    assert engines[1].description == "torch bfloat16 on cuda"
    errors = [
        [word_errors(clip.text, heard.text) for clip, heard in zip(clips, engine.transcribe(windows), strict=True)]
        for engine in engines
    ]
    difference = difference_interval(*errors, [normalize(one.text) for one in clips])
    print(f"bfloat16 minus float32: {difference}")  # noqa: T201 - the figure
    assert difference.high <= MAX_LOSS


def test_words_have_their_times(exact, windows):
    """Words begin and end where the CPU's do, within 40 ms."""
    options = DecodingOptions(word_timestamps=True)
    asked = [replace(window, options=options) for window in windows[:16]]
    for one, other in zip(*(exact(ELASTIC, device).transcribe(asked) for device in ("cuda", "cpu")), strict=True):
        assert [word.word for word in one.words] == [word.word for word in other.words]
        times = [[(word.start, word.end) for word in each.words] for each in (one, other)]
        assert np.abs(np.array(times[0]) - np.array(times[1])).max() <= 0.0401


def test_many_clients_of_a_service_on_a_gpu(registry, clips, free_port, tmp_path):
    """The service says that it computes on the GPU, and 24 clients at once get the words that each gets alone."""
    with serving(registry.root, free_port(), tmp_path / "service.log") as (_, address):
        assert "cuda" in str(httpx.get(f"{address}/version", timeout=60).json())

        def ask(clip):
            file = {"file": (f"{clip.id}.wav", Path(clip.audio.path).read_bytes())}
            answer = httpx.post(f"{address}/transcribe", files=file, data={"language": "it"}, timeout=60)
            assert answer.status_code == 200, answer.text
            return normalize(answer.json()["text"])

        alone = [ask(clip) for clip in clips]
        with ThreadPoolExecutor(24) as clients:
            together = list(clients.map(ask, clips))
    # In bfloat16 a near tie may fall otherwise in another batch.
    same = sum(one == other for one, other in zip(alone, together, strict=True))
    assert same >= 0.95 * len(clips), f"{same} of {len(clips)}"
