"""Whisper's tokens without transformers: the special ones by name, prompts, and text to ids and back.

Reads the `tokenizer.json` that every version carries. Does not decide what to decode: the engines do.
"""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

from tokenizers import AddedToken, Tokenizer

Task = Literal["transcribe", "translate"]
TASKS: tuple[Task, ...] = ("transcribe", "translate")

MAX_LABEL_TOKENS = 448
"""Whisper's decoder has so many positions."""

N_TIMESTAMPS = 1501
"""<|0.00|> to <|30.00|> in steps of 20 ms."""

FIRST_LANGUAGE = "<|en|>"
LAST_BEFORE_TRANSLATE = "<|translate|>"


PRINTABLE = (*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1))
BYTES = {chr(byte): byte for byte in PRINTABLE} | {
    chr(256 + i): byte for i, byte in enumerate(sorted({*range(256)} - {*PRINTABLE}))
}
"""GPT-2's alphabet (`bytes_to_unicode`), in which byte-level tokens are written: a letter a byte."""


class UnknownLanguageError(ValueError):
    """The model has no token for this language."""


class WhisperTokenizer:
    """A multilingual Whisper's tokenizer; English-only checkpoints (`.en`) have no language and task tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.sot = self._special("<|startoftranscript|>")
        self.eot = self._special("<|endoftext|>")
        self.no_timestamps = self._special("<|notimestamps|>")
        self.sot_prev = self._special("<|startofprev|>")
        # openai/whisper renamed <|nocaptions|>; the id is the one before <|notimestamps|> in both.
        self.no_speech = self.no_timestamps - 1
        self.timestamp_begin = self.no_timestamps + 1
        self.tasks: dict[str, int] = {
            task: token for task in TASKS if (token := tokenizer.token_to_id(f"<|{task}|>")) is not None
        }

    @classmethod
    def from_folder(cls, folder: Path) -> "WhisperTokenizer":
        """Read `folder/tokenizer.json`, completing the timestamps, which some exports leave out."""
        return cls(load_tokenizer(folder / "tokenizer.json"))

    @cached_property
    def languages(self) -> dict[str, int]:
        """Language codes, in the order of their tokens."""
        first = self._special(FIRST_LANGUAGE)
        last = self._special(LAST_BEFORE_TRANSLATE)
        return {str(self._tokenizer.id_to_token(token)).strip("<|>"): token for token in range(first, last)}

    @property
    def fault(self) -> str | None:
        """Say what is not laid out as in Whisper's own tokenizers, on which whoever tells tokens by their ids relies.

        Text, the end, other special tokens, and 1,501 times: what is below the end is text, and nothing else is.
        """
        bytes_ = [token for letter in BYTES if (token := self._tokenizer.token_to_id(letter)) is not None]
        if not bytes_ or max(bytes_) > self.eot:
            return "its special tokens do not follow the text tokens, as where a tokenizer was trained anew"
        times = [self._tokenizer.token_to_id(f"<|{time}|>") for time in ("0.00", "30.00")]
        if times != [self.timestamp_begin, self.timestamp_begin + N_TIMESTAMPS - 1]:
            return "<|0.00|> to <|30.00|> do not follow <|notimestamps|>"
        for token in json.loads(self._tokenizer.to_str())["added_tokens"]:
            if token["id"] > self.eot and not token["special"] and not token["content"].startswith("<|"):
                return f"{token['content']!r} was added to its text tokens, and would be left out of every transcript"
        return None

    def language_code(self, language: str) -> str:
        """Return the code of a language that the model knows ("it", "IT", "it-IT" are one).

        Raises:
            UnknownLanguageError: there is no such token; the message lists the codes.
        """
        code = language.strip().lower().replace("_", "-").split("-")[0]
        if code not in self.languages:
            raise UnknownLanguageError(
                f"Unknown language {language!r}. This model knows: {', '.join(sorted(self.languages))}."
            )
        return code

    def prompt(self, language: str, task: Task = "transcribe", *, timestamps: bool = False) -> list[int]:
        """Return the tokens that decoding starts from: start, language, task and, without timestamps, their no."""
        tokens = [self.sot, self.languages[self.language_code(language)], self.tasks[task]]
        return tokens if timestamps else [*tokens, self.no_timestamps]

    def labels(self, text: str, language: str, task: Task = "transcribe") -> list[int]:
        """Return a training target: prompt, text, end. Exactly one start token; the model shifts it itself."""
        return [*self.prompt(language, task), *self.encode(text), self.eot]

    def encode(self, text: str, *, follows: bool = False) -> list[int]:
        """Return the tokens of `text` as Whisper writes it: with a leading blank, and no special token in it.

        A leading blank that is a token by itself, as before most Japanese, Thai and Bengali letters, is left out:
        decoders never begin with it (`begin_suppress_tokens`), so whoever learns to begin with it learns nothing else.

        Args:
            text: to write.
            follows: another text stands before it, and a blank parts the two, whatever token it takes.
        """
        # Special tokens written out in a transcript are text, never control.
        tokens = list(self._plain.encode(" " + text.strip(), add_special_tokens=False).ids)
        return tokens[1:] if not follows and tokens[:1] == [self._blank] else tokens

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of `tokens`, special tokens and timestamps left out."""
        return str(self._tokenizer.decode([token for token in tokens if token < self.eot]))

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes that a text token stands for: several tokens may share a letter."""
        written = self._tokenizer.id_to_token(token) or ""
        return bytes(BYTES[letter] for letter in written) if all(map(BYTES.__contains__, written)) else written.encode()

    @cached_property
    def _blank(self) -> int | None:
        return self._tokenizer.token_to_id("Ġ")

    @cached_property
    def _plain(self) -> Tokenizer:
        # Timestamps are added tokens, but not special ones, and the switch below leaves those alone.
        layout = json.loads(self._tokenizer.to_str())
        for token in layout["added_tokens"]:
            token["special"] = True
        plain = Tokenizer.from_str(json.dumps(layout))
        plain.encode_special_tokens = True
        return plain

    def _special(self, token: str) -> int:
        identifier = self._tokenizer.token_to_id(token)
        if identifier is None:
            raise ValueError(f"tokenizer.json has no {token}: it is not a Whisper tokenizer")
        return int(identifier)


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a Whisper `tokenizer.json` and add the timestamp tokens if it ends before them."""
    tokenizer = Tokenizer.from_file(str(path))
    if tokenizer.token_to_id("<|0.00|>") is None:
        tokenizer.add_tokens(
            [AddedToken(f"<|{0.02 * i:.2f}|>", special=False, normalized=False) for i in range(N_TIMESTAMPS)]
        )
    return tokenizer
