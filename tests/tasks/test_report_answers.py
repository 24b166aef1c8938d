"""What a report says first: whether fusing paid, by how much, whether that is certain; and its tables."""

import re
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from report_facts import compared, handmade

from logitfuse.storage.records import Record
from logitfuse.tasks.report import in_short
from logitfuse.tasks.reporting.cautions import cautions, weighed
from logitfuse.tasks.reporting.curve_plots import curve_plot, draw_curve
from logitfuse.tasks.reporting.curves import held_out_looks, overall_speed
from logitfuse.tasks.reporting.formats import moment, percent, places
from logitfuse.tasks.reporting.gains import NO_DIFFERENT, change, span
from logitfuse.tasks.reporting.gains import against as compared_with
from logitfuse.tasks.reporting.headline import gained, headline, what
from logitfuse.tasks.reporting.marks import models_of
from logitfuse.tasks.reporting.page import page
from logitfuse.tasks.reporting.plots import WIDTH, draw_gains
from logitfuse.tasks.reporting.svg import drawing
from logitfuse.tasks.reporting.tables import cost_rows, result_table, source_rows, winner_rows
from logitfuse.tasks.reporting.verdict import answer, cards, interval
from logitfuse.tasks.reporting.winners import PLACES, Winners
from logitfuse.tasks.results import MEAN
from logitfuse.tasks.study.looks import caution
from logitfuse.tasks.train import learnt, seconds_of


def against(control: float | None, target: float | None = 3.0, documents: int = 40) -> dict[str, Any]:
    """Return facts in which the fused model is so many percent better over all text."""
    facts = handmade()
    told = {"control": control, "small": target}
    facts["gains"] = [compared(model, MEAN, value) for model, value in told.items() if value is not None]
    for row in facts["results"]:
        row["documents"] = documents
    return facts


@pytest.mark.parametrize(
    ("facts", "said", "worked", "certain"),
    [
        (against(2.0), "Fusing paid: 2.0% lower loss than the same training", "Yes", "Yes, at 95%"),
        (against(2.0, documents=9), "Fusing paid: 2.0% lower loss", "Yes", "Roughly"),
        (against(-2.0), "Fusing did not pay: 2.0% higher loss than the same training", "No", "Yes, at 95%"),
        (
            against(0.2),
            "No gain shown: the loss is anywhere from 0.3% higher to 0.7% lower than with",
            "Not shown",
            "No, may be chance",
        ),
        (against(0.2, documents=3), "No gain shown", "Not shown", "No, too little text"),
        (against(None), "Better than before: 3.0% lower loss than before. Whether thanks", "Not known", "Yes, at 95%"),
        (against(None, -3.0), "Worse than before: 3.0% higher loss than before.", "Not known", "Yes, at 95%"),
        (against(None, 0.1), "No change shown", "Not known", "No, may be chance"),
        (against(None, None), "not known: no text was held out", "Not known", "Not known"),
    ],
)
def test_the_answer_comes_first(facts: dict[str, Any], said: str, worked: str, certain: str) -> None:
    assert said in answer(facts)
    first, much, sure, cost = cards(facts)
    assert (first["answer"], sure["answer"]) == (worked, certain)
    assert much["answer"] in answer(facts) or "No" in sure["answer"]
    assert cost["answer"] == "2.3 min" and "90% of them had a fused prediction" in cost["notes"]


def gain(low: float, value: float, high: float) -> dict[str, Any]:
    ends = {"percent_low": low, "percent": value, "percent_high": high}
    return ends | {"verdict": "better" if low > 0 else "worse" if high < 0 else "unclear"}


@pytest.mark.parametrize(
    ("row", "said", "interval"),
    [
        (gain(3.0045, 3.3504, 3.7063), "3.4% lower", "3.0% to 3.7%"),
        (gain(-0.0782, -0.0504, -0.0181), "0.05% higher", "0.02% to 0.08%"),
        (gain(-0.0484, 0.0002, 0.0561), NO_DIFFERENT, "0.05% higher to 0.06% lower"),
        (gain(2.3, 3.29, 8.1), "3% lower", "2% to 8%"),
        (gain(1.1, 2.2, 3.9), "2.2% lower", "1.1% to 3.9%"),
        (gain(0.003, 0.05, 0.1), "0.050% lower", "0.003% to 0.100%"),
        (gain(-0.7, -0.7, -0.7), "0.70% higher", "0.70% to 0.70%"),
    ],
)
def test_a_gain_has_the_digits_that_its_interval_warrants(row: dict[str, Any], said: str, interval: str) -> None:
    assert (change(row), span(row)) == (said, interval)


def test_a_difference_that_is_none_is_not_called_lower() -> None:
    facts = against(0.0)
    facts["gains"][0] |= gain(-0.048, 0.0002, 0.056)
    same = "As good as its control, and no better: its loss is within 0.06% of that of the same training without"
    assert answer(facts).startswith(same)
    assert [card["answer"] for card in cards(facts)[:3]] == ["No gain", "No different", "Yes, at 95%"]
    assert "but only as good as that of a control" in gained(facts) and "0.00%" not in page(facts)
    assert compared_with(facts["gains"][0], "before") == "no different from before"
    facts["gains"][0] |= gain(-0.0782, -0.0504, -0.0181)  # the text is sure of it; another seed would not be
    assert answer(facts).startswith("As good as its control, and no better: its loss is within 0.08%")
    assert [card["answer"] for card in cards(facts)[:2]] == ["No gain", "0.05% higher"]
    assert {card["tone"] for card in cards(facts)[:2]} == {"unclear"}
    facts["gains"][0] |= gain(-0.3, 0.0002, 0.56)
    assert answer(facts).startswith("No gain shown") and cards(facts)[0]["answer"] == "Not shown"


def with_levels(facts: dict[str, Any], target: float, control: float) -> dict[str, Any]:
    """Put losses of target and control in, in nats per byte."""
    for row in facts["results"]:
        row["nats_per_byte"] = {"target": target, "control": control}.get(row["role"], row["nats_per_byte"])
    return facts


def test_the_verdict_comes_first_and_the_control_has_its_part_of_the_gain() -> None:
    facts = with_levels(against(0.0, target=3.0), 1.0, 0.97)
    facts["gains"][0] |= gain(-0.001, 0.0002, 0.002)
    assert headline(facts).startswith("As good as its control, and no better")
    assert headline(facts).endswith("Against before, its loss is 3.0% lower, the control's 3.0% lower.")
    assert gained(facts).endswith("; the control's own is 3.0% lower than before.")
    assert what(facts) == "small was trained on what big predicted.", "whether it learnt of it is for the verdict"
    assert headline(against(None)) == answer(against(None)), "without a control the verdict says all"
    level = with_levels(facts, 1.0, 1.0)
    assert gained(level).endswith("; the control's own is no different from before.")


def test_in_short_a_report_says_how_many_warnings_its_page_has() -> None:
    facts = against(-2.0, target=-1.0)
    assert in_short(against(2.0)) == [headline(against(2.0))]
    verdict, warnings = in_short(facts)
    assert verdict.startswith("Fusing did not pay") and warnings.startswith("A warning: The fused model is worse than")
    facts["headroom"]["warnings"] = ["The targets are worse: 3.1. Learning costs."]
    listed = page(facts).count('<li class="serious">') + page(facts).count('<li class="care">')
    assert in_short(facts)[1] == f"{listed} warnings in the report, first: The targets are worse: 3.1." and listed == 2


def test_shuffled_sources_are_named_as_such() -> None:
    facts = against(2.0)
    facts["fusion"]["shuffled"] = True
    assert "without the shuffled sources" in answer(facts)


def test_an_interval_is_drawn_where_it_is() -> None:
    left_of_zero = interval(compared("control", MEAN, -2.0))
    assert left_of_zero["low"] < left_of_zero["at"] < left_of_zero["high"] < left_of_zero["zero"]
    unclear = interval(compared("control", MEAN, 0.2))
    assert 0 < unclear["low"] < unclear["zero"] < unclear["high"] < 100


def test_warnings_come_by_weight() -> None:
    facts = against(-2.0, target=-1.0)
    facts["alignment"]["big"]["mass_kept"] = 0.3
    facts["headroom"]["warnings"] = ["The targets are worse than the student."]
    for row in facts["results"]:
        row["documents"] = 5 if row["domain"] == "code" else 40
    found = weighed(facts)
    assert [caution.weight for caution in found] == ["serious", "serious", "answer", "care", "note"]
    assert cautions(facts) == [caution.text for caution in found]
    shown = page(facts)
    places = [shown.index(f'<li class="{weight}">') for weight in ("serious", "care", "note")]
    assert places == sorted(places) and '<li class="answer">' not in shown


def test_few_documents_are_said_once() -> None:
    found = weighed(against(2.0, documents=9))
    assert [(caution.weight, caution.text[:33]) for caution in found] == [
        ("serious", "All domains together have 9 held-")
    ]


def test_winners_are_counted_by_domain_and_place() -> None:
    rng = np.random.default_rng(0)
    rows = [(domain, rng.integers(-1, 2, size).astype(np.int32)) for domain in "ab" for size in (0, 5, 8, 40, 3000)]
    winners = Winners(["one", "two"])
    for domain, winner_T in rows:
        winners.add(domain, winner_T)
    told = winners.facts()
    for domain, row in told["by_domain"].items():
        every = np.concatenate([winner_T for name, winner_T in rows if name == domain])
        assert row == {
            "positions": len(every), "unserved": int((every == -1).sum()),
            "won": {"one": int((every == 0).sum()), "two": int((every == 1).sum())},
        }  # fmt: skip
    assert [row["from"] for row in told["by_place"]] == list(PLACES) and told["by_place"][-1]["to"] is None
    assert told["by_place"][0]["positions"] == 2 * (5 + 8 + 8 + 8) and told["by_place"][0]["to"] == 7
    assert Winners(["one"]).facts() == {"by_domain": {}, "by_place": []}


def test_the_heat_map_shows_the_counts() -> None:
    facts = handmade()
    rows = winner_rows(facts)
    assert [row["domain"] for row in rows["by_domain"]] == [MEAN, "code"] and rows["unserved"] == 100
    assert [cell["share"] for cell in rows["by_domain"][1]["cells"]] == [0.225, 0.675]
    text = page(facts)
    assert "--share: 67.5%" in text and "weight 75%" in text and ">nobody<" in text and "8 or more" in text
    assert text.index("<h1>") < text.index("Did it work?") < text.index("<section"), "the answer comes first"


def test_every_table_has_its_rows() -> None:
    facts = handmade()
    first, *others = result_table(facts)
    assert first["domain"] == MEAN and [row["domain"] for row in others] == ["code", "prose"]
    assert [gain["role"] for gain in first["gains"] if gain] == ["control", "target"]
    assert [model["role"] for model in models_of(facts["results"])] == ["fused", "control", "target", "source"]
    assert [row["name"] for row in source_rows(facts)] == ["small", "big", ""]
    assert [row["ahead"] for row in source_rows(facts)] == [None, 0.25, 0.25]
    (capture,) = cost_rows(facts["stages"])
    assert (capture["units"], capture["seconds"], capture["bytes"]) == (6, 140.0, 4_000_000)
    assert [part["source"] for part in capture["parts"]] == ["small", "big"]


def test_only_the_least_of_a_row_is_bold() -> None:
    shown = page(handmade())
    assert len(re.findall(r'<td class="n best"', shown)) == 3, "one in each of three rows"
    heavy = [
        rule for rule in re.findall(r"[^{}]+{[^{}]*font-weight: [67][^{}]*}", shown) if re.search(r"\.all td", rule)
    ]
    assert heavy == [], "a row that is bold throughout hides which of its numbers is the least"


def test_looks_at_held_out_text_stand_at_the_tokens_seen_by_then() -> None:
    lines = [{"step": step, "tokens": 10} | ({"held_out": {"mean": 0.5}} if step == 2 else {}) for step in (1, 2, 3)]
    assert held_out_looks(lines) == [{"step": 2, "tokens_seen": 20, "mean": 0.5}]
    facts = handmade()
    assert "Loss on held-out text while training, nats per byte: fused ends at 0.720" in curve_plot(facts, "held_out")
    for told in facts["training"].values():
        told["held_out"] = [{"step": 4, "tokens_seen": 400, "mean": None}]
    assert curve_plot(facts, "held_out") == ""


def test_the_speed_is_that_of_the_whole_training() -> None:
    steps = {"model_seconds": 2.5}
    assert overall_speed(trained({"seconds": 20.0, **steps})) == 50, "loading and looks took time too"
    assert overall_speed(trained({"seconds": 1.0, **steps})) == 400, "taken up again: the steps took longer"
    assert overall_speed(trained({"seconds": 8.0, "earlier_seconds": 2.0, **steps})) == 100, "its first part's, too"
    assert overall_speed(trained({})) is None


def test_the_speed_of_a_resumed_training_needs_no_metrics() -> None:
    lines = [{"seconds": 2.0, "time": 5.0}, {"seconds": 3.0, "time": 11.0}]
    assert seconds_of(lines, 10.0) == {"model_seconds": 5.0, "earlier_seconds": 2.0}
    told = {**lines[0], "step": 1, "steps": 9, "tokens": 10}
    assert learnt([told]) == {"steps": 1, "tokens": 10}
    assert learnt([told | {"step": 7}]) == {"steps": 7, "tokens": 10, "untold_steps": 6}
    assert learnt([], 9) == {"steps": 9, "tokens": 0, "untold_steps": 9}


def trained(made: dict[str, Any]) -> Record:
    counts = {"tokens": 1000}
    return Record(stage="train", place="train/fused", name="model", key="k", files=[], counts=counts, made=made)


@pytest.mark.parametrize("percents", [(-0.0001, 0.00005, 0.0002), (0.24, 0.27, 0.31), (-3.0, 0.0, 12.0), (0, 0, 0)])
def test_numbers_below_a_drawing_have_room(percents: tuple[float, float, float]) -> None:
    rows = [gain(*percents) | {"role": role, "domain": MEAN} for role in ("control", "target")]
    with drawing("gains") as palette:
        figure = Figure(figsize=(WIDTH, 2.0), layout="constrained")
        panels = list(figure.subplots(1, 2, sharey=True))
        draw_gains(panels, rows, [MEAN], palette)
        figure.canvas.draw()
        shown = [label.get_window_extent() for axes in panels for label in axes.get_xticklabels()]
    assert len(shown) >= 2
    assert all(left.x1 < right.x0 for left, right in pairwise(shown)), shown


def test_curves_that_are_equal_look_equal() -> None:
    with drawing("held_out") as palette:
        axes = Figure(layout="constrained").subplots()
        draw_curve(axes, {"fused": [(56757, 3.2094818)], "control": [(56757, 3.2094808)]}, "nats per byte", palette)
        axes.figure.canvas.draw()
        low, high = axes.get_ylim()
        assert axes.yaxis.get_offset_text().get_text() == ""
    assert 0.0049 < (high - low) / 3.2094818 < 0.0051 and low < 3.2094808 < high


def test_little_mass_of_the_target_itself_is_not_its_vocabularys_fault() -> None:
    facts = handmade()
    for row in facts["alignment"].values():
        row["mass_kept"] = 0.03
    itself, source = cautions(facts)
    assert itself.startswith("Of small's own") and "vocabulary" not in itself
    assert all(text.count("aise capture.k") == 1 for text in (itself, source))


def test_what_may_be_chance_is_hollow_everywhere() -> None:
    assert 'class="dot hollow"' in page(against(0.2)) and 'class="dot hollow"' not in page(against(2.0))


def test_numbers_as_people_read_them() -> None:
    assert (percent(0.9999), percent(0.0001), percent(1.0), percent(0.0)) == ("99.9%", "0.1%", "100%", "0%")
    assert (places(8, 31), places(2048, None)) == ("8 to 31", "2,048 or more")
    assert moment("2026-01-02T03:04:05+02:00") == moment(1767315845) == "2026-01-02 01:04 UTC"
    said = caution([{"time": f"2026-01-02T0{hour}:04:05+02:00"} for hour in (3, 4)], "test")
    assert said is not None and "(2026-01-02 01:04 UTC, 2026-01-02 02:04 UTC)" in said
