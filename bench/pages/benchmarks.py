"""docs/benchmarks.md: times and memory, from the records in bench/results."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from autoemb.lab.report.tables import pipes
from bench.pages.rendering import render


def table(place: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Return the lines of a table that says in its corner where it was measured."""
    return pipes([f"{place}: {header[0]}", *header[1:]], [[*map(str, row)] for row in rows])


def times(cases: dict[str, Any]) -> list[list[object]]:
    return [
        [name, f"{case['p50_ms']:.2f}", f"{case['p20_ms']:.2f} to {case['p80_ms']:.2f}"]
        for name, case in cases.items()
    ]


def step(content: dict[str, Any]) -> Iterator[str]:
    for result in content["results"]:
        yield from ("", f"**{result['order'].capitalize()}**", "")
        yield from table("CPU", ["case", "median ms", "20 % to 80 %"], times(result["cases"]))
        against = result["times_autoemb"].items()
        yield from ("", *table("CPU", ["rival", "times AutoEmb's step"], [*against]))
        products = [
            [method, value, result["gflop"][method]]
            for method, value in result["times_bare_products"].items()
        ]
        header = ["step", "times its bare products", "GFLOP of these"]
        yield from ("", *table("CPU", header, products))
        value = result["times_bare_products_by_onednn"]
        yield from ("", f"AutoEmb's step takes {value} times its bare products by oneDNN.")


def matrix(
    place: str,
    results: Sequence[dict[str, Any]],
    label: Callable[[dict[str, Any]], str],
    unit: float = 1,
) -> Iterator[str]:
    """Yield a table of groups by cases: medians, in parentheses as multiples of autoemb's.

    ``unit`` is that of the times, in milliseconds.
    """
    names = list(dict.fromkeys(name for r in results for name in (*r["cases"], *failures(r))))

    def cell(result: dict[str, Any], name: str) -> str:
        if name in failures(result):
            return "failed"
        if name not in result["cases"]:
            return ""
        case = result["cases"][name]
        mark = "" if case.get("why_no_graph") is None else "*"
        times = result["times_autoemb"].get(name)
        return f"{case['p50_ms'] / unit:.2f}{mark}" + (f" ({times:.2f}x)" if times else "")

    rows = [[label(r), *(cell(r, name) for name in names)] for r in results]
    yield from table(place, ["case", *names], rows)


def failures(result: dict[str, Any]) -> dict[str, str]:
    failed: dict[str, str] = result.get("failed", {})
    return failed


def op(content: dict[str, Any]) -> Iterator[str]:
    def label(result: dict[str, Any]) -> str:
        fields = f"F = {result['fields']}, " if "fields" in result else ""
        return f"{fields}{result['order']}, B = {result['batch']}, {result['pass']}"

    yield from ("", "Median milliseconds (times autoemb's).", "")
    yield from matrix("CPU", content["results"], label)
    yield from memory("CPU", [content] if "peak_bytes" in content else [])


def memory(place: str, entries: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield peak memory of forward + backward."""
    names = list(dict.fromkeys(name for entry in entries for name in entry["peak_bytes"]))
    if not names:
        return
    rows = []
    for entry in entries:
        peaks = entry["peak_bytes"]
        cells = [f"{peaks[n] / 2**20:.1f}" if n in peaks else "failed" for n in names]
        rows.append([f"B = {entry.get('batch', 4096)}", *cells])
    yield from ("", "Peak MiB of forward + backward.", "", *table(place, ["case", *names], rows))


def vocabulary(content: dict[str, Any]) -> Iterator[str]:
    header = ["case", "median ms", "20 % to 80 %"]
    yield from ("", *table("CPU", header, times(content["cases"])))
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
    yield from table("CPU", ["how", "median seconds", "peak GiB"], rows)
    many = content["many_columns"]
    yield from ("", f"All features of {many['data']}, {many['rows']:,} rows: a median of")
    yield f"{many['seconds_median']:.1f} seconds (bar {many['bars']['seconds']:g}), a peak of"
    yield f"{many['peak_gib']:.2f} GiB (bar {many['bars']['peak_gib']:g})."


def gpu(content: dict[str, Any]) -> Iterator[str]:
    def label(result: dict[str, Any]) -> str:
        words = [result.get("name"), result.get("order"), f"B = {result['batch']}"]
        words += [f"F = {result['fields']}"] if result["fields"] != 2 else []
        return ", ".join(word for word in [*words, result["mode"]] if word)

    parts = [[n, p["status"], p["seconds"]] for n, p in content["parts"].items()]
    yield from ("", *table("GPU", ["part", "end", "seconds"], parts))
    if content["tests"] is not None:
        tests = content["tests"]
        skipped = sum(tests["skipped"].values())
        yield from ("", f"GPU tests: {tests['passed']} passed, {skipped} skipped,")
        yield f"{len(tests['failed'])} failed{''.join(f'; {name}' for name in tests['failed'])}."
    if content["ceilings"] is not None:
        ceilings = [[name, value] for name, value in content["ceilings"].items()]
        yield from ("", *table("GPU", ["ceiling of this GPU", "measured"], ceilings))
    yield from ("", "Median microseconds (times autoemb's); * launched by the host, not a graph.")
    for part in dict.fromkeys(result["part"] for result in content["results"]):
        results = [result for result in content["results"] if result["part"] == part]
        yield from ("", f"**{part.capitalize()}**", "")
        yield from matrix("GPU", results, label, unit=1e-3)
        for reason in sorted({f"{n}: {why}" for r in results for n, why in failures(r).items()}):
            yield from ("", f"Failed: {reason}")
    yield from memory("GPU", content["memory"])


SECTIONS = {
    "step": ("One step of Algorithm 1", step),
    "step-2-threads": ("The same on two threads", step),
    "op": ("The op", op),
    "op-2-threads": ("The op on two threads", op),
    "vocabulary": ("Vocabulary", vocabulary),
    "load": ("Loading", load),
}


def section(title: str, content: dict[str, Any], lines: Iterator[str]) -> list[str]:
    hardware, versions = content["hardware"], content["versions"]
    device = hardware.get("gpu")
    made = [f"{device['name']} (driver {device['driver']})"] if device else []
    made += [hardware["cpu"], f"{hardware['cores']} cores"]
    made += [f"{name} {version}" for name, version in versions.items() if version is not None]
    made += [f"commit {content['commit']}"]
    what = f"{content['what'][0].upper()}{content['what'][1:]}."
    return [
        *("", f"## {title}", "", what, "", "```bash", content["command"], "```"),
        *(*lines, "", f"{', '.join(made)}."),
    ]


def page(folder: Path) -> str:
    """Return the page of the records in a folder."""
    sections = []
    for name, (title, make) in SECTIONS.items():
        path = folder / f"{name}.json"
        if path.exists():
            content = json.loads(path.read_text())
            sections += section(title, content, make(content))
    records = [json.loads(path.read_text()) for path in sorted(folder.glob("gpu-*.json"))]
    ran = [r for r in records if r.get("hardware", {}).get("gpu")]
    for content in ran:
        title = f"On a GPU: {content['hardware']['gpu']['name']}"
        sections += section(title, content, gpu(content))
    return render("benchmarks", sections="\n".join(sections), ran=bool(ran))
