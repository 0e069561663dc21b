"""Who may read or change a trainer's modules now."""

from __future__ import annotations

import threading


class Lock:
    """A lock that its thread may take again, and that a copy does not share.

    A pass over rows in play puts these into the module for as long as it takes
    (:class:`autoemb.bilevel.working_set.Functional`): another thread that reads the module then
    would find them in the place of its tables.

    Examples
    --------
    >>> import copy
    >>> lock = Lock()
    >>> with lock, lock:
    ...     other = copy.deepcopy(lock)
    >>> other is lock
    False
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[type[Lock], tuple[()]]:
        return Lock, ()
