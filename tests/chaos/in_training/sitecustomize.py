"""Put on PYTHONPATH: arms the processes that train, which are started and not forked."""

import sys
from pathlib import Path

if any(part.startswith("logitfuse.tasks.training.worker") for part in sys.orig_argv):
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import killer
    import troubles

    killer.arm_from_environment()
    troubles.from_environment()
