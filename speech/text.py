"""The one normaliser that scores, splits and gates compare texts under.

Whisper's own `BasicTextNormalizer` replaces combining marks by spaces, which deletes the vowel signs of Devanagari,
Thai or Tamil and makes a WER meaningless there; this one keeps every letter, mark and number. It neither spells
out numbers nor removes fillers: language-specific rules belong to nobody's default.
"""

import unicodedata

NORMALIZER_VERSION = "1"
"""Raised whenever `normalize` may answer differently; scores under two versions are not comparable."""


def normalize(text: str) -> str:
    """Return `text` in NFKC, lower case, without punctuation and symbols, blanks folded to single spaces.

    >>> normalize("L'ÙLTIMO  — piano?")
    'l ùltimo piano'
    >>> normalize("हिन्दी।")
    'हिन्दी'
    """
    characters = []
    for character in unicodedata.normalize("NFKC", text).lower():
        category = unicodedata.category(character)
        if category == "Cf":  # joiners, soft hyphens, direction marks: part of the word, but no letter
            continue
        characters.append(character if category[0] in "LMN" else " ")
    return " ".join("".join(characters).split())
