"""A release as a table of pictures: Parquet with a description in Croissant beside it.

Hugging Face `datasets` reads a column as images where the schema's metadata says so, under the key
`huggingface`, and each value is a struct of the encoded file (`bytes`) and its name (`path`).
Croissant is the JSON-LD format of MLCommons that describes data sets to programs,
https://docs.mlcommons.org/croissant/docs/croissant-spec-1.0.html.

Shapes: N rows, C channels, H height, W width.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from hyfree_ray.border.marks import MARK, marks_of
from hyfree_ray.border.release import Release
from hyfree_ray.border.release_arrow import METADATA_KEY, ROWS_PER_BATCH

PARQUET_FILE = "release.parquet"
CROISSANT_FILE = "croissant.json"
LABEL = "label"
_RECORDS = "records"
_SPECIFICATION = "http://mlcommons.org/croissant/1.0"
_IMAGE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
_PALETTE = ("000000", "e69f00", "56b4e9", "009e73", "f0e442", "0072b2", "d55e00", "cc79a7")
"""Colours of Okabe and Ito, which colour-blind readers tell apart; they repeat after the eighth."""


def export_parquet(release: Release, out: Path) -> None:
    """Write `release.parquet`, one PNG a channel and one of labels in a row, and `croissant.json`.

    Pixels are the stored values; labels are palette images, whose indices are the labels.
    """
    columns = _columns(release)
    features = {"info": {"features": {name: {"_type": "Image"} for name in columns}}}
    table = pa.table(
        columns,
        metadata={
            b"huggingface": json.dumps(features).encode(),
            METADATA_KEY: release.metadata.to_json().encode(),
            **{name.encode(): value.encode() for name, value in marks_of(release).items()},
        },
    )
    pq.write_table(table, out / PARQUET_FILE, row_group_size=ROWS_PER_BATCH, version="2.6")
    described = _croissant(release, list(columns), (out / PARQUET_FILE).read_bytes())
    (out / CROISSANT_FILE).write_text(json.dumps(described, indent=1))


def image_columns(channels: int) -> list[str]:
    """Return the names of the image columns: `image`, or one with a number for each channel."""
    return ["image"] if channels == 1 else [f"image_{channel}" for channel in range(channels)]


def _columns(release: Release) -> dict[str, pa.Array]:
    marks = marks_of(release)
    names = image_columns(release.images_NCHW.shape[1])
    columns = {
        name: [png(image_HW, marks) for image_HW in release.images_NCHW[:, channel]]
        for channel, name in enumerate(names)
    }
    columns[LABEL] = [png(label_HW, marks, palette=True) for label_HW in release.labels_NHW]
    return {
        name: pa.array(
            [{"bytes": file, "path": f"{row:06d}_{name}.png"} for row, file in enumerate(files)],
            _IMAGE,
        )
        for name, files in columns.items()
    }


def png(pixels_HW: npt.NDArray[Any], marks: Mapping[str, str], *, palette: bool = False) -> bytes:
    """Return a PNG with these pixels, uint8 or uint16, and marks in its text chunks.

    Args:
        palette: whether viewers show each value, at most 255, in a colour of its own.
    """
    chunks = PngInfo()
    for name, value in marks.items():
        chunks.add_text(name, value)  # tEXt, or iTXt where it is not Latin-1
    picture = Image.fromarray(np.ascontiguousarray(pixels_HW))
    if palette:
        picture.putpalette(bytes.fromhex("".join(_PALETTE) * (256 // len(_PALETTE))))
    stream = io.BytesIO()
    picture.save(stream, "PNG", pnginfo=chunks)
    return stream.getvalue()


def _croissant(release: Release, columns: list[str], parquet: bytes) -> dict[str, Any]:
    metadata, marks = release.metadata, marks_of(release)
    labels = ", ".join(f"{value} {name}" for name, value in metadata.label_names.items())
    about = dict(zip(columns, metadata.channel_names, strict=False))
    about[LABEL] = f"Values of its pixels: {labels}."
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "name": f"Synthetic images of {metadata.site}",
        "description": f"{marks['Statement']} {len(release.labels_NHW)} images with masks, "
        f"{metadata.spacing[0]:g} x {metadata.spacing[1]:g} mm a pixel.",
        "conformsTo": _SPECIFICATION,
        "version": f"{release.manifest.round}.0.0",
        "keywords": ["synthetic", *(f"{name}={value}" for name, value in MARK.items())],
        "creator": {"@type": "sc:Organization", "name": metadata.site},
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": PARQUET_FILE,
                "name": PARQUET_FILE,
                "contentUrl": PARQUET_FILE,
                "contentSize": f"{len(parquet)} B",
                "encodingFormat": "application/x-parquet",
                "sha256": hashlib.sha256(parquet).hexdigest(),
            }
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": _RECORDS,
                "name": _RECORDS,
                "field": [_field(column, about[column]) for column in columns],
            }
        ],
    }


def _field(column: str, description: str) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"{_RECORDS}/{column}",
        "name": f"{_RECORDS}/{column}",
        "description": description,
        "dataType": "sc:ImageObject",
        "source": {
            "fileObject": {"@id": PARQUET_FILE},
            "extract": {"column": column},
            "transform": {"jsonPath": "bytes"},
        },
    }


_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The context that the specification, version 1.0, prescribes."""
