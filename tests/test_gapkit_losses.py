"""What all losses share; the register: forms by kind of task, batches, shapes, losses of one's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from gapkit import losses
from gapkit.errors import InputError
from gapkit.knowledge import MENUS
from tests.loss_fixtures import FORMS, SURPRISED, B, K, pair


@pytest.fixture(autouse=True)
def _register_restored():
    known = dict(losses._LOSSES)
    yield
    losses._LOSSES.clear()
    losses._LOSSES.update(known)


# Properties that all share


@pytest.mark.parametrize("name", FORMS)
def test_identical_inputs_give_zero_and_others_do_not(name):
    zs, zt = pair()
    if name not in SURPRISED:
        assert FORMS[name](zt, zt).item() == pytest.approx(0, abs=1e-5)
    assert FORMS[name](zs, zt).item() > 1e-3


@pytest.mark.parametrize("name", FORMS)
def test_gradient_goes_to_the_student_only_and_downhill(name):
    zs, zt = (z.requires_grad_() for z in pair(dtype=torch.float64))
    loss = FORMS[name](zs, zt)
    to_student, to_teacher = torch.autograd.grad(loss, (zs, zt), allow_unused=True)
    assert to_teacher is None
    assert to_student.norm() > 1e-4
    step = 1e-3 / to_student.norm()
    assert FORMS[name](zs.detach() - step * to_student, zt).item() < loss.item()


@pytest.mark.parametrize("name", FORMS)
def test_gradient_is_the_numerical_one(name):
    zs, zt = pair(n=8, k=4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: FORMS[name](z, zt), (zs.requires_grad_(),))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", FORMS)
def test_half_precision_is_computed_in_float32(name, dtype):
    zs, zt = pair(dtype=dtype)
    got = FORMS[name](zs, zt)
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(FORMS[name](zs.double(), zt.double()).item(), rel=1e-3)


@pytest.mark.parametrize("name", FORMS)
def test_autocast_changes_nothing(name):
    zs, zt = pair()
    expected = FORMS[name](zs, zt).item()
    with torch.autocast("cpu", torch.bfloat16):
        assert FORMS[name](zs, zt).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", FORMS)
def test_the_order_of_samples_does_not_matter_but_the_pairing_does(name):
    zs, zt = pair()
    order = torch.randperm(B // K * K, generator=torch.Generator().manual_seed(1))
    zs, zt = zs[: len(order)], zt[: len(order)]
    if name != "dkd":  # whose targets stay where they are
        assert FORMS[name](zs[order], zt[order]).item() == pytest.approx(
            FORMS[name](zs, zt).item(), rel=1e-4
        )
    assert FORMS[name](zs[order], zt).item() != pytest.approx(FORMS[name](zs, zt).item(), rel=1e-3)


# The register


def test_the_standard_losses_are_registered_by_kind():
    response = ("kl", "dkd", "dist", "standardized_kl", "hard", "mse", "cosine")
    relation = ("rkd_distance", "rkd_angle", "similarity_preserving", "pkt", "contrastive")
    assert losses.names("response") == response
    assert losses.names("feature") == ("hint", "attention", "cka_loss")
    assert losses.names("relation") == relation
    assert losses.names() == sum((losses.names(kind) for kind in losses.KINDS), ())
    assert losses.named("dkd").needs == {"classification": ("temperature", "targets", "mask")}
    assert losses.named("rkd_angle").needs == {"*": ()}
    assert losses.named("contrastive").needs == {"*": ("temperature",)}
    assert losses.named("kl").fn is losses.kl
    assert set(losses.__all__) <= set(dir(losses))


def test_each_kind_of_task_has_its_losses():
    by_task = {task: losses.names("response", task) for task in losses.TASKS}
    assert by_task == {
        "classification": ("kl", "dkd", "dist", "standardized_kl", "hard", "mse"),
        "multilabel": ("kl", "dist", "standardized_kl", "hard", "mse"),
        "regression": ("kl", "dist", "mse"),
        "embedding": ("mse", "cosine"),
    }
    assert losses.named("dist").form("regression") is losses.dist_regression
    assert losses.named("hint").form("embedding") is losses.hint


@pytest.mark.parametrize("task", losses.TASKS)
@pytest.mark.parametrize("name", losses.names("response"))
def test_a_loss_has_a_form_for_a_kind_of_task_or_a_reason_why_not(name, task):
    loss = losses.named(name)
    if loss.fits(task):
        assert callable(loss.form(task))
        assert task not in loss.reasons
        return
    with pytest.raises(InputError, match=f"loss for {task} but '{name}' is one for .*: ") as caught:
        loss.form(task)
    assert str(caught.value).endswith(loss.reasons[task])
    with pytest.raises(InputError, match=f"loss for {task} but '{name}'"):
        losses.response_loss(name, *pair(), task=task, temperature=1.0)


def test_the_reason_points_at_what_to_use_instead():
    with pytest.raises(InputError, match=r"is one for classification, multilabel: .*use 'mse'"):
        losses.named("hard").form("regression")
    with pytest.raises(InputError, match="kind of task but got 'regresion'; nearest: 'regression'"):
        losses.named("kl").form("regresion")


@pytest.mark.parametrize("case", FORMS)
def test_a_loss_by_sample_is_the_mean_of_its_halves_and_one_by_batch_is_not(case):
    zs, zt = pair(n=30, dtype=torch.float64)
    name = next(
        name for name in sorted(losses.names(), key=len, reverse=True) if case.startswith(name)
    )
    whole = FORMS[case](zs, zt).item()
    halves = [FORMS[case](zs[part], zt[part]).item() for part in (slice(15), slice(15, 30))]
    same = sum(halves) / 2 == pytest.approx(whole, rel=1e-6)
    assert same is not losses.named(name).by_batch


@pytest.mark.parametrize("name", [name for name in losses.names() if losses.named(name).least > 1])
def test_the_register_knows_the_smallest_batch_that_each_form_takes(name):
    loss = losses.named(name)
    zs, zt = pair()
    for form in loss.forms.values():
        assert form(zs[: loss.least], zt[: loss.least]).isfinite()
        least = f"at least {loss.least} samples in the batch.* but got {loss.least - 1}"
        with pytest.raises(InputError, match=least):
            form(zs[: loss.least - 1], zt[: loss.least - 1])
        if loss.kind != "response":
            with pytest.raises(InputError, match="same samples"):
                form(zs, zt[:-1])


def test_losses_that_take_one_sample_are_registered_so():
    least = {
        name: losses.named(name).least for name in losses.names() if losses.named(name).least > 1
    }
    assert least == {
        "dist": 2,
        "cka_loss": 8,
        "rkd_distance": 2,
        "rkd_angle": 3,
        "similarity_preserving": 2,
        "pkt": 3,
        "contrastive": 2,
    }
    zs, zt = pair(n=1)
    for case, fn in FORMS.items():
        if not any(case.startswith(name) for name in least):
            assert fn(zs, zt).isfinite(), case


def test_layers_of_other_widths_are_taken_by_those_that_need_no_regressor():
    same = [name for name in losses.names() if losses.named(name).same_shape]
    assert same == ["mse", "cosine", "hint", "contrastive"]
    zs, zt = pair()
    for name in losses.names("feature") + losses.names("relation"):
        if name == "attention":
            shapes = torch.ones(2, 3, 4, 4), torch.ones(2, 7, 4, 4)
            assert losses.layer_loss(name, *shapes).item() == pytest.approx(0, abs=1e-6)
        elif name in same:
            with pytest.raises(InputError, match=r"shape|width"):
                losses.layer_loss(name, zs, zt[:, :4])
        else:
            assert losses.layer_loss(name, zs, zt[:, :4]).isfinite()


def test_every_named_mixture_uses_losses_of_its_kind_of_task():
    for task, menu in MENUS.items():
        used = {part.loss for parts in menu.values() for part in parts if part.kind == "response"}
        assert used
        assert used <= set(losses.names("response", task))
        related = {
            part.loss for parts in menu.values() for part in parts if part.kind == "relation"
        }
        assert related <= set(losses.names("relation"))


def test_an_unknown_loss_names_the_nearest():
    with pytest.raises(InputError, match="known loss but got 'klx'; nearest: 'kl'"):
        losses.named("klx")
    with pytest.raises(InputError, match="kind of loss"):
        losses.names("logits")
    with pytest.raises(InputError, match="kind of task but got 'multi'; nearest: 'multilabel'"):
        losses.names(task="multi")


def test_a_registered_loss_is_found_and_called_with_what_it_takes():
    seen = {}

    def mine(student, teacher, targets, temperature=1.0):
        seen.update(targets=targets, temperature=temperature)
        return (student - teacher.detach()).square().mean()

    losses.register("mine", mine)
    assert losses.named("mine") == losses.Loss(
        "mine", "response", {"*": mine}, {"*": ("temperature", "targets")}
    )
    assert losses.names("response")[-1] == "mine"
    assert all(losses.named("mine").form(task) is mine for task in losses.TASKS)
    zs, zt = pair()
    targets = torch.arange(B)
    got = losses.response_loss("mine", zs, zt, temperature=3.0, targets=targets)
    assert got.item() == pytest.approx((zs - zt).square().mean().item())
    assert seen["temperature"] == 3.0
    assert seen["targets"] is targets
    with pytest.raises(InputError, match="Expected targets for loss 'mine'"):
        losses.response_loss("mine", zs, zt, temperature=3.0)


def test_a_loss_of_some_kinds_of_task_is_refused_for_others():
    losses.register(
        "huber", lambda s, t: F.smooth_l1_loss(s, t.detach()), tasks=("regression", "embedding")
    )
    assert losses.names("response", "regression")[-1] == "huber"
    with pytest.raises(
        InputError, match=r"multilabel but 'huber' is one for regression, embedding$"
    ):
        losses.named("huber").form("multilabel")
    losses.register("one", losses.mse, tasks="regression")
    assert list(losses.named("one").forms) == ["regression"]
    with pytest.raises(InputError, match="one function but got regression beside"):
        losses.register("two", {"regression": losses.mse}, tasks=("regression",))


def test_forms_and_reasons_are_registered_together():
    losses.register("mine", {"classification": losses.kl, "regression": "numbers have no classes"})
    assert losses.named("mine").fn is losses.kl
    with pytest.raises(InputError, match=r"is one for classification: numbers have no classes$"):
        losses.named("mine").form("regression")


def test_relations_count_as_by_batch_unless_said_otherwise():
    losses.register("related", losses.hint, "relation")
    losses.register("unrelated", losses.hint, "relation", by_batch=False, same_shape=True)
    losses.register("response", losses.mse, by_batch=True, least=4)
    found = [losses.named(name) for name in ("related", "unrelated", "response")]
    assert [loss.by_batch for loss in found] == [True, False, True]
    assert [loss.same_shape for loss in found] == [False, True, False]
    assert [loss.least for loss in found] == [1, 1, 4]
    with pytest.raises(InputError, match=r"at least 1 sample .* but got 0"):
        losses.register("none", losses.mse, least=0)


@pytest.mark.parametrize(
    "name, fn, kind, match",
    [
        ("kl", losses.kl, "response", "'kl' is taken"),
        ("my loss", losses.kl, "response", "Python identifier"),
        ("task", losses.kl, "response", "Python identifier other than 'task'"),
        ("mine", losses.kl, "respons", "nearest: 'response'"),
        ("mine", 3, "response", "function of"),
        ("mine", {}, "response", "function for some kind of task"),
        ("mine", {"regression": "numbers have no classes"}, "response", "function for some kind"),
        ("mine", {"regresion": losses.mse}, "response", "nearest: 'regression'"),
        ("mine", {"regression": losses.mse}, "feature", "no kinds of task for the feature loss"),
        ("mine", lambda student: student, "response", "too many positional"),
        ("mine", lambda s, t, labels: s, "response", "missing a required argument: 'labels'"),
        ("mine", lambda s, targets: s, "response", "multiple values"),
    ],
)
def test_losses_that_cannot_be_registered_are_refused(name, fn, kind, match):
    before = losses.names()
    with pytest.raises(InputError, match=match):
        losses.register(name, fn, kind)
    assert losses.names() == before


# Calls by name


def test_response_loss_passes_temperature_and_mask():
    zs, zt = pair(n=6, k=2 * K).view(2, 3, 4, K)
    mask = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]])
    kept = mask.bool()
    got = losses.response_loss("kl", zs, zt, temperature=2.0, mask=mask)
    assert got.item() == losses.kl(zs[kept], zt[kept], 2.0).item()
    rows = losses.response_loss("dist", zs, zt, temperature=2.0, mask=mask)
    assert rows.item() == losses.dist(zs[kept], zt[kept], 2.0).item()
    targets = torch.arange(12).view(3, 4) % K
    tokens = losses.response_loss("dkd", zs, zt, temperature=2.0, targets=targets, mask=mask)
    expected = losses.dkd(zs[kept], zt[kept], targets[kept], temperature=2.0)
    assert tokens.item() == expected.item()


def test_response_loss_shows_rows_to_a_loss_of_ones_own_that_takes_no_mask():
    seen = []

    def mine(student, teacher, targets):
        seen.append((student.shape, teacher.shape, targets.tolist()))
        return student.mean()

    losses.register("mine", mine)
    zs, zt = pair(n=2, k=2 * K).view(2, 2, 2, K)
    targets, mask = torch.tensor([[1, 2], [3, 4]]), torch.tensor([[1, 0], [1, 1]])
    losses.response_loss("mine", zs, zt, temperature=1.0, targets=targets, mask=mask)
    losses.response_loss("mine", zs, zt, temperature=1.0, targets=targets)
    assert seen == [((3, K), (3, K), [1, 3, 4]), ((4, K), (4, K), [1, 2, 3, 4])]


@pytest.mark.parametrize("task", losses.TASKS)
def test_response_loss_calls_the_form_of_its_task(task):
    zs, zt = pair()
    for name in losses.names("response", task):
        targets = torch.arange(B) % K
        got = losses.response_loss(name, zs, zt, task=task, temperature=3.0, targets=targets)
        form = losses.named(name).form(task)
        given = {"temperature": 3.0, "targets": targets}
        needs = losses.named(name).needs[task]
        assert (
            got.item() == form(zs, zt, **{key: given[key] for key in needs if key in given}).item()
        )


def test_response_loss_refuses_other_kinds_and_masks_that_do_not_fit():
    zs, zt = pair()
    with pytest.raises(InputError, match="'hint' is a feature loss"):
        losses.response_loss("hint", zs, zt, temperature=1.0)
    for name in ("dist", "cosine"):
        task = "embedding" if name == "cosine" else "classification"
        with pytest.raises(InputError, match="keeps at least one sample"):
            losses.response_loss(name, zs, zt, task=task, temperature=1.0, mask=torch.zeros(B))
        with pytest.raises(InputError, match=r"mask of shape \(12,\) but got \(3,\)"):
            losses.response_loss(name, zs, zt, task=task, temperature=1.0, mask=torch.ones(3))


@pytest.mark.parametrize("name", ["hint", "cka_loss", *losses.names("relation")])
def test_layer_loss_shows_the_tokens_that_count_as_rows(name):
    zs, zt = pair(n=6, k=4 * K).view(2, 6, 4, K)
    mask = torch.arange(24).view(6, 4) % 2 == 0
    got = losses.layer_loss(name, zs, zt, mask=mask).item()
    assert got == losses.named(name).fn(zs[mask], zt[mask]).item()
    everything = losses.named(name).fn(zs.flatten(0, 1), zt.flatten(0, 1)).item()
    assert got != pytest.approx(everything, rel=1e-3)


def test_layer_loss_passes_a_temperature_to_those_that_take_one():
    zs, zt = pair()
    values = [
        losses.layer_loss("contrastive", zs, zt, temperature=t).item() for t in (0.1, 1.0, None)
    ]
    assert values[0] == values[2] != values[1]
    assert values[1] == losses.contrastive(zs, zt, 1.0).item()
    assert losses.layer_loss("hint", zs, zt, temperature=4.0).item() == losses.hint(zs, zt).item()
    with pytest.raises(InputError, match="'kl' is a response loss"):
        losses.layer_loss("kl", zs, zt)
