"""A state_dict that does not depend on how a module lays out its memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


class LogicalState(nn.Module):
    """A module whose ``state_dict`` has names and shapes of its own, as views into its memory."""

    def _logical(self) -> Iterator[tuple[str, Tensor]]:
        """Yield each entry of the state_dict as a view into the module's memory."""
        raise NotImplementedError

    def _physical(self, prefix: str) -> set[str]:
        """Return the keys that a state_dict would have by the layout in memory."""
        raise NotImplementedError

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for key in self._physical(prefix):
            del destination[key]
        for key, view in self._logical():
            destination[prefix + key] = view if keep_vars else view.detach()

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        if local_metadata.get("assign_to_params_buffers"):
            error_msgs.append(f"{prefix}tables are views of one table: assign=True cannot set them")
            return
        views = {prefix + key: view for key, view in self._logical()}
        physical = self._physical(prefix)
        others = {k: v for k, v in state_dict.items() if k not in views and k not in physical}
        missing: list[str] = []
        super()._load_from_state_dict(
            others, prefix, local_metadata, strict, missing, unexpected_keys, error_msgs
        )
        missing_keys.extend(key for key in missing if key not in physical)
        if strict:
            unexpected_keys.extend(key for key in state_dict if key in physical)
        for key, view in views.items():
            if key not in state_dict:
                if strict:
                    missing_keys.append(key)
                continue
            value = state_dict[key]
            if value.shape != view.shape:
                error_msgs.append(
                    f"size mismatch for {key}: copying a param with shape {value.shape} from "
                    f"checkpoint, the shape in current model is {view.shape}."
                )
                continue
            with torch.no_grad():
                view.copy_(value)
