"""One target under atheris, which looks for inputs that reach new code; started by fuzzing.py.

python tests/fuzz/guided/child.py FOLDER TARGET [libFuzzer's options and corpora]
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[2]))  # tests, for what they share
from forms import mutator

OURS = ["logitfuse", "yaml"]  # whose branches count; of what is compiled nothing is seen


def main(root: Path, name: str, options: list[str]) -> None:
    """Fuzz until libFuzzer's own options say enough, or until a finding, whose input is then in a file."""
    sys.dont_write_bytecode = True
    with atheris.instrument_imports(include=OURS):
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
    oracle = Oracle(root / "scratch", root / "cache")
    atheris.Setup(
        [sys.argv[0], *options],
        lambda data: oracle.judge(target, place, data),
        custom_mutator=mutator(target.form),
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
