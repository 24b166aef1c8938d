"""A study: one recipe in named variants, the same seeds for all, and the contrasts that were declared beforehand."""

from __future__ import annotations

from itertools import product
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from logitfuse.storage.settings import Settings

Split = Literal["validation", "test"]
FUSED, CONTROL, TARGET, ENSEMBLE = "fused", "control", "target", "ensemble"


class Variant(Settings):
    """The recipe with some fields changed, and which model of it is looked at."""

    model_config = {"title": "Variant"}

    about: str = Field("", title="About", description="A line for the reader of the results.")
    set: dict[str, Any] = Field(
        {},
        title="Settings",
        description="Fields of the recipe that differ: `a.b: c` replaces what stands there, nested YAML adds to it.",
    )
    train: bool = Field(
        True,
        title="Train",
        description="false: nothing is trained; without another model the fused targets' headroom is all.",
    )
    model: str = Field(
        FUSED,
        title="Model",
        description="What is evaluated: fused, control or another trained model of the recipe; target, a source's name "
        "or ensemble, which are evaluated once, without seeds.",
    )
    seeds: tuple[int, ...] | None = Field(
        None, title="Seeds", description="Fewer seeds for this variant; empty: the study's."
    )
    times_tokens: float = Field(
        1.0, gt=0, title="Times the tokens", description="Multiplies train.max_steps, or whole epochs without it."
    )


class Contrast(Settings):
    """Two variants that are compared, seed by seed."""

    model_config = {"title": "Contrast"}

    of: str = Field("", title="Of", description="The variant that is hoped to be better.")
    against: str = Field("", title="Against", description="The one it is compared with.")
    primary: bool = Field(False, title="Primary", description="The one contrast the study was made for.")

    @property
    def name(self) -> str:
        return f"{self.of} against {self.against}"


class TokenCurve(Settings):
    """Plain training at several numbers of tokens, and the variant whose loss is looked up on that curve."""

    model_config = {"title": "Token curve"}

    plain: tuple[str, ...] = Field((), title="Plain", description="Variants that differ in times_tokens alone.")
    of: str = Field("", title="Of", description="The variant whose loss plain training shall reach.")


class Study(Settings):
    """Everything that is settled before the first run."""

    model_config = {"title": "Study"}

    name: str = Field("study", title="Name", description="Name of the study and, without `folder`, of its run folder.")
    folder: str | None = Field(
        None,
        title="Run folder",
        description="Name of the run folder. Studies that name the same one share what they have in common, and the "
        "looks at the locked split.",
    )
    about: str = Field("", title="About", description="What it asks, for the reader of the results.")
    recipe: str = Field("default", title="Recipe", description="The base: a file, or the name of a shipped recipe.")
    set: dict[str, Any] = Field({}, title="Settings", description="Fields of the base that differ, as in a variant.")
    seeds: tuple[int, ...] = Field((1,), min_length=1, title="Seeds", description="train.seed of each run.")
    variants: dict[str, Variant] = Field({}, title="Variants", description="What is tried, by name.")
    grid: dict[str, tuple[Any, ...]] = Field(
        {},
        title="Grid",
        description="Values of fields of the recipe; every combination becomes a variant that is not trained, so that "
        "headroom shows which are worth it.",
    )
    contrasts: tuple[Contrast, ...] = Field((), title="Contrasts", description="What is compared, declared beforehand.")
    token_curve: TokenCurve | None = Field(None, title="Token curve")
    plain: str = Field(
        "", title="Plain", description="The variant of plain training, from which gaps to sources are counted."
    )
    references: tuple[str, ...] = Field(
        (), title="References", description="Untrained variants (sources, ensembles) whose gap to plain is counted."
    )
    choose_on: Split = Field("validation", title="Choose on", description="The split that may be looked at freely.")
    lock: Split = Field("test", title="Lock", description="The split that only --locked looks at.")

    @model_validator(mode="before")
    @classmethod
    def _grid_makes_variants(cls, content: Any) -> Any:
        """Add the grid's combinations to the variants, each named by its values."""
        if not isinstance(content, dict) or not isinstance(content.get("grid"), dict):
            return content
        names, values = list(content["grid"]), [v if isinstance(v, list) else [v] for v in content["grid"].values()]
        made = {
            ", ".join(map(str, one)): {"train": False, "set": dict(zip(names, one, strict=True))}
            for one in product(*values)
        }
        return content | {"variants": made | (content.get("variants") or {}), "grid": {}}

    @field_validator("seeds")
    @classmethod
    def _differ(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("a seed is listed twice; its runs would be the same")
        return seeds

    @model_validator(mode="after")
    def _names_are_variants(self) -> Study:
        curve = (*self.token_curve.plain, self.token_curve.of) if self.token_curve else ()
        named = [name for contrast in self.contrasts for name in (contrast.of, contrast.against)]
        named += [*curve, *self.references, *([self.plain] if self.plain else [])]
        if unknown := sorted(set(named) - set(self.variants)):
            raise ValueError(f"no variant is called {', '.join(map(repr, unknown))}. Known: {', '.join(self.variants)}")
        return self

    @model_validator(mode="after")
    def _fit_together(self) -> Study:
        if sum(contrast.primary for contrast in self.contrasts) > 1:
            raise ValueError("contrasts: only one can be primary; the others are adjusted for their number (Holm)")
        if self.choose_on == self.lock:
            raise ValueError(f"lock: {self.lock} is what choices are made on; lock the other split")
        if not self.variants:
            raise ValueError("variants: there is none; name at least one")
        if self.token_curve and len(self.token_curve.plain) < 2:
            raise ValueError("token_curve.plain: a curve needs at least two variants")
        return self

    def seeds_of(self, variant: Variant) -> tuple[int, ...]:
        """Return the seeds of a variant that is trained."""
        return variant.seeds or self.seeds
