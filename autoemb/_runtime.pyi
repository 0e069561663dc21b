from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

compiler: str

class Int64IdTable:
    def rows(self, ids: npt.NDArray[np.int64], insert: bool = True) -> npt.NDArray[np.int64]: ...
    def ids(self) -> npt.NDArray[np.int64]: ...
    def at(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]: ...
    def reserve(self, rows: int) -> None: ...
    def nbytes(self) -> int: ...
    def __len__(self) -> int: ...

class StringIdTable:
    def rows(self, ids: list[str], insert: bool = True) -> npt.NDArray[np.int64]: ...
    def ids(self) -> list[str]: ...
    def at(self, rows: npt.NDArray[np.int64]) -> list[str]: ...
    def reserve(self, rows: int) -> None: ...
    def nbytes(self) -> int: ...
    def __len__(self) -> int: ...

def record(
    rows: npt.NDArray[np.int64],
    loss: npt.NDArray[np.float32],
    decay: float,
    count: npt.NDArray[np.int64],
    last_loss: npt.NDArray[np.float32],
    mean_loss: npt.NDArray[np.float32],
) -> None: ...
def advance_statistics(
    tables: Sequence[npt.NDArray[np.float32]],
    rows: Sequence[npt.NDArray[np.int64]],
    offsets: Sequence[npt.NDArray[np.int64] | None],
    counts: Sequence[bool],
    factored: Sequence[bool],
    shrinkage: Sequence[float],
    label: npt.NDArray[np.float32],
    weight: npt.NDArray[np.float32],
    until: npt.NDArray[np.int64],
    last: int,
    totals: Mapping[str, npt.NDArray[np.float64]],
    told: npt.NDArray[np.float32],
    mean: npt.NDArray[np.float32],
    *,
    strengths: Sequence[float],
    odds: bool,
    rarest: float,
    decay: float,
    rate: float,
    penalty: float,
    largest: float,
) -> None: ...
def distinct(
    rows: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]: ...
