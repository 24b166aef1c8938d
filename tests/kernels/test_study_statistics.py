"""Statistics of studies against closed forms, printed tables, textbook examples, and coverage by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logitfuse.kernels.seeds_and_documents import draw, drawn_ratios, two_level_interval, two_sided
from logitfuse.kernels.several_tests import holm
from logitfuse.kernels.student_t import mean_interval, t_inside, t_quantile, t_test
from logitfuse.kernels.token_multiple import multiple_interval, token_multiple


@given(st.floats(0, 50))
def test_t_is_its_closed_forms(t):
    assert t_inside(t, 1) == pytest.approx(2 / math.pi * math.atan(t), abs=1e-12)
    assert t_inside(t, 2) == pytest.approx(t / math.sqrt(2 + t * t), abs=1e-12)
    assert t_inside(t, 4) == pytest.approx(t * (t * t + 6) / (t * t + 4) ** 1.5, abs=1e-12)


@pytest.mark.parametrize("df", [3, 5, 6, 9, 30])
def test_t_is_the_integral_of_its_density(df):
    x = np.linspace(0, 2.3, 20001)
    constant = math.gamma((df + 1) / 2) / (math.sqrt(df * math.pi) * math.gamma(df / 2))
    area = 2 * np.trapezoid(constant * (1 + x * x / df) ** (-(df + 1) / 2), x)
    assert t_inside(2.3, df) == pytest.approx(area, abs=1e-8)


@pytest.mark.parametrize(
    ("inside", "df", "printed"),
    [(0.95, 1, 12.706), (0.95, 2, 4.303), (0.95, 4, 2.776), (0.99, 4, 4.604), (0.95, 9, 2.262), (0.95, 100, 1.984)],
)
def test_quantiles_are_those_of_printed_tables(inside, df, printed):
    assert t_quantile(inside, df) == pytest.approx(printed, abs=6e-4)


def test_the_test_and_the_interval_agree():
    values = np.array([-0.004, -0.006, -0.001, -0.007, -0.005])
    p = t_test(values)
    touching = mean_interval(values, inside=1 - p)
    assert touching.high == pytest.approx(0, abs=1e-12) and 0.001 < p < 0.05
    assert t_test(np.array([1.0])) is None and mean_interval(np.array([1.0])) is None
    assert t_test(np.zeros(3)) == 1 and t_test(np.ones(3)) == 0


def test_holm_is_the_textbooks_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == [] and holm([0.9, 0.8]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_nothing_and_bonferroni(p_values):
    adjusted = holm(p_values)
    assert all(p <= a <= min(1, p * len(p_values)) + 1e-12 for p, a in zip(p_values, adjusted, strict=True))


def test_one_seed_is_the_bootstrap_over_documents_and_one_document_that_over_seeds():
    random = np.random.default_rng(1)
    nats_SD, bytes_D = random.normal(1, 1, (1, 400)), np.full(400, 2.0)
    found = two_level_interval(nats_SD, bytes_D, draw(1, 400))
    reach = 1.96 * nats_SD.std() / 20 / 2
    assert found.value == pytest.approx(nats_SD.mean() / 2)
    assert (found.high - found.low) / 2 == pytest.approx(reach, rel=0.05)
    seeds_S1 = random.normal(1, 1, (8, 1))
    ratios = drawn_ratios(seeds_S1, np.ones(1), draw(8, 1))
    assert ratios.var() == pytest.approx(seeds_S1.var(ddof=1) / 8, rel=0.05)  # of S - 1 seeds: unbiased


@pytest.mark.parametrize(("between_seeds", "documents"), [(0.0, 60), (0.3, 60)])
def test_two_level_intervals_cover_the_truth(between_seeds, documents):
    """Of 200 simulated studies of eight seeds about 95% hold the true mean; percentiles of few seeds hold fewer."""
    random, held = np.random.default_rng(2), 0
    draws = draw(8, documents, draws=1000)
    for _ in range(200):
        of_document = random.normal(0, 1, documents)
        nats_SD = (
            0.5 + between_seeds * random.normal(0, 1, (8, 1)) + of_document + random.normal(0, 0.1, (8, documents))
        )
        found = two_level_interval(nats_SD, np.ones(documents), draws)
        held += found.low <= 0.5 <= found.high
    assert held / 200 > 0.89


def test_a_clear_difference_has_a_small_p_and_none_has_a_large_one():
    draws = draw(3, 50)
    clear = drawn_ratios(np.random.default_rng(3).normal(1, 0.5, (3, 50)), np.ones(50), draws)
    assert two_sided(clear) == pytest.approx(2 / 10_001) and two_sided(-clear) == two_sided(clear)
    assert two_sided(np.array([-1.0, 1.0])) == 1.0 and two_sided(np.zeros(5)) == 1.0


def test_the_token_multiple_is_linear_in_log_tokens():
    tokens, losses = np.array([100.0, 200.0, 400.0]), np.array([1.0, 0.9, 0.7])
    assert token_multiple(tokens, losses, 0.95, 100) == pytest.approx(math.sqrt(2))
    assert token_multiple(tokens, losses, 0.8, 100) == pytest.approx(2 * math.sqrt(2))
    assert token_multiple(tokens, losses, 1.0, 100) == 1 and token_multiple(tokens, losses, 0.7, 100) == 4
    assert token_multiple(tokens, losses, 1.1, 100) == 0 and token_multiple(tokens, losses, 0.6, 100) == math.inf
    with pytest.raises(ValueError, match="two points"):
        token_multiple(tokens[:1], losses[:1], 0.9, 100)


@given(st.floats(0.1, 1), st.floats(1, 4), st.floats(0.01, 0.99))
def test_a_curve_that_is_a_line_in_log_tokens_is_inverted(slope, times, share):
    tokens = np.array([1.0, times * 1.5, times * 4])
    reached = 5 - slope * math.log(tokens[-1]) * share
    found = token_multiple(tokens, 5 - slope * np.log(tokens), reached, 1.0)
    assert found == pytest.approx(tokens[-1] ** share, rel=1e-9)


def test_an_interval_may_end_outside_of_the_curve():
    assert multiple_interval(np.array([0.0] * 10 + [1.5] * 80 + [math.inf] * 10)) == (0.0, math.inf)
    assert multiple_interval(np.linspace(1, 2, 1001)) == pytest.approx((1.025, 1.975))
