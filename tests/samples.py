"""Sample inputs of the op, whose odd cases are all here, and of the updates of rows."""

from dataclasses import dataclass, replace

import pytest
import torch

from autoemb.ops.native import kernels_for
from autoemb.ops.problem import Problem
from autoemb.optim import OPTIMIZERS

EPS = 1e-5


FORWARD = torch.ops.autoemb.soft_embedding
BACKWARD = torch.ops.autoemb.soft_embedding_backward


def overload(packet, sample, backend="auto"):
    """Return the overload of a registered op that the public function takes for a sample."""
    reference = kernels_for(backend, sample.tables, sample.weights) is None
    return packet.reference if reference else packet.default


@dataclass(frozen=True)
class Case:
    dims: tuple[int, ...]
    fields: int
    batch: int
    ids: str = "repeated"  # or "distinct", "same"
    layout: str = "contiguous"  # or "strided": no input is contiguous
    average: bool = True

    def __str__(self):
        dims = ".".join(map(str, self.dims))
        average = "" if self.average else "-sum"
        return f"{dims}-F{self.fields}-B{self.batch}-{self.ids}-{self.layout}{average}"


CASES = [
    Case((2, 16, 128), 2, 500),
    Case((2, 16, 128), 26, 33, layout="strided"),
    Case((2, 16, 128), 1, 2, ids="distinct"),
    Case((8,), 1, 31),
    Case((8,), 2, 33, ids="same"),
    Case((8,), 1, 1),
    Case((4, 8), 2, 31, layout="strided"),
    Case((4, 8), 2, 2, ids="same"),
    Case((4, 8), 1, 500, ids="same", average=False),
    Case((1, 3, 7), 26, 31, ids="distinct"),
    Case((1, 3, 7), 2, 33, average=False),
    Case((1, 3, 7), 2, 1, layout="strided"),
    Case((2, 2), 1, 500, layout="strided"),
    Case((2, 2), 2, 2),
]
EMPTY = [Case((2, 16, 128), 2, 0), Case((8,), 1, 0), Case((1, 3, 7), 26, 0, layout="strided")]


@dataclass
class Sample:
    """Inputs of one call, and the gradient of a loss for its output."""

    tables: list[torch.Tensor]
    ids: torch.Tensor
    weights: torch.Tensor
    projection: torch.Tensor
    bias: torch.Tensor
    running: tuple[torch.Tensor, torch.Tensor] | None  # None: training mode
    grad: torch.Tensor
    dims: tuple[int, ...]
    average: bool = True
    eps: float = EPS

    @property
    def leaves(self):
        return [*self.tables, self.weights, self.projection, self.bias]

    def arguments(self):
        """Return what soft_embedding takes."""
        positional = (
            self.tables,
            self.ids,
            self.weights,
            self.projection,
            self.bias,
            self.running,
        )
        return positional, {"dims": self.dims, "eps": self.eps, "average": self.average}

    def problem(self, mean=None, variance=None):
        """Return what the registered ops take; mean and variance are for a backward pass."""
        if self.running is not None and mean is None:
            mean, variance = self.running
        tensors = self.ids, self.weights, self.projection, self.bias, mean, variance
        training = self.running is None
        return Problem(*tensors, self.tables, self.dims, self.eps, self.average, training)

    def detached(self):
        """Return it with the same tensors, none of which requires a gradient."""
        return replace(
            self,
            tables=[table.detach() for table in self.tables],
            weights=self.weights.detach(),
            projection=self.projection.detach(),
            bias=self.bias.detach(),
        )

    def to(self, dtype):
        """Return fresh leaves in another dtype; statistics stay at least float32."""
        statistics = torch.promote_types(dtype, torch.float32)

        def leaf(x):
            return x.detach().to(dtype).requires_grad_(x.requires_grad)

        return replace(
            self,
            tables=[leaf(table) for table in self.tables],
            weights=leaf(self.weights),
            projection=leaf(self.projection),
            bias=leaf(self.bias),
            running=self.running and tuple(x.to(statistics) for x in self.running),
            grad=self.grad.to(dtype),
        )


def draw(case: Case, training: bool, dtype=torch.float64, seed=0) -> Sample:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return strided(torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype)

    def strided(x):
        if case.layout == "contiguous":
            return x
        wide = x.new_zeros(*x.shape[:-1], 2 * x.shape[-1])
        wide[..., ::2] = x
        return wide[..., ::2]

    fields, sizes, width, total = case.fields, len(case.dims), case.dims[-1], sum(case.dims)
    rows = [max(case.batch, 5) + f for f in range(fields)]
    if case.ids == "distinct":
        columns = [torch.randperm(n, generator=generator)[: case.batch] for n in rows]
    elif case.ids == "same":
        columns = [torch.full((case.batch,), n - 1) for n in rows]
    else:  # about 5 ids that come back
        columns = [
            torch.randint(0, n, (5,), generator=generator)[
                torch.randint(0, 5, (case.batch,), generator=generator)
            ]
            for n in rows
        ]
    ids = strided(torch.stack(columns, 1))
    running = normal(fields, sizes, width), normal(fields, sizes, width).exp()
    return Sample(
        tables=[normal(n, total).requires_grad_() for n in rows],
        ids=ids,
        weights=strided(normal(case.batch, fields, sizes).softmax(2)).requires_grad_(),
        projection=normal(fields, width, total).requires_grad_(),
        bias=normal(fields, sizes, width).requires_grad_(),
        running=None if training else tuple(x.to(torch.float64) for x in running),
        grad=normal(case.batch, fields, width),
        dims=case.dims,
        average=case.average,
    )


def sampler(dtype):
    """Return a function that draws a sample by the fields of a Case."""

    def make(*args, training=True, seed=0, **kwargs):
        return draw(Case(*args, **kwargs), training, dtype, seed)

    return make


def mode(training):
    return "train" if training else "eval"


# A batch of one has no variance: in training mode the module refuses it.
POPULATED = [
    pytest.param((case, training), id=f"{case}-{mode(training)}")
    for case in CASES
    for training in (True, False)
    if case.batch > 1 or not training
]


#: Names of the optimisers whose row rule is a registered op with kernels.
WITH_OP = [name for name, kind in OPTIMIZERS.items() if kind.op is not None]


def update_op(name):
    """Return the name of the op that a row optimiser calls; both kinds of Adagrad share one."""
    return OPTIMIZERS[name].op


def draw_update(name, rows=6, width=4, strided=False, device="cpu"):
    """Return what the op of a row optimiser takes: every second row, some state."""
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape):
        return torch.rand(*shape, generator=generator).to(device)

    table = uniform(rows, 2 * width + 1)[:, 1 : width + 1] if strided else uniform(rows, width)
    chosen = torch.arange(1, rows, 2, device=device)
    grad = uniform(len(chosen), width) - 0.5
    match name:
        case "sgd":
            rest = (0.1,)
        case "adagrad":
            rest = uniform(rows, width), 0.1, 1e-3
        case "rowwise-adagrad":
            rest = uniform(rows, 1), 0.1, 1e-3
        case "adam":
            steps = torch.ones(rows, 1, dtype=torch.int32, device=device)
            rest = uniform(rows, width), uniform(rows, width), steps, 0.1, 0.8, 0.95, 1e-3
    return table, chosen, grad, *rest


def spoilt(x):
    """Return what a caller may give by mistake in the place of a tensor, by name."""
    wide = torch.cat([x, x], -1) if x.dim() else x
    return {
        "none": lambda: x,
        "float64": lambda: x.double(),
        "float16": lambda: x.half(),
        "float32": lambda: x.float(),
        "int32": lambda: x.int(),
        "int64": lambda: x.long(),
        "bool": lambda: x.bool(),
        "complex": lambda: x.to(torch.complex64),
        "meta": lambda: x.to("meta"),
        "sparse": lambda: x.to_sparse(),
        "shorter": lambda: x[:-1],
        "longer": lambda: torch.cat([x, x]),
        "narrower": lambda: x[..., :-1],
        "wider": lambda: wide,
        "empty": lambda: x[:0],
        "without columns": lambda: x[..., :0],
        "a number": lambda: x.flatten()[0],
        "flat": lambda: x.flatten(),
        "deeper": lambda: x.unsqueeze(0),
        "transposed": lambda: x.t() if x.dim() == 2 else x,
        "columns apart": lambda: wide[..., ::2],
        "expanded": lambda: x[:1].expand_as(x),
        "negative": lambda: -1 - x,
        "large": lambda: x + 2**40,
    }


#: How a wrong argument is told: never by reading or writing memory that is not its.
REFUSED = (IndexError, NotImplementedError, RuntimeError, TypeError, ValueError)

#: A recipe of a row for each size, which the fused op is for; the default has one row an id.
OF_SIZES = {
    "rows": "sizes", "budget": 0, "model": "mlp", "optimizer": "adagrad", "history": "none",
    "controller_history": "full",
}  # fmt: skip
