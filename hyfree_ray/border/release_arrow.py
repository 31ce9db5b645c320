"""The Arrow file of a release: writing it, and reading one from somebody else.

Columns: `image`, fixed_shape_tensor<uint8 or uint16>[C, H, W], and `label`,
fixed_shape_tensor<uint8>[H, W], neither with nulls; one metadata key, `hyfree`, with JSON.
Shapes: N rows, C channels, H height, W width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hyfree_ray.border.arrow_layout import (
    FIXED_SIZE_LIST,
    INTEGER,
    BatchLayout,
    FieldLayout,
    LayoutError,
    read_layout,
)

METADATA_KEY = b"hyfree"
ROWS_PER_BATCH = 256

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]


def write_arrow(
    file: BinaryIO, images_NCHW: Pixels, labels_NHW: npt.NDArray[np.uint8], metadata: str
) -> None:
    """Write an uncompressed Arrow IPC file, in record batches of at most `ROWS_PER_BATCH` rows.

    Every batch has buffers of its own: a slice of a larger Arrow array would carry the larger
    array's whole buffer, and with it the rows that were left out.
    """
    image = pa.fixed_shape_tensor(pa.from_numpy_dtype(images_NCHW.dtype), images_NCHW.shape[1:])
    label = pa.fixed_shape_tensor(pa.uint8(), labels_NHW.shape[1:])
    schema = pa.schema(
        [pa.field("image", image, nullable=False), pa.field("label", label, nullable=False)],
        metadata={METADATA_KEY: metadata.encode()},
    )
    with pa.ipc.new_file(file, schema) as writer:
        for start in range(0, len(images_NCHW), ROWS_PER_BATCH):
            rows = slice(start, start + ROWS_PER_BATCH)
            columns = [_column(image, images_NCHW[rows]), _column(label, labels_NHW[rows])]
            writer.write_batch(pa.record_batch(columns, schema=schema))


def _column(kind: pa.DataType, pixels: npt.NDArray[Any]) -> pa.Array:
    values = pa.array(np.array(pixels, order="C").reshape(-1))
    return pa.ExtensionArray.from_storage(
        kind, pa.FixedSizeListArray.from_arrays(values, type=kind.storage_type)
    )


@dataclass(frozen=True)
class Declared:
    """The contents of a file as it declares them, found without Arrow."""

    rows: int
    metadata: bytes


def declared(file: memoryview, *, max_rows: int, metadata_bytes: int) -> Declared:
    """Check everything that the file declares, before Arrow sees it.

    Raises:
        LayoutError: with the rule that was broken.
    """
    layout = read_layout(
        file,
        # The footer holds the metadata once, and 24 bytes for every record batch.
        footer_bytes=metadata_bytes + 24 * max_rows + 4096,
        message_bytes=4096,
        batches=max_rows,
    )
    _check_columns(layout.fields)
    if set(layout.metadata) != {METADATA_KEY}:
        raise LayoutError("schema", f"metadata other than {METADATA_KEY.decode()}")
    metadata = layout.metadata[METADATA_KEY]
    if len(metadata) > metadata_bytes:
        raise LayoutError("metadata", f"{len(metadata)} bytes; at most {metadata_bytes} are read")
    for batch in layout.batches:
        _check_batch(batch)
    return Declared(sum(batch.rows for batch in layout.batches), metadata)


def _check_columns(fields: tuple[FieldLayout, ...]) -> None:
    if [field.name for field in fields] != [b"image", b"label"]:
        raise LayoutError("schema", "the columns are not image and label, in this order")
    for field in fields:
        child = field.children[0] if len(field.children) == 1 else None
        if (
            field.type_code != FIXED_SIZE_LIST
            or field.nullable
            or set(field.metadata) != {b"ARROW:extension:name", b"ARROW:extension:metadata"}
            or field.metadata[b"ARROW:extension:name"] != b"arrow.fixed_shape_tensor"
            or child is None
            or child.type_code != INTEGER
            or child.metadata
            or field.has_dictionary
            or child.has_dictionary
        ):
            name = field.name.decode()
            raise LayoutError(
                "schema", f"the column {name} is not the fixed_shape_tensor of a release"
            )


def _check_batch(batch: BatchLayout) -> None:
    """Check that a batch of two columns without nulls has four arrays and six buffers, two
    empty."""
    sizes = [size for _, size in batch.buffers]
    if any(nulls for _, nulls in batch.nodes):
        raise LayoutError("nulls", "rows or pixels without a value")
    if batch.rows < 1 or len(batch.nodes) != 4 or len(sizes) != 6:
        raise LayoutError("layout", "a record batch that is empty or has another structure")
    if sizes[0] or sizes[1] or sizes[3] or sizes[4]:
        raise LayoutError("layout", "a record batch with more buffers than its pixels need")
    images, image_values, labels, label_values = (length for length, _ in batch.nodes)
    if images != batch.rows or labels != batch.rows or sizes[5] != label_values:
        raise LayoutError("layout", "columns of different lengths in a record batch")
    if sizes[2] not in (image_values, 2 * image_values):
        raise LayoutError("layout", "an image column that is longer than its pixels")


def read_pixels(file: memoryview, rows: int) -> tuple[Pixels, npt.NDArray[np.uint8]]:
    """Let Arrow read a file that `declared` accepted, and copy the pixels out of it.

    Returns:
        images (NCHW, uint8 or uint16) and labels (NHW, uint8).

    Raises:
        LayoutError: `schema`, `shape`, or `arrow` for whatever Arrow itself finds wrong.
    """
    try:
        with pa.ipc.open_file(pa.py_buffer(file)) as reader:
            return _copy_batches(reader, rows, file.nbytes)
    except (LayoutError, MemoryError):  # Arrow's own MemoryError is an ArrowException, too
        raise
    except (pa.ArrowException, ValueError, TypeError, KeyError, OverflowError, OSError) as error:
        raise LayoutError("arrow", f"Arrow cannot read it ({str(error)[:80]!a})") from error


def _copy_batches(reader: Any, rows: int, size: int) -> tuple[Pixels, npt.NDArray[np.uint8]]:
    image, label = reader.schema.field("image").type, reader.schema.field("label").type
    if label != pa.fixed_shape_tensor(pa.uint8(), list(label.shape)) or image not in (
        pa.fixed_shape_tensor(value, list(image.shape)) for value in (pa.uint8(), pa.uint16())
    ):
        raise LayoutError("schema", "pixels of another type or in another order")
    images_shape, labels_shape = (rows, *image.shape), (rows, *label.shape)
    dtype = np.dtype(image.value_type.to_pandas_dtype())
    # Nothing is allocated for a shape that the file's own bytes could not fill.
    pixels = [math.prod(shape) for shape in (images_shape, labels_shape)]
    if min(pixels) < 1 or pixels[0] * dtype.itemsize + pixels[1] > size:
        raise LayoutError("shape", "the file does not have the pixels that it declares")
    images_NCHW, labels_NHW = np.empty(images_shape, dtype), np.empty(labels_shape, np.uint8)
    row = 0
    for index in range(reader.num_record_batches):
        batch = reader.get_batch(index)
        batch.validate(full=True)
        target = slice(row, row + batch.num_rows)
        images_NCHW[target] = batch.column("image").to_numpy_ndarray()
        labels_NHW[target] = batch.column("label").to_numpy_ndarray()
        row = target.stop
    return images_NCHW, labels_NHW
