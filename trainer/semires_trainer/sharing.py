"""The proposal store of a run on S3: what others have made is brought here, what is made here goes there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from semires_trainer.fetch import Exchange, pull_store, push_store
from semires_trainer.proposals.store import StoreKey
from semires_trainer.storage import Storage


@dataclass(kw_only=True)
class SharedStore:
    """One generator's masks in the store at `uri`, and their copy below `root`."""

    key: StoreKey
    storage: Storage
    uri: str
    root: Path
    pushed: frozenset[str] = field(default=frozenset())
    """Shards that were here at the last push."""

    def pull(self, should_stop: Callable[[], bool]) -> Exchange:
        """Bring the shards that are not here yet."""
        moved = pull_store(self.key, self.storage, self.uri, self.root, should_stop=should_stop)
        self.pushed = self._shards()
        return moved

    def push(self) -> None:
        """Send new shards; asks the service only if there are some."""
        shards = self._shards()
        if shards != self.pushed:
            push_store(self.key, self.storage, self.root, self.uri)
            self.pushed = shards

    def _shards(self) -> frozenset[str]:
        return frozenset(path.name for path in (self.root / self.key.folder_name).glob("*.safetensors"))
