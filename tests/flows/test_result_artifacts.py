"""A finished run in Prefect's UI: its numbers as a table, one picture, and nothing that a name could break."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from logitfuse.flows import result_artifacts
from logitfuse.flows.result_artifacts import publish_result, result_text
from logitfuse.tasks.reporting.summary_plot import levels_picture, summary_plot, training_plot

WON = {"positions": 40, "unserved": 4, "won": {"small": 6, "big|<b>": 30}}
NOBODY = {
    "weights": {},
    "by_domain": {},
    "winners": {"by_domain": {}, "by_place": []},
    "served_share": 0.0,
    "mass_kept": 0.0,
}
PNG = b"\x89PNG\r\n"


def result(domain: str, model: str, role: str, value: float | None) -> dict[str, Any]:
    low, high = (None, None) if value is None else (value - 0.01, value + 0.01)
    told = {"domain": domain, "model": model, "role": role, "documents": 40}
    return told | {"nats_per_byte": value, "low": low, "high": high}


def gain(domain: str, role: str, percent: float | None) -> dict[str, Any]:
    low, high = (None, None) if percent is None else (percent - 1, percent + 1)
    return {
        "domain": domain, "role": role, "percent": percent, "percent_low": low, "percent_high": high,
        "verdict": "better",
    }  # fmt: skip


def facts(**changed: Any) -> dict[str, Any]:
    models = [("small", "target"), ("big|<b>", "source"), ("fused", "fused")]
    told = {
        "run": "my_run", "target": "small", "sources": ["big|<b>"], "warnings": ["Take *care*."],
        "results": [result(d, m, r, 0.6 if d == "mean" else None) for d in ("code", "mean") for m, r in models],
        "gains": [gain(d, r, p) for d, p in (("code", None), ("mean", 2.5)) for r in ("target", "control")],
        "fusion": {
            "weights": {"small": 0.25, "big|<b>": 0.75},
            "by_domain": {"code": {"documents": 3, "weights": {"small": 0.25, "big|<b>": 0.75}}},
            "winners": {"by_domain": {"code": WON}, "by_place": [{"from": 0, "to": 7, **WON}]},
            "served_share": 1.0, "mass_kept": 0.9,
        },
        "alignment": {name: {"served_share": 0.9, "mass_kept": 0.8} for name in ("small", "big|<b>")},
        "training": {"fused": {"curve": [{"tokens_seen": n, "clm_loss": 2.0, "fusion_loss": None} for n in (5, 9)]}},
    }  # fmt: skip
    return told | changed


def test_every_model_and_domain_has_a_cell_and_names_stay_text() -> None:
    text = result_text(facts(), Path("/runs/x/report.html"))
    header, _, code, everything, *sources = (line for line in text.splitlines() if line.startswith("|"))
    assert header == r"| domain | fused | small (target) | big\|&lt;b&gt; (source) |"
    assert code == "| code | – | – | – |"
    assert everything == "| all text | 0.6000 (0.590–0.610) | 0.6000 (0.590–0.610) | 0.6000 (0.590–0.610) |"
    assert (
        sources[0] == "| source | served | mass kept | won |" and sources[3] == r"| big\|&lt;b&gt; | 90% | 80% | 75% |"
    )
    assert text.splitlines()[2].startswith("**Fusing paid: 2.5% lower loss")
    assert "`/runs/x/report.html`" in text and r"- Take \*care\*." in text and "<b>" not in text
    assert r"# my\_run" in text and "scp " in text


@pytest.mark.parametrize(
    "changed",
    [{}, {"gains": []}, {"fusion": NOBODY, "alignment": {}}, {"gains": [], "results": []}],
    ids=["whole", "no gains", "no sources", "no held-out text"],
)
def test_any_report_can_be_drawn(changed: dict[str, Any]) -> None:
    image = summary_plot(facts(**changed))
    assert image.startswith(PNG) and len(image) < 200_000
    assert result_text(facts(**changed), Path("report.html"))


def test_training_is_drawn_where_it_was_noted() -> None:
    image = training_plot(facts())
    assert image is not None and image.startswith(PNG) and len(image) < 200_000
    assert training_plot(facts(training={"fused": {"curve": []}})) is None


def test_every_model_is_drawn_where_it_was_measured() -> None:
    image = levels_picture(facts())
    assert image is not None and image.startswith(PNG) and len(image) < 200_000
    assert levels_picture(facts(results=[result("mean", "small", "target", None)])) is None


def test_a_server_that_cannot_take_it_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result_artifacts, "told_report", lambda run: (facts(), tmp_path / "report.html"))
    run: Any = SimpleNamespace(recipe=SimpleNamespace(name="my_run"))
    made: list[str] = []
    monkeypatch.setattr(result_artifacts, "create_markdown_artifact", lambda text, key, description: made.append(key))
    monkeypatch.setattr(result_artifacts, "create_image_artifact", lambda url, key, description: made.append(key))
    publish_result(run, made.append)
    assert made == ["my-run-result", "my-run-result-by-domain", "my-run-result-losses", "my-run-result-training"]

    def broken(*_: object, **__: object) -> None:
        raise ConnectionError("no server")

    monkeypatch.setattr(result_artifacts, "create_markdown_artifact", broken)
    publish_result(run, made.append)
    assert made[-1].startswith("the result cannot be shown: ConnectionError: no server. It is in ")
