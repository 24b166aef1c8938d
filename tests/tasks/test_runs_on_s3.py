"""Whole runs whose folder, corpus and models are in an object store: the same results as on a local disk."""

import json
import random
import time
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from done_runs import done_run
from s3_server import BUCKET, Server
from tiny_models import WORDS, tiny_model

from logitfuse.storage.errors import BadInput, ModelRefused, StoreFailed
from logitfuse.storage.fetched import fetched
from logitfuse.tasks.checks import check_run
from logitfuse.tasks.corpus.fingerprint import corpus_fingerprint
from logitfuse.tasks.corpus.readers import located, read_documents
from logitfuse.tasks.corpus.settings import CorpusSettings
from logitfuse.tasks.execute import is_up_to_date, stage_status
from logitfuse.tasks.models.home import find_model
from logitfuse.tasks.models.reference import ModelSettings
from logitfuse.tasks.recipe import parse_recipe
from logitfuse.tasks.report import report_page
from logitfuse.tasks.run import Run
from logitfuse.tasks.stages import ORDER
from logitfuse.tasks.training import checkpoint_copies
from logitfuse.tasks.training.config import WorkerConfig
from logitfuse.tasks.training.trainer import Trainer
from logitfuse.tasks.unit import Unit
from logitfuse.tasks.verify.standing import StandingRun
from logitfuse.tasks.verify.verifier import Verifier

pytestmark = pytest.mark.usefixtures("in_this_process")
CORPUS = "s3://bucket/text/corpus.jsonl"


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models and a corpus on a local disk."""
    folder = tmp_path_factory.mktemp("given")
    tiny_model(folder / "first", 300, seed=1)
    tiny_model(folder / "second", 340, seed=2)
    rng = random.Random(0)
    texts = (" ".join(rng.choices(WORDS, k=rng.randint(3, 30))) for _ in range(20))
    lines = (json.dumps({"id": f"doc-{number}", "text": text}) for number, text in enumerate(texts))
    (folder / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def content(given: Path | str, runs: str, **more: Any) -> dict[str, Any]:
    return {
        "name": "tiny",
        "target": {"model": f"{given}/first", "dtype": "float32"},
        "sources": [{"model": f"{given}/second", "dtype": "float32"}],
        "corpus": {"source": f"{given}/corpus.jsonl", "documents_per_shard": 10, "held_out_share": 0.2},
        "check": {"nats_per_byte": None},  # random weights predict nothing
        "capture": {"k": 4, "tokens_per_batch": 512},
        "train": {"dtype": "fp32", "sequence_length": 128, "sequences_per_step": 2, "max_steps": 2},
        "execution": {"folder": runs, "min_free_gb": 0, "device": "cpu"},
    } | more


def put(s3: Server, folder: Path, prefix: str) -> None:
    for file in (path for path in folder.rglob("*") if path.is_file()):
        s3.client.upload_file(str(file), BUCKET, f"{prefix}/{file.relative_to(folder).as_posix()}")


def results(run: Run) -> dict[str, str]:
    """Return every result's checksum by its record's path, which holds its key."""
    run.forget()
    records = [run.record(unit) for stage in ORDER[1:-1] for unit in run.units(stage)]
    return {record.path: record.checksum for record in [*run.shards, *records]}


def test_a_run_in_an_object_store_has_the_results_of_a_local_one(
    s3: Server, given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first machine is lost in training, another goes on, a third looks at it all: same keys, same bytes."""
    local = done_run(content(given, str(tmp_path / "runs")))
    monkeypatch.setattr(checkpoint_copies, "SECONDS_BETWEEN_LOOKS", 0.05)
    with pytest.raises(ConnectionAbortedError):
        done_run(content(given, "s3://bucket/runs"), training=partial(_lost_after_a_step, s3))
    monkeypatch.setenv("LOGITFUSE_CACHE", str(tmp_path / "another machine"))
    said: list[str] = []
    s3.blind = True
    run = done_run(content(given, "s3://bucket/runs"), training=partial(_train_and_tell, said))
    assert results(run) == results(local) and any(line.startswith("resuming after step 1 of 2") for line in said)
    s3.blind = False
    assert [name for name in s3.objects("runs/tiny/train") if "metrics" in name]
    assert not [name for name in s3.objects("runs/tiny/train") if name.endswith("newest.json")]
    monkeypatch.setenv("LOGITFUSE_CACHE", str(tmp_path / "a third machine"))
    put(s3, given, "given")
    elsewhere = Run(parse_recipe(content("s3://bucket/given", "s3://bucket/elsewhere"), "test"))
    check_run(elsewhere)
    assert {label: source.home.fingerprint for label, source in elsewhere.given.items()} == {
        label: source.home.fingerprint for label, source in local.given.items()
    }
    assert corpus_fingerprint(elsewhere.recipe.corpus) == corpus_fingerprint(local.recipe.corpus)
    assert _status_fetches_nothing_and_verify_everything(s3, run)
    assert "held-out" in report_page(Run(run.recipe)).read_text()
    (model,) = {name.rsplit("/", 1)[0] for name in s3.objects("runs/tiny/train") if name.endswith("safetensors")}
    trained = find_model(ModelSettings(model=f"s3://bucket/{model}")).folder  # a model folder like any other
    mine = local.store.folder(local.record(Unit("train", "fused")))
    assert (trained / "model.safetensors").read_bytes() == (mine / "model.safetensors").read_bytes()
    assert s3.objects("runs/tiny/report.html") and not any(".probe" in name for name in s3.objects())


def _train_and_tell(said: list[str], config: WorkerConfig, **_: Any) -> None:
    Trainer(config, Event(), said.append).train()


def _lost_after_a_step(s3: Server, config: WorkerConfig, **_: Any) -> None:
    """Train until the store has the first checkpoint, and no further."""

    def say(line: str) -> None:
        if line == "saved step 1":
            while not any(name.endswith("newest.json") for name in s3.objects("runs/tiny/train")):
                time.sleep(0.05)
            raise ConnectionAbortedError

    Trainer(config.model_copy(update={"checkpoint_every_steps": 1}), Event(), say).train()


def _status_fetches_nothing_and_verify_everything(s3: Server, run: Run) -> bool:
    there = Run(run.recipe)
    assert is_up_to_date(there)
    assert not [path for path in there.store.root.rglob("*") if path.suffix in (".parquet", ".safetensors")]
    verifier = Verifier(StandingRun(run.recipe), "tiny.yaml")
    stages = {stage: verifier.stage(stage) for stage in ORDER}
    assert not verifier.faults and not verifier.stale and all(facts.shards for facts in stages.values() if facts.rows)
    name = next(name for name in s3.objects("runs/tiny/capture") if name.endswith(".parquet"))
    whole = s3.client.get_object(Bucket=BUCKET, Key=name)["Body"].read()
    s3.client.put_object(Bucket=BUCKET, Key=name, Body=whole[:-9] + b"x" + whole[-8:])
    again = Verifier(StandingRun(run.recipe), "tiny.yaml")
    again.stage("capture")
    assert len(again.faults) == 1 and "checksum" in str(again.faults[0])
    s3.client.put_object(Bucket=BUCKET, Key=name, Body=whole)
    return True


def test_a_bucket_that_goes_away_is_said_once_and_the_rest_goes_on(s3: Server, given: Path) -> None:
    run = done_run(content(given, "s3://bucket/runs"), ["encode", "check"])
    s3.remove_bucket()
    with pytest.raises(StoreFailed, match=r"s3://bucket/runs/tiny: .*no such bucket"):
        stage_status(Run(run.recipe), "capture")
    with pytest.raises(StoreFailed, match=r"s3://bucket/runs/tiny: .*no such bucket"):
        check_run(Run(run.recipe))
    s3.make_bucket()
    before = {path: path.stat().st_mtime_ns for path in run.store.root.rglob("*.parquet")}
    again = done_run(content(given, "s3://bucket/runs"), ["encode", "check"])
    assert results_of(again, "encode") and before == {path: path.stat().st_mtime_ns for path in before}


def results_of(run: Run, stage: str) -> list[str]:
    return [run.record(unit).checksum for unit in run.units(stage)]


def test_a_folder_that_is_no_run_or_another_one_is_refused(s3: Server, given: Path) -> None:
    s3.client.put_object(Bucket=BUCKET, Key="runs/tiny/notes.txt", Body=b"mine")
    with pytest.raises(BadInput, match=r"run folder s3://bucket/runs/tiny: it is not empty"):
        check_run(Run(parse_recipe(content(given, "s3://bucket/runs"), "test")))
    s3.client.delete_object(Bucket=BUCKET, Key="runs/tiny/notes.txt")
    done_run(content(given, "s3://bucket/runs"), [])
    other = content(given, "s3://bucket/runs") | {"target": {"model": f"{given}/second"}, "sources": []}
    with pytest.raises(BadInput, match=r"run folder s3://bucket/runs/tiny: it was made by other settings"):
        check_run(Run(parse_recipe(other, "test")))


@pytest.mark.parametrize(
    ("changed", "said"),
    [({"execution": {"folder": "s3://me:hidden@bucket/runs"}}, "execution.folder: s3://bucket/runs"),
     ({"corpus": {"source": "s3://me:hidden@bucket/text"}}, "source: s3://bucket/text"),
     ({"target": {"model": "s3://me:hidden@bucket/model"}}, "model: s3://bucket/model"),
     ({"execution": {"folder": "file:///runs"}}, "Give its path")],
)  # fmt: skip
def test_urls_that_a_recipe_refuses_are_not_repeated_with_their_secret(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said) as raised:
        parse_recipe(content("/given", "runs") | changed, "my.yaml")
    assert "hidden" not in str(raised.value)


def test_hosts_that_train_together_need_a_folder_that_all_see(given: Path) -> None:
    execution = {"folder": "s3://bucket/runs", "hosts": {"count": 2, "address": "127.0.0.1"}}
    with pytest.raises(BadInput, match="Put the run on a shared file system, or train on one host"):
        check_run(Run(parse_recipe(content(given, "", execution=execution), "test")))


def documents(source: str) -> list[str]:
    fetched.cache_clear()
    return [document.doc_id for document in read_documents(CorpusSettings(source=source))]


def test_corpora_are_read_from_a_file_a_folder_or_a_pattern(s3: Server, given: Path, tmp_path: Path) -> None:
    lines = (given / "corpus.jsonl").read_text().splitlines(keepends=True)
    for name, part in (("text/a.jsonl", lines[:5]), ("text/more/b.jsonl", lines[5:]), ("text/notes.md", ["no"])):
        s3.client.put_object(Bucket=BUCKET, Key=name, Body="".join(part).encode())
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("".join(part))
    for place in ("text", "text/a.jsonl", "text/*.jsonl", "text/**/*.jsonl", "text/more/b.jsonl"):
        here, there = CorpusSettings(source=f"{tmp_path}/{place}"), CorpusSettings(source=f"s3://bucket/{place}")
        assert documents(there.source) == documents(here.source), place
        assert corpus_fingerprint(there) == corpus_fingerprint(here), place
    s3.seen.clear()
    documents("s3://bucket/text")
    assert not [path for method, path in s3.seen if method == "GET" and path.endswith("jsonl")], "nothing has changed"
    s3.client.put_object(Bucket=BUCKET, Key="text/a.jsonl", Body="".join(lines[:2]).encode())
    s3.client.delete_object(Bucket=BUCKET, Key="text/more/b.jsonl")
    assert len(documents("s3://bucket/text")) == 2


def test_copies_of_corpora_that_were_damaged_are_fetched_again(s3: Server, given: Path) -> None:
    s3.client.upload_file(str(given / "corpus.jsonl"), BUCKET, "text/corpus.jsonl")
    expected = documents(CORPUS)
    fetched.cache_clear()
    copy = Path(located(CorpusSettings(source=CORPUS)).source)
    copy.write_bytes(copy.read_bytes().replace(b"doc-1", b"cod-1"))
    fetched.cache_clear()
    assert documents(CORPUS) == expected


def test_what_is_not_there_or_not_readable_is_refused(s3: Server, given: Path) -> None:
    with pytest.raises(BadInput, match=r"corpus.source: there is nothing to read at s3://bucket/text/none.jsonl"):
        documents("s3://bucket/text/none.jsonl")
    with pytest.raises(StoreFailed, match="no such bucket"):
        documents("s3://other/text")
    with pytest.raises(BadInput, match=r"model: there is nothing to read at s3://bucket/none"):
        find_model(ModelSettings(model="s3://bucket/none"))
    s3.client.upload_file(str(given / "first" / "config.json"), BUCKET, "half/config.json")
    with pytest.raises(ModelRefused, match=r"model 's3://bucket/half': .* has no \*.safetensors"):
        find_model(ModelSettings(model="s3://bucket/half"))
    s3.refuses = True
    with pytest.raises(StoreFailed, match=r"s3://bucket.*refuses these credentials"):
        documents("s3://bucket/text")


def test_a_corpus_that_changes_while_it_is_read_is_refused(s3: Server, given: Path) -> None:
    s3.client.upload_file(str(given / "corpus.jsonl"), BUCKET, "text/corpus.jsonl")
    changed: list[str] = []

    def change(method: str, path: str) -> None:
        if method == "GET" and path.endswith("corpus.jsonl") and not changed:
            changed.append(path)
            s3.client.put_object(Bucket=BUCKET, Key="text/corpus.jsonl", Body=b'{"text": "another"}\n')

    s3.before = change
    with pytest.raises(StoreFailed, match="was changed while it was read"):
        documents(CORPUS)
    assert documents(CORPUS) and len(documents(CORPUS)) == 1
