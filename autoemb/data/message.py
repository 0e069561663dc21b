"""Text of a stranger's file, made fit to be shown on a terminal."""


def printable(value: object, limit: int = 80) -> str:
    r"""Return `value` as one line without control characters, at most about `limit` long.

    Examples
    --------
    >>> print(printable("1,2,\x1b[31mred\n"))
    1,2,\x1b[31mred\n
    >>> printable("a" * 100, limit=5)
    'aaaaa...'
    """
    text = str(value)
    shown = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text[:limit]
    )
    return shown + "..." if len(text) > limit else shown
