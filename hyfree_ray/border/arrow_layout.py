"""The layout of an Arrow IPC file, read without Arrow.

A release comes from somebody else. Arrow, when it opens a file, calls the Python code of every
extension type that any library of this process has registered (some of them unpickle), inflates
compressed bodies to whatever length they claim, and follows dictionaries. So the few flatbuffers
that describe the file are parsed here first, with every offset checked and every length capped,
and only a file without surprises is passed to Arrow.

Source: the Arrow columnar format, `File.fbs`, `Message.fbs` and `Schema.fbs` (field numbers below
are their declaration order), and the FlatBuffers binary format.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

MAGIC = b"ARROW1"
FIXED_SIZE_LIST = 16  # Schema.fbs, union Type
INTEGER = 2
_RECORD_BATCH = 3  # Message.fbs, union MessageHeader
_SCHEMA = 1
_CONTINUATION = b"\xff\xff\xff\xff"
_END_OF_STREAM = _CONTINUATION + b"\0\0\0\0"
_MAX_ENTRIES = 8  # nodes or buffers: ours has four and six
_MAX_TABLES = 2  # columns or metadata keys: ours has two, and one or two
_MAX_TEXT_BYTES = 4096  # bytes of a column's name or metadata
_PADDING = 64  # bytes to which Arrow aligns at most


class LayoutError(ValueError):
    """A file that is not laid out as ours are; `rule` is a short stable name."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


@dataclass(frozen=True, kw_only=True)
class FieldLayout:
    """One column as the schema describes it."""

    name: bytes
    nullable: bool
    type_code: int
    has_dictionary: bool
    metadata: dict[bytes, bytes]
    children: tuple[FieldLayout, ...]


@dataclass(frozen=True, kw_only=True)
class BatchLayout:
    """One record batch."""

    rows: int
    nodes: tuple[tuple[int, int], ...]
    """(length, nulls) of every array, depth first."""
    buffers: tuple[tuple[int, int], ...]
    """(offset in the body, bytes) of every buffer."""


@dataclass(frozen=True, kw_only=True)
class FileLayout:
    """Everything that an Arrow IPC file declares."""

    fields: tuple[FieldLayout, ...]
    metadata: dict[bytes, bytes]
    batches: tuple[BatchLayout, ...]


@dataclass(frozen=True)
class _Table:
    """A flatbuffer table: `bytes_` is the whole flatbuffer, `at` where the table starts."""

    bytes_: memoryview
    at: int

    @classmethod
    def root(cls, bytes_: memoryview) -> _Table:
        return cls(bytes_, _number("<I", bytes_, 0))

    def slot(self, index: int) -> int | None:
        """Return the position of a field's value, None if it is absent."""
        vtable = self.at - _number("<i", self.bytes_, self.at)
        if 4 + 2 * index + 2 > _number("<H", self.bytes_, vtable):
            return None
        offset = _number("<H", self.bytes_, vtable + 4 + 2 * index)
        return self.at + offset if offset else None

    def number(self, index: int, code: str, default: int = 0) -> int:
        slot = self.slot(index)
        return default if slot is None else _number(code, self.bytes_, slot)

    def table(self, index: int) -> _Table | None:
        slot = self.slot(index)
        if slot is None:
            return None
        return _Table(self.bytes_, slot + _number("<I", self.bytes_, slot))

    def vector(
        self, index: int, entry: int, *, max_count: int, rule: str = "layout"
    ) -> tuple[int, int]:
        """Return (position of the first entry, number of entries); each takes `entry` bytes."""
        slot = self.slot(index)
        if slot is None:
            return 0, 0
        at = slot + _number("<I", self.bytes_, slot)
        count = _number("<I", self.bytes_, at)
        if count > max_count or at + 4 + count * entry > len(self.bytes_):
            raise LayoutError(rule, f"a list of {count} entries; at most {max_count} are read")
        return at + 4, count

    def text(self, index: int, max_bytes: int) -> bytes:
        at, count = self.vector(index, 1, max_count=max_bytes, rule="metadata")
        return bytes(self.bytes_[at : at + count])

    def tables(self, index: int) -> list[_Table]:
        at, count = self.vector(index, 4, max_count=_MAX_TABLES, rule="schema")
        slots = range(at, at + 4 * count, 4)
        return [_Table(self.bytes_, slot + _number("<I", self.bytes_, slot)) for slot in slots]

    def pairs(self, index: int) -> tuple[tuple[int, int], ...]:
        """Return a vector of structs of two 64-bit numbers."""
        at, count = self.vector(index, 16, max_count=_MAX_ENTRIES)
        return tuple(struct.unpack_from("<qq", self.bytes_, at + 16 * k) for k in range(count))

    def key_values(self, index: int, max_bytes: int) -> dict[bytes, bytes]:
        tables = self.tables(index)
        values = {table.text(0, _MAX_TEXT_BYTES): table.text(1, max_bytes) for table in tables}
        if len(values) != len(tables):
            raise LayoutError("schema", "the same metadata key twice")
        return values


def _number(code: str, bytes_: memoryview, at: int) -> int:
    if at < 0 or at + struct.calcsize(code) > len(bytes_):
        raise LayoutError("layout", "an offset in the file's description points outside of it")
    (value,) = struct.unpack_from(code, bytes_, at)
    return int(value)


def read_layout(
    file: memoryview, *, footer_bytes: int, message_bytes: int, batches: int
) -> FileLayout:
    """Read what an Arrow IPC file declares, without trusting any of it.

    Refuses compression, big-endian files, dictionaries, metadata where ours has none, and any
    byte between the declared parts. Bytes of the footer or of a batch's description that nothing
    points to are not searched: a flatbuffer may have gaps, and as much as these limits allow may
    hide there. So this bounds what can travel beside the rows; it does not prove that nothing
    does.

    Args:
        file: the whole file.
        footer_bytes: the longest footer that is read.
        message_bytes: the longest description of one record batch that is read.
        batches: the maximum number of record batches.

    Raises:
        LayoutError: with the rule that was broken.
    """
    footer, footer_at = _footer(file, footer_bytes)
    if footer.vector(2, 24, max_count=batches)[1] or footer.slot(4) is not None:
        raise LayoutError("schema", "dictionaries or metadata in the footer")
    schema = footer.table(1)
    if schema is None:
        raise LayoutError("schema", "the footer has no schema")
    fields, metadata = _schema(schema)
    at, count = footer.vector(3, 24, max_count=batches)
    end = _schema_message(file, fields, metadata, footer_bytes)
    found: list[BatchLayout] = []
    for slot in range(at, at + 24 * count, 24):
        offset, length, body = struct.unpack_from("<qi4xq", footer.bytes_, slot)
        if offset != end or not 8 < length <= message_bytes or not 0 <= body <= footer_at:
            raise LayoutError("layout", f"record batch {len(found)} is not at the expected offset")
        found.append(_batch(file, offset, length, body))
        end = offset + length + body
        if end > footer_at:
            raise LayoutError("layout", f"record batch {len(found) - 1} runs into the footer")
    if bytes(file[end:footer_at]) not in (b"", _END_OF_STREAM):
        raise LayoutError("layout", "bytes between the last record batch and the footer")
    return FileLayout(fields=fields, metadata=metadata, batches=tuple(found))


def _footer(file: memoryview, footer_bytes: int) -> tuple[_Table, int]:
    tail = len(MAGIC) + 4
    if len(file) < 8 + tail or file[:8] != MAGIC + b"\0\0" or file[-len(MAGIC) :] != MAGIC:
        raise LayoutError("magic", "not a whole Arrow IPC file")
    size = _number("<i", file, len(file) - tail)
    start = len(file) - tail - size
    if not 0 < size <= footer_bytes or start < 8:
        raise LayoutError("layout", f"a footer of {size} bytes, more than {footer_bytes}")
    return _Table.root(file[start : start + size]), start


def _schema(table: _Table) -> tuple[tuple[FieldLayout, ...], dict[bytes, bytes]]:
    if table.number(0, "<h") != 0:
        raise LayoutError("endianness", "big-endian; a release is little-endian")
    fields = tuple(_field(field, depth=0) for field in table.tables(1))
    return fields, table.key_values(2, len(table.bytes_))


def _field(table: _Table, depth: int) -> FieldLayout:
    if depth > 1:
        raise LayoutError("schema", "nested columns")
    return FieldLayout(
        name=table.text(0, _MAX_TEXT_BYTES),
        nullable=bool(table.number(1, "<B")),
        type_code=table.number(2, "<B"),
        has_dictionary=table.slot(4) is not None,
        metadata=table.key_values(6, _MAX_TEXT_BYTES),
        children=tuple(_field(child, depth + 1) for child in table.tables(5)),
    )


def _message(file: memoryview, at: int, length: int, kind: int) -> tuple[_Table, _Table]:
    """Return the message of `length` bytes at `at` and its header, which must be of this kind."""
    if at + 8 > len(file) or file[at : at + 4] != _CONTINUATION:
        raise LayoutError("layout", "a message does not start where it should")
    if _number("<i", file, at + 4) != length - 8 or at + length > len(file):
        raise LayoutError("layout", "a message is not as long as it says")
    message = _Table.root(file[at + 8 : at + length])
    header = message.table(2)
    if message.number(1, "<B") != kind or header is None or message.slot(4) is not None:
        raise LayoutError("layout", "a message of another kind, or one with metadata")
    return message, header


def _schema_message(
    file: memoryview,
    fields: tuple[FieldLayout, ...],
    metadata: dict[bytes, bytes],
    footer_bytes: int,
) -> int:
    """Check the copy of the schema at the file's start; return where the batches start."""
    length = _number("<i", file, 12) + 8
    if not 8 < length <= footer_bytes:
        raise LayoutError("layout", f"a schema of {length} bytes; at most {footer_bytes} are read")
    message, header = _message(file, 8, length, _SCHEMA)
    if message.number(3, "<q") != 0 or _schema(header) != (fields, metadata):
        raise LayoutError("schema", "the schema at the start differs from the one in the footer")
    return 8 + length


def _batch(file: memoryview, at: int, length: int, body: int) -> BatchLayout:
    message, header = _message(file, at, length, _RECORD_BATCH)
    if header.slot(3) is not None:
        raise LayoutError("compressed", "compressed; a release is not")
    if message.number(3, "<q") != body:
        raise LayoutError("layout", "a record batch and the footer disagree on its length")
    buffers = header.pairs(2)
    body_at, end = at + length, 0
    if body_at + body > len(file):
        raise LayoutError("layout", "a record batch runs beyond the file")
    for start, size in (*buffers, (body, 0)):
        if size < 0 or not 0 <= start - end < _PADDING or start + size > body:
            raise LayoutError("layout", "a buffer lies outside its record batch, or over another")
        if any(file[body_at + end : body_at + start]):
            raise LayoutError("layout", "something is written between two buffers")
        end = start + size
    return BatchLayout(rows=header.number(0, "<q"), nodes=header.pairs(1), buffers=buffers)
