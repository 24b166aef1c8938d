"""What is shown of a document is what the store holds, and what the rule takes; worked out here by other means."""

import json
import re
from collections import defaultdict
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from done_runs import done_run
from inspected_runs import LONG, TO_FUSE, recipe_content
from rich.console import Console

from logitfuse.flows.inspect_text import predictions_table
from logitfuse.storage.errors import BadInput, ShardCorrupt, ShardMissing
from logitfuse.tasks.execute import do_units
from logitfuse.tasks.inspect.documents import find_document, first_document, fused_shards, places, search
from logitfuse.tasks.inspect.inspector import Inspector
from logitfuse.tasks.inspect.opened import recipe_of
from logitfuse.tasks.inspect.page_data import page_data
from logitfuse.tasks.inspect.predictions import captured, computed
from logitfuse.tasks.inspect.worst import By, worst_positions
from logitfuse.tasks.recipe import parse_recipe
from logitfuse.tasks.run import Run
from logitfuse.tasks.unit import Unit

ALL = 10_000  # more than any list or document has
RULES: list[dict[str, Any]] = [
    {"rule": "min_ce"},
    {"rule": "avg_ce"},
    {"rule": "weighted", "options": {"temperature": 0.05}},
    {"rule": "bayes"},
    {"rule": "min_ce", "granularity": "chunk"},
    {"rule": "weighted", "min_advantage": 0.01},
]
PACKED = {
    "target": {"start": "none", "end": "eos"}, "capture": {"k": 6, "past_end": True},
    "fuse": {"rule": "min_ce", "granularity": "block", "block_tokens": 150},
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("inspected")


@pytest.fixture(scope="module")
def run(root: Path) -> Run:
    return done_run(recipe_content(root), TO_FUSE)


def fused_with(run: Run, root: Path, fuse: dict[str, Any]) -> Run:
    """Return the run with another fusion; only that stage is done again."""
    other = Run(parse_recipe(recipe_content(root, fuse=fuse), "test"))
    list(do_units(other, other.units("fuse")))
    return other


@cache
def inspector_of(run: Run) -> Inspector:
    return Inspector(run, models=False, top=ALL)


def everything(run: Run, doc_id: str) -> dict[str, Any]:
    place = find_document(run, doc_id, fused_shards(run))
    return inspector_of(run).document(place, most=ALL, every=True)


def stored(run: Run, stage: str, source: str | None, doc_id: str) -> list[dict[str, Any]]:
    """Return a document's rows as the Parquet files hold them, read by pyarrow alone."""
    found = []
    for shard in run.shard_numbers:
        record = run.record(Unit(stage, source, shard))
        found += pq.read_table(run.store.file(record, record.files[0])).to_pylist()
    return [row for row in found if row["doc_id"] == doc_id]


def entries(row: dict[str, Any], t: int) -> list[tuple[int, float]]:
    begin = sum(row["counts"][:t])
    span = slice(begin, begin + row["counts"][t])
    return list(zip(row["ids"][span], np.exp(row["logprobs"][span]).tolist(), strict=True))


def shown(found: dict[str, Any]) -> list[tuple[int, float]]:
    return [(token["id"], token["p"]) for token in found["kept"]]


def check_same(found: list[tuple[int, float]], wanted: list[tuple[int, float]]) -> None:
    assert [token for token, _ in found] == [token for token, _ in wanted]
    np.testing.assert_allclose([p for _, p in found], [p for _, p in wanted], rtol=2e-5)


@pytest.mark.parametrize("doc_id", [LONG, "doc-4"])
def test_what_is_shown_is_what_the_shards_hold(run: Run, doc_id: str) -> None:
    facts = everything(run, doc_id)
    labels = list(run.teachers)
    fused = stored(run, "fuse", None, doc_id)
    aligned = {label: stored(run, "align", label, doc_id) for label in labels}
    texts = {row["id"]: row["text"] for row in map(json.loads, Path(run.recipe.corpus.source).read_text().splitlines())}
    text = "".join(token["text"] for token in facts["tokens"] if token["of_text"])
    joined = re.sub("(<[0-9A-F]{2}>)+", lambda run: bytes.fromhex(re.sub("[<>]", "", run[0])).decode(), text)
    assert joined == texts[doc_id], "characters that tokens cut are shown as bytes"
    predicted = defaultdict(list)
    for position in facts["positions"]:
        if position["fused"] is not None:
            predicted[position["chunk"]].append(position)
    assert sum(map(len, predicted.values())) == sum(len(row["labels"]) for row in fused) > 20
    assert not facts["cautions"] and (doc_id != LONG or len(fused) > 2)
    for row in fused:
        for t, position in enumerate(predicted[row["chunk"]]):
            assert position["token"]["id"] == row["labels"][t]
            check_same(shown(position["fused"]), entries(row, t))
            assert position["fused"]["mass"] == pytest.approx(row["mass"][t], rel=1e-5)
            assert position["winner"] == (labels[row["winner"][t]] if row["winner"][t] >= 0 else None)
            for label, source in zip(labels, position["sources"], strict=True):
                mine = aligned[label][row["chunk"]]
                check_same(shown(source["aligned"]), entries(mine, t))
                assert (source["position"] if source["served"] else -1) == mine["source_position"][t]
                assert source["score"] == pytest.approx(row["scores"][labels.index(label)], rel=1e-5)


@pytest.mark.parametrize("fuse", RULES, ids=lambda fuse: "-".join(map(str, fuse.values())))
def test_the_winner_is_the_one_that_the_fusion_took(run: Run, root: Path, fuse: dict[str, Any]) -> None:
    """Mixed by hand from what is shown of the sources, the shown target comes out again."""
    facts = everything(fused_with(run, root, fuse), LONG)
    assert not facts["cautions"], "worked out again the rule gives what the store holds"
    won = set()
    for position in facts["positions"]:
        if position["fused"] is None or position["fused"]["held_back"]:
            continue
        scores = np.array([source["score"] for source in position["sources"]], float)
        weights = np.array([source["weight"] for source in position["sources"]], float)
        served = [source["served"] for source in position["sources"]]
        if fuse["rule"] == "min_ce":
            np.testing.assert_array_equal(weights, np.arange(3) == scores.argmin())
        elif fuse["rule"] == "avg_ce":
            np.testing.assert_allclose(weights, softmax(np.exp(-scores)), rtol=1e-4)
        elif fuse["rule"] == "weighted":
            np.testing.assert_allclose(weights, softmax(-scores / facts_temperature(fuse)), rtol=1e-3)
        mixed: dict[int, float] = defaultdict(float)
        for source in position["sources"]:
            for token, p in shown(source["aligned"]):
                mixed[token] += source["share"] * p
        found = dict(shown(position["fused"]))
        assert all(found.get(token, 0.0) == pytest.approx(p, rel=2e-3, abs=1e-6) for token, p in mixed.items() if p)
        most = max((w for w, s in zip(weights, served, strict=True) if s), default=0)
        first = next((i for i, w in enumerate(weights) if served[i] and w == most and w > 0), None)
        assert position["winner"] == (None if first is None else facts["labels"][first])
        won.add(position["winner"])
    assert won


def facts_temperature(fuse: dict[str, Any]) -> float:
    return float(fuse.get("options", {}).get("temperature", 0.1))


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max())
    return powers / powers.sum()


def test_what_tokens_become_adds_up_to_what_was_aligned(run: Run) -> None:
    seen = 0
    for position in everything(run, LONG)["positions"]:
        for source in position["sources"] if position["fused"] else ():
            if source["lost"] is None:
                continue
            assert sum(source["lost"].values()) == pytest.approx(1, abs=1e-4)
            total: dict[int, float] = defaultdict(float)
            whole = all(token["others"] == 0 for token in source["kept"])
            for token in source["kept"]:
                for target in token["becomes"]:
                    total[target["id"]] += target["p"]
            if whole:
                seen += 1
                kept = {token: p for token, p in total.items() if p >= 0.0025 or p == max(total.values())}
                wanted = dict(shown(source["aligned"]))
                assert {t for t in kept if abs(kept[t] - 0.0025) > 1e-6} <= set(wanted)
                assert {token: total[token] for token in wanted} == pytest.approx(wanted, rel=5e-3), (
                    "logarithms are rounded to fp16"
                )
    assert seen > 50


def test_packed_documents_are_found_in_their_blocks(root: Path) -> None:
    content = recipe_content(root, name="packed", **{key: PACKED[key] for key in ("capture", "fuse")})
    content["target"] |= PACKED["target"]
    run = done_run(content, TO_FUSE)
    looked = 0
    for place in [place for shard in fused_shards(run) for place in places(run, shard)][:12]:
        facts = everything(run, place.doc_id) if place.doc_id != "doc-5" else None
        if facts is None or not any(p["winner"] for p in facts["positions"] if p["fused"]):
            continue
        looked += 1
        aligned = {label: stored(run, "align", label, place.doc_id) for label in run.teachers}
        at: dict[int, int] = defaultdict(int)
        for position in facts["positions"]:
            if position["fused"] is None:
                continue
            t, at[position["chunk"]] = at[position["chunk"]], at[position["chunk"]] + 1
            if position["winner"]:
                check_same(shown(position["fused"]), entries(aligned[position["winner"]][position["chunk"]], t))
    assert looked > 8


def test_models_predict_what_was_captured(run: Run) -> None:
    units = [Unit("capture", run.target.label, 0), Unit("encode", run.target.tokenizer_label, 0)]
    both = [pq.read_table(run.store.file(record, record.files[0])) for record in map(run.record, units)]
    (batch,), encoded = both[0].combine_chunks().to_batches(), both[1]
    chunks = [(np.array(row["ids"], np.int32), row["last"]) for row in encoded.to_pylist()]
    found, wanted = computed(run.loaded(run.target), run.target, chunks, 6, None), captured(batch)
    np.testing.assert_array_equal(found.offsets, wanted.offsets)
    np.testing.assert_array_equal(found.ids, wanted.ids)
    np.testing.assert_allclose(found.logprobs, wanted.logprobs, rtol=5e-3)
    np.testing.assert_allclose(found.gold, wanted.gold, rtol=5e-3)
    run.unload()


def test_the_worst_are_those_that_a_look_at_everything_finds(run: Run) -> None:
    every, shards = {}, fused_shards(run)[1:2]
    for shard in shards:
        for place in places(run, shard):
            if place.doc_id == "doc-5":  # empty
                continue
            facts = everything(run, place.doc_id)
            nats = [t["nats"] for t in facts["tokens"] if t["nats"] and t["nats"][1] is not None]
            every[place.doc_id] = max(fused - before for before, fused, _ in nats)
    wanted = sorted(every, key=lambda doc_id: -every[doc_id])[:5]
    looked = worst_positions(run, shards, 5)
    assert [every[one.doc_id] for one in looked.found] == pytest.approx([every[doc_id] for doc_id in wanted], abs=1e-3)
    for one in looked.found:
        assert one.nats == pytest.approx(every[one.doc_id], abs=1e-4)
        inspector = Inspector(run, models=False)
        place = find_document(run, one.doc_id, [one.shard])
        facts = inspector.document(place, at=inspector.number(place, one.chunk, one.place))
        (position,) = facts["positions"]
        assert position["fused"]["nats"] - position["before"]["nats"] == pytest.approx(one.nats, abs=1e-4)


@pytest.mark.parametrize("by", ["gain", "disagreement"])
def test_other_ranks_are_those_of_what_is_shown(run: Run, by: By) -> None:
    shards = fused_shards(run)[1:2]
    looked = worst_positions(run, shards, 3, by)
    assert [one.nats for one in looked.found] == sorted((one.nats for one in looked.found), reverse=True)
    for one in looked.found:
        inspector = Inspector(run, models=False)
        place = find_document(run, one.doc_id, [one.shard])
        (position,) = inspector.document(place, at=inspector.number(place, one.chunk, one.place))["positions"]
        before = position["before"]["nats"]
        known = [before, *(source["nats"] for source in position["sources"] if source["nats"] is not None)]
        wanted = before - position["fused"]["nats"] if by == "gain" else max(known) - min(known)
        assert one.nats == pytest.approx(wanted, abs=1e-3)


def test_students_of_one_source_each_are_shown(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here they are the target itself, untrained: what it predicts is what the store holds from before."""
    monkeypatch.setattr("logitfuse.tasks.inspect.inspector.pair_arms", lambda recipe: ["fused-second", "fused-third"])
    monkeypatch.setattr("logitfuse.tasks.inspect.inspector.model_of", lambda run, arm: (run.target, None))
    facts = Inspector(run, top=3).document(find_document(run, LONG, fused_shards(run)), at=30)
    (position,) = facts["positions"]
    run.unload()
    assert list(position["pairs"]) == ["fused-second", "fused-third"]
    assert position["pairs"]["fused-third"]["nats"] == pytest.approx(position["before"]["nats"], rel=1e-2)
    shown = StringIO()
    Console(file=shown, width=200).print(predictions_table(position))
    assert "fused-second" in shown.getvalue() and '"arms":["fused-second","fused-third"]' in page_data([facts])


def test_a_text_is_found_whatever_its_case_and_across_chunks(run: Run) -> None:
    shards = fused_shards(run)
    place = find_document(run, LONG, shards)
    rows = stored_text(run, place.shard, LONG)
    across = (rows[0]["text"][-12:] + rows[1]["text"][:12]).upper()
    (hit, *_) = [hit for hit in search(run, across, shards) if hit.place.doc_id == LONG]
    assert hit.place == place and hit.byte == len(rows[0]["text"].encode()) - len(rows[0]["text"][-12:].encode())
    facts = Inspector(run, models=False).document(place, byte=hit.byte)
    (position,) = facts["positions"]
    assert position["bytes"][0] <= hit.byte < position["bytes"][1]
    assert not list(search(run, "no such text", shards))
    with pytest.raises(BadInput, match="nothing to look for"):
        list(search(run, " ", shards))


def stored_text(run: Run, shard: int, doc_id: str) -> list[dict[str, Any]]:
    record = run.prepared(shard)
    rows = pq.read_table(run.store.file(record, record.files[0])).to_pylist()
    return [row for row in rows if row["doc_id"] == doc_id]


def test_a_stretch_of_a_long_document_shows_the_same(run: Run) -> None:
    whole = everything(run, LONG)
    place = find_document(run, LONG, fused_shards(run))
    at = whole["document"]["tokens"] // 2
    part = Inspector(run, models=False, top=ALL).document(place, at=at, most=31, every=True)
    about = part["document"]
    assert about["end"] - about["begin"] == 31 and about["begin"] < at < about["end"]
    assert part["positions"] == whole["positions"][about["begin"] : about["end"]]
    assert part["tokens"] == whole["tokens"][about["begin"] : about["end"]]


def test_where_to_begin_and_what_is_not_there(run: Run, root: Path) -> None:
    shards = fused_shards(run)
    facts = Inspector(run, models=False).document(first_document(run, shards))
    assert 40 <= facts["document"]["tokens"] < 600 and facts["positions"][0]["winner"]
    with pytest.raises(BadInput, match=r"--doc doc-99: .*Ids look like 'doc-"):
        find_document(run, "doc-99", shards)
    with pytest.raises(BadInput, match=r"has .* tokens"):
        Inspector(run).document(find_document(run, LONG, shards), at=99_999)
    with pytest.raises(BadInput, match="is empty"):
        Inspector(run).document(find_document(run, "doc-5", shards))
    unfused = Run(parse_recipe(recipe_content(root, map={"strategy": "exact"}), "test"))
    with pytest.raises(ShardMissing, match="nothing is fused yet"):
        fused_shards(unfused)


def test_a_damaged_shard_is_not_shown(run: Run) -> None:
    record = run.record(Unit("fuse", None, 0))
    path = run.store.file(record, record.files[0])
    whole = path.read_bytes()
    path.write_bytes(whole[:-99] + bytes([whole[-99] ^ 1]) + whole[-98:])
    try:
        with pytest.raises(ShardCorrupt):
            Inspector(run, models=False).document(next(places(run, 0)))
    finally:
        path.write_bytes(whole)


def test_logits_and_a_target_that_is_no_source_are_shown_too(root: Path) -> None:
    """As published: raw logits in a compact capture, and a student whose own predictions nobody captured."""
    content = recipe_content(
        root, name="published", include_target=False, capture={"k": 6, "raw_logits": True, "codec": "compact"},
        align={"values": "logits", "collision": "first", "fallback": "next_token"}, fuse={"rule": "min_ce"},
    )  # fmt: skip
    run = done_run(content, TO_FUSE)
    shards = fused_shards(run)
    facts = Inspector(run, top=ALL).document(find_document(run, LONG, shards), at=30)
    (position,) = facts["positions"]
    assert "computed just now" in " ".join(facts["cautions"]) and "softmax over the tokens" in " ".join(
        facts["cautions"]
    )
    assert position["before"]["mass"] + 1e-6 >= sum(token["p"] for token in position["before"]["kept"]) > 0
    rows = stored(run, "fuse", None, LONG)
    t = 30 - sum(len(row["labels"]) for row in rows[: position["chunk"]])
    check_same(shown(position["fused"]), entries(rows[position["chunk"]], t))
    assert all(source["lost"] is None for source in position["sources"])
    quiet = Inspector(run, models=False).document(find_document(run, LONG, shards), at=30)
    assert quiet["positions"][0]["before"] is None
    with pytest.raises(BadInput, match="include_target"):
        worst_positions(run, shards, 3)


def test_a_run_folder_tells_its_recipe_by_its_report(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "looked-at"
    folder.mkdir()
    with pytest.raises(BadInput, match="Give the recipe instead"):
        recipe_of(str(folder))
    said = run.recipe.model_dump(mode="json", exclude_defaults=True, exclude={"execution"})
    (folder / "report.json").write_text(json.dumps({"recipe": said | {"name": "other"}}))
    found = recipe_of(str(folder), ["capture.k=7"])
    assert found.folder == folder and found.target == run.recipe.target and found.capture.k == 7
