"""What a user can set about stage suites: which tasks of lm-evaluation-harness every model of the run is asked."""

from typing import Literal

from pydantic import Field, field_validator

from logitfuse.storage.settings import Settings

SuiteName = Literal["bbh", "common_sense", "code", "package:humaneval", "package:bigbench"]


class SuiteSettings(Settings):
    """Question answering and code, beside the loss on held-out text; off while no suite and no task is named."""

    model_config = {"title": "Suites"}

    names: tuple[SuiteName, ...] = Field(
        (),
        title="Suites",
        description="bbh: Big-Bench Hard, 27 tasks, three examples with reasoning, exact match. common_sense: "
        "ARC-easy, ARC-challenge, BoolQ, HellaSwag, OpenBookQA, no examples. code: HumanEval, pass@1. These read their "
        "data from the hub; package:humaneval and package:bigbench (24 parents of the BBH tasks) need none.",
    )
    tasks: tuple[str, ...] = Field(
        (), title="Tasks", description="Further tasks, groups or tags by the names that lm-evaluation-harness has."
    )
    include_path: str = Field(
        "",
        title="Task folder",
        description="A folder of task files (YAML) of your own; all of its tasks are asked. Python functions that they "
        "name are run, so take files from whom you trust.",
    )
    limit: int | None = Field(
        None, ge=1, title="Examples", description="Ask only the first so many examples of each task. Empty: all."
    )
    batch_size: int = Field(8, ge=1, title="Batch size", description="Requests in a forward pass.")
    fewshot: int | None = Field(
        None,
        ge=0,
        title="Examples in the prompt",
        description="Solved examples before each question, for tasks that do not fix their number at 0. Empty: what "
        "each task says.",
    )
    max_new_tokens: int | None = Field(
        None, ge=1, title="Longest answer", description="Tokens generated at most. Empty: what each task says."
    )
    seed: int = Field(1234, ge=0, title="Seed", description="Which solved examples are drawn, and what is sampled.")
    execute_generated_code: bool = Field(
        False,
        title="Run generated code",
        description="Code tasks are scored by running what the model wrote. It runs on this machine in a child process "
        "with limits on time, memory, files and processes, no environment and, where the system allows, no network. "
        "That stops accidents, not an attacker: the code can read what your user can read. Use a container or a "
        "machine of its own for models you do not trust. Without this, code tasks are refused.",
    )
    program_seconds: float = Field(
        10.0, gt=0, title="Seconds a program", description="Time on the clock for one generated program and its tests."
    )
    program_memory_mb: int = Field(
        1024, ge=64, title="Memory a program (MB)", description="Address space of one generated program."
    )

    @field_validator("names", "tasks")
    @classmethod
    def _each_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"listed twice: {', '.join(doubled)}")
        return names

    @property
    def wanted(self) -> bool:
        """Whether anything is to be asked at all."""
        return bool(self.names or self.tasks or self.include_path)

    @property
    def code_that_runs(self) -> tuple[str, ...]:
        """What running these suites would execute of others' code, in words for whoever starts it."""
        said = []
        if self.include_path:
            said.append(
                f"suites.include_path: Python functions that task files in {self.include_path} name are run as you, "
                "here, with all that you may do. Stop now if you do not trust who wrote them."
            )
        if self.execute_generated_code:
            said.append(
                "suites.execute_generated_code: programs that models write are run on this machine, in a child with "
                "limits. That stops accidents, not an attacker: they can read what you can read."
            )
        return tuple(said)

    def of_task(self, *, runs_code: bool) -> "SuiteSettings":
        """Return what can change one task's result, for its key: not which others are asked, nor the permission."""
        default = SuiteSettings()
        free = {"names", "tasks", "include_path", "execute_generated_code"}
        free |= set() if runs_code else {"program_seconds", "program_memory_mb"}
        return self.model_copy(update={name: getattr(default, name) for name in free})
