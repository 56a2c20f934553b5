"""The search space: single hops always, every chain of few sizes, the most promising of many."""

from __future__ import annotations

import numpy as np
import pytest

from gapkit.planning.arm import SCRATCH, Arm
from gapkit.planning.search_space import BEAM, BEAM_RECIPES, SearchSpace, check_space


def space(n: int, recipes=("a", "b"), fractions=(1.0,)) -> SearchSpace:
    sizes = tuple(range(n, 0, -1))
    return SearchSpace(sizes, dict.fromkeys(sizes[1:], 1.0), recipes, fractions)


def level(arms):
    return np.zeros(len(arms))


def test_single_hops_are_every_recipe_and_scratch_the_full_fraction_first():
    found = space(4, fractions=(0.25, 4.0, 1.0)).single_hops()
    assert [(arm.path, arm.recipe) for arm in found[:3]] == [
        ((4, 1), "a"),
        ((4, 1), "b"),
        ((1,), SCRATCH),
    ]
    assert [arm.fraction for arm in found[::3]] == [1.0, 0.25, 4.0]
    assert [arm.recipe for arm in space(3, (SCRATCH, "a")).single_hops()] == [SCRATCH, "a"]


@pytest.mark.parametrize("n_middle", range(1, 6))
def test_every_subset_of_few_assistants_is_a_chain(n_middle):
    chains = space(n_middle + 2).chains(level)
    assert len(set(chains)) == len(chains) == 2 * (2**n_middle - 1)
    assert all(arm.path == tuple(sorted(arm.path, reverse=True)) for arm in chains)


def test_two_sizes_or_scratch_alone_have_no_chains():
    assert space(2).chains(level) == space(2).first_looks("a", 1.0) == []
    assert space(5, (SCRATCH,)).chains(level) == []


def test_of_many_sizes_and_recipes_only_the_promising_make_long_chains():
    recipes = tuple(f"r{i}" for i in range(12))
    good_sizes, good_recipes = set(range(3, 3 + BEAM)), set(recipes[5 : 5 + BEAM_RECIPES])

    def worth(arms):
        return np.array([(a.path[1] in good_sizes) + (a.recipe in good_recipes) for a in arms])

    chains = space(20, recipes).chains(worth)
    alone = [arm for arm in chains if arm.n_assistants == 1]
    long = [arm for arm in chains if arm.n_assistants > 1]
    assert len(alone) == 18 * 12
    assert {size for arm in long for size in arm.path[1:-1]} == good_sizes
    assert {arm.recipe for arm in long} == good_recipes


@pytest.mark.parametrize("n_middle", range(1, 19))
def test_first_looks_are_different_and_spread(n_middle):
    looks = space(n_middle + 2).first_looks("a", 0.25)
    assert len(set(looks)) == len(looks) == min(3, n_middle)
    places = [n_middle - (arm.path[1] - 1) for arm in looks]
    assert abs(places[0] - (n_middle - 1) / 2) <= 0.5
    if n_middle > 3:
        assert min(places) < places[0] < max(places)
        assert max(places) - min(places) >= n_middle / 2


def test_a_path_costs_all_of_its_hops_times_the_fraction():
    found = SearchSpace((9, 5, 3, 1), {5: 4.0, 3: 2.0, 1: 1.0}, ("a",), (1.0,))
    assert found.price(Arm((9, 5, 3, 1), "a", 0.5)) == pytest.approx(3.5)
    assert found.price(Arm((1,), SCRATCH)) == 1.0


def test_all_mistakes_are_named():
    wrong = check_space([3, 3], {3: -1.0}, "kl", (1.0, 1.0))
    assert len(wrong) == 4
    assert all(line.startswith("Expected ") for line in wrong)
    assert check_space([3, 1], {1: 1.0}, ["kl"], (1.0,)) == []
