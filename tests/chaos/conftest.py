"""One undisturbed run of all stages, for the short forms of the campaigns."""

from collections.abc import Iterator

import pytest
from runs_under_fire import Forks, Undisturbed, undisturbed


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    with Forks(tmp_path_factory.mktemp("chaos")) as started:
        yield started


@pytest.fixture(scope="session")
def wanted(forks: Forks) -> Undisturbed:
    return undisturbed(forks, forks.folder)
