"""The report: its facts on a tiny finished run, and the page on facts made by hand."""

import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import paper_models
import pyarrow.parquet as pq
import pytest
from done_runs import done_run
from report_facts import compared, handmade

from logitfuse.tasks.execute import do_unit
from logitfuse.tasks.report import READS, report_page
from logitfuse.tasks.reporting.cautions import cautions
from logitfuse.tasks.reporting.comparison import gain
from logitfuse.tasks.reporting.curves import last_tenth, thinned
from logitfuse.tasks.reporting.facts import finite
from logitfuse.tasks.reporting.page import page
from logitfuse.tasks.reporting.tables import winner_rows
from logitfuse.tasks.reporting.winners import PLACES
from logitfuse.tasks.results import MEAN
from logitfuse.tasks.run import Run
from logitfuse.tasks.stages import STAGES
from logitfuse.tasks.unit import Unit

EVIL = "<script>alert('$x$ & _y')</script>"


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
    known = "control, which" in found[0]  # that is the answer, and stands where answers do
    assert ("Before you believe it" in shown(facts)) != known


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
    assert all(link.startswith("#") for link in outline.links) and "://" not in text
    assert "@import" not in text and set(re.findall(r"url\((.)", text)) <= {"#"}
    assert len(outline.ids) == len(set(outline.ids)), "drawings share a page, so their ids must differ"
    assert {link[1:] for link in outline.links} <= set(outline.ids)
    assert outline.tags.count("svg") == 5
    assert len(re.findall(r'<svg viewBox="[^"]+" role="img" aria-label="[^"]+">', text)) == 5
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
    facts["training"]["fused"]["untold_steps"] = 6
    facts["sources"] = []
    text = shown(facts)
    assert "There was no held-out text" in text and text.count("without the metrics of its first 6 steps") == 1
    assert "no held-out text" in shown({**facts, "gains": [], "results": []})


def test_many_sources_and_domains_fit() -> None:
    facts = handmade()
    rows = [{**facts["results"][0], "model": f"source-{n}", "role": "source"} for n in range(9)]
    facts["gains"] += [compared("control", f"domain {d}", 1.0) for d in range(30)]
    facts["results"] += [{**row, "domain": f"domain {d}"} for row in rows for d in range(30)]
    text = shown(facts)
    assert "source-8" in text and ">domain 29 <" in text and "the table has all" in text


def test_a_gain_is_paired_by_document() -> None:
    rng = np.random.default_rng(0)
    hard_D, bytes_D = rng.uniform(50, 500, 40), np.full(40, 300.0)
    found = gain(hard_D + 3, hard_D, bytes_D)
    assert found["nats_per_byte"] == pytest.approx(0.01) and found["verdict"] == "better"
    assert found["high"] - found["low"] < 1e-6, "the difference is the same everywhere, however hard the documents"
    assert gain(hard_D, hard_D + 3, bytes_D)["verdict"] == "worse"
    assert gain(hard_D[:1] + 3, hard_D[:1], bytes_D[:1])["verdict"] == "unclear"
    assert gain(np.zeros(0), np.zeros(0), np.zeros(0))["verdict"] == "unclear"


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
    assert text.count("<svg") == 5 and "paper-in-small" in text
    check_winners(run, facts)


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


def check_winners(run: Run, facts: dict[str, Any]) -> None:
    """Who won where is what the fused shards say, position by position."""
    labels, domains, places = list(run.teachers), Counter[Any](), Counter[Any]()
    for unit in run.units("fuse"):
        for row in pq.read_table(run.store.file(run.record(unit), run.record(unit).files[0])).to_pylist():
            for position, winner in enumerate(row["winner"]):
                who = labels[winner] if winner >= 0 else None
                domains[row["domain"], who] += 1
                places[max(first for first in PLACES if first <= position), who] += 1
    told = facts["fusion"]["winners"]
    by_domain = [(domain, row) for domain, row in told["by_domain"].items()]
    by_place = [(row["from"], row) for row in told["by_place"]]
    for rows, counted in ((by_domain, domains), (by_place, places)):
        assert {(n, w): c for n, row in rows for w, c in [(None, row["unserved"]), *row["won"].items()] if c} == counted
        assert sum(row["positions"] for _, row in rows) == facts["fusion"]["positions"]
    served = sum(sum(row["won"].values()) for row in told["by_domain"].values())
    assert served == sum(run.record(unit).counts["served"] for unit in run.units("fuse"))
    share = sum(count for (_, who), count in domains.items() if who == labels[0]) / facts["fusion"]["positions"]
    assert winner_rows(facts)["by_domain"][0]["cells"][0]["share"] == pytest.approx(share)


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
