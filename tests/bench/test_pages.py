"""The generated pages are those of their records, whatever the records hold."""

import copy
import json
import re

import pytest

from autoemb.files import write_text
from bench.harness import RESULTS
from bench.pages import __main__, benchmarks, budgets, export, figures, history, readme, site, study
from bench.pages.ablations import Ablations
from bench.pages.ablations import page as ablations_page
from bench.pages.records import DOCS, FIGURES, STUDIES, Study

PAGES = [DOCS / f"{name}.md" for name in (
    "study", "budget", "export", "ablations", "benchmarks", "features", "history", "freshness",
)]  # fmt: skip


@pytest.fixture(scope="module")
def made():
    return site.every()


@pytest.fixture(scope="module")
def recorded():
    """The records by name: those of the studies, ablations and export."""
    found = {name: STUDIES / f"{name}.json" for name in (*study.PARTS, *budgets.PARTS)}
    found |= {name: RESULTS / f"{name}.json" for name in ("ablations", "export")}
    return {name: json.loads(path.read_text()) for name, path in found.items()}


def told():
    """Return the studies of what is known of ids, and the record of boosted trees."""
    trees = json.loads((RESULTS / "boosting.json").read_text())
    return [Study.read(name) for name in history.PARTS], trees


def pages_of(records):
    """Return study, budget, README's block, export and ablations of some records."""
    studies = {name: Study(records[name]) for name in study.PARTS}
    changes, exported = Ablations(records["ablations"]), export.Export(records["export"])
    within = [Study(records[name]) for name in budgets.PARTS]
    return {
        "study": study.page(studies, changes),
        "budget": budgets.page(within, told()[0], figures.within(within)),
        "readme": readme.block(studies, changes, exported, *told(), within),
        "export": export.page(records["export"], studies["widths"], figures.frozen(exported)),
        "ablations": ablations_page(records["ablations"]),
    }


def changed(records, name, change):
    """Return the records with one of them changed."""
    one = copy.deepcopy(records[name])
    change(one)
    return records | {name: one}


@pytest.mark.parametrize("path", [*PAGES, readme.README], ids=lambda path: path.name)
def test_a_page_is_that_of_its_records(path, made):
    assert path.read_text() == made[path], "run python -m bench.pages"


def test_the_figures_are_those_of_the_records(made):
    mpl = pytest.importorskip("matplotlib")
    drawn = {path for path in FIGURES.glob("*.svg") if figures.is_drawn(path.stem)}
    assert drawn == {path for path in made if path.suffix == ".svg"}
    pins = (DOCS.parent / "constraints.txt").read_text().split()
    if f"matplotlib=={mpl.__version__}" not in pins:
        pytest.skip(f"matplotlib {mpl.__version__} may lay out figures in another way")
    for path in drawn:
        assert path.read_text() == made[path], "run python -m bench.pages"


def test_every_figure_is_shown():
    shown = "".join(path.read_text() for path in PAGES)
    for path in FIGURES.glob("*.svg"):
        assert path.name in shown


def lower(loss):
    return {"loss": 0.9 * loss["loss"], "accuracy": 0.5, "interactions": loss["interactions"]}


def better_width(record):
    for run in record["results"]:
        if (run["data"], run["method"]) == ("movietweetings", "FSE-2"):
            run["online"] = lower(run["online"])


def sure(record):
    for pair in record["differences"]:
        if pair["data"] == "ml-100k":
            pair["mean"] = pair["low"] = pair["high"] = -0.01


def dearer(record):
    for row in record["results"]:
        if row.get("variant") == "past events (paper)" or row.get("budget") == 0.015:
            row["online_percent" if "variant" in row else "loss"] += 0.5


def dearer_rows(record):
    for run in record["results"]:
        if run["method"] == "AutoEmb":
            run["online"] = {"loss": 1.1 * run["online"]["loss"]}
            run["owned"]["rows"] *= 2


@pytest.mark.parametrize(
    ("name", "change", "pages"),
    [
        ("widths", better_width, {"study", "readme"}),
        ("widths", sure, {"study", "readme"}),
        ("budget", dearer_rows, {"budget", "readme"}),
        ("start", lambda r: r["results"][0].update(first_tenth=0.9), {"study"}),
        ("paper", lambda r: r["results"][0]["online"].update(loss=0.01), {"study", "readme"}),
        ("ablations", dearer, {"study", "ablations"}),
        ("export", dearer, {"export", "readme"}),
    ],
    ids=["width", "interval", "budget", "start", "paper", "ablations", "export"],
)  # fmt: skip
def test_prose_follows_its_record(name, change, pages, recorded):
    before, after = pages_of(recorded), pages_of(changed(recorded, name, change))
    assert pages <= {page for page in before if prose(before[page]) != prose(after[page])}


def prose(page):
    return [block for block in page.split("\n\n") if not block.startswith(("|", "#", "!"))]


def test_words_follow_the_numbers(recorded):
    text = " ".join(pages_of(changed(recorded, "widths", sure))["study"].split())
    found = r"surely below it on \w+ of eight streams \(both tasks of MovieLens 100K and"
    assert re.search(found, text)
    text = " ".join(pages_of(recorded)["study"].split())
    assert "So it is not the width that pays" in text

    def no_gain(record):
        for run in record["results"]:
            if run["method"] == "AutoEmb":
                run["online"]["loss"] *= 1.1

    text = " ".join(pages_of(changed(recorded, "widths", no_gain))["study"].split())
    assert "So it is not the width that pays" not in text


def renamed(records):
    """Return the records with other features, one more data set and method, others left out."""

    def features(run):
        run["by_popularity"] = {
            f"my_{name}": said for name, said in run["by_popularity"].items()
        }  # fmt: skip

    def more(record):
        runs = record["results"]
        for run in runs:
            features(run)
        extra = [{**run, "data": "globo"} for run in runs if run["data"] == "ml-100k"]
        pairs = [{**p, "data": "globo"} for p in record["differences"] if p["data"] == "ml-100k"]
        record["results"] = [run for run in [*runs, *extra] if run["data"] != "ml-latest-small"]
        record["differences"] += pairs

    def logistic(record):
        more(record)
        record["methods"] = {
            "logistic": {"options": {"method": "logistic"}, "candidates": [{}]}
        } | record["methods"]
        record["results"] += [
            {**run, "method": "logistic", "chosen": {}, "online": lower(run["online"])}
            for run in record["results"]
            if run["method"] == "FSE-16"
        ]
        record["differences"] += [
            {**pair, "baseline": "logistic", "mean": 0.02, "low": 0.01, "high": 0.03}
            for pair in record["differences"]
            if pair["baseline"] == "FSE-16"
        ]

    for name in study.PARTS:
        records = changed(records, name, logistic if name == "widths" else more)
    return records


def test_any_methods_features_and_data_sets_will_do(recorded):
    pages = pages_of(renamed(recorded))
    for name in ("study", "readme"):
        assert "| logistic | " in pages[name]
        assert "logistic on 8" in pages[name]
    assert "globo, regression" in pages["study"]
    assert "| MovieTweetings, regression | my_user_id |" in pages["study"]
    assert "The mean width of my_users there is" in " ".join(pages["study"].split())
    assert "latest small" not in pages["study"].partition("## What came out")[2]


def test_a_trial_of_some_ablations_has_a_page(recorded):
    def few(record):
        record["results"] = [
            r for r in record["results"] if r["variant"] in ("default", "128", "mine")
        ] + [{**record["results"][0], "variant": "mine", "group": "another (default: none)"}]

    text = ablations_page(changed(recorded, "ablations", few)["ablations"])
    assert "## Another (default: none)" in text
    assert "Gates" not in text


def test_the_command_writes_all_and_leaves_no_old_figure(monkeypatch, tmp_path):
    old = tmp_path / f"old-{figures.BYTES}.svg"
    kept = tmp_path / "old-loss-over-the-stream.svg"
    for path in (old, kept):
        path.write_text("")
    monkeypatch.setattr(__main__, "FIGURES", tmp_path)
    monkeypatch.setattr(__main__, "every", lambda: {tmp_path / "page.md": "text\n"})
    __main__.main()
    assert sorted(path.name for path in tmp_path.iterdir()) == [kept.name, "page.md"]


def test_typing_into_readme_shows(made):
    text = readme.README.read_text()
    typed = text.replace(readme.END, f"and one more\n{readme.END}")
    assert site.every(readme_text=typed)[readme.README] == made[readme.README] != typed
    with pytest.raises(ValueError, match="lacks"):
        readme.page("no marks", "")


def test_benchmarks_need_no_record(tmp_path):
    write_text(tmp_path / "other.json", "{}")
    assert "Not yet run on a GPU" in benchmarks.page(tmp_path)
