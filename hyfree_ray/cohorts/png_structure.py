"""The structure of a PNG file, read from its chunks without inflating any of them.

Source: the PNG specification (W3C, third edition), sections 5 and 11.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_MAX_TEXT_BYTES = 1 << 16
"""Bytes of a chunk of text or of a colour profile; compressed ones grow a thousandfold."""

_COMPRESSED = (b"zTXt", b"iTXt", b"iCCP")
_ANIMATED = (b"acTL", b"fcTL", b"fdAT")


def png_fault(content: bytes) -> str:
    """Describe why a PNG is not accepted, in a few words; empty if it is.

    Refuses animations (whose other frames nobody would look at), compressed text or profiles of
    more than `_MAX_TEXT_BYTES` bytes, chunks that are cut short, and anything behind the end.
    """
    if not content.startswith(SIGNATURE):
        return "unreadable"
    for kind, length, end in _chunks(content):
        if kind in _ANIMATED:
            return "animated"
        if kind in _COMPRESSED and length > _MAX_TEXT_BYTES:
            return "hidden content"
        if kind == b"IEND":
            return "hidden content" if end != len(content) else ""
    return "unreadable"


def png_chunks(content: bytes) -> list[bytes]:
    """Return the kinds of a PNG's chunks, in their order."""
    return [kind for kind, _, _ in _chunks(content)]


def _chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind of each chunk, the length of its data, and where it ends."""
    at = len(SIGNATURE)
    while at + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        at += 12 + length
        yield kind, length, at
