"""Shared by all tests: no time limits on property tests (numba compiles on first use, CI machines are shared)."""

import os

from hypothesis import settings

settings.register_profile("logitfuse", deadline=None, max_examples=60)
settings.load_profile("logitfuse")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
