"""Publishing a trained model on a hub: what would be uploaded, what is missing, and the upload itself.

Only the files that the training's record vouches for are uploaded, after their checksums are verified; the model card
alone is written anew, with the results (see `tasks/model_card.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logitfuse.storage.checksums import checksum_bytes, checksum_file
from logitfuse.storage.errors import BadInput, LogitfuseError, ShardCorrupt, ShardMissing, WorkFailed
from logitfuse.tasks.arms import arms, fused_shards
from logitfuse.tasks.licences import NOT_STATED, licence_of
from logitfuse.tasks.model_card import Done, common_licence, model_card, parents
from logitfuse.tasks.results import Result, results
from logitfuse.tasks.train import arm_settings
from logitfuse.tasks.unit import Unit

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from logitfuse.storage.records import Record
    from logitfuse.tasks.run import Run

CARD = "README.md"


@dataclass(frozen=True)
class Upload:
    """One file of the repository: its bytes lie at a path, or are these."""

    name: str
    source: Path | bytes
    bytes: int
    checksum: str


@dataclass(frozen=True)
class Plan:
    """What a push would do."""

    repository: str
    private: bool
    arm: str
    files: tuple[Upload, ...]
    card: str
    missing: tuple[str, ...]  # what a reader of the card will not find


def plan_push(run: Run, arm: str, repository: str, *, private: bool = False) -> Plan:
    """Verify a trained model's files and describe what would be uploaded; nothing is sent.

    Raises `BadInput` for an unknown arm or an impossible name, `ShardMissing` before the model is trained,
    `ShardCorrupt` if a file is not as its record says.
    """
    _check(run, arm, repository)
    record = run.record(Unit("train", arm))
    shards = fused_shards(run, arm)
    found, why_not = _results(run)
    done = Done(repository, record.counts, record.made, found)
    card = model_card(run, arm, arm_settings(run.recipe.train, arm), shards, done)
    text = card.encode()
    files = [upload for upload in _verified(run, record) if upload.name != CARD]
    files.append(Upload(CARD, text, len(text), checksum_bytes(text)))
    missing = (*_unstated(run, arm), *([why_not] if why_not else []))
    return Plan(repository, private, arm, tuple(sorted(files, key=lambda f: f.name)), card, missing)


def _check(run: Run, arm: str, repository: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if arm not in arms(run.recipe):
        raise BadInput(f"--arm {arm}: this recipe trains {' and '.join(arms(run.recipe))}.")
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise BadInput(f"--to {repository}: not a repository's name: {error}") from None
    if repository.count("/") != 1:
        raise BadInput(f"--to {repository}: write it as user/name or organisation/name.")


def _results(run: Run) -> tuple[list[Result], str]:
    """Return the evaluation's results, or why there are none."""
    try:
        return results(run), ""
    except (ShardMissing, ShardCorrupt) as error:
        return [], f"results: {error}"


def _unstated(run: Run, arm: str) -> list[str]:
    models = parents(run, arm)
    unknown = [model.label for _, model in models if licence_of(model.home) == NOT_STATED]
    if unknown:
        return [f"licence of {', '.join(unknown)}: state it as `license:` at the head of the model folder's README.md"]
    if not common_licence(models):
        named = ", ".join(f"{model.label}: {licence_of(model.home)}" for _, model in models)
        return [f"one licence for the result: its models come under several ({named}); the card names them all"]
    return []


def _verified(run: Run, record: Record) -> list[Upload]:
    """Return the record's files after comparing each with its checksum."""
    found = []
    for file in record.files:
        path = run.store.file(record, file)
        if checksum_file(path) != file.checksum:
            raise ShardCorrupt(
                f"{path}: its bytes are not the ones its record vouches for, so nothing is uploaded. Train it again: "
                f"logitfuse stage train RECIPE --redo"
            )
        found.append(Upload(file.name.partition("/")[2], path, file.bytes, file.checksum))
    return found


def push(plan: Plan, say: Callable[[str], None] = print) -> str:
    """Upload what a plan says in one commit and return the address of the repository.

    Raises `BadInput` without a token or if the repository is open and shall be private, `WorkFailed` if the hub cannot
    be reached or refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token

    if constants.is_offline_mode():
        raise BadInput("HF_HUB_OFFLINE is set, so the hub is out of reach. Unset it, or look with --dry-run.")
    if not get_token():
        raise BadInput(
            "There is no token for the hub. Make one with write access in your account's settings there, then run "
            "`hf auth login` or set HF_TOKEN."
        )
    api = HfApi(library_name="logitfuse")
    try:
        repository = str(api.create_repo(plan.repository, private=plan.private, exist_ok=True).repo_id)
        _refuse_open(api, plan, repository)
        say(f"uploading {len(plan.files)} files, {sum(f.bytes for f in plan.files) / 1e6:,.1f} MB, to {repository}")
        operations: list[Any] = [CommitOperationAdd(file.name, file.source) for file in plan.files]
        api.create_commit(repository, operations, commit_message=f"Upload the {plan.arm} model, made with logitfuse")
    except LogitfuseError:
        raise
    except Exception as error:  # the client raises its own, httpx's and OSErrors; all mean the same to a user
        raise WorkFailed(_refused(plan, error)) from error
    return f"{api.endpoint}/{repository}"


def _refuse_open(api: HfApi, plan: Plan, repository: str) -> None:
    """A repository that stands already keeps its visibility, whatever is asked for."""
    if plan.private and not api.repo_info(repository).private:
        raise BadInput(
            f"{repository} stands already and everybody can read it, but --private is asked for. Make it private "
            "there, or push to another name. Nothing was uploaded."
        )


def _refused(plan: Plan, error: Exception) -> str:
    said = " ".join(str(error).split())[:300]
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        advice = "The token is not valid or may not write there: see `hf auth whoami`, and make one with write access."
    elif status is None:
        advice = "Check the network and HF_ENDPOINT; the command can be run again."
    else:
        advice = "The command can be run again: what the hub has already is not sent twice."
    return f"{plan.repository}: the upload failed ({type(error).__name__}: {said}). {advice}"
