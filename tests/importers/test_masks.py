"""Folders of masks as people draw them: read by what they mean, or refused with what they hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from hyfree_ray.cli import main
from hyfree_ray.importers.folder import folder, site_name
from hyfree_ray.importers.raw_set import every_left_out
from tests.refusals import refused, refuses

SHAPE = (21, 16)
BOX, DOT = (slice(3, 12), slice(4, 11)), (slice(14, 18), slice(2, 6))


def run(source: Path, out: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["import", "folder", str(source), str(out), *options])


def image(number: int, *, rgb: bool = False) -> np.ndarray:
    shape = (*SHAPE, 3) if rgb else SHAPE
    return np.random.default_rng(number).integers(0, 255, shape).astype(np.uint8)


def classes(*values: int) -> np.ndarray:
    """A mask of a box and, of the second value, a dot."""
    mask_HW = np.zeros(SHAPE, np.uint8)
    for place, value in zip((BOX, DOT), values, strict=False):
        mask_HW[place] = value
    return mask_HW


def save(path: Path, pixels: np.ndarray, **how: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **how)


def make(root: Path, mask_of: Callable[[int], np.ndarray], *, ending: str = "png") -> Path:
    for number in range(5):
        save(root / f"images/x{number}.png", image(number))
        save(root / f"masks/x{number}.{ending}", mask_of(number))
    return root


def labels(root: Path, out: Path, *options: str) -> list[np.ndarray]:
    result = run(root, out, *options)
    assert result.exit_code == 0, result.output
    return [
        sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        for path in sorted((out / "labelsTr").iterdir())
    ]


def account(out: Path) -> dict[str, object]:
    return json.loads((out / "import.json").read_text())


@pytest.mark.parametrize("value", [1, 37, 100, 254, 255])
def test_one_value_beside_zero_is_the_foreground(tmp_path: Path, value: int) -> None:
    for label_HW in labels(make(tmp_path / "in", lambda n: classes(value)), tmp_path / "out"):
        np.testing.assert_array_equal(label_HW, classes(1))


def test_small_values_are_classes_also_where_a_mask_lacks_some(tmp_path: Path) -> None:
    masks = [classes(1, 2), classes(2), classes(1), classes(), classes(2, 1)]
    found = labels(make(tmp_path / "in", masks.__getitem__), tmp_path / "out")
    for label_HW, mask_HW in zip(found, masks, strict=True):
        np.testing.assert_array_equal(label_HW, mask_HW)
    written = json.loads((tmp_path / "out/dataset.json").read_text())["labels"]
    assert written == {"background": 0, "label 1": 1, "label 2": 2}


def test_values_with_gaps_are_numbered_and_the_table_is_told_and_written(tmp_path: Path) -> None:
    root = make(tmp_path / "in", lambda n: classes(85, 170))
    result = run(root, tmp_path / "out")
    assert "label 2: label 170 (value 170)" in result.output
    assert account(tmp_path / "out")["meanings"] == {
        "label 85": "value 85",
        "label 170": "value 170",
    }


def colour(mask_HW: np.ndarray, *colours: tuple[int, int, int]) -> np.ndarray:
    return np.array([(0, 0, 0), *colours], np.uint8)[mask_HW]


@pytest.mark.parametrize("one", [(0, 255, 0), (0, 0, 200), (255, 0, 0), (10, 20, 30)])
def test_a_colour_on_black_is_the_foreground(tmp_path: Path, one: tuple[int, int, int]) -> None:
    for label_HW in labels(
        make(tmp_path / "in", lambda n: colour(classes(1), one)), tmp_path / "o"
    ):
        np.testing.assert_array_equal(label_HW, classes(1))


def test_colours_are_classes(tmp_path: Path) -> None:
    root = make(tmp_path / "in", lambda n: colour(classes(1, 2), (0, 0, 255), (255, 0, 0)))
    for label_HW in labels(root, tmp_path / "out"):
        np.testing.assert_array_equal(label_HW, classes(1, 2))
    assert account(tmp_path / "out")["meanings"] == {
        "colour 0000ff": "colour #0000ff",
        "colour ff0000": "colour #ff0000",
    }


@pytest.mark.parametrize("ink", [0, 255])
def test_a_mask_drawn_in_transparency_is_read(tmp_path: Path, ink: int) -> None:
    def mask_of(number: int) -> np.ndarray:
        return np.dstack([np.full((*SHAPE, 3), ink, np.uint8), classes(255)])

    for label_HW in labels(make(tmp_path / "in", mask_of), tmp_path / "out"):
        np.testing.assert_array_equal(label_HW, classes(1))


def test_an_opaque_mask_with_alpha_is_read_by_its_colour(tmp_path: Path) -> None:
    def mask_of(number: int) -> np.ndarray:
        return np.dstack([classes(255)] * 3 + [np.full(SHAPE, 255, np.uint8)])

    for label_HW in labels(make(tmp_path / "in", mask_of), tmp_path / "out"):
        np.testing.assert_array_equal(label_HW, classes(1))


def test_one_bit_and_palette_masks_are_read(tmp_path: Path) -> None:
    root = make(tmp_path / "in", lambda n: classes(255))
    Image.fromarray(classes(255)).convert("1").save(root / "masks/x0.png")
    palette = Image.fromarray(classes(1)).convert("P")
    palette.putpalette([0, 0, 0, 255, 255, 255])
    palette.save(root / "masks/x1.png")
    for label_HW in labels(root, tmp_path / "out"):
        np.testing.assert_array_equal(label_HW, classes(1))


def test_jpeg_masks_are_cut_between_their_two_values(tmp_path: Path) -> None:
    big = np.kron(classes(1), np.ones((8, 8), np.uint8))
    for number in range(5):
        save(
            tmp_path / f"in/images/x{number}.png", np.kron(image(number), np.ones((8, 8), np.uint8))
        )
        save(tmp_path / f"in/masks/x{number}.jpg", big * 100)
    for label_HW in labels(tmp_path / "in", tmp_path / "out"):
        assert (label_HW != big).mean() < 0.01


def test_three_values_in_jpeg_are_refused_and_classes_names_them(tmp_path: Path) -> None:
    big = np.kron(classes(1, 2), np.ones((8, 8), np.uint8))
    for number in range(5):
        save(
            tmp_path / f"in/images/x{number}.png", np.kron(image(number), np.ones((8, 8), np.uint8))
        )
        save(tmp_path / f"in/masks/x{number}.jpg", big * 120, quality=95)
    refused(run(tmp_path / "in", tmp_path / "out"), "import.bad-labels", "--classes")
    assert not (tmp_path / "out").exists()
    named = ("--classes", "liver=120,tumour=240")
    for label_HW in labels(tmp_path / "in", tmp_path / "out", *named):
        assert (label_HW != big).mean() < 0.02


def test_masks_without_zero_are_refused_until_the_background_is_named(tmp_path: Path) -> None:
    root = make(tmp_path / "in", lambda n: classes(2, 3) + 1)
    refused(run(root, tmp_path / "out"), "import.bad-labels", "background")
    named = ("--classes", "background=1,pet=3,edge=4")
    for label_HW in labels(root, tmp_path / "out", *named):
        np.testing.assert_array_equal(label_HW, classes(1, 2))


def test_classes_that_leave_a_value_unnamed_are_refused(tmp_path: Path) -> None:
    root = make(tmp_path / "in", lambda n: classes(100, 200))
    refused(run(root, tmp_path / "out", "--classes", "liver=100"), "import.bad-labels", "200")
    joined = labels(root, tmp_path / "out", "--classes", "organ=100+200")
    np.testing.assert_array_equal(joined[0], classes(1, 1))


@pytest.mark.parametrize("text", ["", "liver=", "a=1,b=1", "a=1,a=2", "a=x", "a=#12"])
def test_malformed_classes_are_refused(tmp_path: Path, text: str) -> None:
    root = make(tmp_path / "in", lambda n: classes(1))
    refused(run(root, tmp_path / "out", "--classes", text), "option.malformed")


def test_a_stray_value_is_not_made_a_class(tmp_path: Path) -> None:
    def mask_of(number: int) -> np.ndarray:
        mask_HW = np.kron(classes(255), np.ones((9, 9), np.uint8))
        mask_HW[0, 0] = 254 if number == 2 else 0
        return mask_HW

    for number in range(5):
        save(
            tmp_path / f"in/images/x{number}.png", np.kron(image(number), np.ones((9, 9), np.uint8))
        )
        save(tmp_path / f"in/masks/x{number}.png", mask_of(number))
    found = labels(tmp_path / "in", tmp_path / "out")
    assert {int(label_HW.max()) for label_HW in found} == {1}


def test_volumes_of_zero_and_255_are_one_class(tmp_path: Path) -> None:
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 900, (4, 12, 9)).astype(np.int16)
        mask_ZHW = np.zeros((4, 12, 9), np.uint8)
        mask_ZHW[1:3, 2:5, 3:7] = 255
        for name, values in (("images", pixels), ("masks", mask_ZHW)):
            path = tmp_path / f"in/{name}/v{number}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(sitk.GetImageFromArray(values), str(path))
    found = labels(tmp_path / "in", tmp_path / "out")
    np.testing.assert_array_equal(found[0], mask_ZHW > 0)
    assert json.loads((tmp_path / "out/dataset.json").read_text())["labels"] == {
        "background": 0,
        "foreground": 1,
    }


def test_grey_and_colour_images_are_all_read_as_rgb(tmp_path: Path) -> None:
    root = make(tmp_path / "in", lambda n: classes(255))
    blue = np.dstack([np.zeros((*SHAPE, 2), np.uint8), image(7)])
    save(root / "images/x3.png", blue)
    result = run(root, tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "4 of 5 images are grey" in result.output
    read = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out/imagesTr/x3_0000.png")))
    np.testing.assert_array_equal(read, blue)


def test_eight_and_sixteen_bits_at_one_site_are_refused(tmp_path: Path) -> None:
    root = make(tmp_path / "in", lambda n: classes(255))
    save(root / "images/x3.png", image(3).astype(np.uint16) * 200)
    refused(run(root, tmp_path / "out"), "import.bits-differ", "x3.png", "16", "8")


def test_an_image_that_exif_turns_matches_its_mask(tmp_path: Path) -> None:
    root = make(tmp_path / "in", lambda n: classes(255))
    exif = Image.Exif()
    exif[0x0112] = 6  # a viewer turns it clockwise
    stored = np.rot90(image(2)).copy()
    save(root / "images/x2.png", stored, exif=exif)
    assert run(root, tmp_path / "out").exit_code == 0
    read = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out/imagesTr/x2_0000.png")))
    np.testing.assert_array_equal(read, image(2))


def test_a_turn_that_sizes_do_not_settle_is_refused(tmp_path: Path) -> None:
    root = make(tmp_path / "in", lambda n: classes(255))
    exif = Image.Exif()
    exif[0x0112] = 3
    save(root / "images/x2.png", image(2), exif=exif)
    refused(run(root, tmp_path / "out"), "import.turned", "x2.png")


def test_pages_of_a_tiff_are_not_dropped(tmp_path: Path) -> None:
    root = make(tmp_path / "in", lambda n: classes(255))
    tifffile.imwrite(
        root / "images/x9.tif", np.stack([image(1), image(2)]), photometric="minisblack"
    )
    save(root / "masks/x9.png", classes(255))
    refused(run(root, tmp_path / "out"), "import.several-pages", "x9.tif", "2 pages")


@pytest.mark.parametrize(
    "how", [{"tile": (16, 16)}, {"planarconfig": "separate"}, {"compression": "zlib"}]
)
def test_every_form_of_tiff_gives_the_same_pixels(tmp_path: Path, how: dict[str, object]) -> None:
    root = make(tmp_path / "in", lambda n: classes(255))
    pixels = image(4, rgb=True)
    stored = np.moveaxis(pixels, -1, 0) if "planarconfig" in how else pixels
    (root / "images/x4.png").unlink()
    tifffile.imwrite(root / "images/x4.tif", stored, photometric="rgb", **how)
    assert run(root, tmp_path / "out").exit_code == 0
    read = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out/imagesTr/x4_0000.png")))
    np.testing.assert_array_equal(read, pixels)


def test_names_of_all_scripts_stay_apart_and_legible(tmp_path: Path) -> None:
    for name in ("刘", "张", "Köln 1", "Ünal"):
        save(tmp_path / f"in/images/{name}.png", image(len(name)))
        save(tmp_path / f"in/masks/{name}.png", classes(255))
    found = folder(tmp_path / "in")
    assert {case.name for case in found.cases} == {"刘", "张", "Köln_1", "Ünal"}


@pytest.mark.parametrize(
    ("given_name", "expected"),
    [("St. Mary's", "St. Marys"), ("Köln Süd", "Köln Süd"), ("a/b", "a-b"), ("..", "site")],
)
def test_a_sites_name_is_made_fit(given_name: str, expected: str) -> None:
    assert site_name(given_name) == expected


def test_what_is_already_as_it_is_written_keeps_its_bytes(tmp_path: Path) -> None:
    root = make(tmp_path / "in", lambda n: classes(1, 2))
    text = PngInfo()
    text.add_text("Patient", "SECRET")
    save(root / "images/x3.png", image(3), pnginfo=text)
    assert run(root, tmp_path / "out").exit_code == 0
    for name in ("x0", "x3"):
        label = tmp_path / f"out/labelsTr/{name}.png"
        assert label.read_bytes() == (root / f"masks/{name}.png").read_bytes()
    stored, text_file = (tmp_path / f"out/imagesTr/{name}_0000.png" for name in ("x0", "x3"))
    assert stored.read_bytes() == (root / "images/x0.png").read_bytes()
    assert b"SECRET" not in text_file.read_bytes()


def test_the_sheet_of_first_cases_can_be_looked_at(tmp_path: Path) -> None:
    assert run(make(tmp_path / "in", lambda n: classes(255)), tmp_path / "out").exit_code == 0
    sheet = np.asarray(Image.open(tmp_path / "out/contact_sheet.png"))
    red = (sheet[..., 0].astype(int) - sheet[..., 1]) > 60
    assert red.mean() > 0.01


def test_what_is_improbable_is_warned_of(tmp_path: Path) -> None:
    root = make(tmp_path / "in", lambda n: np.full(SHAPE, 255, np.uint8) if n else classes(255))
    (root / "images/x4.png").write_bytes((root / "images/x3.png").read_bytes())
    result = run(root, tmp_path / "out")
    warned = [line for line in result.output.splitlines() if line.startswith("warning: ")]
    assert any("filled" in line for line in warned)
    assert any("images repeat" in line for line in warned)


def test_pictures_and_volumes_are_not_mixed(tmp_path: Path) -> None:
    root = make(tmp_path / "in", lambda n: classes(255))
    for name in ("images", "masks"):
        volume = sitk.GetImageFromArray(np.zeros((3, *SHAPE), np.uint8))
        sitk.WriteImage(volume, str(root / name / "v.nii.gz"))
    with refuses("import.mixed-kinds"):
        folder(root)


KINDS = ("pair", "no mask", "no image", "text", "fork", "deeper", "numbered")


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(kinds=st.lists(st.sampled_from(KINDS), max_size=8), value=st.integers(1, 255))
def test_every_file_of_a_folder_is_taken_or_left_out(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[str], value: int
) -> None:
    root = tmp_path_factory.mktemp("tree")
    make(root, lambda n: classes(value))
    for number, kind in enumerate(kinds):
        name = f"y{number}"
        if kind in ("pair", "no mask", "numbered"):
            save(root / f"images/{name}.png", image(number))
        if kind in ("pair", "no image"):
            save(root / f"masks/{name}_mask.png", classes(value))
        if kind == "numbered":
            for part in ("", "_1", "_2"):
                save(root / f"masks/{name}_mask{part}.png", classes(value))
        if kind == "text":
            (root / f"masks/{name}.txt").write_text("x")
        if kind == "fork":
            (root / f"images/._{name}.png").write_bytes(b"\0\5\x16\7")
        if kind == "deeper":
            save(root / f"images/old/{name}.png", image(number))
    found = folder(root)
    taken = [path for case in found.cases for path in (*case.images, *case.masks)]
    left = every_left_out(found)
    files = {path for path in root.rglob("*") if path.is_file()}
    assert set(taken) | {one.path for one in left} == files
    assert len(taken) + len(left) == len(files)
    assert all(one.why for one in left)
    for case in found.cases:
        label_HW = sitk.GetArrayFromImage(found.read_label(case))
        np.testing.assert_array_equal(label_HW, classes(1))
