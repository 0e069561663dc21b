"""``AUTOEMB_DATA=folder python -m bench.ablations --runs DIR`` makes what DIR does not hold yet.

A trial of some variants, sets or events keeps its record and page in DIR, too.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from bench.ablations import page, record
from bench.ablations.variants import VARIANTS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, help="folder for the runs")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--sets", nargs="+", default=record.SETS, metavar="NAME")
    parser.add_argument("--only", nargs="+", metavar="VARIANT", help="names of variants")
    parser.add_argument("--limit", type=int, help="events of each stream, for a trial")
    parser.add_argument("--tables", action="store_true", help="only write the page again")
    arguments = parser.parse_args()
    files = record.RECORD, page.PAGE
    if not arguments.tables:
        if arguments.runs is None:
            parser.error("--runs DIR is needed: the runs take about an hour and can be continued")
        if arguments.only or arguments.limit or {*arguments.sets} != {*record.SETS}:
            files = arguments.runs / record.RECORD.name, arguments.runs / page.PAGE.name
        names = [v.name for v in VARIANTS]
        wanted = names if arguments.only is None else ["default", *arguments.only]
        if unknown := {*wanted} - {*names}:
            parser.error(f"no such variant: {', '.join(sorted(unknown))}")
        record.make(
            [v for v in VARIANTS if v.name in wanted],
            Path(os.environ["AUTOEMB_DATA"]),
            arguments.sets,
            arguments.runs,
            files[0],
            processes=arguments.processes,
            limit=arguments.limit,
        )
    page.write(*files)


if __name__ == "__main__":
    main()
