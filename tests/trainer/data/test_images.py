"""Images come from folders and zips alike; damaged and foreign files are named, never crash."""

from __future__ import annotations

import io
import multiprocessing
import pickle
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semires_trainer.data.images import ImageSource, decode
from semires_trainer.data.records import ImageRecord
from semires_trainer.errors import DataError

from .conftest import jpeg_bytes


@pytest.fixture(params=["folder", "zip", "zip-of-a-folder", "tar", "tar-of-a-folder", "tar-of-here"])
def source(request: pytest.FixtureRequest, image_folder: Path, tmp_path: Path) -> ImageSource:
    if request.param == "folder":
        return ImageSource(image_folder)
    if request.param.startswith("tar"):
        inside = {"tar": "", "tar-of-a-folder": "train2014", "tar-of-here": "."}[request.param]
        with tarfile.open(tmp_path / "images.tar", "w") as archive:
            for path in sorted(image_folder.iterdir()):
                archive.add(path, f"{inside}/{path.name}" if inside else path.name)
        return ImageSource(tmp_path / "images.tar")
    below = "train2014/" if request.param == "zip-of-a-folder" else ""
    with zipfile.ZipFile(tmp_path / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(image_folder.iterdir()):
            archive.write(path, below + path.name)
    return ImageSource(tmp_path / "images.zip")


def record(**changes: object) -> ImageRecord:
    return ImageRecord(**({"id": 2, "file_name": "2.jpg", "height": 24, "width": 32} | changes))  # type: ignore[arg-type]


def test_bytes_and_pixels_are_those_of_the_file(source: ImageSource) -> None:
    assert source.read("2.jpg") == jpeg_bytes(32, 24, seed=2)
    expected = np.asarray(Image.open(io.BytesIO(jpeg_bytes(32, 24, seed=2))))
    assert np.array_equal(np.asarray(source.open(record())), expected)


def test_an_absent_image_is_named(source: ImageSource) -> None:
    assert source.missing(["1.jpg", "9.jpg"]) == ["9.jpg"]
    with pytest.raises(DataError, match=r"spec\.dataset\.images: image 9\.jpg is not in .*images"):
        source.read("9.jpg")


@pytest.mark.parametrize("name", ["../2.jpg", "/etc/hostname", "a/../../2.jpg", "..\\2.jpg", "C:/2.jpg", "a\0b", "."])
def test_names_that_lead_out_are_refused(name: str, source: ImageSource) -> None:
    with pytest.raises(DataError, match="leads out of"):
        source.read(name)


def test_a_source_with_an_open_zip_travels_to_another_process(source: ImageSource) -> None:
    source.read("1.jpg")
    copy = pickle.loads(pickle.dumps(source))
    assert copy.read("2.jpg") == source.read("2.jpg")

    with multiprocessing.get_context("fork").Pool(2) as pool:
        contents = pool.map(source.read, ["1.jpg", "2.jpg", "3.jpg"] * 4)
    assert contents == [jpeg_bytes(32, 24, seed=key) for key in (1, 2, 3)] * 4


def test_a_size_other_than_annotated_is_an_error_that_names_both(source: ImageSource) -> None:
    with pytest.raises(DataError, match=r"2\.jpg \(id 2\) .*32 x 24 pixels, its annotation says 24 x 32.*EXIF"):
        source.open(record(height=32, width=24))


def test_a_zip_entry_with_a_wrong_checksum_is_named(tmp_path: Path) -> None:
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("1.jpg", jpeg_bytes(32, 24))
    content = bytearray(path.read_bytes())
    content[200] ^= 0xFF
    path.write_bytes(content)

    with pytest.raises(DataError, match=r"image 1\.jpg in .*images\.zip can't be read: Bad CRC"):
        ImageSource(path).read("1.jpg")


def tar_of(path: Path, names: list[str]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(jpeg_bytes(32, 24))
            archive.addfile(member, io.BytesIO(jpeg_bytes(32, 24)))
    return path


def test_a_tar_that_was_cut_short_is_named(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "images.tar", ["1.jpg", "2.jpg"])
    path.write_bytes(path.read_bytes()[:2200])  # in the second image

    with pytest.raises(DataError, match=r"spec\.dataset\.images: .*images\.tar is damaged: unexpected end of data"):
        ImageSource(path).read("1.jpg")


def test_links_in_a_tar_are_no_images(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "images.tar", "w") as archive:
        link = tarfile.TarInfo("1.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(link)

    with pytest.raises(DataError, match=r"image 1\.jpg is not in"):
        ImageSource(tmp_path / "images.tar").read("1.jpg")


def test_two_members_for_a_short_name_are_found_by_their_full_names_only(tmp_path: Path) -> None:
    source = ImageSource(tar_of(tmp_path / "images.tar", ["a/1.jpg", "b/1.jpg", "b/2.jpg"]))

    assert source.missing(["1.jpg", "a/1.jpg", "b/1.jpg", "2.jpg"]) == ["1.jpg"]


def test_a_compressed_tar_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "images.tgz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("1.jpg"))

    with pytest.raises(DataError, match=r"images\.tgz is a compressed tar.*Unpack it"):
        ImageSource(tmp_path / "images.tgz")


def test_a_zip_whose_directory_is_damaged_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("1.jpg", jpeg_bytes(32, 24))
    content = (tmp_path / "images.zip").read_bytes()
    (tmp_path / "images.zip").write_bytes(content.replace(b"PK\1\2", b"PK\0\0"))

    with pytest.raises(DataError, match=r"images\.zip is damaged: Bad magic number"):
        ImageSource(tmp_path / "images.zip").missing(["1.jpg"])


def test_a_source_that_is_neither_folder_nor_zip_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"not a zip")

    with pytest.raises(DataError, match=r"spec\.dataset\.images: .*a\.zip is neither a zip file nor a tar file"):
        ImageSource(tmp_path / "a.zip")
    with pytest.raises(DataError, match="absent does not exist"):
        ImageSource(tmp_path / "absent")


def png_claiming(width: int, height: int) -> bytes:
    """A few bytes that claim to be a large picture."""
    chunks = [b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(b"")]
    framed = [struct.pack(">I", len(item) - 4) + item + struct.pack(">I", zlib.crc32(item)) for item in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        pytest.param(jpeg_bytes(320, 240)[:2000], "can't be decoded: .*truncated", id="truncated"),
        pytest.param(b"<html>not found</html>", "is not an image", id="web-page"),
        pytest.param(b"", "is not an image", id="empty"),
        pytest.param(png_claiming(12_000, 12_000), "12000 x 12000 pixels, more than", id="large"),
        pytest.param(png_claiming(60_000, 60_000), "can't be decoded: .*bomb", id="bomb"),
        pytest.param(png_claiming(64, 64), "can't be decoded", id="header-only"),
    ],
)
def test_a_file_that_does_not_decode_is_named(content: bytes, problem: str) -> None:
    with pytest.raises(DataError, match=f"image 1.jpg .*{problem}"):
        decode(content, name="image 1.jpg")


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "LA"])
def test_every_colour_mode_becomes_rgb(mode: str) -> None:
    buffer = io.BytesIO()
    Image.new(mode, (8, 6)).save(buffer, "TIFF" if mode == "CMYK" else "PNG")

    picture = decode(buffer.getvalue())

    assert (picture.mode, picture.size) == ("RGB", (8, 6))
