"""Carries out one training of one Stage on lightning-fabric; resumable at any step.

Every random act of an epoch is seeded by (seed, epoch, process); a checkpoint within an epoch holds the
random states. A resumed training is the uninterrupted one, bit for bit (on CPU, with as many threads).
"""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gapkit.data import Batch, Data
from gapkit.errors import InputError
from gapkit.guest import moved, seeded
from gapkit.schemes import Lesson, Moment, scheme_named
from gapkit.task import IGNORED, Task
from gapkit.teaching.objective import Objective, Term
from gapkit.teaching.taps import Answer
from gapkit.training.answers import predict
from gapkit.training.checkpoint import Checkpoints, random_states, restore_random_states
from gapkit.training.course import Course
from gapkit.training.crew import Crew
from gapkit.training.engine import Casting, make_fabric
from gapkit.training.heard import Means, Pending
from gapkit.training.job import Curve, Job
from gapkit.training.learner import Balance, Learner
from gapkit.training.optimizer import make_optimizer, make_schedule
from gapkit.training.teachers import Teachers
from gapkit.training.traininglog import TrainingLog

log = logging.getLogger("gapkit")

CURVE_POINTS = 20
CHECK_STEPS = 20  # steps between looks at the losses and the clock
SAVE_SECONDS = 5.0  # that a killed process loses at most, beside those steps
LOG_STEPS = 200  # rows of the log within a long epoch

Tick = Callable[[float, str], None]


class TrainingFailed(InputError):
    """A training whose loss became nan or infinite; its last good checkpoint stays."""


class Loop:
    """The steps of one job.

    Args:
        job: what is trained.
        task, data: what outputs mean and where samples come from.
        device: where it runs; nothing moves to another silently.
        crew: the processes that train together.
    """

    def __init__(
        self, job: Job, task: Task, data: Data, device: str | torch.device, crew: Crew | None = None
    ) -> None:
        self.job, self.task, self.data, self.crew = job, task, data, crew or Crew()
        recipe = job.recipe
        self.course = Course(
            job.stage, recipe, job.seed, data.size("train"), self.crew.world, job.surest
        )
        self._dtype = _dtype(job.model)
        self.teachers = Teachers(job, task, data)
        self.module = self._learner()
        self.fabric = make_fabric(device, recipe.precision, self.crew, self.module.has_helpers)
        self.teachers.device = self.fabric.device
        if recipe.compile:
            for model in self.module.models:
                model.compile()
        optimizer = make_optimizer(self.module, recipe)
        self.learner, self.optimizer = self.fabric.setup(self.module, optimizer)
        self.schedule = make_schedule(self.optimizer.optimizer, recipe, self.course.steps)
        self.checkpoints = Checkpoints(job.folder)
        self.balance = Balance()
        self.pending, self.recent, self.whole = Pending(), Means(), Means()
        self.next_epoch, self.place, self.seconds = 0, 0, 0.0
        self.points: list[tuple[int, float, float]] = []
        self.log = TrainingLog(job.folder)
        self._random: Any = None
        self._start = self._saved = time.perf_counter()
        self._say_batch_norm()

    def _learner(self) -> Learner:
        """The module that trains, built from the shapes of two samples where shapes matter."""
        job = self.job
        learner = Learner(
            [job.model, *job.peers],
            Objective(self.task, job.knowledge),
            scheme_named(job.stage.scheme),
            job.stage.exits,
        )
        if learner.needs_shapes:
            first = np.arange(min(2, self.data.size("train")))
            with seeded(0):
                raw = next(iter(self.data.batches("train", 2, first))).raw
            teachers = self.teachers.shapes(first, raw)
            learner.build(self.data.student_view(raw), teachers, job.seed)
        return learner

    def run(self, tick: Tick | None = None) -> Curve:
        """Train to the end from wherever the checkpoint stands; `tick` hears the share that is done.

        The model keeps its dtype: a "bf16-true" or "64-true" training is converted back at the end.
        """
        self.resume()
        with self.teachers.open():
            try:
                while self.next_epoch < self.job.recipe.epochs:
                    self.epoch(self.next_epoch, tick)
            finally:
                self.module.close()
                self.log.close()
        for model in self.module.models:
            if _dtype(model) != self._dtype:
                model.to(self._dtype)
        if self.crew.leads:
            self.log.write()
            self.log.close()
        epoch, losses, scores = np.array(self.points, dtype=float).T
        return Curve(epoch, losses, scores, self.course.steps, self.seconds)

    def epoch(self, index: int, tick: Tick | None = None) -> None:
        """What is left of one pass over train."""
        self._start = time.perf_counter()
        with seeded(self._epoch_seed(index)):
            if self._random is not None:
                restore_random_states(self._random)
                self._random = None
            self.learner.train()
            for _ in self.steps(index, self.place):
                self.place += 1
                if self.place % CHECK_STEPS == 0 and self.place < self.course.n_steps(index):
                    self._check(index)
                    if self.place % LOG_STEPS == 0:
                        self._log(index)
                    self._save_when_due(within=True)
                    self._tell(tick)
        self._check(index)
        self._end_of_epoch(index)
        self.seconds, self._start = self._seconds(), time.perf_counter()
        self._save_when_due()
        self._tell(tick)

    def _end_of_epoch(self, index: int) -> None:
        for model in self.module.models:
            if not all(weight.isfinite().all() for weight in model.parameters()):
                raise TrainingFailed(
                    f"Expected finite weights but the last step of epoch {index + 1} in stage "
                    f"{self.job.stage.name!r} left nan or infinite ones; {self._last_good()}"
                )
        epochs = self.job.recipe.epochs
        self.next_epoch, self.place = index + 1, 0
        score = None
        if self.next_epoch % max(1, epochs // CURVE_POINTS) == 0 or self.next_epoch == epochs:
            score = self.validate() if self.crew.leads else float("nan")
            self.points.append((self.next_epoch, self.whole.values()["loss"], score))
        self._log(index, score)
        self.whole = Means()

    def _epoch_seed(self, index: int) -> int:
        words = [self.job.seed, index] + [self.crew.rank] * (self.crew.rank > 0)
        return int(np.random.SeedSequence(words).generate_state(1)[0])

    def steps(self, epoch: int, start: int = 0) -> Iterator[None]:
        """Take the optimizer steps of an epoch, from one on, yielding after each."""
        chunks = self.course.chunks(epoch, self.crew.rank, start)
        sizes = self.course.sizes(epoch)
        flat = [chunk for step in chunks for chunk in step]
        batches = self.data.chunks("train", flat, pinned=self.fabric.device.type == "cuda")
        for place, group in enumerate(chunks, start):
            self._step(epoch, place, [next(batches) for _ in group], sizes[place])
            yield

    def _step(self, epoch: int, place: int, batches: Sequence[Batch], sizes: list[int]) -> None:
        """One optimizer step on one batch, or on several whose gradients add up."""
        moment = self._moment(epoch, place)
        prepared = [self._prepared(batch, moment) for batch in batches]
        shares = self._shares([targets for _, targets, _ in prepared], batches, sizes)
        heard = []
        self.optimizer.zero_grad()
        for position, (raw, targets, teachers) in enumerate(prepared):
            last = position == len(prepared) - 1
            with self.fabric.no_backward_sync(self.learner, enabled=not last):
                view = self.data.student_view(raw)
                terms = self.learner(view, Lesson(teachers, targets, moment))
                terms = self._balanced(terms, epoch, place, first=position == 0)
                loss, values = self._summed(terms, *shares[position])
                self.fabric.backward(loss)
            heard.append(values)
        if self.job.recipe.grad_clip:
            self.fabric.clip_gradients(
                self.learner,
                self.optimizer,
                max_norm=self.job.recipe.grad_clip,
                error_if_nonfinite=False,
            )
        self.optimizer.step()
        self.schedule.step()
        names = ("loss", *(term.name for term in terms))
        if names != self.pending.names:
            self._check(epoch)
        positions = np.concatenate([batch.positions for batch in batches])
        self.pending.add(
            names, heard[0] if len(heard) == 1 else torch.stack(heard).sum(0), positions
        )

    def _moment(self, epoch: int, place: int) -> Moment:
        stage, phase = self.job.stage, self.course.phase(epoch)
        active = phase.sources or stage.sources
        places = tuple(i for i, source in enumerate(stage.sources) if source in active)
        weights = stage.source_weights and tuple(stage.source_weights[i] for i in places)
        return Moment(
            self.course.knowledge(epoch, place),
            places,
            weights if weights and sum(weights) else None,
            np.random.default_rng([self.job.seed, epoch, place])
            if stage.scheme == "dense"
            else None,
            None if self.crew.alone else self.crew.gather,
        )

    def _prepared(self, batch: Batch, moment: Moment) -> tuple[Any, Tensor | None, list[Answer]]:
        """A batch on the device: what was loaded, its targets, the teachers' answers."""
        raw = self.data.augment(batch.raw) if self.data.augment else batch.raw
        raw = moved(raw, self.fabric.device)
        targets = self.data.target(raw)
        return raw, targets, self.teachers.answers(batch.positions, raw, moment.places)

    def _shares(
        self, targets: Sequence[Tensor | None], batches: Sequence[Batch], sizes: list[int]
    ) -> list[tuple[float, float]]:
        """What each batch counts in the step: a mean over its own samples, and over all processes'.

        The optimizer sees the mean over all samples (or tokens) of the step, whatever the split.
        """
        world, n = self.crew.world, sum(sizes)
        if world == 1 and len(batches) == 1:
            return [(1.0, 1.0)]
        counts = [float(len(batch.positions)) for batch in batches]
        whole = float(n)
        if self.task.kind == "classification" and any(
            t is not None and t.ndim == 2 for t in targets
        ):
            counts = [float((t != IGNORED).sum()) for t in targets if t is not None]
            whole = float(self.crew.total(torch.tensor(sum(counts), dtype=torch.float64)))
        return [(world * count / max(whole, 1.0), size / n) for count, size in zip(counts, sizes)]

    def _balanced(self, terms: list[Term], epoch: int, place: int, first: bool) -> list[Term]:
        """The terms with the weights that balancing gives them, measured now and then."""
        if self.course.phase(epoch).balance == "fixed":
            return terms
        if first and place % Balance.EVERY == 0:
            weights = [w for w in self.module.models[0].parameters() if w.requires_grad]
            norms = self.balance.measure(terms, weights)
            if not self.crew.alone:
                summed = self.crew.total(torch.tensor(list(norms.values()), dtype=torch.float64))
                norms = dict(zip(norms, (summed / self.crew.world).tolist()))
            self.balance.update(norms)
        return self.balance.balanced(terms)

    def _summed(self, terms: Sequence[Term], own: float, shared: float) -> tuple[Tensor, Tensor]:
        """The loss to go backward from, and (loss, each term) as this process hears them.

        Of a gathered term only this process' samples carry gradients: `world` times its share makes
        the mean over processes whole.
        """
        world = self.crew.world
        pull = [term.weight * (world * shared if term.gathered else own) for term in terms]
        loss = torch.stack([weight * term.value for weight, term in zip(pull, terms)]).sum()
        with torch.no_grad():
            values = torch.stack(
                [term.value.detach() * (shared if term.gathered else own) for term in terms]
            ).float()
            weights = torch.tensor([term.weight for term in terms], device=values.device)
            heard = torch.cat([(weights * values).sum()[None], values])
        return loss, heard

    def _check(self, epoch: int) -> None:
        """Stop at a loss that is nan or infinite; bring what was heard into the means."""
        if not self.pending.values:
            return
        rows = self.pending.rows()
        bad = ~rows[:, 0].isfinite()
        if bool(self.crew.total(bad.any().double())):
            self._fail(epoch, rows[:, 0].cpu())
        means = (self.crew.total(rows) / self.crew.world).cpu().numpy()
        for heard in (self.recent, self.whole):
            heard.add(self.pending.names, means)
        self.pending.clear()

    def _fail(self, epoch: int, losses: Tensor) -> None:
        stage = self.job.stage.name
        if losses.isfinite().all():
            raise TrainingFailed(
                f"Expected a finite loss but another process got none in stage {stage!r}, "
                f"epoch {epoch + 1}; {self._last_good()}"
            )
        first = int((~losses.isfinite()).nonzero()[0])
        ids = self.data.ids("train")[self.pending.positions[first]]
        shown = ", ".join(ids[:3]) + (" ..." if len(ids) > 3 else "")
        step = self.place - len(losses) + first + 1
        raise TrainingFailed(
            f"Expected a finite loss but got {losses[first].item()} in stage {stage!r}, "
            f"epoch {epoch + 1}, step {step} (samples {shown}); {self._last_good()}"
        )

    def _last_good(self) -> str:
        step = self.checkpoints.newest_step()
        return (
            "there is no checkpoint yet"
            if step is None
            else f"the checkpoint of step {step} is kept"
        )

    def _log(self, epoch: int, score: float | None = None) -> None:
        """One row: means since the last one."""
        means = self.recent.values()
        row: dict[str, Any] = {
            "epoch": epoch + 1,
            "step": self._steps_done(),
            "seconds": round(self._seconds(), 3),
            "lr": self.schedule.get_last_lr()[0],
            **means,
        }
        for name, factor in self.balance.factors.items():
            row[f"balance of {name}"] = factor
        if score is not None:
            row["score"] = score
        self.log.add(row)
        self.recent = Means()

    def _steps_done(self) -> int:
        return sum(self.course.n_steps(epoch) for epoch in range(self.next_epoch)) + self.place

    def _seconds(self) -> float:
        return self.seconds + time.perf_counter() - self._start

    def _tell(self, tick: Tick | None) -> None:
        """Say how far it is: the share that is done, the loss and its parts, the last score."""
        if not tick:
            return
        done = float(self.next_epoch)
        if self.place:
            done += self.place / self.course.n_steps(self.next_epoch)
        last = self.log.rows[-1] if self.log.rows else {}
        skipped = ("epoch", "step", "seconds", "lr", "loss", "score")
        parts = " + ".join(
            f"{name} {value:.3g}"
            for name, value in last.items()
            if name not in skipped and not name.startswith("balance of ")
        )
        said = f"loss {last['loss']:.3g} = {parts}" if "loss" in last else ""
        if self.points:
            said = f"{self.task.score_name} {self.points[-1][2]:.3f}, {said}"
        tick(done / self.job.recipe.epochs, said)

    def validate(self) -> float:
        """The score on validation, with modes restored afterwards."""
        own, device = Casting(self.job.model, self.fabric), self.fabric.device
        outputs = predict(own, self.data, "validation", self.task, device)
        targets = self.data.targets("validation")
        if targets is None and self.task.kind == "embedding" and self.job.sources:
            first = self.job.sources[0]  # its vectors are what a student is held against
            targets = predict(
                first.model, self.data, "validation", self.task, device, sees=first.sees
            )
        if targets is None:
            raise InputError("Expected targets on validation but the data gives none")
        return self.task.score(outputs, targets)

    def _save_when_due(self, within: bool = False) -> None:
        """A checkpoint, when the last one is old enough; within an epoch with the random states."""
        due = time.perf_counter() - self._saved >= SAVE_SECONDS
        if self.crew.agree(due):
            self.save(within)
            self._saved = time.perf_counter()

    def save(self, within: bool = False) -> None:
        """Write a checkpoint whole or not at all, and the log beside it."""
        random = None
        if within:
            packed = io.BytesIO()
            torch.save(random_states(), packed)
            random = [
                torch.frombuffer(bytearray(state), dtype=torch.uint8)
                for state in self.crew.collect(packed.getvalue())
            ]
        self.job.folder.mkdir(parents=True, exist_ok=True)
        state = {
            "learner": self.learner,
            "optimizer": self.optimizer,
            "schedule": self.schedule.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
            "epoch": self.next_epoch,
            "place": self.place,
            "seconds": self._seconds(),
            "points": [list(point) for point in self.points],
            "rows": self.log.rows,
            "means": [[heard.sums, heard.counts] for heard in (self.recent, self.whole)],
            "factors": self.balance.factors,
            "random": random,
        }
        with self.checkpoints.cleaning():
            self.fabric.save(self.checkpoints.half, state)
            if self.crew.leads:
                self.checkpoints.keep(self._steps_done())
        if self.crew.leads:
            self.log.write()

    def resume(self) -> None:
        """Go on from the newest whole checkpoint when there is one."""
        state = self.checkpoints.load()
        if state is None:
            return
        try:
            self.module.load_state_dict(state["learner"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            self.fabric.strategy.precision.load_state_dict(state["precision"])
            self.points = [(int(epoch), loss, score) for epoch, loss, score in state["points"]]
            self.next_epoch, self.place = int(state["epoch"]), int(state["place"])
            self.seconds = float(state["seconds"])
            self.log = TrainingLog(self.job.folder, state["rows"])
            self.recent, self.whole = (Means(*map(dict, heard)) for heard in state["means"])
            self.balance.factors = dict(state["factors"])
            if state["random"] is not None:
                packed = io.BytesIO(state["random"][self.crew.rank].numpy().tobytes())
                self._random = torch.load(packed, weights_only=True)
        except (KeyError, RuntimeError, ValueError, IndexError) as error:
            cause = " ".join(str(error).split())[:160]
            self.checkpoints.clear()
            raise InputError(
                f"Expected a checkpoint of this training in {self.job.folder} but it does not fit ({cause}); "
                "it is removed and the training starts anew at the next call"
            ) from None

    def _say_batch_norm(self) -> None:
        if self.crew.alone or not self.crew.leads:
            return
        norms = (nn.modules.batchnorm._BatchNorm,)
        if any(isinstance(module, norms) for module in self.module.modules()):
            log.warning(
                "BatchNorm sees each process' own %d samples: its statistics, and so the weights, are not those "
                "of one process with %d samples a batch",
                self.job.recipe.batch_size,
                self.job.recipe.batch_size * self.crew.world,
            )


def _dtype(model: nn.Module) -> torch.dtype:
    return next((weight.dtype for weight in model.parameters()), torch.float32)
