"""A real engine without weights: it answers each window with the window's own fingerprint."""

import io
import threading
import time
import wave
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import BinaryIO

import anyio
import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

import service.transcribe
from service.app import create_app
from service.loading import Model
from service.schemas import Context, Version
from service.settings import Settings
from speech.audio import SAMPLE_RATE
from speech.context import ElasticContext
from speech.engine import DecodingResult, EngineError, IsCancelled, Window, never
from speech.tokens import WhisperTokenizer

SPECIALS = [
    f"<|{name}|>"
    for name in (
        *("endoftext", "startoftranscript", "en", "it", "ru", "translate", "transcribe"),
        *("startoflm", "startofprev", "nospeech", "notimestamps"),
    )
]
REF = "echo@1"


def fingerprint(audio: NDArray[np.float32]) -> str:
    """Name a window by its length and loudness, which no other window of a test shares."""
    return f"n{audio.size}r{round(float(np.sqrt((audio.astype(np.float64) ** 2).mean())) * 1e5)}"


class EchoEngine:
    """Says back which window it heard; waits, fails and explodes when told to."""

    description = "echo"
    concurrency = 1

    def __init__(self, *, elastic: bool = False, seconds_a_batch: float = 0.0) -> None:
        self.context = ElasticContext(elastic, margin=0)
        self.tokenizer = WhisperTokenizer(
            Tokenizer(WordLevel({token: i for i, token in enumerate(SPECIALS)}, SPECIALS[0]))
        )
        self.seconds_a_batch = seconds_a_batch
        self.batches: list[list[Window]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.fails: Callable[[Window], bool] = lambda _window: False
        self.explodes = False

    def batch_size(self, _positions: int) -> int:
        """Take eight."""
        return 8

    def prepare(self, window: Window) -> Window:
        """Take it as it is."""
        return window

    def transcribe(
        self, windows: Sequence[Window], _is_cancelled: IsCancelled = never
    ) -> list[DecodingResult | EngineError]:
        """Return one result or one error a window, in their order."""
        self.batches.append(list(windows))
        assert self.gate.wait(timeout=30)
        time.sleep(self.seconds_a_batch)
        if self.explodes:
            raise RuntimeError("CUDA is on fire at /secret/path")
        return [EngineError("no /secret/words") if self.fails(w) else self._result(w) for w in windows]

    def _result(self, window: Window) -> DecodingResult:
        positions = window.positions(self.context)
        return DecodingResult(fingerprint(window.audio), (), window.language or "it", 1.0, -0.1, 0.0, 1.0, positions)


def make_tone(seconds: float, level: float = 0.5) -> NDArray[np.float32]:
    """Make a tone; its level is its identity."""
    times = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (level * np.sin(2 * np.pi * 440 * times)).astype(np.float32)


def make_wav(audio: NDArray[np.float32]) -> bytes:
    """Write 16 kHz mono PCM."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((audio * 32767).astype("<i2").tobytes())
    return buffer.getvalue()


@pytest.fixture
def anyio_backend() -> str:
    """Run asynchronous tests on asyncio, as uvicorn does."""
    return "asyncio"


@pytest.fixture(autouse=True)
def _no_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep no jobs, and do none that lie in this checkout, unless a test names a database."""
    monkeypatch.setenv("WHISPERLOOP_DATABASE", "")
    monkeypatch.setenv("WHISPERLOOP_CONSOLE", "false")  # seconds of import, beside whatever is tested
    monkeypatch.setenv("WHISPERLOOP_VAD", "false")  # which is right about tones: nobody speaks


@pytest.fixture
def engine() -> EchoEngine:
    """An engine that pays 30 s a window, as a base model's."""
    return EchoEngine()


@pytest.fixture
def make_engine() -> Callable[..., EchoEngine]:
    """Make an engine: `elastic`, `seconds_a_batch`."""
    return EchoEngine


@pytest.fixture
def tone() -> Callable[..., NDArray[np.float32]]:
    """Make a tone: seconds, level."""
    return make_tone


@pytest.fixture
def wav() -> Callable[..., bytes]:
    """Encode a tone, or the audio that is given."""

    def encode(seconds_or_audio: float | NDArray[np.float32], level: float = 0.5) -> bytes:
        is_audio = isinstance(seconds_or_audio, np.ndarray)
        return make_wav(seconds_or_audio if is_audio else make_tone(seconds_or_audio, level))

    return encode


@pytest.fixture
def words() -> Callable[[NDArray[np.float32]], str]:
    """Tell what the echo engine says to a window."""
    return fingerprint


def _version(echo: EchoEngine) -> Version:
    return Version(
        name="echo",
        version="1",
        ref=REF,
        manifest_sha256="0" * 64,
        base=None,
        parent=None,
        engine=echo.description,
        context=Context(elastic=echo.context.elastic, margin=0),
        loaded_at=datetime.now(UTC),
    )


@pytest.fixture
def model(engine: EchoEngine) -> Model:
    """The echo engine as it is loaded."""
    return Model(engine, _version(engine))


@pytest.fixture
def make_app(engine: EchoEngine) -> Callable[..., FastAPI]:
    """Make an application that serves the echo engine, with any settings."""

    def make(echo: EchoEngine = engine, **settings: object) -> FastAPI:
        return create_app(Settings(**settings), load=lambda _settings: Model(echo, _version(echo)))

    return make


@asynccontextmanager
async def _serve(app: FastAPI, *, wait: bool = True) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test", timeout=60) as client,
    ):
        with anyio.fail_after(30):
            while wait and (await client.get("/health/ready")).status_code != 200:  # noqa: ASYNC110
                await anyio.sleep(0.005)
        yield client


@pytest.fixture
def serve() -> Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]:
    """Run an application's lifespan around a client; by default, wait until it is ready."""
    return _serve


@pytest.fixture
def until() -> Callable[..., object]:
    """Wait for a condition that other tasks or threads bring about."""

    async def wait(condition: Callable[[], bool]) -> None:
        with anyio.fail_after(10):
            while not condition():  # noqa: ASYNC110 - threads bring it about, too
                await anyio.sleep(0.002)

    return wait


@pytest.fixture
def decode_with(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Decode files in this process, by the function that is given: from a file to its blocks."""

    def patch(stream: Callable[..., Generator[NDArray[np.float32]]]) -> None:
        @contextmanager
        def decoding(file: BinaryIO, max_seconds: float) -> Iterator[tuple[float, Iterator[NDArray[np.float32]]]]:
            blocks = stream(file, max_seconds=max_seconds)
            try:
                yield 0.0, blocks
            finally:
                blocks.close()

        monkeypatch.setattr(service.transcribe, "decoding", decoding)

    return patch
