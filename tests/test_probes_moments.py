"""Moments: exact sums under any batch split, against plain loops over Gram matrices."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from gapkit.errors import InputError
from gapkit.probes import sums as module
from gapkit.probes.blocks import MOST_BLOCKS
from gapkit.probes.hsic import group_buckets, u_centered
from gapkit.probes.moments import Moments
from gapkit.probes.sums import BatchHsic, Grams, moment_bytes, start_sums


def hsic1_by_traces(x: np.ndarray, y: np.ndarray) -> float:
    """n(n-3)·HSIC1 as Song et al. write it, with Gram matrices whose diagonal is 0."""
    n = len(x)
    k, l_ = x @ x.T, y @ y.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(l_, 0)
    ones = np.ones(n)
    return (
        np.trace(k @ l_)
        + (ones @ k @ ones) * (ones @ l_ @ ones) / ((n - 1) * (n - 2))
        - 2 / (n - 2) * ones @ k @ l_ @ ones
    )


def hsic1_by_quadruples(x: np.ndarray, y: np.ndarray) -> float:
    """n(n-3)·HSIC1 from its definition: the mean over all ordered quadruples of distinct samples."""
    k, l_ = x @ x.T, y @ y.T
    total = [
        k[i, j] * (l_[i, j] + l_[q, r] - 2 * l_[i, q])
        for i, j, q, r in itertools.permutations(range(len(x)), 4)
    ]
    n = len(x)
    return n * (n - 3) * float(np.mean(total))


def features(
    n: int = 90, seed: int = 0, mean: float = 0.0, scale: float = 1.0
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Two teacher and two student layers that share a signal."""
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=(n, 3))

    def layer(width: int) -> torch.Tensor:
        noisy = signal @ rng.normal(size=(3, width)) + rng.normal(size=(n, width))
        return torch.tensor(mean + scale * noisy)

    return {"t1": layer(5), "t2": layer(3)}, {"s1": layer(4), "s2": layer(2)}


def summed(kind, xs, ys, splits, **keywords):
    sums = kind(
        {name: part.shape[1] for name, part in xs.items()},
        {name: part.shape[1] for name, part in ys.items()},
        **keywords,
    )
    for rows in splits:
        sums.update(
            {name: part[rows] for name, part in xs.items()},
            {name: part[rows] for name, part in ys.items()},
        )
    return sums


def ratios(sums) -> np.ndarray:
    products = sums.products()
    return products.cross / np.sqrt(np.outer(products.own_x, products.own_y))


def slices(n: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def test_products_equal_the_definition_over_quadruples():
    xs, ys = features(n=8)
    products = summed(Moments, xs, ys, slices(8, 3)).products()
    for (row, x), (column, y) in itertools.product(enumerate(xs.values()), enumerate(ys.values())):
        expected = hsic1_by_quadruples(x.numpy(), y.numpy())
        assert abs(expected) > 0.1
        assert products.cross[row, column] == pytest.approx(expected, rel=1e-9)
        assert hsic1_by_traces(x.numpy(), y.numpy()) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("size", [1, 2, 7, 32, 89, 90])
def test_any_batch_split_gives_the_same_sums(size):
    """A last batch of 1 to 3 samples counts like any other."""
    xs, ys = features()
    products = summed(Moments, xs, ys, slices(90, size)).products()
    for row, x in enumerate(xs.values()):
        centered = (x - x.mean(0)).numpy()
        own = hsic1_by_traces(x.numpy(), x.numpy())
        assert products.own_x[row] == pytest.approx(own, rel=1e-10)
        assert products.biased_own_x[row] == pytest.approx(
            np.linalg.norm(centered.T @ centered) ** 2, rel=1e-10
        )
        for column, y in enumerate(ys.values()):
            expected = hsic1_by_traces(x.numpy(), y.numpy())
            assert products.cross[row, column] == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("mean", [100.0, 1000.0])
@pytest.mark.parametrize("scale", [0.01, 1.0])
def test_large_means_and_small_scales_stay_exact(mean, scale):
    plain = ratios(summed(Moments, *features(), slices(90, 16)))
    moved = ratios(summed(Moments, *features(mean=mean, scale=scale), slices(90, 16)))
    assert plain.min() > 0.2
    np.testing.assert_allclose(moved, plain, rtol=1e-8)


def test_float32_features_far_from_zero_are_summed_without_loss():
    xs, ys = features(mean=1000.0, scale=0.01)
    xs, ys = ({name: part.float() for name, part in side.items()} for side in (xs, ys))
    got = ratios(summed(Moments, xs, ys, slices(90, 16)))
    wide = [{name: part.double() for name, part in side.items()} for side in (xs, ys)]
    expected = ratios(Grams(*wide))
    np.testing.assert_allclose(got, expected, rtol=1e-8)


def test_the_first_batch_may_be_far_from_the_rest():
    xs, ys = features()
    xs["t1"][:10] += 50
    got = summed(Moments, xs, ys, [slice(0, 10), slice(10, 90)]).products().cross[0, 0]
    assert got == pytest.approx(hsic1_by_traces(xs["t1"].numpy(), ys["s1"].numpy()), rel=1e-10)


def test_merged_parts_equal_the_whole():
    xs, ys = features(mean=10.0)
    whole = summed(Moments, xs, ys, slices(90, 30))
    left = summed(Moments, xs, ys, [slice(0, 41)])
    right = summed(Moments, xs, ys, [slice(41, 70), slice(70, 90)])
    left.merge(right)
    assert left.n == 90
    for field in ("cross", "own_x", "own_y", "biased_cross", "biased_own_x"):
        np.testing.assert_allclose(
            getattr(left.products(), field), getattr(whole.products(), field), rtol=1e-10
        )
    assert len(left.blocks) == 41 // 8 + 29 // 8 + 20 // 8


def test_merging_into_empty_moments_adopts_the_other():
    xs, ys = features()
    part = summed(Moments, xs, ys, [slice(0, 90)])
    empty = Moments({"t1": 5, "t2": 3}, {"s1": 4, "s2": 2})
    empty.merge(Moments({"t1": 5, "t2": 3}, {"s1": 4, "s2": 2}))
    assert empty.n == 0
    empty.merge(part)
    np.testing.assert_allclose(ratios(empty), ratios(part), rtol=1e-12)


def test_merging_other_layers_is_refused():
    with pytest.raises(InputError, match="same layers and widths"):
        Moments({"a": 2}, {"b": 2}).merge(Moments({"a": 3}, {"b": 2}))


def test_saved_moments_go_on_where_they_stopped(tmp_path):
    xs, ys = features()
    whole = summed(Moments, xs, ys, slices(90, 30), block=10)
    first = summed(Moments, xs, ys, slices(60, 30), block=10)
    first.save(tmp_path / "m.safetensors")
    again = Moments.load(tmp_path / "m.safetensors")
    again.update({k: v[60:] for k, v in xs.items()}, {k: v[60:] for k, v in ys.items()})
    assert (again.n, again.dims_x, again.eps) == (whole.n, whole.dims_x, whole.eps)
    np.testing.assert_array_equal(again.products().cross, whole.products().cross)
    np.testing.assert_array_equal(again.blocks.standard_error(), whole.blocks.standard_error())


def test_a_file_without_moments_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.ones(1)}, str(tmp_path / "other.safetensors"))
    with pytest.raises(InputError, match=r"Expected a file of Moments but .* holds no sums"):
        Moments.load(tmp_path / "other.safetensors")


def test_gram_matrices_give_the_same_products():
    xs, ys = features()
    exact, grams = summed(Moments, xs, ys, slices(90, 30)).products(), Grams(xs, ys).products()
    for field in ("cross", "own_x", "own_y", "biased_cross", "biased_own_x", "biased_own_y"):
        np.testing.assert_allclose(getattr(grams, field), getattr(exact, field), rtol=1e-10)
    assert grams.pairs == exact.pairs == 90 * 87


def test_batch_sums_weigh_batches_and_skip_tiny_ones():
    xs, ys = features()
    sums = summed(BatchHsic, xs, ys, [slice(0, 40), slice(40, 87), slice(87, 90)])
    expected = sum(
        hsic1_by_traces(xs["t1"][rows].numpy(), ys["s1"][rows].numpy())
        for rows in (slice(0, 40), slice(40, 87))
    )
    products = sums.products()
    assert products.cross[0, 0] == pytest.approx(expected, rel=1e-10)
    assert products.n == 87
    assert products.pairs == 40 * 37 + 47 * 44
    assert np.isnan(products.biased_cross).all()


def test_batch_sums_are_unbiased_in_small_batches():
    """Nguyen 2021: summed before dividing; averaging per-batch biased CKA would be far off."""
    xs, ys = features(n=4000, seed=3)
    exact = ratios(Grams({"t1": xs["t1"]}, {"s1": ys["s1"]}))[0, 0]
    pair = {"t1": xs["t1"]}, {"s1": ys["s1"]}
    batched = ratios(summed(BatchHsic, *pair, slices(4000, 16)))[0, 0]
    naive = []
    for rows in slices(4000, 16):
        x, y = (part[rows] - part[rows].mean(0) for part in (xs["t1"], ys["s1"]))
        naive.append(((x.T @ y).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())).item())
    assert abs(np.mean(naive) - exact) > 0.05
    assert batched == pytest.approx(exact, abs=0.03)


def test_jackknife_error_matches_the_spread_over_repeated_samples():
    values, errors = [], []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        signal = rng.normal(size=(400, 2))
        x = torch.tensor(signal @ [[1.0, 0.5, 0.0], [0.0, 0.7, 0.2]] + rng.normal(size=(400, 3)))
        y = torch.tensor(signal + 0.8 * rng.normal(size=(400, 2)))
        sums = summed(Moments, {"a": x}, {"b": y}, slices(400, 100), block=20)
        values.append(ratios(sums)[0, 0])
        errors.append(sums.blocks.standard_error()[0, 0])
    assert len(sums.blocks) == 20
    assert np.mean(values) > 0.2
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(values), rel=0.25)


def test_blocks_stay_few_in_a_long_run():
    xs, ys = features(n=32)
    sums = summed(Moments, xs, ys, [slice(0, 32)] * 700)
    assert 200 < len(sums.blocks) <= MOST_BLOCKS
    total = torch.stack(sums.blocks.cross).sum(0)
    sums.blocks._join()
    torch.testing.assert_close(torch.stack(sums.blocks.cross).sum(0), total)


def test_a_group_stays_in_one_block_across_batches():
    xs, ys = features(n=200)
    names = np.array([f"g{i % 50}" for i in range(200)])
    sums = Moments({"t1": 5}, {"s1": 4}, groups=True)
    for rows in slices(200, 100):
        sums.update({"t1": xs["t1"][rows]}, {"s1": ys["s1"][rows]}, names[rows])
    buckets = group_buckets(names)
    usable = [
        label
        for label in np.unique(buckets)
        if any((buckets[rows] == label).sum() >= 4 for rows in slices(200, 100))
    ]
    assert 5 < len(sums.blocks) == len(usable)
    assert all(len(np.unique(buckets[names == name])) == 1 for name in names)


def test_merged_groups_share_their_blocks():
    xs, ys = features(n=120)
    names = np.repeat([f"g{i}" for i in range(6)], 20)
    order = np.random.default_rng(0).permutation(120)
    parts = []
    for rows in (order[:60], order[60:]):
        part = Moments({"t1": 5}, {"s1": 4}, groups=True)
        part.update({"t1": xs["t1"][rows]}, {"s1": ys["s1"][rows]}, names[rows])
        parts.append(part)
    parts[0].merge(parts[1])
    assert len(parts[0].blocks) == len(np.unique(group_buckets(names))) > 3


def test_u_centered_rows_sum_to_zero_and_match_the_traces():
    x = torch.randn(12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    free = u_centered(x @ x.T)
    assert free.abs().max() > 0.5
    torch.testing.assert_close(free.sum(1), torch.zeros(12, dtype=torch.float64))
    assert free.square().sum().item() == pytest.approx(hsic1_by_traces(x.numpy(), x.numpy()))


def test_constant_features_are_marked():
    xs, ys = features()
    xs["t2"] = torch.full((90, 3), 1234.567)
    for sums in (
        summed(Moments, xs, ys, slices(90, 30)),
        summed(BatchHsic, xs, ys, slices(90, 30)),
        Grams(xs, ys),
    ):
        assert sums.products().constant_x.tolist() == [False, True]
        assert sums.products().constant_y.tolist() == [False, False]


def test_fewer_than_four_samples_leave_unbiased_products_nan():
    xs, ys = features(n=3)
    for sums in (summed(Moments, xs, ys, [slice(0, 3)]), Grams(xs, ys)):
        assert np.isnan(sums.products().cross).all()
        assert np.isfinite(sums.products().biased_cross).all()


def test_orthogonal_samples_have_an_unbiased_self_term_of_zero():
    x = {"a": torch.eye(12, dtype=torch.float64)}
    for sums in (summed(Moments, x, x, slices(12, 5)), Grams(x, x)):
        assert sums.products().own_x[0] == 0
        assert not sums.products().constant_x[0]


def test_an_empty_batch_changes_nothing():
    xs, ys = features()
    sums = summed(Moments, xs, ys, [slice(0, 0), slice(0, 90), slice(0, 0)])
    np.testing.assert_allclose(ratios(sums), ratios(Grams(xs, ys)), rtol=1e-10)


def test_wrong_widths_missing_layers_and_other_samples_are_refused():
    sums = Moments({"a": 2}, {"b": 2})
    with pytest.raises(InputError, match=r"Expected \(3, 2\) features at 'a' but got \(3, 4\)"):
        sums.update({"a": torch.ones(3, 4)}, {"b": torch.ones(3, 2)})
    with pytest.raises(InputError, match=r"at 'b' but got \(2, 2\)"):
        sums.update({"a": torch.ones(3, 2)}, {"b": torch.ones(2, 2)})
    with pytest.raises(InputError, match="at 'b' but got None"):
        sums.update({"a": torch.ones(3, 2)}, {})
    with pytest.raises(InputError, match="groups=False"):
        sums.update({"a": torch.ones(3, 2)}, {"b": torch.ones(3, 2)}, np.zeros(3))
    with pytest.raises(InputError, match="at least one layer"):
        Moments({}, {"b": 2})


def test_estimator_follows_work_and_bytes(monkeypatch):
    narrow = {"a": 8}, {"b": 4}
    wide = {"a": 4000}, {"b": 4000}
    assert isinstance(start_sums(*narrow, n=1000, kept=True), Moments)
    assert start_sums(*wide, n=1000, kept=True) is None
    assert isinstance(start_sums(*wide, n=1000, kept=False), Moments)
    sums = Moments(*narrow)
    held = sum(part.nbytes for name, part in sums.totals().items() if name != "counts")
    assert moment_bytes(*narrow) == held
    monkeypatch.setattr(module, "BYTE_BUDGET", 1000)
    assert isinstance(start_sums(*narrow, n=10**6, kept=True), BatchHsic)
    assert isinstance(start_sums(*narrow), BatchHsic)
    assert math.isnan(BatchHsic(*narrow).products().biased_cross[0, 0])


@pytest.mark.parametrize("kind", [Moments, BatchHsic, "grams"])
@pytest.mark.parametrize("scale", [1e-18, 1e-4, 0.01, 1e4, 1e20])
def test_scale_does_not_matter_in_float32(kind, scale):
    def value(factor: float) -> np.ndarray:
        xs, ys = features()
        xs, ys = ({k: (factor * v).float() for k, v in side.items()} for side in (xs, ys))
        return ratios(Grams(xs, ys) if kind == "grams" else summed(kind, xs, ys, slices(90, 30)))

    assert value(1.0).min() > 0.2
    np.testing.assert_allclose(value(scale), value(1.0), rtol=1e-5)


@pytest.mark.parametrize("kind", [BatchHsic, "grams"])
@pytest.mark.parametrize("mean", [100.0, 1000.0])
def test_products_in_float32_do_not_drown_in_the_mean(kind, mean):
    xs, ys = features(mean=mean)
    narrow = [{k: v.float() for k, v in side.items()} for side in (xs, ys)]
    wide = [{k: v.double() for k, v in side.items()} for side in narrow]
    got, expected = (
        ratios(Grams(*pair) if kind == "grams" else summed(kind, *pair, slices(90, 30)))
        for pair in (narrow, wide)
    )
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_float32_features_whose_mean_drifts_stay_exact():
    """Sorted data: every batch far from the first one, whose mean is subtracted from all."""
    xs, ys = features(n=200)
    drift = torch.arange(200)[:, None] // 20 * 300.0
    xs = {name: (part + drift).float() for name, part in xs.items()}
    ys = {name: part.float() for name, part in ys.items()}
    got = summed(Moments, xs, ys, slices(200, 20)).products().cross[0, 0]
    expected = hsic1_by_traces(xs["t1"].double().numpy(), ys["s1"].double().numpy())
    assert got == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", [Moments, BatchHsic, "grams"])
def test_other_number_formats_are_summed_as_they_are(dtype, kind):
    xs, ys = features()
    xs = {name: part.to(dtype) for name, part in xs.items()}
    ys = {name: part.float() for name, part in ys.items()}
    wide = [{k: v.double() for k, v in side.items()} for side in (xs, ys)]
    got, expected = (
        ratios(Grams(*pair) if kind == "grams" else summed(kind, *pair, slices(90, 30)))
        for pair in ((xs, ys), wide)
    )
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_autocast_and_matmul_precision_do_not_round_products():
    xs, ys = ({k: v.float() for k, v in side.items()} for side in features(n=200))
    plain = ratios(summed(BatchHsic, xs, ys, slices(200, 50)))
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            cast = ratios(summed(BatchHsic, xs, ys, slices(200, 50)))
            assert (xs["t1"] @ xs["t1"].T).dtype == torch.bfloat16
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    np.testing.assert_array_equal(cast, plain)


@pytest.mark.parametrize("tile", [1, 7, 50, 90, 1000])
def test_tiles_of_any_size_give_the_same_products(tile):
    xs, ys = features(mean=5.0)
    tiled, exact = Grams(xs, ys, tile=tile), summed(Moments, xs, ys, slices(90, 30)).products()
    for field in ("cross", "own_x", "own_y", "biased_cross", "biased_own_x", "biased_own_y"):
        np.testing.assert_allclose(getattr(tiled.products(), field), getattr(exact, field), 1e-9)
    assert tiled.estimator == f"exact Gram matrices in tiles of {min(tile, 90)}"


@pytest.mark.parametrize("kind", [Moments, BatchHsic, "grams"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_and_inf_are_refused_with_the_layer(kind, value):
    xs, ys = features()
    ys["s2"][7, 1] = value
    with pytest.raises(InputError, match="nan or inf from the student at 's2'"):
        Grams(xs, ys) if kind == "grams" else summed(kind, xs, ys, slices(90, 30))


def test_layers_without_features_are_refused():
    with pytest.raises(InputError, match="from the student at 'b' but got none"):
        Moments({"a": 2}, {"b": 0})


def test_large_batches_fall_into_equal_parts():
    xs, ys = features(n=1300)
    got = summed(BatchHsic, xs, ys, [slice(0, 1300)])
    parts = summed(BatchHsic, xs, ys, [slice(0, 434), slice(434, 867), slice(867, 1300)])
    np.testing.assert_allclose(ratios(got), ratios(parts), rtol=1e-10)
    assert got.estimator == "HSIC1 summed over batches of 433"


def test_far_more_features_than_samples_are_unrelated_only_without_bias():
    """Murphy 2024: noise of 16,384 features and 64 samples has a biased CKA near 1."""
    generator = torch.Generator().manual_seed(0)
    x, y = ({"a": torch.randn(64, 16384, generator=generator)} for _ in range(2))
    products = Grams(x, y).products()
    assert products.cka(debiased=False).item() > 0.99
    assert abs(products.cka().item()) < 0.1
    assert BatchHsic({"a": 2}, {"a": 2}).products().n == 0
