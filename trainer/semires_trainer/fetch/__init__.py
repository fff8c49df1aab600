"""What a job reads from s3://, brought to this node once, and the proposals that jobs share there. No torch."""

from semires_trainer.fetch.job import fetch_inputs
from semires_trainer.fetch.places import Places, localize
from semires_trainer.fetch.progress import FetchProgress
from semires_trainer.fetch.stores import Exchange, pull_store, push_store

__all__ = ["Exchange", "FetchProgress", "Places", "fetch_inputs", "localize", "pull_store", "push_store"]
