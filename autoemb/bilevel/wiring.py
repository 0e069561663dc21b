"""Whether a model, a controller and a history fit together: said at construction, by name."""

from __future__ import annotations

from torch import nn

from autoemb.bilevel.working_set import read_by
from autoemb.nn.rows import row_parameters
from autoemb.nn.soft import SoftEmbedding
from autoemb.schema import Sparse


def check_wiring(model: nn.Module, controller: nn.Module | None) -> dict[str, Sparse]:
    """Return the features that a model reads, by name, if the controller suits it.

    Raises
    ------
    ValueError
        For a module that is distributed already, one that owns rows but names no features, a
        controller that lacks a table or has other sizes, or one that owns rows of a table that the
        model does not read.

    Examples
    --------
    >>> from autoemb import Controller
    >>> model = SoftEmbedding([9], (1, 2), features=["user_id"])
    >>> list(check_wiring(model, Controller(["user_id"], sizes=2, num_features=37)))
    ['user_id']
    """
    for part in (model, controller):
        for path, child in [] if part is None else part.named_modules():
            if isinstance(child, nn.DataParallel | nn.parallel.DistributedDataParallel):
                raise ValueError(
                    f"{type(child).__name__} ({path or 'the module itself'}) exchanges gradients "
                    "in hooks that a trainer of two levels does not run; give the module it wraps"
                )
    features = read_by(model)
    tables = {feature.table for feature in features.values()}
    if controller is None:
        return features
    for path, row in row_parameters(controller).items():
        if row.table not in tables:
            raise ValueError(
                f"the controller owns rows of table {row.table!r} ({path}), which the model does "
                f"not read; it reads {', '.join(sorted(tables))}"
            )
    known, sizes = getattr(controller, "tables", None), getattr(controller, "sizes", None)
    for table in known or ():
        if table not in tables:
            raise ValueError(
                f"the controller mixes table {table!r}, which the model does not read; it reads "
                f"{', '.join(sorted(tables)) or 'none'}"
            )
    for path, child in model.named_modules():
        if not isinstance(child, SoftEmbedding):
            continue
        missing = [] if known is None else [t for t in child.reading.tables if t not in known]
        if missing:
            raise ValueError(
                f"the controller gives no mix to table {missing[0]!r} of {path or 'the model'}; "
                f"its tables are {', '.join(known or ())}"
            )
        if sizes not in (None, len(child.embedding_dims)):
            raise ValueError(
                f"the controller mixes {sizes} sizes; {path or 'the model'} has "
                f"{len(child.embedding_dims)}: {child.embedding_dims}"
            )
    return features
