"""Of images only those of the chosen splits are fetched, from a prefix, a zip or a tar."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from semires_trainer.config import Resolved
from semires_trainer.errors import DataError
from semires_trainer.fetch import localize
from semires_trainer.fetch.tar import PART_BYTES, PARTS_AHEAD
from semires_trainer.fetch.zip import SPAN_BYTES, plan_batches
from semires_trainer.materials import load_materials

from .conftest import (
    NAMES,
    USED,
    Bucket,
    Watched,
    fetched_images,
    image_bytes,
    originals,
    tar_of,
    zip_of,
)

Jobs = Callable[..., Resolved]
EVERYTHING = list(NAMES.values())

SOURCES = {
    "prefix": lambda bucket: bucket.put_images(),
    "zip": lambda bucket: bucket.put("train2014.zip", zip_of(EVERYTHING)),
    "zip-of-a-folder": lambda bucket: bucket.put("train2014.zip", zip_of(EVERYTHING, folder="train2014/")),
    "deflated-zip": lambda bucket: bucket.put(
        "x.zip", zip_of(EVERYTHING, folder="train2014/", compression=zipfile.ZIP_DEFLATED)
    ),
    "tar": lambda bucket: bucket.put("train2014.tar", tar_of(EVERYTHING)),
    "tar-of-a-folder": lambda bucket: bucket.put("train2014.tar", tar_of(EVERYTHING, folder="./train2014/")),
    "tar.gz": lambda bucket: bucket.put("train2014.tar.gz", tar_of(EVERYTHING, folder="train2014/", mode="w:gz")),
    "tgz-of-no-folder": lambda bucket: bucket.put("train2014.tgz", tar_of(EVERYTHING, folder="./", mode="w:gz")),
}


@pytest.mark.parametrize("source", SOURCES)
def test_only_the_images_that_the_job_reads_are_fetched(
    source: str, bucket: Bucket, watched: Watched, make_job: Jobs
) -> None:
    places = watched.fetch(make_job(dataset__images=SOURCES[source](bucket)))

    assert fetched_images(places) == originals(USED)
    assert (places.fetched_files, places.found_files) == (8, 0)


@pytest.fixture(params=["prefix", "zip-of-a-folder", "tar.gz"])
def images(request: pytest.FixtureRequest, bucket: Bucket) -> str:
    return str(SOURCES[request.param](bucket))


def test_what_is_here_is_not_fetched_again(images: str, watched: Watched, make_job: Jobs) -> None:
    watched.fetch(make_job(dataset__images=images))

    again = watched.fetch(make_job(dataset__images=images))

    assert watched.contents() == []
    assert (again.fetched_files, again.fetched_bytes) == (0, 0)
    assert (again.found_files, again.found_bytes) == (8, 8 * 3000)


def test_a_job_that_reads_more_adds_to_what_is_here(images: str, watched: Watched, make_job: Jobs) -> None:
    watched.fetch(make_job(dataset__images=images, dataset__unlabeledLimit=1))

    places = watched.fetch(make_job(dataset__images=images, dataset__evaluate=["val", "testA"]))

    assert fetched_images(places) == originals([*USED, NAMES[9]])
    assert (places.fetched_files, places.found_files) == (4, 5)


def test_the_run_finds_what_it_needs(images: str, watched: Watched, make_job: Jobs) -> None:
    resolved = make_job(dataset__images=images)

    materials = load_materials(localize(resolved, watched.fetch(resolved)))

    assert materials.images.read(NAMES[8]) == image_bytes(NAMES[8])


def test_progress_ends_at_all_files(images: str, watched: Watched, make_job: Jobs) -> None:
    watched.fetch(make_job(dataset__images=images))

    last = watched.reports[-1]
    assert (last.field, last.uri, last.files_done, last.files) == ("spec.dataset.images", images, 8, 8)
    assert 8 * 3000 <= last.bytes_done <= last.bytes


def test_of_a_prefix_one_object_each_is_asked_for(bucket: Bucket, watched: Watched, make_job: Jobs) -> None:
    places = watched.fetch(make_job(dataset__images=bucket.put_images()))

    assert watched.contents() == sorted(USED)
    assert places.fetched_bytes == 8 * 3000


def test_an_object_that_is_replaced_is_fetched_again_and_no_other(
    bucket: Bucket, watched: Watched, make_job: Jobs
) -> None:
    resolved = make_job(dataset__images=bucket.put_images())
    watched.fetch(resolved)
    bucket.put(f"images/{NAMES[3]}", image_bytes("another of the same size"))

    places = watched.fetch(resolved)

    assert watched.contents() == [NAMES[3]]
    assert fetched_images(places)[NAMES[3]] == image_bytes("another of the same size")


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_that_is_replaced_is_fetched_anew(
    kind: str, bucket: Bucket, watched: Watched, make_job: Jobs
) -> None:
    make = {"zip": zip_of, "tar": tar_of}[kind]
    resolved = make_job(dataset__images=bucket.put("images", make(EVERYTHING)))
    before = watched.fetch(resolved)
    bucket.put("images", make([*EVERYTHING[:8], "new.jpg"]))

    after = watched.fetch(resolved)

    assert after.paths != before.paths
    assert after.fetched_files == 8
    assert fetched_images(after) == originals(USED)


def test_a_file_that_was_cut_short_here_is_fetched_again(images: str, watched: Watched, make_job: Jobs) -> None:
    places = watched.fetch(make_job(dataset__images=images))
    os.truncate(Path(places.paths["spec.dataset.images"]) / NAMES[2], 100)

    again = watched.fetch(make_job(dataset__images=images))

    assert again.fetched_files == 1
    assert fetched_images(again) == originals(USED)


def test_a_file_that_the_journal_does_not_list_counts_as_absent(
    bucket: Bucket, watched: Watched, make_job: Jobs
) -> None:
    resolved = make_job(dataset__images=bucket.put_images())
    places = watched.fetch(resolved)
    journal = next((watched.cache / "images").glob(".*.journal"))
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:5]) + lines[5][:9])  # torn where power failed
    folder = Path(places.paths["spec.dataset.images"])
    for path in folder.iterdir():
        if not any(path.name in line for line in lines[:5]):
            path.write_bytes(bytes(3000))  # never reached the disk

    again = watched.fetch(resolved)

    assert again.fetched_files == 3
    assert fetched_images(again) == originals(USED)
    assert watched.fetch(resolved).fetched_files == 0


def test_an_image_that_is_nowhere_is_named_before_anything_is_fetched(
    bucket: Bucket, watched: Watched, make_job: Jobs
) -> None:
    with pytest.raises(DataError, match=rf"spec\.dataset\.images: 2 of 8 images are not in .*images, first: {USED[6]}"):
        watched.fetch(make_job(dataset__images=bucket.put_images(USED[:6])))

    assert watched.contents() == []


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_image_that_an_archive_lacks_is_named(kind: str, bucket: Bucket, watched: Watched, make_job: Jobs) -> None:
    archive = {"zip": zip_of, "tar": tar_of}[kind](USED[1:])

    with pytest.raises(DataError, match=rf"1 of 8 images are not in .*x\.{kind}, first: {USED[0]}"):
        watched.fetch(make_job(dataset__images=bucket.put(f"x.{kind}", archive)))


def test_a_damaged_member_of_a_zip_is_named(bucket: Bucket, watched: Watched, make_job: Jobs) -> None:
    archive = bytearray(zip_of(EVERYTHING))
    archive[archive.index(image_bytes(NAMES[4])) + 50] ^= 1

    with pytest.raises(DataError, match=rf"spec\.dataset\.images: image {NAMES[4]} in s3://.* can't be read: Bad CRC"):
        watched.fetch(make_job(dataset__images=bucket.put("x.zip", bytes(archive))))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        pytest.param(b"<html>not found</html>" * 100, "is damaged", id="web-page"),
        pytest.param(tar_of(EVERYTHING, mode="w:gz")[:9000], "is damaged|can't be read", id="half-a-tgz"),
        pytest.param(tar_of(EVERYTHING)[:9000], "is damaged|can't be read", id="half-a-tar"),
        pytest.param(zip_of(EVERYTHING)[:9000], "is damaged", id="half-a-zip"),
        pytest.param(b"", "is damaged", id="empty"),
    ],
)
def test_what_is_no_archive_is_refused(
    content: bytes, problem: str, bucket: Bucket, watched: Watched, make_job: Jobs
) -> None:
    with pytest.raises(DataError, match=rf"spec\.dataset\.images: .*x\.bin.* {problem}"):
        watched.fetch(make_job(dataset__images=bucket.put("x.bin", content)))


def test_two_members_of_a_tar_for_one_name_are_refused(bucket: Bucket, watched: Watched, make_job: Jobs) -> None:
    first, second = tar_of(USED[:1], folder="a/"), tar_of(USED, folder="b/")
    both = first[: first.rindex(image_bytes(USED[0])) + 3072] + second

    with pytest.raises(DataError, match=rf"image {USED[0]} may be a/{USED[0]} or b/{USED[0]} in s3://"):
        watched.fetch(make_job(dataset__images=bucket.put("x.tar", both)))


def test_of_a_zip_only_the_ranges_of_its_members_are_fetched(
    bucket: Bucket, watched: Watched, make_job: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("semires_trainer.fetch.zip.TAIL_BYTES", 100)
    monkeypatch.setattr("semires_trainer.fetch.zip.GAP_BYTES", 100)
    # image 9 lies between images 4 and 5; what is not needed is larger than a gap
    order = [NAMES[key] for key in (1, 2, 3, 4, 9, 5, 6, 7, 8, 10, 11, 12)]

    watched.fetch(make_job(dataset__images=bucket.put("x.zip", zip_of(order))))

    ranges = [exchange.request.range for exchange in watched.proxy.exchanges() if exchange.request.range]
    sizes = sorted(int(stop) - int(start) + 1 for start, stop in (text[6:].split("-") for text in ranges))
    assert len(sizes) == 4  # the end, the directory, two runs of neighbours
    assert sizes[0] == 100
    assert sum(sizes[2:]) == 8 * (3000 + 30 + len(NAMES[1]))


def test_a_tar_is_read_no_further_than_its_last_image_that_is_needed(
    bucket: Bucket, watched: Watched, make_job: Jobs
) -> None:
    archive = tar_of(EVERYTHING) + bytes(12 * PART_BYTES)

    places = watched.fetch(make_job(dataset__images=bucket.put("x.tar", archive)))

    asked = [exchange.request.range for exchange in watched.proxy.exchanges() if exchange.request.range]
    assert len(asked) <= PARTS_AHEAD + 2  # parts, and the end, where a zip would have its directory
    assert places.fetched_bytes <= 2 * PART_BYTES


def test_members_of_a_zip_share_requests_but_not_for_the_gaps_between_them() -> None:
    def member(number: int, *, start: int, size: int) -> tuple[str, zipfile.ZipInfo]:
        info = zipfile.ZipInfo(f"{number}.jpg")
        info.header_offset, info.compress_size, info.file_size = start, size, size
        return info.filename, info

    members = [member(number, start=number * 10**6, size=10**6 - 100) for number in range(12)]

    batches = plan_batches([members[9], *members[:6]], [info for _, info in members], end=12 * 10**6)

    assert [[name for name, _ in batch.items] for batch in batches] == [
        ["0.jpg", "1.jpg", "2.jpg", "3.jpg"],
        ["4.jpg", "5.jpg"],
        ["9.jpg"],
    ]
    assert all(len(batch.span) <= SPAN_BYTES for batch in batches)
    assert batches[2].span == range(9 * 10**6, 10**7)


def test_the_last_member_may_be_followed_by_anything() -> None:
    info = zipfile.ZipInfo("1.jpg")
    info.header_offset, info.compress_size, info.file_size = 0, 1000, 1000

    (batch,) = plan_batches([("1.jpg", info)], [info], end=10**9)

    assert 1035 <= len(batch.span) <= 200_000


@pytest.mark.parametrize("name", ["../1.jpg", "/etc/1.jpg", "a/../../1.jpg", "."])
def test_names_that_lead_out_of_the_folder_are_refused(
    name: str, bucket: Bucket, watched: Watched, make_job: Jobs, tmp_path: Path
) -> None:
    instances = tmp_path / "refer" / "refcoco" / "instances.json"
    instances.write_text(instances.read_text().replace(NAMES[1], name))

    with pytest.raises(DataError, match=r"leads out of s3://.*x\.zip"):
        watched.fetch(make_job(dataset__images=bucket.put("x.zip", zip_of([*USED[1:], name]))))

    assert not list(tmp_path.rglob("1.jpg"))
