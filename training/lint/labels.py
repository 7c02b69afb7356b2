"""Which transcripts are wrong, told by what the base hears: another sentence, and clearly.

A high error rate alone says little: short, unclear or dialectal clips have one, too, and those should be kept. What
tells them apart is how sure the base is. Whisper that mishears hesitates; Whisper that fluently hears something else
has most likely heard what was said. Where that is another clip's transcript, the two were exchanged.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

import jiwer
from rapidfuzz import fuzz, process

from speech.guard import COMPRESSION_RATIO_THRESHOLD
from speech.scores import rate_interval, unit_errors
from speech.text import normalize
from training.data.manifest import Utterance
from training.evaluate import Hypothesis
from training.lint.listen import Heard
from training.lint.power import resampled_by
from training.lint.report import BaseScore, Finding, Suspect, SuspectKind, finding
from training.lint.texts import by_language, has_digits, letters_compression_ratio

OTHER_WORDS_CER = 0.5
"""Share of characters from which two texts are different sentences, and not one that was misheard."""

SURE_LOGPROB = -0.6
UNSURE_LOGPROB = -0.8
"""Above the one, the base believes what it hears; below the other, it guesses."""

SAME_TEXT = 80.0  # similarity of the characters, of 100
SAME_TEXT_WER = 0.25
"""How near a hypothesis must be to another clip's transcript to be it. Characters alone are not enough, or "voce
disattivata" would be "voce riattivata"."""

MIN_CHARACTERS_TO_MATCH = 8  # shorter texts resemble many
MIN_RUN = 3
"""Words in a row that only one of transcript and hypothesis has: so many are hardly misheard."""

SAME_SHARE = 0.6  # of the shorter text's words, that the longer one has, too

POOR_WER = 0.5
MAX_WER = 10.0  # a rate over nearly no words says no more than this


def suspects_of(utterances: Sequence[Utterance], heard: Mapping[str, Heard]) -> list[Suspect]:
    """Return the clips in which the base heard something else, label errors first, the surest first.

    Args:
        utterances: all of the data set: a transcript may belong to any of them.
        heard: utterance id → what the base heard; those that are missing were not listened to.
    """
    suspects: list[Suspect] = []
    for group in by_language(utterances).values():
        texts = {u.id: normalize(u.text) for u in group}
        wrong = {h.id: h for h in as_hypotheses(group, heard) if h.errors.errors}
        suspects += [_suspect(u, wrong[u.id], heard[u.id], texts) for u in group if u.id in wrong]
    return sorted(suspects, key=lambda s: (not s.is_label_error, -s.score, s.id))


def _suspect(utterance: Utterance, wrong: Hypothesis, heard: Heard, texts: Mapping[str, str]) -> Suspect:
    errors, characters = wrong.errors, wrong.characters
    cer = min(MAX_WER, characters.errors / max(1, characters.reference))
    kind, elsewhere = _explain(utterance, heard, cer, texts)
    belief = math.exp(heard.avg_logprob) if heard.text else 0.0
    differing = 1.0 if kind == "incomplete_transcript" else min(1.0, cer)
    return Suspect(
        id=utterance.id,
        kind=kind,
        language=utterance.language,
        split=utterance.split or "",
        reference=utterance.text,
        hypothesis=heard.text,
        wer=min(MAX_WER, errors.errors / max(1, errors.reference)),
        cer=cer,
        avg_logprob=heard.avg_logprob,
        score=max(differing * belief, 1.0 if elsewhere else 0.0),
        heard_elsewhere=elsewhere,
    )


def _explain(
    utterance: Utterance, heard: Heard, cer: float, texts: Mapping[str, str]
) -> tuple[SuspectKind, str | None]:
    hypothesis = normalize(heard.text)
    if not hypothesis or letters_compression_ratio(heard.text) > COMPRESSION_RATIO_THRESHOLD:
        return "hard_audio", None
    if cer >= OTHER_WORDS_CER and (other := _whose(hypothesis, utterance, texts)):
        return "mispaired", other
    if heard.avg_logprob < UNSURE_LOGPROB:
        return "hard_audio", None
    sure = heard.avg_logprob >= SURE_LOGPROB
    # "seven" for "7" and "M I" for "em eye" are ways of writing, and belong to `style`.
    written_otherwise = has_digits(utterance.text) != has_digits(heard.text) or (
        _is_spelled(texts[utterance.id]) != _is_spelled(hypothesis)
    )
    if sure and not written_otherwise and _is_part(texts[utterance.id], hypothesis):
        return "incomplete_transcript", None
    if sure and not written_otherwise and cer >= OTHER_WORDS_CER:
        return "wrong_transcript", None
    return "misheard", None


def _whose(hypothesis: str, own: Utterance, texts: Mapping[str, str]) -> str | None:
    """Return the clip whose transcript this is, if it is not nearly the clip's own, too."""
    if len(hypothesis) < MIN_CHARACTERS_TO_MATCH:
        return None
    others = {name: text for name, text in texts.items() if text != texts[own.id]}
    nearest = process.extractOne(hypothesis, others, scorer=fuzz.ratio, score_cutoff=SAME_TEXT)
    if nearest is None:
        return None
    errors = unit_errors(nearest[0], hypothesis, own.language)
    return str(nearest[2]) if errors.errors <= SAME_TEXT_WER * errors.reference else None


def _is_spelled(text: str) -> bool:
    """Say whether at least half of a normalised text's words are single letters."""
    words = text.split()
    return 2 * sum(len(word) == 1 for word in words) >= len(words) > 0


def _is_part(reference: str, hypothesis: str) -> bool:
    """Say whether one of two normalised texts has a run of words more, and the other is mostly found in it."""
    if not reference or not hypothesis:
        return False
    (chunks,) = jiwer.process_words(reference, hypothesis).alignments
    runs = [
        max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
        for chunk in chunks
        if chunk.type in {"insert", "delete"}
    ]
    same = sum(chunk.ref_end_idx - chunk.ref_start_idx for chunk in chunks if chunk.type == "equal")
    shorter = min(len(reference.split()), len(hypothesis.split()))
    return max(runs, default=0) >= MIN_RUN and same >= SAME_SHARE * shorter


def check_labels(suspects: Sequence[Suspect], scores: Mapping[str, BaseScore]) -> Iterator[Finding]:
    """Yield findings of the suspects that are label errors; of languages that the base hardly knows, only that."""
    poor = {language for language, score in scores.items() if score.wer > POOR_WER}
    for language in sorted(poor):
        yield finding("base_knows_little", where=language, more=f"WER {scores[language].wer:.2f}")
    for kind in ("mispaired", "wrong_transcript", "incomplete_transcript"):
        of_kind = [s for s in suspects if s.kind == kind and s.language not in poor]
        if of_kind:
            details = [f"heard {s.hypothesis!r}" for s in of_kind]
            yield finding(kind, ids=[s.id for s in of_kind], details=details)


def score_base(
    utterances: Sequence[Utterance], heard: Mapping[str, Heard], suspects: Sequence[Suspect], seed: int
) -> dict[str, BaseScore]:
    """Return the base's WER on all that was listened to, by language, with and without suspected transcripts."""
    blamed = {s.id for s in suspects if s.is_label_error}
    scores = {}
    for language, group in by_language([u for u in utterances if u.id in heard]).items():
        clusters = resampled_by(group)
        interval = rate_interval(
            [h.errors for h in as_hypotheses(group, heard)], [clusters[u.id] for u in group], seed=seed
        )
        left = [h.errors for h in as_hypotheses([u for u in group if u.id not in blamed], heard)]
        n_words = sum(e.reference for e in left)
        scores[language] = BaseScore(
            clips=len(group),
            wer=interval.value,
            low=interval.low,
            high=interval.high,
            without_suspects=sum(e.errors for e in left) / n_words if n_words else None,
        )
    return scores


def as_hypotheses(utterances: Sequence[Utterance], heard: Mapping[str, Heard]) -> list[Hypothesis]:
    """Return what was heard in the form that is scored; utterances that nobody listened to are left out."""
    return [
        Hypothesis(id=u.id, language=u.language, reference=u.text, hypothesis=heard[u.id].text)
        for u in utterances
        if u.id in heard
    ]
