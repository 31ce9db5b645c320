"""Files that were made to do harm: each is refused by a rule, before it can.

Legend: N rows, C channels, H height, W width.
"""

from __future__ import annotations

import io
import struct
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from hyfree_ray.border.manifest import RELEASE_VERSION
from hyfree_ray.core.errors import ReleaseError
from tests.release_files import (
    METADATA,
    arrow,
    described,
    ours,
    pixels,
    put,
    read,
    refused,
    tensor,
    write,
)


def flips(file: bytes, count: int, seed: int) -> Iterable[bytes]:
    random = np.random.default_rng(seed)
    # The small file's pixels are its smaller part; flips there are seen by no rule but the hash.
    for place, bit in zip(
        random.integers(0, len(file), count), random.integers(0, 8, count), strict=True
    ):
        changed = bytearray(file)
        changed[place] ^= 1 << int(bit)
        yield bytes(changed)


def test_flipped_bits_give_an_error_or_a_whole_valid_release(tmp_path: Path) -> None:
    """Case 40, in this process; thousands are tried in a child."""
    file = arrow()
    outcomes = {"refused": 0, "read": 0}
    for changed in flips(file, 900, seed=7):
        try:
            release = read(put(tmp_path, changed))
        except ReleaseError:
            outcomes["refused"] += 1
        else:
            outcomes["read"] += 1
            assert release.images_NCHW.shape == (5, 2, 6, 4)
            assert release.labels_NHW.shape == (5, 6, 4)
            assert release.labels_NHW.max() <= 2
            assert np.isfinite(release.physical()).all()
    assert min(outcomes.values()) > 50


def test_swapped_words_give_an_error_or_a_whole_valid_release(tmp_path: Path) -> None:
    """Harder on offsets and lengths than a flipped bit: each 32-bit word of the description."""
    file = arrow()
    footer = len(file) - 10 - struct.unpack_from("<i", file, len(file) - 10)[0]
    words = [*range(8, 1200, 12), *range(footer, len(file) - 10, 12)]
    for place in words:
        for value in (0, 0x7FFFFFFF, 0xFFFFFFFF, 0xFFFFFFF0):
            changed = bytearray(file)
            struct.pack_into("<I", changed, place, value)
            try:
                release = read(put(tmp_path, bytes(changed)))
            except ReleaseError:
                continue
            assert release.images_NCHW.shape == (5, 2, 6, 4)


@pytest.mark.parametrize("value", [1 << 40, -1, -(1 << 63), 1 << 63], ids=str)
def test_lengths_and_offsets_beyond_the_file_are_refused_or_harmless(
    tmp_path: Path, value: int
) -> None:
    """Cases 41, 42, 43 and 46: each 64-bit number of the description, made absurd in turn."""
    file = arrow()
    footer = len(file) - 10 - struct.unpack_from("<i", file, len(file) - 10)[0]
    rules = set()
    for place in (*range(8, 1400, 8), *range(footer, len(file) - 18, 8)):
        changed = bytearray(file)
        struct.pack_into("<Q", changed, place, value % (1 << 64))
        try:
            release = read(put(tmp_path, bytes(changed)))
        except ReleaseError as error:
            rules.add(error.rule)
        else:
            assert release.images_NCHW.shape == (5, 2, 6, 4)
    assert "layout" in rules


def test_text_that_is_no_utf_8_is_refused(tmp_path: Path) -> None:
    """Case 43: in the metadata, and in the name of a column."""
    broken = METADATA.to_json().encode().replace(b"lesion", b"les\xff\xfeon")
    assert refused(put(tmp_path, arrow(metadata={b"hyfree": broken}))) == "metadata"
    named = arrow().replace(b"label", b"lab\xffl")
    assert refused(put(tmp_path, named)) == "schema"


def changed_columns() -> dict[str, Callable[[], dict[str, Any]]]:
    """Columns that are not ours, one fault each."""
    images_NCHW, labels_NHW = pixels()
    image, label = ours().values()
    flat = images_NCHW.reshape(5, -1)
    permuted = pa.fixed_shape_tensor(pa.uint8(), [2, 6, 4], permutation=[0, 2, 1])
    named = pa.fixed_shape_tensor(pa.uint8(), [2, 6, 4], dim_names=["C", "H", "W"])
    return {
        "extra": lambda: {"image": image, "label": label, "patient": pa.array(["p"] * 5)},
        "missing": lambda: {"image": image},
        "reordered": lambda: {"label": label, "image": image},
        "renamed": lambda: {"image": image, "mask": label},
        "twice": lambda: {"image": image, "label": pa.array(["a"] * 5)},
        "dictionary": lambda: {
            "image": image,
            "label": pa.array(["a"] * 5).dictionary_encode(),
        },
        "plain-list": lambda: {"image": image.storage, "label": label},
        "nested": lambda: {"image": image, "label": pa.array([[[1]]] * 5)},
        "floats": lambda: {"image": tensor(images_NCHW.astype(np.float32)), "label": label},
        "signed": lambda: {"image": tensor(images_NCHW.astype(np.int16)), "label": label},
        "wide-labels": lambda: {"image": image, "label": tensor(labels_NHW.astype(np.uint16))},
        "permuted": lambda: {
            "image": pa.ExtensionArray.from_storage(permuted, image.storage),
            "label": label,
        },
        "named-axes": lambda: {
            "image": pa.ExtensionArray.from_storage(named, image.storage),
            "label": label,
        },
        "binary": lambda: {
            "image": pa.array([row.tobytes() for row in flat], pa.binary(48)),
            "label": label,
        },
    }


@pytest.mark.parametrize("fault", changed_columns())
def test_columns_that_are_not_ours_are_refused(tmp_path: Path, fault: str) -> None:
    """Cases 45 and 49: extra, missing, reordered, of other types, dictionaries, nested."""
    assert refused(put(tmp_path, arrow(changed_columns()[fault]()))) in ("schema", "layout")


def test_columns_that_may_be_null_are_refused(tmp_path: Path) -> None:
    """Case 50."""
    assert refused(put(tmp_path, arrow(nullable=True))) == "schema"


@pytest.mark.parametrize("where", ["rows", "pixels"])
def test_nulls_are_refused(tmp_path: Path, where: str) -> None:
    """Cases 50 and 92: a null's slot could hold anything."""
    columns = ours()
    kind = columns["label"].type
    labels = columns["label"].storage.to_pylist()
    if where == "rows":
        labels[2] = None
    else:
        labels[2][5] = None
    storage = pa.array(labels, kind.storage_type)
    columns["label"] = pa.ExtensionArray.from_storage(kind, storage)
    file = arrow(columns, nullable=True)
    rule = refused(put(tmp_path, file))
    assert rule == "schema"
    # The same with a schema that denies it: the flag is one byte in the schema and in the footer.
    assert refused(put(tmp_path, deny_nulls(columns))) in ("nulls", "layout")


def deny_nulls(columns: dict[str, Any]) -> bytes:
    """A file whose schema says that no column has nulls and whose batches have them."""
    schema = pa.schema(
        [pa.field(name, column.type, nullable=False) for name, column in columns.items()],
        {b"hyfree": METADATA.to_json().encode()},
    )
    stream = io.BytesIO()
    with pa.ipc.new_file(stream, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(list(columns.values()), schema=schema))
    return stream.getvalue()


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_compressed_files_are_refused_before_they_are_inflated(tmp_path: Path, codec: str) -> None:
    """Case 47: bombs included, for no length is taken on trust."""
    images_NCHW = np.zeros((5, 2, 600, 400), np.uint8)
    columns = {"image": tensor(images_NCHW), "label": tensor(images_NCHW[:, 0])}
    file = arrow(columns, options=pa.ipc.IpcWriteOptions(compression=codec))
    before = pa.total_allocated_bytes()
    assert refused(put(tmp_path, file)) == "compressed"
    assert pa.total_allocated_bytes() - before < 1 << 20


def test_big_endian_files_are_refused(tmp_path: Path) -> None:
    assert refused(put(tmp_path, big_endian(arrow()))) == "endianness"


def big_endian(file: bytes) -> bytes:
    """Point the footer schema's `endianness` at a 16-bit number that is 1."""
    changed = bytearray(file)
    size = struct.unpack_from("<i", file, len(file) - 10)[0]
    start = len(file) - 10 - size
    root = start + struct.unpack_from("<I", file, start)[0]
    vtable = root - struct.unpack_from("<i", file, root)[0]
    slot = root + struct.unpack_from("<H", file, vtable + 4 + 2)[0]
    schema = slot + struct.unpack_from("<I", file, slot)[0]
    vtable = schema - struct.unpack_from("<i", file, schema)[0]
    for offset in range(4, 60, 2):
        if struct.unpack_from("<H", file, schema + offset)[0] == 1:
            struct.pack_into("<H", changed, vtable + 4, offset)
            return bytes(changed)
    raise AssertionError("no place to point at")


class _Armed(pa.ExtensionType):  # type: ignore[misc]
    """Stands for a library of the same process whose extension type unpickles on sight."""

    fired = False

    def __init__(self) -> None:
        super().__init__(pa.uint8(), "test.armed")

    def __arrow_ext_serialize__(self) -> bytes:
        return b"payload"

    @classmethod
    def __arrow_ext_deserialize__(cls, _storage: Any, _serialized: bytes) -> _Armed:
        cls.fired = True
        return cls()


def test_code_registered_for_an_extension_type_never_runs(tmp_path: Path) -> None:
    """Case 44."""
    pa.register_extension_type(_Armed())
    try:
        armed = pa.ExtensionArray.from_storage(_Armed(), pa.array([1] * 5, pa.uint8()))
        file = arrow({"image": ours()["image"], "label": armed})
        _Armed.fired = False
        assert refused(put(tmp_path, file)) == "schema"
        assert not _Armed.fired
        with pa.ipc.open_file(file):
            assert _Armed.fired  # without our check first, opening is enough
    finally:
        pa.unregister_extension_type("test.armed")


def test_a_pickle_in_an_extension_type_never_runs(tmp_path: Path) -> None:
    """Case 44: CVE-2023-47248."""
    mark = tmp_path / "ran"
    payload = b"cposix\nsystem\n(Vtouch " + str(mark).encode() + b"\ntR."
    columns = ours()
    schema = pa.schema(
        [
            pa.field("image", columns["image"].type, nullable=False),
            pa.field(
                "label",
                columns["label"].type.storage_type,
                nullable=False,
                metadata={
                    b"ARROW:extension:name": b"arrow.py_extension_type",
                    b"ARROW:extension:metadata": payload,
                },
            ),
        ],
        {b"hyfree": METADATA.to_json().encode()},
    )
    stream = io.BytesIO()
    with pa.ipc.new_file(stream, schema) as writer:
        batch = pa.RecordBatch.from_arrays(
            [columns["image"], columns["label"].storage], schema=schema
        )
        writer.write_batch(batch)
    assert refused(put(tmp_path / "in", stream.getvalue())) == "schema"
    assert not mark.exists()


def test_a_million_columns_are_refused_before_they_are_looked_at(tmp_path: Path) -> None:
    """Case 48."""
    many = pa.schema([pa.field(f"c{k}", pa.uint8()) for k in range(1_000_000)])
    stream = io.BytesIO()
    with pa.ipc.new_file(stream, many):
        pass
    put(tmp_path, stream.getvalue())
    before, begun = pa.total_allocated_bytes(), time.monotonic()
    assert refused(tmp_path) == "layout"
    assert time.monotonic() - begun < 10
    assert pa.total_allocated_bytes() - before < 1 << 20
    few = pa.schema([pa.field(f"c{k}", pa.uint8()) for k in range(20)])
    stream = io.BytesIO()
    with pa.ipc.new_file(stream, few):
        pass
    assert refused(put(tmp_path, stream.getvalue())) in ("layout", "schema")


def test_megabytes_of_metadata_are_refused(tmp_path: Path) -> None:
    """Case 48: 50 MB."""
    for size, rule in ((50 << 20, "layout"), (3 << 20, "layout"), (256 << 10, "metadata")):
        assert refused(put(tmp_path, described(card={"note": "x" * size}))) == rule, size


@pytest.mark.parametrize(
    "changes",
    [
        {"spacing": [0.0, 1.0]},
        {"spacing": [1.0]},
        {"spacing": [1.0, 1e999]},
        {"scale": [1.0, -1.0]},
        {"scale": [1.0]},
        {"scale": [1.0, "1"]},
        {"offset": [float("nan"), 0.0]},
        {"offset": [True, 0.0]},
        {"offset": [10**400, 0.0]},
        {"channel_names": []},
        {"channel_names": ["a", "b\n"]},
        {"channel_names": "ab"},
        {"label_names": {"organ": 1, "lesion": 2}},
        {"label_names": {"background": 0, "organ": 2, "lesion": 3}},
        {"label_names": {"background": 0, "organ": 1.0}},
        {"slice_axis": 3},
        {"version": RELEASE_VERSION + 1},
        {"regions": {}},
        {"regions": [["organ", [1]]]},
        {"regions": [["organ", [1]], ["lesion", [3]]]},
        {"regions": [["organ", [1, 2]], ["lesion", []]]},
        {"regions": [["organ", [1, 2]], ["lesion", 2]]},
        {"regions": [["organ", [1, 2]], ["lesion", [2], 2]]},
        {"card": []},
        {"card": {"a": {"b": {"c": {"d": {"e": {"f": {"g": {}}}}}}}}},
        {"card": {"a": [float("inf")]}},
        {"patients": ["p-17"]},
    ],
    ids=str,
)
def test_metadata_that_is_not_ours_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Case 63: NaN and infinite scales among them."""
    assert refused(put(tmp_path, described(**changes))) == "metadata"


def test_metadata_under_another_key_is_refused(tmp_path: Path) -> None:
    text = METADATA.to_json().encode()
    assert refused(put(tmp_path, arrow(metadata={b"hyfree": text, b"pandas": b"{}"}))) == "schema"
    assert refused(put(tmp_path, arrow(metadata={}))) == "schema"


def test_a_site_cannot_speak_for_another(tmp_path: Path) -> None:
    assert refused(put(tmp_path, described(site="site-2"))) == "site"


def test_images_of_another_task_are_refused(tmp_path: Path) -> None:
    """Cases 61 and 62."""
    one = {"channel_names": ["T1"], "scale": [1.0], "offset": [0.0]}
    assert refused(put(tmp_path, described(**one))) == "shape"
    binary = {"label_names": {"background": 0, "organ": 1}}
    assert refused(put(tmp_path, described(**binary))) == "labels"


def test_labels_of_another_size_than_the_images_are_refused(tmp_path: Path) -> None:
    """Case 62."""
    columns = {"image": tensor(pixels()[0]), "label": tensor(pixels()[1].reshape(5, 4, 6))}
    assert refused(put(tmp_path, arrow(columns))) == "shape"


def test_copies_among_the_images_are_refused(tmp_path: Path) -> None:
    """Case 51: duplicate rows."""
    images_NCHW, labels_NHW = pixels()
    rows = [0, 1, 2, 3, 1]
    columns = {"image": tensor(images_NCHW[rows]), "label": tensor(labels_NHW)}
    assert refused(put(tmp_path, arrow(columns))) == "duplicates"


@pytest.mark.parametrize("rows", [0, 1, 4])
def test_a_release_of_too_few_rows_is_refused_whatever_its_manifest_says(
    tmp_path: Path, rows: int
) -> None:
    """Case 51: of fewer than five the pool could not validate on a fifth."""
    columns = {name: column[:rows] for name, column in ours().items()}
    assert refused(put(tmp_path / "lying", arrow(columns), rows=5)) in ("layout", "rows")
    assert refused(put(tmp_path / "true", arrow(columns), rows=rows)) == "rows"
    write(tmp_path / "enough", rows=5)
    assert len(read(tmp_path / "enough").images_NCHW) == 5


@pytest.mark.parametrize(
    "changes",
    [
        {"spacing": [1e6, 1e6]},
        {"spacing": [0.8, 1e-6]},
        {"spacing": [0.8, 1e6]},
        {"scale": [1e300, 1.0]},
        {"scale": [1e30, 1.0]},
        {"scale": [0.5, 1e-300]},
        {"scale": [1e5, 1.0]},
        {"offset": [1e308, 0.0]},
        {"offset": [0.0, -1e7]},
        {"offset": [9e6, 0.0], "scale": [1e-4, 1.0]},
    ],
    ids=str,
)
def test_spacings_and_values_that_would_wreck_a_training_are_refused(
    tmp_path: Path, changes: dict[str, list[float]]
) -> None:
    """Case 63: what is finite in 64 bits is not always in 32, and a kilometre is no pixel."""
    assert refused(put(tmp_path, described(**changes))) == "values"


@pytest.mark.parametrize(
    "changes",
    [
        {"spacing": [0.00025, 0.00025]},
        {"spacing": [10.0, 1.0]},
        {"scale": [1e-3, 3e4], "offset": [-1e3, -5e6]},
    ],
    ids=str,
)
def test_units_that_hospitals_have_are_taken(
    tmp_path: Path, changes: dict[str, list[float]]
) -> None:
    """Microscopes, thick slices, and counts of a PET scanner."""
    assert np.isfinite(read(put(tmp_path, described(**changes))).physical()).all()


def test_bytes_beside_the_rows_are_refused(tmp_path: Path) -> None:
    """Cases 91 and 92: padding and gaps."""
    file = arrow()
    size = struct.unpack_from("<i", file, len(file) - 10)[0]
    footer = len(file) - 10 - size
    smuggled = file[:footer] + b"real pixels.." * 8 + file[footer:]
    assert refused(put(tmp_path, smuggled)) == "layout"


def test_the_message_says_who_which_rule_and_travels_between_processes(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError) as caught:
        read(tmp_path)
    assert str(caught.value) == "site-1: release refused (missing): there is no manifest.json"
    kind, arguments = caught.value.__reduce__()
    assert str(kind(*arguments)) == str(caught.value)
