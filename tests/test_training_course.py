"""A course shows every sample once an epoch, alike to all processes, and switches where its phases say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gapkit import hints
from gapkit.errors import InputError
from gapkit.knowledge import Knowledge, knowledge_named
from gapkit.plans import Phase, Stage
from gapkit.recipe import Recipe
from gapkit.training.course import Course

KL = Knowledge(kind="response", loss="kl")
CKA = hints({("a", "b"): "cka_loss"})
ANNEALED = Knowledge(
    kind="response", loss="kl", temperature=4.0, temperature_end=0.9, weight=0.3, weight_end=0.9
)


def phase(*knowledge, **fields):
    return Phase(knowledge=knowledge or (KL,), **fields)


def course(n, *phases, world=1, seed=0, surest=None, epochs=3, batch_size=8, accumulate=1):
    stage = Stage(name="s", size=4, sources=("teacher",), phases=phases or (phase(),))
    recipe = Recipe(epochs=epochs, batch_size=batch_size, accumulate=accumulate)
    return Course(stage, recipe, seed, n, world, surest)


def seen(steps):
    """All positions of an epoch's chunks."""
    return np.concatenate([batch for step in steps for batch in step])


def sizes(steps):
    return [[len(batch) for batch in step] for step in steps]


# Samples


def test_every_sample_comes_once_an_epoch():
    found = course(43)
    for epoch in range(3):
        assert sorted(seen(found.chunks(epoch))) == list(range(43))
        assert sizes(found.chunks(epoch)) == [[8], [8], [8], [8], [8], [3]]


def test_the_order_differs_by_epoch_and_seed_and_by_nothing_else():
    one, again, other = course(40, seed=1), course(40, seed=1), course(40, seed=2)
    assert np.array_equal(one.order(0), again.order(0))
    assert np.array_equal(one.order(0), course(40, seed=1, world=2).order(0))
    orders = [tuple(c.order(epoch)) for c in (one, other) for epoch in range(3)]
    assert len(set(orders)) == 6
    assert np.mean([order == tuple(range(40)) for order in orders]) == 0


@given(
    n=st.integers(2, 90),
    batch_size=st.integers(1, 12),
    world=st.integers(1, 4),
    accumulate=st.integers(1, 4),
)
@settings(deadline=None, max_examples=60)
def test_the_shares_of_all_processes_are_the_batches_of_one(n, batch_size, world, accumulate):
    together = batch_size * world
    assume(n >= min(2 * world, together))
    found = course(n, batch_size=batch_size, world=world, accumulate=accumulate)
    order, place = found.order(1), 0
    shares = [found.chunks(1, rank) for rank in range(world)]
    for step, wanted in enumerate(found.sizes(1)):
        for number, size in enumerate(wanted):
            parts = [share[step][number] for share in shares]
            assert np.array_equal(np.concatenate(parts), order[place : place + size])
            lengths = [len(part) for part in parts]
            assert max(lengths) - min(lengths) <= 1
            assert max(lengths) <= batch_size
            place += size
    assert n - place < max(2 * world, 2)  # only a last batch too small for its processes is missing
    assert all(len(step) == accumulate for step in found.sizes(1)[:-1])
    assert found.steps == sum(found.n_steps(epoch) for epoch in range(3))


@given(
    n=st.integers(2, 200),
    batch_size=st.integers(1, 20),
    accumulate=st.integers(1, 5),
    epochs=st.integers(1, 4),
)
@settings(deadline=None, max_examples=100)
def test_steps_are_those_that_the_recipe_counts(n, batch_size, accumulate, epochs):
    found = course(n, epochs=epochs, batch_size=batch_size, accumulate=accumulate)
    assert found.steps == Recipe(epochs=epochs, batch_size=batch_size, accumulate=accumulate).steps(
        n
    )


def test_batches_are_accumulated_in_groups():
    found = course(43, accumulate=4)
    assert sizes(found.chunks(0)) == [[8, 8, 8, 8], [8, 3]]
    assert found.steps == 6
    alone = course(43)
    assert np.array_equal(seen(found.chunks(0)), seen(alone.chunks(0)))


@pytest.mark.parametrize(
    "n, world, knowledge, last",
    [
        (41, 1, (KL,), 8),  # one sample more: left out
        (42, 1, (KL,), 2),
        (47, 1, CKA, 8),  # too few for the loss
        (48, 1, CKA, 8),
        (35, 2, (KL,), 16),  # a process would have one
        (36, 2, (KL,), 4),
        (39, 2, CKA, 16),
        (40, 2, CKA, 8),
    ],
)
def test_a_last_batch_that_is_too_small_is_left_out(n, world, knowledge, last):
    found = course(n, phase(*knowledge), world=world)
    together = 8 * world
    expected = [together] * (n // together) + [last] * (last < together or n % together == 0)
    flat = [size for step in found.sizes(0) for size in step]
    assert flat == expected[: len(flat)]
    assert flat[-1] == last
    assert n - sum(flat) == (n % together if last == together else 0)


def test_another_phase_may_need_less():
    found = course(47, phase(*CKA, until=0.5), phase(), epochs=4)
    assert [found.sizes(epoch)[-1] for epoch in range(4)] == [[8], [8], [7], [7]]
    assert found.steps == 5 + 5 + 6 + 6


def test_what_is_left_out_is_another_sample_each_epoch():
    found = course(41, epochs=10)
    missing = {epoch: set(range(41)) - set(seen(found.chunks(epoch))) for epoch in range(10)}
    assert all(len(one) == 1 for one in missing.values())
    assert len({next(iter(one)) for one in missing.values()}) > 3


def test_going_on_from_a_step_is_the_rest_of_the_epoch():
    found, again = course(75, world=2, accumulate=2), course(75, world=2, accumulate=2)
    for rank in range(2):
        whole = found.chunks(1, rank)
        assert len(whole) == 3
        for start in range(4):
            rest = again.chunks(1, rank, start)
            assert len(rest) == 3 - start
            for one, other in zip(whole[start:], rest):
                assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("n, world", [(1, 1), (3, 2), (7, 4)])
def test_too_few_samples_for_a_step_are_refused(n, world):
    with pytest.raises(InputError, match=f"stage 's' but {n} samples give none"):
        course(n, world=world)


def test_a_batch_that_is_too_small_for_a_loss_is_refused():
    message = "at least 8 samples in a batch for 'cka_loss' in stage 's' but there are "
    with pytest.raises(InputError, match=message + "7"):
        course(40, phase(*CKA), batch_size=7)
    with pytest.raises(InputError, match=message + "6"):
        course(6, phase(*CKA))
    with pytest.raises(InputError, match=message + "4"):
        course(40, phase(until=0.5), phase(*CKA), batch_size=4)
    course(40, phase(*CKA), batch_size=4, world=2)  # gathered over both
    course(40, phase(*CKA), batch_size=8)


# Phases


@given(
    epochs=st.integers(1, 30),
    ends=st.lists(st.sampled_from([0.1, 0.25, 1 / 3, 0.5, 0.7, 0.9]), max_size=3, unique=True),
)
@settings(deadline=None, max_examples=60)
def test_a_phase_lasts_until_its_share_of_the_epochs(epochs, ends):
    ends = [*sorted(ends), 1.0]
    found = course(16, *(phase(until=end) for end in ends), epochs=epochs)
    for epoch in range(epochs):
        expected = next(end for end in ends if epoch / epochs < end)
        assert found.phase(epoch).until == expected


def test_knowledge_is_that_of_the_phase():
    one, two = knowledge_named("kl4"), knowledge_named("scratch")
    found = course(16, phase(*one, until=0.4), phase(*two), epochs=5)
    assert [found.knowledge(epoch, 1) for epoch in range(5)] == [one, one, two, two, two]


def annealing(found, epochs):
    """(temperature, weight) at each step of some epochs."""
    parts = [
        found.knowledge(epoch, step)[0] for epoch in epochs for step in range(found.n_steps(epoch))
    ]
    return np.array([(part.temperature, part.weight) for part in parts])


def test_annealing_begins_at_the_first_value_and_ends_at_the_last():
    found = course(40, phase(ANNEALED), epochs=4)
    values = annealing(found, range(4))
    assert len(values) == 20
    assert values[0].tolist() == [4.0, 0.3]
    assert values[-1].tolist() == [0.9, 0.9]  # exactly
    assert np.allclose(values[:, 0], np.linspace(4.0, 0.9, 20))
    assert np.allclose(values[:, 1], np.linspace(0.3, 0.9, 20))


def test_each_phase_anneals_over_its_own_steps():
    found = course(40, phase(ANNEALED, until=0.5), phase(KL, ANNEALED), epochs=4)
    assert np.allclose(annealing(found, [0, 1])[:, 0], np.linspace(4.0, 0.9, 10))
    assert found.knowledge(2, 0) == (KL, ANNEALED.at(0))
    assert found.knowledge(3, 4) == (KL, ANNEALED.at(1))


def test_accumulated_batches_anneal_once_a_step():
    found = course(40, phase(ANNEALED), epochs=2, accumulate=2)
    assert np.allclose(annealing(found, range(2))[:, 0], np.linspace(4.0, 0.9, 6))


def test_a_phase_of_one_step_has_its_first_values():
    assert course(8, phase(ANNEALED), epochs=1).knowledge(0, 0)[0].temperature == 4.0


@given(start=st.floats(0.01, 10), end=st.floats(0.01, 10), share=st.floats(0, 1, exclude_max=True))
def test_annealed_values_are_between_the_ends_and_meet_them(start, end, share):
    part = Knowledge(kind="response", loss="kl", temperature=start, temperature_end=end)
    assert (part.at(0).temperature, part.at(1).temperature) == (start, end)
    low, high = min(start, end), max(start, end)
    assert low * (1 - 1e-12) <= part.at(share).temperature <= high * (1 + 1e-12)


# Easiest samples

SUREST = np.random.default_rng(3).permutation(40)


def test_the_easiest_samples_are_those_the_source_is_surest_of():
    found = course(40, phase(easiest=0.25, easiest_end=1.0), surest=SUREST, epochs=4)
    shares = [10, 20, 30, 40]  # linear, all in the last epoch
    for epoch, n in enumerate(shares):
        assert set(seen(found.chunks(epoch))) == set(SUREST[:n])
        assert len(found.order(epoch)) == n
    assert not np.array_equal(found.order(0), SUREST[:10])  # shuffled all the same
    assert found.steps == sum(len(found.chunks(epoch)) for epoch in range(4))


def test_a_share_that_does_not_widen_stays():
    found = course(40, phase(easiest=0.5), surest=SUREST)
    assert [set(found.order(epoch)) for epoch in range(3)] == [set(SUREST[:20])] * 3


def test_there_is_a_batch_at_least():
    found = course(40, phase(easiest=0.01, easiest_end=1.0), surest=SUREST, world=2, epochs=2)
    assert set(found.order(0)) == set(SUREST[:16])
    small = course(6, phase(easiest=0.01), surest=np.arange(6))
    assert sorted(small.order(0)) == list(range(6))


@given(easiest=st.floats(0.05, 1), end=st.floats(0.05, 1), epochs=st.integers(1, 8))
@settings(deadline=None, max_examples=40)
def test_the_share_changes_one_way(easiest, end, epochs):
    found = course(
        40, phase(easiest=easiest, easiest_end=end), surest=SUREST, epochs=epochs, batch_size=4
    )
    counts = [len(found.order(epoch)) for epoch in range(epochs)]
    assert counts == sorted(counts, reverse=end < easiest)
    assert counts[0] == max(4, round(easiest * 40))
    for epoch in range(epochs):
        assert set(found.order(epoch)) == set(SUREST[: counts[epoch]])


def test_widening_starts_with_its_own_phase():
    found = course(
        40,
        phase(until=0.5),
        phase(easiest=0.5, easiest_end=1.0),
        surest=SUREST,
        epochs=6,
    )
    assert [len(found.order(epoch)) for epoch in range(6)] == [40, 40, 40, 20, 30, 40]


def test_annealing_and_widening_together_still_meet_both_ends():
    found = course(40, phase(ANNEALED, easiest=0.2, easiest_end=1.0), surest=SUREST, epochs=4)
    values = annealing(found, range(4))
    assert values[0].tolist() == [4.0, 0.3]
    assert values[-1].tolist() == [0.9, 0.9]
    assert (np.diff(values[:, 0]) < 0).all()


def test_easiest_samples_that_nobody_named_are_refused():
    with pytest.raises(InputError, match="order of confidence for the easiest ones of stage 's'"):
        course(40, phase(easiest=0.5))
