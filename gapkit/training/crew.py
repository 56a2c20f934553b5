"""Crew: the processes that train together; the first decides what, the others follow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Crew:
    """This process among those that train together; alone by default.

    Attributes:
        rank: of this process, 0 for the one that decides and writes; world: how many there are.
        strategy: "ddp" or "fsdp", as lightning-fabric names it; "auto" alone.
        device: where messages between processes travel.

    >>> Crew().leads, Crew().agree(True)
    (True, True)
    """

    rank: int = 0
    world: int = 1
    strategy: str = "auto"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def leads(self) -> bool:
        """Whether this process decides and writes."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is no other."""
        return self.world == 1

    def tell(self, order: Mapping[str, Any] | None) -> None:
        """Send all followers an order, as JSON; None sends them home."""
        if self.alone:
            return
        words = json.dumps(order).encode()
        dist.broadcast(torch.tensor([len(words)], device=self.device), 0)
        dist.broadcast(torch.frombuffer(bytearray(words), dtype=torch.uint8).to(self.device), 0)

    def hear(self) -> Any:
        """Wait for the next order."""
        length = torch.zeros(1, dtype=torch.int64, device=self.device)
        dist.broadcast(length, 0)
        words = torch.zeros(int(length), dtype=torch.uint8, device=self.device)
        dist.broadcast(words, 0)
        return json.loads(words.cpu().numpy().tobytes())

    def part(self) -> None:
        """End the talk when all are done: threads that still listen as a process ends would abort it."""
        if not self.alone and dist.is_initialized():
            dist.barrier()
            dist.destroy_process_group()

    def agree(self, decision: bool) -> bool:
        """What the first process decides."""
        if self.alone:
            return decision
        flag = torch.tensor([int(decision)], device=self.device)
        dist.broadcast(flag, 0)
        return bool(flag)

    def total(self, value: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.alone:
            return value
        summed = value.detach().clone().to(self.device)
        dist.all_reduce(summed)
        return summed

    def gather(self, rows: Tensor) -> Tensor:
        """Rows (n, ...) of all processes in their order; only this one's carry gradients.

        The gradient of a loss over all rows is then this process' part; the sum over processes is whole.
        """
        if self.alone:
            return rows
        own = rows.detach().contiguous()
        counts = [torch.zeros(1, dtype=torch.int64, device=own.device) for _ in range(self.world)]
        dist.all_gather(counts, torch.tensor([len(own)], device=own.device))
        sizes = [int(count) for count in counts]
        padded = own.new_zeros((max(sizes), *own.shape[1:]))
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in range(self.world)]
        dist.all_gather(parts, padded)
        shown = [part[:size] for part, size in zip(parts, sizes)]
        shown[self.rank] = rows
        return torch.cat(shown)

    def collect(self, state: bytes) -> list[bytes]:
        """What every process says, in their order."""
        if self.alone:
            return [state]
        rows = torch.frombuffer(bytearray(state), dtype=torch.uint8).to(self.device)
        lengths = self.gather(torch.tensor([len(state)], device=self.device)).tolist()
        whole = self.gather(rows).cpu().numpy().tobytes()
        starts = [sum(lengths[:i]) for i in range(self.world)]
        return [whole[start : start + length] for start, length in zip(starts, lengths)]
