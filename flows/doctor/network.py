"""What is asked over the network, each with a short patience: the Prefect server and the model hub. Tells no secret."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.metadata import version
from urllib.parse import urlsplit

from logitfuse.flows.doctor.findings import Finding

PATIENCE = 4.0  # seconds for one answer
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
ON = frozenset({"1", "true", "yes", "on"})


def check_prefect(*, ask: bool = True) -> Iterator[Finding]:
    """Yield which Prefect there is, and whether the server that is configured answers."""
    from logitfuse.flows.prefect_settings import MEND, refused_setting

    yield Finding("Prefect", "version", "fine", version("prefect"))
    try:
        from prefect.settings import get_current_settings

        settings = get_current_settings().api
    except ValueError as error:
        if not (told := refused_setting(error)):
            raise
        yield Finding("Prefect", "settings", "broken", str(told).removesuffix(MEND).strip(), MEND)
        return
    if settings.url is None:
        yield Finding(
            "Prefect", "server", "fine", "none is configured: `run` starts one for itself, `logitfuse up` a lasting one"
        )
        return
    auth = settings.auth_string.get_secret_value() if settings.auth_string else None
    key = settings.key.get_secret_value() if settings.key else None
    yield _server(settings.url, auth, key, ask=ask)


def _server(url: str, auth: str | None, key: str | None, *, ask: bool) -> Finding:
    import httpx

    shown = plain_address(url)
    if not ask:
        return Finding("Prefect", "server", "fine", f"{shown} (not asked)")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    login = httpx.BasicAuth(*auth.split(":", 1)) if auth and ":" in auth else None
    try:
        answer = httpx.get(f"{url.rstrip('/')}/admin/version", timeout=PATIENCE, headers=headers, auth=login)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        mend = "Start it (logitfuse up), correct PREFECT_API_URL, or unset it: runs then start a server of their own."
        return Finding("Prefect", "server", "broken", f"{shown} does not answer ({type(error).__name__})", mend)
    if answer.status_code in (401, 403):
        mend = "Set PREFECT_API_AUTH_STRING=USER:PASSWORD as the server has it."
        return Finding("Prefect", "server", "broken", f"{shown} wants a password, or another one", mend)
    if not answer.is_success:
        mend = "See the server's log; PREFECT_API_URL ends with /api."
        return Finding("Prefect", "server", "broken", f"{shown} answers with HTTP {answer.status_code}", mend)
    return _versions(shown, answer.text.strip().strip('"')[:40])


def _versions(shown: str, theirs: str) -> Finding:
    if theirs == version("prefect"):
        return Finding("Prefect", "server", "fine", f"{shown} answers, version {theirs}")
    mend = f"Let server and clients have one version: pip install prefect=={version('prefect')} there."
    return Finding("Prefect", "server", "note", f"{shown} answers, version {theirs}", mend)


def check_hub(*, ask: bool = True) -> Iterator[Finding]:
    """Yield whether the model hub answers, and whether it takes the token, if there is one."""
    from huggingface_hub import constants, get_token

    shown = plain_address(constants.ENDPOINT)
    token = get_token()
    if any(os.environ.get(name, "").lower() in ON for name in OFFLINE):
        yield Finding(
            "Model hub", "hub", "note", "switched off (HF_HUB_OFFLINE)", "Unset it to fetch models by hub id."
        )
        return
    if not ask:
        yield Finding("Model hub", "hub", "fine", f"{shown} (not asked)")
        return
    yield (reached := _reached(constants.ENDPOINT, shown))
    if token is None:
        advice = "Only for gated models: set HF_TOKEN."
        yield Finding("Model hub", "token", "fine", f"none. {advice}")
    elif reached.state == "fine":
        yield _token(token)


def _reached(url: str, shown: str) -> Finding:
    import httpx

    try:
        answer = httpx.get(f"{url}/api/models?limit=1", timeout=PATIENCE, follow_redirects=True)
        trouble = "" if answer.is_success else f"answers with HTTP {answer.status_code}"
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        trouble = f"does not answer ({type(error).__name__})"
    if not trouble:
        return Finding("Model hub", "hub", "fine", f"{shown} answers")
    mend = (
        "Local folders and package: models work without it. Behind a proxy: set HTTPS_PROXY; for a mirror: HF_ENDPOINT."
    )
    return Finding("Model hub", "hub", "note", f"{shown} {trouble}", mend)


def _token(token: str) -> Finding:
    import httpx
    from huggingface_hub import constants

    try:
        headers = {"Authorization": f"Bearer {token}"}
        answer = httpx.get(f"{constants.ENDPOINT}/api/whoami-v2", timeout=PATIENCE, headers=headers)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        return Finding("Model hub", "token", "note", f"could not be tried ({type(error).__name__})", "Try again.")
    if answer.is_success:
        return Finding("Model hub", "token", "fine", "there is one, and the hub takes it")
    mend = "Make another one in the hub's settings, and set HF_TOKEN to it."
    return Finding(
        "Model hub", "token", "broken", f"there is one, and the hub refuses it (HTTP {answer.status_code})", mend
    )


def plain_address(url: str) -> str:
    """Return an address without what could be a secret: neither user and password nor query."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "an address that is none"
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"
