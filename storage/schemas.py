"""What each stage writes: one `pa.schema` per stage, versioned, in one place.

One row is one chunk of text. Lists are flat: a chunk with P positions and k kept tokens each holds P*k ids.
A *position* p has consumed p text tokens and predicts the next one; `first` is the first position that has a
distribution (0 with a start token, 1 without). Log-probabilities are natural, rounded (capture:
kernels/rounding.py, align and fuse: to fp16) but stored as float32, which every Parquet reader decodes with the
byte-stream-split encoding.

Raise a stage's version when a column, its meaning, or the default of one of its settings changes: keys of shards
hold it, so old shards are then redone instead of being misread.
"""

from dataclasses import dataclass

import pyarrow as pa

IDS = pa.list_(pa.field("element", pa.int32(), nullable=False))
FLOATS = pa.list_(pa.field("element", pa.float32(), nullable=False))


def _field(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


# These three tie every row of every stage to the text it was made from.
IDENTITY = (_field("doc_id", pa.string()), _field("chunk", pa.int32()), _field("text_hash", pa.binary(16)))


@dataclass(frozen=True)
class StageSchema:
    """The columns of one stage's shards and their version."""

    stage: str
    version: int
    arrow: pa.Schema


def _schema(stage: str, version: int, *columns: tuple[str, pa.DataType]) -> StageSchema:
    fields = [*IDENTITY, *(_field(name, kind) for name, kind in columns)]
    return StageSchema(stage, version, pa.schema(fields))


PREPARE = _schema(
    "prepare",
    1,
    ("text", pa.string()),
    ("byte_start", pa.int64()),
    ("byte_end", pa.int64()),
    ("last", pa.bool_()),  # the document ends with this chunk
    ("domain", pa.string()),
    ("split", pa.string()),
)
ENCODE = _schema(
    "encode",
    2,
    ("last", pa.bool_()),
    ("ids", IDS),  # [L] text tokens, no special tokens
    ("ends", IDS),  # [L] byte of the chunk at which each token ends, -1 where that is not known
)
CAPTURE = _schema(
    "capture",
    3,
    ("first", pa.int32()),
    ("counts", IDS),  # [P] kept tokens: k everywhere unless the mode says otherwise
    ("ids", IDS),  # [N] best first, ties by lowest id
    ("logprobs", FLOATS),  # [N] of the full softmax, or of what drawing estimates
    ("draws", IDS),  # [N] how often each was drawn, 0 kept for certain; empty where nothing is drawn
    ("tail", FLOATS),  # [P] mass outside the kept tokens
    ("gold_logprob", FLOATS),  # [P] of the token that really follows, NaN past the end of the text
    ("gold_rank", IDS),  # [P] 0 is the likeliest, 32 means that or later
    ("logits", FLOATS),  # [N] of the kept tokens as fp16, for the published method; else empty
)
ALIGN = _schema(
    "align",
    2,
    ("source_position", IDS),  # [T] position of the source that serves each target position, -1 none
    ("counts", IDS),  # [T] support size, 0 where not served
    ("ids", IDS),  # target ids, best first
    ("logprobs", FLOATS),
    ("mass", FLOATS),  # [T] probability kept on target ids
    ("logits", FLOATS),  # of `ids`, one-hot rows 1.0, for the published method; else empty
)
FUSE = _schema(
    "fuse",
    2,
    ("split", pa.string()),
    ("domain", pa.string()),
    ("inputs", IDS),  # [T] what the target reads, its start token first if it has one
    ("labels", IDS),  # [T] what really follows
    ("counts", IDS),  # [T] support size, 0 where no source serves the position
    ("ids", IDS),
    ("logprobs", FLOATS),
    ("mass", FLOATS),  # [T]
    ("winner", IDS),  # [T] the source that counts most at each position, -1 where none does
    ("weights", FLOATS),  # [S] how much each source counts, the mean over the positions of its document or block
    ("scores", FLOATS),  # [S] of each source on the document (nats per byte) or block, NaN where it has none
)
EVALUATE = _schema(
    "evaluate",
    1,
    ("domain", pa.string()),
    ("split", pa.string()),
    ("bytes", pa.int64()),  # of the chunk's text
    ("begin", pa.int32()),  # byte at which the first scored token begins
    ("ends", IDS),  # [N] byte at which each scored token ends
    ("nats", FLOATS),  # [N] -log p of each scored token; start and end tokens are left out
)
MAP = StageSchema(
    "map",
    3,
    pa.schema(
        [
            _field("source_id", pa.int32()),
            _field("target_ids", IDS),
            _field("weights", FLOATS),  # of each target id where this one is written; they sum to 1
            _field("distance", pa.int32()),  # edit distance of the pieces, -1 where none applies
            _field("how", pa.string()),  # exact, role, byte, distance, first_piece, learned, unmapped
            _field("times", pa.float32()),  # how often it was counted with a target id, 0 where it was not
        ]
    ),
)

SCHEMAS = {schema.stage: schema for schema in (PREPARE, ENCODE, CAPTURE, MAP, ALIGN, FUSE, EVALUATE)}
# Stages that write folders or pages instead of shards; their versions go into their keys all the same.
OTHER_VERSIONS = {
    "check": 2, "adapt": 1, "train": 2, "merge": 1, "headroom": 2, "suites": 1, "report": 3, "corpus": 1,
}  # fmt: skip


def schema_version(stage: str) -> int:
    """Return the version that goes into the stage's keys."""
    return SCHEMAS[stage].version if stage in SCHEMAS else OTHER_VERSIONS[stage]
