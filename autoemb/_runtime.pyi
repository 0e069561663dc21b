from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

compiler: str

class Int64IdTable:
    def rows(self, ids: npt.NDArray[np.int64], insert: bool = True) -> npt.NDArray[np.int64]: ...
    def ids(self) -> npt.NDArray[np.int64]: ...
    def reserve(self, rows: int) -> None: ...
    def __len__(self) -> int: ...

class StringIdTable:
    def rows(self, ids: list[str], insert: bool = True) -> npt.NDArray[np.int64]: ...
    def ids(self) -> list[str]: ...
    def reserve(self, rows: int) -> None: ...
    def __len__(self) -> int: ...

def record(
    rows: npt.NDArray[np.int64],
    loss: npt.NDArray[np.float32],
    decay: float,
    count: npt.NDArray[np.int64],
    last_loss: npt.NDArray[np.float32],
    mean_loss: npt.NDArray[np.float32],
) -> None: ...
def forgetting_sums(
    rows: npt.NDArray[np.int64],
    values: npt.NDArray[np.float32],
    decay: float,
    sums: npt.NDArray[np.float32],
) -> None: ...
def learn_factors(
    tables: Sequence[npt.NDArray[np.float32]],
    rows: Sequence[npt.NDArray[np.int64]],
    residual: npt.NDArray[np.float32],
    weight: npt.NDArray[np.float32],
    rate: float,
    penalty: float,
) -> None: ...
def distinct(
    rows: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]: ...
