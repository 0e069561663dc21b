"""Methods x seeds on the same events, and the paired differences between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoemb.errors import UserError
from autoemb.files import sole_writer, write_json
from autoemb.lab.config import RunConfig
from autoemb.lab.differences import differences, read_windows
from autoemb.lab.recorder import STAGES
from autoemb.lab.run import Progress, run
from autoemb.lab.summary import versions_of
from autoemb.learners import METHODS, twin

if TYPE_CHECKING:  # polars, which the rest of the package does without
    from autoemb.data import Dataset


def default_methods(config: RunConfig) -> tuple[str, ...]:
    """Return all methods but those that another one computes to the last bit: they run once.

    Every comparison shows what anybody computes in an afternoon beside the methods.

    Examples
    --------
    >>> {*default_methods(RunConfig(validation="reservoir"))} - {*default_methods(RunConfig())}
    {'sam'}
    """
    return tuple(name for name in METHODS if twin(config.but(method=name).recipe) is None)


def compare(
    config: RunConfig,
    data: Dataset,
    out: Path,
    *,
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    resume: bool = False,
    keep: bool = False,
    progress: Callable[[str, int], Progress | None] | None = None,
) -> dict[str, Any]:
    """Run every method with every seed on the same events and compare them in pairs.

    Parameters
    ----------
    config : RunConfig
        Options of every run but method and seed.
    data : Dataset
    out : Path
        Gets a folder for every run, and ``compare.json`` when all are complete.
    methods, seeds : sequence
        The last method is compared with each other one. By default all methods, those that are one
        computation once (:func:`default_methods`).
    resume : bool, default False
        Keep complete runs and continue incomplete ones.
    keep : bool, default False
        Keep the final state of every run, which takes as much room as its tables do.
    progress : callable, optional
        (method, seed) -> what :func:`run` takes as ``progress``.

    Returns
    -------
    dict
        The content of ``compare.json``.

    Raises
    ------
    UserError
        For no or repeated methods or seeds, or what :func:`run` raises.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from autoemb.data import synthetic
    >>> options, out = RunConfig(dims=(2, 4)), pathlib.Path(tempfile.mkdtemp())
    >>> result = compare(options, synthetic(2000), out, methods=["fse", "darts"], seeds=[0])
    >>> [(row["method"], row["seed"]) for row in result["results"]]
    [('fse', 0), ('darts', 0)]
    """
    methods = default_methods(config) if methods is None else methods
    _check_names(methods, seeds)
    configs = [config.but(method=m, seed=s) for m in methods for s in seeds]
    with sole_writer(out):
        if (out / "compare.json").exists() and not resume:
            raise UserError(
                f"{out} already holds a comparison; pass --resume or choose another --out"
            )
        made: dict[tuple[str, int], dict[str, Any]] = {}
        for one in configs:
            method: str = one.recipe.method
            report = None if progress is None else progress(method, one.seed)
            folder = out / _folder(method, one.seed)
            made[method, one.seed] = run(
                one, data, folder, resume=resume, keep=keep, progress=report
            )
        comparison = _comparison(made, out, methods, seeds)
        write_json(out / "compare.json", comparison)
    return comparison


def _folder(method: str, seed: int) -> str:
    return f"{method}-seed{seed}"


def _comparison(
    made: dict[tuple[str, int], dict[str, Any]],
    out: Path,
    methods: Sequence[str],
    seeds: Sequence[int],
) -> dict[str, Any]:
    """Return the content of ``compare.json`` from the summaries of all runs."""
    windows = {
        key: read_windows(out / _folder(*key) / "metrics.jsonl", summary)
        for key, summary in made.items()
    }
    (*_, last) = made.values()
    options = last["config"] | {"methods": list(methods), "seeds": list(seeds)}
    return {
        "results": [
            {"method": method, "seed": seed, "run": _folder(method, seed)}
            | {key: summary[key] for key in (*STAGES, "seconds", "ids", "owned")}
            for (method, seed), summary in made.items()
        ],
        "differences": differences(windows, methods, seeds),
        "data": last["data"],
        "task": last["task"],
        "config": {k: v for k, v in options.items() if k not in ("method", "seed")},
        "versions": versions_of(made.values()),
    }


def _check_names(methods: Sequence[str], seeds: Sequence[int]) -> None:
    for name, values in (("--methods", methods), ("--seeds", seeds)):
        if not values or len(set(values)) != len(values):
            given = ",".join(map(str, values))
            raise UserError(f"{name} is {given!r}; expected different values separated by commas")
    for name in methods:
        if name not in METHODS:
            raise UserError(f"--methods names {name}; expected some of {', '.join(METHODS)}")
