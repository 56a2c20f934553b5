"""The rendered scenes hold together across both sensors, and the cross-modal study measures what it says."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import ttest_1samp

from gapkit.commands.studyfile import load_study
from gapkit.examples import rgb_depth
from gapkit.examples.rgb_depth import (
    DOME,
    SHAPES,
    SIZE,
    Bodies,
    arms,
    build,
    compare,
    covers,
    draw,
    interval,
    plan,
    render,
    scenes,
    study,
    table,
    train_teacher,
    two_views,
)
from gapkit.probes.relation import neighbors_kept, triplet_order

FILE = Path(rgb_depth.__file__)


@pytest.fixture
def few(monkeypatch) -> None:
    """Small validation and test sets."""
    monkeypatch.setattr(rgb_depth, "N_VALIDATION", 60)
    monkeypatch.setattr(rgb_depth, "N_TEST", 120)


def discs(*bodies: tuple[float, float, float, float], light: float = 0.0) -> Bodies:
    """One scene of discs (x, y, radius, depth), red, green and blue in turn."""
    rows = np.array(bodies)
    return Bodies(
        shape=np.zeros((1, len(rows)), dtype=int),
        center=rows[None, :, :2],
        radius=rows[None, :, 2],
        turn=np.zeros((1, len(rows))),
        depth=rows[None, :, 3],
        color=0.25 + 0.5 * np.eye(3)[None, : len(rows)],
        light=np.array([light]),
    )


@pytest.mark.parametrize(
    ("shape", "area"),
    [
        ("disc", math.pi),
        ("square", 1.6**2),
        ("triangle", 3 * math.sqrt(3) / 4),
        ("ring", math.pi * 0.75),
        ("cross", 2 * 0.6 * 1.9 - 0.6**2),
    ],
)
def test_each_shape_has_the_area_that_its_outline_says(shape, area):
    v, u = np.mgrid[-1.2:1.2:1200j, -1.2:1.2:1200j]
    inside = covers(np.full((1, 1, 1), SHAPES.index(shape)), u[None], v[None])
    assert inside.mean() * 2.4**2 == pytest.approx(area, rel=0.01)
    assert not inside[:, np.hypot(u, v) > 1.15].any()


def test_the_same_seed_draws_the_same_scenes_and_another_seed_draws_others():
    first, again, other = scenes(8, seed=3), scenes(8, seed=3), scenes(8, seed=4)
    for name, value in first._asdict().items():
        assert np.array_equal(value, getattr(again, name)), name
        assert not np.array_equal(value, getattr(other, name)), name
    assert np.isfinite(first.color).all()
    assert first.color.shape == (8, 3, SIZE, SIZE)
    assert first.depth.shape == (8, 1, SIZE, SIZE)


def test_at_every_pixel_the_nearest_body_wins():
    bodies = draw(6, seed=1)
    shown = render(bodies)
    seen = set()
    for scene in range(6):
        for row in range(0, SIZE, 3):
            for column in range(0, SIZE, 3):
                nearest, owner = 1.0, -1
                for body in range(bodies.shape.shape[1]):
                    x, y = bodies.center[scene, body]
                    radius, turn = bodies.radius[scene, body], bodies.turn[scene, body]
                    a, b = (column + 0.5 - x) / radius, (y - row - 0.5) / radius
                    u = a * math.cos(turn) + b * math.sin(turn)
                    v = b * math.cos(turn) - a * math.sin(turn)
                    point = (np.full((1, 1, 1), part) for part in (bodies.shape[scene, body], u, v))
                    here = bodies.depth[scene, body] - DOME * max(0.0, 1 - a * a - b * b)
                    if covers(*point).item() and here < nearest:
                        nearest, owner = here, body
                assert shown.owner[scene, row, column] == owner
                assert shown.depth[scene, 0, row, column] == pytest.approx(nearest)
                seen.add(owner)
    assert seen == {-1, 0, 1, 2}


@pytest.mark.parametrize("front", [0, 1])
def test_a_body_in_front_hides_one_behind_whatever_their_order(front):
    depths = [0.8, 0.8]
    depths[front] = 0.4
    shown = render(discs((16, 16, 10, depths[0]), (16, 16, 5, depths[1])))
    assert shown.owner[0, 16, 16] == front
    assert shown.owner[0, 16, 24] == 0
    assert shown.depth[0, 0, 16, 16] == pytest.approx(0.4 - DOME, abs=0.01)
    assert shown.hidden[0] == pytest.approx(0.25 if front else 0.0, abs=0.02)


def test_the_hidden_share_is_none_apart_and_all_behind_a_larger_plate():
    apart = render(discs((9, 16, 8, 0.8), (27, 16, 4, 0.4)))
    covered = discs((16, 16, 8, 0.8), (16, 16, 7.99, 0.4))
    assert apart.hidden[0] == 0
    assert render(covered).hidden[0] == 1
    assert render(covered).label[0] == SHAPES.index("disc")


def test_both_sensors_show_the_same_bodies():
    bodies = draw(40, seed=2)
    shown = render(bodies)
    wall = shown.owner < 0
    assert 0.3 < wall.mean() < 0.9
    assert (shown.depth[:, 0][wall] == 1).all()
    for body in range(bodies.shape.shape[1]):
        scene, row, column = (shown.owner == body).nonzero()
        rim = bodies.depth[scene, body]
        depth = shown.depth[scene, 0, row, column]
        assert ((depth <= rim + 1e-12) & (depth >= rim - DOME)).all()
        brightness = shown.color[scene, :, row, column] / bodies.color[scene, body]
        assert np.ptp(brightness, axis=1).max() < 1e-9
        assert brightness.std() > 0.1


def test_the_light_changes_colors_and_neither_depths_nor_classes():
    bodies = draw(12, seed=5)
    turned = bodies._replace(light=bodies.light + 2.0)
    first, second = render(bodies), render(turned)
    for name in ("depth", "owner", "label", "hidden"):
        assert np.array_equal(getattr(first, name), getattr(second, name)), name
    on_body = np.broadcast_to(first.owner[:, None] >= 0, first.color.shape)
    assert np.abs(first.color - second.color)[on_body].mean() > 0.05
    assert np.allclose(first.color[~on_body], second.color[~on_body])


@pytest.mark.parametrize(
    ("light", "bright", "dark"),
    [(0.0, (16, 24), (16, 8)), (math.pi / 2, (8, 16), (24, 16)), (math.pi, (16, 8), (16, 24))],
)
def test_a_dome_is_brighter_on_the_side_that_the_light_comes_from(light, bright, dark):
    color = render(discs((16.5, 16.5, 12, 0.5), light=light)).color[0, 0]
    assert color[bright] > 1.5 * color[dark]


def test_one_batch_gives_each_model_its_view(few):
    data = two_views(30, seed=0)
    batch = next(data.batches("train", 30))
    color, depth = data.teacher_view(batch.raw), data.student_view(batch.raw)
    assert color.shape == (30, 3, SIZE, SIZE)
    assert depth.shape == (30, 1, SIZE, SIZE)
    clean = render(draw(30, seed=0))
    assert torch.equal(data.target(batch.raw), torch.tensor(clean.label))
    assert np.abs(depth.numpy() - clean.depth).mean() < 0.1
    assert np.abs(color.numpy() - clean.color).mean() < 0.05
    assert not data.same_view


def test_slices_say_what_is_occluded_and_where_the_light_stands(few):
    data, clean = two_views(200, seed=1), render(draw(200, seed=4))
    found = data.slices("train")
    assert set(found) == {"occluded", "light from"}
    assert np.array_equal(found["occluded"] == "yes", clean.hidden > 0.1)
    assert 20 < (found["occluded"] == "yes").sum() < 180
    beside = {"right": (1, 0), "top": (0, 1), "left": (-1, 0), "bottom": (0, -1)}
    for side, light in zip(found["light from"], clean.light, strict=True):
        x, y = beside[side]
        assert x * math.cos(light) + y * math.sin(light) >= math.cos(math.pi / 4) - 1e-9


def test_the_teacher_learns_color_and_leaves_random_numbers_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    model = train_teacher(200, epochs=40, seed=0)
    assert torch.equal(torch.rand(3), expected)
    assert not model.training
    seen = scenes(200, seed=3)
    with torch.no_grad():
        answers = model(torch.tensor(seen.color, dtype=torch.float32)).argmax(1)
    assert (answers.numpy() == seen.label).mean() > 0.5


def test_what_is_taught_is_taught_across_modalities_and_labels_need_no_source():
    for name, knowledge in arms().items():
        (stage,) = plan(name, seed=4).stages
        taught = {part.kind for part in knowledge} - {"label"}
        assert (stage.scheme == "cross_modal") == bool(taught) == bool(stage.sources)
        assert stage.seeds == (4,)
        assert stage.phases[0].knowledge == knowledge
    assert {part.kind for part in arms()["rkd"]} == {"label", "relation"}


def test_intervals_are_those_of_a_t_test():
    differences = np.array([0.02, 0.05, -0.01, 0.03])
    wanted = ttest_1samp(differences, 0).confidence_interval(0.95)
    half = (wanted.high - wanted.low) / 2
    assert interval(differences) == f"+0.022 ± {half:.3f}"


def test_the_table_holds_each_arm_against_labels_alone():
    found = {
        "scratch": {"accuracy": np.array([0.5, 0.7])},
        "rkd": {"accuracy": np.array([0.6, 0.8])},
    }
    lines = table(found).splitlines()
    assert [line.split() for line in lines] == [
        ["2", "seeds", "accuracy"],
        ["scratch", "0.600"],
        ["rkd", "0.700"],
        ["+0.100", "±", "0.000"],
    ]


@pytest.mark.slow
def test_the_comparison_measures_what_each_student_keeps(few, tmp_path, monkeypatch):
    two = {name: arms()[name] for name in ("scratch", "rkd")}
    monkeypatch.setattr(rgb_depth, "arms", lambda: two)
    opened = study(n_train=200, epochs=2, n_teacher=400, out=tmp_path)
    found = compare(opened, seeds=(0, 1))
    assert list(found) == list(two)
    for values in found.values():
        assert {len(each) for each in values.values()} == {2}
    assert not np.array_equal(found["rkd"]["triplet_order"], found["scratch"]["triplet_order"])

    last = opened.distill(plan("rkd", 1))
    batch = next(opened.data.batches("test", 120))
    with torch.no_grad():
        student = last.student.eval()(opened.data.student_view(batch.raw)).argmax(1)
        theirs, ours = (
            model[:-1](view(batch.raw))
            for model, view in (
                (opened.teacher.eval(), opened.data.teacher_view),
                (last.student, opened.data.student_view),
            )
        )
    right = (student == opened.data.target(batch.raw)).float().mean().item()
    assert found["rkd"]["accuracy"][1] == pytest.approx(right)
    assert found["rkd"]["neighbors_kept"][1] == pytest.approx(neighbors_kept(theirs, ours).value)
    assert found["rkd"]["triplet_order"][1] == pytest.approx(
        triplet_order(theirs, ours).value, abs=1e-3
    )


@pytest.mark.slow
def test_the_file_is_a_study_that_the_command_line_opens(tmp_path):
    opened = load_study(FILE, tmp_path, n_train=100, epochs=1, n_teacher=100)
    assert (opened.name, opened.family.student, opened.recipe.epochs) == ("rgb_depth", 4, 1)
    assert build(4)(torch.zeros(2, 1, SIZE, SIZE)).shape == (2, len(SHAPES))
    opened.check()
