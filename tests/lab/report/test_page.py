import html.parser
import json
import re
import time
import xml.etree.ElementTree as ElementTree

import pytest

from autoemb.errors import UserError
from autoemb.lab.report import draw, page
from autoemb.lab.report.recording import read

SECTIONS = ["results", "differences", "stream", "popularity", "weights", "throughput", "reproduce"]


class Reader(html.parser.HTMLParser):
    """Collect tags, attributes and text as a browser would see them."""

    def __init__(self, content):
        super().__init__()
        self.tags, self.attributes, self.words = [], [], []
        self.feed(content)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    @property
    def sections(self):
        ids = [value for name, value in self.attributes if name == "id"]
        return [value for value in ids if value in SECTIONS]


def read_page(folder):
    path = draw(folder)
    assert path == folder / "report.html"
    return Reader(path.read_text(encoding="utf-8"))


@pytest.fixture
def compared(tmp_path, recorded):
    return recorded.write_comparison(tmp_path / "compared", recorded.comparison())


def test_a_comparison_has_every_section_and_figure(compared):
    page = read_page(compared)
    assert page.sections == SECTIONS
    names = {path.stem for path in (compared / "figures").iterdir()}
    assert names == {
        *(f"difference-{metric}" for metric in ("loss", "accuracy")),
        *(f"stream-{metric}" for metric in ("loss", "accuracy")),
        *(f"stream-{metric}-difference" for metric in ("loss", "accuracy")),
        *(f"popularity-{f}-{stage}" for f in ("user", "item") for stage in ("offline", "online")),
        *(f"weights-{f}-{m}" for f in ("user", "item") for m in ("sam", "darts", "autoemb")),
    }
    assert page.tags.count("svg") == len(names)


def test_the_page_holds_what_was_recorded(compared):
    text = read_page(compared).text
    for value in (
        "AutoEmb 0.2541 ± 0.0001 0.6100 ± 0.0000 0.2441 ± 0.0001 0.6559 ± 0.0001",
        "AutoEmb \N{MINUS SIGN} FSE \N{MINUS SIGN}0.00200 \N{MINUS SIGN}0.00300 to",
        "to +0.00250 worse : the interval excludes zero",
        "AutoEmb, online MSE loss: better than FSE; worse than DARTS; undecided against SAM.",
        "10,000",
        "7,000 + 3,000",
        "2,500",
        "AutoEmb 1 0.254200 0.610000 0.244200 0.655800 4.0",
        "torch 2.13.0",
        "limit not set",
        "dims 2,16,128",
        "autoemb compare --methods fse,sam,darts,autoemb --seeds 0,1 --data tiny --task regression",
    ):
        assert value in text


def test_a_run_has_the_sections_of_one_run(tmp_path, recorded):
    folder = recorded.write_run(tmp_path / "run", recorded.summary(), recorded.windows())
    page = read_page(folder)
    assert page.sections == [name for name in SECTIONS if name != "differences"]
    assert "AutoEmb 0.2540 0.6100 0.2440 0.6560" in page.text
    assert "autoemb run --method autoemb --seed 0 --data tiny" in page.text
    assert "±" not in page.text
    assert {path.stem for path in (folder / "figures").iterdir()} == {
        "stream-loss",
        "stream-accuracy",
        *(f"popularity-{f}-{stage}" for f in ("user", "item") for stage in ("offline", "online")),
        *(f"weights-{f}-autoemb" for f in ("user", "item")),
    }


def test_the_same_files_give_the_same_bytes(compared):
    def drawn():
        draw(compared)
        paths = [compared / "report.html", *sorted((compared / "figures").iterdir())]
        return {path.name: path.read_bytes() for path in paths}

    assert drawn() == drawn()


def test_the_page_asks_for_nothing_else(compared):
    page = read_page(compared)
    assert not {"script", "link", "img", "iframe", "object", "image"} & set(page.tags)
    for name, value in page.attributes:
        if name in ("href", "xlink:href", "src"):
            assert value.startswith("#")
        if not name.startswith("xmlns"):
            assert "://" not in (value or "")
    content = (compared / "report.html").read_text(encoding="utf-8")
    assert set(re.findall(r"https?://[^\"' ]+", content)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert "@import" not in content


def test_identifiers_do_not_repeat(compared):
    identifiers = [value for name, value in read_page(compared).attributes if name == "id"]
    assert len(identifiers) == len(set(identifiers))


def test_figures_are_whole_files_of_real_text(compared):
    draw(compared)
    for path in (compared / "figures").iterdir():
        root = ElementTree.parse(path).getroot()
        words = {e.text for e in root.iter("{http://www.w3.org/2000/svg}text")}
        assert words & {"AutoEmb", "online", "mean weight"}
    assert not list(compared.rglob("*.part"))


def test_hostile_text_is_escaped(tmp_path, recorded):
    evil = "<script>alert(1)</script>"
    content = recorded.summary()
    content["data"] = content["data"] | {"name": evil, "format": evil}
    content["config"] = {"order": evil, evil: f"';rm -rf ~;'{evil}", "lone": "\ud800"}
    content["versions"] = {evil: {"deep": evil}}
    folder = recorded.write_run(tmp_path / "run", content, recorded.windows())
    page = read_page(folder)
    assert "script" not in page.tags
    assert page.text.count(evil) >= 6
    command = page.text[page.text.index("autoemb run --method") :]
    assert "'--<script>alert(1)</script>'" in command
    assert """''"'"';rm -rf ~;'"'"'<script>""" in command


def test_synthetic_data_are_called_so(tmp_path, recorded):
    content = recorded.summary()
    content["data"] = content["data"] | {"name": "synthetic", "format": "synthetic"}
    page = read_page(recorded.write_run(tmp_path / "run", content, recorded.windows()))
    assert "synthetic synthetic data This stream is made up" in page.text
    assert "--data" not in page.text


def test_fse_alone_has_no_weights(tmp_path, recorded):
    folder = recorded.write_run(tmp_path, recorded.summary("fse"), recorded.windows("fse"))
    assert "No weights were recorded" in read_page(folder).text
    assert not list(folder.glob("figures/weights-*"))


def test_one_method_and_one_seed_compare(tmp_path, recorded):
    content = recorded.comparison(methods=("sam",), seeds=(3,))
    page = read_page(recorded.write_comparison(tmp_path, content))
    assert "differences" not in page.sections
    assert "One seed, no spread" in page.text
    assert "--methods sam --seeds 3" in page.text


def test_unknown_methods_and_fields_are_drawn(tmp_path, recorded):
    methods = ("mine", "a" * 58, "fse")
    content = recorded.comparison(methods=methods, seeds=(0,))
    content["differences"] = [
        {
            "method": methods[1],
            "baseline": "mine",
            "stage": "online",
            "metric": "loss",
            "mean": None,
            "low": None,
            "high": None,
            "confidence": None,
        }
    ]
    page = read_page(recorded.write_comparison(tmp_path, content))
    assert "no interval recorded" in page.text
    assert "no interval against mine" in page.text


def popularity(recorded, names):
    bucket = recorded.summary()["by_popularity"]["online"][0]
    return {"offline": [], "online": [bucket | {"feature": name} for name in names]}


def test_features_of_any_number_and_name_are_drawn(tmp_path, recorded):
    names = ["user_id", "city/<b>", "city <b>", "é" * 200, "fifth"]
    content = recorded.summary()
    content["by_popularity"] = popularity(recorded, names)
    counts = dict.fromkeys((*names, "prev_items"), 3)
    content["data"] = {"name": "clicks", "format": "CSV", "interactions": 10, "features": counts}
    page = read_page(recorded.write_run(tmp_path / "run", content, recorded.windows()))
    files = {path.stem for path in (tmp_path / "run" / "figures").iterdir()}
    drawn = ("user", "city-b", "city-b-2", "other")
    assert files == {
        "stream-loss",
        "stream-accuracy",
        *(f"popularity-{name}-online" for name in drawn),
        *(f"weights-{name}-autoemb" for name in drawn),
    }
    assert "Recorded, but not drawn here: fifth." in page.text
    assert "Not recorded: prev_items. A feature of several ids an event has no" in page.text
    assert "earlier events of the city/<b> (at least)" in page.text
    assert "b" not in page.tags
    assert "prev_items 3" in page.text


@pytest.mark.parametrize("names", [[], ["ad_id"]])
def test_one_feature_or_none_is_drawn(tmp_path, recorded, names):
    content = recorded.summary()
    content["by_popularity"] = popularity(recorded, names)
    page = read_page(recorded.write_run(tmp_path / "run", content, recorded.windows()))
    drawn = {path.stem for path in (tmp_path / "run" / "figures").glob("popularity-*")}
    assert drawn == {f"popularity-{name.replace('_', '-')}-online" for name in names}
    assert ("No popularity was recorded" in page.text) is (not names)


def test_metrics_of_clicks_are_shown_and_drawn(tmp_path, recorded):
    content = recorded.comparison(methods=("fse", "autoemb"), seeds=(0,))
    content["task"] = "click"
    folder = recorded.write_comparison(tmp_path, content)
    for row in content["results"]:
        for stage in ("offline", "online"):
            row[stage] = {"interactions": 5, "loss": 0.25, "auc": 0.75}
        lines = [line | {"auc": 0.7, "accuracy": None} for line in recorded.windows(row["method"])]
        recorded.write_run(folder / row["run"], recorded.summary(row["method"]), lines)
    (folder / "compare.json").write_text(json.dumps(content))
    page = read_page(folder)
    assert "method log loss AUC log loss AUC FSE 0.2500 0.7500 0.2500 0.7500" in page.text
    assert {"stream-auc", "stream-auc-difference"} <= {
        path.stem for path in (folder / "figures").iterdir()
    }


def test_a_task_that_nobody_knows_is_drawn(tmp_path, recorded):
    content = recorded.summary("mine") | {"task": "mine"}
    page = read_page(recorded.write_run(tmp_path / "run", content, recorded.windows("mine")))
    assert "method loss accuracy loss accuracy mine 0.2" in page.text


def test_nothing_but_missing_numbers_is_drawn(tmp_path, recorded):
    content = recorded.summary()
    for stage in ("offline", "online"):
        content[stage] = {"loss": None, "accuracy": None, "interactions": 0}
    content["by_popularity"] = {"offline": [], "online": []}
    lines = [line | {"loss": float("nan"), "accuracy": None} for line in recorded.windows()]
    page = read_page(recorded.write_run(tmp_path, content, lines))
    assert "AutoEmb n/a n/a n/a n/a" in page.text
    assert "No popularity was recorded" in page.text


def test_extreme_numbers_are_drawn(tmp_path, recorded):
    content, lines = recorded.summary(), recorded.windows(count=3)
    lines[0]["loss"], lines[1]["loss"], lines[2]["loss"] = 1e308, -1e308, 1e8
    content["online"]["loss"] = 1e308
    for bucket in content["by_popularity"]["online"]:
        bucket["loss"] = 1e300
        bucket["weights"] = [1e300, None, -3.0] if bucket["low"] else [0.5, 0.5]
    page = read_page(recorded.write_run(tmp_path, content, lines))
    assert "1.0000e+308" in page.text


def test_a_window_a_bucket_and_many_of_them(tmp_path, recorded):
    content = recorded.summary()
    content["by_popularity"]["offline"] = content["by_popularity"]["online"][:1]
    content["by_popularity"]["online"] = [
        content["by_popularity"]["online"][0] | {"low": 2**i - 1, "high": 2 ** (i + 1) - 2}
        for i in range(40)
    ]
    read_page(recorded.write_run(tmp_path, content, recorded.windows(count=1)))


def test_a_long_stream_is_drawn_in_seconds_on_a_small_page(tmp_path, recorded):
    lines = recorded.windows(count=20_000)
    folder = recorded.write_run(tmp_path, recorded.summary(), lines)
    start = time.process_time()  # whatever else the machine does
    path = draw(folder)
    assert time.process_time() - start < 8  # measured: 1.2 s
    assert path.stat().st_size < 400_000


def test_the_curve_shows_the_recorded_windows(tmp_path, recorded):
    folders = []
    for name, shift in (("a", 0.0), ("b", 0.001)):
        lines = recorded.windows()
        lines[50]["loss"] += shift
        folders.append(recorded.write_run(tmp_path / name, recorded.summary(), lines))
    a, b = (draw(folder).parent / "figures" / "stream-loss.svg" for folder in folders)
    assert a.read_bytes() != b.read_bytes()


def test_the_difference_is_to_the_baseline(tmp_path, recorded):
    content = recorded.comparison(methods=("fse", "sam"), seeds=(0,))
    figures = {}
    for name, shifts in (("none", (0, 0)), ("both", (0.5, 0.5)), ("one", (0, 0.5))):
        folder = recorded.write_comparison(tmp_path / name, content)
        for method, shift in zip(("fse", "sam"), shifts, strict=True):
            lines = [line | {"loss": line["loss"] + shift} for line in recorded.windows(method)]
            recorded.write_run(folder / f"{method}-seed0", recorded.summary(method), lines)
        draw(folder)
        for stem in ("stream-loss", "stream-loss-difference"):
            axis = (folder / "figures" / f"{stem}.svg").read_text(encoding="utf-8")
            figures[name, stem] = re.findall(r">([^<>]*\d\.\d+)</text>", axis)
    assert figures["none", "stream-loss"] != figures["both", "stream-loss"]
    assert figures["none", "stream-loss-difference"] == figures["both", "stream-loss-difference"]
    assert figures["none", "stream-loss-difference"] != figures["one", "stream-loss-difference"]
    assert "0.0000" in figures["none", "stream-loss-difference"]


def test_the_command_repeats_the_options(tmp_path, recorded):
    content = recorded.summary()
    content["config"] = {
        "data": "my data/ml-100k",
        "columns": {"user_id": "uid", "rating": "stars"},
        "skip_bad_rows": True,
        "average": False,
        "batch_size": 500,
        "limit": None,
        "seed": 9,
        "fields": ["user"],
    }
    folder = recorded.write_run(tmp_path, content, recorded.windows())
    assert page.command_line(read(folder)) == (
        "autoemb run --method autoemb --seed 0 --data 'my data/ml-100k' "
        "--columns user_id=uid,rating=stars --skip-bad-rows --batch-size 500 --out DIR"
    )


@pytest.mark.parametrize(
    ("column", "features", "words"),
    [
        ("rating", {"user_id": 2, "item_id": 2}, ""),
        ("click", {"user_id": 2, "item_id": 2}, " --schema FILE"),
        ("rating", {"user_id": 2, "item_id": 2, "city": 2}, " --schema FILE"),
    ],
)
def test_a_schema_that_data_do_not_bring_is_named(tmp_path, recorded, column, features, words):
    content = recorded.summary()
    content["config"] = {"data": "ml-100k", "schema": {"label": {"column": column}}}
    content["data"] = content["data"] | {"format": "CSV", "features": features}
    folder = recorded.write_run(tmp_path, content, recorded.windows())
    assert page.command_line(read(folder)) == (
        f"autoemb run --method autoemb --seed 0 --data ml-100k{words} --out DIR"
    )


@pytest.mark.parametrize("name", ["matplotlib", "jinja2"])
def test_without_the_extra_the_error_says_what_to_install(compared, monkeypatch, name):
    monkeypatch.setitem(__import__("sys").modules, name, None)
    for module in ("curves", "figures", "panel"):
        monkeypatch.delitem(
            __import__("sys").modules, f"autoemb.lab.report.{module}", raising=False
        )
        monkeypatch.delattr(f"autoemb.lab.report.{module}", raising=False)
    with pytest.raises(UserError, match=rf"{name}.*: pip install 'autoemb\[report\]'"):
        draw(compared)
    assert not (compared / "report.html").exists()


def test_a_failed_write_leaves_the_old_page(compared, monkeypatch):
    draw(compared)
    before = (compared / "report.html").read_bytes()
    (compared / "compare.json").write_text(
        json.dumps(json.loads((compared / "compare.json").read_text()) | {"task": "classification"})
    )
    monkeypatch.setattr("pathlib.Path.replace", _full_disk)
    with pytest.raises(UserError, match="cannot be written: No space left on device"):
        draw(compared)
    assert (compared / "report.html").read_bytes() == before
    assert not list(compared.rglob("*.part"))


def _full_disk(self, target):
    raise OSError(28, "No space left on device")


def test_opponents_are_named_and_what_would_flatten_the_curves_is_not_drawn(recorded, tmp_path):
    methods = ("mean", "bias", "autoemb")
    content = recorded.comparison(methods=methods, seeds=(0,))
    folder = recorded.write_comparison(tmp_path, content)
    page = draw(folder).read_text()
    assert "Trivial opponents: mean, of all labels so far; bias, which adds what" in page
    assert "Skill is the share of bias's online loss that a method saves" in page
    assert "Not drawn, as it would flatten the others: mean." in page
    curves = (folder / "figures" / "stream-loss.svg").read_text()
    assert ">bias<" in curves
    assert ">mean<" not in curves
