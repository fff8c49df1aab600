"""Storage by URI: s3:// by boto3, file:// and plain paths.

hf:// stays with `models.weights`: the hub's client has a cache and checks of its own.
"""

from semires_trainer.storage.ranged_file import RangedFile
from semires_trainer.storage.results import Blob, Stat, Transfer
from semires_trainer.storage.settings import StorageSettings
from semires_trainer.storage.store import Storage
from semires_trainer.storage.uri import Location, parse_uri

__all__ = ["Blob", "Location", "RangedFile", "Stat", "Storage", "StorageSettings", "Transfer", "parse_uri"]
