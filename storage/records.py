"""Records: one small JSON file per result, written last. The union of them is the manifest."""

import json
import shlex
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from logitfuse.storage.checksums import checksum_bytes
from logitfuse.storage.errors import MadeByNewer, ShardCorrupt
from logitfuse.storage.keys import canonical_json

RECORD_FORMAT = 1
COUNTED = ("chunks", "documents", "documents_read", "tokens", "bytes", "positions")  # whole numbers, where they stand
LISTED = "corpus"  # the stage of the record that lists the corpus's shards


def within(name: str) -> str:
    """Return a relative name with `/` between folders; raise ValueError for one that could lead out of a folder."""
    parts = name.split("/")
    if "\0" in name or not all(parts) or {".", ".."} & set(parts) or len(name.encode()) > 1000:
        raise ValueError(f"{name[:80]!r} is no name below the run folder")
    return name


Name = Annotated[str, AfterValidator(within)]


class StoredFile(BaseModel):
    """A file that a record vouches for; `name` is relative to the record's folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Name
    bytes: int = Field(ge=0)
    checksum: str


class Record(BaseModel):
    """What was made, from what, and the checksums of its files.

    `counts` are facts of the content (rows, tokens, ...) and the same on every machine; `made` says when, where and
    with which versions, and is the only part that may differ between two runs of the same work.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    format: int = RECORD_FORMAT
    stage: str
    place: Name  # folder under the run, such as capture/gemma
    name: Name  # such as part-00003 or model
    shard: int | None = None
    key: Name
    files: list[StoredFile]
    settings: dict[str, Any] = {}
    inputs: list[str] = []
    fingerprints: dict[str, Any] = {}
    counts: dict[str, Any] = {}
    made: dict[str, Any] = {}

    @model_validator(mode="after")
    def _counts_can_be_used(self) -> "Record":
        """Refuse facts of another kind than all stages after this one read them as."""
        for name in COUNTED:
            if name in self.counts and not (type(self.counts[name]) is int and self.counts[name] >= 0):
                raise ValueError(f"counts.{name} is no number")
        if self.stage == LISTED:
            shards = self.counts.get("shards")
            if not isinstance(shards, list) or not all(isinstance(path, str) and within(path) for path in shards):
                raise ValueError("counts.shards is no list of records")
        return self

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
        source = f" --source {shlex.quote(self.place.split('/')[1])}" if "/" in self.place else ""
        shard = f" --shards {self.shard}" if self.shard is not None else ""
        return f"Redo it: logitfuse stage {self.stage} RECIPE{source}{shard} --redo"


def record_name(name: str, key: str) -> str:
    """Return the file name of a record."""
    return f"{name}.{key}.json"


def to_bytes(record: Record) -> bytes:
    """Serialise a record with a checksum of itself, so that a damaged record is not believed."""
    body = record.model_dump(mode="json")
    return canonical_json({"record": body, "checksum": checksum_bytes(canonical_json(body))}) + b"\n"


def from_bytes(data: bytes, where: str) -> Record:
    """Parse a record; raise `ShardCorrupt` if it is damaged, `MadeByNewer` for a later version's."""
    try:
        wrapped = json.loads(data)
        body, checksum = wrapped["record"], wrapped["checksum"]
        sound = checksum == checksum_bytes(canonical_json(body))
        exact = data == canonical_json(wrapped) + b"\n"
    except (ValueError, KeyError, TypeError, RecursionError):
        body, sound, exact = None, False, False
    format = body.get("format", 0) if isinstance(body, dict) else 0
    if sound and isinstance(format, int) and format > RECORD_FORMAT:
        raise MadeByNewer(
            f"{where}: written by a newer logitfuse (record format {format}, this one knows {RECORD_FORMAT}). "
            "Upgrade logitfuse, or use another run folder."
        )
    if body is None or not (sound and exact):
        raise ShardCorrupt(f"{where}: the record is damaged. Delete it and run its stage again; only it is redone.")
    try:
        return Record.model_validate(body)
    except ValidationError as error:
        problem = error.errors()[0]
        raise ShardCorrupt(
            f"{where}: not a record this version understands ({'.'.join(map(str, problem['loc'])) or 'record'}: "
            f"{problem['msg']}). Delete it and run its stage again; only it is redone."
        ) from error
