"""Numbers in prose: whichever way a result goes, the sentence stays true."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from autoemb.lab.report.wording import decimal

_COUNTS = (
    *("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen"),
)


def count(number: int) -> str:
    """Return a count as a word where it is small.

    Examples
    --------
    >>> count(0), count(8), count(1234)
    ('none', 'eight', '1,234')
    """
    return _COUNTS[number] if number < len(_COUNTS) else f"{number:,}"


def counted(number: int, noun: str) -> str:
    """Return a count with its noun.

    Examples
    --------
    >>> counted(1, "seed"), counted(3, "seed")
    ('one seed', 'three seeds')
    """
    return f"{'no' if number == 0 else count(number)} {noun}{'' if number == 1 else 's'}"


def listed(names: Iterable[object], last: str = "and") -> str:
    """Return names in a row.

    Examples
    --------
    >>> listed([2, 16, 64]), listed(["one"]), listed([])
    ('2, 16 and 64', 'one', 'none')
    """
    *most, final = [str(name) for name in names] or ["none"]
    return f"{', '.join(most)} {last} {final}" if most else final


def share(chosen: Collection[object] | int, every: Collection[object] | int) -> str:
    """Return how many of all there are.

    Examples
    --------
    >>> share(2, 8), share(8, 8), share(0, 8), share(1, 1)
    ('two of eight', 'all eight', 'none of eight', 'one of one')
    """
    few, many = (n if isinstance(n, int) else len(n) for n in (chosen, every))
    return f"all {count(many)}" if few == many > 1 else f"{count(few)} of {count(many)}"


def signed(value: float, digits: int = 2) -> str:
    """Return a number of a table, with its sign; what rounds to zero has none.

    Examples
    --------
    >>> signed(-0.004), signed(0.17)
    ('0.00', '+0.17')
    """
    rounded = round(value, digits)
    return decimal(rounded, digits, sign=True) if rounded else decimal(0.0, digits)


def percent(value: float, digits: int = 2) -> str:
    """Return a share that is told without its sign.

    Examples
    --------
    >>> percent(-0.168)
    '0.17 %'
    """
    return f"{abs(value):.{digits}f} %"


def extent(values: Collection[float], digits: int = 2) -> str:
    """Return the least and the largest of some numbers.

    Examples
    --------
    >>> extent([3.14, 1.0], 1), extent([2.0, 2.0], 0)
    ('1.0 to 3.1', '2')
    """
    return " to ".join(dict.fromkeys(decimal(x, digits) for x in (min(values), max(values))))


def against(values: Collection[float], digits: int = 2) -> str:
    """Return where losses lie, in percent of another: "X's loss is ... that of Y".

    Examples
    --------
    >>> against([-0.86, 0.17]), against([0.1, 0.2], 1), against([-0.3]), against([0.0, 0.001])
    ('0.86 % below to 0.17 % above', '0.1 to 0.2 % above', '0.30 % below', 'level with')
    """
    low, high = round(min(values), digits), round(max(values), digits)
    if low < 0 < high:
        return f"{percent(low, digits)} below to {percent(high, digits)} above"
    if low == high == 0:
        return "level with"
    ends = dict.fromkeys(f"{abs(end):.{digits}f}" for end in sorted((low, high), key=abs))
    return f"{' to '.join(ends)} % {'below' if low < 0 else 'above'}"


def effect(values: float | Sequence[float], digits: int = 2, *, many: bool = False) -> str:
    """Return what a change does, or many changes do, to the loss, given in percent.

    Examples
    --------
    >>> effect(0.37), effect([-0.07]), effect([0.37, 0.38], many=True), effect(0.001)
    ('costs 0.37 %', 'saves 0.07 %', 'cost 0.37 to 0.38 %', 'changes nothing')
    >>> effect([-0.1, 0.2])
    'saves 0.10 % to costs 0.20 %'
    """
    every = [values] if isinstance(values, float | int) else values
    save, cost, change = ("save", "cost", "change") if many else ("saves", "costs", "changes")
    words = against(every, digits)
    if words == "level with":
        return f"{change} nothing"
    if "below to" in words:
        return f"{save} {percent(min(every), digits)} to {cost} {percent(max(every), digits)}"
    number, _, way = words.rpartition(" ")
    return f"{save if way == 'below' else cost} {number}"
