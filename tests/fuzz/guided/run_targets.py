"""Readers of a run folder that a stranger made: records, shards, and the small files beside them; see `Target`."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from place import Place, Target


def signed(body: Any) -> bytes:
    """Wrap a record's content as whoever forges one can."""
    from logitfuse.storage.checksums import checksum_bytes
    from logitfuse.storage.keys import canonical_json

    return canonical_json({"record": body, "checksum": checksum_bytes(canonical_json(body))}) + b"\n"


def _tree(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def record(place: Place, data: bytes) -> None:
    """A record as it is, and one with this content whose checksum was made anew."""
    from logitfuse.storage.errors import LogitfuseError
    from logitfuse.storage.records import from_bytes

    with suppress(LogitfuseError):
        from_bytes(data, "capture/x/part-00000.json")
    try:
        wrapped = signed(_tree(data))
    except (ValueError, RecursionError):  # NaN, half a surrogate pair: nobody can sign those
        return
    found = from_bytes(wrapped, "capture/x/part-00000.json")
    names = [found.place, found.name, found.key, *(file.name for file in found.files)]
    assert not any(name.startswith("/") or ".." in name.split("/") or "\0" in name for name in names)
    for told in (found.checksum, found.label, found.path, found.redo):
        assert told


def _records(place: Place) -> list[bytes]:
    bodies = [json.loads(data)["record"] for data in place.contents("*/*.json") + place.contents("*/*/*.json")
              if b'"record":' in data]  # fmt: skip
    return [json.dumps(body).encode() for body in bodies]


def listing(place: Place, data: bytes) -> None:
    """A run folder in which one signed record has this content: what `status` and `stage prepare` make of it."""
    from logitfuse.flows.run_counts import Standing, Wanted
    from logitfuse.storage.places import open_store
    from logitfuse.tasks.execute import do_prepare

    body = _tree(data)
    if not isinstance(body, dict) or not isinstance(body.get("place"), str) or not isinstance(body.get("name"), str):
        return
    run = _run(place)
    chosen = [p for p in run.store.root.rglob("*.json") if p.name.startswith(f"{body['name']}.") and p.parent.name
              == body["place"].rpartition("/")[2]]  # fmt: skip
    if not chosen:
        return
    try:
        chosen[0].write_bytes(signed(body))
    except (ValueError, RecursionError):
        return
    counted = Standing(lambda: open_store(str(place.scratch), "tiny"))
    counted.look()
    Wanted(run).look()
    do_prepare(run)


def _run(place: Place) -> Any:
    """Open a fresh copy of the run; its models are read once."""
    from logitfuse.tasks.models.source import read_source
    from logitfuse.tasks.recipe import read_recipe
    from logitfuse.tasks.run import Run

    def read(settings: Any) -> Any:
        if settings.model not in place.sources:
            place.sources[settings.model] = read_source(settings)
        return place.sources[settings.model]

    place.copy(place.run, "tiny")
    return Run(read_recipe(str(place.recipe), [f"execution.folder={place.scratch}"]), read)


def beside(name: str, read: Callable[[Any], object], folder: str = "small") -> Callable[[Place, bytes], None]:
    """A small file of a run folder that holds nothing else; `read` is given the folder."""

    def read_it(place: Place, data: bytes) -> None:
        place.file(f"{folder}/{name}", data)
        read(place.scratch / folder)

    return read_it


def _identity(folder: Path) -> None:
    from logitfuse.storage.store import LocalStore
    from logitfuse.tasks.checks import check_folder, read_identity
    from logitfuse.tasks.recipe import Recipe

    read_identity(LocalStore(folder))
    recipe = Recipe.model_validate({"name": folder.name, "execution": {"folder": str(folder.parent)}})
    check_folder(recipe)


def _journal(folder: Path) -> None:
    from logitfuse.flows.run_watch import RunState, last_of_journal
    from logitfuse.storage.store import LocalStore

    last = last_of_journal(LocalStore(folder))
    state = RunState("a", "b", [], [], [], "", last, None)
    assert str(state.view) and json.dumps(state.facts()) and state.is_over in (True, False)


def _metrics(folder: Path) -> None:
    from logitfuse.flows.losses import newest_losses
    from logitfuse.tasks.reporting.curves import held_out_looks, last_tenth, median, thinned
    from logitfuse.tasks.training.metrics import MetricsFile, last_line, read_metrics, scalars

    for losses in newest_losses(folder):
        assert str(losses) and json.dumps(losses.facts(), allow_nan=False)
    file = folder / "train" / "fused" / "metrics.k.jsonl"
    if line := last_line(file):
        scalars(line)
    lines = read_metrics(file)
    (
        last_tenth(lines, "clm_loss"),
        held_out_looks(lines),
        thinned(lines),
        median([x["tokens_per_s"] for x in lines if x.get("tokens_per_s") is not None]),
    )
    MetricsFile(file, 1)


def _note(folder: Path) -> None:
    from logitfuse.flows.progress_notes import read_notes
    from logitfuse.storage.store import LocalStore

    for note in read_notes(LocalStore(folder)):
        assert all(str(bar.bar.at) for bar in note.bars)


def _lock(folder: Path) -> None:
    from logitfuse.storage.locks import only_one

    with only_one(folder / "x.lock", lambda line: None):
        pass


def _report(folder: Path) -> None:
    from logitfuse.tasks.inspect.opened import recipe_of

    recipe_of(str(folder), ["train.max_steps=3"])


def _looks(folder: Path) -> None:
    from logitfuse.tasks.study.looks import caution, read_looks

    caution(read_looks(folder), "test")


def _stamps(folder: Path) -> None:
    from logitfuse.storage.fetched import _stamps
    from logitfuse.storage.newest import NewestFolder

    class Remote:
        def get(self, name: str) -> bytes:
            return (folder / ".fetched.json").read_bytes()

        def download(self, name: str, path: Path) -> None:
            path.write_bytes(b"")

    _stamps(folder)
    NewestFolder(Remote(), "checkpoints").fetch(folder / "fetched")  # type: ignore[arg-type]


def checkpoint(place: Place, data: bytes) -> None:
    """A checkpoint's state as it is, and one with this content whose checksum was made anew."""
    from logitfuse.tasks.training.checkpoint import STATE_FILE, _checksum, latest_checkpoint

    folder = place.scratch / "checkpoints"
    tree = _tree(data)
    forged = json.dumps(tree | {"checksum": _checksum({k: v for k, v in tree.items() if k != "checksum"})}
                        if isinstance(tree, dict) else tree).encode()  # fmt: skip
    for content in (data, forged):
        place.file(f"checkpoints/checkpoint-00000001/{STATE_FILE}", content)
        for name in ("model.safetensors", "optimizer.safetensors"):
            place.file(f"checkpoints/checkpoint-00000001/{name}", b"x")
        latest_checkpoint(folder, "k", lambda line: None)


def _checkpoints(place: Place) -> list[bytes]:
    from logitfuse.storage.checksums import checksum_bytes

    files = {n: {"bytes": 1, "checksum": checksum_bytes(b"x")} for n in ("model.safetensors", "optimizer.safetensors")}
    return [json.dumps({"format": 2, "step": 1, "key": "k", "processes": 1, "files": files}).encode()]


def shard(place: Place, data: bytes) -> None:
    """A shard's bytes, read as the stages, `verify`'s first look and training read them, one after the other."""
    from logitfuse.storage.errors import LogitfuseError
    from logitfuse.storage.row_spans import read_span
    from logitfuse.storage.schemas import SCHEMAS
    from logitfuse.storage.shards import IDENTITY_COLUMNS, rows_together
    from logitfuse.tasks.training.data import FusedRows

    path = place.file("shard.parquet", data)
    uses: list[Callable[[], object]] = [lambda: read_span({"a": (path, [])}, 1, 3)]
    for schema in SCHEMAS.values():
        names = [name for name in schema.arrow.names if name not in IDENTITY_COLUMNS]
        uses.append(lambda names=names: [_values(views["a"], row, names) for views, row in
                                         rows_together({"a": (path, names)})])  # fmt: skip
    uses.append(lambda: _trained(FusedRows([path], 64, vocabulary=300)))
    for use in uses:
        try:
            use()
        except LogitfuseError:
            continue


def _values(view: Any, row: int, names: list[str]) -> None:
    for name in names:
        view.value(name, row)


def _trained(rows: Any) -> None:
    import numpy as np

    rows.read(np.arange(len(rows.lengths)))


def _shards(place: Place) -> list[bytes]:
    return place.contents("*/*.parquet") + place.contents("*/*/*.parquet")


def forged(place: Place, data: bytes) -> None:
    """A shard with a record that vouches for it: what `verify` and the stages that read it make of it."""
    from logitfuse.storage.shards import stored_file
    from logitfuse.tasks.execute import do_unit, stage_status

    run = _run(place)
    stage = _stage_of(data)
    old = next(iter(sorted(run.store.root.glob(f"{stage}/**/*.parquet"))), None)
    if old is None:
        return
    old.write_bytes(data)
    name = old.with_suffix(".json")
    body = json.loads(name.read_bytes())["record"] | {"files": [stored_file(old, old.name).model_dump()]}
    name.write_bytes(signed(body))
    following = {"prepare": "encode", "encode": "capture", "capture": "align", "map": "align", "align": "fuse",
                 "fuse": "headroom"}.get(stage, "report")  # fmt: skip
    _verified(run, stage, following)
    for status in [one for one in stage_status(run, following) if one.state == "missing"][:1]:
        do_unit(run, status.unit)


def _stage_of(data: bytes) -> str:
    from logitfuse.storage.schemas import SCHEMAS

    try:
        said = (pq.read_schema(io.BytesIO(data)).metadata or {}).get(b"logitfuse.stage", b"").decode()
    except (OSError, ValueError, pa.ArrowException):
        said = ""
    return said if said in SCHEMAS else "encode"


def _verified(run: Any, *stages: str) -> None:
    from logitfuse.tasks.verify.standing import StandingRun
    from logitfuse.tasks.verify.verifier import Verifier

    verifier = Verifier(StandingRun(run.recipe, run.read), "recipe.yaml")
    for stage in stages:
        verifier.stage(stage)


def _one(pattern: str) -> Callable[[Place], list[bytes]]:
    return lambda place: place.contents(pattern)


NOTE = {"stage": "fuse", "host": "a", "pid": 1, "began": 1.0, "bars": [{"name": "x", "measure": "bytes", "done": 1.5}]}
LOOK = {"fingerprint": "a", "time": "2026-01-01T00:00:00+00:00"}
STAMP = {"folder": "checkpoint-00000001", "place": "p", "files": [{"name": "state.json", "bytes": 1, "checksum": "s"}]}


def _said(*values: Any) -> Callable[[Place], list[bytes]]:
    return lambda place: [json.dumps(value).encode() for value in values]


RUN_TARGETS: dict[str, Target] = {
    "record": Target(record, _records, "json"),
    "forged-record": Target(listing, _records, "json"),
    "run-json": Target(beside("run.json", _identity), _one("run.json"), "json"),
    "journal": Target(beside("journal.jsonl", _journal), _one("journal.jsonl"), "lines"),
    "metrics": Target(beside("train/fused/metrics.k.jsonl", _metrics), _one("train/*/metrics.*.jsonl"), "lines"),
    "progress-note": Target(beside(".locks/progress.fuse.a-1.json", _note), _said(NOTE), "json"),
    "lock": Target(beside("x.lock", _lock), _said({"host": "a", "pid": 1}), "json"),
    "report-json": Target(beside("report.json", _report), _one("report.json"), "json"),
    "looks": Target(beside("looks/a.json", _looks), _said(LOOK, LOOK | {"fingerprint": "b"}), "json"),
    "stamps": Target(beside(".fetched.json", _stamps), _said({"a": {"version": "1", "checksum": "s"}}, STAMP), "json"),
    "checkpoint": Target(checkpoint, _checkpoints, "json"),
    "shard": Target(shard, _shards, "parquet"),
    "forged-shard": Target(forged, _shards, "parquet"),
}
