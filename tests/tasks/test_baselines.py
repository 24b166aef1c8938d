"""Baselines as a user sets them, on tiny models from text to report: pairs, merging, ensembles, shuffled, own only."""

import copy
import json
import math
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import paper_models
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from done_runs import done_run
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from logitfuse.kernels.merging import MERGES
from logitfuse.storage.errors import BadInput, ShardMissing
from logitfuse.tasks.checks import check_run
from logitfuse.tasks.evaluate import contestants
from logitfuse.tasks.execute import do_prepare, do_units, stage_status
from logitfuse.tasks.recipe import parse_recipe
from logitfuse.tasks.report import report_page
from logitfuse.tasks.results import MEAN, results
from logitfuse.tasks.run import Run
from logitfuse.tasks.stages import STAGES
from logitfuse.tasks.unit import Unit
from logitfuse.tasks.verify.standing import StandingRun
from logitfuse.tasks.verify.verifier import Verifier

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def cousin(folder: Path, seed: int = 9, **config: Any) -> Path:
    """Another model of the target's architecture, unless `config` makes it one of another."""
    path = folder / f"cousin-{seed}-{'-'.join(map(str, config.values()))}"
    base = paper_models.tiny_llama(folder)
    if not path.exists():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(**{**json.loads((base / "config.json").read_text()), **config}))
        model.to(getattr(torch, config.get("dtype", "float32"))).save_pretrained(path)
        for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
            if (base / name).exists():
                (path / name).write_bytes((base / name).read_bytes())
    return path


def content_of(folder: Path, models: Path, **changes: Any) -> dict[str, Any]:
    content = copy.deepcopy(paper_models.recipe_content(folder, models, documents=14))
    for name, value in changes.items():
        content[name] = {**content[name], **value} if isinstance(content.get(name), dict) else value
    return content


def made(content: dict[str, Any], last: str = "evaluate") -> Run:
    return done_run(content, list(STAGES)[: list(STAGES).index(last) + 1])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Run:
    """Two sources, fused together and each alone, the pairs merged, and an ensemble."""
    folder = tmp_path_factory.mktemp("pairwise")
    content = content_of(
        folder,
        models,
        train={"control": True, "pairwise": True},
        evaluate={"ensemble": "bayes"},
        merge={"options": {"select": 0.5}},
    )
    content["sources"].append({"model": str(cousin(models)), "name": "cousin", "dtype": "float32"})
    return made(content, "report")


def test_every_model_has_its_place_in_the_report(run: Run) -> None:
    roles = [(model.role, model.label) for model in contestants(run)]
    assert roles == [
        ("target", "tiny-llama"), ("source", "tiny-mpt"), ("source", "cousin"), ("ensemble", "ensemble"),
        ("control", "control"), ("pair", "fused-tiny-mpt"), ("pair", "fused-cousin"), ("merged", "merged"),
        ("fused", "fused"),
    ]  # fmt: skip
    facts = json.loads((run.recipe.folder / "report.json").read_text())
    assert {row["role"] for row in facts["results"]} == {role for role, _ in roles}
    assert {row["role"] for row in facts["gains"]} == {role for role, _ in roles} - {"fused"}
    assert facts["training"].keys() == {"fused", "control", "fused-tiny-mpt", "fused-cousin"}
    assert facts["fingerprints"]["trained"].keys() == facts["training"].keys() | {"merged"}
    text = report_page(run).read_text()
    assert all(label in text for _, label in roles) and "pair-model" in text
    for stage in STAGES:
        assert all(status.state == "done" for status in stage_status(run, stage)), stage


def test_a_pair_learns_what_a_run_of_that_source_alone_would_learn(run: Run) -> None:
    """So both are done once: the fused shards are the same files."""
    content = run.recipe.model_dump(mode="json")
    content |= {"sources": content["sources"][:1], "train": {**content["train"], "pairwise": False}}
    content["merge"] = {}
    content["evaluate"] = {"tokens_per_batch": 256}
    alone = Run(parse_recipe(content, "test"))
    for shard in run.shard_numbers:
        assert alone.record(Unit("fuse", None, shard)).checksum == run.record(Unit("fuse", "tiny-mpt", shard)).checksum
    assert alone.work(Unit("train", "fused")).key == run.record(Unit("train", "fused-tiny-mpt")).key


def test_other_arms_and_stages_leave_the_keys_of_the_fused_model_alone(run: Run) -> None:
    content = run.recipe.model_dump(mode="json")
    content["train"] |= {"pairwise": False, "control": False}
    content |= {"merge": {}, "evaluate": {"tokens_per_batch": 256}}
    plain = Run(parse_recipe(content, "test"))
    assert plain.units("merge") == [] and len(plain.units("train")) == 1
    for unit in (Unit("train", "fused"), Unit("evaluate", "tiny-mpt"), Unit("evaluate", "fused")):
        assert plain.record(unit).key == run.record(unit).key
    assert all("pairwise" not in run.record(unit).settings for unit in run.units("train"))


def test_the_whole_run_verifies(run: Run) -> None:
    verifier = Verifier(StandingRun(run.recipe), "recipe.yaml")
    facts = [verifier.stage(stage) for stage in ("fuse", "train", "merge", "evaluate")]
    assert verifier.faults == [] and all(one.missing == 0 for one in facts)
    assert facts[0].shards == 3 * len(run.shards)


def test_the_merged_model_is_an_ordinary_one_that_says_where_it_is_from(run: Run) -> None:
    record = run.record(Unit("merge", "merged"))
    folder = run.store.local(f"{record.place}/{record.files[0].name.split('/')[0]}")
    merged = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    base = AutoModelForCausalLM.from_pretrained(run.target.home.folder).state_dict()
    assert merged.keys() == base.keys() and record.counts["models"] == 2
    changed = [name for name in base if not torch.equal(base[name], merged[name])]
    assert changed and any(torch.isclose(base[name], merged[name]).any() for name in changed), "half is selected"
    card = (folder / "README.md").read_text()
    assert "fused-tiny-mpt (weight 1), fused-cousin (weight 1)" in card and "`sce`, select 0.5" in card
    assert str(run.recipe.folder.parent) not in card


def reference_ensemble(run: Run) -> dict[str, float]:
    """Nats of the bayes ensemble per document, from the members' shards: the mixture of whole texts."""
    tables = []
    for label in ("tiny-llama", "tiny-mpt", "cousin"):
        record = run.record(Unit("evaluate", label))
        tables.append(pq.read_table(run.store.local(f"{record.place}/{record.files[0].name}")).to_pylist())
    totals: dict[str, list[float]] = defaultdict(lambda: [0.0] * len(tables))
    for s, rows in enumerate(tables):
        for row in rows:
            assert not row["bytes"] or (row["begin"], row["ends"][-1]) == (0, row["bytes"]), "all of it is scored"
            totals[row["doc_id"]][s] += sum(row["nats"])
    return {doc: -math.log(np.exp(-np.array(t)).mean()) if max(t) < 600 else min(t) for doc, t in totals.items()}


def test_bayes_of_a_document_that_all_score_is_the_mixture_of_the_whole(run: Run, tmp_path: Path, models: Path) -> None:
    """Every model begins with a start token here and reads everything, so the formula holds to rounding."""
    content = run.recipe.model_dump(mode="json")
    content["sources"][0]["start"] = "bos"
    biased = Run(parse_recipe(content, "test"))
    list(do_units(biased, [Unit("evaluate", "tiny-mpt"), Unit("evaluate", "ensemble")]))
    record = biased.record(Unit("evaluate", "ensemble"))
    found: dict[str, float] = defaultdict(float)
    for row in pq.read_table(biased.store.local(f"{record.place}/{record.files[0].name}")).to_pylist():
        found[row["doc_id"]] += sum(row["nats"])
    wanted = reference_ensemble(biased)
    assert found.keys() == wanted.keys() and len(found) > 1
    for doc_id, nats in wanted.items():
        assert found[doc_id] == pytest.approx(nats, abs=1.2)  # log 3 where one model is far ahead of the others


def test_a_mean_is_in_the_table_with_the_same_bytes_and_no_model_is_scored_again(run: Run) -> None:
    before = {r.model: r.nats_per_byte for r in results(run) if r.domain == MEAN}
    content = run.recipe.model_dump(mode="json")
    content["evaluate"] = {**content["evaluate"], "ensemble": "mean", "ensemble_weights": {"cousin": 0, "tiny-mpt": 3}}
    other = Run(parse_recipe(content, "test"))
    missing = [s.unit for s in stage_status(other, "evaluate") if s.state != "done"]
    assert missing == [Unit("evaluate", "ensemble")]
    list(do_units(other, missing))
    assert other.record(missing[0]).counts["members"] == 2
    after = {r.model: r.nats_per_byte for r in results(other) if r.domain == MEAN}
    assert {**after, "ensemble": 0} == {**before, "ensemble": 0}
    assert after["ensemble"] <= 0.25 * after["tiny-llama"] + 0.75 * after["tiny-mpt"] + 1e-6


def test_an_ensemble_waits_for_its_members(tmp_path: Path, models: Path) -> None:
    run = Run(parse_recipe(content_of(tmp_path, models, evaluate={"ensemble": "mean"}), "test"))
    do_prepare(run)
    states = {status.unit.source: status.state for status in stage_status(run, "evaluate")}
    assert states["ensemble"] == "waiting" and states["tiny-mpt"] == "missing"
    with pytest.raises(ShardMissing, match="stage evaluate"):
        run.record(Unit("evaluate", "ensemble"))


@pytest.mark.slow
def test_shuffled_sources_say_what_they_said_elsewhere(tmp_path: Path, models: Path) -> None:
    content = content_of(tmp_path, models, corpus={"held_out_share": 0.3})
    real = made(content, "fuse")
    other = made({**content, "fuse": {**content["fuse"], "shuffled": True}}, "report")
    assert "shuffled" not in real.record(Unit("fuse", None, 0)).settings
    for shard in real.shard_numbers:
        rows = [table_of(r, Unit("fuse", None, shard)) for r in (real, other)]
        aligned = table_of(real, Unit("align", "tiny-mpt", shard))
        for split in {row["split"] for row in rows[0]}:
            same = [[row for row in table if row["split"] == split] for table in rows]
            check_shuffled(*same, [a for a, row in zip(aligned, rows[0], strict=True) if row["split"] == split])
    verifier = Verifier(StandingRun(other.recipe), "recipe.yaml")
    verifier.stage("fuse")
    assert verifier.faults == []
    facts = json.loads((other.recipe.folder / "report.json").read_text())
    assert facts["fusion"]["shuffled"] and "This run is a control" in facts["warnings"][0]
    assert "on other documents" in (other.recipe.folder / "report.html").read_text()
    record = other.record(Unit("train", "fused"))
    card = next(file.name for file in record.files if file.name.endswith("README.md"))
    assert "fuse.shuffled" in other.store.local(f"{record.place}/{card}").read_text()


def table_of(run: Run, unit: Unit) -> list[dict[str, Any]]:
    record = run.record(unit)
    return pq.read_table(run.store.local(f"{record.place}/{record.files[0].name}")).to_pylist()


def positions(rows: list[dict[str, Any]]) -> list[tuple[tuple[int, ...], float]]:
    """(ids, mass) of every position of some rows."""
    found = []
    for row in rows:
        at = 0
        for count, mass in zip(row["counts"], row["mass"], strict=True):
            found.append((tuple(row["ids"][at : at + count]), mass))
            at += count
    return found


def check_shuffled(real: list[dict], other: list[dict], aligned: list[dict]) -> None:
    """Where the source wins (min_ce: a document is the source's or the target's), its rows are another document's."""
    docs = list(dict.fromkeys(row["doc_id"] for row in real))
    source_of = {doc: positions([a for a in aligned if a["doc_id"] == doc]) for doc in docs}
    for number, doc in enumerate(docs):
        mine, theirs = ([row for row in table if row["doc_id"] == doc] for table in (real, other))
        for column in ("inputs", "labels", "scores", "weights"):
            assert str([row[column] for row in mine]) == str([row[column] for row in theirs])  # a score may be NaN
        wins = [winner == 1 for row in mine for winner in row["winner"]]
        donor = source_of[docs[(number + len(docs) // 2) % len(docs)]] if len(docs) > 1 else []
        for t, (position, won) in enumerate(zip(positions(theirs), wins, strict=True)):
            if won:
                assert position[0] == (donor[t][0] if t < len(donor) else ())
        if not any(wins) and mine[0]["weights"][0] == 1:
            assert positions(theirs) == positions(mine), "the target's own distributions stay"


@pytest.mark.parametrize(
    ("changes", "weights"),
    [
        ({"sources": []}, {"tiny-llama": 1.0}),  # own only
        pytest.param({"include_target": False}, {"tiny-mpt": 1.0}, marks=pytest.mark.slow),  # distillation
    ],
)
def test_one_teacher_alone(tmp_path: Path, models: Path, changes: dict[str, Any], weights: dict[str, float]) -> None:
    run = made({**content_of(tmp_path, models, train={"control": True}), **changes}, "report")
    facts = json.loads((run.recipe.folder / "report.json").read_text())
    assert facts["fusion"]["weights"] == weights
    assert {row["role"] for row in facts["results"]} >= {"target", "control", "fused"}
    assert all(row["weights"] == [1.0] for row in table_of(run, Unit("fuse", None, 0)) if row["labels"])


def refused(tmp_path: Path, models: Path, **changes: Any) -> str:
    with pytest.raises(BadInput) as error:
        check_run(Run(parse_recipe(content_of(tmp_path, models, **changes), "recipe.yaml")))
    return str(error.value)


def test_what_cannot_be_merged_is_refused_before_anything_is_done(tmp_path: Path, models: Path) -> None:
    mpt, target = str(paper_models.tiny_mpt(models)), "target"
    deeper, half = str(cousin(models, num_hidden_layers=3)), str(cousin(models, dtype="bfloat16"))
    wider = str(cousin(models, intermediate_size=48))

    def why(*names: str, **more: Any) -> str:
        return refused(tmp_path, models, merge={"models": list(names), **more})

    assert "different tokenizers" in why(target, mpt)
    assert "different tokenizers" in why(target, "tiny-mpt")
    assert "num_hidden_layers 3, 2" in why(target, deeper)
    assert "intermediate_size 48, 32" in why(target, wider)
    assert "stored as BF16" in why(target, half)
    assert "Did you mean 'fused'" in why("fuesd", "fused")
    assert "no model is called 'control'" in why("control", "fused")
    assert "alone cannot be merged" in why("fused")
    assert "trained here" in why("fused", "target", base="fused")
    assert "merge.weights" in why("fused", "target", weights={"tiny-mpt": 2})
    assert "unknown merging method" in why("fused", "target", method="tie")
    assert "'density' cannot be 2.0" in why("fused", "target", method="ties", options={"density": 2.0})
    assert "for several sources" in refused(tmp_path, models, train={"pairwise": True})
    assert "no model is called 'tiny-mtp'" in refused(
        tmp_path, models, evaluate={"ensemble": "mean", "ensemble_weights": {"tiny-mtp": 2}}
    )
    source = {"model": mpt, "name": "ensemble"}
    assert "give that one a `name`" in refused(tmp_path, models, sources=[source], evaluate={"ensemble": "mean"})


@pytest.mark.slow
def test_a_recipe_that_names_models_merges_them(tmp_path: Path, models: Path) -> None:
    """Labels, arms and folders; the fused model and the target, which is known as weight interpolation."""
    changes = {"merge": {"models": ["fused", "target"], "method": "linear", "weights": {"fused": 3}}}
    run = made(content_of(tmp_path, models, **changes), "evaluate")
    folders = [run.target.home.folder]
    for unit in (Unit("train", "fused"), Unit("merge", "merged")):
        record = run.record(unit)
        folders.append(run.store.local(f"{record.place}/{record.files[0].name.split('/')[0]}"))
    base, fused, merged = (AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in folders)
    for name in base:
        torch.testing.assert_close(merged[name], 0.25 * base[name] + 0.75 * fused[name])


def test_the_settings_in_the_docs_are_settings() -> None:
    text = (Path(__file__).parents[2] / "docs" / "baselines.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        parse_recipe(yaml.safe_load(block), "docs/baselines.md")
    rows = [line.split("|")[1].strip(" `").split("`")[0] for line in text.splitlines() if line.startswith("| `")]
    assert set(MERGES.names()) <= set(rows)
