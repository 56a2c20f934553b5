"""Drawings hold the numbers they were given, as text and in the same bytes every time."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure as Canvas

from gapkit.errors import InputError
from gapkit.measurement import Measurements
from gapkit.plans import Stage
from gapkit.quality.exhibits import Exhibit
from gapkit.reports import figures
from gapkit.reports.compose import compose
from gapkit.reports.figures_plan import plan_rows
from gapkit.reports.figures_scores import CLASSES_DRAWN, drawn_classes, step_name
from gapkit.reports.look import MARKERS, QUIET, ROLES, blank, look, printable, render
from gapkit.reports.report import Figure, Report, Section
from gapkit.reports.results import Results
from gapkit.wording import Wording
from tests import report_fixtures as made

SAY = Wording(unit="share", score_name="accuracy")


def axes(n: int = 1):
    with look():
        drawn = list(Canvas(layout="constrained").subplots(1, n, squeeze=False)[0])
    return drawn if n > 1 else drawn[0]


def texts(svg: bytes) -> list[str]:
    return [
        "".join(node.itertext()) for node in ET.fromstring(svg).iter() if node.tag.endswith("}text")
    ]


def shown(ax) -> str:
    return " ".join(text.get_text() for text in ax.texts)


@pytest.fixture(scope="module")
def drawings() -> dict[str, bytes]:
    given = made.results()
    report = compose(task_unit="share", **given)
    return figures.draw(report, Results(**given), SAY)


def test_every_figure_is_drawn_and_the_same_bytes_twice(drawings):
    given = made.results()
    report = compose(task_unit="share", **given)
    assert set(drawings) == {figure.name for figure in report.figures}
    assert figures.draw(report, Results(**given), SAY) == drawings


def test_words_stay_text_in_the_body_font(drawings):
    said = texts(drawings["waterfall"])
    assert "42.0 %" in said
    assert "+10.0 [+6.0, +14.0]" in said
    assert b"Libertinus Serif" in drawings["waterfall"]
    assert b"STIXGeneral" not in drawings["waterfall"]
    assert all(b"<dc:date>" not in svg for svg in drawings.values())


def test_bars_of_a_negative_score_begin_left_of_all_levels_so_that_better_is_farther_right():
    fall = made.gap().waterfall

    def below(item):
        return item.with_(value=item.value - 3, low=item.low - 3, high=item.high - 3)

    ax = Canvas().subplots()
    figures.waterfall(
        fall.with_(start=below(fall.start), end=below(fall.end)),
        ax,
        Wording(unit="bits", score_name="bits"),
    )
    first, last = ax.patches[0], ax.patches[-1]
    assert first.get_x() == last.get_x() < fall.start.value - 3
    ends = [bar.get_x() + bar.get_width() for bar in (first, last)]
    assert ends == pytest.approx([fall.start.value - 3, fall.end.value - 3])


def test_curves_over_depth_go_from_input_to_output_in_whatever_order_they_come():
    ax = Canvas().subplots()
    items = [made.value("predictability", "pair", 0.5, 0.1, layer=f"b.{n}") for n in range(4)]
    figures.predictability(items[::-1], ceiling=items, ax=ax)
    for line in ax.lines:
        assert (np.diff(line.get_xdata()) != 0).all()
        assert len({np.sign(step) for step in np.diff(line.get_xdata())}) == 1


def test_waterfall_bars_start_where_the_last_one_ended():
    ax = axes()
    fall = made.gap().waterfall
    figures.waterfall(fall, ax, SAY)
    bars = ax.patches
    ends = [bar.get_x() + bar.get_width() for bar in bars]
    starts = [bar.get_x() for bar in bars[1:-1]]
    assert starts == pytest.approx(ends[:-2])
    assert ends[-2] == pytest.approx(98.0)
    assert ends[-1] == pytest.approx(98.0)
    assert to_hex(bars[0].get_facecolor()).upper() == ROLES["student"]
    assert to_hex(bars[1].get_facecolor()).upper() != to_hex(bars[2].get_facecolor()).upper()
    assert ax.get_yticklabels()[4].get_text().endswith("(with optimization)")


def test_a_step_that_loses_is_not_drawn_as_a_gain():
    fall = made.gap().waterfall
    down = made.step("same recipe", "pipeline_fault", -0.1, 0.04)
    ax = axes()
    figures.waterfall(fall.with_(steps=(down, *fall.steps[1:])), ax, SAY)
    assert ax.patches[1].get_width() == pytest.approx(-10)
    assert to_hex(ax.patches[1].get_facecolor()).upper() == QUIET
    assert to_hex(ax.patches[2].get_facecolor()).upper() == ROLES["reached"]


def test_cka_map_shows_both_students_and_marks_undefined_cells():
    matrix = made.cka()
    values = matrix.values.copy()
    values[2, 3] = np.nan
    pair = axes(2)
    figures.cka_map(matrix.with_(values=values), pair)
    assert np.ma.getmaskarray(pair[0].images[0].get_array()).sum() == 1
    np.testing.assert_allclose(pair[1].images[0].get_array(), matrix.untrained)
    annotated = [text.get_text() for text in pair[0].texts]
    assert annotated[0] == "0.92"
    assert annotated[2 * 5 + 3] == "–"


def test_many_layers_are_thinned_but_keep_first_and_last():
    layers = tuple(f"layer{index}" for index in range(60))
    pair = axes(2)
    figures.cka_map(made.cka(60, 60, layers), pair)
    for labels in (pair[0].get_yticklabels(), pair[0].get_xticklabels()):
        names = [label.get_text() for label in labels]
        assert len(names) <= 18
        assert (names[0], names[-1]) == ("layer0", "layer59")
    assert not pair[0].texts


def test_a_path_that_long_names_share_is_said_once_beside_the_axis():
    layers = tuple(f"model.encoder.layers.{index}.attention.output" for index in range(5))
    pair = axes(2)
    figures.cka_map(made.cka(layers=layers), pair)
    assert [label.get_text() for label in pair[0].get_yticklabels()] == [
        f"{index}.attention.output" for index in range(5)
    ]
    assert pair[0].get_ylabel() == "teacher layer in model.encoder.layers"
    assert pair[0].get_xlabel() == "student layer in model.encoder.layers, input to output"
    figures.cka_map(made.cka(), short := axes(2))
    assert short[0].get_ylabel() == "teacher layer"


def test_one_layer_alone_lies_at_the_beginning_of_the_depth():
    ax = axes()
    figures.probe_depth([made.value("linear_probe", "student", 0.5, layer="a")], ax=ax)
    assert ax.get_xlim() == (-0.04, 1.04)


def test_a_step_names_what_it_holds_once():
    held = made.step(
        "size and rest of the training", "capacity", 0.4, 0.1, ("size", "optimization")
    )
    assert step_name(held) == "size and rest of the training\n(with optimization)"
    assert step_name(held, 22, 1) == "size and rest of the …\n(with optimization)"


def test_probe_depth_draws_each_model_over_relative_depth():
    ax = axes()
    figures.probe_depth(made.measurements().find("linear_probe", split="test"), 0.1, ax)
    lines = {line.get_label(): line for line in ax.lines}
    assert {"teacher", "student", "untrained"} <= set(lines)
    assert lines["teacher"].get_xdata()[0] == 0
    assert lines["teacher"].get_xdata()[-1] == 1
    assert lines["student"].get_ydata()[-1] == pytest.approx(48)
    assert lines["student"].get_color() == ROLES["student"]
    assert "constant answer" in shown(ax)


def test_classes_run_from_worst_and_of_many_only_the_worst_are_drawn():
    curve = made.by_class("student", 0.4, 100).with_(y=np.roll(made.by_class("s", 0.4, 100).y, 30))
    chosen = drawn_classes(curve)
    assert len(chosen) == CLASSES_DRAWN
    assert curve.y[chosen].max() <= np.delete(curve.y, chosen).min()
    ax = axes()
    figures.by_class(None, curve, None, ax, SAY)
    assert ax.get_yticklabels()[0].get_text() == curve.ticks[int(np.argmin(curve.y))]


def test_by_class_matches_classes_by_label_and_leaves_out_missing_ones():
    before, after = made.by_class("student", 0.4, 10), made.by_class("student", 0.6, 10)
    kept = np.array([9, 3])
    fewer = after.with_(
        **{key: getattr(after, key)[kept] for key in ("x", "y", "low", "high", "n")}
    )
    ax = axes()
    figures.by_class(None, before, fewer.with_(ticks=("9", "3")), ax, SAY)
    drawn = next(line for line in ax.lines if line.get_label() == "student after").get_xdata()
    rows = list(drawn_classes(before))
    assert drawn[rows.index(9)] == pytest.approx(after.y[9] * 100)
    assert np.isfinite(drawn).sum() == 2


def test_controls_show_every_seed():
    ax = axes()
    runs = made.controls()
    figures.controls(runs, {"teacher": 0.98}, ax, SAY)
    dots = [line for line in ax.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(
        [line.get_xdata() for line in dots], [run.scores * 100 for run in runs]
    )
    assert ax.get_yticklabels()[3].get_text() == "longer (×4)"


def test_reliability_leaves_out_empty_bins():
    curve = made.reliability("student", 0.1)
    y = curve.y.copy()
    y[0] = np.nan
    ax = axes()
    figures.reliability([curve.with_(y=y)], ax)
    assert len(ax.lines[1].get_xdata()) == len(y) - 1


def test_plan_diagram_orders_sources_and_shows_forecast_and_result():
    plan, outcome = made.plan(), made.outcome()
    last = plan.stages[1].with_(sources=("assistant 6", "teacher", "checkpoint:0"))
    plan = plan.with_(stages=(plan.stages[0], last))
    assert plan_rows(plan) == ["teacher", "checkpoint:0", "assistant 6", "student"]
    ax = axes()
    figures.plan_diagram(plan, outcome, ax, SAY)
    said = shown(ax)
    assert "predicted 59.0 % [52.0, 65.0]" in said
    assert "reached 59.5 %" in said
    assert len([text for text in ax.texts if getattr(text, "arrow_patch", None)]) == 4
    ax = axes()
    figures.plan_diagram(plan, None, ax, SAY)
    assert "reached" not in shown(ax)


def test_a_stage_from_labels_alone_has_no_arrow():
    scratch = Stage(name="student", size=1, phases=({"knowledge": [{"kind": "label"}]},))
    ax = axes()
    figures.plan_diagram(made.plan().with_(stages=(scratch,)), None, ax, SAY)
    assert not [text for text in ax.texts if getattr(text, "arrow_patch", None)]
    assert len(ax.patches) == 1


def test_training_curves_highlight_the_kept_seed():
    ax = axes()
    result = made.outcome().stages[1]
    figures.training_curves(result, ax, SAY)
    curves = [line for line in ax.lines if len(line.get_xdata())]
    assert len(curves) == 3
    strong = [line for line in curves if line.get_color() == ROLES["reached"]]
    assert len(strong) == 1
    np.testing.assert_allclose(strong[0].get_ydata(), result.training.curve_score * 100)


def test_an_unknown_figure_is_refused():
    block = Figure(name="pie", caption="c", alt="a")
    report = Report(
        title="t", study="s", verdict="v", sections=(Section(heading="h", blocks=(block,)),)
    )
    results = Results(study="s", measurements=Measurements(study="s"))
    with pytest.raises(InputError, match="Expected a known figure but got 'pie'"):
        figures.draw(report, results, SAY)


def test_names_are_never_read_as_formulas_or_lost():
    with look():
        figure, (ax,) = blank(1.0)
        ax.set_title(printable(made.HOSTILE))
        svg = render(figure)
    said = " ".join(texts(svg))
    assert r"$\alpha$" in said
    assert "U+7DB2" in said
    assert "U+1F600" in said


def test_the_users_settings_come_back():
    before = dict(matplotlib.rcParams)
    with pytest.raises(RuntimeError, match="inside"), look():
        raise RuntimeError("inside")
    assert dict(matplotlib.rcParams) == before


def test_importing_reports_imports_no_matplotlib_typst_or_torch_at_once():
    heavy = "{'matplotlib', 'typst', 'torch'}"
    code = f"import sys, gapkit.reports; print(sorted({heavy} & set(sys.modules)))"
    code += "; import gapkit.reports.figures, gapkit.reports.pdf"
    code += "; print(sorted({'matplotlib', 'typst'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "[]"]


def test_pareto_draws_every_path_by_kind_and_rings_the_chosen_one():
    found = made.plan().alternatives
    ax = axes()
    figures.pareto(found, ax, SAY)
    lines = {line.get_label(): line for line in ax.lines}
    drawn = {
        kind: sorted(zip(lines[kind].get_xdata(), lines[kind].get_ydata()))
        for kind in ("labels alone", "straight from the teacher", "through an assistant")
    }
    for kind, hops in (
        ("labels alone", 1),
        ("straight from the teacher", 2),
        ("through an assistant", 3),
    ):
        expected = sorted((i.cost, i.predicted.value * 100) for i in found if len(i.path) == hops)
        np.testing.assert_allclose(drawn[kind], expected)
    (ring,) = (line for label, line in lines.items() if label.startswith("chosen"))
    assert (list(ring.get_xdata()), list(ring.get_ydata())) == ([6.2], [59.0])
    front = ax.lines[0]
    np.testing.assert_allclose(front.get_xdata(), sorted(i.cost for i in found if i.on_front))
    assert "32 → 6 → 1, dist1 ×4" in shown(ax)


def test_predictability_lies_under_what_the_width_can_hold():
    student = made.measurements().find("predictability", of="pair")
    ceiling = [
        made.value("hint_bound", "teacher", 0.9 - 0.05 * index, layer=item.layer)
        for index, item in enumerate(student)
    ]
    ax = axes()
    figures.predictability(student, (), ceiling, ax)
    lines = {line.get_label(): line for line in ax.lines}
    np.testing.assert_allclose(lines["student predicts"].get_ydata(), [i.value for i in student])
    np.testing.assert_allclose(
        lines["student's width holds"].get_ydata(), [i.value for i in ceiling]
    )
    assert (
        lines["student predicts"].get_ydata() < lines["student's width holds"].get_ydata()
    ).all()
    assert list(lines["student predicts"].get_xdata()) == [0, 0.25, 0.5, 0.75, 1]


def test_forecasts_show_interval_every_seed_and_the_kept_run():
    ax = axes()
    stages = made.outcome().stages
    figures.stage_forecasts(stages, ax, SAY)
    bars = [line for line in ax.lines if line.get_linewidth() == 9]
    np.testing.assert_allclose([line.get_xdata() for line in bars], [[96, 98.5], [52, 65]])
    kept = [line.get_xdata()[0] for line in ax.lines if line.get_markersize() == 7]
    np.testing.assert_allclose(kept, [97.5, 59.5])
    seeds = [line for line in ax.lines if line.get_markersize() == 4 and line.get_marker() == "^"]
    np.testing.assert_allclose(seeds[0].get_xdata(), [54, 56, 59.5])


def test_the_map_rings_the_nearest_student_layer_of_every_teacher_layer():
    matrix = made.cka()
    values = matrix.values.copy()
    values[1] = np.nan
    ax = axes()
    figures.cka_map(matrix.with_(values=values), ax)
    rings = ax.lines[0]
    assert list(rings.get_ydata()) == [0, 2, 3, 4]
    assert list(rings.get_xdata()) == np.nanargmax(values[[0, 2, 3, 4]], axis=1).tolist()


def test_confidence_adds_up_to_all_samples():
    ax = axes()
    figures.confidence([made.reliability("teacher", 0.0)], ax)
    assert ax.lines[0].get_ydata()[-1] == pytest.approx(100)


def test_roles_have_one_color_and_one_marker_in_every_figure():
    assert len(set(ROLES.values())) == len(ROLES) == len(set(MARKERS.values()))
    by_class, read = axes(2)
    figures.by_class(
        made.by_class("teacher", 0.98), made.by_class("student", 0.4), None, by_class, SAY
    )
    figures.probe_depth(made.measurements().find("linear_probe", split="test"), 0.1, read)
    for ax in (by_class, read):
        for line in ax.lines:
            if line.get_label() in ROLES:
                assert to_hex(line.get_color()).upper() == ROLES[line.get_label()]
                assert line.get_marker() == MARKERS[line.get_label()]


def test_a_figure_function_alone_makes_its_own_axes_and_leaves_the_users_settings():
    import matplotlib.pyplot as plt

    import gapkit as gk

    before = dict(matplotlib.rcParams)
    drawn = [
        gk.reports.figures.cka_map(made.cka()),
        gk.reports.figures.waterfall(made.gap().waterfall),
        gk.reports.figures.pareto(made.plan().alternatives),
        gk.reports.figures.plan_diagram(made.plan()),
        gk.reports.figures.training_curves(made.outcome().stages[1]),
    ]
    try:
        assert len({id(ax.figure) for ax in drawn}) == len(drawn)
        assert not drawn[0].spines["top"].get_visible()
        for ax in drawn:
            ax.figure.canvas.draw()
    finally:
        plt.close("all")
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("shape, n_axes", [((4, 4), 2 * 3 + 1), ((1, 6), 2)])
def test_attribution_pairs_show_picture_and_every_model(shape, n_axes):
    rng = np.random.default_rng(0)
    items = [
        Exhibit(
            position=7 + index, label="3", answers={"teacher": "3 (99%)", "student": "8 (40%)"},
            picture=rng.random(shape), maps={role: rng.normal(size=shape) for role in ("teacher", "student")},
        )
        for index in range(2)
    ]  # fmt: skip
    figure = figures.attribution_pairs(items)
    assert len(figure.axes) == (n_axes if shape[0] > 1 else 4)
    titles = " ".join(ax.get_title() for ax in figure.axes)
    assert "8 (40%)" in titles
    if shape[0] > 1:
        np.testing.assert_allclose(figure.axes[0].images[0].get_array(), items[0].picture)
        assert abs(figure.axes[1].images[0].get_array()).max() == pytest.approx(1)
    else:
        heights = [bar.get_height() for bar in figure.axes[0].patches]
        expected = items[0].maps["teacher"][0] / abs(items[0].maps["teacher"]).max()
        np.testing.assert_allclose(heights, expected)


def test_what_speaks_against_is_dotted_so_that_gray_tells_it():
    found = np.array([[1.0, -0.6], [-0.05, -0.3]])
    (item,) = [
        Exhibit(position=0, label="3", answers={}, picture=np.eye(2), maps={"teacher": found})
    ]
    picture, teacher = figures.attribution_pairs([item]).axes[:2]
    assert not picture.collections
    np.testing.assert_array_equal(teacher.collections[0].get_offsets(), [[1, 0], [1, 1]])


def test_numbers_on_a_map_are_read_on_their_color():
    values = np.linspace(0, 1, 64).reshape(8, 8)
    matrix = made.cka(8, 8, tuple("abcdefgh")).with_(values=values)
    ax = axes()
    figures.cka_map(matrix, ax=ax)
    image = ax.images[0]
    for text in ax.texts:
        column, row = map(int, text.get_position())
        back = image.cmap(image.norm(values[row, column]))
        assert contrast(back[:3], to_rgb(text.get_color())) > 4.3


def contrast(a, b) -> float:
    """WCAG 2.2: (L1 + .05) / (L2 + .05), lighter over darker."""
    lights = []
    for color in (a, b):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color]
        lights.append(float(np.dot(linear, [0.2126, 0.7152, 0.0722])))
    return (max(lights) + 0.05) / (min(lights) + 0.05)


def test_on_fine_maps_only_strong_cells_are_dotted():
    found = np.zeros((20, 20))
    found[0, :3] = 1.0, -0.3, -0.5
    (item,) = [
        Exhibit(position=0, label="3", answers={}, picture=np.eye(2), maps={"teacher": found})
    ]
    teacher = figures.attribution_pairs([item]).axes[1]
    np.testing.assert_array_equal(teacher.collections[0].get_offsets(), [[2, 0]])
