"""The smallest piece of a stage: what one Prefect task does and one record describes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Unit:
    """A stage's work on one source (or tokenizer, or arm) and one shard; None where a stage has no such axis."""

    stage: str
    source: str | None = None
    shard: int | None = None

    @property
    def part(self) -> str:
        """Name of its shard."""
        return f"part-{self.needed_shard:05d}"

    @property
    def needed_source(self) -> str:
        assert self.source is not None
        return self.source

    @property
    def needed_shard(self) -> int:
        assert self.shard is not None
        return self.shard

    def __str__(self) -> str:
        parts = [self.stage, self.source, None if self.shard is None else self.part]
        return "/".join(part for part in parts if part)
