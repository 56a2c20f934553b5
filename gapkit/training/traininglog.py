"""TrainingLog: how a training goes, row by row, as CSV and for TensorBoard."""

from __future__ import annotations

import csv
import importlib.util
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gapkit.runs import write

FIRST = ("epoch", "step", "seconds", "lr", "loss", "score")


class TrainingLog:
    """Rows of one training; log.csv in its folder is written whole each time.

    Rows travel in the checkpoint, so that a resumed training's log has neither gaps nor repeats.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> log = TrainingLog(folder)
    >>> log.add({"epoch": 1, "step": 8, "loss": 0.5, "kl τ=4": 0.4})
    >>> log.write()
    >>> (folder / "log.csv").read_text()
    'epoch,step,loss,kl τ=4\\n1,8,0.5,0.4\\n'
    """

    def __init__(self, folder: Path, rows: Sequence[Mapping[str, Any]] = ()) -> None:
        self.folder, self.rows = folder, [dict(row) for row in rows]
        self._shown = len(self.rows)
        self._writer: Any = None

    def add(self, row: Mapping[str, Any]) -> None:
        """One more row; its columns may be others than those before."""
        self.rows.append(dict(row))

    def write(self) -> None:
        """Write log.csv, and what is new for TensorBoard when that is installed."""
        names = dict.fromkeys(name for row in self.rows for name in row)
        columns = [name for name in FIRST if name in names]
        columns += [name for name in names if name not in FIRST]
        out = io.StringIO()
        table = csv.DictWriter(out, columns, restval="", lineterminator="\n")
        table.writeheader()
        table.writerows(self.rows)
        self.folder.mkdir(parents=True, exist_ok=True)
        write(self.folder / "log.csv", out.getvalue().encode())
        self._show(self.rows[self._shown :])
        self._shown = len(self.rows)

    def _show(self, rows: Sequence[Mapping[str, Any]]) -> None:
        if not rows or importlib.util.find_spec("tensorboard") is None:
            return
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            step = int(rows[0]["step"])
            self._writer = SummaryWriter(str(self.folder / "tensorboard"), purge_step=step)
        for row in rows:
            for name, value in row.items():
                if name not in ("epoch", "step") and isinstance(value, (int, float)):
                    self._writer.add_scalar(name, value, int(row["step"]))
        self._writer.flush()

    def close(self) -> None:
        """Leave TensorBoard's file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
