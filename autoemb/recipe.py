"""How a learner learns: one declaration for library, command line, TOML files and records."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from annotated_types import Ge, Gt, Le
from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from autoemb.declared import Declared, shown
from autoemb.errors import UserError
from autoemb.optim import OPTIMIZERS

#: What nested rows have no other of: whoever asks for another gets a row for each size.
_NESTED = {"norm": "none", "mix": "sum", "projection": "identity"}

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_UNITS |= {f"{unit}i": 1024**power for power, unit in enumerate("kmgt", start=1)}

Positive = Annotated[float, Gt(0), Field(allow_inf_nan=False)]
Width = Annotated[int, Ge(1), Le(2**16)]


def _option(text: str, **checks: Any) -> Any:
    """Return a field whose help the command line shows."""
    return Field(description=text, **checks)


def bytes_or_share(value: object) -> object:
    """Return a budget as a number: up to 1 a share, above that bytes; 0 for none.

    Examples
    --------
    >>> bytes_or_share("64MB"), bytes_or_share("1.5 GiB"), bytes_or_share("0.06")
    (64000000.0, 1610612736.0, 0.06)
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(?:([kmgt]i?)?b)?\s*", value.lower())
    if found is None:
        raise PydanticCustomError("wanted", "a share up to 1, or bytes such as 64MB")
    return float(found[1]) * _UNITS[found[2] or ""]


def _no_few_bytes(value: float) -> float:
    if 1 < value < 1000:
        raise PydanticCustomError("wanted", "a share up to 1, or bytes such as 64MB")
    return value


class Recipe(Declared):
    """Everything that decides how a learner learns, but the schema, the task and the seed.

    The defaults are the recipe of :data:`PRESETS` under "default".

    Raises
    ------
    UserError
        For a value outside its choices or range; names it.

    Examples
    --------
    >>> Recipe(dims=(16, 2))
    Traceback (most recent call last):
        ...
    autoemb.errors.UserError: dims is 16,2; expected positive sizes in ascending order
    """

    method: Annotated[
        Literal["autoemb", "sam", "darts", "fse", "fm", "logistic", "bias", "mean"],
        _option(
            "Who mixes the embedding sizes; or fse: one size; or an opponent: a factorisation "
            "machine, or what earlier labels say of ids, linearly, as shrunken offsets, as a mean."
        ),
    ] = "autoemb"
    dims: Annotated[
        tuple[Width, ...], _option("Embedding sizes; fse takes one as wide as their sum.")
    ] = (2, 16, 128)
    hidden: Annotated[tuple[Width, ...], _option("Widths of the model's hidden layers.")] = (128,)
    controller_hidden: Annotated[
        tuple[Width, ...], _option("Widths of the controller's hidden layers.")
    ] = (64,)
    controller: Annotated[
        Literal["separate", "shared"],
        _option("Controller: a network for each table, or one for all that is told the table."),
    ] = "shared"
    model: Annotated[
        Literal["mlp", "deepfm", "dcn"],
        _option("Network over the embeddings and dense features."),
    ] = "dcn"
    history: Annotated[
        Literal["full", "counts", "none"],
        _option(
            "What the model is told of ids beside their rows: what earlier labels say, how many "
            "there were, or none. Opponents read what they need."
        ),
    ] = "full"
    freshness: Annotated[
        Literal["batch", "event"],
        _option(
            "Which labels are told of an event's ids: those before its batch, or before the event."
        ),
    ] = "batch"
    label_delay: Annotated[
        float,
        Ge(0),
        Field(allow_inf_nan=False),
        _option("Seconds by which labels come late, to whatever learns from them."),
    ] = 0.0
    learn_chunk: Annotated[
        int | None,
        Ge(1),
        Le(2**40),
        _option("Events that the network learns at a time, once their batch is predicted."),
    ] = None
    controller_history: Annotated[
        Literal["counts", "full"],
        _option(
            "What the controller is told of ids: how often they were seen; or their losses and "
            "last mix, too, as in the paper."
        ),
    ] = "counts"
    optimizer: Annotated[
        Literal["adagrad", "adam", "ftrl", "rowwise-adagrad", "sgd"],
        _option("Of weights and controller."),
    ] = "rowwise-adagrad"
    learning_rate: Annotated[Positive, _option("Of the weights.")] = 0.005
    controller_learning_rate: Annotated[Positive, _option("Of the controller.")] = 0.01
    row_rate: Annotated[
        Positive, _option("Learning rate of the rows of tables, as a multiple of these.")
    ] = 7.5
    row_weight_decay: Annotated[
        float, Ge(0), Field(allow_inf_nan=False), _option("L2 penalty of the rows in a batch.")
    ] = 0.0
    norm: Annotated[
        Literal["none", "batch", "running"],
        _option("Statistics that sizes are normalised with: none, the batch's, or those before."),
    ] = "none"
    norm_eps: Annotated[Positive, _option("What is added to the variances of sizes.")] = 1.0
    mix: Annotated[
        Literal["sum", "mean"], _option("Sum of the weighted sizes, or their mean (Eq. 7).")
    ] = "sum"
    init_std: Annotated[
        float,
        Ge(0),
        _option("Standard deviation of new embeddings.", allow_inf_nan=False),
    ] = 0.1
    projection: Annotated[
        Literal["identity", "uniform"],
        _option("How projections of sizes start: the widest as the identity, or at random."),
    ] = "identity"
    start: Annotated[
        Literal["popularity", "equal"],
        _option("Mix that ids start with: more of the widest size by popularity, or equal."),
    ] = "popularity"
    validation: Annotated[
        Literal["new-events", "reservoir", "last-batch"],
        _option(
            "What the controller learns from: events that the weights have not learnt yet, a "
            "sample of the past, or the last batch."
        ),
    ] = "new-events"
    hypergradient: Annotated[
        Literal["first", "finite-difference", "exact"],
        _option("How the controller sees the weights' own step."),
    ] = "first"
    selection: Annotated[
        Literal["soft", "hard"],
        _option("How predictions are scored; hard: the largest size alone (Eq. 6)."),
    ] = "soft"
    reservoir: Annotated[int, Ge(2), Le(2**40), _option("Past events kept to sample from.")] = (
        100_000
    )
    rows: Annotated[
        Literal["nested", "sizes"],
        _option(
            "One row an id, of which sizes are prefixes; or one for each size (the paper's), which "
            "norm, mix and projection are of."
        ),
    ] = "nested"
    budget: Annotated[
        float,
        Ge(0),
        Field(allow_inf_nan=False),
        BeforeValidator(bytes_or_share),
        AfterValidator(_no_few_bytes),
        _option(
            "Most that ids may own, rows, optimiser, history and tables of ids: bytes (64MB), or a "
            "share of what the paper's fixed width (146) and its Adagrad sums take; 0: no limit."
        ),
    ] = 0.0625
    worth: Annotated[
        Literal["traffic", "controller", "both"],
        _option("Who gets bytes: ids often seen, those whom the controller gives wide sizes."),
    ] = "traffic"

    @model_validator(mode="before")
    @classmethod
    def _what_follows(cls, content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        follows: dict[str, Any] = {}
        if any(content.get(name, only) != only for name, only in _NESTED.items()):
            follows["rows"] = "sizes"
        several = (follows | content).get("rows") == "sizes"
        if content.get("method") in ("fse", *OPPONENTS) or (
            several and content.get("selection") == "hard"
        ):
            follows["budget"] = 0.0
        return follows | content

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.dims or list(self.dims) != sorted(self.dims):
            raise ValueError(
                f"dims is {shown(self.dims)}; expected positive sizes in ascending order"
            )
        told = self.history != "none" or self.method in OPPONENTS
        if self.freshness != "batch" and not told:
            raise ValueError(
                f"freshness is {self.freshness}; expected batch with history none, which tells "
                "nothing of ids"
            )
        if self.budget and self.method in ("fse", *OPPONENTS):
            raise ValueError(
                f"budget is {self.budget:g}; expected 0 with method {self.method}, which has no "
                "sizes to grant"
            )
        if self.rows == "nested":
            for name, only in _NESTED.items():
                if getattr(self, name) != only:
                    raise ValueError(
                        f"{name} is {getattr(self, name)}; expected {only}, or rows sizes"
                    )
        elif self.budget and self.selection == "hard":
            raise ValueError(
                f"budget is {self.budget:g}; expected 0 with hard selection and rows sizes, as an "
                "id may not own its largest size"
            )
        return self

    @classmethod
    def of(cls, preset: str = "default", **options: Any) -> Self:
        """Return a preset with some options given, and what follows from these.

        An optimizer that is given brings its own rates, without the paper's preset; an opponent
        has its own under every preset. Within a budget of rows of several sizes ids start with
        equal weights: up to 0.6 % better than a start by popularity with a quarter of the floats.

        Examples
        --------
        >>> Recipe.of("paper", norm="running").mix, Recipe.of(optimizer="sgd").learning_rate
        ('mean', 0.1)
        """
        if preset not in PRESETS:
            raise UserError(f"preset is {preset!r}; expected one of {', '.join(PRESETS)}")
        chosen = dict(PRESETS[preset])
        if preset == "default":
            optimizer = options.get("optimizer")
            if isinstance(optimizer, str) and optimizer in OPTIMIZERS:
                chosen |= OPTIMIZERS[optimizer].rates._asdict()
        chosen |= OPPONENTS.get(str(options.get("method")), {})
        found = cls(**chosen | {name: v for name, v in options.items() if v is not None})
        of_sizes = preset == "default" and found.rows == "sizes" and found.budget
        if of_sizes and options.get("start") is None:
            return cls(**found.model_dump(exclude_unset=True) | {"start": "equal"})
        return found


#: The opponents that no method may lose to, each with what it decides beside the defaults; rates by
#: the online loss of ml-100k and MovieTweetings, one seed.
OPPONENTS: dict[str, dict[str, Any]] = {
    "mean": {},
    "bias": {},
    "logistic": {"optimizer": "adagrad", "learning_rate": 0.1},
    "fm": {"optimizer": "adagrad", "learning_rate": 0.01, "row_rate": 10.0, "init_std": 0.03},
}

#: What each preset decides beside the defaults. docs/study.md tells how these were chosen. The
#: paper names no optimiser; under Adagrad its methods are best in time order.
#: bench/results/controllers.json has the controllers that were tried: a small one for all tables
#: gives the losses of the paper's, one a table, at two thirds of its time.
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "paper": {
        "history": "none",
        "model": "mlp",
        "controller_history": "full",
        "rows": "sizes",
        "budget": 0.0,
        "hidden": (512, 512),
        "controller": "separate",
        "controller_hidden": (512, 512),
        "optimizer": "adagrad",
        "learning_rate": 0.01,
        "controller_learning_rate": 0.001,
        "row_rate": 1.0,
        "norm": "batch",
        "norm_eps": 1e-5,
        "mix": "mean",
        "init_std": 1.0,
        "projection": "uniform",
        "start": "equal",
        "validation": "reservoir",
    },
}
