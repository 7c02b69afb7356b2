"""Which token comes next: suppressed tokens, timestamp rules, greedy and beam search, as in openai/whisper's decoding.

On the logits of a `speech.engine.torch_decoder.Batch`; how they come about is not this module's business.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import WhisperForConditionalGeneration

from speech.context import POSITIONS_PER_SECOND
from speech.engine import IsCancelled, never
from speech.engine.torch_decoder import Batch, survivors
from speech.tokens import WhisperTokenizer

MAX_INITIAL_TIMESTAMP = 1.0  # seconds

STEPS_A_LOOK = 4
"""On a GPU the host looks at the tokens after so many steps: each look waits for the device."""


@dataclass(frozen=True)
class Request:
    """What is wanted of one row."""

    prompt: Sequence[int]  # previous text, start, language, task, and perhaps no timestamps
    max_tokens: int  # new ones at most
    timestamps: bool = False
    temperature: float = 0.0  # above 0, tokens are drawn
    seed: int = 0  # of the draw


@dataclass(frozen=True)
class Hypothesis:
    """What was found for one row."""

    tokens: tuple[int, ...]  # without the end token
    logprobs: tuple[float, ...]  # one a token, and the end token's if it came
    no_speech_prob: float

    @property
    def avg_logprob(self) -> float:
        """The mean over the tokens and the end token."""
        return math.fsum(self.logprobs) / (len(self.tokens) + 1)


class LogitFilters:
    """What must not come next, for rows with and without timestamps side by side."""

    def __init__(
        self, model: WhisperForConditionalGeneration, tokenizer: WhisperTokenizer, device: torch.device
    ) -> None:
        config, size = model.generation_config, model.config.vocab_size
        self.eot = tokenizer.eot
        self._timestamp_begin = tokenizer.timestamp_begin
        self._no_timestamps = tokenizer.no_timestamps
        self._ids = torch.arange(size, device=device)
        self._suppressed = _mask(size, config.suppress_tokens).to(device)
        self._begin_suppressed = _mask(size, config.begin_suppress_tokens).to(device)  # a blank, an empty answer

    def start(self, requests: Sequence[Request]) -> Tensor:
        """Return what `apply` needs to know of each row, before its first token, shape (rows, 4).

        The columns: whether it has timestamps, its last token, the one before, and its latest timestamp. What is not
        there yet counts as a timestamp, and as the earliest.
        """
        begin = self._timestamp_begin
        rows = [[int(request.timestamps), begin, begin, begin - 1] for request in requests]
        return torch.tensor(rows).to(self._ids.device)

    def advance(self, states: Tensor, tokens: Tensor) -> Tensor:
        """Return the states after one more token a row."""
        latest = torch.where(tokens >= self._timestamp_begin, tokens, states[:, 3])
        return torch.stack([states[:, 0], tokens, states[:, 1], latest], dim=1)

    def apply(self, logits: Tensor, states: Tensor, *, first: bool, timestamps: bool) -> Tensor:
        """Return the logits with -inf where no token may come from.

        Args:
            logits: shape (rows, vocabulary).
            states: of the rows.
            first: nothing has been generated yet.
            timestamps: some of the rows have them.
        """
        logits = logits + self._suppressed
        if first:
            logits = logits + self._begin_suppressed
        is_timestamp = self._ids >= self._timestamp_begin
        if not timestamps:
            return logits.masked_fill(is_timestamp, -torch.inf)
        has_timestamps = states[:, :1].bool()
        forbidden = torch.where(has_timestamps, self._forbidden(states, first=first), is_timestamp)
        logits = logits.masked_fill(forbidden, -torch.inf)
        # If a timestamp, whichever, is more probable than any text, it must be one.
        begin = self._timestamp_begin
        is_due = logits[:, begin:].logsumexp(-1) > logits[:, :begin].amax(-1)
        return logits.masked_fill(is_due[:, None] & ~is_timestamp, -torch.inf)

    def _forbidden(self, states: Tensor, *, first: bool) -> Tensor:
        """Return what openai/whisper's ApplyTimestampRules forbids, shape (rows, vocabulary)."""
        begin = self._timestamp_begin
        ids, is_timestamp = self._ids, self._ids >= begin
        if first:
            is_late = ids > begin + round(MAX_INITIAL_TIMESTAMP * POSITIONS_PER_SECOND)
            return (~is_timestamp | is_late).expand(len(states), -1)
        last, before, latest = states[:, 1:].unbind(1)
        is_paired = ((last >= begin) & (before >= begin))[:, None]  # or alone at the beginning: text follows
        is_open = ((last >= begin) & (before < begin))[:, None]  # its twin follows, or the end
        # They never go back, and a segment has a length; only a twin may be the same again.
        is_past = is_timestamp & (ids < latest[:, None] + (~is_open).long())
        return (ids == self._no_timestamps) | (is_paired & is_timestamp) | (is_open & (ids < self.eot)) | is_past


@torch.inference_mode()
def decode(
    model: WhisperForConditionalGeneration,
    batch: Batch,
    requests: Sequence[Request],
    tokenizer: WhisperTokenizer,
    *,
    beam_size: int = 1,
    is_cancelled: IsCancelled = never,
) -> list[Hypothesis | None]:
    """Decode a batch.

    Args:
        model: its generation config says which tokens are suppressed.
        batch: nothing has been read in it yet.
        requests: one a row.
        tokenizer: of the model.
        beam_size: 1 decodes greedily.
        is_cancelled: asked for the rows that are not done, now and then.

    Returns:
        One a row; None for the cancelled ones.
    """
    filters = LogitFilters(model, tokenizer, batch.device)
    prompts = [request.prompt for request in requests]
    longest = max(request.max_tokens for request in requests)
    hidden = batch.prefill(prompts, beams=beam_size, max_new_tokens=longest)
    # Counted from the end, as the prompts are padded on the left.
    starts = [list(prompt).index(tokenizer.sot) - len(prompt) for prompt in prompts]
    at_start = torch.stack([hidden[row, start] for row, start in enumerate(starts)])
    no_speech = batch.logits(at_start).softmax(-1)[:, tokenizer.no_speech].tolist()
    search = _search_greedily if beam_size == 1 else _search_with_beams
    found = search(batch, requests, filters, batch.logits(hidden[:, -1]), is_cancelled)
    return [
        None if hypothesis is None else Hypothesis(hypothesis.tokens, hypothesis.logprobs, no_speech_prob)
        for hypothesis, no_speech_prob in zip(found, no_speech, strict=True)
    ]


@dataclass(frozen=True)
class _Sequence:
    """Tokens and their log-probabilities, with those of the end token where it has come."""

    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    total: float = 0.0  # of the log-probabilities

    def extended(self, token: int, logprob: float) -> "_Sequence":
        return _Sequence((*self.tokens, token), (*self.logprobs, logprob), self.total + logprob)

    def ended(self, logprob: float) -> "_Sequence":
        return _Sequence(self.tokens, (*self.logprobs, logprob), self.total + logprob)


def _search_greedily(
    batch: Batch, requests: Sequence[Request], filters: LogitFilters, logits: Tensor, is_cancelled: IsCancelled
) -> list[_Sequence | None]:
    """Take the most probable token each time, or draw one. The host only collects them: a GPU need not wait for it."""
    steps_a_look = _steps_a_look(batch.device)
    n_steps = max(request.max_tokens for request in requests)
    timestamps = any(request.timestamps for request in requests)
    tokens: list[list[int]] = [[] for _ in requests]
    logprobs: list[list[float]] = [[] for _ in requests]
    live = list(range(len(requests)))  # which request a row of the batch belongs to
    cancelled: set[int] = set()
    draw = _Draw(requests, n_steps, batch.device) if any(request.temperature > 0 for request in requests) else None
    states = filters.start(requests)
    token = states[:, 1]
    unseen: list[tuple[Tensor, Tensor]] = []
    for step in range(n_steps):
        if step:
            logits = batch.step(token)
        allowed = filters.apply(logits, states, first=step == 0, timestamps=timestamps)
        token = allowed.argmax(-1) if draw is None else draw(allowed, step)
        states = filters.advance(states, token)
        unseen.append((token, allowed.gather(1, token[:, None])[:, 0] - allowed.logsumexp(-1)))
        if len(unseen) < steps_a_look and step + 1 < n_steps:
            continue
        seen = [torch.stack(each, dim=1).tolist() for each in zip(*unseen, strict=True)]
        unseen = []
        done = []
        for row, request in enumerate(live):
            tokens[request] += seen[0][row]
            logprobs[request] += seen[1][row]
            has_ended = filters.eot in seen[0][row] or len(tokens[request]) >= requests[request].max_tokens
            if not has_ended and is_cancelled(request):
                cancelled.add(request)
            if has_ended or request in cancelled:
                done.append(row)
        if len(done) == len(live):
            break
        if done:
            kept = survivors(len(live), done)
            live = [live[row] for row in kept]
            batch.keep(kept)
            indices = torch.tensor(kept).to(batch.device)
            token, states = token[indices], states[indices]
            if draw is not None:
                draw.keep(indices)
    return [
        None if i in cancelled else _cut(tokens[i], logprobs[i], request.max_tokens, filters.eot)
        for i, request in enumerate(requests)
    ]


class _Draw:
    """Draws tokens for the rows that have a temperature, and takes the most probable ones for the others.

    A row's numbers come from its own seed and are known before the first step, so its company changes nothing, and nor
    does the device.
    """

    def __init__(self, requests: Sequence[Request], n_steps: int, device: torch.device) -> None:
        temperatures = torch.tensor([request.temperature for request in requests], dtype=torch.float64)
        uniform = np.stack([np.random.default_rng(request.seed).random(n_steps) for request in requests])
        self._temperatures = temperatures[:, None].to(device)
        self._uniform = torch.from_numpy(uniform).to(device)  # (rows, n_steps), in [0, 1)

    def __call__(self, logits: Tensor, step: int) -> Tensor:
        """Return a token a row; `logits` are of shape (rows, vocabulary), -inf where no token may come from."""
        best = logits.argmax(-1)
        is_drawn = self._temperatures > 0
        scaled = logits.double() / torch.where(is_drawn, self._temperatures, 1.0)
        shares = scaled.softmax(-1).cumsum(-1)
        place = self._uniform[:, step, None] * shares[:, -1:]  # below the last share: rounding leaves it short of 1
        drawn = torch.searchsorted(shares, place, right=True)[:, 0]  # the first whose share is beyond the place
        return torch.where(is_drawn[:, 0], drawn, best)

    def keep(self, rows: Tensor) -> None:
        """Drop the other rows."""
        self._temperatures, self._uniform = self._temperatures[rows], self._uniform[rows]


def _steps_a_look(device: torch.device) -> int:
    return STEPS_A_LOOK if device.type == "cuda" else 1


def _cut(tokens: list[int], logprobs: list[float], max_tokens: int, eot: int) -> _Sequence:
    """Leave out what the device generated after the end, before the host looked."""
    length = min(tokens.index(eot) if eot in tokens else len(tokens), max_tokens)
    # The end token counts, unless it would have been one token too many.
    scored = logprobs[: min(length + 1, max_tokens)]
    return _Sequence(tuple(tokens[:length]), tuple(scored))


def _search_with_beams(
    batch: Batch, requests: Sequence[Request], filters: LogitFilters, logits: Tensor, is_cancelled: IsCancelled
) -> list[_Sequence | None]:
    """Follow the most probable sequences, as openai/whisper's BeamSearchDecoder does with patience 1.

    A row is done when as many sequences have ended as it has beams; its answer is the one with the highest
    log-probability a token.
    """
    beams = batch.beams
    timestamps = any(request.timestamps for request in requests)
    live = list(range(len(requests)))  # which request a row of the batch belongs to
    following = [[_Sequence()] for _ in live]  # of each live row; after the first step, one a lane
    ended: list[list[_Sequence]] = [[] for _ in requests]
    answers: list[_Sequence | None] = [None for _ in requests]
    states = filters.start(requests)
    for step in range(max(request.max_tokens for request in requests)):
        lanes = len(following[0])
        allowed = filters.apply(logits, states, first=step == 0, timestamps=timestamps)
        candidates = list(_candidates(allowed.log_softmax(-1).view(-1, lanes, allowed.shape[-1]), following, beams))
        parents: list[list[int]] = []  # by lane of its row
        done = []
        for row, request in enumerate(live):
            following[row], sources, ends = _extend(following[row], candidates[row], beams, filters.eot)
            parents.append(sources)
            ended[request] = (ended[request] + ends)[:beams]
            if len(ended[request]) == beams or step + 1 >= requests[request].max_tokens:
                answers[request] = _best(ended[request], following[row], beams)
                done.append(row)
            elif is_cancelled(request):
                done.append(row)
        if len(done) == len(live):
            break
        kept = survivors(len(live), done)
        live, following = [live[row] for row in kept], [following[row] for row in kept]
        sources = [lanes * row + parent for row in kept for parent in parents[row]]  # as the lanes were
        tokens = torch.tensor([sequence.tokens[-1] for row in following for sequence in row]).to(batch.device)
        states = filters.advance(states[torch.tensor(sources).to(batch.device)], tokens)
        batch.keep(kept)
        if step:  # all lanes have read the same prompt
            batch.reorder([beams * new + parent for new, row in enumerate(kept) for parent in parents[row]])
        logits = batch.step(tokens)
    return answers


Candidate = tuple[int, int, float]
"""The lane of its row that it continues, its token, and the token's log-probability."""


def _candidates(logprobs: Tensor, following: list[list[_Sequence]], beams: int) -> Iterator[list[Candidate]]:
    """Yield each row's most probable continuations, the best first.

    openai/whisper looks at beams + 1 of each lane; among all of these it never comes further than twice the beams, as
    each lane can end in one way only.

    Args:
        logprobs: shape (rows, lanes, vocabulary).
        following: the sequences of the lanes.
        beams: how many are followed.
    """
    size = logprobs.shape[-1]
    totals = torch.tensor([[sequence.total for sequence in row] for row in following]).to(logprobs.device)
    best = (logprobs + totals[:, :, None]).flatten(1).topk(min(2 * beams, size)).indices
    chosen = logprobs.flatten(1).gather(1, best)
    for indices, values in zip(best.tolist(), chosen.tolist(), strict=True):
        yield [(*divmod(index, size), value) for index, value in zip(indices, values, strict=True)]


def _extend(
    sequences: list[_Sequence], candidates: list[Candidate], beams: int, eot: int
) -> tuple[list[_Sequence], list[int], list[_Sequence]]:
    """Return the sequences to follow next, which lane each comes from, and those that have ended."""
    following: list[_Sequence] = []
    sources: list[int] = []
    ended: list[_Sequence] = []
    for source, token, logprob in candidates:
        if token == eot:
            ended.append(sequences[source].ended(logprob))
            continue
        following.append(sequences[source].extended(token, logprob))
        sources.append(source)
        if len(following) == beams:
            break
    return following, sources, ended


def _best(ended: list[_Sequence], following: list[_Sequence], beams: int) -> _Sequence:
    """Return the one with the highest log-probability a token; those without an end fill up what is missing."""
    unended = sorted(following, key=lambda sequence: sequence.total, reverse=True)[: beams - len(ended)]
    return max([*ended, *unended], key=lambda sequence: sequence.total / max(len(sequence.tokens), 1))


def _mask(size: int, tokens: Sequence[int] | None) -> Tensor:
    """Return what to add to the logits so that `tokens` cannot be chosen, shape (size,)."""
    mask = torch.zeros(size)
    mask[list(tokens or ())] = -torch.inf
    return mask
