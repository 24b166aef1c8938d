"""One target under atheris, which looks for inputs that reach new code; started by fuzzing.py.

python tests/fuzz/guided/child.py FOLDER TARGET [libFuzzer's options and corpora]
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import atheris

sys.path.insert(0, str(Path(__file__).parents[2]))  # tests, for what they share
from forms import mutator

ROOT = Path(__file__).parents[3]
OURS = ["logitfuse", "yaml"]  # whose branches count; of what is compiled nothing is seen
# numba cannot compile what counts its branches. Modules are left out by their whole names only.
COMPILED = [
    ".".join(("logitfuse", *path.relative_to(ROOT).with_suffix("").parts)) for path in ROOT.glob("kernels/**/*.py")
]


def main(root: Path, name: str, options: list[str]) -> None:
    """Fuzz until libFuzzer's own options say enough, or until a finding, whose input is then in a file."""
    sys.dont_write_bytecode = True
    with atheris.instrument_imports(include=OURS, exclude=COMPILED):
        from oracle import Oracle, is_permitted
        from place import Place
        from targets import TARGETS

        target, place = TARGETS[name], Place(root)
        for seed in target.seeds(place):  # imports all that good inputs need, so that its branches count
            try:
                target.read(place, seed)
            except Exception as error:
                if not is_permitted(error, target.permitted):
                    raise
    keep = next(option.partition("=")[2] for option in options if option.startswith("-artifact_prefix="))
    oracle = Oracle(root / "scratch", root / "cache")
    atheris.Setup(
        [sys.argv[0], *options],
        lambda data: _judged(oracle, target, place, data, keep),
        custom_mutator=mutator(target.form),
    )
    atheris.Fuzz()


def _judged(oracle: Any, target: Any, place: Any, data: bytes, keep: str) -> None:
    """Judge an input; write it down where it is a finding, because libFuzzer may be killed before it does."""
    try:
        oracle.judge(target, place, data)
    except BaseException:
        file = Path(f"{keep}crash-{hashlib.sha1(data).hexdigest()}")
        file.write_bytes(data)
        print(f"kept as {file}", flush=True)
        raise


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
