"""Memory in proportion to a file, while what the file asks for is built."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from autoemb.errors import UserError

#: Bytes that may be built for every byte of a file, and beside: its tensors, their initial values
#: on the way, and tables before any id.
PER_BYTE, BESIDE = 8, 2**26


class Allowance(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuse tensors that take much more memory than a file has bytes.

    The options in a state's file say how large a model is built, which then takes the tensors of
    the file: of one that does not hold them, no model is built.

    Parameters
    ----------
    file : Path

    Raises
    ------
    UserError
        From whatever makes one tensor too many.

    Examples
    --------
    >>> import tempfile, torch
    >>> with tempfile.NamedTemporaryFile() as file, Allowance(Path(file.name)):
    ...     small, large = torch.zeros(1000), torch.empty(10**9)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    autoemb.errors.UserError: ... does not hold the model that its options ask for
    """

    def __init__(self, file: Path) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._file = file
        self._left = BESIDE + PER_BYTE * file.stat().st_size
        self._seen: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Count what an operation makes. New memory is not touched before it was."""
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in self._seen:
                    self._seen.add(storage.data_ptr())
                    self._left -= storage.nbytes()
        if self._left < 0:
            raise UserError(f"{self._file} does not hold the model that its options ask for")
        return made
