"""Every finding that lint knows: its code, whether it is an error, and what to do about it.

An error is what makes training wrong, or its result worthless to judge by; all else is a warning.
"""

from dataclasses import dataclass
from typing import Literal

Level = Literal["error", "warning"]


@dataclass(frozen=True)
class Rule:
    """What a code stands for."""

    level: Level
    what: str
    todo: str


def _error(what: str, todo: str) -> Rule:
    return Rule("error", what, todo)


def _warning(what: str, todo: str) -> Rule:
    return Rule("warning", what, todo)


_READ = "mend or remove the row; training leaves it out, and refuses the data set beyond 5 % of such rows"
_SPLIT = "keep all such clips in one split"

CODES: dict[str, Rule] = {
    # Rows that no utterance came of: the reasons of `training.data`.
    "missing_file": _error("there is no such audio file", _READ),
    "undecodable": _error("the audio cannot be decoded", _READ),
    "zero_length": _error("the audio is empty", _READ),
    "too_long": _error("the clip is longer than 30 s and has no segments", "cut it at pauses, or give its segments"),
    "empty_text": _error("the transcript has no word in it", _READ),
    "no_language": _error("nothing says which language it is", "give --language, or a language column"),
    "unknown_language": _error("the base knows no such language", "use one of Whisper's codes, such as it"),
    "too_many_tokens": _error("the transcript has more than 448 tokens: Whisper cannot write it", "cut the clip"),
    "outside_root": _error("the audio lies outside the data's own folder", "copy it in; name it by a relative path"),
    "duplicate_id": _error("the id was listed before", "give every clip an id of its own; name every source once"),
    "malformed_row": _error("the row is not written as its format asks", _READ),
    "unusable_row": _error("the row cannot be used", _READ),
    "refused": _error("training would refuse the data as it is", "mend this first; what it hides is checked then"),
    # Of the clips themselves.
    "beyond_end": _error("the file ends before the clip does", "correct offset and duration"),
    "changed_audio": _error(
        "the file is not the one that the manifest was made of (SHA-256)", "make the manifest anew"
    ),
    "silent_audio": _error("there is a transcript, but no sound", "remove the clip, or its transcript"),
    "lossy_tokens": _error(
        "the base's tokenizer cannot write the transcript", "remove odd characters and double blanks"
    ),
    # Of the splits.
    "no_split": _error("the clip is in no split", "name train, dev or test for every clip"),
    "empty_split": _error("a language has no clip in a split", "add clips to it; test_clips and dev_clips set sizes"),
    "same_audio_across_splits": _error("the same audio is in train and held out", "remove it from one of them"),
    "same_sentence_and_speaker_across_splits": _error(
        "a speaker says the same sentence in train and held out", "remove it from one of them"
    ),
    "speaker_across_splits": _error(
        "speakers are in test and elsewhere, though the language has several: the score would not tell of new ones",
        "give splits that no speaker crosses",
    ),
    "cannot_decide": _error(
        "the held-out clips are too few for the wanted difference", "hold out as many more as are named"
    ),
    "single_speaker": _warning(
        "the language has one speaker: scores say nothing of other voices", "add speakers, or expect no more than this"
    ),
    "trained_guard": _warning(
        "a guard's sentence or audio is trained on, so it is left out of what is watched", "watch other clips"
    ),
    "speakers_mixed": _warning(
        "speakers are in test and elsewhere, for keeping them apart would have left out over a fifth of the clips: "
        "scores say little of new voices",
        "add speakers, or give splits",
    ),
    "dev_speakers": _warning(
        "speakers are in train and in dev: what is chosen may suit known voices better than new ones",
        "add speakers, or a dev set of others",
    ),
    "unknown_speakers": _warning(
        "the clips name no speaker: whether one is in train and held out cannot be checked", "add a speaker column"
    ),
    "same_sentence_across_splits": _warning("a sentence is in train and held out", _SPLIT),
    "similar_sentence_across_splits": _warning("a held-out sentence is in train but for one word", _SPLIT),
    "recording_across_splits": _warning("one recording is in train and held out, at other times", _SPLIT),
    "decides_little": _warning(
        "only a large difference in WER would show on the held-out clips", "hold out as many more as are named"
    ),
    # Of the texts.
    "odd_speaking_rate": _warning("far more or fewer letters a second than is usual here", "listen: is it all said?"),
    "repetitive_text": _warning("the transcript repeats itself (compresses by more than 2.4)", "read it"),
    "other_script": _warning("most letters are of a script that the language is not written in", "check the language"),
    "not_nfc": _warning("the text is not in Unicode's NFC: one letter is written in two ways", "normalise to NFC"),
    "all_caps": _warning("nearly all is in CAPITALS: the model would learn to shout", "restore the case"),
    "dense_tokens": _warning(
        "the tokenizer takes many tokens a letter: long clips may meet the limits of 448, and of 224 when served",
        "keep clips short",
    ),
    "many_tokens": _warning(
        "more tokens than the service writes of a clip of that length (30 a second and 24, 224 at most)",
        "see whether all of the text is said there; if it is, cut the clip",
    ),
    "mixed_case": _warning("some transcripts begin with a capital, some do not", "write all in one way"),
    "mixed_punctuation": _warning("some transcripts end in punctuation, some do not", "write all in one way"),
    "mixed_numbers": _warning("numbers are in digits here and in words there", "write all in one way"),
    "duplicate_sentences": _warning("many clips share their sentence with another", "add other sentences"),
    "duplicate_audio": _warning("the same audio comes more than once in a split", "remove the copies"),
    "dominant_speaker": _warning(
        "one speaker has more than 30 % of the training audio", "add others, or fewer of this"
    ),
    "unknown_licence": _warning("no licence is named", "find out whether a model may be made of it"),
    # Of the recipe.
    "unusual_learning_rate": _warning("the learning rate is far from what is usual", "mean it, or leave it out"),
    # Of the sound.
    "clipping": _warning("the sound is clipped", "record lower; listen whether it can still be understood"),
    "mostly_silence": _warning("more than 60 % of the clip is silence", "cut the clip"),
    "low_sample_rate": _warning("the audio has less than 16,000 samples a second", "use the original, if there is one"),
    # Of what the base heard.
    "wrong_transcript": _warning("the base clearly hears something else", "listen to each; correct the transcript"),
    "mispaired": _warning("the base hears the transcript of another clip", "listen to both; exchange the transcripts"),
    "incomplete_transcript": _warning(
        "the base clearly hears words that the transcript lacks, or the other way round", "listen to each; correct"
    ),
    "other_case": _warning("the transcripts' case is not the base's", "restore the case, or mean it"),
    "other_punctuation": _warning("the transcripts' punctuation is not the base's", "restore it, or mean it"),
    "other_numbers": _warning(
        "the base writes numbers otherwise than the transcripts", "use the base's way, or mean it"
    ),
    "base_knows_little": _warning(
        "the base gets more than half of the words wrong: it cannot tell wrong transcripts", "check some by ear"
    ),
}
"""Code → rule."""

HELD_OUT_EFFECT_SHARE = 0.5
"""Above this share of the base's WER, the smallest difference that would show is large (`decides_little`)."""
