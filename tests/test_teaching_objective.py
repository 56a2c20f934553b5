"""The loss of one step in a loop of one's own is the one written out by hand, and leaves no trace."""

from __future__ import annotations

import copy
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gapkit import hints, losses
from gapkit.errors import InputError
from gapkit.knowledge import Knowledge, knowledge_named
from gapkit.task import Classification
from gapkit.tasks.embedding import Embedding
from gapkit.tasks.multilabel import MultiLabel
from gapkit.tasks.regression import Regression
from gapkit.teaching.objective import Objective, Term, layers_of, total
from gapkit.teaching.taps import Answer
from tests.training_fixtures import (
    assert_same_state,
    noisy_net,
    plain,
    points,
    random_states,
    seeded_model,
    sharp_teacher,
)

TASK = Classification()
X, Y = points(12, 0)
HINT = hints({("1", "1"): "hint"})


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def kl(student, teacher, tau):
    """Hinton's loss, row by row."""
    rows = []
    for ours, theirs in zip(student, teacher):
        p, q = F.softmax(theirs / tau, 0), F.softmax(ours / tau, 0)
        rows.append(sum(p[k] * (p[k] / q[k]).log() for k in range(len(p))))
    return tau**2 * sum(rows) / len(rows)


def pair(width=4):
    return seeded_model(plain, width, 0), sharp_teacher()


def hooks(*models):
    parts = [module for model in models for module in model.modules()]
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in parts)


def feature(loss="hint", layers=(("1", "1"),), **fields):
    return Knowledge(kind="feature", loss=loss, layers=layers, **fields)


def value(part, student, teacher, **masks):
    """The one term of layers "1" of these features, without a regressor."""
    objective = Objective(TASK, [part])
    ours = Answer(torch.zeros(len(student), 3), {"1": student}, masks.get("mask"))
    theirs = Answer(torch.zeros(len(student), 3), {"1": teacher}, masks.get("mask"))
    (term,) = objective.terms(ours, [theirs], None)
    return term.value


# Outputs


class Output(OrderedDict):
    """Like the ModelOutput of transformers: keys, attributes, and indexing by position."""

    def __getitem__(self, key):
        return list(self.values())[key] if isinstance(key, int) else super().__getitem__(key)


FORMS = {
    "tensor": lambda logits: logits,
    "output": lambda logits: Output(loss=torch.zeros(()), logits=logits),
    "tuple": lambda logits: (logits, torch.zeros(2)),
}
BATCHES = {"pair": (X, Y), "list": [X, Y], "dict": {"x": X, "labels": Y}, "targets": Y}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("batch", BATCHES)
def test_labels_and_kl_are_the_loss_written_out(form, batch):
    student, teacher = pair()
    ours, theirs = student(X), teacher(X)
    found = Objective(TASK, "kl4")(FORMS[form](ours), FORMS[form](theirs), BATCHES[batch])
    expected = 0.9 * kl(ours, theirs, 4.0) + 0.1 * F.cross_entropy(ours, Y)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert kl(ours, theirs, 4.0) > 0.05
    found.backward()
    assert student[0].weight.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in teacher.parameters())


def test_without_labels_none_are_needed():
    ours, theirs = draw(5, 3), draw(5, 3, seed=1)
    response = Knowledge(kind="response", loss="kl", temperature=2)
    assert Objective(TASK, [response])(ours, theirs).item() == pytest.approx(
        kl(ours, theirs, 2.0).item(), rel=1e-5
    )
    with pytest.raises(InputError, match="Expected targets for label knowledge"):
        Objective(TASK, "kl4")(ours, theirs)


def test_yes_and_no_are_learned_label_by_label():
    ours, theirs, targets = draw(4, 3), draw(4, 3, seed=1), (draw(4, 3, seed=2) > 0).long()
    found = Objective(MultiLabel(), "kl1")(ours, theirs, targets)
    p, q = theirs.sigmoid(), ours.sigmoid()
    soft = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum() / 4
    labels = -(targets * q.log() + (1 - targets) * (1 - q).log()).mean()
    assert found.item() == pytest.approx((0.9 * soft + 0.1 * labels).item(), rel=1e-5)
    assert soft > 0.1


def test_numbers_are_learned_by_squared_error():
    ours, theirs, targets = draw(6), draw(6, seed=1), draw(6, seed=2)
    found = Objective(Regression(), "mse")(ours, theirs, (X, targets))
    expected = 0.9 * ((ours - theirs) ** 2).mean() + 0.1 * ((ours - targets) ** 2).mean()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_vectors_of_one_width_are_compared_as_they_are():
    ours, theirs = draw(6, 4), draw(6, 4, seed=1)
    objective = Objective(Embedding(), "cosine")
    cosines = [ours[i] @ theirs[i] / ours[i].norm() / theirs[i].norm() for i in range(6)]
    assert objective(ours, theirs).item() == pytest.approx(1 - sum(cosines).item() / 6, rel=1e-4)
    student, teacher = nn.Linear(6, 4), nn.Linear(6, 4)
    assert len(list(objective.watch(student, teacher, X).parameters())) == 0


def test_vectors_of_another_width_get_a_regressor():
    student, teacher = nn.Linear(6, 4), nn.Linear(6, 7)
    with Objective(Embedding(), "cosine").watch(student, teacher, X) as objective:
        (weight, bias) = objective.parameters()
        assert weight.shape == (7, 4)
        found = objective(student(X), teacher(X))
    brought = F.linear(student(X), weight, bias)
    expected = 1 - F.cosine_similarity(brought, teacher(X)).mean()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    found.backward()
    assert weight.grad.abs().sum() > 0
    with pytest.raises(InputError, match=r"of one shape .* but got \(12, 4\) and \(12, 7\)"):
        Objective(Embedding(), "cosine")(student(X), teacher(X))


def test_tokens_count_where_their_target_does():
    ours, theirs = draw(2, 4, 3), draw(2, 4, 3, seed=1)
    targets = torch.tensor([[0, 2, -100, -100], [1, -100, -100, 0]])
    kept = [(0, 0), (0, 1), (1, 0), (1, 3)]
    rows = [torch.stack([side[place] for place in kept]) for side in (ours, theirs)]
    labels = torch.stack([targets[place] for place in kept])
    found = Objective(TASK, "kl4")(ours, theirs, {"labels": targets})
    expected = 0.9 * kl(*rows, 4.0) + 0.1 * F.cross_entropy(rows[0], labels)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_process_without_a_token_that_counts_waits_for_nobody():
    ours, theirs = draw(2, 4, 3).requires_grad_(), draw(2, 4, 3, seed=1)
    none, others = torch.full((2, 4), -100), [draw(6, 3, seed=2), draw(6, 3, seed=3)]
    asked = []

    def gather(rows):
        asked.append(rows.shape)
        return torch.cat([rows, others[len(asked) - 1]]) if rows.ndim == 2 else rows

    dist = [Knowledge(kind="response", loss="dist")]
    (term,) = Objective(TASK, dist).terms(
        Answer(ours, {}), [Answer(theirs, {})], none, gather=gather
    )
    assert asked == [(0, 3), (0, 3), (0,)]
    assert term.gathered
    assert term.value.item() == pytest.approx(losses.dist(*others).item())
    term.value.backward()
    assert not ours.grad.any()
    (alone,) = Objective(TASK, dist).terms(Answer(ours, {}), [Answer(theirs, {})], none)
    assert alone.value.item() == 0


# Layers


def by_hand(student, teacher, regressor):
    ours, theirs = student(X), teacher(X).detach()
    hint = F.mse_loss(regressor(student[:2](X)), teacher[:2](X).detach())
    return 0.9 * kl(ours, theirs, 4.0) + 0.1 * F.cross_entropy(ours, Y) + 0.5 * hint


def test_a_hint_is_the_squared_error_behind_a_regressor_that_learns_too():
    student, teacher = pair()
    knowledge = (*knowledge_named("kl4"), *hints({("1", "1"): "hint"}, weight=0.5))
    with Objective(TASK, knowledge).watch(student, teacher, X[:2]) as objective:
        (regressor,) = (part.map for part in objective.regressors.values())
        before = copy.deepcopy(regressor)
        optimizer = torch.optim.Adam([*student.parameters(), *objective.parameters()], lr=0.05)
        history = []
        for _ in range(30):
            loss = objective(student(X), teacher(X), (X, Y))
            expected = by_hand(student, teacher, regressor)
            assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            history.append(loss.item())
    assert history[-1] < 0.6 * history[0]
    assert (regressor.weight - before.weight).abs().max() > 0.1
    assert "regressors.0:1:1:whole.map.weight" in objective.state_dict()


def test_models_come_back_as_they_were():
    student, teacher = seeded_model(noisy_net, 4, 0).train(), sharp_teacher(build=noisy_net)
    student[3].eval()  # frozen by its owner; BatchNorm is not
    teacher[0].weight.requires_grad_(False)
    owners = teacher[2].register_forward_hook(lambda *_: None)
    copies, drawn = (copy.deepcopy(student), copy.deepcopy(teacher)), random_states()
    objective = Objective(TASK, hints({("2", "2"): "hint"}))
    objective.watch(student, teacher, X)
    assert hooks(student, teacher) == 5  # a layer and the start of a call each, and the owner's
    assert random_states() == drawn
    for model, before in zip((student, teacher), copies):
        assert_same_state(model, before)
        assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
        for ours, theirs in zip(model.parameters(), before.parameters()):
            assert (ours.requires_grad, ours.grad) == (theirs.requires_grad, None)
    objective.watch(student, teacher, X)  # again: not twice the hooks
    assert hooks(student, teacher) == 5
    objective.close()
    objective.close()
    assert hooks(student, teacher) == 1
    owners.remove()


def test_hooks_go_after_an_exception():
    student, teacher = pair()
    objective = Objective(TASK, HINT).watch(student, teacher, X)
    assert hooks(student, teacher) == 4
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), objective:
        student(X[:, :2])
    assert hooks(student, teacher) == 0
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        Objective(TASK, HINT).watch(student, teacher, X[:, :2])
    assert hooks(student, teacher) == 0


def test_the_first_weights_of_regressors_depend_on_the_seed_alone():
    def weights(seed, before):
        torch.manual_seed(before)
        objective = Objective(TASK, HINT)
        with objective.watch(*pair(), X, seed=seed):
            return next(objective.parameters())

    assert torch.equal(weights(3, 0), weights(3, 1))
    assert not torch.equal(weights(3, 0), weights(4, 0))


def test_watch_comes_first():
    with pytest.raises(InputError, match=r"watch.* before a loss of layers but it was not called"):
        Objective(TASK, HINT)(X, X, Y)
    student, teacher = pair()
    objective = Objective(TASK, HINT).watch(student, teacher, X)
    objective.close()
    with pytest.raises(InputError, match="it was not called"):
        objective(student(X), teacher(X), Y)


def test_an_unknown_layer_gets_the_nearest_names():
    for layers, who in ((("11", "1"), "student"), (("1", "11"), "teacher")):
        with pytest.raises(
            InputError, match=f"layer of the {who} but got '11'; nearest: '1'; known: '0', '1'"
        ):
            Objective(TASK, hints({layers: "hint"})).watch(*pair(), X)


def test_a_layer_that_never_runs_is_named():
    student, teacher = pair()
    student.idle = nn.Linear(4, 4)
    student.forward = lambda x: student[2](student[1](student[0](x)))
    with pytest.raises(InputError, match="layer 'idle' of the student to run"):
        Objective(TASK, hints({("idle", "1"): "hint"})).watch(student, teacher, X)
    with Objective(TASK, HINT).watch(student, teacher, X) as objective:
        ours = student(X)
        with pytest.raises(InputError, match="layer '1' of the teacher to run"):
            objective(ours, torch.zeros(12, 3), Y)


def test_a_layer_called_twice_is_two_layers():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared = nn.Linear(6, 6)

        def forward(self, x):
            return self.shared(self.shared(x))

    torch.manual_seed(0)
    student, teacher = Twice(), Twice()
    found = []
    for number in (1, 2):
        layer = f"shared#{number}"
        knowledge = hints({(layer, layer): "cka_loss"})
        with Objective(TASK, knowledge).watch(student, teacher, X) as objective:
            found.append(objective(student(X), teacher(X)).item())
    ours, theirs = student.shared(X), teacher.shared(X)
    assert found[0] == pytest.approx(losses.cka_loss(ours, theirs).item(), abs=1e-6)
    assert found[1] == pytest.approx(losses.cka_loss(student(X), teacher(X)).item(), abs=1e-6)
    assert abs(found[0] - found[1]) > 0.01


def test_an_in_place_layer_after_a_tapped_one_changes_nothing():
    def net(width, inplace):
        torch.manual_seed(width)
        return nn.Sequential(nn.Linear(6, width), nn.ReLU(inplace=inplace), nn.Linear(width, 3))

    found = []
    for inplace in (False, True):
        student, teacher = net(4, inplace), net(16, inplace)
        with Objective(TASK, hints({("0", "0"): "hint"})).watch(student, teacher, X) as objective:
            objective(student(X), teacher(X)).backward()
        found.append(student[0].weight.grad)
    assert torch.equal(*found)
    assert found[0].abs().max() > 0.01


def test_a_validation_between_two_steps_does_not_leak_into_the_next():
    student, teacher = pair()
    with Objective(TASK, HINT).watch(student, teacher, X) as objective:
        quiet = objective(student(X), teacher(X)).item()
        for model in (student, teacher):
            with torch.no_grad():
                model(X + 3)
                model(X[:5])
        assert objective(student(X), teacher(X)).item() == quiet
        with torch.no_grad():
            loud = objective(student(X + 3), teacher(X + 3)).item()
        assert abs(loud - quiet) > 0.01
        with pytest.raises(InputError, match="layer '1' of the student to run"):
            objective(torch.zeros(12, 3), torch.zeros(12, 3))  # what was shown is used up


def test_pairs_count_as_their_weights_say():
    features = {f"{i}": draw(6, 4, seed=i) for i in range(4)}
    layers = (("0", "1"), ("2", "3"))
    answer = Answer(torch.zeros(6, 3), features)
    parts = [losses.similarity_preserving(features[a], features[b]) for a, b in layers]
    for weights, expected in (((), sum(parts) / 2), ((3, 1), (3 * parts[0] + parts[1]) / 4)):
        part = Knowledge(
            kind="relation", loss="similarity_preserving", layers=layers, layer_weights=weights
        )
        (term,) = Objective(TASK, [part]).terms(answer, [answer], None)
        assert term.value.item() == pytest.approx(expected.item(), rel=1e-5)
    assert abs(parts[0] - parts[1]) > 0.01


def test_pooled_layers_leave_padding_out():
    ours, theirs = draw(9, 4, 5), draw(9, 4, 5, seed=1)
    mask = torch.arange(4) < torch.tensor([4, 1, 2, 3, 4, 1, 2, 3, 4])[:, None]
    means = [torch.stack([x[i][mask[i]].mean(0) for i in range(9)]) for x in (ours, theirs)]
    found = value(feature("cka_loss", pool=True), ours, theirs, mask=mask)
    assert found.item() == pytest.approx(losses.cka_loss(*means).item(), abs=1e-5)
    plainly = value(feature("cka_loss", pool=True), ours, theirs)
    assert abs(plainly - found) > 0.01


def test_whole_tokens_leave_padding_out():
    ours, theirs = draw(2, 4, 5), draw(2, 4, 5, seed=1)
    mask = torch.tensor([[True, True, False, False], [True, False, False, False]])
    rows = [(0, 0), (0, 1), (1, 0)]
    expected = sum(((ours[row] - theirs[row]) ** 2).sum() for row in rows) / 15
    assert value(feature(), ours, theirs, mask=mask).item() == pytest.approx(expected.item())


def test_tokens_against_vectors_leave_padding_out():
    ours, theirs = draw(9, 4, 5), draw(9, 5, seed=1)
    mask = torch.arange(4) < torch.tensor([4, 1, 2, 3, 4, 1, 2, 3, 4])[:, None]
    means = torch.stack([ours[i][mask[i]].mean(0) for i in range(9)])
    for sides in ((ours, theirs), (theirs, ours)):
        found = value(feature("cka_loss"), *sides, mask=mask)
        assert found.item() == pytest.approx(losses.cka_loss(means, theirs).item(), abs=1e-5)


@pytest.mark.parametrize("wrap", [lambda view: {**view, "labels": Y}, lambda view: (view, Y)])
def test_the_attention_mask_of_a_batch_counts_in_a_loop_of_ones_own(wrap):
    class Tokens(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.embed, self.head = nn.Embedding(20, width), nn.Linear(width, 3)

        def forward(self, input_ids, attention_mask):
            return self.head(self.embed(input_ids).mean(1))

    torch.manual_seed(0)
    student, teacher = Tokens(4), Tokens(6)
    ids = torch.randint(20, (12, 5))
    mask = (torch.arange(5) < 1 + torch.arange(12)[:, None] % 5).long()
    view = {"input_ids": ids, "attention_mask": mask}
    knowledge = hints({("embed", "embed"): "cka_loss"}, pool=True)
    with Objective(TASK, knowledge).watch(student, teacher, view) as objective:
        found = objective(student(**view), teacher(**view), wrap(view))
    means = [
        torch.stack([model.embed(row[kept == 1]).mean(0) for row, kept in zip(ids, mask)])
        for model in (student, teacher)
    ]
    assert found.item() == pytest.approx(losses.cka_loss(*means).item(), abs=1e-5)


def test_maps_of_another_height_and_width_meet_at_the_smaller():
    ours, theirs = draw(3, 4, 8, 8), draw(3, 7, 4, 4, seed=1)
    blocks = ours.view(3, 4, 4, 2, 4, 2).mean((3, 5))
    found = value(feature("attention"), ours, theirs)
    assert found.item() == pytest.approx(losses.attention(blocks, theirs).item(), rel=1e-5)
    student = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    teacher = nn.Sequential(nn.Conv2d(1, 7, 2, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    images = draw(3, 1, 8, 8)
    with Objective(TASK, hints({("0", "0"): "hint"})).watch(student, teacher, images) as objective:
        found = objective(student(images), teacher(images))
    (regressor,) = (part.map for part in objective.regressors.values())
    brought = regressor(student[0](images).view(3, 4, 4, 2, 4, 2).mean((3, 5)))
    assert found.item() == pytest.approx(F.mse_loss(brought, teacher[0](images)).item(), rel=1e-5)


def test_maps_and_tokens_meet_as_vectors():
    maps, tokens = draw(9, 4, 6, 6), draw(9, 7, 5, seed=1)
    found = value(feature("cka_loss"), maps, tokens)
    expected = losses.cka_loss(maps.mean((2, 3)), tokens.mean(1))
    assert found.item() == pytest.approx(expected.item(), abs=1e-5)


def test_tokens_of_another_number_are_refused_unless_pooled():
    ours, theirs = draw(9, 4, 5), draw(9, 7, 5, seed=1)
    with pytest.raises(InputError, match="as many tokens from student and teacher but got 4 and 7"):
        value(feature("hint"), ours, theirs)
    assert value(feature("hint", pool=True), ours, theirs) > 0
    found = value(feature("cka_loss"), ours, theirs)  # compares samples, one vector each
    expected = losses.cka_loss(ours.mean(1), theirs.mean(1))
    assert found.item() == pytest.approx(expected.item(), abs=1e-5)


def test_relations_are_of_outputs_or_of_layers():
    student, teacher = pair()
    for layers in ((), (("1", "1"),)):
        part = Knowledge(kind="relation", loss="rkd_distance", layers=layers)
        with Objective(TASK, [part]).watch(student, teacher, X) as objective:
            found = objective(student(X), teacher(X))
        end = 2 if layers else 3
        ours, theirs = (torch.pdist(model[:end](X)) for model in (student, teacher))
        expected = F.smooth_l1_loss(ours / ours.mean(), theirs / theirs.mean())
        assert found.item() == pytest.approx(expected.item(), rel=1e-4)
        assert found > 0.005


def test_contrast_of_layers_of_other_widths_needs_a_regressor():
    student, teacher = pair()
    part = Knowledge(kind="relation", loss="contrastive", layers=(("1", "1"),), temperature=0.5)
    with Objective(TASK, [part]).watch(student, teacher, X) as objective:
        assert objective.needs_shapes
        found = objective(student(X), teacher(X))
    (regressor,) = (regressor.map for regressor in objective.regressors.values())
    brought, wanted = regressor(student[:2](X)), teacher[:2](X)
    expected = losses.contrastive(brought, wanted, temperature=0.5)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    own = losses.contrastive(brought, wanted)
    assert abs(own - expected) > 0.01


def test_two_terms_of_one_name_are_told_apart():
    kls = [Knowledge(kind="response", loss="kl", temperature=tau) for tau in (1, 4)]
    label = Knowledge(kind="label")
    ours, theirs = Answer(draw(4, 3), {}), Answer(draw(4, 3, seed=1), {})
    found = Objective(TASK, [*kls, label]).terms(ours, [theirs], Y[:4])
    assert [term.name for term in found] == ["kl 1", "kl 2", "labels"]
    expected = [kl(ours.outputs, theirs.outputs, tau) for tau in (1.0, 4.0)]
    for term, wanted in zip(found, expected):
        assert term.value.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert [t.name for t in Objective(TASK, "kl4").terms(ours, [theirs], Y[:4])] == ["kl", "labels"]


# Several teachers


def several():
    """An objective with hints, a student's answer and those of teachers of widths 5 and 7."""
    ours = Answer(draw(9, 3), {"1": draw(9, 4)})
    theirs = [Answer(draw(9, 3, seed=width), {"1": draw(9, width, seed=width)}) for width in (5, 7)]
    objective = Objective(TASK, HINT)
    objective.build(ours, theirs)
    each = [
        F.mse_loss(regressor.map(ours.features["1"]), teacher.features["1"])
        for regressor, teacher in zip(objective.regressors.values(), theirs)
    ]
    assert abs(each[0] - each[1]) > 0.01
    return objective, ours, theirs, [part.item() for part in each]


def test_each_teacher_has_its_own_regressor():
    objective, ours, theirs, each = several()
    assert [tuple(part.map.weight.shape) for part in objective.regressors.values()] == [
        (5, 4),
        (7, 4),
    ]
    (term,) = objective.terms(ours, theirs, None)
    assert term.value.item() == pytest.approx(sum(each) / 2, rel=1e-5)


def test_a_part_of_the_teachers_keeps_its_own_regressors():
    objective, ours, theirs, each = several()
    (term,) = objective.terms(ours, theirs[1:], None, places=[1])
    assert term.value.item() == pytest.approx(each[1], rel=1e-5)
    with pytest.raises(ValueError, match="argument"):
        objective.terms(ours, theirs, None, places=[0])


def test_teachers_count_as_their_weights_say():
    objective, ours, theirs, each = several()
    (term,) = objective.terms(ours, theirs, None, weights=(1.0, 3.0))
    assert term.value.item() == pytest.approx((each[0] + 3 * each[1]) / 4, rel=1e-5)
    (term,) = objective.terms(ours, theirs, None, weights=(0.0, 2.0))
    assert term.value.item() == pytest.approx(each[1], rel=1e-5)


def test_building_again_keeps_what_has_been_learned():
    objective, ours, theirs, _ = several()
    kept = list(objective.parameters())
    objective.build(ours, theirs, seed=9)
    assert all(old is new for old, new in zip(kept, objective.parameters(), strict=True))


# What is refused, and the rest


def test_the_sum_is_weighted():
    parts = [Term("a", 0.5, torch.tensor(4.0)), Term("b", 3.0, torch.tensor(-1.0))]
    assert total(parts).item() == -1.0


def test_layers_are_named_once_on_each_side():
    knowledge = hints({("a", "x"): "hint", ("a", "y"): "cka_loss", ("b", "x"): "hint"})
    assert layers_of(knowledge, 0) == ("a", "b")
    assert layers_of(knowledge, 1) == ("x", "y")


def test_regressors_may_be_needed_where_shapes_must_be_equal():
    assert Objective(TASK, HINT).needs_shapes
    assert Objective(Embedding(), "cosine").needs_shapes
    assert not Objective(TASK, "kl4").needs_shapes
    assert not Objective(TASK, hints({("1", "1"): "cka_loss"})).needs_shapes


@pytest.mark.parametrize(
    "knowledge, match",
    [
        ("kl5", "known knowledge for classification but got 'kl5'; nearest: 'kl"),
        ([], r"list of Knowledge, one with a weight above 0, but got list \[\]"),
        ([Knowledge(kind="label", weight=0)], "one with a weight above 0, but got list"),
        (Knowledge(kind="label"), "Expected a name or a list of Knowledge, .* but got Knowledge"),
        (["kl4"], "Expected a name or a list of Knowledge, .* but got list"),
        ([Knowledge(kind="response", loss="kll")], "known loss but got 'kll'; nearest: 'kl'"),
        ([Knowledge(kind="response", loss="hint")], "response loss but 'hint' is a feature loss"),
        ([Knowledge(kind="response", loss="cosine")], "loss for classification but 'cosine'"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(knowledge, match):
    with pytest.raises(InputError, match=match):
        Objective(TASK, knowledge)


def test_a_layer_that_was_not_kept_is_named():
    objective = Objective(TASK, hints({("1", "1"): "cka_loss"}))
    bare = Answer(draw(9, 3), {})
    with pytest.raises(InputError, match="layer '1' of the student to be watched"):
        objective.terms(bare, [bare], None)


def test_no_gradient_reaches_the_teacher_through_a_loss_of_ones_own(monkeypatch):
    monkeypatch.setattr(losses, "_LOSSES", dict(losses._LOSSES))
    losses.register("plain_error", lambda student, teacher: (student - teacher).square().mean())
    losses.register("width_blind", lambda s, t: (s.mean() - t.mean()).square(), "feature")
    student, teacher = pair()
    knowledge = [
        Knowledge(kind="response", loss="plain_error"),
        *hints({("1", "1"): "width_blind"}),
    ]
    with Objective(TASK, knowledge).watch(student, teacher, X) as objective:
        found = objective(student(X), teacher(X))
    expected = (student(X) - teacher(X)).square().mean()
    expected = expected + (student[:2](X).mean() - teacher[:2](X).mean()).square()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    found.backward()
    assert all(weight.grad is None for weight in teacher.parameters())
    assert all(weight.grad is not None for weight in student.parameters())


def test_outputs_in_half_precision_are_widened_once():
    ours = draw(4, 3).bfloat16().requires_grad_()
    theirs = Answer(draw(4, 3, seed=1), {})
    found = Objective(TASK, "kl4").terms(Answer(ours, {}), [theirs], Y[:4])
    assert {term.value.dtype for term in found} == {torch.float32}
    total(found).backward()
    wide = ours.detach().float().requires_grad_()
    total(Objective(TASK, "kl4").terms(Answer(wide, {}), [theirs], Y[:4])).backward()
    assert torch.equal(ours.grad, wide.grad.bfloat16())
