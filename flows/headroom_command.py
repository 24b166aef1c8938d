"""`logitfuse headroom`: are the fused targets better than the student they are to teach?"""

from __future__ import annotations

from logitfuse.flows.json_answers import answer
from logitfuse.flows.opened_run import open_run
from logitfuse.flows.options import JsonFileOption, JsonOption, QuietOption, RecipeArgument, SetOption, VerboseOption
from logitfuse.flows.typed_recipe import advising_to_run
from logitfuse.flows.written_file import write_json


def headroom(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    as_json: JsonOption = False,
    json_file: JsonFileOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Compare the fused targets with the target model itself on validation text, before anything is trained.

    Needs stage fuse; reads shards only, no model. Example: logitfuse headroom recipe.yaml --json-file headroom.json
    """
    from logitfuse.flows.headroom import show_headroom
    from logitfuse.tasks.execute import do_unit
    from logitfuse.tasks.headroom import read_headroom
    from logitfuse.tasks.unit import Unit

    current = open_run(recipe, overrides)
    with advising_to_run("fuse"):
        do_unit(current, Unit("headroom"))
    facts = read_headroom(current)
    if json_file is not None:
        write_json(json_file, facts)
    if as_json:
        answer(facts)
    else:
        show_headroom(facts)
