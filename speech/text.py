"""The one normaliser that scores, splits and gates compare texts under.

Whisper's own `BasicTextNormalizer` replaces combining marks by spaces, which deletes the vowel signs of Devanagari,
Thai or Tamil and makes a WER meaningless there; this one keeps every letter, mark and number. It neither spells
out numbers nor removes fillers: language-specific rules belong to nobody's default.
"""

import re
import unicodedata

NORMALIZER_VERSION = "2"
"""Raised whenever `normalize` may answer differently; scores under two versions are not comparable."""

VARIATION_SELECTORS = frozenset(map(chr, range(0xFE00, 0xFE10)))
"""They choose a drawing, as of an emoji; Unicode counts them among the marks."""

LETTER_APOSTROPHES = frozenset("\u02bb\u02bc")
"""Unicode's apostrophes that are letters, as in п'ять and o'zbek; most people type one that is punctuation."""

TATWEEL = "\u0640"
"""Stretches an Arabic word on the page, and is no letter of it."""

I_WITHOUT_CASE = re.compile("[iı]\u0307*")
"""Lower case depends on the language: İ and I become i and ı in Turkish; i and a dot, and i, by Unicode's rule."""


def normalize(text: str) -> str:
    """Return `text` in NFKC, lower case, without punctuation and symbols, blanks folded to single spaces.

    Case is no difference in any language, so the two letters i of Turkish are one; nor is an apostrophe's or a
    stretched letter's code.

    >>> normalize("L'ÙLTIMO  — piano?")
    'l ùltimo piano'
    >>> normalize("हिन्दी।")
    'हिन्दी'
    """
    characters = []
    for character in unicodedata.normalize("NFKC", text).lower():
        category = unicodedata.category(character)
        if category in {"Cf", "Me"} or character in VARIATION_SELECTORS or character == TATWEEL:
            continue  # joiners, soft hyphens, direction marks, keycaps: no letter, and no end of a word either
        characters.append(character if category[0] in "LMN" and character not in LETTER_APOSTROPHES else " ")
    # Again, for lower case and what was left out may have brought letters and marks together.
    joined = unicodedata.normalize("NFKC", "".join(characters))
    return " ".join(unicodedata.normalize("NFKC", I_WITHOUT_CASE.sub("i", joined)).split())
