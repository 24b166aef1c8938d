"""Commands that messages name: as the user typed them, with every override."""

import shlex

from logitfuse.flows.typed_recipe import forget, note_overrides, note_recipe, typed, with_recipe
from logitfuse.tasks.unit import Unit
from logitfuse.tasks.verify.faults import redo_command


def test_a_shell_reads_what_was_typed() -> None:
    given = typed("my recipe.yaml", ["execution.folder=/a b", "corpus.domains=[law, news]"])
    assert shlex.split(given)[2::2] == ["execution.folder=/a b", "corpus.domains=[law, news]"]
    redo = redo_command(given, Unit("capture", "big", 3))
    assert shlex.split(redo)[3] == "my recipe.yaml" and redo.endswith("--source big --shards 3 --redo")
    assert typed("demo") == "demo"


def test_a_message_names_the_recipe() -> None:
    try:
        note_recipe("demo")
        note_overrides(["name=other"])
        said = "Run: logitfuse stage capture RECIPE --redo, or logitfuse run RECIPE. RECIPES stay."
        assert with_recipe(said) == (
            "Run: logitfuse stage capture demo --set name=other --redo, or logitfuse run demo --set name=other. "
            "RECIPES stay."
        )
    finally:
        forget()
    assert with_recipe("logitfuse run RECIPE") == "logitfuse run RECIPE"
