"""Token ids are BERT's, cut and padded as the official loader does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from semires_trainer.data.tokenizer import Tokenizer
from semires_trainer.errors import WeightsError

from .conftest import DATA

VOCAB = DATA / "bert-base-uncased-vocab.txt"
ODD = ["", "   ", "Café-au-lait №5", "[SEP] the [MASK] dog", "人 on the left", "a\tb\n", "😀 hat", "x" * 300, "don't"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(VOCAB, 20)


def test_real_expressions_get_the_ids_of_transformers(tokenizer: Tokenizer) -> None:
    from transformers import BertTokenizer

    reference = BertTokenizer(str(VOCAB), do_lower_case=True)
    expressions = json.loads((DATA / "refcoco_expressions.json").read_text()) + ODD

    for text in expressions:
        ids = reference.encode(text, add_special_tokens=True)[:20]
        padding = 20 - len(ids)
        tokens = tokenizer(text)

        assert tokens.input_ids.tolist() == ids + [0] * padding
        assert tokens.attention_mask.tolist() == [1] * len(ids) + [0] * padding


def test_ids_of_a_known_sentence(tokenizer: Tokenizer) -> None:
    tokens = tokenizer("The dog on the left")

    assert tokens.input_ids.tolist() == [101, 1996, 3899, 2006, 1996, 2187, 102] + [0] * 13
    assert tokens.input_ids.dtype == tokens.attention_mask.dtype == np.int64


def test_the_cut_of_a_long_sentence_drops_the_separator() -> None:
    tokens = Tokenizer(VOCAB, 5)("the dog on the left")

    assert tokens.input_ids.tolist() == [101, 1996, 3899, 2006, 1996]
    assert tokens.attention_mask.sum() == 5


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        pytest.param("[PAD]\n[UNK]\n[SEP]\n[MASK]\nthe\n", r"lacks \[CLS\]", id="no-cls"),
        pytest.param("the\n[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n", r"\[PAD\] at line 2, not first", id="pad-not-first"),
        pytest.param("", "lacks", id="empty"),
    ],
)
def test_a_vocabulary_that_is_not_berts_is_refused(content: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text(content)

    with pytest.raises(WeightsError, match=f"vocab.txt .*{problem}"):
        Tokenizer(tmp_path / "vocab.txt")


def test_a_missing_vocabulary_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"spec\.model\.bert: vocabulary .*vocab\.txt can't be read"):
        Tokenizer(tmp_path / "vocab.txt")
