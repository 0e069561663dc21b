"""The trivial opponents of every method: what anybody computes in an afternoon.

They read what earlier labels say of the ids (:class:`autoemb.nn.inputs.Known`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from autoemb.batch import Known
from autoemb.nn.fixed import FixedEmbedding
from autoemb.nn.inputs import Inputs
from autoemb.nn.layers import dense_of
from autoemb.nn.models.deepfm import pairs_of
from autoemb.nn.rows import RowModule
from autoemb.schema import Sparse

#: (mean [B, C], offsets [B, F, C]) -> logits [B, C]: :meth:`autoemb.tasks.Task.expecting`.
Expecting = Callable[[Tensor, Tensor], Tensor]

#: Octaves of an id's events that inputs tell apart.
OCTAVES = 12


class Trivial(RowModule):
    """A model that reads what labels say of ids.

    Any module whose ``reads_known`` is true gets :attr:`autoemb.nn.Inputs.known` of
    :func:`autoemb.build_learner`.

    Parameters
    ----------
    features : sequence of Sparse
    expecting : callable
        (mean [B, C], offsets [B, F, C]) -> logits [B, C], of a task.
    """

    reads_known = True

    def __init__(self, features: Sequence[str | Sparse], expecting: Expecting) -> None:
        super().__init__(features)
        self.expecting = expecting

    def known(self, inputs: Inputs) -> Known:
        """Return what is known of a batch's ids.

        Raises
        ------
        ValueError
            If the batch does not tell.
        """
        if inputs.known is None:
            raise ValueError(
                f"{type(self).__name__} reads what earlier labels say of ids; the batch does not "
                "tell"
            )
        return inputs.known


class Mean(Trivial):
    """The mean of all labels so far, whatever the ids.

    Examples
    --------
    >>> from autoemb.schema import Label
    >>> from autoemb.tasks import Value
    >>> ids = torch.tensor([[0.0]]), torch.tensor([[[0.0]]])  # events, sums
    >>> known = Known(torch.tensor([[3.0]]), *ids, torch.tensor([[5.0]]), torch.zeros(1, 1, 6))
    >>> Mean(["user_id"], Value(Label(column="x", kind="value")).expecting)(Inputs({}, None, known))
    tensor([[3.]])
    """

    def forward(self, inputs: Inputs, mix: None = None) -> Tensor:
        """Return logits [B, C]; ``mix`` is not used."""
        known = self.known(inputs)
        return self.expecting(known.mean, torch.zeros_like(known.sums))


class Bias(Trivial):
    """The mean, and for each feature what its id's labels left over, shrunk.

    Examples
    --------
    >>> from autoemb.schema import Label
    >>> from autoemb.tasks import Value
    >>> ids = torch.tensor([[3.0]]), torch.tensor([[[4.0]]])  # events, sums
    >>> known = Known(torch.tensor([[3.0]]), *ids, torch.tensor([[5.0]]), torch.zeros(1, 1, 6))
    >>> Bias(["user_id"], Value(Label(column="x", kind="value")).expecting)(Inputs({}, None, known))
    tensor([[3.5000]])
    """

    def forward(self, inputs: Inputs, mix: None = None) -> Tensor:
        """Return logits [B, C]; ``mix`` is not used."""
        known = self.known(inputs)
        return self.expecting(known.mean, known.offsets())


def told(known: Known) -> Tensor:
    """Return what is known of each event's ids as inputs [B, F (12 + T)] of a network.

    The octave of the number of events, and what sums and factors say.

    Examples
    --------
    >>> ids = torch.tensor([[3.0]]), torch.tensor([[[1.0]]])  # events, sums
    >>> told(Known(torch.zeros(1, 1), *ids, torch.tensor([[5.0]]), torch.full((1, 1, 6), 0.5)))
    tensor([[0.0000, 0.0000, 1.0000, 0.0000, 0.0000, 0.0000, 0.0000, 0.0000, 0.0000,
             0.0000, 0.0000, 0.0000, 0.5000, 0.5000, 0.5000, 0.5000, 0.5000, 0.5000]])
    """
    return torch.cat([octaves(known.events), known.told], 2).flatten(1)


def octaves(events: Tensor) -> Tensor:
    """Return the octave of numbers of events [B, F] as inputs [B, F, 12], two of which share a 1.

    Examples
    --------
    >>> octaves(torch.tensor([[0.0, 1.0]]))[:, :, :3]
    tensor([[[1., 0., 0.],
             [0., 1., 0.]]])
    """
    octave = torch.log2(1 + events).clamp_max(OCTAVES - 1).unsqueeze(2)
    centres = torch.arange(OCTAVES, dtype=octave.dtype, device=octave.device)
    return (1 - (octave - centres).abs()).clamp_min(0)


class Logistic(Trivial):
    """A linear model of what is known of the ids and of the dense features, beside :class:`Bias`.

    Parameters
    ----------
    features : sequence of Sparse
    expecting : callable
        As of :class:`Trivial`.
    told : int
        T, the number of inputs that each feature gets beside the octave of its events.
    outputs : int, default 1
        C, the width of the output.
    num_dense : int, default 0
        Number of dense inputs.

    Notes
    -----
    All weights start at zero.

    Examples
    --------
    >>> from autoemb.schema import Label
    >>> from autoemb.tasks import Value
    >>> ids = torch.tensor([[3.0]]), torch.tensor([[[4.0]]])  # events, sums
    >>> known = Known(torch.tensor([[3.0]]), *ids, torch.tensor([[5.0]]), torch.zeros(1, 1, 6))
    >>> model = Logistic(["user_id"], Value(Label(column="x", kind="value")).expecting, 6)
    >>> model(Inputs({}, None, known))  # what Bias says
    tensor([[3.5000]], grad_fn=<AddBackward0>)
    """

    def __init__(
        self,
        features: Sequence[str | Sparse],
        expecting: Expecting,
        told: int,
        outputs: int = 1,
        num_dense: int = 0,
    ) -> None:
        super().__init__(features, expecting)
        self.num_dense = num_dense
        inputs = len(self.features) * (OCTAVES + told) + num_dense
        self.linear = nn.Linear(inputs, outputs)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, inputs: Inputs, mix: None = None) -> Tensor:
        """Return logits [B, C]; ``mix`` is not used.

        Raises
        ------
        ValueError
            For a batch with other dense inputs than the model reads.
        """
        known = self.known(inputs)
        parts = told(known)
        if self.num_dense:
            parts = torch.cat([parts, dense_of(inputs, self.num_dense)], 1)
        base = self.expecting(known.mean, known.offsets())
        result: Tensor = base + self.linear(parts)
        return result


class FM(Trivial):
    """A factorisation machine whose biases are those of :class:`Bias` (Rendle, 2010, Eq. 1).

    ``logits = bias + v x + sum_{f<g} <e_f, e_g>`` with embeddings e_f and dense features x.

    Parameters
    ----------
    embedding : FixedEmbedding
        Gives [B, F, D]; names its features.
    expecting : callable
        As of :class:`Trivial`.
    outputs : int, default 1
        C, the width of the output.
    num_dense : int, default 0
        Number of dense inputs.

    Notes
    -----
    The weights v start at zero. Several outputs share the products of embeddings, each with D
    weights of its own that start at one, as in neural factorisation machines (He and Chua, 2017,
    Eq. 5).

    Examples
    --------
    >>> from autoemb.schema import Label
    >>> from autoemb.tasks import Value
    >>> ids = torch.tensor([[3.0]]), torch.tensor([[[4.0]]])  # events, sums
    >>> known = Known(torch.tensor([[3.0]]), *ids, torch.tensor([[5.0]]), torch.zeros(1, 1, 6))
    >>> embedding = FixedEmbedding([10], 8, features=["user_id"])
    >>> model = FM(embedding, Value(Label(column="x", kind="value")).expecting)
    >>> model(Inputs({"user_id": torch.tensor([7])}, None, known))  # one feature has no pairs
    tensor([[3.5000]], grad_fn=<AddBackward0>)
    """

    def __init__(
        self,
        embedding: FixedEmbedding,
        expecting: Expecting,
        outputs: int = 1,
        num_dense: int = 0,
    ) -> None:
        super().__init__(embedding.features, expecting)
        self.embedding, self.num_dense = embedding, num_dense
        self.dense = nn.Parameter(torch.zeros(num_dense, outputs)) if num_dense else None
        width = embedding.output_dim
        self.pairs = nn.Parameter(torch.ones(width, outputs)) if outputs > 1 else None

    def forward(self, inputs: Inputs, mix: None = None) -> Tensor:
        """Return logits [B, C]; ``mix`` is not used.

        Raises
        ------
        ValueError
            For a batch with other dense inputs than the model reads.
        """
        known = self.known(inputs)
        pairs = pairs_of(self.embedding(inputs))
        logits = pairs.sum(1, keepdim=True) if self.pairs is None else pairs @ self.pairs
        if self.dense is not None:
            logits = logits + dense_of(inputs, self.num_dense) @ self.dense
        return self.expecting(known.mean, known.offsets()) + logits
