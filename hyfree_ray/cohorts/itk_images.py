"""SimpleITK, untyped, with its messages caught: it writes them to the terminal, out of C++."""

from __future__ import annotations

import locale
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import SimpleITK as sitk

itk: Any = sitk  # SimpleITK has no type annotations

Image = Any
"""A `SimpleITK.Image`."""


class _Listener(itk.LoggerBase):  # type: ignore[misc]
    """Collects what ITK says."""

    def __init__(self, said: list[str]) -> None:
        super().__init__()
        self.said = said

    def DisplayText(self, text: str) -> None:
        self.said.append(text)

    DisplayErrorText = DisplayWarningText = DisplayDebugText = DisplayText
    DisplayGenericOutputText = DisplayText


@contextmanager
def reading_quietly() -> Iterator[list[str]]:
    """Catch ITK's messages; the list that is yielded has a line for each, without its sources.

    The process keeps its locale, which ITK's decoder of lossless JPEG would replace by "C".
    """
    raw: list[str] = []
    said: list[str] = []
    listener = _Listener(raw)
    before, own_locale = listener.SetAsGlobalITKLogger(), locale.setlocale(locale.LC_ALL)
    try:
        yield said
    finally:
        before.SetAsGlobalITKLogger()
        locale.setlocale(locale.LC_ALL, own_locale)
        said += [line for text in raw if (line := plain(text))]


def plain(message: str) -> str:
    """Return ITK's message in one line, without places in its source and addresses."""
    kept = []
    for line in str(message).splitlines():
        line = re.sub(r"^\s*(WARNING: In |ERROR: In ).*", "", line)
        line = re.sub(r"^.*Exception thrown in SimpleITK.*", "", line)
        line = re.sub(r"^\s*\S*\.(cxx|hxx|h|cpp):\d+:?\s*", "", line)
        line = re.sub(r"\w+ \(0x[0-9a-f]+\): ", "", line)
        line = re.sub(r"^ITK ERROR: ", "", line.strip())
        if line:
            kept.append(line)
    return " ".join(kept)
