"""Dense features: transforms fitted on the past, indicators of missing values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from autoemb.schema import Dense

#: Standard deviations from the mean beyond which a value is cut: one slip must not spoil a network.
LARGEST = 10.0

#: Deviation, as a share of the mean, up to which a feature is constant: equal numbers leave 1e-16
#: by rounding, one float32 that differs from its neighbours by the last bit 1e-11 among 10^7.
SMALLEST = 1e-12


class DenseTransform(nn.Module):
    """What a model reads of dense features: each as its transform says, and whether it is missing.

    Parameters
    ----------
    features : sequence of Dense

    Notes
    -----
    C numbers become 2 C inputs: each transformed, then each one's indicator, 1 where it is missing.
    Mean and deviation are those of what :meth:`update` was given, in float64. Until two numbers of
    a feature were seen, nothing is known of its scale, and each counts as the mean.

    Examples
    --------
    >>> import torch
    >>> transform = DenseTransform([Dense(column="price")])
    >>> transform.update(torch.tensor([[1.0], [3.0], [float("nan")]]))
    >>> transform(torch.tensor([[4.0], [float("nan")]]))
    tensor([[2., 0.],
            [0., 1.]])
    """

    def __init__(self, features: Sequence[Dense]) -> None:
        super().__init__()
        self.features = tuple(features)
        kinds = [feature.transform for feature in self.features]
        for name, kind in (("is_log", "log1p"), ("is_plain", "none")):
            chosen = torch.tensor([own == kind for own in kinds])
            self.register_buffer(name, chosen, persistent=False)
        self.is_log: Tensor
        self.is_plain: Tensor
        for name in ("count", "mean", "squares"):
            self.register_buffer(name, torch.zeros(len(self.features), dtype=torch.float64))
        self.count: Tensor
        self.mean: Tensor
        self.squares: Tensor  # sum of squared distances from the mean

    def _scaled(self, values: Tensor) -> Tensor:
        values = values.to(torch.float64)
        return torch.where(self.is_log, values.sign() * values.abs().log1p(), values)

    def forward(self, values: Tensor) -> Tensor:
        """Return the inputs [B, 2 C], float32, of numbers [B, C] with NaN where one is missing."""
        missing = torch.isnan(values)
        scaled = self._scaled(values)
        deviation = (self.squares / self.count.clamp_min(1)).sqrt()
        known = (self.count >= 2) & (deviation > SMALLEST * self.mean.abs())
        standard = (scaled - self.mean) / torch.where(known, deviation, 1.0)
        standard = torch.where(known, standard.clamp(-LARGEST, LARGEST), 0.0)
        result = torch.where(self.is_plain, scaled, standard).masked_fill(missing, 0)
        return torch.cat([result, missing.to(torch.float64)], 1).to(torch.float32)

    @torch.no_grad()
    def update(self, values: Tensor) -> None:
        """Take numbers [B, C] into mean and deviation."""
        there = ~torch.isnan(values)
        scaled = self._scaled(values).masked_fill(~there, 0)
        new = there.sum(0).to(torch.float64)
        mean = scaled.sum(0) / new.clamp_min(1)
        squares = ((scaled - mean).square() * there).sum(0)
        total = self.count + new
        share = new / total.clamp_min(1)
        apart = mean - self.mean
        self.mean += apart * share
        self.squares += squares + apart.square() * self.count * share
        self.count += new
