"""Records: one small JSON file per result, written last. The union of them is the manifest."""

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from logitfuse.storage.checksums import checksum_bytes
from logitfuse.storage.errors import ShardCorrupt
from logitfuse.storage.keys import canonical_json

RECORD_FORMAT = 1


class StoredFile(BaseModel):
    """A file that a record vouches for; `name` is relative to the record's folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    bytes: int
    checksum: str


class Record(BaseModel):
    """What was made, from what, and the checksums of its files.

    `counts` are facts of the content (rows, tokens, ...) and the same on every machine; `made` says when, where and
    with which versions, and is the only part that may differ between two runs of the same work.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    format: int = RECORD_FORMAT
    stage: str
    place: str  # folder under the run, such as capture/gemma
    name: str  # such as part-00003 or model
    shard: int | None = None
    key: str
    files: list[StoredFile]
    settings: dict[str, Any] = {}
    inputs: list[str] = []
    fingerprints: dict[str, Any] = {}
    counts: dict[str, Any] = {}
    made: dict[str, Any] = {}

    @property
    def checksum(self) -> str:
        """Checksum of the content: of the one file, or of all files' checksums together."""
        if len(self.files) == 1:
            return self.files[0].checksum
        listing = [[file.name, file.checksum] for file in self.files]
        return checksum_bytes(canonical_json([listing, self.key]))

    @property
    def label(self) -> str:
        """How people call the result: capture/gemma/part-00003."""
        return f"{self.place}/{self.name}"

    @property
    def folder(self) -> str:
        """Where the files of a result that is a folder lie: train/fused/model.<key>."""
        return f"{self.place}/{self.files[0].name.split('/')[0]}"

    @property
    def file_name(self) -> str:
        """Name of the record's own file."""
        return record_name(self.name, self.key)

    @property
    def path(self) -> str:
        """Path of the record's own file under the run: capture/gemma/part-00003.<key>.json."""
        return f"{self.place}/{self.file_name}"

    @property
    def redo(self) -> str:
        """What to do where its files are damaged."""
        source = self.place.split("/")[1] if "/" in self.place else None
        shard = f" --shards {self.shard}" if self.shard is not None else ""
        return f"Redo it: logitfuse stage {self.stage} RECIPE{f' --source {source}' if source else ''}{shard} --redo"


def record_name(name: str, key: str) -> str:
    """Return the file name of a record."""
    return f"{name}.{key}.json"


def to_bytes(record: Record) -> bytes:
    """Serialise a record with a checksum of itself, so that a damaged record is not believed."""
    body = record.model_dump(mode="json")
    return canonical_json({"record": body, "checksum": checksum_bytes(canonical_json(body))}) + b"\n"


def from_bytes(data: bytes, where: str) -> Record:
    """Parse a record; raise `ShardCorrupt` if it is damaged or was written by a newer version."""
    try:
        wrapped = json.loads(data)
        body, checksum = wrapped["record"], wrapped["checksum"]
        sound = checksum == checksum_bytes(canonical_json(body))
        exact = data == canonical_json(wrapped) + b"\n"
    except (ValueError, KeyError, TypeError):
        body, sound, exact = None, False, False
    if isinstance(body, dict) and sound and body.get("format", 0) > RECORD_FORMAT:
        raise ShardCorrupt(
            f"{where}: written by a newer logitfuse (record format {body['format']}, this one knows {RECORD_FORMAT}). "
            "Upgrade logitfuse, or use another run folder."
        )
    if body is None or not (sound and exact):
        raise ShardCorrupt(f"{where}: the record is damaged. Delete it and run its stage again; only it is redone.")
    try:
        return Record.model_validate(body)
    except ValidationError as error:
        raise ShardCorrupt(f"{where}: not a record this version understands: {error}") from error
