"""Shards of a tiny run open in other readers with equal values; the examples of docs/store.md are run as printed."""

import re
from pathlib import Path
from typing import Any

import datasets
import duckdb
import numpy as np
import paper_models
import polars
import pyarrow.parquet as pq
import pytest

from logitfuse.storage.schemas import SCHEMAS
from logitfuse.tasks.checks import claim_folder
from logitfuse.tasks.execute import do_prepare, do_units
from logitfuse.tasks.recipe import parse_recipe
from logitfuse.tasks.run import Run

pytestmark = pytest.mark.models
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "store.md"
EXAMPLES = dict(re.findall(r"```python\n# (\w+)\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL))
STAGES = ["prepare", "encode", "capture", "map", "align", "fuse"]
K = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all stages up to fuse, in the folder that the document names."""
    home = tmp_path_factory.mktemp("readers")
    content = paper_models.recipe_content(home, tmp_path_factory.mktemp("models"), 12)
    content |= {"name": "demo", "capture": content["capture"] | {"k": K}}
    run = Run(parse_recipe(content, "test"))
    claim_folder(run.recipe)
    do_prepare(run)
    for stage in STAGES[1:]:
        list(do_units(run, run.units(stage)))
    return home


@pytest.fixture(scope="module")
def shards(folder: Path) -> dict[str, list[Path]]:
    return {stage: sorted((folder / "runs" / "demo" / stage).rglob("*.parquet")) for stage in STAGES}


def comparable(value: Any) -> Any:
    """Lists as tuples, NaN as a word, so that equal means equal."""
    if isinstance(value, list | tuple | np.ndarray):
        return tuple(comparable(item) for item in value)
    return "NaN" if isinstance(value, float) and np.isnan(value) else value


def expected(path: Path) -> list[tuple]:
    return [comparable(list(row.values())) for row in pq.read_table(path).to_pylist()]


@pytest.mark.parametrize("stage", STAGES)
def test_every_reader_finds_equal_values(shards: dict[str, list[Path]], stage: str, tmp_path: Path) -> None:
    for path in shards[stage][:1]:
        wanted, names = expected(path), SCHEMAS[stage].arrow.names
        assert wanted, path
        loaded = datasets.load_dataset("parquet", data_files=str(path), split="train", cache_dir=str(tmp_path))
        frame = polars.read_parquet(path)
        relation = duckdb.connect().sql(f"SELECT * FROM '{path}'")
        assert loaded.column_names == frame.columns == relation.columns == names
        assert [comparable(list(row.values())) for row in loaded] == wanted
        assert [comparable(row) for row in frame.rows()] == wanted
        assert [comparable(row) for row in relation.fetchall()] == wanted


def example(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run one of the document's examples in the run's folder; only the model's name is another."""
    monkeypatch.chdir(folder)
    code = EXAMPLES[name].replace("gemma3-270m", "tiny-mpt")
    found: dict[str, Any] = {}
    exec(compile(code, f"docs/store.md, {name}", "exec"), found)
    return found


def test_every_example_is_run_here() -> None:
    assert list(EXAMPLES) == ["datasets", "polars", "duckdb", "compact"]


def test_the_example_for_datasets(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path))
    found = example("datasets", folder, monkeypatch)
    assert found["k"] == K and len(found["best"]) == len(found["row"]["tail"])


def gold(shards: dict[str, list[Path]]) -> list[np.ndarray]:
    paths = [path for path in shards["capture"] if path.parent.name == "tiny-mpt"]
    return [np.array(row) for path in paths for row in pq.read_table(path)["gold_logprob"].to_pylist()]


def test_the_example_for_polars(folder: Path, shards: dict[str, list[Path]], monkeypatch: pytest.MonkeyPatch) -> None:
    nats = example("polars", folder, monkeypatch)["nats"]
    assert nats == pytest.approx(-np.nanmean(np.concatenate(gold(shards))), rel=1e-5)


def test_the_example_for_duckdb(folder: Path, shards: dict[str, list[Path]], monkeypatch: pytest.MonkeyPatch) -> None:
    found = example("duckdb", folder, monkeypatch)["nats_by_domain"]
    assert [domain for domain, _ in found] == ["mixed", "prose"]
    assert sum(nats for _, nats in found) == pytest.approx(-np.nansum(np.concatenate(gold(shards))), rel=1e-5)


def test_the_example_for_the_compact_form(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = example("compact", folder, monkeypatch)
    assert sum(batch.num_rows for batch in found["batches"]) == found["chunks"] > 0
    plain, again = (pq.read_table(path) for path in (found["plain"], folder / "plain.parquet"))
    assert again["ids"].to_pylist() == plain["ids"].to_pylist()
    values = [table["logprobs"].combine_chunks().flatten().to_numpy() for table in (plain, again)]
    assert np.abs(np.subtract(*values)).max() <= 1 / 32 * 1.01
    monkeypatch.undo()
    frame = polars.read_parquet(folder / "compact.parquet")
    rows = duckdb.connect().sql(f"SELECT id_ranks, steps FROM '{folder / 'compact.parquet'}'").fetchall()
    assert [comparable(row) for row in frame.select("id_ranks", "steps").rows()] == [comparable(row) for row in rows]


def test_the_document_names_every_column() -> None:
    """A new column has to be documented."""
    text = DOCUMENT.read_text(encoding="utf-8")
    for schema in SCHEMAS.values():
        for name in schema.arrow.names:
            assert f"`{name}`" in text, f"docs/store.md does not say what {schema.stage}.{name} holds"
