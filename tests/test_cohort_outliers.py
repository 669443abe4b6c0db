"""Which pairs of a cohort stand out: planted failures first, ordinary pairs left alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from cohorts import DRAWS, PLANTED, changed, cohort, failed

from hsyn_cli.cohort.measures import MEASURES
from hsyn_cli.cohort.outliers import NAMED, deviations, find, short, spread
from hsyn_cli.cohort.rows import Row

SEEDS = range(6)


def planted(rows: list[Row]) -> tuple[list[Row], set[str]]:
    """Every twentieth row with one of the failures, and their ids."""
    places = range(7, 7 + 20 * len(PLANTED), 20)
    for k, values in zip(places, PLANTED, strict=True):
        rows[k] = changed(rows[k], values)
    return rows, {rows[k].id for k in places}


@pytest.mark.parametrize("seed", SEEDS)
def test_five_planted_failures_come_first_and_nearly_alone(seed: int) -> None:
    rows, ids = planted(cohort(100, seed))
    found = find(rows)
    assert {finding.row.id for finding in found[:5]} == ids
    assert len(found) <= 6


@pytest.mark.parametrize("kind", DRAWS)
@pytest.mark.parametrize("count", [10, 100])
def test_ordinary_pairs_are_seldom_named(kind: str, count: int) -> None:
    named = [len(find(cohort(count, seed, DRAWS[kind]))) for seed in range(20)]
    assert np.mean(named) <= (1.5 if kind == "heavy tails" else 1)


def test_failures_that_are_alike_do_not_hide_one_another() -> None:
    rows = cohort(100, 8)
    rows[::10] = [changed(row, {"information": 0.1}) for row in rows[::10]]
    assert {finding.row.id for finding in find(rows)} == {row.id for row in rows[::10]}


def test_heavy_tails_do_not_hide_a_failure() -> None:
    rows, ids = planted(cohort(100, 1, DRAWS["heavy tails"]))
    assert ids <= {finding.row.id for finding in find(rows)}


def test_two_kinds_of_pairs_are_not_outliers_of_each_other() -> None:
    rows = cohort(60, 2)
    other = {"affine_scale_x": 1.15, "similarity": 0.6, "information": 0.3, "log_det_sd": 0.35}
    for k in range(0, 60, 4):
        rows[k] = changed(rows[k], {key: v + 0.001 * k for key, v in other.items()})
    assert find(rows) == []


@pytest.mark.parametrize("values", PLANTED, ids=lambda values: next(iter(values)))
def test_the_reason_is_what_was_planted(values: dict[str, float]) -> None:
    rows = cohort(100, 3)
    rows[42] = changed(rows[42], values)
    (finding,) = find(rows)
    assert finding.row.id == "sub-0042"
    assert {reason.measure.key for reason in finding.reasons} <= set(values)
    name = finding.reasons[0].measure.name
    assert finding.texts[0].startswith(name)
    assert "deviations from the others (median " in finding.texts[0]


def test_a_reason_says_the_value_its_unit_how_far_it_is_and_what_is_usual() -> None:
    rows = cohort(50, 4)
    rows = [changed(row, {"folding_inverse_percent": 0.0}) for row in rows]
    rows[9] = changed(rows[9], {"folding_inverse_percent": 2.0})
    (finding,) = find(rows)
    far = round(2.0 / (0.01 * (1 + 4 / 50)))
    text = f"folding, inverse field 2 %, {far} deviations from the others (median 0 %)"
    assert finding.texts == (text,)


def test_the_good_side_is_no_failure() -> None:
    rows = cohort(40, 5)
    rows[3] = changed(rows[3], {"similarity": 0.99, "information": 0.9, "shear": 0.0})
    assert find(rows) == []


def test_equal_pairs_are_not_told_apart_by_noise() -> None:
    rows = [changed(row, {m.key: 1.0 for m in MEASURES}) for row in cohort(40)]
    rows[3] = changed(rows[3], {"affine_scale_x": 1.02, "folding_forward_percent": 1.02})
    assert find(rows) == []


def test_below_ten_pairs_only_failed_and_doubtful_ones_are_named() -> None:
    rows = cohort(9)
    rows[1] = changed(rows[1], {"affine_scale_x": 3.0})
    assert find(rows) == []
    assert all(not reasons for reasons in deviations(rows))
    rows[2] = dataclasses.replace(rows[2], exit_code=10, trouble="they overlap less")
    rows[7] = failed(rows[7])
    first, second = find(rows)
    assert first.texts == ("failed (exit code 3): moving image: not a file",)
    assert second.texts == ("do not trust this result: they overlap less",)


def test_a_message_that_distrusts_the_result_says_it_once() -> None:
    row = dataclasses.replace(cohort(1)[0], exit_code=10, trouble="do not trust this result: far")
    (finding,) = find([row])
    assert finding.texts == ("do not trust this result: far",)


def test_failed_pairs_come_first_then_doubtful_ones_then_the_farthest() -> None:
    rows = cohort(30)
    rows[4] = changed(rows[4], {"similarity": 0.1})
    rows[5] = changed(rows[5], {"affine_scale_x": 3.0})
    rows[6] = dataclasses.replace(rows[6], exit_code=10, state="failed", trouble="unlike")
    rows[8] = failed(rows[8])
    order = [int(finding.row.id[-1]) for finding in find(rows)]
    assert order == [8, 6, *sorted((4, 5), key=lambda k: -deviations(rows)[k][0].deviations)]
    assert len(find(rows)[2].reasons) == 1


def test_a_mirrored_image_stands_out() -> None:
    rows = cohort(20)
    rows[4] = changed(rows[4], {"affine_scale_x": -1.0})
    assert [finding.row.id for finding in find(rows)] == ["sub-0004"]


def test_kinds_of_similarity_are_not_compared_with_each_other() -> None:
    rows = cohort(30)
    mind = dataclasses.replace(changed(rows[4], {"similarity": -0.2}), measure="MIND")
    rows[4] = mind
    assert find(rows) == []


def test_the_spread_of_a_normal_cohort_is_its_standard_deviation() -> None:
    away = np.random.default_rng(0).normal(0, 3, 4000)
    assert spread(away, 0.01) == pytest.approx(3, rel=0.06)
    assert spread(away, 5.0) == pytest.approx(5, rel=0.01)
    assert spread(np.array([0.0] * 90 + [7.0] * 10), 0.5) == pytest.approx(0.5 * 1.04)


def test_numbers_are_short() -> None:
    assert [short(v) for v in (0.0012345, 1.4, 12345.6, 0.0, -0.0613)] == [
        "0.00123", "1.4", "12300", "0", "-0.0613",
    ]  # fmt: skip
    assert short(75.0, "°") == "75°"
    assert short(3.0, "mm") == "3 mm"
    assert NAMED == 6
