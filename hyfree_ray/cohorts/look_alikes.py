"""Names that look alike, by the ideas of Unicode's technical standard 39 (security mechanisms).

A name has letters of one script, and two names are the same where their skeletons are. The standard
lists thousands of confusable characters; with one script a name, and only scripts that are in
everyday use, few of them are left: the ones below.
"""

from __future__ import annotations

import unicodedata

_WITH_LATIN = {"CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO"}
"""Scripts that are written together, and with Latin; nothing in them looks like it."""

_SCRIPTS = _WITH_LATIN | {
    *("ARABIC", "ARMENIAN", "BENGALI", "CYRILLIC", "DEVANAGARI", "ETHIOPIC", "GEORGIAN", "GREEK"),
    *("GUJARATI", "GURMUKHI", "HEBREW", "KANNADA", "KHMER", "LAO", "LATIN", "MALAYALAM", "MYANMAR"),
    *("ORIYA", "SINHALA", "TAMIL", "TELUGU", "THAANA", "THAI", "TIBETAN"),
}

_ALIKE = (
    # Cyrillic
    (
        "аАВЕеоОрРсСуУхХіІјЈѕЅԁԛԝһНКкМмТтвнгпѵӏьЗзбԌЅѐёЁїЇ",
        "aABEeoOpPcCyYxXiIjJsSdqwhHKkMmTtBHrnvlb336GSeeEiI",
    ),
    # Greek
    ("αΑΒΕΖΗΙΚΜΝΟοΡρΤΥΧνικτυγηωχεςσ", "aABEZHIKMNOoPpTYXviktuynwxeco"),
    # Armenian
    ("օսոհցզաՏՍԼեյք", "ounhgqwSULejp"),
    # Latin, of phonetics and of other alphabets
    ("ıɩɪɑɡʏʟʀɢʙɴɐǀƖƽǃ", "iiiagylrgbnall5l"),
)
"""Letters, and the ones of Latin that they look like in some font or other."""

_TO_LATIN = {
    **{ord(one): other for many, others in _ALIKE for one, other in zip(many, others, strict=True)},
    **{ord("0"): "o", ord("1"): "l", ord("I"): "l"},  # as in many fonts
}


_INVISIBLE = {
    *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0),
    *range(0x180B, 0x1810),
    *range(0xFE00, 0xFE10),
    *range(0xE0100, 0xE01F0),
}
"""Letters and marks that show nothing: joiners, fillers, selectors of variants."""

_MOST_MARKS = 3
"""On a letter: Vietnamese, Hebrew and Thai need fewer, and a pile of them covers other lines."""


def shows_all(name: str) -> bool:
    """Return whether all of a name can be seen: no invisible letter, no pile of marks, and single
    spaces inside alone."""
    marks = "".join(
        "m" if unicodedata.category(char)[0] == "M" else "-"
        for char in unicodedata.normalize("NFD", name)
    )
    return (
        not any(ord(char) in _INVISIBLE for char in name)
        and "m" * (_MOST_MARKS + 1) not in marks
        and name == " ".join(name.split())
    )


def scripts_of(name: str) -> set[str]:
    """Return the scripts of a name's letters, by the first word of their Unicode names."""
    letters = (char for char in unicodedata.normalize("NFKC", name) if char.isalpha())
    return {unicodedata.name(char, "UNKNOWN").split()[0].split("-")[0] for char in letters}


def one_script(name: str) -> bool:
    """Return whether a name's letters are of one script, and of one in everyday use."""
    found = scripts_of(name)
    together = len(found) <= 1 or found <= _WITH_LATIN | {"LATIN"}
    return together and found <= _SCRIPTS


def skeletons(name: str) -> set[str]:
    """Return what a name looks like, without regard to case; two names that share one look alike.

    A capital may look like a letter that its small form does not look like, so there are two.
    """
    plain = unicodedata.normalize("NFKC", name)
    return {_skeleton(plain), _skeleton(unicodedata.normalize("NFKC", plain.casefold()))}


def _skeleton(text: str) -> str:
    digits = "".join(str(unicodedata.digit(c)) if c.isdigit() else c for c in text)
    latin = digits.translate(_TO_LATIN).translate(_TO_LATIN)  # a capital iota is an I, is an l
    folded = unicodedata.normalize("NFKC", latin.casefold())
    return folded.replace("rn", "m").replace("vv", "w")
