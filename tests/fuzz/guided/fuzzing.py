"""Coverage-guided fuzzing of all readers of untrusted files, each in a process of its own, on the files of a tiny run.

    make fuzz-guided SECONDS=60 SEED=1                                       # each target for a minute
    python tests/fuzz/guided/fuzzing.py --only recipe --seconds 600
    python tests/fuzz/guided/fuzzing.py --again runs/fuzz/recipe-crash-0a1b # one input once more, with its traceback

A finding is an error that is none for users, more than some seconds or some hundred MB for one input, or a file written
elsewhere. Its input stays in runs/fuzz, and the campaign ends with exit code 1.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))  # tests, for what they share

SECONDS_AN_INPUT, MOST_MB = 60, 6000  # machines are shared; an input takes milliseconds
FOUND = re.compile(r"(?:Test unit written to|kept as) (\S+)")
# Of a process that was killed the last count that it told is all there is.
COUNTED = {"executions": re.compile(r"^(?:stat::number_of_executed_units: |#)(\d+)", re.MULTILINE),
           "covered": re.compile(r"cov: (\d+)")}  # fmt: skip


def main() -> int:
    """Fuzz the chosen targets one after the other, or read one input again."""
    from targets import TARGETS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1, 1 << 30))
    parser.add_argument("--only", nargs="*", default=list(TARGETS), choices=list(TARGETS), metavar="TARGET")
    parser.add_argument("--findings", type=Path, default=Path("runs/fuzz"), help="folder for inputs that are findings")
    parser.add_argument("--json", type=Path, help="where to write the result")
    parser.add_argument("--home", type=Path, help="a folder for the tiny run, which is kept and used again")
    parser.add_argument("--again", type=Path, help="an input to read once more")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lf-fuzz-") as folder:
        root = (arguments.home or Path(folder)).resolve()
        make_home(root)
        if arguments.again:
            return read_again(root, arguments.again)
        print(f"seed {arguments.seed}", flush=True)
        arguments.findings.mkdir(parents=True, exist_ok=True)
        found = {name: fuzz(root, name, arguments) for name in arguments.only}
    if arguments.json:
        arguments.json.write_text(json.dumps({"seed": arguments.seed, "targets": found}, indent=1) + "\n")
    return 1 if any(facts["findings"] for facts in found.values()) else 0


def make_home(root: Path) -> None:
    """Make the run whose files are the seeds, with nothing of this user's folders, cache or network."""
    os.environ |= {"LOGITFUSE_CACHE": str(root / "cache"), "HOME": str(root / "cache"), "HF_HUB_OFFLINE": "1",
                   "OMP_NUM_THREADS": "1", "PREFECT_HOME": str(root / "cache"), "NUMBA_CACHE_DIR": str(root / "cache"),
                   "TMPDIR": str(root / "cache")}  # fmt: skip
    if (root / "runs" / "tiny" / "report.json").exists():
        return
    for folder in (root / "scratch", root / "cache"):
        folder.mkdir(parents=True, exist_ok=True)
    from tiny_run import write_tiny_run

    write_tiny_run(root)
    command = [sys.executable, "-m", "logitfuse.flows.cli", "run", str(root / "recipe.yaml"), "--plain"]
    made = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    if made.returncode:
        raise SystemExit(f"the run whose files are the seeds could not be made:\n{made.stdout}{made.stderr}")


def read_again(root: Path, file: Path) -> int:
    """Let the target that the file's name begins with read it; a finding ends in its traceback."""
    from oracle import Oracle
    from place import Place
    from targets import TARGETS

    name = max((name for name in TARGETS if file.name.startswith(f"{name}-")), key=len)
    Oracle(root / "scratch", root / "cache").judge(TARGETS[name], Place(root), file.read_bytes())
    print(f"{name}: read or refused as it should be")
    return 0


def fuzz(root: Path, name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Fuzz one target; return executions, covered branches and the files of findings."""
    from place import Place
    from targets import TARGETS

    corpus = root / "inputs" / str(arguments.seed) / name
    corpus.mkdir(parents=True, exist_ok=True)
    seeds = TARGETS[name].seeds(Place(root))
    for number, seed in enumerate(seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    longest = max(4096, *(2 * len(seed) for seed in seeds))
    options = [f"-max_total_time={arguments.seconds}", f"-seed={arguments.seed}", f"-timeout={SECONDS_AN_INPUT}",
               f"-rss_limit_mb={MOST_MB}", f"-max_len={longest}",
               f"-report_slow_units={SECONDS_AN_INPUT}", "-print_final_stats=1",
               f"-artifact_prefix={arguments.findings.resolve()}/{name}-"]  # fmt: skip
    command = [sys.executable, str(HERE / "child.py"), str(root), name, *options, str(corpus)]
    done = subprocess.run(command, capture_output=True, cwd=root / "cache", check=False)
    lines = (done.stdout + done.stderr).decode(errors="replace").split("\n")
    said = "\n".join(line for line in lines if "INFO: Instrumenting" not in line)
    found = sorted({Path(path).name for path in FOUND.findall(said)})
    if done.returncode and not found:  # such as a good input on which the target fails
        raise SystemExit(f"{name}: the fuzzer ended with {done.returncode} and no finding:\n{said[-4000:]}")
    counts = {what: int((pattern.findall(said) or [0])[-1]) for what, pattern in COUNTED.items()}
    print(f"{name}: {counts['executions']:,} inputs, {counts['covered']:,} branches", flush=True)
    if found:
        tell(said, arguments.findings, found)
    return {**counts, "seconds": arguments.seconds, "findings": found}


def tell(said: str, folder: Path, files: list[str]) -> None:
    """Print what was found, where its input lies and how to read it again."""
    print(said[said.rfind("=== Uncaught") :][:4000] if "=== Uncaught" in said else said[-4000:])
    for file in files:
        print(f"FOUND: {folder / file}\nAgain: {sys.executable} {Path(__file__)} --again {folder / file}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
