"""Shared by all tests: no time limits on property tests (numba compiles on first use, CI machines are shared)."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

pytest.register_assert_rewrite("loss_cases", "small_tokenizers")  # their checks say what differs, as tests do
settings.register_profile("logitfuse", deadline=None, max_examples=60)
settings.load_profile("logitfuse")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="module")
def in_this_process() -> Iterator[None]:
    """Models are trained in the test's own process."""
    from done_runs import train_here

    from logitfuse.tasks import train

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "run_training", train_here)
        yield
