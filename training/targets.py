"""What the decoder is given and what it has to say: plain text, timed text, a prompt before it, or nobody speaking.

One start token, and labels that are the tokens moved by one, made here: transformers' own shift would put a second
start in front, which most public recipes train with (transformers#29973).
"""

from collections.abc import Sequence
from typing import NamedTuple

from speech.context import POSITIONS_PER_SECOND
from speech.engine import MAX_PROMPT_TOKENS
from speech.tokens import MAX_LABEL_TOKENS, N_TIMESTAMPS, WhisperTokenizer
from speech.words import UNSPACED
from training.data.manifest import Segment

IGNORED = -100
"""Label that the loss passes over."""


class Target(NamedTuple):
    """One window's decoder inputs and labels, of one length; at least one label is not ignored."""

    inputs: list[int]
    labels: list[int]


def text_target(tokenizer: WhisperTokenizer, text: str, language: str) -> Target:
    """Return start, language, task, no timestamps, text → language … text, end."""
    tokens = tokenizer.labels(text, language)
    return Target(tokens[:-1], tokens[1:])


def timed_target(tokenizer: WhisperTokenizer, segments: Sequence[Segment], language: str) -> Target | None:
    """Return the same with a timestamp before and after each segment, in openai/whisper's form.

    Times are rounded to the tokens' 20 ms and never go back. None if that is more than the decoder has positions for,
    or if there is no segment.
    """
    tokens = tokenizer.prompt(language, timestamps=True)
    earliest = 0
    for i, segment in enumerate(segments):
        times = (round(second * POSITIONS_PER_SECOND) for second in (segment.start, segment.end))
        start, end = (min(N_TIMESTAMPS - 1, max(earliest, time)) for time in times)
        end = earliest = max(start, end)
        begin = tokenizer.timestamp_begin
        text = tokenizer.encode(segment.text, follows=i > 0 and language not in UNSPACED)
        tokens += [begin + start, *text, begin + end]
    tokens.append(tokenizer.eot)
    if not segments or len(tokens) > MAX_LABEL_TOKENS:
        return None
    return Target(tokens[:-1], tokens[1:])


def after_previous_text(tokenizer: WhisperTokenizer, target: Target, previous_text: str) -> Target:
    """Put what was said before in front, as the decoder gets it in long recordings; it is given, not learned.

    Its last tokens are taken, as many as openai/whisper takes and the decoder has room for.
    """
    room = min(MAX_PROMPT_TOKENS, MAX_LABEL_TOKENS - len(target.inputs) - 1)
    text = tokenizer.encode(previous_text)[-room:] if room > 0 and previous_text.strip() else []
    if not text:
        return target
    prompt = [tokenizer.sot_prev, *text]
    return Target([*prompt, *target.inputs], [*[IGNORED] * len(prompt), *target.labels])


def no_speech_target(tokenizer: WhisperTokenizer, language: str) -> Target:
    """Return what is to be said of a window in which nobody speaks.

    Whisper was trained to say <|nospeech|> right after the start (Radford et al. 2022, figure 1), and its decoder reads
    the probability there (openai/whisper, decoding.py, `no_speech_probs`; here `speech.guard.is_no_speech`). The
    language and the task are given in serving, so they are not learned; after them the text ends before it begins.
    """
    inputs = tokenizer.prompt(language)
    return Target(inputs, [tokenizer.no_speech, *[IGNORED] * (len(inputs) - 2), tokenizer.eot])
