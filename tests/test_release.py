"""Legend: N rows, C channels, H height, W width."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from hyfree_ray import release as module
from hyfree_ray import release_arrow
from hyfree_ray.errors import ReleaseError
from hyfree_ray.release import (
    RELEASE_VERSION,
    Limits,
    Manifest,
    Release,
    ReleaseMetadata,
    read_release,
    repeated_rows,
    write_release,
)

SITE, EXPERIMENT, ROUND = "site-1", "e" * 64, 3
METADATA = ReleaseMetadata(
    site=SITE,
    channel_names=("T1", "T2"),
    label_names={"background": 0, "organ": 1, "lesion": 2},
    spacing=(0.8, 1.25),
    slice_axis=0,
    scale=(0.5, 2.0),
    offset=(-100.0, 0.0),
    card={"note": "not a declaration of anonymity", "rejected": 0.02},
)


def pixels(rows: int = 5, dtype: type = np.uint8, seed: int = 0) -> tuple[Any, Any]:
    """Non-square images of two channels, and labels 0 to 2."""
    random = np.random.default_rng(seed)
    images_NCHW = random.integers(0, np.iinfo(dtype).max, (rows, 2, 6, 4), dtype, endpoint=True)
    return images_NCHW, random.integers(0, 3, (rows, 6, 4), np.uint8)


def write(folder: Path, rows: int = 5, dtype: type = np.uint8) -> Manifest:
    images_NCHW, labels_NHW = pixels(rows, dtype)
    return write_release(
        folder,
        METADATA,
        images_NCHW,
        labels_NHW,
        experiment=EXPERIMENT,
        round_number=ROUND,
        nonce="n1",
    )


def read(folder: Path, **changes: Any) -> Release:
    known: dict[str, Any] = {"site": SITE, "experiment": EXPERIMENT, "round_number": ROUND}
    return read_release(folder, **known | changes)


def refused(folder: Path, **changes: Any) -> str:
    with pytest.raises(ReleaseError) as caught:
        read(folder, **changes)
    assert caught.value.site == changes.get("site", SITE)
    assert "\n" not in str(caught.value)
    return caught.value.rule


def put(folder: Path, file: bytes, **changes: Any) -> Path:
    """Hand in these bytes with a manifest that describes them truly."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "release.arrow").write_bytes(file)
    manifest = {
        "version": RELEASE_VERSION,
        "site": SITE,
        "experiment": EXPERIMENT,
        "round": ROUND,
        "nonce": "n1",
        "rows": 5,
        "sha256": hashlib.sha256(file).hexdigest(),
        "bytes": len(file),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest | changes))
    return folder


def tensor(pixels: Any) -> Any:
    return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(pixels))


def arrow(
    columns: dict[str, Any] | None = None,
    metadata: dict[Any, Any] | None = None,
    options: Any = None,
    nullable: bool = False,
) -> bytes:
    """An Arrow IPC file like ours but for what is changed."""
    if columns is None:
        images_NCHW, labels_NHW = pixels()
        kind = pa.fixed_shape_tensor(pa.uint8(), [2, 6, 4])
        label = pa.fixed_shape_tensor(pa.uint8(), [6, 4])
        columns = {
            "image": pa.ExtensionArray.from_storage(kind, tensor(images_NCHW).storage),
            "label": pa.ExtensionArray.from_storage(label, tensor(labels_NHW).storage),
        }
    if metadata is None:
        metadata = {b"hyfree": METADATA.to_json().encode()}
    schema = pa.schema(
        [pa.field(name, column.type, nullable) for name, column in columns.items()], metadata
    )
    stream = io.BytesIO()
    with pa.ipc.new_file(stream, schema, options=options) as writer:
        writer.write_batch(pa.record_batch(list(columns.values()), schema=schema))
    return stream.getvalue()


def ours() -> dict[str, Any]:
    images_NCHW, labels_NHW = pixels()
    return {
        "image": pa.ExtensionArray.from_storage(
            pa.fixed_shape_tensor(pa.uint8(), [2, 6, 4]), tensor(images_NCHW).storage
        ),
        "label": pa.ExtensionArray.from_storage(
            pa.fixed_shape_tensor(pa.uint8(), [6, 4]), tensor(labels_NHW).storage
        ),
    }


def described(**changes: Any) -> bytes:
    """A file whose metadata differs."""
    values = json.loads(METADATA.to_json()) | changes
    return arrow(metadata={b"hyfree": json.dumps(values).encode()})


# ---- what an honest site writes ----


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_what_was_written_is_read(tmp_path: Path, dtype: type) -> None:
    manifest = write(tmp_path, rows=600, dtype=dtype)
    release = read(tmp_path)
    images_NCHW, labels_NHW = pixels(600, dtype)
    np.testing.assert_array_equal(release.images_NCHW, images_NCHW)
    np.testing.assert_array_equal(release.labels_NHW, labels_NHW)
    assert release.images_NCHW.dtype == dtype
    assert release.metadata == METADATA
    assert release.manifest == manifest
    assert (manifest.rows, manifest.nonce, manifest.round) == (600, "n1", ROUND)


def test_manifest_and_metadata_survive_json() -> None:
    manifest = Manifest(
        site="Łódź", experiment="e", round=0, nonce="n", rows=1, sha256="0" * 64, bytes=1
    )
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert ReleaseMetadata.from_json(METADATA.to_json()) == METADATA


def test_physical_values_are_stored_times_scale_plus_offset_per_channel(tmp_path: Path) -> None:
    write(tmp_path)
    release = read(tmp_path)
    physical = release.physical(slice(1, 3))
    assert physical.shape == (2, 2, 6, 4)
    assert physical.dtype == np.float32
    np.testing.assert_allclose(physical[:, 0], release.images_NCHW[1:3, 0] * 0.5 - 100)
    np.testing.assert_allclose(physical[:, 1], release.images_NCHW[1:3, 1] * 2.0)


def test_the_file_is_equal_byte_for_byte_when_written_again(tmp_path: Path) -> None:
    assert write(tmp_path / "a") == write(tmp_path / "b")


def test_the_file_can_be_memory_mapped_and_has_bounded_batches(tmp_path: Path) -> None:
    write(tmp_path, rows=600)
    before = pa.total_allocated_bytes()
    with pa.memory_map(str(tmp_path / "release.arrow")) as file, pa.ipc.open_file(file) as reader:
        batches = [reader.get_batch(k) for k in range(reader.num_record_batches)]
        assert [batch.num_rows for batch in batches] == [256, 256, 88]
        assert pa.total_allocated_bytes() - before < 64 << 10


def test_rows_that_were_left_out_do_not_travel(tmp_path: Path) -> None:
    images_NCHW, labels_NHW = pixels(20)
    kept = slice(3, 9)
    # As a filter would leave them: views of Arrow's memory, which holds the dropped rows too.
    parent = tensor(images_NCHW)
    write_release(
        tmp_path,
        METADATA,
        parent[kept].to_numpy_ndarray(),
        labels_NHW[kept],
        experiment=EXPERIMENT,
        round_number=ROUND,
        nonce="n",
    )
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    for row in range(20):
        inside = kept.start <= row < kept.stop
        assert (images_NCHW[row].tobytes() in written) == inside
        assert (images_NCHW[row, 0, 2:5].tobytes() in written) == inside


def test_nothing_is_left_when_writing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_site_learns_before_writing_what_the_pool_would_refuse(tmp_path: Path) -> None:
    images_NCHW, labels_NHW = pixels()
    known: dict[str, Any] = {"experiment": EXPERIMENT, "round_number": ROUND, "nonce": "n"}
    with pytest.raises(ReleaseError, match="labels"):
        write_release(tmp_path, METADATA, images_NCHW, labels_NHW + np.uint8(7), **known)
    with pytest.raises(ReleaseError, match="duplicates"):
        write_release(tmp_path, METADATA, images_NCHW[[0, 1, 0]], labels_NHW[:3], **known)
    with pytest.raises(ReleaseError, match="shape"):
        write_release(tmp_path, METADATA, images_NCHW.swapaxes(2, 3), labels_NHW, **known)
    broken = dataclasses.replace(METADATA, scale=(1.0, float("nan")))
    with pytest.raises(ReleaseError, match="metadata"):
        write_release(tmp_path, broken, images_NCHW, labels_NHW, **known)
    assert list(tmp_path.iterdir()) == []


def test_repeated_rows_are_all_but_the_first() -> None:
    images_NCHW, _ = pixels(4)
    assert repeated_rows(images_NCHW[[0, 1, 0, 2, 1]]).tolist() == [False, False, True, False, True]


# ---- what the pool refuses ----


def test_a_file_like_ours_from_another_writer_is_read(tmp_path: Path) -> None:
    release = read(put(tmp_path, arrow()))
    np.testing.assert_array_equal(release.images_NCHW, pixels()[0])


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"site": "site-2"}, "site"),
        ({"experiment": "f" * 64}, "experiment"),
        ({"round": 2}, "round"),
        ({"rows": 4}, "rows"),
        ({"rows": 0}, "rows"),
        ({"rows": 10**9}, "rows"),
        ({"bytes": 1}, "bytes"),
        ({"sha256": "0" * 64}, "sha256"),
        ({"sha256": "x"}, "manifest"),
        ({"version": RELEASE_VERSION - 1}, "manifest"),
        ({"version": True}, "manifest"),
        ({"round": 3.0}, "manifest"),
        ({"nonce": ""}, "manifest"),
        ({"nonce": "a\nb"}, "manifest"),
        ({"extra": 1}, "manifest"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(
    tmp_path: Path, changes: dict[str, Any], rule: str
) -> None:
    assert refused(put(tmp_path, arrow(), **changes)) == rule


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"version": 1, "version": 1}',
        "[" * 30000,
        "\xff",
        "9" * 20000,
        '{"version": NaN}',
    ],
    ids=["empty", "list", "bare", "twice", "deep", "no-utf-8", "long-number", "nan"],
)
def test_a_manifest_that_is_no_manifest_is_refused(tmp_path: Path, text: str) -> None:
    write(tmp_path)
    (tmp_path / "manifest.json").write_bytes(text.encode("latin-1"))
    assert refused(tmp_path) == "manifest"


def test_missing_files_are_refused(tmp_path: Path) -> None:
    assert refused(tmp_path / "nowhere") == "missing"
    write(tmp_path)
    (tmp_path / "release.arrow").unlink()
    assert refused(tmp_path) == "missing"


def test_files_over_the_limits_are_refused(tmp_path: Path) -> None:
    write(tmp_path)
    assert refused(tmp_path, limits=Limits(file_bytes=100)) == "too-large"
    assert refused(tmp_path, limits=Limits(manifest_bytes=10)) == "too-large"
    assert refused(tmp_path, limits=Limits(rows=4)) == "rows"
    assert refused(tmp_path, limits=Limits(side=5)) == "shape"
    assert refused(tmp_path, limits=Limits(channels=1)) == "shape"
    assert refused(tmp_path, limits=Limits(highest_label=1)) == "labels"
    assert refused(tmp_path, limits=Limits(metadata_bytes=300)) in ("metadata", "layout")


@pytest.mark.parametrize("name", ["release.arrow", "manifest.json"])
@pytest.mark.parametrize("kind", ["symlink", "fifo", "folder", "device"])
def test_links_pipes_and_devices_are_refused_without_waiting(
    tmp_path: Path, name: str, kind: str
) -> None:
    write(tmp_path)
    path = tmp_path / name
    path.rename(tmp_path / "elsewhere")
    if kind == "symlink":
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    assert refused(tmp_path) == "not-a-file"


def test_content_that_was_swapped_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a")
    other = tmp_path / "b"
    images_NCHW, labels_NHW = pixels(seed=1)
    write_release(
        other,
        METADATA,
        images_NCHW,
        labels_NHW,
        experiment=EXPERIMENT,
        round_number=ROUND,
        nonce="n2",
    )
    (other / "release.arrow").replace(tmp_path / "a" / "release.arrow")
    assert refused(tmp_path / "a") == "sha256"


def test_a_file_swapped_after_it_was_hashed_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path)
    path = tmp_path / "release.arrow"
    whole = path.read_bytes()
    check = release_arrow.declared

    def swap_first(file: memoryview, **limits: int) -> Any:
        path.write_bytes(bytes(len(whole)))
        return check(file, **limits)

    monkeypatch.setattr(module, "declared", swap_first)
    np.testing.assert_array_equal(read(tmp_path).images_NCHW, pixels()[0])


@pytest.mark.parametrize("kind", ["empty", "byte", "magic", "text"])
def test_files_that_are_not_arrow_are_refused(tmp_path: Path, kind: str) -> None:
    file = {"empty": b"", "byte": b"A", "magic": b"ARROW1\0\0", "text": b"patient,case\n" * 40}
    assert refused(put(tmp_path, file[kind])) == "magic"


def test_truncations_at_every_64_bytes_are_refused(tmp_path: Path) -> None:
    file = arrow()
    for length in range(0, len(file), 64):
        assert refused(put(tmp_path, file[:length])) == "magic"
        # And with an honest end, so that the footer is not where it should be.
        assert refused(put(tmp_path, file[:length] + file[-10:])) in ("layout", "schema", "magic")


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
    file = arrow()
    outcomes = {"refused": 0, "read": 0}
    for changed in flips(file, 600, seed=7):
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
    assert refused(put(tmp_path, arrow(changed_columns()[fault]()))) in ("schema", "layout")


def test_columns_that_may_be_null_are_refused(tmp_path: Path) -> None:
    assert refused(put(tmp_path, arrow(nullable=True))) == "schema"


@pytest.mark.parametrize("where", ["rows", "pixels"])
def test_nulls_are_refused(tmp_path: Path, where: str) -> None:
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


def test_a_million_columns_and_megabytes_of_metadata_are_refused(tmp_path: Path) -> None:
    many = pa.schema([pa.field(f"c{k}", pa.uint8()) for k in range(5000)])
    stream = io.BytesIO()
    with pa.ipc.new_file(stream, many):
        pass
    assert refused(put(tmp_path, stream.getvalue())) in ("layout", "schema")
    assert refused(put(tmp_path, described(card={"note": "x" * (3 << 20)}))) == "layout"
    assert refused(put(tmp_path, described(card={"note": "x" * (256 << 10)}))) == "metadata"


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
    assert refused(put(tmp_path, described(**changes))) == "metadata"


def test_metadata_under_another_key_is_refused(tmp_path: Path) -> None:
    text = METADATA.to_json().encode()
    assert refused(put(tmp_path, arrow(metadata={b"hyfree": text, b"pandas": b"{}"}))) == "schema"
    assert refused(put(tmp_path, arrow(metadata={}))) == "schema"


def test_a_site_cannot_speak_for_another(tmp_path: Path) -> None:
    assert refused(put(tmp_path, described(site="site-2"))) == "site"


def test_images_of_another_task_are_refused(tmp_path: Path) -> None:
    one = {"channel_names": ["T1"], "scale": [1.0], "offset": [0.0]}
    assert refused(put(tmp_path, described(**one))) == "shape"
    binary = {"label_names": {"background": 0, "organ": 1}}
    assert refused(put(tmp_path, described(**binary))) == "labels"


def test_labels_of_another_size_than_the_images_are_refused(tmp_path: Path) -> None:
    columns = {"image": tensor(pixels()[0]), "label": tensor(pixels()[1].reshape(5, 4, 6))}
    assert refused(put(tmp_path, arrow(columns))) == "shape"


def test_copies_among_the_images_are_refused(tmp_path: Path) -> None:
    images_NCHW, labels_NHW = pixels()
    rows = [0, 1, 2, 3, 1]
    columns = {"image": tensor(images_NCHW[rows]), "label": tensor(labels_NHW)}
    assert refused(put(tmp_path, arrow(columns))) == "duplicates"


def test_an_empty_release_is_refused_and_one_row_is_read(tmp_path: Path) -> None:
    columns = {name: column[:0] for name, column in ours().items()}
    assert refused(put(tmp_path, arrow(columns), rows=1)) == "layout"
    write(tmp_path / "one", rows=1)
    assert len(read(tmp_path / "one").images_NCHW) == 1


def test_bytes_beside_the_rows_are_refused(tmp_path: Path) -> None:
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
