"""Names, numbers and verdicts in words: the same in the page, the terminal and the documents."""

import math

from autoemb.lab.report.records import METRICS, Comparison, Difference

NOT_AVAILABLE = "n/a"
_METHODS = {"fse": "FSE", "sam": "SAM", "darts": "DARTS", "autoemb": "AutoEmb"}


def display(method: str) -> str:
    """Return a method's name as the paper writes it.

    Examples
    --------
    >>> display("autoemb"), display("mine")
    ('AutoEmb', 'mine')
    """
    return _METHODS.get(method, method)


def loss_name(task: str) -> str:
    """Return what the loss of a task is.

    Examples
    --------
    >>> loss_name("regression")
    'MSE loss'
    """
    return {"regression": "MSE loss", "classification": "CE loss"}[task]


def decimal(value: float, digits: int = 4, *, sign: bool = False) -> str:
    """Return a number as the tables show it, with a true minus sign.

    Examples
    --------
    >>> decimal(-0.00012, 5, sign=True), decimal(float("nan"))
    ('−0.00012', 'n/a')
    """
    if math.isnan(value):
        return NOT_AVAILABLE
    kind = "e" if abs(value) >= 1e6 else "f"
    return f"{value:{'+' if sign else ''}.{digits}{kind}}".replace("-", "\N{MINUS SIGN}")


def whole(value: float) -> str:
    """Return a count or a rate without decimals, in groups of three.

    Examples
    --------
    >>> whole(1234567.8)
    '1,234,568'
    """
    return NOT_AVAILABLE if math.isnan(value) else f"{value:,.0f}"


def describe(comparison: Comparison) -> list[str]:
    """Return data, order, task, events and seeds; synthetic data are called so."""
    data, seeds = comparison.data, comparison.seeds
    return [
        f"{data.name} (synthetic data)" if data.synthetic else data.name,
        f"{comparison.config.get('order', 'unrecorded')} order",
        comparison.task,
        f"{data.interactions:,} events",
        f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}",
    ]


def spread_note(comparison: Comparison) -> str:
    """Return what the numbers around ± are, and what is bold."""
    seeds = len(comparison.seeds)
    spread = f"Mean ± standard deviation over {seeds} seeds" if seeds > 1 else "One seed, no spread"
    return f"{spread}; the best of a column is bold" if len(comparison.methods) > 1 else spread


def verdict(difference: Difference) -> str:
    """Return "better", "worse", "undecided", "identical" or "n/a": the method against the baseline.

    Examples
    --------
    >>> verdict(Difference("autoemb", "fse", "online", "loss", 0.002, 0.001, 0.003, 0.95))
    'worse'
    """
    if math.isnan(difference.low) or math.isnan(difference.high):
        return NOT_AVAILABLE
    if difference.low == difference.high == 0:
        return "identical"
    if difference.low <= 0 <= difference.high:
        return "undecided"
    return "better" if (difference.high < 0) == (difference.metric == "loss") else "worse"


def reading(difference: Difference) -> str:
    """Return in words what a paired difference says.

    Examples
    --------
    >>> reading(Difference("autoemb", "fse", "online", "loss", 0.002, -0.001, 0.003, 0.95))
    'undecided: the interval includes zero'
    >>> reading(Difference("autoemb", "sam", "online", "loss", 0.0, 0.0, 0.0, 0.95))
    'identical: no window differs'
    """
    word = verdict(difference)
    if word == NOT_AVAILABLE:
        return "no interval recorded"
    if word == "identical":
        return "identical: no window differs"
    return f"{word}: the interval {'includes' if word == 'undecided' else 'excludes'} zero"


def pair(difference: Difference) -> str:
    """Return which two methods were subtracted.

    Examples
    --------
    >>> pair(Difference("autoemb", "fse", "online", "loss", 0.0, 0.0, 0.0, 0.95))
    'AutoEmb − FSE'
    """
    return f"{display(difference.method)} \N{MINUS SIGN} {display(difference.baseline)}"


def interval(difference: Difference) -> str:
    """Return the bounds of the confidence interval.

    Examples
    --------
    >>> interval(Difference("autoemb", "fse", "online", "loss", 0.0, -0.001, 0.002, 0.95))
    '−0.00100 to +0.00200'
    """
    return " to ".join(decimal(x, 5, sign=True) for x in (difference.low, difference.high))


def interval_name(comparison: Comparison) -> str:
    """Return what the intervals are called, with their confidence, such as "95 % interval"."""
    levels = sorted({d.confidence for d in comparison.differences if d.confidence > 0})
    return " ".join([*(f"{100 * level:.4g} %" for level in levels), "interval"])


def findings(comparison: Comparison) -> list[str]:
    """Return what the paired differences of the online stage say, wins and losses alike.

    Returns
    -------
    list of str
        One sentence per method and metric; empty where there are no differences.
    """
    phrases = {
        "better": "better than",
        "worse": "worse than",
        "undecided": "undecided against",
        "identical": "identical to",
        NOT_AVAILABLE: "no interval against",
    }
    sentences = []
    for method in comparison.methods:
        for metric in METRICS:
            against: dict[str, list[str]] = {word: [] for word in phrases}
            for d in comparison.differences:
                if (d.method, d.stage, d.metric) == (method, "online", metric):
                    against[verdict(d)].append(display(d.baseline))
            said = [
                f"{phrases[word]} {', '.join(names)}" for word, names in against.items() if names
            ]
            if said:
                sentences.append(f"{display(method)}, online {metric}: {'; '.join(said)}.")
    return sentences
