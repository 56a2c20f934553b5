"""Weights: read from files that run no code, known by their hash, moved without touching the user's."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gapkit.errors import InputError


def on_device(model: nn.Module, device: torch.device) -> nn.Module:
    """The model itself when it is there already, a copy there else: the user's stays where it was."""
    tensors = [*model.parameters(), *model.buffers()]
    if all(
        tensor.device.type == device.type and device.index in (None, tensor.device.index)
        for tensor in tensors
    ):
        return model
    return copy.deepcopy(model).to(device)


def read_state(state: Any, who: str) -> Mapping[str, Any]:
    """A state dict, given as one or as the path of a safetensors or weights-only file."""
    if isinstance(state, (str, Path)):
        try:
            state = _loaded(Path(state))
        except Exception as error:  # a file can be wrong in a dozen ways
            cause = " ".join(str(error).split())[:200]
            raise InputError(f"Expected to read {who} from {state} but: {cause}") from None
    if not isinstance(state, Mapping):
        raise InputError(
            f"Expected {who} to be a state dict, or a file that holds one, but got {type(state).__name__}"
        )
    return state


def _loaded(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def hash_weights(model: nn.Module) -> str:
    """SHA-256 over names, shapes and values of a model's state."""
    return hash_state(model.state_dict())


def hash_state(state: Mapping[str, Any]) -> str:
    """The same over a state dict."""
    digest = hashlib.sha256()
    for name, tensor in state.items():
        if isinstance(tensor, torch.Tensor):
            digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
            digest.update(
                tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            )
    return digest.hexdigest()
