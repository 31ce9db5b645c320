"""Whether an image file is whole: the bytes that its header declares against those that are there.

Readers fill what is missing with zeros, or with whatever lay in memory.

Sources: NIfTI-1 and -2 (`nifti1.h`, `nifti2.h`), MetaImage's and NRRD's documentation, ITK's
`itkGiplImageIO.cxx` (header of 256 bytes, big-endian), TIFF 6.0, Microsoft's BITMAPFILEHEADER.
"""

from __future__ import annotations

import gzip
import io
import math
import re
import struct
import zlib
from typing import Any

import tifffile

_CHUNK = 1 << 20
_HEAD = 600
"""Bytes that hold the longest NIfTI header."""

_GIPL_BYTES = {7: 1, 8: 1, 15: 2, 16: 2, 31: 4, 32: 4, 64: 4, 65: 8}

_META_BYTES = {
    "CHAR": 1, "UCHAR": 1, "SHORT": 2, "USHORT": 2, "INT": 4, "UINT": 4, "LONG": 4, "ULONG": 4,
    "LONG_LONG": 8, "ULONG_LONG": 8, "FLOAT": 4, "DOUBLE": 8,
}  # fmt: skip

_NRRD_BYTES = {
    "signed char": 1, "int8": 1, "int8_t": 1, "uchar": 1, "unsigned char": 1, "uint8": 1,
    "uint8_t": 1, "short": 2, "short int": 2, "signed short": 2, "int16": 2, "int16_t": 2,
    "ushort": 2, "unsigned short": 2, "uint16": 2, "uint16_t": 2, "int": 4, "signed int": 4,
    "int32": 4, "int32_t": 4, "uint": 4, "unsigned int": 4, "uint32": 4, "uint32_t": 4,
    "float": 4, "double": 8,
}  # fmt: skip


def why_incomplete(content: bytes, ending: str) -> str:
    """Describe what an image file lacks of what its header declares; empty if it is whole.

    Args:
        content: the file's bytes.
        ending: its ending, which says its format.
    """
    check = _CHECKS.get(ending)
    try:
        return check(content) if check else ""
    except (struct.error, zlib.error, ValueError, KeyError, IndexError):
        return ""  # not a header of this format: reading says so


def _short(declared: int, present: int) -> str:
    if present >= declared:
        return ""
    return f"the file ends early: its header declares {declared} bytes, {present} are there"


def _nifti(content: bytes) -> str:
    return _nifti_pair(content) or _short(_nifti_bytes(content), len(content))


def _nifti_gz(content: bytes) -> str:
    if content[:2] != b"\x1f\x8b":
        return _nifti(content)
    head = zlib.decompressobj(31).decompress(content, _HEAD)
    declared = _nifti_bytes(head)
    present, fault = _unpacked(content, declared)
    return _nifti_pair(head) or fault or _short(declared, present)


def _nifti_bytes(head: bytes) -> int:
    """Return the length of a NIfTI by its header; 0 if it has none."""
    for order in "<>":
        (size,) = struct.unpack_from(f"{order}i", head, 0)
        if size == 348:
            dims = struct.unpack_from(f"{order}8h", head, 40)
            (bits,) = struct.unpack_from(f"{order}h", head, 72)
            (offset,) = struct.unpack_from(f"{order}f", head, 108)
        elif size == 540:
            dims = struct.unpack_from(f"{order}8q", head, 16)
            (bits,) = struct.unpack_from(f"{order}h", head, 14)
            (offset,) = struct.unpack_from(f"{order}q", head, 168)
        else:
            continue
        voxels: int = math.prod(max(1, n) for n in dims[1 : 1 + dims[0]])
        return int(offset) + voxels * int(bits) // 8
    return 0


def nifti_version(content: bytes, ending: str) -> int:
    """Return 1 or 2 for a file with a NIfTI header, 0 for any other."""
    head = _nifti_head(content, ending)
    sizes = [struct.unpack_from(f"{order}i", head, 0)[0] for order in "<>" if len(head) >= 4]
    return 1 if 348 in sizes else 2 if 540 in sizes else 0


def nifti_steps(content: bytes, ending: str) -> tuple[float, ...]:
    """Return the distances (mm) that a NIfTI's header states along those of its first three axes
    that are longer than one voxel, as stored; empty if it has no such header."""
    head = _nifti_head(content, ending)
    for order in "<>":
        try:
            (size,) = struct.unpack_from(f"{order}i", head, 0)
            lengths, steps = ("8h", "8f") if size == 348 else ("8q", "8d")
            dims = struct.unpack_from(order + lengths, head, 40 if size == 348 else 16)
            pixdim = struct.unpack_from(order + steps, head, 76 if size == 348 else 104)
        except struct.error:
            return ()  # reading says so
        if size in (348, 540):
            axes = range(1, 1 + min(3, dims[0]))
            return tuple(float(pixdim[axis]) for axis in axes if dims[axis] > 1)
    return ()


def _nifti_head(content: bytes, ending: str) -> bytes:
    if ending != ".nii.gz":
        return content[:_HEAD]
    try:
        return zlib.decompressobj(31).decompress(content, _HEAD)
    except zlib.error:
        return b""


def _nifti_pair(head: bytes) -> str:
    if head[344:347] != b"ni1":
        return ""
    return "its header is one of a pair (.hdr and .img): save both as a single .nii"


def _unpacked(content: bytes, declared: int) -> tuple[int, str]:
    """Return the number of bytes that a gzip stream holds, and why it is not whole.

    Of one that holds far more than the header declares, the rest is not unpacked: it may be a bomb.
    """
    count = 0
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            while count <= declared + _CHUNK and (chunk := file.read(_CHUNK)):
                count += len(chunk)
    except EOFError:
        return count, "the file ends early: its compressed data are cut short"
    except (OSError, zlib.error):
        return count, "its compressed data are damaged"
    return count, ""


def _gipl(content: bytes) -> str:
    dims = struct.unpack_from(">4H", content, 0)
    (kind,) = struct.unpack_from(">H", content, 8)
    return _short(256 + math.prod(max(1, n) for n in dims) * _GIPL_BYTES[kind], len(content))


def _fields(header: bytes, pattern: str) -> dict[str, str]:
    found = re.findall(pattern, header.decode("latin-1"), re.MULTILINE)
    return {name.strip().casefold(): value.strip() for name, value in found}


def _meta(content: bytes) -> str:
    last = re.search(rb"^ElementDataFile\s*=\s*([^\r\n]*)\r?\n", content[: 1 << 16], re.MULTILINE)
    if last is None or last[1].strip().upper() != b"LOCAL":
        return ""
    fields = _fields(content[: last.end()], r"^\s*(\w+)\s*=\s*(.*)$")
    channels = int(fields.get("elementnumberofchannels", "1"))
    size = _META_BYTES[fields["elementtype"].removeprefix("MET_").removesuffix("_ARRAY")]
    declared = math.prod(int(n) for n in fields["dimsize"].split()) * channels * size
    if fields.get("compresseddata", "false").casefold() != "true":
        return _short(last.end() + declared, len(content))
    present = len(content) - last.end()
    if why := _short(int(fields.get("compresseddatasize", "0")), present):
        return why
    try:
        unpacked = len(zlib.decompressobj(47).decompress(content[last.end() :], declared))
    except zlib.error:
        return "its compressed data are damaged"
    return _short(declared, unpacked)


def _nrrd(content: bytes) -> str:
    end = re.search(rb"\r?\n\r?\n", content[: 1 << 20])
    if end is None:
        return ""
    fields = _fields(content[: end.start()], r"^([^#:\n]+):=?\s*(.*)$")
    if "data file" in fields or "datafile" in fields:
        return ""
    declared = math.prod(int(n) for n in fields["sizes"].split()) * _NRRD_BYTES[fields["type"]]
    data = content[end.end() :]
    if fields["encoding"] == "raw":
        return _short(end.end() + declared, len(content))
    if fields["encoding"] in ("gzip", "gz"):
        present, fault = _unpacked(data, declared)
        return fault or _short(declared, present)
    return ""


def _bmp(content: bytes) -> str:
    start, _, width, height, _, bits, compression = struct.unpack_from("<IIiiHHI", content, 10)
    if compression not in (0, 3):
        return ""
    row = (abs(width) * bits + 31) // 32 * 4
    return _short(start + row * abs(height), len(content))


def _tiff(content: bytes) -> str:
    try:
        with tifffile.TiffFile(io.BytesIO(content)) as file:
            ends = [
                offset + count
                for page in file.pages
                for offset, count in zip(*_segments(page), strict=False)
            ]
    except (tifffile.TiffFileError, struct.error):
        return ""
    return _short(max(ends, default=0), len(content))


def _segments(page: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(page.dataoffsets), tuple(page.databytecounts)


_CHECKS = {
    ".nii": _nifti,
    ".nii.gz": _nifti_gz,
    ".gipl": _gipl,
    ".mha": _meta,
    ".nrrd": _nrrd,
    ".bmp": _bmp,
    ".tif": _tiff,
    ".tiff": _tiff,
}


def detached_names(content: bytes, ending: str) -> list[str]:
    """Return the names of the files that hold the pixels of a header; empty if it holds them.

    Args:
        content: the header's bytes.
        ending: its ending, which says its format.
    """
    head = content[: 1 << 16]
    if ending == ".mha":
        found = re.search(rb"^\s*ElementDataFile\s*=\s*([^\r\n]*)", head, re.MULTILINE)
        named = found[1].strip().decode("latin-1") if found else "LOCAL"
        return [] if named.upper() == "LOCAL" else _listed(head, found, named)
    if ending == ".nrrd":
        blank = re.search(rb"\r?\n\r?\n", head)
        lines = head[: blank.start()] if blank else head
        found = re.search(rb"^data ?file:\s*([^\r\n]*)", lines, re.MULTILINE | re.IGNORECASE)
        return _listed(head, found, found[1].strip().decode("latin-1")) if found else []
    return []


def _listed(head: bytes, found: re.Match[bytes] | None, named: str) -> list[str]:
    """Return a single name, a pattern's, or the lines below LIST."""
    if not named.upper().startswith("LIST"):
        return [named.split(" ")[0] if "%" in named else named]
    after = head[found.end() :] if found else b""
    return [line.strip() for line in after.decode("latin-1").splitlines() if line.strip()]
