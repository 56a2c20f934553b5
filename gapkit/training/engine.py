"""Engine: lightning-fabric on one device, or on the processes that train together."""

from __future__ import annotations

import datetime
import logging
import os
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from gapkit.errors import InputError
from gapkit.training.crew import Crew

if TYPE_CHECKING:
    from lightning_fabric import Fabric

PATIENCE = datetime.timedelta(days=7)  # of a process for what another is doing


def make_fabric(
    device: str | torch.device, precision: str, crew: Crew | None = None, helpers: bool = False
) -> Fabric:
    """The fabric of this process' device, without talk.

    Args:
        helpers: whether some weights may get no gradient in a step.

    Raises:
        InputError: for a device that is not there, or a precision that it lacks.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy, FSDPStrategy

    device, crew = torch.device(device), crew or Crew()
    if device.type == "cpu" and precision.startswith("16"):
        raise InputError(
            f"Expected a precision that CPUs have but got {precision!r}; 'bf16-mixed' is one"
        )
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"Expected a device that is there but got {str(device)!r}; 'cpu' is")
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    if crew.alone:
        devices: Any = [device.index or 0] if device.type == "cuda" else 1
        return Fabric(accelerator=device.type, devices=devices, precision=precision)  # type: ignore[arg-type]
    strategy: Any = crew.strategy
    if strategy == "ddp":
        strategy = DDPStrategy(find_unused_parameters=helpers, timeout=PATIENCE)
    elif strategy == "fsdp":
        strategy = FSDPStrategy(state_dict_type="full", timeout=PATIENCE)
    nodes = int(os.environ.get("GROUP_WORLD_SIZE", 1))
    fabric = Fabric(
        accelerator=device.type,
        devices=crew.world // nodes,
        num_nodes=nodes,
        strategy=strategy,
        precision=precision,  # type: ignore[arg-type]
    )
    fabric.launch()
    return fabric


class Casting(nn.Module):
    """A model that takes its inputs, and answers, in a fabric's precision."""

    def __init__(self, model: nn.Module, fabric: Fabric) -> None:
        super().__init__()
        self.model = model
        self._precision = fabric.strategy.precision

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = self._precision.convert_input((args, kwargs))
        with self._precision.forward_context():
            return self.model(*args, **kwargs)


def launch(devices: int, strategy: str, device: str | torch.device) -> Crew:
    """Start the processes that train together; in each of them this returns its place.

    Started by torchrun, the processes are there already and `devices` is their number (0: however many).

    Raises:
        InputError: for a strategy or a number of devices that this machine cannot have.
    """
    given = int(os.environ.get("WORLD_SIZE", 0)) if "LOCAL_RANK" in os.environ else 0
    world = given or devices
    kind = torch.device(device).type
    if devices and given and devices != given:
        raise InputError(
            f"Expected --devices {given}, the processes that were started, but got {devices}"
        )
    if world <= 1:
        return Crew()
    if strategy not in ("ddp", "fsdp"):
        raise InputError(f"Expected strategy 'ddp' or 'fsdp' but got {strategy!r}")
    if strategy == "fsdp" and kind != "cuda":
        raise InputError(
            f"Expected GPUs for strategy 'fsdp' but the device is {kind!r}; take 'ddp'"
        )
    there = torch.cuda.device_count() if kind == "cuda" else world
    if int(os.environ.get("LOCAL_WORLD_SIZE", world)) > there:
        raise InputError(f"Expected {world} GPUs but there are {there}")
    fabric = make_fabric(kind, "32-true", Crew(world=world, strategy=strategy))
    return Crew(fabric.global_rank, fabric.world_size, strategy, fabric.device)
