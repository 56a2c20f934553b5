"""Fashion-MNIST at half resolution: widths 32 to 1 on photographs of clothes.

The four files of the data set lie in one folder, packed (.gz) or not. Debian's package puts them there
(apt-get install dataset-fashion-mnist); the variable FASHION_MNIST names any other folder. Nothing is
downloaded. By default 6,000 photographs to train on, 2,000 to decide on and the whole test set of 10,000.

    gapkit run examples/fashion.py        measure, diagnose, plan, distill and report: about six minutes
    python examples/fashion.py            hops to the student over three seeds; --n-train 50000 for more
"""

from __future__ import annotations

import argparse
import gzip
import math
import os
import zlib
from collections.abc import Iterable, Sequence
from io import BufferedIOBase
from pathlib import Path

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch.utils.data import TensorDataset

import gapkit as gk
from gapkit.examples.digits import build
from gapkit.training.answers import predict

torch.set_num_threads(1)  # networks this small lose more by sharing work than they gain

VARIABLE = "FASHION_MNIST"
FOLDERS = ("/usr/share/datasets/fashion-mnist", "data/fashion-mnist", "data/fashion")
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
PIXELS = (28, 28)
N_CLASSES = 10
UNSIGNED_BYTES = 8  # the only type of idx file that the data set has
HELP = f"apt-get install dataset-fashion-mnist, or name the folder of its four files in {VARIABLE}"

PATHS = {
    "scratch": ((1,),),
    "dist1": ((32, 1), (32, 6, 1), (32, 12, 3, 1)),
}


def files_in(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Split -> its files of images and labels; packed ones where there are no others.

    Raises:
        gk.InputError: naming the first one that is missing.
    """

    def found(name: str) -> Path:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
        raise gk.InputError(f"Expected {name}[.gz] in {folder} but it is not there: {HELP}")

    return {split: (found(images), found(labels)) for split, (images, labels) in FILES.items()}


def home() -> Path:
    """The folder of the data set: the variable's, or the first known one that is there."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named)
    for folder in FOLDERS:
        if Path(folder).is_dir():
            return Path(folder)
    raise gk.InputError(f"Expected Fashion-MNIST in {', '.join(FOLDERS)} but found none: {HELP}")


def read_idx(path: Path, item: Sequence[int] = ()) -> np.ndarray:
    """The bytes (n, *item) of an idx file, packed or not.

    An idx file is the number 0x0800 + dimensions and the sizes, all big-endian 32-bit, then the bytes.

    Args:
        path: of the file; packed when its name ends in .gz.
        item: sizes that each of the n items must have.

    Raises:
        gk.InputError: for another type or shape, for missing or surplus bytes, for a broken archive.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return _read(file, path, tuple(item))
    except (OSError, EOFError, zlib.error) as error:
        cause = " ".join(str(error).split())
        raise gk.InputError(f"Expected to read {path} but: {cause}") from error


def _read(file: BufferedIOBase, path: Path, item: tuple[int, ...]) -> np.ndarray:
    n_header = 4 * (2 + len(item))
    header = file.read(n_header)
    magic = 256 * UNSIGNED_BYTES + 1 + len(item)
    found = int.from_bytes(header[:4], "big")
    if len(header) >= 4 and found != magic:
        raise gk.InputError(f"Expected {path} to begin with {magic:#06x} but got {found:#06x}")
    if len(header) < n_header:
        raise gk.InputError(
            f"Expected {path} to hold {n_header} bytes of header but got {len(header)}"
        )
    n, *sizes = (int(size) for size in np.frombuffer(header, ">u4", offset=4))
    if tuple(sizes) != item:
        raise gk.InputError(f"Expected items of {item} in {path} but got {tuple(sizes)}")
    wanted = n * math.prod(item)
    body = file.read(wanted + 1)
    if len(body) != wanted:
        got = f"{len(body):,}" if len(body) < wanted else "more"
        raise gk.InputError(f"Expected {wanted:,} bytes for {n:,} items in {path} but got {got}")
    return np.frombuffer(body, np.uint8).reshape(n, *item)


def photographs(paths: tuple[Path, Path]) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 28, 28) of 0 to 255 and labels (n,) of 0 to 9."""
    images, labels = read_idx(paths[0], PIXELS), read_idx(paths[1])
    if len(images) != len(labels):
        raise gk.InputError(
            f"Expected a label for each of {len(images):,} images in {paths[0]} but got {len(labels):,}"
        )
    if not len(labels) or labels.max() >= N_CLASSES:
        got = f"a {labels.max()}" if len(labels) else "none"
        raise gk.InputError(f"Expected labels of 0 to {N_CLASSES - 1} in {paths[1]} but got {got}")
    return images, labels


def halved(images: np.ndarray) -> torch.Tensor:
    """(n, 1, 14, 14) means of 2×2 pixels, from 0 to 1."""
    n, height, width = images.shape
    cells = images.reshape(n, height // 2, 2, width // 2, 2).mean((2, 4)) / 255
    return torch.tensor(cells, dtype=torch.float32)[:, None]


def fashion(n_train: int, n_validation: int, seed: int = 0, folder: Path | None = None) -> gk.Data:
    """Train and validation, stratified by class, from the 60,000; the whole test set."""
    files = files_in(home() if folder is None else folder)
    images, labels = photographs(files["train"])
    if n_train + n_validation > len(labels):
        raise gk.InputError(
            f"Expected n_train + n_validation of at most {len(labels):,} but got {n_train:,} + {n_validation:,}"
        )

    def dataset(images: np.ndarray, labels: np.ndarray) -> TensorDataset:
        return TensorDataset(halved(images), torch.tensor(labels, dtype=torch.long))

    rows = _chosen(np.arange(len(labels)), n_train + n_validation, labels, seed)
    train = _chosen(rows, n_train, labels, seed)
    validation = np.setdiff1d(rows, train)
    return gk.Data(
        train=dataset(images[train], labels[train]),
        validation=dataset(images[validation], labels[validation]),
        test=dataset(*photographs(files["test"])),
    )


def _chosen(rows: np.ndarray, n: int, labels: np.ndarray, seed: int) -> np.ndarray:
    """n of the rows, the classes in proportion."""
    if n == len(rows):
        return rows
    return train_test_split(rows, train_size=n, stratify=labels[rows], random_state=seed)[0]


def study(
    seed: int = 0,
    epochs: int = 15,
    n_train: int = 6000,
    n_validation: int = 2000,
    folder: Path | None = None,
) -> gk.Study:
    """The failing student of width 1 and its teacher of width 32, both trained here."""
    return gk.Study(
        name="fashion",
        task=gk.Classification(),
        data=fashion(n_train, n_validation, seed, folder),
        family=gk.Family(build, sizes=[1, 3, 6, 12, 32], student=1, teacher=32),
        recipe=gk.Recipe(epochs=epochs, batch_size=100, lr=1e-2, knowledge="kl4"),
        seed=seed,
    )


def hops(opened: gk.Study, seeds: Iterable[int] = range(3)) -> dict[tuple, np.ndarray]:
    """Path of sizes -> (seeds, 2) accuracy on validation and on test of the model at its end."""
    trainings, data = opened.trainings, opened.data
    found = {}
    for knowledge, paths in PATHS.items():
        for path in paths:
            rows = []
            for seed in seeds:
                training = trainings.arm(path, knowledge, seed)
                outputs = predict(
                    trainings.model(training), data, "test", opened.task, opened.device
                )
                rows.append((training.score, opened.task.score(outputs, data.targets("test"))))
            found[path] = np.array(rows)
    return found


def table(found: dict[tuple, np.ndarray]) -> str:
    """One line a path: validation, test with its spread over seeds, paired difference to labels alone."""
    scratch = found[PATHS["scratch"][0]][:, 1]
    first = f"path, {len(scratch)} seeds"
    lines = [f"{first:>20} {'validation':>10} {'test':>14} {'against labels alone':>22}"]
    for path, scores in found.items():
        test, better = scores[:, 1], scores[:, 1] - scratch
        spread, error = test.std(ddof=1), better.std(ddof=1) / math.sqrt(len(better))
        lines.append(
            f"{' → '.join(map(str, path)):>20} {scores[:, 0].mean():>10.3f} "
            f"{f'{test.mean():.3f} ± {spread:.3f}':>14} {f'{better.mean():+.3f} ± {error:.3f} SE':>22}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Hops from width 32 down to width 1, over seeds.")
    parser.add_argument("--n-train", type=int, default=6000)
    parser.add_argument("--n-validation", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--n-seeds", type=int, default=3)
    given = parser.parse_args()
    opened = study(epochs=given.epochs, n_train=given.n_train, n_validation=given.n_validation)
    print(table(hops(opened, range(given.n_seeds))))
