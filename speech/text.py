"""The one normaliser that scores, splits and gates compare texts under.

Whisper's own `BasicTextNormalizer` replaces combining marks by spaces, which deletes the vowel signs of Devanagari,
Thai or Tamil and makes a WER meaningless there; this one keeps every letter, mark and number. It neither spells
out numbers nor removes fillers: language-specific rules belong to nobody's default.
"""

import unicodedata

NORMALIZER_VERSION = "1"
"""Raised whenever `normalize` may answer differently; scores under two versions are not comparable."""

VARIATION_SELECTORS = frozenset(map(chr, range(0xFE00, 0xFE10)))
"""They choose a drawing, as of an emoji; Unicode counts them among the marks."""


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
        if category in {"Cf", "Me"} or character in VARIATION_SELECTORS:
            continue  # joiners, soft hyphens, direction marks, keycaps: no letter, and no end of a word either
        characters.append(character if category[0] in "LMN" else " ")
    # Again, for lower case and what was left out may have brought letters and marks together.
    return " ".join(unicodedata.normalize("NFKC", "".join(characters)).split())
