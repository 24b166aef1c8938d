"""Under which licence a model comes, what the hub calls it, and how it is named where others read of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from logitfuse.storage.urls import is_url
from logitfuse.storage.yaml_text import YamlRefused, parse_yaml
from logitfuse.tasks.models.home import PACKAGE_PREFIX, ModelHome
from logitfuse.tasks.packaged.models import MODELS

NOT_STATED = "not stated"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")
# The hub's own spelling of licences that packages spell otherwise, and where packaged models were first published.
HUB_LICENCES = {"Apache-2.0": "apache-2.0", "Gemma Terms of Use": "gemma"}
PUBLISHED_AS = {"smollm2-135m": "HuggingFaceTB/SmolLM2-135M-Instruct", "gemma3-270m": "google/gemma-3-270m"}


def licence_of(home: ModelHome) -> str:
    """Return a model's licence in words: a packaged one's is known, others state theirs in their README, or not."""
    facts = licence_facts(home)
    stated = facts.get("license")
    if stated == "other":
        stated = facts.get("license_name") or stated
    if isinstance(stated, list):
        stated = ", ".join(map(str, stated))
    return str(stated) if stated else NOT_STATED


def licence_facts(home: ModelHome) -> dict[str, Any]:
    """Return what the hub's front matter says of a licence: `license`, and of one it does not know name and link."""
    name = home.settings.model
    if name.startswith(PACKAGE_PREFIX):
        licence = MODELS[name.removeprefix(PACKAGE_PREFIX)].licence
        return {"license": HUB_LICENCES.get(licence, licence)}
    facts = front_matter(home.folder / "README.md")
    return {entry: facts[entry] for entry in ("license", "license_name", "license_link") if facts.get(entry)}


def front_matter(readme: Path) -> dict[str, Any]:
    """Return the facts at the head of a README, none where there are none that can be read."""
    try:
        text = readme.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return {}
    found = re.match(r"\ufeff?---\s*\n(.*?)\n---\s*(\n|$)", text, re.DOTALL)
    try:
        facts = parse_yaml(found[1]) if found else None
    except YamlRefused:
        return {}
    return facts if isinstance(facts, dict) else {}


def hub_id(home: ModelHome) -> str | None:
    """Return the id under which a model stands on the hub, None for one that is only here."""
    name = home.settings.model
    if name.startswith(PACKAGE_PREFIX):
        return PUBLISHED_AS.get(name.removeprefix(PACKAGE_PREFIX))
    return name if is_hub_id(name) else None


def is_hub_id(name: str) -> bool:
    """Whether a name can only be a hub's owner/name, and is no folder or file here."""
    return bool(HUB_ID.fullmatch(name)) and not name.startswith(".") and not Path(name).expanduser().exists()


def revision_of(home: ModelHome) -> str:
    """Return the exact revision: a hub model's commit, a packaged model's packages, nothing for a local folder."""
    name = home.settings.model
    if name.startswith(PACKAGE_PREFIX):
        return ", ".join(package.requirement for package in MODELS[name.removeprefix(PACKAGE_PREFIX)].packages[:1])
    folder = home.folder
    if is_hub_id(name) and folder.parent.name == "snapshots" and COMMIT.fullmatch(folder.name):
        return folder.name
    return home.settings.revision


def public_name(name: str) -> str:
    """Return how a model or corpus is named where others read it: of a local path or a URL only the last part."""
    if is_url(name):
        return name.rstrip("/").rpartition("/")[2]
    path = Path(name).expanduser()
    local = name.startswith((".", "/", "~")) or (not name.startswith(PACKAGE_PREFIX) and path.exists())
    return path.name if local else name
