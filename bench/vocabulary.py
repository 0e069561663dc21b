"""A step costs the same with 10 thousand rows as with 10 million."""

import resource

from bench.harness import alternate, ratio, spread, write
from bench.workloads import our_step

SMALL, LARGE = (10_000, 10_000), (9_990_000, 10_000)
BAR = 1.2


def main() -> None:
    """Time both in turns; 10 million rows of 146 floats and Adam's moments take 17.5 GB."""
    vocabularies = {"10 thousand rows": SMALL, "10 million rows": LARGE}
    cases = {
        name: our_step("autoemb", rows, "uniform", past_order="uniform", count=100)
        for name, rows in vocabularies.items()
    }
    seconds = alternate(cases, rounds=40)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    alternate(cases, rounds=20)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    write(
        "vocabulary",
        {
            "command": "OMP_NUM_THREADS=1 python -m bench.vocabulary",
            "what": "AutoEmb's step, batch 500, first-order, ids drawn uniformly, "
            "by rows of the users' table",
            "bars": {"ratio": BAR},
            "cases": {name: spread(times) for name, times in seconds.items()},
            "ratio": ratio(seconds, "10 million rows", "10 thousand rows"),
            "peak_gib": round(peak / 2**20, 2),
            "peak_growth_in_20_more_steps_mib": round((peak - before) / 2**10, 2),
        },
    )


if __name__ == "__main__":
    main()
