"""Releases by hand: checked, looked at, exported."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import nibabel
import numpy as np
import pyarrow.parquet as pq
import pytest
import SimpleITK as sitk
from click.testing import CliRunner, Result
from PIL import Image

from hyfree_ray.border import opening
from hyfree_ray.border.signing import fingerprint, is_signed_by, signing_key
from hyfree_ray.cli import main
from tests.cards import card
from tests.refusals import refused
from tests.release_files import METADATA, described, pixels, put, write


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["release", *(str(argument) for argument in arguments)])


def read_image(path: Path) -> np.ndarray:
    return np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(str(path))))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "in")
    return tmp_path / "in"


@pytest.mark.parametrize("command", [(), ("check",), ("show",), ("dossier",), ("export",)])
def test_help_tells_exit_codes(command: tuple[str, ...]) -> None:
    result = call(*command, "--help")
    assert result.exit_code == 0
    assert "Exit codes" in result.output


def test_a_good_release_exits_with_0_by_its_file_or_its_folder(folder: Path) -> None:
    for name in (folder, folder / "release.arrow"):
        result = call("check", name)
        assert result.exit_code == 0, result.output
        assert "good: 5 images of site-1, round 3" in result.output


def test_a_link_to_a_release_is_checked_as_its_folder(folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(folder, target_is_directory=True)
    said = [call("check", place).output.partition(": ")[2] for place in (folder, link)]
    assert said[0] == said[1]
    assert call("check", link).exit_code == 0


def test_each_file_gets_a_line_and_one_that_is_bad_makes_it_exit_with_2(
    folder: Path, tmp_path: Path
) -> None:
    flipped = bytearray((folder / "release.arrow").read_bytes())
    flipped[-3] ^= 1
    put(tmp_path / "bad", bytes(flipped))
    (tmp_path / "empty").mkdir()
    result = call("check", tmp_path / "bad", folder, tmp_path / "empty" / "release.arrow")
    assert result.exit_code == 2
    lines = result.output.splitlines()
    assert len(lines) == 3
    assert "refused (magic)" in lines[0]
    assert "good" in lines[1]
    assert "refused (missing)" in lines[2]


def test_a_signature_is_checked_by_hand_before_anything_is_read(
    folder: Path, tmp_path: Path
) -> None:
    """Case 53: the key of the site, another's, none, and a manifest that was changed after."""
    key, other = (signing_key(tmp_path / "keys" / name) for name in ("mine", "other"))
    public = tmp_path / "public.key"
    public.write_bytes(key.public_key().public_bytes_raw())
    assert "(signature)" in call("check", folder, "--key", public).output
    manifest = (folder / "manifest.json").read_bytes()
    (folder / "manifest.sig").write_bytes(key.sign(manifest))
    good = call("check", folder, "--key", public)
    assert (good.exit_code, "signed by this key" in good.output) == (0, True)
    (folder / "manifest.sig").write_bytes(other.sign(manifest))
    assert call("check", folder, "--key", public).exit_code == 2
    (folder / "manifest.sig").write_bytes(key.sign(manifest))
    (folder / "manifest.json").write_bytes(b"[" * 100_000)
    assert "(signature)" in call("check", folder, "--key", public).output


def test_what_is_called_signed_is_what_was_signed_also_where_files_are_swapped_meanwhile(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Case 54: manifest and file are exchanged for another good release, once it was verified."""
    key = signing_key(tmp_path / "keys" / "mine")
    (tmp_path / "public.key").write_bytes(key.public_key().public_bytes_raw())
    (folder / "manifest.sig").write_bytes(key.sign((folder / "manifest.json").read_bytes()))
    put(tmp_path / "other", described(spacing=[3.0, 3.0]))

    def then_swapped(*signed: bytes) -> bool:
        found = is_signed_by(*signed)
        for name in ("manifest.json", "release.arrow"):
            (folder / name).write_bytes((tmp_path / "other" / name).read_bytes())
        return found

    monkeypatch.setattr(opening, "is_signed_by", then_swapped)
    result = call("check", folder, "--key", tmp_path / "public.key")
    assert result.exit_code == 2
    assert "refused (" in result.output
    assert "signed by this key" not in result.output


@pytest.mark.parametrize(("content", "said"), [(b"x" * 31, "31 bytes"), (None, "public.key")])
def test_a_key_that_is_none_is_one_line(
    folder: Path, tmp_path: Path, content: bytes | None, said: str
) -> None:
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    refused(call("check", folder, "--key", tmp_path / "key"), "option.bad-key", said)


def test_a_card_below_the_default_gate_is_refused_by_hand_too(tmp_path: Path) -> None:
    put(tmp_path / "in", described(card=card(images=5, rejection_rate=0.95)))
    result = call("check", tmp_path / "in")
    assert result.exit_code == 2
    assert "refused (gate): share of the samples that look like copies" in result.output


def test_a_file_of_another_name_is_told_what_to_name(tmp_path: Path) -> None:
    (tmp_path / "cat.png").touch()
    result = call("check", tmp_path / "cat.png")
    assert result.exit_code == 2
    assert "release.arrow" in result.output


def test_what_is_no_release_gets_its_line_and_the_others_go_on(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "cat.png").touch()
    result = call("check", folder, tmp_path / "none", tmp_path / "cat.png", folder)
    assert result.exit_code == 2
    first, none, cat, last = result.output.splitlines()
    assert "good" in first
    assert none.startswith(f"{tmp_path / 'none'}: ")
    assert cat.startswith(f"{tmp_path / 'cat.png'}: ")
    assert none.partition(": ")[2] != cat.partition(": ")[2]
    assert "good" in last


@pytest.mark.parametrize("command", [("show",), ("export", "--to", "png", "--out", "out")])
def test_what_is_refused_is_named_by_its_path(
    tmp_path: Path, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    empty = refused(call(command[0], "empty", *command[1:]), "release.missing")
    assert empty.startswith("empty: ")
    missing = refused(call(command[0], "none", *command[1:]), "release.not-found")
    assert missing.startswith("none: ")


def test_show_prints_the_card_and_draws_the_images(folder: Path, tmp_path: Path) -> None:
    result = call("show", folder, "--picture", tmp_path / "look.png")
    assert result.exit_code == 0, result.output
    assert "Not a declaration of anonymity" in result.output
    assert "membership attack 'nearest': AUC 0.52" in result.output
    assert '"channel_names"' in result.output
    assert (tmp_path / "look.png").read_bytes().startswith(b"\x89PNG")


def test_every_exported_file_says_by_itself_that_it_is_synthetic(
    folder: Path, tmp_path: Path
) -> None:
    """Case 112: in a field that programs read; the picture of `show` too."""
    for target in ("parquet", "nnunet", "png"):
        assert call("export", folder, "--to", target, "--out", tmp_path / target).exit_code == 0
    assert call("show", folder, "--picture", tmp_path / "png" / "sheet.png").exit_code == 0
    pictures = list((tmp_path / "png").rglob("*.png"))
    assert len(pictures) == 5 * 3 + 1
    for path in pictures:
        with Image.open(path) as picture:
            assert picture.text["SyntheticData"] == "YES"
    volumes = list((tmp_path / "nnunet").rglob("*.nii.gz"))
    assert len(volumes) == 5 * 3
    for path in volumes:
        assert bytes(nibabel.load(path).header["descrip"]).startswith(b"SyntheticData=YES")
    assert pq.read_schema(tmp_path / "parquet" / "release.parquet").metadata[b"SyntheticData"] == (
        b"YES"
    )
    for file in ("nnunet/dataset.json", "png/metadata.json"):
        marks = json.loads((tmp_path / file).read_text())["synthetic"]
        assert marks["SyntheticData"] == "YES"
        assert marks["Site"] == "site-1"


def section_of(page: str, heading: str) -> str:
    return page.partition(f"<h2>{heading}</h2>")[2].partition("<h2>")[0]


def test_the_dossier_has_attacks_before_similarity_and_all_that_the_card_says(
    folder: Path, tmp_path: Path
) -> None:
    """Case 112: what a data protection officer decides by stands first; nothing is left out."""
    key = signing_key(tmp_path / "keys" / "mine")
    (tmp_path / "public.key").write_bytes(key.public_key().public_bytes_raw())
    (folder / "manifest.sig").write_bytes(key.sign((folder / "manifest.json").read_bytes()))
    result = call("dossier", folder, "--out", tmp_path / "page.html")
    assert result.exit_code == 0, result.output
    page = (tmp_path / "page.html").read_text()
    headings = re.findall("<h2>(.*?)</h2>", page)
    assert headings[0] == "What it is"
    assert headings[-1] == "What is not covered"
    similarity = next(h for h in headings if h.startswith("How similar"))
    attacks = next(h for h in headings if h.startswith("What attacks"))
    assert headings.index(attacks) < headings.index(similarity) == len(headings) - 2
    for name in METADATA.card:
        words = name.replace("_", " ")
        assert name == "statement" or words[:1].upper() + words[1:] in page, name
    assert "Statement" not in section_of(page, attacks)
    assert "signature was not checked" in page
    signed = call("dossier", folder, "--key", tmp_path / "public.key", "--out", tmp_path / "p.html")
    assert signed.exit_code == 0
    assert fingerprint(key.public_key().public_bytes_raw()) in (tmp_path / "p.html").read_text()


def test_the_dossier_says_where_the_gate_fails_and_executes_nothing_of_the_release(
    tmp_path: Path,
) -> None:
    """Case 112: names of others are text, in HTML too."""
    hostile = "<script>alert(1)</script>"
    failing = card(images=5) | {"rejection_rate": 0.9}
    put(tmp_path / "in", described(card=failing, channel_names=[hostile, "T2"]))
    assert call("dossier", tmp_path / "in", "--out", tmp_path / "page.html").exit_code == 0
    page = (tmp_path / "page.html").read_text()
    assert "does not pass the default gate" in page
    assert hostile not in page
    (tmp_path / "in" / "release.arrow").write_bytes(b"")
    refused(call("dossier", tmp_path / "in", "--out", tmp_path / "other.html"), "release.bytes")
    assert not (tmp_path / "other.html").exists()


@pytest.mark.parametrize("command", [("show",), ("export", "--to", "png", "--out", "out")])
def test_a_release_that_is_refused_is_neither_shown_nor_exported(
    tmp_path: Path, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "in", b"text")
    refused(call(command[0], tmp_path / "in", *command[1:]), "release.magic", str(tmp_path / "in"))
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_nnunet_gets_a_raw_data_set_in_units_and_spacing(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "Dataset901_Synthetic"
    assert call("export", folder, "--to", "nnunet", "--out", out).exit_code == 0
    dataset = json.loads((out / "dataset.json").read_text())
    assert dataset["channel_names"] == {"0": "T1", "1": "T2"}
    assert dataset["numTraining"] == 5
    images_NCHW, labels_NHW = pixels()
    for channel in range(2):
        path = out / "imagesTr" / f"synthetic_000003_{channel:04d}.nii.gz"
        expected = images_NCHW[3, channel] * METADATA.scale[channel] + METADATA.offset[channel]
        np.testing.assert_allclose(read_image(path), expected, rtol=1e-6)
        image = sitk.ReadImage(str(path))
        np.testing.assert_allclose(image.GetSpacing(), (1.25, 0.8), rtol=1e-6)
    np.testing.assert_array_equal(
        read_image(out / "labelsTr" / "synthetic_000003.nii.gz"), labels_NHW[3]
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png_holds_the_stored_values_at_their_depth(tmp_path: Path, dtype: type) -> None:
    write(tmp_path / "in", dtype=dtype)
    out = tmp_path / "png"
    assert call("export", tmp_path / "in", "--to", "png", "--out", out).exit_code == 0
    found = read_image(out / "images" / "000002_0001.png")
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, pixels(dtype=dtype)[0][2, 1])
    assert json.loads((out / "metadata.json").read_text())["scale"] == [0.5, 2.0]


def test_nothing_is_written_over(folder: Path) -> None:
    result = call("export", folder, "--to", "png", "--out", folder)
    refused(result, "output.not-empty", str(folder), "--out")


@pytest.mark.parametrize(
    ("command", "where", "code"),
    [
        ("show --picture", "none/x.png", "output.not-writable"),
        ("show --picture", "file/x.png", "output.not-writable"),
        ("export --to png --out", "file/x", "output.not-writable"),
        ("export --to png --out", "file", "output.not-empty"),
    ],
)
def test_where_nothing_can_be_written_is_one_line_before_the_release_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, command: str, where: str, code: str
) -> None:
    monkeypatch.chdir(folder)
    (folder / "file").touch()
    (folder / "release.arrow").unlink()  # as the refusal would say
    name, *options = command.split()
    result = call(name, folder, *options, where)
    refused(result, code, where, options[-1])
    assert result.output.count("\n") == 1


@pytest.mark.parametrize("command", ["show --picture x", "export --to parquet --out x"])
def test_a_disk_that_is_full_is_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(pq, "write_table", full)
    name, *options = command.split()
    result = call(name, folder, *options)
    refused(result, "output.not-writable", "x: ", "No space left on device", options[-2])
    assert not (tmp_path / "x").exists()
