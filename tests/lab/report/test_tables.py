import io
import subprocess
import sys

import pytest
from rich.console import Console

from autoemb.lab import report
from autoemb.lab.records import Comparison
from autoemb.lab.report.tables import columns, difference_rows, escape, rows
from autoemb.lab.report.wording import MOST_METRICS, describe, fewer_bytes, findings


def printed(content, *, width=160, **options):
    console = Console(file=io.StringIO(), width=width, **options)
    console.print(report.table(Comparison.parse(content, "compare.json")))
    return console.file.getvalue()


def test_mean_and_sample_deviation_over_seeds(recorded):
    content = recorded.comparison(methods=("fse", "sam"), seeds=(0, 1))
    content["results"][0]["online"]["loss"] = 0.20
    content["results"][1]["online"]["loss"] = 0.21
    fse = rows(Comparison.parse(content, "c"))[0].cells[2]
    assert fse.mean == pytest.approx(0.205)
    assert fse.spread == pytest.approx(0.01 / 2**0.5)
    assert "0.2050±0.0071" in printed(content)


def test_the_lowest_loss_and_the_highest_accuracy_are_best(recorded):
    found = rows(Comparison.parse(recorded.comparison(), "c"))
    assert [row.method for row in found] == list(recorded.methods)
    best = {row.method: [cell.best for cell in row.cells] for row in found}
    # offline accuracy is the same for all, so all share the mark
    assert best["autoemb"] == [True, True, True, True]
    assert best["fse"] == best["sam"] == best["darts"] == [False, True, False, False]


def test_the_tables_hold_the_recorded_values(recorded):
    content = recorded.comparison(seeds=(0,))
    text = printed(content)
    title = "tiny · chronological order · regression · 10,000 events · seed 0"
    assert title in " ".join(text.split())
    lines = [line.split() for line in text.splitlines()]
    assert ["FSE", "0.2600", "0.6100", "0.2500", "0.6500", "2,500"] in lines
    assert ["AutoEmb", "0.2540", "0.6100", "0.2440", "0.6560", "2,500"] in lines
    assert "One seed, no spread" in text
    assert "95 % interval" in text
    minus = "\N{MINUS SIGN}"
    pairs = difference_rows(Comparison.parse(content, "c"))
    better = (
        f"{minus}0.00200", f"{minus}0.00300 to {minus}0.00100", "better: the interval excludes zero"
    )  # fmt: skip
    assert ("online", "MSE loss", f"AutoEmb {minus} FSE", *better) in pairs
    worse = "+0.00150", "+0.00050 to +0.00250", "worse: the interval excludes zero"
    assert ("online", "MSE loss", f"AutoEmb {minus} DARTS", *worse) in pairs
    assert "undecided: the interval includes zero" in {row[-1] for row in pairs}


def with_opponents(recorded):
    content = recorded.comparison(methods=("mean", "bias", "fse", "autoemb"), seeds=(0, 1))
    for result in content["results"]:  # AutoEmb saves a tenth of what bias loses, FSE loses more
        loss = {"mean": 0.5, "bias": 0.2, "fse": 0.21, "autoemb": 0.18}[result["method"]]
        result["online"]["loss"] = loss
    return content


def test_skill_is_the_share_of_the_trivial_opponents_loss_that_is_saved(recorded):
    content = with_opponents(recorded)
    skill = [row.skill.mean for row in rows(Comparison.parse(content, "c"))]
    assert skill == pytest.approx([-150, 0, -5, 10])
    text = printed(content, width=80)
    assert max(map(len, text.splitlines())) <= 80
    lines = [line.split() for line in text.splitlines()]
    assert any(line[:1] == ["AutoEmb"] and "+10.0" in line for line in lines)
    assert "mean, FSE have a higher online loss than bias." in text


def test_who_loses_to_nobody_trivial_is_not_said_to(recorded):
    content = recorded.comparison(seeds=(0,))
    assert [row.skill for row in rows(Comparison.parse(content, "c"))] == [None] * 4
    assert "skill" not in printed(content)
    assert "bias" not in printed(content)


def test_findings_tell_losses_as_plainly_as_wins(recorded):
    assert findings(Comparison.parse(recorded.comparison(), "c")) == [
        "AutoEmb, online MSE loss: better than FSE; worse than DARTS; undecided against SAM.",
        "AutoEmb, online accuracy: better than DARTS; worse than FSE; undecided against SAM.",
    ]


def test_terminal_table_has_methods_values_and_online_differences(recorded):
    text = printed(recorded.comparison())
    for word in ("FSE", "SAM", "DARTS", "AutoEmb", "0.2441±0.0001", "MSE loss", "2,500"):
        assert word in text
    assert [text.count(f"  {word} ") for word in ("better", "worse", "undecided")] == [2, 2, 2]
    assert "undecided: it includes zero" in text
    assert "Paired differences, online stage" in text
    bold = printed(recorded.comparison(), force_terminal=True, color_system="standard")
    assert "\x1b[1m0.2441±0.0001\x1b[0m" in bold


def test_terminal_table_fits_80_columns(recorded):
    content = recorded.comparison()
    wide, narrow = printed(content), printed(content, width=80)
    assert [line.split() for line in wide.splitlines()] == [
        line.split() for line in narrow.splitlines()
    ]


def test_classification_and_synthetic_are_named(recorded):
    content = recorded.comparison()
    content["task"] = "classification"
    content["data"] = content["data"] | {"format": "synthetic"}
    text = printed(content)
    assert "CE loss" in text
    assert "tiny (synthetic data)" in text


def test_missing_numbers(recorded):
    content = recorded.comparison()
    content["results"][0]["online"]["loss"] = None
    for difference in content["differences"]:
        difference["low"] = None
    text = printed(content)
    fse = next(line for line in text.splitlines() if line.strip().startswith("FSE"))
    assert "n/a" in fse
    assert "no interval recorded" in text


def test_the_spread_of_huge_numbers(recorded):
    content = recorded.comparison(methods=("fse",))
    content["results"][0]["online"]["loss"] = 1e308
    assert "±inf" in printed(content)


def test_one_method_is_not_best_of_anything(recorded):
    content = recorded.comparison(methods=("fse",))
    assert not any(cell.best for cell in rows(Comparison.parse(content, "c"))[0].cells)
    assert "Paired" not in printed(content)


def test_hostile_names_stay_text(recorded):
    content = recorded.comparison()
    content["data"] = content["data"] | {"name": "\x1b[2J[bold]x[/]|<b>\n# y\u202e\ud800"}
    text = printed(content)
    assert "\x1b" not in text
    assert "[bold]x[/]" in text
    first = escape(" · ".join(describe(Comparison.parse(content, "c"))))
    assert r"\[2J\[bold\]x\[/\]\|&lt;b&gt; # y" in first
    first.encode()


def test_whatever_metrics_a_stage_holds_are_shown_with_the_loss_first(recorded):
    content = recorded.comparison(methods=("fse", "sam"))
    content["task"] = "click"
    for row, auc in zip(content["results"], (0.7, 0.7, 0.6, 0.6), strict=True):
        row["offline"] = {"interactions": 5, "auc": 0.5, "loss": 0.3, "calibration": auc}
        row["online"] = {"auc": auc, "note": "text", "curve": [1], "loss": 1 - auc, "ok": True,
                         "a b": 3, "interactions": 5}  # fmt: skip
    comparison = Comparison.parse(content, "c")
    metrics = ("loss", "auc", "calibration")
    assert columns(comparison) == [(s, m) for s in ("offline", "online") for m in metrics]
    fse, sam = ([cell.best for cell in row.cells] for row in rows(comparison))
    # The higher AUC and the lower loss are better; nobody knows of the calibration.
    assert fse == [True, True, False, True, True, False]
    assert sam == [True, True, False, False, False, False]
    assert str(rows(comparison)[0].cells[-1]) == "n/a"
    shown = printed(content)  # a terminal is narrow
    assert "AUC" in shown
    assert "calibration" not in shown


def test_a_hundred_metrics_are_not_all_shown(recorded):
    content = recorded.comparison(methods=("fse",), seeds=(0,))
    content["results"][0]["online"] |= {f"m{i}": i for i in range(100)}
    assert len(rows(Comparison.parse(content, "c"))[0].cells) == 2 * MOST_METRICS


def test_a_difference_by_a_metric_that_nobody_knows_is_neither_better_nor_worse(recorded):
    content = recorded.comparison()
    for difference in content["differences"]:
        if difference["metric"] == "loss":
            difference["metric"] = "calibration"
    content["differences"] = [d for d in content["differences"] if d["metric"] == "calibration"]
    said = {row[-1] for row in difference_rows(Comparison.parse(content, "c"))}
    assert "different: the interval excludes zero" in said
    assert not any(word.startswith("better") for word in said)
    (first,) = findings(Comparison.parse(content, "c"))
    assert first == (
        "AutoEmb, online calibration: undecided against SAM; different from FSE, DARTS."
    )


def test_tables_need_neither_matplotlib_nor_jinja2(recorded):
    code = (
        "import sys; sys.modules['matplotlib'] = sys.modules['jinja2'] = None\n"
        "from autoemb.lab.records import Comparison\n"
        "from autoemb.lab.report import table\n"
        f"content = Comparison.parse({recorded.comparison()!r}, 'c')\n"
        "print(table(content) is not None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def comparison_of(recorded, owned):
    content = recorded.comparison(methods=("fse", "darts", "autoemb"), seeds=(0, 1))
    for result in content["results"]:
        own = owned.get(result["method"])
        result |= {} if own is None else {"ids": {"a": 7, "b": 3}, "owned": {"rows": 10 * own}}
    return Comparison.parse(content, "c")


def test_a_comparison_tells_what_an_id_owns(recorded):
    found = comparison_of(recorded, {"fse": 640, "darts": 81, "autoemb": 80})
    assert [row.bytes.mean for row in rows(found)] == [640, 81, 80]
    assert fewer_bytes(found) == ["An id owns 80 bytes with AutoEmb; 8.0 times as many with FSE."]


@pytest.mark.parametrize("owned", [{}, {"fse": 80, "darts": 80, "autoemb": 80}])
def test_nothing_is_said_where_nothing_is_saved_or_recorded(recorded, owned):
    assert fewer_bytes(comparison_of(recorded, owned)) == []


def test_a_table_of_all_that_is_recorded_fits_80_columns(recorded):
    content = with_opponents(recorded)
    for result in content["results"]:
        result |= {"ids": {"a": 10}, "owned": {"rows": 12340}}
    text = printed(content, width=80)
    assert "\N{HORIZONTAL ELLIPSIS}" not in text.partition("Paired")[0]
    assert "skill" in text
    assert "1,234" in text


def test_bytes_have_a_column_where_they_were_recorded(recorded):
    content = recorded.comparison(methods=("fse", "autoemb"), seeds=(0,))
    assert "bytes" not in printed(content)
    for result in content["results"]:
        result |= {"ids": {"a": 10}, "owned": {"rows": 12340}}
    text = printed(content)
    assert "an id" in text
    assert " 1,234 " in text
