"""The one place that knows lm-evaluation-harness (`lm_eval`), which is an extra: nothing here imports it early."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logitfuse.kernels.closest_name import did_you_mean
from logitfuse.storage.errors import BadInput

if TYPE_CHECKING:
    from lm_eval.models.huggingface import HFLM
    from tokenizers import Tokenizer

    from logitfuse.tasks.engine import Progress
    from logitfuse.tasks.models.causal import CausalModel
    from logitfuse.tasks.models.source import Source

INSTALL = "pip install 'logitfuse[suites]'"


def harness_version() -> str:
    """Return the version of lm_eval; raise `BadInput` that says what to install."""
    try:
        return version("lm_eval")
    except PackageNotFoundError:
        raise BadInput(
            f"suites: they are asked through lm-evaluation-harness, which is not installed. Run: {INSTALL}; or leave "
            "suites.names, suites.tasks and suites.include_path empty."
        ) from None


def built_in_folder() -> Path:
    """Return the folder of lm_eval's own task files."""
    harness_version()
    found = find_spec("lm_eval")
    assert found is not None and found.origin is not None
    return Path(found.origin).parent / "tasks"


def registered_tasks(names: Sequence[str]) -> dict[str, Path]:
    """Return the tasks that these names stand for, groups and tags taken apart, with the files that define them.

    Raises `BadInput` with the closest known name. The first call reads all of lm_eval's task files (seconds).
    """
    found: dict[str, Path] = {}
    for name in names:
        found |= _expand(name, frozenset())
    return found


def _expand(name: str, above: frozenset[str]) -> dict[str, Path]:
    index = _index()
    entry = index.get(name)
    if entry is None or name in above:
        why = f"suites.tasks: lm-evaluation-harness {harness_version()} knows no task {name!r}."
        raise BadInput(f"{why} {did_you_mean(name, index)}".strip())
    if entry.kind.name in ("TASK", "PY_TASK"):
        return {name: entry.yaml_path}
    inner = sorted(entry.tags) if entry.kind.name == "TAG" else (entry.cfg or {}).get("task", [])
    names = [one["task"] if isinstance(one, dict) and "task" in one else one for one in inner]
    if not all(isinstance(one, str) for one in names):
        raise BadInput(f"suites.tasks: the group {name!r} defines tasks inline. Name its tasks one by one.")
    found: dict[str, Path] = {}
    for one in names:
        found |= _expand(one, above | {name})
    return found


@lru_cache(maxsize=1)
def _index() -> dict[str, Any]:
    harness_version()
    from lm_eval.tasks import TaskManager

    with quiet():
        return dict(TaskManager().task_index)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep lm_eval's and datasets' lines and bars away from the run's own while the block runs."""
    import datasets

    harness_version()
    import lm_eval.api.task as task_module

    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets")]
    levels = [logger.level for logger in loggers]
    bars, tqdm = datasets.are_progress_bars_disabled(), task_module.tqdm
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    task_module.tqdm = lambda items, **_: items
    try:
        yield
    finally:
        task_module.tqdm = tqdm
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if not bars:
            datasets.enable_progress_bars()


def language_model(model: CausalModel, source: Source, batch_size: int, progress: Progress) -> HFLM:
    """Return a model as lm_eval asks it: our folder's weights, the start token as the recipe has it, no bars."""
    from lm_eval.models.huggingface import HFLM

    from logitfuse.tasks.models.vocabulary import load_tokenizer

    tokenizer = load_tokenizer(source.home.folder)  # one of its own: lm_eval sets its padding
    _set_start(tokenizer.backend_tokenizer, source.start_id)

    class AskedModel(HFLM):
        """Counts what was answered."""

        answered = 0

        def _model_call(self, inps: Any, *given: Any, **named: Any) -> Any:
            self._note(len(inps))
            return super()._model_call(inps, *given, **named)

        def _model_generate(self, context: Any, *given: Any, **named: Any) -> Any:
            self._note(len(context))
            return super()._model_generate(context, *given, **named)

        def _note(self, answered: int) -> None:
            self.answered += answered
            progress(self.answered, 0)

        def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> Any:
            return super().loglikelihood(requests, disable_tqdm=True)

        def generate_until(self, requests: Any, disable_tqdm: bool = True) -> Any:
            return super().generate_until(requests, disable_tqdm=True)

    with quiet():
        return AskedModel(
            model.model,
            tokenizer=tokenizer,
            batch_size=batch_size,
            max_length=source.context,
            add_bos_token=True,  # that is: let the tokenizer add what `_set_start` says
            prefix_token_id=source.start_id,
        )


def _set_start(tokenizer: Tokenizer, start: int | None) -> None:
    """Make a tokenizer put the start token before each text, or nothing."""
    from tokenizers.processors import TemplateProcessing

    if start is None:
        tokenizer.post_processor = TemplateProcessing(single="$A")
    else:
        name = tokenizer.id_to_token(start)
        tokenizer.post_processor = TemplateProcessing(single=[f"{name}:0", "$A:0"], special_tokens=[(name, start)])
