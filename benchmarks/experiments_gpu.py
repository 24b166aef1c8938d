"""The studies at 10 M tokens a run, on a machine with a GPU, without a network, that takes commands of some minutes.

    python benchmarks/experiments_gpu.py pack gpu-pack --add wheels     # here: models and text, in pieces of 50 MB
    python benchmarks/experiments_gpu.py join gpu-pack --into packed    # there: as often as pieces come
    python benchmarks/experiments_gpu.py run --packed packed --minutes 9 --json gpu.json     # there: again and again
    python benchmarks/experiments_gpu.py run --quick                    # a trial on any machine, some minutes

run goes on where the run folders stand. When the minutes are over, what is being trained saves a checkpoint and stops.
Every call writes the results so far, in the form of `logitfuse study --json`. Exit codes: 0 all is done; 75 there is
more to do (run), or pieces are missing (join): call again; 1 a run failed; 2 what was asked for cannot be done.
docs/studies.md has the commands in order.
"""

import argparse
import os
import sys
import time
from pathlib import Path

from pieces import join, pack
from within_minutes import DONE, MORE, run_within

from logitfuse.storage.errors import LogitfuseError

REFUSED = 2
STUDIES = ["gpu-main", "gpu-domains"]
PIECE_MB = 50


def main() -> int:
    """Do one of the three; return the exit code."""
    began = time.monotonic()
    arguments = options().parse_args()
    arguments.study = getattr(arguments, "study", None) or STUDIES
    try:
        if arguments.command == "pack":
            return pack_studies(arguments)
        if arguments.command == "join":
            return join_pieces(arguments)
        use_packed(arguments)
        return work(arguments) if arguments.child else run_within(arguments, began, sys.argv)
    except LogitfuseError as error:
        print(f"experiments_gpu: {error}", file=sys.stderr)
    except ModuleNotFoundError as error:
        print(f"experiments_gpu: {error}. Bring its wheel: docs/studies.md says how.", file=sys.stderr)
    return REFUSED


def options() -> argparse.ArgumentParser:
    """Return the parser of the three commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    studies = argparse.ArgumentParser(add_help=False)
    studies.add_argument(
        "--study", action="append", help=f"a study; may be repeated (default: {' and '.join(STUDIES)})"
    )
    packing = commands.add_parser("pack", parents=[studies], help="put models and text of the studies into pieces")
    packing.add_argument("folder", type=Path, help="where the pieces go; pieces of an earlier pack are removed")
    packing.add_argument("--add", type=Path, action="append", default=[], help="a file or folder to go along: wheels")
    packing.add_argument("--piece-mb", type=float, default=PIECE_MB, help="size of a piece at most, MB")
    packing.add_argument(
        "--as-packages",
        action="store_true",
        help="models as the packages they ship in, a third of the size; needs gguf",
    )
    joining = commands.add_parser("join", help="take pieces, and unpack them once all are there")
    joining.add_argument("folder", type=Path, help="where pieces are, not necessarily all")
    joining.add_argument("--into", type=Path, required=True, help="where everything goes")
    run_options(commands.add_parser("run", parents=[studies], help="go on with the studies for some minutes"))
    return parser


def run_options(parser: argparse.ArgumentParser) -> None:
    """Add what `run` takes."""
    parser.add_argument("--minutes", type=float, default=9.0, help="the whole command ends within them")
    parser.add_argument("--packed", type=Path, help="what join made; without it models and text are fetched")
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="where the run folders lie; keep it")
    parser.add_argument("--only", action="append", default=[], help="do only this variant; may be repeated")
    parser.add_argument("--scale", type=float, default=1.0, help="multiply documents and training steps")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="override a field of the base")
    parser.add_argument("--locked", action="store_true", help="when all is done, look at the locked split")
    parser.add_argument("--quick", action="store_true", help="a trial: three variants of the first study, two steps")
    parser.add_argument("--json", type=Path, help="where the results go")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)  # what does the work, and is stopped


def pack_studies(arguments: argparse.Namespace) -> int:
    """Write the pieces and say what they hold."""
    from gpu_studies import packed_content

    content = [*packed_content(arguments.study, arguments.as_packages)]
    content += [(path, path.resolve().name) for path in arguments.add]
    pieces = pack(content, arguments.folder, int(arguments.piece_mb * 1e6))
    for path, name in content:
        print(f"  {name}  ({path})")
    print(f"{len(pieces)} pieces, {sum(piece['bytes'] for piece in pieces) / 1e6:.0f} MB: {arguments.folder}")
    return DONE


def join_pieces(arguments: argparse.Namespace) -> int:
    """Take the pieces that have come and say which have not."""
    missing = join(arguments.folder, arguments.into)
    print(f"missing: {', '.join(missing)}. Bring them and join again." if missing else f"all is in {arguments.into}")
    return MORE if missing else DONE


def use_packed(arguments: argparse.Namespace) -> None:
    """Take packaged models and text from what was joined."""
    if arguments.packed:
        os.environ["LOGITFUSE_CACHE"] = str(arguments.packed.resolve())
        os.environ["HF_HUB_OFFLINE"] = "1"


def work(arguments: argparse.Namespace) -> int:
    """Be the child: do what is missing of all studies."""
    from gpu_studies import do_studies

    return do_studies(arguments)


if __name__ == "__main__":
    sys.exit(main())
