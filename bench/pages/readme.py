"""The measured sentences of README, between two marks."""

from __future__ import annotations

from bench.pages import ablations, budgets, export, history, study
from bench.pages.records import DOCS, Record, Study
from bench.pages.rendering import render
from bench.pages.tables import table
from bench.pages.words import against

README = DOCS.parent / "README.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


def block(
    studies: dict[str, Study],
    changes: ablations.Ablations,
    exported: export.Export,
    told: list[Study],
    trees: Record,
    within: list[Study],
) -> str:
    """Return what stands between the marks."""
    fixed = studies["widths"]
    facts = study.facts(studies, changes)
    least = exported.budgets[-1]
    tallies = {"the best fixed width, tuned alike": facts["best"]}
    tallies |= {name: fixed.against(name) for name in fixed.others}
    body = [[name, against(t.means), *t.cells()] for name, t in tallies.items()]
    headers = ["against", fixed.ours, "surely below", "below", "above", "surely above"]
    return render(
        "readme",
        readme_table=table(headers, body),
        told_table=history.readme_table(told, trees),
        told_streams=sum(len(one.streams) for one in told),
        refit=100 * trees["options"]["refit"],
        exported=exported,
        exported_apart=[exported.apart(s, least) for s in exported.streams],
        least=least,
        wide=next(name for name in exported.shrunk if name != exported.ours),
        **facts,
        **budgets.readme_facts(within),
    )


def page(text: str, made: str) -> str:
    """Return README's text with a new block.

    Raises
    ------
    ValueError
        If it lacks the marks.

    Examples
    --------
    >>> page(f"a\\n{BEGIN}\\nold\\n{END}\\nz", "new\\n").split()
    ['a', '<!--', 'figures:', 'begin', '-->', 'new', '<!--', 'figures:', 'end', '-->', 'z']
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"README.md lacks {BEGIN} or {END}")
    return f"{before}{BEGIN}\n{made}{END}{after}"
