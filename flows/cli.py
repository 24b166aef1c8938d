"""The command line: which commands there are, and how they end."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

import typer
from rich.text import Text
from typer import rich_utils

from logitfuse.flows.alignment_report import alignment
from logitfuse.flows.audit import audit
from logitfuse.flows.clean import clean
from logitfuse.flows.convert import convert
from logitfuse.flows.deploy import deploy
from logitfuse.flows.doctor.command import doctor
from logitfuse.flows.evaluate import evaluate
from logitfuse.flows.exit_codes import ExitCode
from logitfuse.flows.headroom_command import headroom
from logitfuse.flows.help_page import Command, Group
from logitfuse.flows.init.command import init
from logitfuse.flows.inspect import inspect
from logitfuse.flows.json_answers import answer_error, is_json_wanted, words_again
from logitfuse.flows.loudness import as_usual, wants_traceback
from logitfuse.flows.plan import plan
from logitfuse.flows.push import push
from logitfuse.flows.report_command import report
from logitfuse.flows.run_command import run, stage
from logitfuse.flows.show import errors
from logitfuse.flows.status import status
from logitfuse.flows.stopping import Stopped, stoppable
from logitfuse.flows.study import results as results_page
from logitfuse.flows.study import study
from logitfuse.flows.submit import submit
from logitfuse.flows.typed_recipe import forget, with_recipe
from logitfuse.flows.up.command import up
from logitfuse.flows.verify import verify
from logitfuse.flows.version import begin
from logitfuse.flows.worker_config import worker_config
from logitfuse.storage.errors import LogitfuseError, without_passwords
from logitfuse.storage.system_errors import explained, out_of_memory

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Fuse several language models, whatever their vocabularies, into one.",
    epilog="First: logitfuse doctor. Then: logitfuse run demo, or logitfuse init for models of your own.",
)

# In the order of `logitfuse --help`: what belongs together stands together.
COMMANDS: dict[str, dict[str, Callable[..., None]]] = {
    "Begin": {"doctor": doctor, "init": init, "alignment": alignment, "plan": plan},
    "Run": {"run": run, "stage": stage, "status": status, "headroom": headroom, "convert": convert},
    "Look at the result": {"report": report, "inspect": inspect, "evaluate": evaluate, "push": push},
    "Check what is stored": {"verify": verify, "audit": audit, "clean": clean},
    "Prefect and clusters": {"up": up, "submit": submit, "deploy": deploy, "worker-config": worker_config},
    "Studies": {"study": study, "results": results_page},
}
app.callback()(begin)
for panel, commands in COMMANDS.items():
    for called, function in commands.items():
        app.command(called, cls=Command, rich_help_panel=panel)(function)


def main() -> None:
    """Entry point: errors made for users are printed without a traceback, with exit code 2.

    What the operating system refuses is told the same way; a signal's exit code is 128 and its number.
    """
    try:
        forget()
        with stoppable():
            _run_app()
    except Stopped as stopped:
        _end("Stopped", str(stopped), stopped.code)
    except LogitfuseError as error:
        _end(type(error).__name__, str(error), ExitCode.REFUSED)
    except Exception as error:
        from logitfuse.flows.prefect_settings import refused_setting

        if told := explained(error) or out_of_memory(error) or refused_setting(error):
            _end(type(told).__name__, str(told), ExitCode.REFUSED)
        _show_traceback()
        _end("Defect", without_passwords(f"this is a defect of logitfuse: {error!r}"), ExitCode.DEFECT)
    finally:
        words_again()  # also where a command did not come so far as to do both itself
        as_usual()


def _run_app() -> None:
    """Run the command of `sys.argv`; raise SystemExit with its exit code."""
    try:
        code = app(standalone_mode=False)
    except typer.Abort:
        code = ExitCode.INTERRUPTED
    except Exception as error:
        if not hasattr(error, "format_message"):  # those of typer (of click, in its older versions): wrong usage
            raise
        code = ExitCode.REFUSED
        rich_utils.rich_format_error(error)  # type: ignore[arg-type]
        if is_json_wanted():
            answer_error("Usage", error.format_message(), code)
    if code == ExitCode.INTERRUPTED:
        _end("Stopped", "stopped: Ctrl-C. What was finished stays; the same command goes on from there.", code)
    sys.exit(int(code or ExitCode.DONE))


def _show_traceback() -> None:
    """Print where the present error comes from; what libraries say of a URL may hold a password."""
    errors.print(without_passwords(traceback.format_exc()), highlight=False, markup=False, soft_wrap=True)


def _end(kind: str, line: str, code: int) -> NoReturn:
    if wants_traceback() and sys.exc_info()[0] is not None:
        _show_traceback()
    line = with_recipe(line)
    errors.tell(Text.assemble(("logitfuse: ", "bold red"), line))  # a command in it is copied from a log, too
    if is_json_wanted():
        answer_error(kind, line, code)
    sys.exit(code)


if __name__ == "__main__":
    main()
