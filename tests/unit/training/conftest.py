"""An engine that says the same of everything, at once, and speech for it to be asked of."""

from pathlib import Path

import pytest

from speech.audio import SAMPLE_RATE, decode_audio
from speech.context import ElasticContext
from speech.engine import DecodingResult, Word
from speech.tokens import WhisperTokenizer
from training.data.manifest import AudioSlice, Utterance


class SteadyEngine:
    """Hears the same words in every window, and gives them the times and the language that it is told to."""

    description = "steady on nothing"
    concurrency = 1
    context = ElasticContext()

    def __init__(self, text, language, tokenizer):
        self.text, self.language, self.tokenizer = text, language, tokenizer
        self.windows = []

    def batch_size(self, positions):
        """Take any number at once."""
        return 64

    def prepare(self, window):
        """Need nothing."""
        return window

    def transcribe(self, windows, is_cancelled=None):
        """Answer each window."""
        self.windows += windows
        return [self._answer(window) for window in windows]

    def _answer(self, window):
        seconds = window.audio.size / 16_000
        heard = self.text.split()
        times = [seconds * i / len(heard) for i in range(len(heard) + 1)]
        words = tuple(
            Word(start=start, end=end, word=f" {word}", probability=1.0, tokens=(i,))
            for i, (word, start, end) in enumerate(zip(heard, times, times[1:], strict=False))
        )
        timestamps = () if window.options.without_timestamps else (self.tokenizer.timestamp_begin,) * 2
        return DecodingResult(
            text=self.text,
            tokens=(*timestamps, *range(len(heard))),
            language=window.language or self.language,
            language_probability=1.0,
            avg_logprob=-0.1,
            no_speech_prob=0.0,
            compression_ratio=1.0,
            positions=1500,
            words=words if window.options.word_timestamps else None,
        )


@pytest.fixture(scope="session")
def japanese_tokenizer(tokenizer_folder, tmp_path_factory):
    """Return the tokenizer with Japanese, which is written without blanks, in Russian's place."""
    folder = tmp_path_factory.mktemp("japanese")
    layout = (tokenizer_folder / "tokenizer.json").read_text(encoding="utf-8")
    (folder / "tokenizer.json").write_text(layout.replace("<|ru|>", "<|ja|>"), encoding="utf-8")
    return WhisperTokenizer.from_folder(folder)


@pytest.fixture
def steady(tokenizer):
    """Return the function that makes an engine which hears a text in every window."""

    def make(text, language="it", tokenizer=tokenizer):
        return SteadyEngine(text, language, tokenizer)

    return make


@pytest.fixture(scope="session")
def speech():
    """Return the Italian clips that lie beside the conformance suite, three times, as utterances, and their folder."""
    folder = Path(__file__).parents[2] / "conformance" / "clips"
    utterances = []
    for path in sorted(folder.glob("it-*.wav")) * 3:
        audio = AudioSlice(path=path.name, duration=decode_audio(path).size / SAMPLE_RATE, sha256="0" * 64)
        name = str(len(utterances))
        utterances.append(Utterance(id=name, audio=audio, text="tono numero uno", language="it", source="test"))
    return utterances, folder
