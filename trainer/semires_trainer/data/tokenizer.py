"""BERT's uncased word pieces from a vocabulary file, cut and padded to a fixed length."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import BertWordPieceTokenizer

from semires_trainer.errors import WeightsError

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class Tokens(NamedTuple):
    """One sentence as the text encoder reads it."""

    input_ids: npt.NDArray[np.int64]
    """(T,): [CLS] first, zero padded."""
    attention_mask: npt.NDArray[np.int64]
    """(T,): 1 for tokens, 0 for padding."""


class Tokenizer:
    """`tokenizer(text) -> Tokens` of exactly `max_tokens` ids.

    As the official code: special tokens are added first and the ids are cut afterwards, so a long sentence
    loses [SEP].
    """

    def __init__(self, vocab_path: str | Path, max_tokens: int = 20) -> None:
        """Raises WeightsError if the vocabulary is missing or is not BERT's."""
        if max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")
        self.vocab_path = Path(vocab_path)
        self.max_tokens = max_tokens
        vocabulary = read_vocabulary(self.vocab_path)
        self.vocab_size = len(vocabulary)
        self._tokenizer = BertWordPieceTokenizer(vocabulary, lowercase=True)

    def __call__(self, text: str) -> Tokens:
        """Tokenize one sentence."""
        ids = self._tokenizer.encode(text).ids[: self.max_tokens]
        input_ids = np.zeros(self.max_tokens, dtype=np.int64)
        attention_mask = np.zeros(self.max_tokens, dtype=np.int64)
        input_ids[: len(ids)] = ids
        attention_mask[: len(ids)] = 1
        return Tokens(input_ids, attention_mask)


def read_vocabulary(path: Path) -> dict[str, int]:
    """Token -> id, one token a line; WeightsError unless it holds BERT's special tokens with [PAD] at 0."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(
            f"vocabulary {path} can't be read: {error}",
            field="spec.model.bert",
            remedy="Give a folder with vocab.txt.",
        ) from error
    if lines and not lines[-1]:
        lines.pop()
    vocabulary = {line.rstrip("\r"): number for number, line in enumerate(lines)}
    missing = [token for token in SPECIAL_TOKENS if token not in vocabulary]
    if missing or vocabulary["[PAD]"] != 0:
        problem = (
            f"lacks {', '.join(missing)}" if missing else f"has [PAD] at line {vocabulary['[PAD]'] + 1}, not first"
        )
        raise WeightsError(
            f"vocabulary {path} {problem}",
            field="spec.model.bert",
            remedy="Use the vocab.txt of an uncased BERT.",
        )
    return vocabulary
