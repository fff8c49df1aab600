"""One door to every data set the manifest can name."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Protocol

from semires_trainer.data.custom import load_custom
from semires_trainer.data.records import Dataset
from semires_trainer.data.refer import FILES, load_refer
from semires_trainer.errors import ConfigError

logger = logging.getLogger(__name__)


class DatasetSection(Protocol):
    """What is read of the resolved manifest's `dataset` section."""

    @property
    def name(self) -> str:
        """RefCOCO, RefCOCOPlus, GRefUMD, GRefGoogle or Custom."""

    @property
    def annotations(self) -> str:
        """REFER's data folder, or the JSON file of a custom data set."""


def load_dataset(section: DatasetSection) -> Dataset:
    """Read and check the data set of a manifest. DataError; ConfigError for an unknown name."""
    path = Path(section.annotations).expanduser()
    if section.name == "Custom":
        dataset = load_custom(section.name, path)
    elif section.name in FILES:
        dataset = load_refer(section.name, path)
    else:
        raise ConfigError(
            f"unknown data set {section.name!r}",
            field="spec.dataset.name",
            remedy=f"Use one of {', '.join(FILES)}, Custom.",
        )
    logger.info("Read %s: %d images, %d refs.", dataset.name, len(dataset.images), len(dataset.refs))
    return dataset
