"""What listings showed of a run in an object store, so that looking at thousands of results takes few requests."""

from threading import Lock

from logitfuse.storage.errors import StoreFailed
from logitfuse.storage.remote import RemoteFolder

SUFFIX = ".json"


class Snapshot:
    """Records and sizes of each place as they were when it was first asked about.

    What is found here spares a request. What is not found means nothing, because listings lag behind: it is then asked
    for by its exact name.
    """

    def __init__(self, remote: RemoteFolder) -> None:
        self._remote = remote
        self._sizes: dict[str, dict[str, int]] = {}
        self._records: dict[str, bytes] = {}
        self._lock = Lock()

    def record(self, name: str) -> bytes | None:
        """Return a record's bytes if they were seen."""
        place = name.rpartition("/")[0]
        if place:
            self._look(place)
        return self._records.get(name)

    def size(self, place: str, name: str) -> int | None:
        """Return the size of an object of a place if it was seen."""
        return self._look(place).get(name)

    def forget(self, name: str) -> None:
        """Ask for a record afresh from now on."""
        self._records.pop(name, None)

    def _look(self, place: str) -> dict[str, int]:
        with self._lock:
            if place not in self._sizes:
                try:
                    found = self._remote.list(place)
                except StoreFailed:  # whoever asks by name is told why
                    found = {}
                records = [n for n in found if n.endswith(SUFFIX) and n.rpartition("/")[0] == place]
                self._records |= self._remote.get_many(records)
                self._sizes[place] = {name: int(facts["size"]) for name, facts in found.items()}
            return self._sizes[place]
