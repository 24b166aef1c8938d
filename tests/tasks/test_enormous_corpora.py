"""A line of 1 GB, and ten million documents of one word: each in a process of its own, whose memory is measured."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
MB = 1 << 20
PREPARE = """
import json, resource, sys
from pathlib import Path
from logitfuse.storage.store import LocalStore
from logitfuse.tasks.corpus.settings import CorpusSettings
from logitfuse.tasks.prepare import prepare_corpus
settings = CorpusSettings.model_validate(json.loads(sys.argv[1]))
records = [outcome.record for outcome in prepare_corpus(settings, LocalStore(Path(sys.argv[2])), None)]
found = {"documents": sum(record.counts["documents"] for record in records), "shards": len(records)}
print(json.dumps(found | {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
"""


def prepared(folder: Path, **settings: Any) -> dict[str, int]:
    """Prepare `folder`/corpus.jsonl in a process of its own; return documents, shards and its peak (bytes)."""
    content = {"source": str(folder / "corpus.jsonl"), **settings}
    command = [sys.executable, "-c", PREPARE, json.dumps(content), str(folder / "run")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout)
    return found


def peak_of_little(folder: Path) -> int:
    """Return what a process takes that prepares two documents."""
    folder.mkdir()
    (folder / "corpus.jsonl").write_text('{"text": "first"}\n{"text": "last"}\n')
    return prepared(folder)["peak"]


def test_a_line_of_a_gigabyte_is_listed_and_passed_over_in_pieces(tmp_path: Path) -> None:
    with (tmp_path / "corpus.jsonl").open("wb") as file:
        file.write(b'{"text": "first"}\n{"text": "')
        for _ in range(1024):
            file.write(b"x" * MB)
        file.write(b'"}\n{"text": "last"}\n')
    found = prepared(tmp_path, on_bad_document="quarantine")
    assert found["documents"] == 2
    assert found["peak"] - peak_of_little(tmp_path / "little") < 640 * MB
    (listed,) = (tmp_path / "run" / "prepare").glob("quarantined.*.jsonl")
    assert "line 2: it has more than 256 MB" in listed.read_text()


def test_ten_million_documents_of_one_word(tmp_path: Path) -> None:
    number = 10_000_000
    with (tmp_path / "corpus.jsonl").open("w") as file:
        for first in range(0, number, 100_000):
            file.write("".join(f'{{"id": "d{i}", "text": "w{i}"}}\n' for i in range(first, first + 100_000)))
    found = prepared(tmp_path, id_column="id", documents_per_shard=100_000)
    assert found["documents"] >= 0.99 * number  # the rest is held out
    assert found["peak"] - peak_of_little(tmp_path / "little") < 640 * MB
