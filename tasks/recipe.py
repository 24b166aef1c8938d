"""A recipe: one run, from corpus to fused model, as YAML, `--set` options or Prefect's form."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from logitfuse.kernels.closest_name import did_you_mean, known_names
from logitfuse.storage.errors import BadInput
from logitfuse.storage.paths import user_path
from logitfuse.storage.places import run_folder, run_place
from logitfuse.storage.settings import Settings
from logitfuse.storage.urls import WITHOUT_SECRETS, check_url, is_url
from logitfuse.storage.yaml_text import MOST_BYTES, YamlRefused, parse_yaml
from logitfuse.tasks.align_settings import AlignSettings, check_align_inputs
from logitfuse.tasks.arms import arms, pair_sources
from logitfuse.tasks.capture_settings import CaptureSettings
from logitfuse.tasks.check import CheckSettings
from logitfuse.tasks.corpus.settings import CorpusSettings
from logitfuse.tasks.encode import EncodeSettings
from logitfuse.tasks.ensemble import ENSEMBLE
from logitfuse.tasks.ensemble import weights_of as ensemble_members
from logitfuse.tasks.evaluate import EvaluateSettings
from logitfuse.tasks.fuse_settings import FuseSettings, check_advantage, check_inputs, check_weights, weights_among
from logitfuse.tasks.merge_settings import MERGED, MergeSettings, check_merge, merges
from logitfuse.tasks.models.reference import FOLDER_NAME, LONGEST_LABEL, ModelSettings
from logitfuse.tasks.suites_settings import SuiteSettings
from logitfuse.tasks.training.hosts import HostSettings
from logitfuse.tasks.training.settings import TrainSettings
from logitfuse.tasks.vocabulary_map import MapSettings


class Execution(Settings):
    """Where and with what a run is done. Nothing here can change a result, so nothing here is in a key."""

    model_config = {"title": "Execution"}

    folder: str = Field(
        "runs",
        title="Runs folder",
        description="Folder that holds a folder per run: a path, or a URL such as s3://bucket/runs (needs the extra "
        "logitfuse[s3]).",
        json_schema_extra=WITHOUT_SECRETS,
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", title="Device", description="Where models compute.")
    workers: int = Field(2, ge=1, title="Workers", description="Shards worked on at once in the data stages.")
    shards_per_run: int = Field(
        0,
        ge=0,
        title="Shards per run",
        description="0: the pipeline's run does all stages itself. Otherwise it hands them out as deployment runs to "
        "the workers of their queues, the shards of encode, capture, align and fuse in runs of so many.",
    )
    processes: int = Field(
        1, ge=1, title="Training processes", description="Processes that train, one per GPU; on each host that many."
    )
    hosts: HostSettings = Field(
        HostSettings(),
        title="Training hosts",
        description="Several machines that train one model; all of them run stage train on one shared folder.",
    )
    peer_timeout_seconds: int = Field(
        1800,
        ge=1,
        title="Patience",
        description="Seconds that training processes wait for a silent one, and hosts for one another at the start. "
        "It must be more than writing a checkpoint takes.",
    )
    checkpoint_every_steps: int = Field(
        200, ge=1, title="Checkpoint every", description="Training steps from one checkpoint to the next."
    )
    keep_checkpoints: int = Field(2, ge=1, title="Keep checkpoints", description="Newest checkpoints that are kept.")
    sharded: bool = Field(
        False, title="Sharded training", description="Spread weights and optimiser over the processes (FSDP2)."
    )
    evaluate_every_steps: int = Field(
        200,
        ge=0,
        title="Look at held-out text every",
        description="Training steps from one look at a small sample of the validation split to the next; 0: never.",
    )
    evaluate_tokens: int = Field(
        16384, ge=1, title="Held-out sample", description="Tokens of that sample, as many of each domain."
    )
    tensorboard: bool = Field(
        False,
        title="TensorBoard",
        description="Write event files into the run's folder (needs the extra logitfuse[tensorboard]).",
    )
    wandb: str = Field(
        "",
        title="W&B project",
        description="Show training in this project of Weights & Biases (needs the extra logitfuse[wandb]); empty: not.",
    )
    peak_tflops: float | None = Field(
        None,
        gt=0,
        title="Peak TFLOP/s",
        description="What one device can do at best, for the model FLOP utilisation (MFU); empty: known GPUs' own.",
    )
    min_free_gb: float = Field(1.0, ge=0, title="Free disk (GB)", description="Refuse to start with less than this.")
    plan: Literal["stop", "warn", "skip"] = Field(
        "stop",
        title="Plan first",
        description="Before anything is spent, a run estimates whether it fits on its disk and into memory. stop: one "
        "that cannot is not begun. warn: it is told, and begins. skip: nothing is estimated.",
    )

    @model_validator(mode="after")
    def _folder_can_be_used(self) -> Execution:
        if is_url(self.folder):
            check_url(self.folder, "folder")
        elif not self.folder.strip():
            raise ValueError("folder: it is empty; write . for the folder that you are in")
        else:
            user_path(self.folder, "folder")
        return self


class Recipe(Settings):
    """Everything that defines one run."""

    model_config = {"title": "Recipe"}

    name: str = Field(
        "run",
        title="Name",
        description="Name of the run and of its folder: letters, digits, '-', '_' and '.'. A run of the same name goes "
        "on in the same folder.",
        json_schema_extra={"pattern": FOLDER_NAME},
    )
    target: ModelSettings = Field(
        ModelSettings(), title="Target", description="The model that is trained; by default it is a source too."
    )
    sources: tuple[ModelSettings, ...] = Field(
        (ModelSettings(model="package:gemma3-270m"),),
        title="Sources",
        description="The models whose knowledge is fused into the target.",
    )
    include_target: bool = Field(
        True, title="Target is a source", description="Also keep what the target itself predicted before training."
    )
    corpus: CorpusSettings = Field(CorpusSettings(), title="Corpus")
    encode: EncodeSettings = Field(EncodeSettings(), title="Encode")
    check: CheckSettings = Field(CheckSettings(), title="Check")
    capture: CaptureSettings = Field(CaptureSettings(), title="Capture")
    map: MapSettings = Field(MapSettings(), title="Vocabulary map")
    align: AlignSettings = Field(AlignSettings(), title="Align")
    fuse: FuseSettings = Field(FuseSettings(), title="Fuse")
    train: TrainSettings = Field(TrainSettings(), title="Train")
    merge: MergeSettings = Field(MergeSettings(), title="Merge")
    evaluate: EvaluateSettings = Field(EvaluateSettings(), title="Evaluate")
    suites: SuiteSettings = Field(SuiteSettings(), title="Suites")
    execution: Execution = Field(Execution(), title="Execution")

    @field_validator("name")
    @classmethod
    def _is_a_folder_name(cls, name: str) -> str:
        if not name or name.startswith(".") or not all(c.isalnum() or c in "-_." for c in name):
            raise ValueError(f"{name!r} becomes a folder's name: use letters, digits, '-', '_' and '.' only")
        if len(name.encode()) > LONGEST_LABEL:
            raise ValueError(f"it becomes a folder's name of more than {LONGEST_LABEL} bytes; give a shorter one")
        return name

    @model_validator(mode="after")
    def _sources_differ(self) -> Recipe:
        if not self.sources and not self.include_target:
            raise ValueError("sources: there is none; list at least one, or set include_target")
        seen: dict[str, str] = {self.target.label: "target"} if self.include_target else {}
        models = {self.target.weights: "the target"} if self.include_target else {}
        for number, source in enumerate(self.sources):
            if source.weights in models:
                raise ValueError(f"sources: {source.model!r} is listed twice (it is {models[source.weights]} already)")
            other = source.weights != self.target.weights and source.label == self.target.label
            if source.label in seen or other:
                raise ValueError(f"sources: two models are called {source.label!r}; give one another name")
            seen[source.label] = models[source.weights] = f"source {number + 1}"
        return self

    @model_validator(mode="after")
    def _stages_fit(self) -> Recipe:
        labels = [self.target.label] if self.include_target else []
        labels += [source.label for source in self.sources]
        check_align_inputs(self.align, self.capture, self.include_target)
        check_weights(self.fuse, labels)
        check_advantage(self.fuse, labels, self.target.label)
        if self.train.documents != "all" and self.fuse.granularity == "block":
            raise ValueError(
                f"train.documents: {self.train.documents!r} cannot be told apart in fuse.granularity 'block', whose "
                "blocks hold several documents; set it to all, or fuse by document"
            )
        check_inputs(
            self.fuse,
            past_end=self.capture.past_end,
            logits=self.align.values == "logits",
            start=0 if self.target.start == "bos" else None,  # what `auto` finds is checked once the model is there
            end=0 if self.target.end == "eos" else None,
        )
        return self

    @model_validator(mode="after")
    def _baselines_fit(self) -> Recipe:
        made = arms(self) + [MERGED] * merges(self) + [ENSEMBLE] * (self.evaluate.ensemble != "none")
        for model in (self.target, *self.sources):
            if model.label in made:
                raise ValueError(f"{model.label!r} is what this run calls a model of its own; give that one a `name`")
        check_merge(self, arms(self))
        own = [self.target.label] if self.include_target else []
        for source in pair_sources(self):
            check_weights(weights_among(self.fuse, [*own, source]), [*own, source])
        if self.evaluate.ensemble != "none" or self.evaluate.ensemble_weights:
            ensemble_members(self.evaluate.ensemble_weights, [self.target.label, *(s.label for s in self.sources)])
        return self

    @property
    def folder(self) -> Path:
        """The run's folder on this machine; where the run is in an object store, the copy that is worked on."""
        return run_folder(self.execution.folder, self.name)

    @property
    def place(self) -> str:
        """How messages call the run's folder: its path or URL."""
        return run_place(self.execution.folder, self.name)


def shipped_recipes() -> list[str]:
    """Return the names of the recipes that come with the package."""
    return sorted(entry.name for entry in files("logitfuse.recipes").iterdir() if entry.name.endswith(".yaml"))


def read_recipe(path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe from a YAML file, or a shipped one by name, and apply `a.b=value` overrides.

    Raises `BadInput` naming the file, the field, what is wrong and the closest known name.
    """
    return parse_recipe(recipe_content(path, overrides), path)


def recipe_content(path: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return what a recipe's file says, overrides applied, before it is validated."""
    content = _parse(_text_of(path), path)
    for override in overrides:
        apply_override(content, override)
    return content


def parse_recipe(content: dict[str, Any], where: str) -> Recipe:
    """Validate a recipe's content; `where` names it in messages."""
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise BadInput(f"{where}: {explain(error, Recipe)}") from None


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Say in plain words which fields are wrong, and the closest known name of unknown ones."""
    return "\n  ".join([""] + [_explain_one(problem, model) for problem in error.errors()]).strip()


def _explain_one(problem: Any, model: type[BaseModel]) -> str:
    path = ".".join(str(part) for part in problem["loc"]) or "recipe"
    said = problem["msg"].removeprefix("Value error, ")
    begins = said.partition(":")[0].partition(".")[0]
    if ":" in said and begins in _fields_at(model, problem["loc"]):  # it names the very field below
        return f"{path}.{said}" if problem["loc"] else said
    if problem["type"] == "extra_forbidden":
        known = list(_fields_at(model, problem["loc"][:-1]))
        hint = did_you_mean(str(problem["loc"][-1]), known).strip()
        return f"{path}: there is no such field. {hint or 'Known: ' + ', '.join(known) + '.'}"
    given = problem.get("input")
    told = isinstance(given, (str, int, float, bool)) and not (is_url(str(given)) and "@" in str(given))  # a password
    shown = f" (given: {given!r})" if told else ""
    return f"{path}: {said}{shown}"


def _fields_at(model: type[BaseModel], path: Sequence[int | str]) -> Sequence[str]:
    for part in path:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        inner = [annotation, *getattr(annotation, "__args__", ())]
        model = next((a for a in inner if isinstance(a, type) and issubclass(a, BaseModel)), model)
    return list(model.model_fields)


def _text_of(path: str) -> str:
    file = user_path(path, "recipe")
    if file.is_file():
        return read_text_file(file, path, "A recipe is a UTF-8 YAML file.")
    name = path.removesuffix(".yaml") + ".yaml"
    shipped = shipped_recipes()
    if name in shipped:
        return files("logitfuse.recipes").joinpath(name).read_text(encoding="utf-8")
    names = [recipe.removesuffix(".yaml") for recipe in shipped]
    which = known_names(path, names, called="Shipped")
    raise BadInput(f"{path}: no such file, and no shipped recipe of that name. {which}")


def read_text_file(file: Path, called: str, advice: str) -> str:
    """Return the text of a small file that a user wrote; raise `BadInput` that calls it so and ends with the advice."""
    try:
        with file.open("rb") as stream:
            data = stream.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise BadInput(f"{called}: it has more than {MOST_BYTES:,} bytes. {advice}")
        return data.decode()
    except UnicodeDecodeError as error:
        raise BadInput(f"{called}: not UTF-8 at byte {error.start}. {advice}") from None
    except OSError as error:
        raise BadInput(f"{called}: it cannot be read ({error.strerror}). {advice}") from None


def _parse(text: str, path: str) -> dict[str, Any]:
    try:
        content = parse_yaml(text)
    except YamlRefused as error:
        raise BadInput(f"{path}: not YAML: {error}. Mend the file.") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise BadInput(f"{path}: a recipe is a mapping of fields, not a {type(content).__name__}.")
    return content


def apply_override(content: dict[str, Any], override: str) -> None:
    """Change a recipe's content as `field.field=value` says."""
    name, equals, value = override.partition("=")
    if not equals or not name:
        raise BadInput(f"--set {override}: write it as field.field=value.")
    where = f"--set {override[:200]}"
    *path, last = name.split(".")
    place: Any = content
    for part in path:
        place = place[entry(place, part, where)] if isinstance(place, list) else place.setdefault(part, {})
        if not isinstance(place, (dict, list)):
            raise BadInput(f"{where}: {part!r} is a value and holds no fields. Set it whole, or leave it.")
    try:
        place[entry(place, last, where) if isinstance(place, list) else last] = parse_yaml(value)
    except YamlRefused as error:
        raise BadInput(f"{where}: the value is not YAML: {error}. Quote text that is none.") from None


def entry(place: list[Any], part: str, where: str) -> int:
    """Return the number of an entry of a list; raise `BadInput`, which begins with `where`, for what is none."""
    if not (part.isascii() and part.isdecimal() and len(part) < 10 and int(part) < len(place)):
        raise BadInput(f"{where}: {part!r} is no number of an entry; there are {len(place)}, counted from 0.")
    return int(part)
