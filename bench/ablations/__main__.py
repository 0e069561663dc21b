"""``AUTOEMB_DATA=folder python -m bench.ablations --runs DIR`` makes what DIR does not hold yet.

A trial of some variants, sets or events keeps its record in DIR, too, and its page beside it; of
the whole record ``python -m bench.pages`` makes the page.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from bench.ablations import record
from bench.ablations.variants import VARIANTS
from bench.pages.ablations import page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--sets", nargs="+", default=record.SETS, metavar="NAME")
    parser.add_argument("--only", nargs="+", metavar="VARIANT", help="names of variants")
    parser.add_argument("--limit", type=int, help="events of each stream, for a trial")
    arguments = parser.parse_args()
    names = [v.name for v in VARIANTS]
    wanted = names if arguments.only is None else ["default", *arguments.only]
    if unknown := {*wanted} - {*names}:
        parser.error(f"no such variant: {', '.join(sorted(unknown))}")
    trial = bool(arguments.only or arguments.limit or {*arguments.sets} != {*record.SETS})
    file = arguments.runs / record.RECORD.name if trial else record.RECORD
    record.make(
        [v for v in VARIANTS if v.name in wanted],
        Path(os.environ["AUTOEMB_DATA"]),
        arguments.sets,
        arguments.runs,
        file,
        processes=arguments.processes,
        limit=arguments.limit,
    )
    if trial:
        file.with_suffix(".md").write_text(page(json.loads(file.read_text())))


if __name__ == "__main__":
    main()
