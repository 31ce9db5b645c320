"""A release that other tools open as what it is: images with masks, and a description of both."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hyfree_ray.border.opening import open_release
from hyfree_ray.border.release import write_release
from hyfree_ray.border.release_parquet import export_parquet
from tests.release_files import METADATA, pixels, write

COLUMNS = ["image_0", "image_1", "label"]


def exported(folder: Path, dtype: type = np.uint8) -> Path:
    write(folder / "in", dtype=dtype)
    out = folder / "out"
    out.mkdir()
    export_parquet(open_release(folder / "in"), out)
    return out


def decoded(cell: dict[str, Any]) -> np.ndarray:
    with Image.open(io.BytesIO(cell["bytes"])) as picture:
        assert picture.text["SyntheticData"] == "YES"
        return np.asarray(picture)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_cell_is_a_picture_of_the_stored_pixels(tmp_path: Path, dtype: type) -> None:
    table = pq.read_table(exported(tmp_path, dtype) / "release.parquet")
    assert table.column_names == COLUMNS
    images_NCHW, labels_NHW = pixels(dtype=dtype)
    for row, cells in enumerate(table.to_pylist()):
        for channel in range(2):
            found = decoded(cells[f"image_{channel}"])
            assert found.dtype == dtype
            np.testing.assert_array_equal(found, images_NCHW[row, channel])
        np.testing.assert_array_equal(decoded(cells["label"]), labels_NHW[row])
    assert len({cells["label"]["path"] for cells in table.to_pylist()}) == 5


def test_labels_are_seen_in_colours(tmp_path: Path) -> None:
    cell = pq.read_table(exported(tmp_path) / "release.parquet")["label"][0].as_py()
    with Image.open(io.BytesIO(cell["bytes"])) as picture:
        shown = np.asarray(picture.convert("RGB"))
    values = pixels()[1][0]
    colours = {tuple(shown[values == value].reshape(-1, 3)[0]) for value in np.unique(values)}
    assert len(colours) == len(np.unique(values))
    assert max(max(colour) for colour in colours) > 200  # not 2 of 255, which is black


def test_the_schema_says_that_columns_are_images_and_carries_the_metadata(tmp_path: Path) -> None:
    schema = pq.read_schema(exported(tmp_path) / "release.parquet")
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert features == {name: {"_type": "Image"} for name in COLUMNS}
    for name in COLUMNS:
        assert [field.name for field in schema.field(name).type] == ["bytes", "path"]
    assert json.loads(schema.metadata[b"hyfree"])["spacing"] == [0.8, 1.25]


def test_one_channel_is_called_image(tmp_path: Path) -> None:
    images_NCHW, labels_NHW = pixels()
    one = dataclasses.replace(METADATA, channel_names=("T1",), scale=(1.0,), offset=(0.0,))
    write_release(
        tmp_path / "in", one, images_NCHW[:, :1], labels_NHW, experiment="e" * 64, nonce="n"
    )
    (tmp_path / "out").mkdir()
    export_parquet(open_release(tmp_path / "in"), tmp_path / "out")
    assert pq.read_schema(tmp_path / "out" / "release.parquet").names == ["image", "label"]
    described = json.loads((tmp_path / "out" / "croissant.json").read_text())
    assert len(described["recordSet"][0]["field"]) == 2


def test_croissant_describes_the_file_that_lies_beside_it(tmp_path: Path) -> None:
    out = exported(tmp_path)
    described = json.loads((out / "croissant.json").read_text())
    assert (described["@type"], described["@context"]["@vocab"]) == (
        "sc:Dataset",
        "https://schema.org/",
    )
    assert described["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    (file,) = described["distribution"]
    parquet = (out / file["contentUrl"]).read_bytes()
    assert file["sha256"] == hashlib.sha256(parquet).hexdigest()
    assert file["contentSize"] == f"{len(parquet)} B"
    fields = described["recordSet"][0]["field"]
    assert [field["source"]["extract"]["column"] for field in fields] == COLUMNS
    assert {field["source"]["fileObject"]["@id"] for field in fields} == {file["@id"]}
    assert [field["description"] for field in fields[:2]] == ["T1", "T2"]
    assert "2 lesion" in fields[2]["description"]
    assert "Not a declaration of anonymity" in described["description"]


def test_hugging_face_shows_images(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="Hugging Face datasets is not installed")
    rows = datasets.load_dataset(
        "parquet",
        data_files=str(exported(tmp_path) / "release.parquet"),
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )
    assert all(isinstance(rows.features[name], datasets.Image) for name in COLUMNS)
    images_NCHW, labels_NHW = pixels()
    np.testing.assert_array_equal(np.asarray(rows[3]["image_1"]), images_NCHW[3, 1])
    np.testing.assert_array_equal(np.asarray(rows[3]["label"]), labels_NHW[3])


def test_croissant_validates_and_reads_the_pixels(tmp_path: Path) -> None:
    croissant = pytest.importorskip("mlcroissant", reason="mlcroissant is not installed")
    described = croissant.Dataset(jsonld=str(exported(tmp_path) / "croissant.json"))
    assert not described.metadata.ctx.issues.errors
    rows = list(described.records("records"))
    assert len(rows) == 5
    np.testing.assert_array_equal(np.asarray(rows[2]["records/label"]), pixels()[1][2])
