"""The pages in docs are those of their records."""

import json

import pytest

from bench import export, study
from bench.ablations import page as ablations


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (study.DOCS / "study.md", study.page),
        (export.PAGE, lambda: export.page(json.loads(export.RECORD.read_text()))),
        (ablations.PAGE, ablations.text),
    ],
    ids=["study", "export", "ablations"],
)
def test_the_page_is_that_of_its_record(path, text):
    assert path.read_text() == text()


def test_every_figure_of_the_pages_is_there():
    drawn = [*map(study.bytes_name, study.BYTES), *map(export.figure_name, export.FIGURES)]
    for name in [*study.FIGURES.values(), *drawn]:
        assert (study.FIGURE_FOLDER / f"{name}.svg").is_file()


def result(loss, floats, method, budget=1.0):
    return {"data": "d", "task": "t", "seed": 0, "method": method, "budget": budget, "loss": loss,
            "floats_per_id": floats}  # fmt: skip


def test_the_fewest_floats_are_of_those_close_to_the_best_fixed_width():
    results = [
        result(0.300, 2, "FSE-2"), result(0.2003, 16, "FSE-16"), result(0.2, 64, "FSE-64"),
        result(0.21, 146, "FSE-146"), result(0.198, 146, "AutoEmb"),
        result(0.2004, 9, "AutoEmb", 0.06), result(0.2005, 4, "AutoEmb", 0.03),
    ]  # fmt: skip
    assert "| d, t | 16.0 | 9.0 | - |" in export.smallest(results, [("d", "t")])
