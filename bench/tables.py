"""``python -m bench.tables`` writes docs/benchmarks.md from the records in bench/results."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.harness import RESULTS

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    rule = ["---", *["---:"] * (len(header) - 1)]
    return [f"| {' | '.join(map(str, row))} |" for row in (header, rule, *rows)]


def times(cases: dict[str, Any]) -> list[list[object]]:
    return [
        [name, f"{case['p50_ms']:.2f}", f"{case['p20_ms']:.2f} to {case['p80_ms']:.2f}"]
        for name, case in cases.items()
    ]


def step(content: dict[str, Any]) -> Iterator[str]:
    for result in content["results"]:
        yield from ("", f"**{result['order'].capitalize()}**", "")
        yield from table(["case", "median ms", "20 % to 80 %"], times(result["cases"]))
        against = result["times_autoemb"].items()
        yield from ("", *table(["rival", "times AutoEmb's step"], [*against]))
        products = [
            [method, value, result["gflop"][method]]
            for method, value in result["times_bare_products"].items()
        ]
        yield from ("", *table(["step", "times its bare products", "GFLOP of these"], products))
        value = result["times_bare_products_by_onednn"]
        yield from ("", f"AutoEmb's step takes {value} times its bare products by oneDNN.")


def op(content: dict[str, Any]) -> Iterator[str]:
    names = list(content["results"][0]["cases"])
    rows = [
        [f"{r['order']}, B = {r['batch']}, {r['pass']}"]
        + [f"{r['cases'][n]['p50_ms']:.2f} ({r['times_autoemb'][n]:.2f}x)" for n in names]
        for r in content["results"]
    ]
    yield from ("", "Median milliseconds (times autoemb's).", "", *table(["case", *names], rows))


def vocabulary(content: dict[str, Any]) -> Iterator[str]:
    yield from ("", *table(["case", "median ms", "20 % to 80 %"], times(content["cases"])))
    yield ""
    yield f"Ratio {content['ratio']}, bar {content['bars']['ratio']}. Peak memory of the process"
    yield f"{content['peak_gib']} GiB; 20 more steps added"
    yield f"{content['peak_growth_in_20_more_steps_mib']} MiB to it."


def load(content: dict[str, Any]) -> Iterator[str]:
    rows = [
        [name, f"{case['seconds_median']:.1f}", f"{case['peak_gib']:.2f}"]
        for name, case in content["results"].items()
    ]
    yield from ("", f"{content['rows']:,} rows.", "")
    yield from table(["how", "median seconds", "peak GiB"], rows)


SECTIONS = {
    "step": ("One step of Algorithm 1", step),
    "step-2-threads": ("The same on two threads", step),
    "op": ("The op", op),
    "vocabulary": ("Vocabulary", vocabulary),
    "load": ("Loading", load),
}


def main() -> None:
    lines = ["# Benchmarks", "", "Made by `python -m bench.tables` from the records in"]
    lines += ["[bench/results](../bench/results): do not edit. All on the CPU."]
    for name, (title, section) in SECTIONS.items():
        path = RESULTS / f"{name}.json"
        if not path.exists():
            continue
        content = json.loads(path.read_text())
        hardware, versions = content["hardware"], content["versions"]
        lines += [
            "",
            f"## {title}",
            "",
            f"{content['what'][0].upper()}{content['what'][1:]}.",
            "",
            "```bash",
            content["command"],
        ]
        lines += ["```", *section(content), ""]
        made = [hardware["cpu"], f"{hardware['cores']} cores"]
        made += [f"{n} {v}" for n, v in versions.items()] + [f"commit {content['commit']}"]
        lines += [", ".join(made) + "."]
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
