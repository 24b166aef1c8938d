"""One `logitfuse up` and one browser for all tests; the models and the corpus are tiny and on disk."""

import json
import os
import random
import signal
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from local_postgres import local_postgres, why_not
from local_up import Up
from prefect_pages import Pages
from prefect_run_page import RunPage
from tiny_models import WORDS, tiny_model

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Playwright

CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync")  # fmt: skip
SLOW_CAPTURE = Path(__file__).resolve().parents[2] / "benchmarks" / "slow_capture"


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two models whose vocabularies differ, and thirty short documents."""
    folder = tmp_path_factory.mktemp("project")
    tiny_model(folder / "first", 300, seed=1)
    tiny_model(folder / "second", 340, seed=2)
    rng = random.Random(0)
    texts = (" ".join(rng.choices(WORDS, k=rng.randint(3, 30))) for _ in range(30))
    lines = (json.dumps({"id": f"doc-{number}", "text": text}) for number, text in enumerate(texts))
    (folder / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="session")
def chromium() -> Path:
    """The browser; looked for before anything is started."""
    if not CHROMIUM.exists():
        pytest.fail(f"{CHROMIUM}: no such browser. Install it (Debian: apt install chromium), or set CHROMIUM.")
    if find_spec("playwright") is None:
        pytest.fail("Playwright is missing: make test-browser installs it, or pip install 'logitfuse[browser]'.")
    return CHROMIUM


@pytest.fixture(scope="session")
def database(chromium: Path) -> Iterator[tuple[str, ...]]:
    """What makes `up` use PostgreSQL, where that is installed: on a busy machine SQLite is locked for minutes."""
    if why_not():
        yield ()
    else:
        with local_postgres() as server:
            yield "--database-url", f"postgresql://{server}/postgres"


@pytest.fixture(scope="session")
def up(project: Path, database: tuple[str, ...]) -> Iterator[Up]:
    """A `logitfuse up` whose captures take two seconds longer than they need, so that they can be interrupted."""
    started = Up(project)
    paths = [str(SLOW_CAPTURE), *filter(None, [os.environ.get("PYTHONPATH")])]
    started.more = {
        "PYTHONPATH": os.pathsep.join(paths),
        "SLOW_CAPTURE_SECONDS": "2",
        "SLOW_CAPTURE_NOTES": str(project / "captures.jsonl"),
    }
    started.start(*database)
    try:
        yield started
    finally:
        started.stop(signal.SIGTERM)
    assert not started.processes()


@pytest.fixture(scope="session")
def playwright(up: Up) -> Iterator["Playwright"]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="session")
def browser(playwright: "Playwright", chromium: Path) -> "Browser":
    return playwright.chromium.launch(executable_path=chromium, args=QUIET)


@pytest.fixture(scope="session")
def pages(browser: "Browser", up: Up, tmp_path_factory: pytest.TempPathFactory) -> Pages:
    """Its pictures are kept in $BROWSER_PICTURES, to be looked at."""
    pictures = Path(os.environ.get("BROWSER_PICTURES") or tmp_path_factory.mktemp("pictures"))
    pictures.mkdir(parents=True, exist_ok=True)
    return Pages(browser, f"http://127.0.0.1:{up.port}", pictures)


@pytest.fixture(autouse=True)
def _pages_are_in_order(pages: Pages, request: pytest.FixtureRequest) -> Iterator[None]:
    """No page may ask anything outside this machine, or break. What a test left in the window is kept as a picture."""
    yield
    pages.picture(f"after-{request.node.name}")
    assert not pages.outside and not pages.errors


@pytest.fixture(scope="session")
def values(project: Path) -> dict[str, Any]:
    """What a person fills in for a run of seconds: three shards, two models, a few training steps."""
    return {
        "recipe.name": "tiny",
        "recipe.target.model": project / "first",
        "recipe.target.dtype": "float32",
        "recipe.sources.0.model": project / "second",
        "recipe.sources.0.dtype": "float32",
        "recipe.corpus.source": project / "corpus.jsonl",
        "recipe.corpus.documents_per_shard": 10,
        "recipe.corpus.held_out_share": 0.2,
        "recipe.check.nats_per_byte": None,  # random weights predict nothing
        "recipe.capture.k": 4,
        "recipe.train.dtype": "fp32",
        "recipe.train.sequence_length": 128,
        "recipe.train.max_steps": 2,
        "recipe.execution.min_free_gb": 0,
        "recipe.execution.device": "cpu",
    }


@pytest.fixture(scope="session")
def finished(pages: Pages, values: dict[str, Any]) -> RunPage:
    """The page of a pipeline's run that was filled in, sent and watched to its end."""
    page = pages.run("pipeline", values, picture="form-filled")
    page.wait("Running")
    page.picture("pipeline-running")
    page.wait("Completed")
    page.picture("pipeline-completed")
    return page


@pytest.fixture
def files(project: Path) -> Callable[..., dict[Path, int]]:
    """Return when the shards of a stage were written, by path."""

    def written(stage: str, name: str = "tiny") -> dict[Path, int]:
        shards = (project / "runs" / name / stage).glob("**/part-*.parquet")
        return {path: path.stat().st_mtime_ns for path in shards}

    return written
