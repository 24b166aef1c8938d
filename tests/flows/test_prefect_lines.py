"""Prefect's lines beside a live view: above it, and none about a stop that the command tells of itself."""

import io
import logging

import pytest
from prefect.logging.handlers import PrefectConsoleHandler

from logitfuse.flows import prefect_lines
from logitfuse.flows.loudness import Loudness
from logitfuse.flows.prefect_lines import prefects_lines
from logitfuse.flows.stopping import Stopped

LOG = logging.getLogger("prefect.of_this_test")


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What Prefect's console prints; it is the only one, whatever other tests of this process have set up."""
    stream = io.StringIO()
    monkeypatch.setattr(logging.getLogger(), "handlers", [PrefectConsoleHandler(stream)])
    return stream


def crash(error: BaseException) -> None:
    """Log as Prefect does on its way out."""
    try:
        raise error
    except BaseException:
        LOG.error("Crash detected!")


@pytest.mark.filterwarnings("ignore:Logger 'prefect.task_runs'")  # which sends its lines to the run it stands in
def test_lines_stand_above_the_view_and_none_tells_of_a_stop_or_a_failed_task(printed: io.StringIO) -> None:
    above: list[str] = []
    with prefects_lines(above.append):
        for stop in (KeyboardInterrupt(), Stopped(15)):
            crash(stop)
        crash(ValueError())
        logging.getLogger("prefect.task_runs").error("Finished in state Failed('Task run encountered an exception')")
        LOG.error("a server's trouble")
    assert above[-2:] == ["Crash detected!", "a server's trouble"] and len(above) == 2 and not printed.getvalue()
    LOG.error("afterwards")
    assert "afterwards" in printed.getvalue() and len(above) == 2


def test_without_a_view_and_with_verbose_prefect_prints(printed: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    with prefects_lines(None):
        crash(KeyboardInterrupt())
        LOG.error("trouble")
    assert printed.getvalue() == "trouble\n"
    monkeypatch.setattr(prefect_lines, "loudness", lambda: Loudness.VERBOSE)
    with prefects_lines(None):
        crash(KeyboardInterrupt())
    assert printed.getvalue() == "trouble\nCrash detected!\n"
