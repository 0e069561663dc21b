"""Every page and every figure, made of the records."""

from __future__ import annotations

import json
from pathlib import Path

from bench.harness import RESULTS
from bench.pages import (
    ablations,
    benchmarks,
    budgets,
    export,
    features,
    figures,
    freshness,
    history,
    readme,
    study,
)  # fmt: skip
from bench.pages.records import DOCS, FIGURES, STUDIES, Study


def every(
    results: Path = RESULTS, studies: Path = STUDIES, readme_text: str | None = None
) -> dict[Path, str]:
    """Return the text of every generated file by its path.

    Parameters
    ----------
    results, studies
        Folders of the records.
    readme_text
        README as it is, whose marked block is made anew; by default that of the checkout.
    """
    recorded = {name: Study.read(name, studies) for name in study.PARTS}
    changed = json.loads((results / "ablations.json").read_text())
    frozen = json.loads((results / "export.json").read_text())
    trees = json.loads((results / "boosting.json").read_text())
    told = [Study.read(name, studies) for name in history.PARTS]
    within = [Study.read(name, studies) for name in budgets.PARTS]
    changes, exported = ablations.Ablations(changed), export.Export(frozen)
    text = readme.README.read_text() if readme_text is None else readme_text
    made = {
        DOCS / "study.md": study.page(recorded, changes),
        DOCS / "export.md": export.page(frozen, recorded["widths"], figures.frozen(exported)),
        DOCS / "ablations.md": ablations.page(changed),
        DOCS / "benchmarks.md": benchmarks.page(results),
        DOCS / "features.md": features.page(
            *(Study.read(name, studies) for name in features.PARTS)
        ),
        DOCS / "budget.md": budgets.page(within, told, figures.within(within)),
        DOCS / "history.md": history.page(told, trees),
        DOCS / "freshness.md": freshness.page(
            Study.read(freshness.PARTS, studies),
            {size: Study.read(name, studies) for size, name in freshness.SMALLER.items()},
            told[0],
        ),
        readme.README: readme.page(
            text, readme.block(recorded, changes, exported, told, trees, within)
        ),
    }
    svgs = figures.drawn(within, exported)
    return made | {FIGURES / f"{name}.svg": svg for name, svg in svgs.items()}
