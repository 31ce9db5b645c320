"""A hospital's own files can be damaged or made to do harm too: refused, or taken as documented."""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest

from hyfree_ray.cohorts.cohort import read_cohort
from hyfree_ray.cohorts.png_structure import png_fault
from hyfree_ray.config.loading import read_yaml
from hyfree_ray.federation.simulation import sites_of
from tests.raw_data import GREY, edit_csv, edit_json, make, refusal, write
from tests.refusals import refuses


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunk(path: Path, kind: bytes, data: bytes) -> None:
    """Put a chunk behind the header."""
    content = path.read_bytes()
    path.write_bytes(content[:33] + chunk(kind, data) + content[33:])


BOMB = b"Comment\0\0" + zlib.compress(bytes(100 << 20))


@pytest.mark.parametrize(
    ("kind", "data", "code"),
    [
        (b"zTXt", BOMB, "data.hidden-content"),
        (b"iTXt", b"Comment\0\1\0\0\0" + BOMB, "data.hidden-content"),
        (b"iCCP", BOMB, "data.hidden-content"),
        (b"acTL", struct.pack(">II", 2, 0), "data.animated"),
    ],
)
def test_a_png_with_a_bomb_or_with_frames_is_refused_from_its_chunks(
    tmp_path: Path, kind: bytes, data: bytes, code: str
) -> None:
    """Case 59: nothing is inflated to find out."""
    root, names = make(tmp_path / "x")
    with_chunk(root / f"imagesTr/{names[0]}_0000.png", kind, data)
    refusal(root, code, names[0])


def test_a_payload_behind_a_png_is_refused(tmp_path: Path) -> None:
    """Case 59."""
    root, names = make(tmp_path / "x")
    path = root / f"labelsTr/{names[0]}.png"
    path.write_bytes(path.read_bytes() + b"PK\3\4 a zip file")
    refusal(root, "data.hidden-content", names[0])


def test_short_text_in_a_png_is_none_of_our_business(tmp_path: Path) -> None:
    root, names = make(tmp_path / "x")
    with_chunk(root / f"imagesTr/{names[0]}_0000.png", b"tEXt", b"Software\0scanner")
    read_cohort(root)


def test_every_cut_of_a_png_has_a_fault(tmp_path: Path) -> None:
    write(tmp_path / "a.png", GREY)
    whole = (tmp_path / "a.png").read_bytes()
    assert png_fault(whole) == ""
    assert all(png_fault(whole[:length]) for length in range(len(whole)))


def nifti(path: Path, **changes: tuple[int, str, object]) -> None:
    """Write fields of a NIfTI header anew: offset, struct code, value."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    for offset, code, value in changes.values():
        values = value if isinstance(value, tuple) else (value,)
        struct.pack_into(f"<{len(values)}{code}", content, offset, *values)
    path.write_bytes(gzip.compress(bytes(content)))


@pytest.mark.parametrize(
    ("dim", "code"),
    [
        ((2, -7, 10, 1, 1, 1, 1, 1), "data.unreadable"),
        ((2, 30000, 30000, 1, 1, 1, 1, 1), "data.too-large"),
        ((3, 32767, 32767, 32767, 1, 1, 1, 1), "data.too-large"),
        ((-1, 7, 10, 1, 1, 1, 1, 1), "data.unreadable"),
        ((99, 7, 10, 1, 1, 1, 1, 1), "data.unreadable"),
        ((2, 0, 10, 1, 1, 1, 1, 1), "data.unreadable"),
    ],
    ids=str,
)
def test_a_nifti_of_impossible_dimensions_is_refused(
    tmp_path: Path, dim: tuple[int, ...], code: str
) -> None:
    """Case 64: negative, absurd, no and too many axes; nothing of that size is allocated."""
    root, names = make(tmp_path / "x", ending=".nii.gz")
    nifti(root / f"imagesTr/{names[0]}_0000.nii.gz", dim=(40, "h", dim))
    refusal(root, code, names[0])


def test_a_gzip_bomb_behind_a_nifti_is_not_inflated(tmp_path: Path) -> None:
    """Case 64: as many bytes are read as the header's dimensions ask for."""
    import resource

    root, names = make(tmp_path / "x", ending=".nii.gz")
    path = root / f"imagesTr/{names[0]}_0000.nii.gz"
    small = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(small + bytes(300 << 20), compresslevel=1))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    read_cohort(root)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KiB


def test_a_nifti_with_a_singular_affine_is_refused_by_name(tmp_path: Path) -> None:
    """Case 64: it has no place in space, and no grid that its label could share."""
    root, names = make(tmp_path / "x", ending=".nii.gz")
    path = root / f"imagesTr/{names[0]}_0000.nii.gz"
    rows = (0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    nifti(path, codes=(252, "h", (0, 1)), affine=(280, "f", rows))
    refusal(root, "data.unreadable", names[0])


def test_cells_of_a_table_that_look_like_formulas_are_text(tmp_path: Path) -> None:
    """Case 67: a patient may be called so; a site may not, for its name goes into other tables."""
    root, names = make(tmp_path / "x")
    edit_csv(root, f"{names[0]},north,", f"{names[0]},north,=1+1")
    cohort = read_cohort(root)
    assert any(case.patient.startswith("=1+1") for case in cohort.sites["north"])
    edit_csv(root, ",north,=1+1", ",=HYPERLINK,")
    refusal(root, "data.bad-site-name", "'=HYPERLINK'")


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x,x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n",
        "budget: !!python/object/new:os.system [touch ran]\n",
        "[" * 5000,
    ],
    ids=["aliases", "object", "deep"],
)
def test_yaml_bombs_are_refused(tmp_path: Path, text: str) -> None:
    """Case 68."""
    (tmp_path / "c.yaml").write_text(text)
    with refuses("config.bad-yaml", "c.yaml: "):
        read_yaml(tmp_path / "c.yaml")


def a_folder(path: Path) -> None:
    path.mkdir()


def a_link_to_nowhere(path: Path) -> None:
    path.symlink_to("nowhere")


def a_link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize("put", [a_folder, a_link_to_nowhere, a_link_to_itself, os.mkfifo])
@pytest.mark.parametrize("place", ["imagesTr/{}_0000.png", "labelsTr/{}.png"])
def test_what_is_no_file_is_refused_by_name(tmp_path: Path, put: Any, place: str) -> None:
    """A pipe is not even opened: nobody may ever write to it."""
    root, names = make(tmp_path / "x")
    path = root / place.format(names[0])
    path.unlink()
    put(path)
    refusal(root, "data.not-found", place.format(names[0]))


def test_a_file_that_cannot_be_opened_is_read_once_it_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, names = make(tmp_path / "x")
    read_bytes = Path.read_bytes

    def denied(path: Path) -> bytes:
        if path.name == f"{names[0]}_0000.png":
            raise PermissionError(13, "Permission denied")
        return read_bytes(path)

    cache = tmp_path / "digests.json"
    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", denied)
        refusal(root, "data.no-permission", digest_cache=cache)
    read_cohort(root, digest_cache=cache)


def test_names_with_control_characters_cannot_draw_on_the_screen(tmp_path: Path) -> None:
    root, names = make(tmp_path / "x")
    path = root / f"imagesTr/{names[0]}_0000.png"
    path.rename(path.with_name("\x1b[31m_0000.png"))
    refusal(root, "data.no-label", r"\x1b[31m_0000.png: ")


def test_channels_have_the_order_of_their_files(tmp_path: Path) -> None:
    root, _ = make(tmp_path / "x", ending=".nii.gz", channels=3)
    edit_json(root, channel_names={"2": "CT", "0": "T1", "1": "T2"})
    for site in sites_of(read_cohort(root), 0).values():
        assert list(site.dataset["channel_names"].items()) == [
            ("0", "T1"),
            ("1", "T2"),
            ("2", "CT"),
        ]


@pytest.mark.parametrize(
    ("ending", "reader", "code", "known"),
    [
        (".bmp", None, "", ""),
        (".tif", None, "", ""),
        (".tiff", None, "data.unknown-format", "NaturalImage2DIO"),
        (".tiff", "NaturalImage2DIO", "", ""),
        (".nii", None, "data.axes", "SimpleITKIO"),
        (".nii", "SimpleITKIO", "", ""),
        (".nii.gz", None, "", ""),
        (".nii.gz", "NibabelIO", "data.axes", "SimpleITKIO"),
        (".nii.gz", "NibabelIOWithReorient", "data.unknown-format", "SimpleITKIO"),
        (".nrrd", None, "", ""),
        (".mha", "NibabelIO", "data.unknown-format", "SimpleITKIO"),
        (".gipl", None, "", ""),
    ],
)
def test_what_passes_is_what_nnunets_reader_reads(
    tmp_path: Path, ending: str, reader: str | None, code: str, known: str
) -> None:
    from hyfree_ray.segmenters.nnunet.reading import read_image, read_label

    root, cases = make(tmp_path / "x", ending=ending)
    if reader is not None:
        edit_json(root, overwrite_image_reader_writer=reader)
    if code:
        refusal(root, code, "overwrite_image_reader_writer", known)
        return
    cohort = read_cohort(root)
    described = cohort.dataset_json
    (case,) = (case for case in cohort.sites["north"] if case.name == cases[0])
    image_CZHW, _ = read_image([root / name for name in case.images], described)
    assert image_CZHW.shape == (1, 1, *case.shape)
    assert read_label(root / case.label, described).shape == (1, *case.shape)
