"""A learner holds all that trains; balancing gives each term's gradient the share of its weight."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gapkit import hints
from gapkit.knowledge import Knowledge, knowledge_named
from gapkit.schemes import Lesson, Moment, scheme_named
from gapkit.task import Classification
from gapkit.teaching.objective import Objective, Term, total
from gapkit.teaching.taps import Answer
from gapkit.training.learner import Balance, Learner
from tests.training_fixtures import plain, points, random_states, seeded_model, sharp_teacher

TASK = Classification()
X, Y = points(12, 0)
KL4 = knowledge_named("kl4")
HINT = (*KL4, *hints({("1", "1"): "hint"}))


def answer(model, layer="1"):
    with torch.no_grad():
        return Answer(model(X), {layer: model[:2](X)})


def learner(models, knowledge=KL4, scheme="offline", exits=()):
    return Learner(models, Objective(TASK, knowledge), scheme_named(scheme), exits)


def lesson(teachers, knowledge=KL4, **moment):
    now = Moment(tuple(knowledge), tuple(range(len(teachers))), **moment)
    return Lesson(teachers, Y, now)


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


# The learner


def test_called_it_gives_the_terms_of_the_objective():
    student, teacher = seeded_model(plain, 4, 0), sharp_teacher()
    terms = learner([student])(X, lesson([answer(teacher)]))
    expected = Objective(TASK, KL4)(student(X), teacher(X), Y)
    assert [term.name for term in terms] == ["kl", "labels"]
    assert total(terms).item() == pytest.approx(expected.item(), rel=1e-6)
    assert expected > 0.1


def test_everything_that_trains_is_one_module():
    student, teacher = seeded_model(plain, 4, 0), sharp_teacher()
    module = learner([student], HINT)
    assert module.needs_shapes
    assert not module.has_helpers
    module.build(X, [answer(teacher)], seed=3)
    assert module.has_helpers
    names = {name for name, _ in module.named_parameters()}
    assert {name for name in names if name.startswith("models.0.")} == {
        f"models.0.{name}" for name, _ in student.named_parameters()
    }
    assert len(names) == 4 + 2  # and the regressor's
    total(module(X, lesson([answer(teacher)], HINT))).backward()
    assert all(weight.grad.abs().sum() > 0 for weight in module.parameters())


def test_regressors_and_exits_depend_on_the_seed_and_touch_no_random_state():
    def first(seed, before):
        torch.manual_seed(before)
        module = learner([seeded_model(plain, 4, 0)], HINT, "self", ["0"])
        drawn = random_states()
        module.build(X, [answer(sharp_teacher())], seed)
        assert random_states() == drawn
        return torch.cat(
            [w.flatten() for w in (*module.objective.parameters(), *module.heads[0].parameters())]
        )

    assert torch.equal(first(3, 0), first(3, 1))
    assert not torch.equal(first(3, 0), first(4, 0))


def test_hooks_go_on_close():
    student = seeded_model(plain, 4, 0)
    module = learner([student], HINT)
    assert hooks(student) == 2
    module.close()
    assert hooks(student) == 0
    assert hooks(learner([student]).models[0]) == 0  # no layer, no hook


def test_exits_learn_from_the_deepest_output():
    student = seeded_model(plain, 4, 0)
    module = learner([student], KL4, "self", ["0", "1"])
    module.build(X, [], seed=1)
    terms = module(X, lesson([]))
    assert [term.name for term in terms] == [
        "labels",
        *(f"{name} of exit {place}" for place in (1, 2) for name in ("kl", "labels")),
    ]
    deepest = student(X)
    expected = F.cross_entropy(deepest, Y)
    for end, head in zip((1, 2), module.heads):
        expected = expected + Objective(TASK, KL4)(head.map(student[:end](X)), deepest, Y)
    assert total(terms).item() == pytest.approx(expected.item(), rel=1e-5)
    kl = next(term for term in terms if term.name == "kl of exit 1").value
    kl.backward()
    assert student[2].weight.grad is None  # the deepest teaches and does not give way
    assert student[0].weight.grad.abs().sum() > 0


def test_peers_are_asked_each_for_itself():
    peers = [seeded_model(plain, 4, seed) for seed in (0, 1)]
    terms = learner(peers, KL4, "online")(X, lesson([]))
    outputs = [peer(X) for peer in peers]
    expected = sum(
        Objective(TASK, KL4)(ours, theirs, Y) for ours, theirs in (outputs, outputs[::-1])
    )
    assert total(terms).item() == pytest.approx(expected.item(), rel=1e-6)
    assert [term.name for term in terms if term.name.endswith("2")] == [
        "kl of peer 2",
        "labels of peer 2",
    ]


def test_a_mask_reaches_the_layers_and_the_exits():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(20, 4), nn.Linear(4, 3)

        def forward(self, input_ids, attention_mask):
            weight = attention_mask[..., None].float()
            return self.head((self.embed(input_ids) * weight).sum(1) / weight.sum(1))

    torch.manual_seed(0)
    model, ids = Tokens(), torch.randint(20, (12, 5))
    mask = (torch.arange(5) < 1 + torch.arange(12)[:, None] % 5).long()
    module = learner([model], KL4, "self", ["embed"])
    view = {"input_ids": ids, "attention_mask": mask}
    module.build(view, [], seed=1)
    found = [term.value.item() for term in module(view, lesson([]))]
    padded = {**view, "input_ids": torch.where(mask == 1, ids, 0)}
    assert not torch.equal(padded["input_ids"], ids)
    again = [term.value.item() for term in module(padded, lesson([]))]
    assert again == pytest.approx(found, rel=1e-5)


# Balance


def linear_terms(weight, scales, weights):
    """Terms scale·(w·a) of a linear model: their gradients scale·a are known without autograd."""
    return [
        Term(f"term {i}", share, scale * (weight * direction).sum())
        for i, (scale, share, direction) in enumerate(zip(scales, weights, directions()))
    ]


def directions():
    return torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, -2.0]])


SCALES, LENGTHS = (1.0, 50.0, 0.01), (5.0, 1.0, 2.0)


def test_norms_are_those_of_the_gradients():
    weight = torch.ones(2, requires_grad=True)
    norms = Balance().measure(linear_terms(weight, SCALES, (1, 1, 1)), [weight])
    expected = [scale * length for scale, length in zip(SCALES, LENGTHS)]
    assert list(norms.values()) == pytest.approx(expected)
    assert weight.grad is None


def test_norms_are_over_all_weights_and_unused_ones_count_nothing():
    first, second, unused = (torch.ones(2, requires_grad=True) for _ in range(3))
    terms = [
        Term("a", 1.0, (3 * first).sum() + (4 * second).sum()),
        Term("elsewhere", 1.0, unused.sum()),
        Term("fixed", 1.0, torch.tensor(1.0)),
    ]
    norms = Balance().measure(terms, [first, second])
    assert norms == {"a": pytest.approx(math.sqrt(2 * 9 + 2 * 16)), "elsewhere": 0.0}
    total(terms).backward()  # the graph is still there
    assert first.grad.tolist() == [3.0, 3.0]


def test_balanced_gradients_have_the_ratio_of_their_weights():
    weight, balance, shares = torch.ones(2, requires_grad=True), Balance(), (0.9, 0.1, 2.0)
    terms = linear_terms(weight, SCALES, shares)
    balance.update(balance.measure(terms, [weight]))
    found = balance.balanced(terms)
    assert found[0].weight == 0.9  # the first is the measure
    grads = [
        torch.autograd.grad(term.weight * term.value, weight, retain_graph=True)[0]
        for term in found
    ]
    for grad, share, direction in zip(grads, shares, directions()):
        assert grad.norm().item() == pytest.approx(share * 5.0, rel=1e-5)  # ‖∇L_first‖ = 5
        assert torch.allclose(grad / grad.norm(), direction / direction.norm())
    assert [term.value for term in found] == [term.value for term in terms]


def test_balancing_a_real_objective_gives_each_term_its_share():
    student, teacher = seeded_model(plain, 4, 0), sharp_teacher()
    module, balance = learner([student], HINT), Balance()
    module.build(X, [answer(teacher)], 0)
    weights = list(student.parameters())
    terms = module(X, lesson([answer(teacher)], HINT))
    before = balance.measure(terms, weights)
    assert max(before.values()) > 3 * min(before.values())
    balance.update(before)
    after = [term._replace(value=term.weight * term.value) for term in balance.balanced(terms)]
    norms = balance.measure(after, weights)
    for term in terms:
        assert norms[term.name] == pytest.approx(term.weight * before[terms[0].name], rel=1e-4)


def test_multipliers_move_towards_what_is_measured():
    balance = Balance()
    balance.update({"kl": 2.0, "hint": 1.0})
    assert balance.factors == {"kl": 1.0, "hint": pytest.approx(2.0)}
    balance.update({"kl": 2.0, "hint": 16.0})
    assert balance.factors["hint"] == pytest.approx(2.0**0.7 * 0.125**0.3)
    for _ in range(60):
        balance.update({"kl": 2.0, "hint": 16.0})
    assert balance.factors == {"kl": 1.0, "hint": pytest.approx(0.125)}


def test_a_gradient_of_zero_leaves_the_multipliers():
    balance = Balance()
    balance.update({"kl": 2.0, "hint": 0.0})
    assert balance.factors == {"kl": 1.0}
    balance.update({"kl": 2.0, "hint": 1.0})
    kept = dict(balance.factors)
    balance.update({"kl": 0.0, "hint": 1.0})
    balance.update({"kl": 2.0, "hint": 0.0})
    balance.update({})
    assert balance.factors == kept


def test_the_first_term_of_a_new_phase_keeps_its_weight_too():
    balance = Balance()
    balance.update({"kl": 2.0, "labels": 1.0})
    assert balance.factors["labels"] == pytest.approx(2.0)
    balance.update({"labels": 1.0, "hint": 4.0})
    assert balance.factors["labels"] == 1.0
    assert balance.factors["hint"] == pytest.approx(0.25)


def test_a_term_that_was_never_measured_keeps_its_weight():
    parts = [Term("new", 0.3, torch.tensor(1.0))]
    assert Balance().balanced(parts) == parts


def test_annealing_a_weight_does_not_change_what_is_measured():
    weight = torch.ones(2, requires_grad=True)
    light, heavy = (linear_terms(weight, SCALES, (1.0, share, 1.0)) for share in (0.1, 9.0))
    assert Balance().measure(light, [weight]) == Balance().measure(heavy, [weight])


def test_knowledge_of_labels_alone_needs_no_helpers():
    module = learner([seeded_model(plain, 4, 0)], (Knowledge(kind="label"),))
    assert not module.needs_shapes
    (term,) = module(X, lesson([], (Knowledge(kind="label"),)))
    assert term.value.item() == pytest.approx(F.cross_entropy(module.models[0](X), Y).item())
