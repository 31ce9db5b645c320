"""A hospital's own files can be damaged or made to do harm too: refused, or taken as documented."""

from __future__ import annotations

import gzip
import os
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest

from hyfree_ray.cohorts.cohort import read_cohort
from hyfree_ray.cohorts.png_structure import png_fault
from hyfree_ray.config.experiment import read_yaml
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.federation.simulation import sites_of
from tests.raw_data import GREY, edit_csv, edit_json, make, refusal, write


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunk(path: Path, kind: bytes, data: bytes) -> None:
    """Put a chunk behind the header."""
    content = path.read_bytes()
    path.write_bytes(content[:33] + chunk(kind, data) + content[33:])


BOMB = b"Comment\0\0" + zlib.compress(bytes(100 << 20))


@pytest.mark.parametrize(
    ("kind", "data", "said"),
    [
        (b"zTXt", BOMB, "hidden content"),
        (b"iTXt", b"Comment\0\1\0\0\0" + BOMB, "hidden content"),
        (b"iCCP", BOMB, "hidden content"),
        (b"acTL", struct.pack(">II", 2, 0), "animated"),
    ],
)
def test_a_png_with_a_bomb_or_with_frames_is_refused_from_its_chunks(
    tmp_path: Path, kind: bytes, data: bytes, said: str
) -> None:
    """Case 59: nothing is inflated to find out."""
    root, names = make(tmp_path / "x")
    with_chunk(root / f"imagesTr/{names[0]}_0000.png", kind, data)
    assert said in refusal(root)


def test_a_payload_behind_a_png_is_refused(tmp_path: Path) -> None:
    """Case 59."""
    root, names = make(tmp_path / "x")
    path = root / f"labelsTr/{names[0]}.png"
    path.write_bytes(path.read_bytes() + b"PK\3\4 a zip file")
    assert "hidden content" in refusal(root)


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
    ("dim", "said"),
    [
        ((2, -7, 10, 1, 1, 1, 1, 1), "unreadable|too large"),
        ((2, 30000, 30000, 1, 1, 1, 1, 1), "too large|unreadable"),
        ((3, 32767, 32767, 32767, 1, 1, 1, 1), "too large|unreadable"),
        ((-1, 7, 10, 1, 1, 1, 1, 1), "unreadable|axes"),
        ((99, 7, 10, 1, 1, 1, 1, 1), "unreadable|axes"),
        ((2, 0, 10, 1, 1, 1, 1, 1), "unreadable|too large|size"),
    ],
    ids=str,
)
def test_a_nifti_of_impossible_dimensions_is_refused(
    tmp_path: Path, dim: tuple[int, ...], said: str
) -> None:
    """Case 64: negative, absurd, no and too many axes; nothing of that size is allocated."""
    import re

    root, names = make(tmp_path / "x", ending=".nii.gz")
    nifti(root / f"imagesTr/{names[0]}_0000.nii.gz", dim=(40, "h", dim))
    assert re.search(said, refusal(root))


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
    with pytest.raises(HyfreeError, match=names[0]):
        read_cohort(root)


def test_cells_of_a_table_that_look_like_formulas_are_text(tmp_path: Path) -> None:
    """Case 67: a patient may be called so; a site may not, for its name goes into other tables."""
    root, names = make(tmp_path / "x")
    edit_csv(root, f"{names[0]},north,", f"{names[0]},north,=1+1")
    cohort = read_cohort(root)
    assert any(case.patient.startswith("=1+1") for case in cohort.sites["north"])
    edit_csv(root, ",north,=1+1", ",=HYPERLINK,")
    assert "not safe as a folder's name" in refusal(root)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &a [x,x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n", "aliases"),
        ("budget: !!python/object/new:os.system [touch ran]\n", "not valid YAML"),
        ("[" * 5000, "not valid YAML|nested"),
    ],
    ids=["aliases", "object", "deep"],
)
def test_yaml_bombs_are_refused(tmp_path: Path, text: str, said: str) -> None:
    """Case 68."""
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(HyfreeError, match=said):
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
    assert f"{place.format(names[0])}: not a file" in refusal(root)


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
        with pytest.raises(HyfreeError, match="unreadable"):
            read_cohort(root, digest_cache=cache)
    read_cohort(root, digest_cache=cache)


def test_names_with_control_characters_cannot_draw_on_the_screen(tmp_path: Path) -> None:
    root, names = make(tmp_path / "x")
    path = root / f"imagesTr/{names[0]}_0000.png"
    path.rename(path.with_name("\x1b[31m_0000.png"))
    assert r"\x1b[31m_0000.png: no label" in refusal(root)


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
    ("ending", "reader", "said"),
    [
        (".bmp", None, ""),
        (".tif", None, ""),
        (".tiff", None, "set overwrite_image_reader_writer to NaturalImage2DIO"),
        (".tiff", "NaturalImage2DIO", ""),
        (".nii", None, "two axes, and nnU-Net reads volumes here .*SimpleITKIO"),
        (".nii", "SimpleITKIO", ""),
        (".nii.gz", None, ""),
        (".nii.gz", "NibabelIO", "two axes"),
        (".nii.gz", "NibabelIOWithReorient", "set overwrite_image_reader_writer to SimpleITKIO"),
        (".nrrd", None, ""),
        (".mha", "NibabelIO", "set overwrite_image_reader_writer to SimpleITKIO"),
        (".gipl", None, ""),
    ],
)
def test_what_passes_is_what_nnunets_reader_reads(
    tmp_path: Path, ending: str, reader: str | None, said: str
) -> None:
    from hyfree_ray.segmenters.nnunet.data import read_image, read_label

    root, names = make(tmp_path / "x", ending=ending)
    if reader is not None:
        edit_json(root, overwrite_image_reader_writer=reader)
    if said:
        assert re.search(said, refusal(root))
        return
    cohort = read_cohort(root)
    described = cohort.dataset_json
    (case,) = (case for case in cohort.sites["north"] if case.name == names[0])
    image_CZHW, _ = read_image([root / name for name in case.images], described)
    assert image_CZHW.shape == (1, 1, *case.shape)
    assert read_label(root / case.label, described).shape == (1, *case.shape)
