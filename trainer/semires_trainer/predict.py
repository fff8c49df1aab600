"""Segment what a sentence refers to in one picture, with a trained model folder."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from semires_trainer.data.expressions import MAX_WORDS
from semires_trainer.data.images import decode
from semires_trainer.data.tokenizer import Tokenizer
from semires_trainer.data.transforms import normalize, resize_image, to_tensor
from semires_trainer.errors import ConfigError, DataError, InfrastructureError, WeightsError
from semires_trainer.models.deploy import ModelInfo, load_model
from semires_trainer.models.lavt import LAVT
from semires_trainer.visualize import PREDICTION, Mask, overlay

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the model sees in one picture for one sentence."""

    text: str
    mask_HW: Mask
    """Where the foreground is more probable than the background, at the picture's own size."""
    probability_HW: npt.NDArray[np.float32]
    """Probability of the foreground, at the picture's own size."""
    unread_words: bool
    """The sentence is longer than the model reads; its end was ignored."""

    @property
    def area_pixels(self) -> int:
        """Pixels of the mask."""
        return int(np.count_nonzero(self.mask_HW))

    @property
    def area_share(self) -> float:
        """Share of the picture that the mask covers, 0 to 1."""
        return self.area_pixels / self.mask_HW.size

    @property
    def confidence(self) -> float:
        """Mean probability of the foreground inside the mask, 0.5 to 1; 0 for an empty mask."""
        return float(self.probability_HW[self.mask_HW].mean()) if self.area_pixels else 0.0

    def to_json(self) -> dict[str, Any]:
        """The figures, for programs."""
        height, width = self.mask_HW.shape
        return {
            "text": self.text,
            "width": width,
            "height": height,
            "areaPixels": self.area_pixels,
            "areaPercent": round(100 * self.area_share, 3),
            "confidence": round(self.confidence, 4),
            "unreadWords": self.unread_words,
        }


class Predictor:
    """A model folder, loaded once, asked as often as you like."""

    def __init__(self, checkpoint: Path, *, device: str = "cpu", vocab: Path | None = None) -> None:
        """Load `checkpoint`, the folder `model` or `burn-in` of a run, or what `semires convert` wrote.

        Raises:
            WeightsError: no such folder, damaged, or without a vocabulary and none given.
            InfrastructureError: a GPU was asked for and none is visible.
        """
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise InfrastructureError("no GPU is visible", field="--device", remedy="Use --device cpu.")
        self.device = torch.device(device)
        model, self.info = load_model(checkpoint)
        self.model: LAVT = model.to(self.device)
        self._tokenizer = Tokenizer(_vocabulary(checkpoint, self.info, vocab), self.info.max_tokens)

    @torch.inference_mode()
    def __call__(self, image: Image.Image, text: str) -> Prediction:
        """Segment what `text` names in the RGB picture `image`.

        Raises ConfigError for a text that is no sentence.
        """
        sentence = check_sentence(text)
        tokens = self._tokenizer(sentence)
        pixels = to_tensor(resize_image(image.convert("RGB"), self.info.image_size))
        ids, mask = (torch.from_numpy(array)[None].to(self.device) for array in tokens)
        logits = self.model(normalize(pixels[None].to(self.device)), ids, mask).float()
        foreground = original_size_probability(logits, height=image.height, width=image.width)
        probability = foreground.cpu().numpy().astype(np.float32)
        return Prediction(
            text=sentence,
            mask_HW=probability > 0.5,
            probability_HW=probability,
            unread_words=self._is_cut(sentence),
        )

    def _is_cut(self, sentence: str) -> bool:
        longer = Tokenizer(self._tokenizer.vocab_path, self.info.max_tokens + 1)
        return bool(longer(sentence).attention_mask[-1])


def original_size_probability(logits_12HW: Tensor, *, height: int, width: int) -> Tensor:
    """Probability of the foreground (height, width); logits are resized first, as in evaluation."""
    resized = F.interpolate(logits_12HW, size=(height, width), mode="bilinear", align_corners=False)
    return resized.softmax(dim=1)[0, 1]


def check_sentence(text: str) -> str:
    """`text` without outer blanks; ConfigError if nothing is left or it is no sentence at all."""
    sentence = " ".join(text.split())
    if not sentence:
        raise ConfigError("the sentence is empty", field="--text", remedy='Name the object: --text "the dog".')
    words = len(sentence.split())
    if words > MAX_WORDS:
        raise ConfigError(
            f"the sentence has {words} words, at most {MAX_WORDS} are accepted",
            field="--text",
            remedy="Write a short expression that names one object.",
        )
    return sentence


def _vocabulary(checkpoint: Path, info: ModelInfo, given: Path | None) -> Path:
    path = given or info.vocab
    if path is None:
        raise WeightsError(
            f"{checkpoint} has no vocab.txt", field="--vocab", remedy="Give BERT's vocabulary with --vocab."
        )
    return path


def read_image(path: Path) -> Image.Image:
    """Decode one picture to RGB; DataError if it is missing, truncated or not a picture."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}", field="--image", remedy="Give an existing picture.") from error
    return decode(content, name=str(path))


def draw(image: Image.Image, prediction: Prediction) -> Image.Image:
    """The picture with the mask over it, at its own size."""
    picture = np.asarray(image.convert("RGB"))
    return Image.fromarray(overlay(picture, prediction.mask_HW, PREDICTION))
