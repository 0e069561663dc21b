"""Names, numbers and verdicts in words: the same in the page, the terminal and the documents."""

import math
import re
from collections.abc import Iterable
from statistics import fmean

from autoemb.lab.records import Comparison, Difference, Scored

NOT_AVAILABLE = "n/a"
_METHODS = {"fm": "FM", "fse": "FSE", "sam": "SAM", "darts": "DARTS", "autoemb": "AutoEmb"}
#: The opponent that skill is measured against.
TRIVIAL = "bias"
_FEATURES = {"user_id": "user", "item_id": "item"}
_LOSSES = {
    "regression": "MSE loss",
    "classification": "CE loss",
    "click": "log loss",
    "value": "squared error",
}
_METRICS = {"auc": "AUC", "mae": "MAE", "normalised_entropy": "normalised entropy"}

#: Whether a lower value is the better one; of other metrics nobody knows.
_LOWER_IS_BETTER = {
    **dict.fromkeys(("loss", "mae", "normalised_entropy"), True),
    **dict.fromkeys(("accuracy", "auc"), False),
}

#: More columns or figures than these tell a reader nothing.
MOST_METRICS, MOST_FEATURES = 8, 4


def display(method: str) -> str:
    """Return a method's name as the paper writes it.

    Examples
    --------
    >>> display("autoemb"), display("mine")
    ('AutoEmb', 'mine')
    """
    return _METHODS.get(method, method)


_OPPONENTS = {
    "mean": "mean, of all labels so far",
    "bias": "bias, which adds what the labels of an event's ids left over",
    "logistic": "logistic, a linear model of these and the dense features",
    "fm": "FM, which adds products of eight factors an id to bias",
}


def opponents(methods: Iterable[str]) -> str:
    """Return who among the methods is a trivial opponent, and what it computes; else nothing.

    Examples
    --------
    >>> opponents(["mean", "autoemb"])
    'Trivial opponents: mean, of all labels so far.'
    """
    said = [_OPPONENTS[method] for method in methods if method in _OPPONENTS]
    return f"Trivial opponents: {'; '.join(said)}." if said else ""


def loss_name(task: str) -> str:
    """Return what the loss of a task is.

    Examples
    --------
    >>> loss_name("regression")
    'MSE loss'
    """
    return _LOSSES.get(task, "loss")


def metric_name(metric: str, task: str) -> str:
    """Return what a metric is called in tables and figures of a task.

    Examples
    --------
    >>> metric_name("loss", "click"), metric_name("auc", "click"), metric_name("mine", "click")
    ('log loss', 'AUC', 'mine')
    """
    return loss_name(task) if metric == "loss" else _METRICS.get(metric, metric)


#: The metric beside the loss that a terminal has room for, where it is not the first recorded.
KNOWN_BY = {"click": ("auc",)}


def metrics(scored: Iterable[Scored]) -> list[str]:
    """Return the first metrics that any of some records hold, the loss before all."""
    found = dict.fromkeys(name for record in scored for name in record.metrics)
    return [*found][:MOST_METRICS]


def lower_is_better(metric: str) -> bool | None:
    """Return which values of a metric are better; None where nobody knows.

    Examples
    --------
    >>> lower_is_better("loss"), lower_is_better("auc"), lower_is_better("mine")
    (True, False, None)
    """
    return _LOWER_IS_BETTER.get(metric)


def feature(name: str) -> str:
    """Return what the ids of a feature are.

    Examples
    --------
    >>> feature("user_id"), feature("city")
    ('user', 'city')
    """
    return _FEATURES.get(name, name)


def file_name(name: str, taken: set[str]) -> str:
    """Return a name that is safe in a file name and not taken; it is taken from then on.

    Examples
    --------
    >>> taken = set()
    >>> file_name("a b", taken), file_name("a/b", taken)
    ('a-b', 'a-b-2')
    """
    plain = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:180] or "other"
    found, times = plain, 1
    while found.lower() in taken:  # some file systems do not tell case
        times += 1
        found = f"{plain}-{times}"
    taken.add(found.lower())
    return found


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


def percent(value: float) -> str:
    """Return a percentage with its sign.

    Examples
    --------
    >>> percent(-1.25), percent(float("nan"))
    ('−1.2 %', 'n/a')
    """
    return NOT_AVAILABLE if math.isnan(value) else f"{decimal(value, 1, sign=True)} %"


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
    """Return in a word what the method is against the baseline.

    "better", "worse", "undecided", "identical", "n/a", or "different" by a metric of which nobody
    knows what is better.

    Examples
    --------
    >>> names = {"method": "autoemb", "baseline": "fse", "stage": "online", "metric": "loss"}
    >>> verdict(Difference(**names, mean=0.002, low=0.001, high=0.003, confidence=0.95))
    'worse'
    """
    if math.isnan(difference.low) or math.isnan(difference.high):
        return NOT_AVAILABLE
    if difference.low == difference.high == 0:
        return "identical"
    if difference.low <= 0 <= difference.high:
        return "undecided"
    lower = lower_is_better(difference.metric)
    if lower is None:
        return "different"
    return "better" if (difference.high < 0) == lower else "worse"


def reading(difference: Difference) -> str:
    """Return in words what a paired difference says.

    Examples
    --------
    >>> names = {"method": "autoemb", "baseline": "fse", "stage": "online", "metric": "loss"}
    >>> reading(Difference(**names, mean=0.002, low=-0.001, high=0.003, confidence=0.95))
    'undecided: the interval includes zero'
    >>> reading(Difference(**names, mean=0.0, low=0.0, high=0.0, confidence=0.95))
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
    >>> names = {"method": "autoemb", "baseline": "fse", "stage": "online", "metric": "loss"}
    >>> pair(Difference(**names, mean=0.0, low=0.0, high=0.0, confidence=0.95))
    'AutoEmb − FSE'
    """
    return f"{display(difference.method)} \N{MINUS SIGN} {display(difference.baseline)}"


def interval(difference: Difference) -> str:
    """Return the bounds of the confidence interval.

    Examples
    --------
    >>> names = {"method": "autoemb", "baseline": "fse", "stage": "online", "metric": "loss"}
    >>> interval(Difference(**names, mean=0.0, low=-0.001, high=0.002, confidence=0.95))
    '−0.00100 to +0.00200'
    """
    return " to ".join(decimal(x, 5, sign=True) for x in (difference.low, difference.high))


def interval_name(comparison: Comparison) -> str:
    """Return what the intervals are called, with their confidence, such as "95 % interval"."""
    levels = sorted({d.confidence for d in comparison.differences if d.confidence > 0})
    return " ".join([*(f"{100 * level:.4g} %" for level in levels), "interval"])


def above_trivial(comparison: Comparison) -> list[str]:
    """Return in a sentence who loses to the trivial opponent, by mean online loss; else nothing."""
    losses = {
        method: fmean(r.online.loss for r in comparison.results if r.method == method)
        for method in comparison.methods
    }
    trivial = losses.get(TRIVIAL, math.inf)
    worse = [display(method) for method, loss in losses.items() if loss > trivial]
    if not worse:
        return []
    verb = "has" if len(worse) == 1 else "have"
    return [f"{', '.join(worse)} {verb} a higher online loss than {display(TRIVIAL)}."]


def fewer_bytes(comparison: Comparison) -> list[str]:
    """Return in a sentence how many bytes the ids of the last method own beside those of others."""
    owned = {
        method: fmean(r.bytes_of_id for r in comparison.results if r.method == method)
        for method in comparison.methods
        if method not in _OPPONENTS
    }
    if len(owned) < 2:
        return []
    *others, ours = owned
    more = {method: owned[method] / owned[ours] for method in others}
    said = [
        f"{ratio:.1f} times as many with {display(m)}" for m, ratio in more.items() if ratio > 1.2
    ]
    if not said:  # or not recorded
        return []
    return [f"An id owns {whole(owned[ours])} bytes with {display(ours)}; {', '.join(said)}."]


def findings(comparison: Comparison) -> list[str]:
    """Return what the online stage says, wins and losses alike.

    Returns
    -------
    list of str
        Who loses to the trivial opponent, what ids own, and a sentence per method and metric with
        differences.
    """
    phrases = {
        "better": "better than",
        "worse": "worse than",
        "undecided": "undecided against",
        "different": "different from",
        "identical": "identical to",
        NOT_AVAILABLE: "no interval against",
    }
    sentences = [*above_trivial(comparison), *fewer_bytes(comparison)]
    for method in comparison.methods:
        for metric in dict.fromkeys(d.metric for d in comparison.differences):
            against: dict[str, list[str]] = {word: [] for word in phrases}
            for d in comparison.differences:
                if (d.method, d.stage, d.metric) == (method, "online", metric):
                    against[verdict(d)].append(display(d.baseline))
            said = [
                f"{phrases[word]} {', '.join(names)}" for word, names in against.items() if names
            ]
            if said:
                name = metric_name(metric, comparison.task)
                sentences.append(f"{display(method)}, online {name}: {'; '.join(said)}.")
    return sentences
