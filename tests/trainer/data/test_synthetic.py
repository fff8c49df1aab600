import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semires_trainer.data.masks import rasterize
from semires_trainer.data.records import Dataset
from semires_trainer.data.refer import load_refer
from semires_trainer.data.synthetic import SPLITS, Example, SyntheticConfig, make_example, write_synthetic
from semires_trainer.data.synthetic_scene import MIN_VISIBLE, Thing
from semires_trainer.data.synthetic_text import COLOURS, KINDS, SHAPES, TEXTURES, vocabulary
from semires_trainer.errors import ConfigError, DataError
from semires_trainer.proposals.felzenszwalb import FelzenszwalbProposer
from semires_trainer.proposals.masks import decode_masks

CONFIG = SyntheticConfig(images=3, evaluation_images=1, size=64, seed=7)

PHRASE = rf"(?:(?:{'|'.join((*TEXTURES, *COLOURS, *SHAPES, 'object'))}) ?)+"
SENTENCE = re.compile(
    r"the (?:(?P<size>larger|smaller|largest|smallest) )?"
    rf"(?P<target>{PHRASE}?)"
    r"(?: ?(?:on|at) the (?P<place>left|right|top|bottom))?"
    rf"(?: ?(?P<relation>left of|right of|above|below) the (?P<anchor>{PHRASE}))?"
)
BEYOND = {
    "left": lambda a, b: a[0] < b[0],
    "right": lambda a, b: a[0] > b[0],
    "top": lambda a, b: a[1] < b[1],
    "bottom": lambda a, b: a[1] > b[1],
    "left of": lambda a, b: a[0] < b[0],
    "right of": lambda a, b: a[0] > b[0],
    "above": lambda a, b: a[1] < b[1],
    "below": lambda a, b: a[1] > b[1],
}


def named_by(phrase: str, things: tuple[Thing, ...]) -> list[Thing]:
    words = set(phrase.split()) - {"object"}
    return [thing for thing in things if words <= {thing.shape, thing.colour, thing.texture}]


def meant_by(sentence: str, things: tuple[Thing, ...]) -> list[Thing]:
    """Reads the words alone; knows nothing of the generator's grammar."""
    parts = SENTENCE.fullmatch(sentence)
    assert parts is not None, sentence
    found = named_by(parts["target"], things)
    if parts["relation"]:
        (anchor,) = named_by(parts["anchor"], things)
        found = [t for t in found if t is not anchor and BEYOND[parts["relation"]](t.centre, anchor.centre)]
    if parts["place"]:
        found = [t for t in found if all(t is o or BEYOND[parts["place"]](t.centre, o.centre) for o in found)]
    if parts["size"]:
        best = max if parts["size"].startswith("larg") else min
        assert (len(found) == 2) == parts["size"].endswith("er")
        found = [best(found, key=lambda t: t.area)]
    return found


def read_folder(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def best_iou(mask: np.ndarray, proposals_PHW: np.ndarray) -> float:
    inter_P, union_P = ((op(proposals_PHW, mask)).sum(axis=(1, 2)) for op in (np.logical_and, np.logical_or))
    return float((inter_P / union_P).max())


@pytest.fixture(scope="module")
def examples() -> list[tuple[str, Example]]:
    config = SyntheticConfig()
    return [(split, make_example(config, split, index)) for split in SPLITS for index in range(10)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("synthetic") / "data"
    assert write_synthetic(path, CONFIG)
    return path


@pytest.fixture(scope="module")
def dataset(folder: Path) -> Dataset:
    return load_refer("RefCOCO", folder)


def test_every_expression_means_its_object_and_no_other(examples):
    for _, example in examples:
        for index, expressions in example.targets:
            for expression in expressions:
                assert meant_by(expression.text, example.scene.things) == [example.scene.things[index]]


def test_all_kinds_of_expressions_occur(examples):
    kinds = {e.kind for _, example in examples for _, expressions in example.targets for e in expressions}

    assert kinds == set(KINDS)


def test_an_object_has_two_or_three_different_expressions(examples):
    for _, example in examples:
        for _, expressions in example.targets:
            assert len(expressions) in (2, 3)
            assert len({expression.text for expression in expressions}) == len(expressions)


def test_splits_ask_for_their_own_shapes(examples):
    for split, example in examples:
        assert {example.scene.things[index].shape for index, _ in example.targets} <= set(SPLITS[split])


def test_objects_hide_one_another_but_never_too_much(examples):
    shares = [
        float(thing.mask_HW.sum() / thing.cover_HW.sum()) for _, example in examples for thing in example.scene.things
    ]

    assert min(shares) >= MIN_VISIBLE
    assert np.mean(np.array(shares) < 0.95) > 0.1


def test_visible_parts_are_disjoint(examples):
    for _, example in examples:
        assert np.sum([thing.mask_HW for thing in example.scene.things], axis=0).max() == 1


def test_felzenszwalb_segments_cover_the_objects_well_but_not_perfectly(examples):
    propose = FelzenszwalbProposer().propose
    ious = []
    for _, example in examples[::3]:
        pixels = np.asarray(Image.open(io.BytesIO(example.jpeg)))
        size = example.scene.size
        proposals = decode_masks([proposal.rle for proposal in propose(pixels)], height=size, width=size)
        ious += [best_iou(example.scene.things[index].mask_HW, proposals) for index, _ in example.targets]

    assert 0.65 <= np.mean(ious) <= 0.9


def test_an_example_depends_on_its_address_only():
    again = make_example(CONFIG, "train", 2)
    larger = make_example(SyntheticConfig(images=50, evaluation_images=9, size=64, seed=7), "train", 2)

    assert make_example(CONFIG, "train", 2).jpeg == again.jpeg == larger.jpeg


@pytest.mark.parametrize(
    ("config", "split", "index"),
    [
        pytest.param(SyntheticConfig(size=64, seed=8), "train", 2, id="seed"),
        pytest.param(CONFIG, "val", 2, id="split"),
        pytest.param(CONFIG, "train", 1, id="index"),
    ],
)
def test_another_address_is_another_picture(config, split, index):
    assert make_example(config, split, index).jpeg != make_example(CONFIG, "train", 2).jpeg


def test_writing_again_gives_the_same_bytes(folder, tmp_path):
    write_synthetic(tmp_path / "again", CONFIG)

    assert read_folder(tmp_path / "again") == read_folder(folder)


def test_the_loader_reads_what_was_written(dataset):
    assert dataset.splits == tuple(SPLITS)
    assert len(dataset.images) == 6
    assert {ref.category for ref in dataset.refs} <= set(SHAPES)


def test_images_have_the_size_that_the_annotations_say(folder, dataset):
    for image in dataset.images.values():
        with Image.open(folder / "images" / image.file_name) as picture:
            assert picture.size == (image.width, image.height) == (64, 64)


def test_outlines_are_the_visible_parts(dataset):
    example = make_example(CONFIG, "train", 0)
    refs = [ref for ref in dataset.refs if ref.image_id == 1]
    written = [rasterize(dataset.annotations[ref.annotation_id], 64, 64) for ref in refs]

    assert refs
    np.testing.assert_array_equal(written, [example.scene.things[i].mask_HW for i, _ in example.targets])


def test_boxes_enclose_the_masks(dataset):
    for annotation in dataset.annotations.values():
        ys, xs = np.nonzero(rasterize(annotation, 64, 64))
        assert annotation.bbox == (xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1)


def test_the_vocabulary_holds_every_word(folder, examples):
    tokens = (folder / "vocab.txt").read_text().splitlines()
    sentences = (x.text for _, example in examples for _, expressions in example.targets for x in expressions)
    words = {word for sentence in sentences for word in sentence.split()}

    assert tokens == vocabulary()
    assert tokens[0] == "[PAD]"
    assert words <= set(tokens)


def test_the_same_benchmark_is_not_written_twice(folder):
    before = (folder / "instances.json").stat().st_mtime_ns

    assert not write_synthetic(folder, CONFIG)
    assert (folder / "instances.json").stat().st_mtime_ns == before


def test_another_benchmark_in_the_folder_is_refused_and_left_alone(folder):
    before = read_folder(folder)

    with pytest.raises(DataError, match="holds something else"):
        write_synthetic(folder, SyntheticConfig(images=1, evaluation_images=1, size=64, seed=8))
    assert read_folder(folder) == before


def test_a_stop_on_the_way_leaves_nothing(tmp_path):
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_synthetic(tmp_path / "data", CONFIG, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_progress_counts_all_images(tmp_path):
    seen = []
    write_synthetic(tmp_path / "data", CONFIG, progress=lambda done, total: seen.append((done, total)))

    assert seen == [(i, 6) for i in range(1, 7)]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        pytest.param("images", 0, id="no images"),
        pytest.param("evaluation_images", 0, id="nothing to evaluate"),
        pytest.param("size", 32, id="too small to see"),
        pytest.param("seed", -1, id="negative seed"),
    ],
)
def test_nonsense_is_refused_by_name(field, value):
    with pytest.raises(ConfigError, match=field.replace("_", "-")):
        SyntheticConfig(**{field: value})
