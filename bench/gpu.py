"""The benchmark matrix on a GPU; bench/gpu.sh runs it part by part.

``python -m bench.gpu PART FILE`` writes the results of one part as they come; ``--dry-run`` runs
the same code on the CPU with tiny inputs, to test it: its times mean nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from bench import rivals
from bench.device import (
    Turn,
    alternate,
    ceilings,
    first_line,
    limit,
    num_sets,
    peak_bytes,
    prepare,
)
from bench.harness import environment, ratio, spread
from bench.passes import draw, make_pass
from bench.workloads import (
    DIMS,
    ML_20M,
    algorithm_1,
    batches,
    example_of,
    on_backend,
    paper_embedding,
    record,
)

MANY_FIELDS = (10_000,) * 26
#: What all products of a case are rounded to: torch's switch, and whether rivals run under autocast
#: to bf16, for which that switch has no mode of theirs.
MODES = {"ieee": ("highest", False), "tf32": ("high", False), "bf16": ("medium", True)}
COMPILE_SECONDS = 60  # of one compiled rival, then it is recorded as not done
GROUP_SECONDS = 2.0  # of timing

Prepare = Callable[[], Turn]


class Settings(NamedTuple):
    """Device and sizes of a run."""

    device: str
    dry: bool

    def size(self, batch: int) -> int:
        return min(batch, 8) if self.dry else batch

    def rows(self, rows: Sequence[int]) -> tuple[int, ...]:
        return tuple(min(r, 100) for r in rows[:3]) if self.dry else tuple(rows)

    def compile_options(self, mode: str) -> dict[str, Any]:
        """Return what torch.compile takes; a dry run traces and generates no code."""
        if self.dry:
            return {"backend": "aot_eager", "dynamic": False}
        # Graphs of its own cannot be part of ours: reduce-overhead keeps its, max-autotune does
        # without and takes ours.
        no_graphs = "-no-cudagraphs" if mode == "max-autotune" else ""
        return {"mode": mode + no_graphs, "dynamic": False}


class Op(NamedTuple):
    """One group of the op's benchmark: cases that are timed in turns."""

    name: str
    batch: int
    order: str = "uniform"
    mode: str = "tf32"
    rows: tuple[int, ...] = ML_20M
    compiled: tuple[str, ...] = ()


class Step(NamedTuple):
    """One group of the step's benchmark."""

    batch: int
    mode: str = "tf32"
    compiled: tuple[str, ...] = ()


SIZES = (500, 4096, 65_536)
SGD, ADAM = "forward+backward+sgd", "forward+backward+adam"
#: The groups of each part, the most telling part first. Compilation takes far longer than timing,
#: so it has parts of its own, for whatever time is left.
GROUPS: dict[str, list[Op] | list[Step]] = {
    "forward": [
        *(Op("forward", batch, mode=mode) for batch in (500, 65_536) for mode in MODES),
        Op("forward", 4096),
        *(Op("forward", batch, "shuffled") for batch in SIZES),
    ],
    "step": [*(Step(batch) for batch in SIZES), Step(500, "ieee")],
    "update": [
        Op(name, batch, order)
        for batch in SIZES
        for name in (SGD, ADAM)
        for order in ("uniform", "shuffled")
    ],
    "fields": [
        Op(name, 4096, "shuffled", rows=MANY_FIELDS)
        for name in ("forward", "forward+backward", ADAM)
    ],
    "step-compiled": [
        Step(500, compiled=("default", "reduce-overhead")),
        *(Step(batch, compiled=("default",)) for batch in (65_536, 4096)),
    ],
    "forward-compiled": [
        Op("forward", 500, mode="ieee", compiled=("default", "reduce-overhead", "max-autotune")),
        Op("forward", 65_536, mode="ieee", compiled=("default", "max-autotune")),
        Op("forward", 4096, compiled=("default",)),
    ],
    "update-compiled": [
        *(Op(name, 65_536, compiled=("default",)) for name in (SGD, "forward+backward")),
        Op("forward+backward", 500, compiled=("default", "reduce-overhead")),
    ],
    "fields-compiled": [
        Op("forward", 4096, "shuffled", rows=MANY_FIELDS, compiled=("default",)),
    ],
}
PARTS = ("environment", "memory", *GROUPS)


def op_cases(group: Op, settings: Settings) -> tuple[dict[str, Prepare], int]:
    """Return the cases of a group, still to be prepared, and their number of input sets."""
    rows, size, device = settings.rows(group.rows), settings.size(group.batch), settings.device
    sets = num_sets(size * len(rows) * 4 * sum(DIMS), device)
    ours = draw(rows, group.order, size, sets, device=device)
    wide = draw(rows, group.order, size, sets, width=sum(DIMS), device=device)
    autocast = MODES[group.mode][1]

    def case(
        make: Callable[[], nn.Module], inputs: Sequence[Any], backend: str | None = None
    ) -> Prepare:
        def prepared() -> Turn:
            with torch.device(device):
                call = make_pass(group.name, make())
            if backend is not None:
                call = on_backend(backend, call)
            elif autocast:
                inner = call

                def call(x: Any) -> object:
                    with torch.autocast(device, torch.bfloat16):
                        return inner(x)

            return prepare(call, inputs, device)

        return prepared

    def compiled(mode: str) -> Prepare:
        why = "has graphs of its own" if mode == "reduce-overhead" else None

        def prepared() -> Turn:
            with torch.device(device):
                plain = rivals.PlainSoftEmbedding(rows, DIMS)
            call = make_pass(group.name, torch.compile(plain, **settings.compile_options(mode)))
            with limit(COMPILE_SECONDS):
                return prepare(call, ours, device, why)

        return prepared

    cases = {
        "autoemb": case(lambda: paper_embedding(rows, sparse=True), ours, "native"),
        "autoemb, reference": case(lambda: paper_embedding(rows, sparse=True), ours, "reference"),
        "torch.nn, dense": case(lambda: rivals.PlainSoftEmbedding(rows, DIMS), ours),
        "fixed width": case(lambda: rivals.PlainEmbedding(rows, sum(DIMS)), wide),
    }
    if group.name != "forward":  # where gradients differ
        sparse = case(lambda: rivals.PlainSoftEmbedding(rows, DIMS, sparse=True), ours)
        cases["torch.nn, sparse"] = sparse
    if group.name.count("+") == 2:
        batched = case(lambda: rivals.TableBatchedEmbedding(rows, sum(DIMS)), wide)
        cases["table-batched, stand-in"] = batched
    if group.compiled:
        modes = {f"torch.compile, {mode}": compiled(mode) for mode in group.compiled}
        return {"autoemb": cases["autoemb"]} | modes, sets
    return cases, sets


def step_cases(group: Step, settings: Settings) -> tuple[dict[str, Prepare], int]:
    rows, size, device = settings.rows(ML_20M), settings.size(group.batch), settings.device
    sets = num_sets(size * len(rows) * 4 * sum(DIMS) * 3, device)  # rows with Adam's moments
    new, past = (batches(rows, "shuffled", size, seed) for seed in (0, 1))
    drawn = [
        [type(batch)(*(x.to(device) for x in batch)) for batch in (next(past), next(new))]
        for _ in range(sets)
    ]
    inputs = [
        (past, last, new)
        for (past, new), (_, last) in zip(drawn, [drawn[-1], *drawn[:-1]], strict=True)
    ]
    examples = [tuple(map(example_of, turn)) for turn in inputs]
    features = torch.rand(size, len(rows), 35 + len(DIMS), device=device)

    def ours(method: str, hypergradient: str = "first", backend: str = "native") -> Prepare:
        def prepared() -> Turn:
            with torch.device(device):
                step, history = algorithm_1(method, rows, hypergradient, DIMS, device)

            def call(examples: Any) -> None:
                record(history, step(*examples))

            return prepare(on_backend(backend, call), examples, device)

        return prepared

    def rival(sparse: bool = False, mode: str | None = None) -> Prepare:
        options = None if mode is None else settings.compile_options(mode)
        why = "has graphs of its own" if mode == "reduce-overhead" else None

        def prepared() -> Turn:
            with torch.device(device):
                step = rivals.step(rows, DIMS, sparse=sparse, compiled=options, device=device)
            with limit(COMPILE_SECONDS):
                return prepare(lambda x: step(x[0], x[2], features), inputs, device, why)

        return prepared

    cases = {"autoemb": ours("autoemb")}
    if group.compiled:
        modes = {f"torch.compile, {mode}": rival(mode=mode) for mode in group.compiled}
        return cases | modes, sets
    return cases | {
        "autoemb, finite-difference": ours("autoemb", "finite-difference"),
        "autoemb, exact": ours("autoemb", "exact"),
        "autoemb, reference": ours("autoemb", backend="reference"),
        "fixed width": ours("fse", backend="auto"),
        "torch.nn, dense": rival(),
        "torch.nn, sparse": rival(sparse=True),
    }, sets


@contextmanager
def multiplying(mode: str) -> Iterator[None]:
    """Set torch's switch for float32 products, which our kernels obey too."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(MODES[mode][0])
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def timed(cases: dict[str, Prepare], sets: int, settings: Settings) -> dict[str, Any]:
    """Prepare and time a group; what fails is recorded with its reason."""
    turns, failed = {}, {}
    for name, case in cases.items():
        try:
            turns[name] = case()
        except Exception as error:  # an error of a rival must not cost the others
            failed[name] = first_line(error)
    seconds = alternate(turns, sets, settings.device, GROUP_SECONDS) if turns else {}
    slower = [name for name in turns if name != "autoemb"] if "autoemb" in turns else []
    return {
        "sets": sets,
        "cases": {
            name: {**spread(values), "why_no_graph": turns[name].why_no_graph}
            for name, values in seconds.items()
        },
        "times_autoemb": {name: ratio(seconds, name, "autoemb") for name in slower},
        "failed": failed,
    }


def memory(settings: Settings) -> Iterator[dict[str, Any]]:
    """Yield peak bytes of forward + backward, and ceilings."""
    for batch in (4096, 65_536):
        rows, size = settings.rows(ML_20M), settings.size(batch)
        (inputs,) = draw(rows, "uniform", size, 1, device=settings.device)
        peaks, failed = {}, {}
        for name, backend, make in (
            ("autoemb", "native", lambda rows=rows: paper_embedding(rows, sparse=True)),
            ("autoemb, reference", "reference", lambda r=rows: paper_embedding(r, sparse=True)),
            ("torch.nn, sparse", "auto", lambda r=rows: rivals.PlainSoftEmbedding(r, DIMS, True)),
        ):
            try:
                module = make().to(settings.device)
                call = on_backend(backend, make_pass("forward+backward", module))
                call(inputs)  # workspaces of libraries
                if not settings.dry:
                    peaks[name] = peak_bytes(lambda call=call, x=inputs: call(x))
            except Exception as error:
                failed[name] = first_line(error)
        yield {"batch": batch, "peak_bytes": peaks, "failed": failed}
    if not settings.dry:
        yield {"ceilings": ceilings()}


def results(part: str, settings: Settings) -> Iterator[dict[str, Any]]:
    """Yield the results of a part, group by group."""
    if part == "environment":
        yield environment()
        return
    if part == "memory":
        yield from memory(settings)
        return
    for group in GROUPS[part]:
        torch.compiler.reset()
        where = group._asdict() | {"part": part, "fields": len(ML_20M)}
        if isinstance(group, Op):
            where["fields"] = len(where.pop("rows"))
            cases, sets = op_cases(group, settings)
        else:
            cases, sets = step_cases(group, settings)
        with multiplying(group.mode):
            done = timed(cases, sets, settings)
        yield where | done


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("file", type=Path)
    parser.add_argument("--dry-run", action="store_true")
    arguments = parser.parse_args()
    dry = arguments.dry_run
    if not (dry or arguments.part == "environment" or torch.cuda.is_available()):
        raise SystemExit("no CUDA device; --dry-run tests this program without one")
    settings = Settings("cpu" if dry else "cuda", dry)
    with arguments.file.open("w") as file:  # one line a group: what is done is kept
        for result in results(arguments.part, settings):
            file.write(json.dumps(result) + "\n")
            file.flush()


if __name__ == "__main__":
    main()
