"""How a recipe names a model."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from logitfuse.storage.settings import Settings
from logitfuse.storage.urls import WITHOUT_SECRETS, check_url, is_url
from logitfuse.tasks.model_labels import model_label
from logitfuse.tasks.training.adapt_settings import AdaptSettings

LONGEST_LABEL = 120  # bytes; names of folders, locks and files are made with it, which may have 255
FOLDER_NAME = r"^[\w-][\w.-]*$"  # for forms; what is not one is refused in words below, too


class ModelSettings(Settings):
    """One model of a recipe, as target or source."""

    model_config = {"title": "Model"}

    model: str = Field(
        "package:smollm2-135m",
        title="Model",
        description="A local folder, a hub id such as meta-llama/Llama-2-7b-hf, package:NAME for a packaged model, or "
        "the URL of a folder, such as s3://bucket/model.",
        json_schema_extra=WITHOUT_SECRETS,
    )
    name: str = Field(
        "",
        title="Short name",
        description="How shards, tables and plots call it. Empty: the last part of the model's own name.",
        json_schema_extra={"pattern": f"^$|{FOLDER_NAME}"},
    )
    revision: str = Field("", title="Revision", description="Commit or tag of a hub model. Empty: the newest commit.")
    start: Literal["auto", "bos", "none"] = Field(
        "auto",
        title="Start token",
        description="Put the tokenizer's bos token before each text. auto: if the tokenizer has one.",
    )
    end: Literal["eos", "none"] = Field(
        "eos",
        title="End token",
        description="Also predict the tokenizer's eos token after a document's last token. It never counts in scores.",
    )
    dtype: Literal["bfloat16", "float32"] = Field(
        "bfloat16",
        title="Precision",
        description="Precision of the model's body when it teaches; the head always computes in float32.",
    )

    adapt: AdaptSettings | None = Field(
        None,
        title="Adapt",
        description="First continue this model on the training split by plain language modelling, and use it so. "
        "Empty: it is used as it is.",
    )

    @field_validator("name")
    @classmethod
    def _is_a_plain_name(cls, name: str) -> str:
        if (name and not all(c.isalnum() or c in "-_." for c in name)) or name.startswith("."):
            raise ValueError(f"{name!r} becomes a folder's name: use letters, digits, '-', '_' and '.' only")
        return name

    @field_validator("model")
    @classmethod
    def _is_a_plain_url(cls, model: str) -> str:
        return check_url(model, "model") if is_url(model) else model

    @model_validator(mode="after")
    def _is_short_enough(self) -> "ModelSettings":
        if len(self.label.encode()) > LONGEST_LABEL:
            raise ValueError(f"its short name has more than {LONGEST_LABEL} bytes; give it a shorter `name`")
        return self

    @property
    def weights(self) -> tuple[str, str, str]:
        """What decides which weights are used: two entries with the same one are the same model."""
        return self.model, self.revision, "" if self.adapt is None else self.adapt.model_dump_json()

    @property
    def label(self) -> str:
        """The short name, given or derived."""
        return model_label(self.name, self.model)
