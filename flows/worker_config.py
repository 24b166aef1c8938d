"""`logitfuse worker-config`: train by `accelerate launch` on a cluster of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from logitfuse.flows.options import RecipeArgument, SetOption, named_again
from logitfuse.flows.show import console


def worker_config(
    recipe: RecipeArgument,
    file: Annotated[Path, typer.Argument(help="Where to write the configuration (JSON).")],
    arm: Annotated[str, typer.Option(help="fused, or control.")] = "fused",
    overrides: SetOption = None,
) -> None:
    """Write what `accelerate launch -m logitfuse.tasks.training.worker FILE` needs; the fused shards must be made.

    Example: logitfuse worker-config recipe.yaml worker.json
    """
    from logitfuse.tasks.checks import check_folder
    from logitfuse.tasks.execute import chosen_units
    from logitfuse.tasks.recipe import read_recipe
    from logitfuse.tasks.run import Run
    from logitfuse.tasks.train_hosts import write_worker_config

    current = Run(read_recipe(recipe, overrides or ()))
    check_folder(current.recipe)
    (unit,) = chosen_units(current, "train", arm)
    config = write_worker_config(current, unit, file)
    console.print(f"accelerate launch --config_file ACCELERATE.yaml -m logitfuse.tasks.training.worker {file}",
                  soft_wrap=True, markup=False, highlight=False)  # fmt: skip
    named = named_again(recipe, overrides)
    console.print(f"The model will be in {config.out}; `logitfuse stage train {named}` then publishes it.",
                  soft_wrap=True, markup=False, highlight=False)  # fmt: skip
