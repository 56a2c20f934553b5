"""side_by_side(): trials in processes of their own, on this machine or, by joblib's backends, on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gapkit.planner import Trial


def side_by_side(
    train: Callable[[Trial], float], trials: Sequence[Trial], jobs: int
) -> list[float]:
    """Scores of trials, in their order; one after the other in this process when `jobs` is 1.

    joblib runs them: in its own processes, or where `joblib.parallel_config(backend="dask")` (or Ray's) is
    in force on that cluster's workers, which must see the run folder under the same path.

    Args:
        train: trial -> score; pickled by value for every process.
        jobs: trials that run at once.

    >>> side_by_side(lambda trial: trial.seed / 2, [Trial((9, 1), "kl", seed) for seed in (1, 2)], 1)
    [0.5, 1.0]
    """
    if jobs == 1 or len(trials) == 1:
        return [train(trial) for trial in trials]
    from joblib import Parallel, delayed

    return [float(score) for score in Parallel(n_jobs=jobs)(delayed(train)(t) for t in trials)]
