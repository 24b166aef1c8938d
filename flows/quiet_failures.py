"""A failure that was made for users is told on a run's page by its message, not by a traceback of Prefect's engine."""

from __future__ import annotations

import logging

from prefect import get_run_logger, runtime

from logitfuse.storage.errors import LogitfuseError

_OF_THE_ENGINE = "Engine execution exited with unexpected exception"


def tell_without_traceback(message: str) -> None:
    """Log on a deployment's run why it fails, and keep out what the engine logs of the same error on its way out.

    Runs of the command line are told there.
    """
    if runtime.deployment.id is None:
        return
    get_run_logger().error(message)
    logging.getLogger("prefect.flow_runs").addFilter(_is_not_of_the_engine)  # once only, however often it is added


def _is_not_of_the_engine(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not (isinstance(error, LogitfuseError) and record.getMessage() == _OF_THE_ENGINE)
