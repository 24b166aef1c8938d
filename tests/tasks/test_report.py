"""The report: its facts on a tiny finished run, and the page on facts made by hand."""

import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import paper_models
import pytest
from done_runs import done_run

from logitfuse.tasks.execute import do_unit
from logitfuse.tasks.report import READS, report_page
from logitfuse.tasks.reporting.cautions import cautions
from logitfuse.tasks.reporting.comparison import gain
from logitfuse.tasks.reporting.curves import last_tenth, thinned
from logitfuse.tasks.reporting.facts import finite
from logitfuse.tasks.reporting.page import page, span
from logitfuse.tasks.results import MEAN
from logitfuse.tasks.run import Run
from logitfuse.tasks.stages import STAGES
from logitfuse.tasks.unit import Unit

ROLES = {"small": "target", "big": "source", "control": "control", "fused": "fused"}
EVIL = "<script>alert('$x$ & _y')</script>"


def compared(model: str, domain: str, percent: float) -> dict[str, Any]:
    verdict = "better" if percent > 0.5 else "worse" if percent < -0.5 else "unclear"
    low, high = percent - 0.5, percent + 0.5
    return {
        "against": model, "role": ROLES[model], "domain": domain, "verdict": verdict,
        "nats_per_byte": percent / 100, "low": low / 100, "high": high / 100,
        "percent": percent, "percent_low": low, "percent_high": high,
    }  # fmt: skip


def handmade() -> dict[str, Any]:
    """Facts of a run that went well, with everything in them."""
    domains = ["code", "prose", MEAN]
    served = {"positions": 1000, "served_share": 0.9, "mass_kept": 0.8}
    curve = [{"step": s, "tokens_seen": 100 * s, "clm_loss": 3.0 - s / 10, "fusion_loss": 2.0} for s in range(1, 9)]
    arm = {"steps": 8, "tokens": 800, "settings": {}, "clm_loss": 2.2, "fusion_loss": 2.0, "tokens_per_s": 50.0,
           "curve": curve}  # fmt: skip
    facts: dict[str, Any] = {
        "format": 1, "run": "try", "made": "2026-01-02T03:04:05+00:00", "target": "small", "sources": ["big"],
        "target_is_source": True,
        "corpus": {"source": "text.jsonl", "evaluated_on": "validation", "splits": {"train": 9}},
        "results": [
            {"model": m, "role": r, "domain": d, "documents": 40, "nats_per_byte": 0.8 + i / 10,
             "low": 0.7, "high": 1.2}
            for i, (m, r) in enumerate(ROLES.items()) for d in domains
        ],
        "gains": [compared(m, d, p) for m, p in (("small", 3.0), ("big", 1.0), ("control", 2.0)) for d in domains],
        "fusion": {"rule": "min_ce", "weights": {"small": 0.25, "big": 0.75}, "documents": 40, **served,
                   "by_domain": {"code": {"documents": 40, "weights": {"small": 0.25, "big": 0.75}}}},
        "alignment": {name: {**served, "beyond_context_share": 0.0} for name in ("small", "big")},
        "training": {"fused": arm, "control": copy.deepcopy(arm)},
        "stages": [{"stage": "capture", "source": "big", "units": 3, "seconds": 70.0, "bytes": 2_000_000}],
        "seconds": 70.0, "bytes": 2_000_000,
        "recipe": {"name": "try", "corpus": {"source": "text.jsonl"}},
        "fingerprints": {
            "models": {n: {"model": n, "revision": None, "weights": "sha256:1", "tokenizer": "sha256:2"}
                       for n in ("small", "big")},
            "corpus": ["sha256:3"], "fused": ["sha256:4"], "trained": {"fused": "sha256:5"}, "versions": {"torch": "2"},
        },
    }  # fmt: skip
    return facts


def shown(facts: dict[str, Any]) -> str:
    return page({**facts, "warnings": cautions(facts)})


def test_a_good_run_needs_no_warning() -> None:
    assert cautions(handmade()) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: f["gains"][-1].update(compared("control", MEAN, -2.0)), "worse than the control"),
        (lambda f: f["gains"][-1].update(compared("control", MEAN, 0.2)), "cannot be told from the control"),
        (lambda f: f["gains"][2].update(compared("small", MEAN, -2.0)), "worse than the target as it came"),
        (lambda f: f["gains"][0].update(compared("small", "code", -2.0)), "worse than the target as it came on: code"),
        (lambda f: f["fusion"].update(weights={"small": 1.0, "big": 0.0}), "big is never used"),
        (lambda f: f["fusion"].update(served_share=0.4), "Only 40% of the positions"),
        (lambda f: f["alignment"]["big"].update(served_share=0.3), "big serves only 30%"),
        (lambda f: f["alignment"]["big"].update(mass_kept=0.3), "big keeps only 30%"),
        (lambda f: f["alignment"]["big"].update(beyond_context_share=0.2), "20% of the text is longer than big"),
        (lambda f: [r.update(documents=5) for r in f["results"] if r["domain"] == "code"], "rough: code (5)"),
        (lambda f: f.update(gains=[g for g in f["gains"] if g["role"] != "control"]), "There is no control"),
    ],
)
def test_warnings_say_what_is_wrong(change: Any, said: str) -> None:
    facts = handmade()
    change(facts)
    found = cautions(facts)
    assert any(said in warning for warning in found), found
    assert "Before you believe it" in shown(facts)


class Outline(HTMLParser):
    """Collects what a page points to, and its ids."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href", "srcset", "data", "action"):
                self.links.append(value or "")


def test_the_page_stands_alone() -> None:
    text = shown(handmade())
    outline = Outline(text)
    assert not {"script", "link", "img", "iframe", "object"} & set(outline.tags)
    assert all(link.startswith("#") for link in outline.links) and "http" not in text
    assert "@import" not in text and set(re.findall(r"url\((.)", text)) <= {"#"}
    assert len(outline.ids) == len(set(outline.ids)), "drawings share a page, so their ids must differ"
    assert {link[1:] for link in outline.links} <= set(outline.ids)
    assert outline.tags.count("svg") == 4
    assert len(re.findall(r'<svg viewBox="[^"]+" role="img" aria-label="[^"]+">', text)) == 4
    assert "#0102" not in text, "every colour of a drawing must follow the theme"
    assert text == shown(handmade()), "the same facts give the same bytes"


def test_what_comes_from_data_is_escaped() -> None:
    text = json.dumps(handmade())
    for name in ("small", "big", "code", "try", "text.jsonl", "sha256:1"):
        text = text.replace(json.dumps(name), json.dumps(f"{name} {EVIL}"))
    found = shown(json.loads(text))
    outline = Outline(found)
    assert "script" not in outline.tags and "<script" not in found
    assert "&lt;script&gt;" in found
    assert all(link.startswith("#") for link in outline.links)


def test_without_control_with_one_source_and_with_nothing_to_compare() -> None:
    facts = handmade()
    facts["training"].pop("control")
    facts["results"] = [r for r in facts["results"] if r["role"] != "control"]
    facts["gains"] = [r for r in facts["gains"] if r["role"] != "control"]
    assert "was not measured" in shown(facts)
    for row in facts["gains"] + facts["results"]:
        row.update((name, None) for name, value in list(row.items()) if isinstance(value, float))
    facts["fusion"] |= {"weights": {"big": 1.0}, "by_domain": {}}
    facts["training"]["fused"] |= {"curve": [], "clm_loss": None, "fusion_loss": None, "tokens_per_s": None}
    facts["sources"] = []
    assert "There was no held-out text" in shown(facts)
    assert "no held-out text" in shown({**facts, "gains": [], "results": []})


def test_many_sources_and_domains_fit() -> None:
    facts = handmade()
    rows = [{**facts["results"][0], "model": f"source-{n}", "role": "source"} for n in range(9)]
    facts["results"] += [{**row, "domain": f"domain {d}"} for row in rows for d in range(30)]
    assert "source-8" in shown(facts)


def test_a_gain_is_paired_by_document() -> None:
    rng = np.random.default_rng(0)
    hard_D, bytes_D = rng.uniform(50, 500, 40), np.full(40, 300.0)
    found = gain(hard_D + 3, hard_D, bytes_D)
    assert found["nats_per_byte"] == pytest.approx(0.01) and found["verdict"] == "better"
    assert found["high"] - found["low"] < 1e-6, "the difference is the same everywhere, however hard the documents"
    assert gain(hard_D, hard_D + 3, bytes_D)["verdict"] == "worse"
    assert gain(hard_D[:1] + 3, hard_D[:1], bytes_D[:1])["verdict"] == "unclear"
    assert gain(np.zeros(0), np.zeros(0), np.zeros(0))["verdict"] == "unclear"


def test_intervals_are_said_in_words() -> None:
    assert span(1.25, 2.5) == "1.2% to 2.5%" and span(-0.112, -0.041) == "0.04% to 0.11%"
    assert span(-0.5, 2.0) == "from 0.50% higher to 2.0% lower"


def test_curves_are_thinned_without_losing_tokens() -> None:
    lines = [{"step": s, "tokens": 10, "clm_loss": float(s), "fusion_loss": None} for s in range(1, 1002)]
    points = thinned(lines)
    assert len(points) <= 300 and points[-1]["step"] == 1001 and points[-1]["tokens_seen"] == 10010
    assert points[0]["clm_loss"] == pytest.approx(np.mean([1, 2, 3, 4])) and points[0]["fusion_loss"] is None
    assert last_tenth(lines, "clm_loss") == pytest.approx(np.mean(range(902, 1002)))
    assert last_tenth(lines, "fusion_loss") is None and last_tenth([], "clm_loss") is None and thinned([]) == []


def test_json_knows_no_nan() -> None:
    assert finite({"a": [float("nan"), 1.0, {"b": float("inf")}]}) == {"a": [None, 1.0, {"b": None}]}


def test_every_stage_before_it_is_read() -> None:
    assert [*READS, "report"] == list(STAGES)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of tiny models, all but the report."""
    folder = tmp_path_factory.mktemp("report")
    content = paper_models.recipe_content(folder, folder / "models", documents=14)
    content["train"] |= {"tokens_per_step": 2048, "control": True}
    return done_run(content, READS)


@pytest.mark.models
def test_the_report_of_a_run(run: Run) -> None:
    outcome = do_unit(run, Unit("report"))
    folder = run.recipe.folder
    facts = json.loads((folder / "report.json").read_text(), parse_constant=lambda word: pytest.fail(word))
    assert outcome.state == "done" and outcome.record.counts["models"] == 4
    assert {row["role"] for row in facts["results"]} == {"target", "source", "fused", "control"}
    assert {row["domain"] for row in facts["results"]} <= {"prose", "mixed", MEAN}
    check_sums(run, facts)
    assert facts["recipe"]["name"] == "paper-in-small" and "execution" not in facts["recipe"]
    assert {"tiny-llama", "tiny-mpt"} == set(facts["fingerprints"]["models"])
    text = (folder / "report.html").read_text()
    assert text.count("<svg") == 4 and "paper-in-small" in text


def check_sums(run: Run, facts: dict[str, Any]) -> None:
    """What the facts say in sum is what the records say."""
    records = [record for stage in READS for record in (run.record(unit) for unit in run.units(stage))] + run.shards
    assert facts["bytes"] == sum(file.bytes for record in records for file in record.files)
    assert sum(row["units"] for row in facts["stages"]) == len(records)
    fused = [run.record(unit).counts for unit in run.units("fuse")]
    assert facts["fusion"]["positions"] == sum(counts["positions"] for counts in fused)
    assert sum(facts["fusion"]["weights"].values()) == pytest.approx(1)
    for label, share in facts["fusion"]["weights"].items():
        told = sum(counts["weight"][label] for counts in fused)
        assert share == pytest.approx(told / sum(sum(counts["weight"].values()) for counts in fused))
    for arm in ("fused", "control"):
        told = facts["training"][arm]
        assert told["curve"][-1] | {"step": told["steps"], "tokens_seen": told["tokens"]} == told["curve"][-1]


@pytest.mark.models
def test_a_report_is_kept_and_put_back(run: Run) -> None:
    assert do_unit(run, Unit("report")).state in ("done", "kept")
    made: Path = report_page(run)
    text = made.read_text()
    made.unlink()
    assert do_unit(run, Unit("report")).state == "kept"
    assert report_page(run).read_text() == text
    made.write_text("another recipe's")
    assert report_page(run).read_text() == text
