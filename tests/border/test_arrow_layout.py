from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from hyfree_ray.border.arrow_layout import FIXED_SIZE_LIST, LayoutError, read_layout


def written(schema: pa.Schema, *batches: pa.RecordBatch, **options: Any) -> memoryview:
    stream = io.BytesIO()
    with pa.ipc.new_file(stream, schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return memoryview(stream.getvalue())


def batch(rows: int = 3) -> pa.RecordBatch:
    pixels = pa.array(np.arange(rows * 6, dtype=np.uint16))
    return pa.record_batch({"image": pa.FixedSizeListArray.from_arrays(pixels, 6)})


def read(file: memoryview, **changes: int) -> Any:
    return read_layout(
        file, **{"footer_bytes": 1 << 16, "message_bytes": 4096, "batches": 9} | changes
    )


def test_what_arrow_wrote_is_found_without_arrow() -> None:
    schema = batch().schema.with_metadata({b"k": b"v"})
    found = read(written(schema, batch(3), batch(2)))
    (field,) = found.fields
    assert (field.name, field.type_code, field.nullable) == (b"image", FIXED_SIZE_LIST, True)
    assert found.metadata == {b"k": b"v"}
    assert [batch.rows for batch in found.batches] == [3, 2]
    assert found.batches[0].nodes == ((3, 0), (18, 0))
    assert [size for _, size in found.batches[1].buffers] == [0, 0, 24]


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"footer_bytes": 64}, "layout"),
        ({"message_bytes": 32}, "layout"),
        ({"batches": 1}, "layout"),
    ],
)
def test_nothing_over_the_limits_is_read(changes: dict[str, int], rule: str) -> None:
    with pytest.raises(LayoutError) as caught:
        read(written(batch().schema, batch(), batch()), **changes)
    assert caught.value.rule == rule


def test_compression_dictionaries_and_nesting_are_named() -> None:
    with pytest.raises(LayoutError, match="compressed"):
        read(written(batch().schema, batch(), compression="zstd"))
    encoded = pa.record_batch({"label": pa.array(["a", "b"]).dictionary_encode()})
    with pytest.raises(LayoutError, match=r"list of 1 entries; at most 0|dictionaries"):
        read(written(encoded.schema, encoded), batches=0)
    with pytest.raises(LayoutError, match="dictionaries"):
        read(written(encoded.schema, encoded))
    nested = pa.schema({"a": pa.list_(pa.list_(pa.list_(pa.uint8())))})
    with pytest.raises(LayoutError, match="nested"):
        read(written(nested))
