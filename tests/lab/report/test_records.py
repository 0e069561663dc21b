"""Recorded files read back: what is taken, and what is said of what is not."""

import copy
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoemb.errors import UserError
from autoemb.lab import records
from autoemb.lab.differences import differences, read_windows
from autoemb.lab.records import Comparison, StudyRecord, Summary, Window
from autoemb.lab.report import draw
from autoemb.lab.report.recording import read

MISSING = object()


def spoil(content, path, value):
    """Replace (or delete) what a path of keys leads to."""
    *parents, last = path
    for key in parents:
        content = content[key]
    if value is MISSING:
        del content[last]
    else:
        content[last] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["online", "loss"], "low", "online.loss is 'low'; expected a number or null"),
        (["online", "loss"], True, "online.loss is True; expected a number or null"),
        (["online", "loss"], MISSING, "online.loss is missing"),
        (["online"], None, "online is None; expected names with values"),
        (["seed"], -1, "seed is -1; expected at least 0"),
        (["seed"], 2**63, "seed is 9223372036854775808; expected at most"),
        (["seed"], 1.5, "seed is 1.5; expected a whole number"),
        (["seed"], True, "seed is True; expected a whole number"),
        (["seconds"], MISSING, "seconds is missing"),
        (["task"], ["regression"], r"task is \['regression'\]; expected a name of at most 64"),
        (["method"], "<script>", "method is '<script>'; expected a name"),
        (["method"], "", "method is ''; expected a name"),
        (["method"], "x\n", r"method is 'x\\n'; expected a name"),
        (["data", "name"], 7, "data.name is 7; expected text"),
        (["data", "features"], {"a": "x"}, "data.features.a is 'x'; expected a whole number"),
        (["data", "features"], {"a\nb": 1}, r"data.features.'a\\nb'.* expected a name"),
        (["config"], [], r"config is \[\]; expected names with values"),
        (["by_popularity"], MISSING, "by_popularity is missing"),
        (["by_popularity", "online"], {}, "by_popularity.online is {}; expected a list"),
        (["by_popularity", "online", 0], 3, r"by_popularity.online\[0\] is 3; expected names"),
        (["by_popularity", "online", 0, "feature"], "a\x1b", r"feature is .*; expected a name"),
        (["by_popularity", "online", 0, "weights"], "x", "weights is 'x'; expected a list"),
        (["by_popularity", "online", 0, "weights"], ["x"], r"weights\[0\] is 'x'; .*or null"),
        (["embeddings"], {"bytes": -1}, "embeddings.bytes is -1; expected at least 0"),
    ],
)
def test_a_broken_value_of_a_summary_is_named(tmp_path, recorded, path, value, message):
    content = json.loads(json.dumps(recorded.summary()))
    spoil(content, path, value)
    recorded.write_run(tmp_path, content, recorded.windows())
    with pytest.raises(UserError, match=message) as error:
        draw(tmp_path)
    assert str(tmp_path / "summary.json") in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("summary.json", b"{", "is not JSON: .* at line 1"),
        ("summary.json", b"", "is not JSON: .* at line 1"),
        ("summary.json", b"[1]", r"the content is \[1\]; expected names with values"),
        ("summary.json", b"\xff\xfe", "is not UTF-8 at byte 0"),
        ("summary.json", b"[" * 100_000, "is not JSON"),
        ("summary.json", b'{"seed": ' + b"[" * 900 + b"]" * 900 + b"}", "summary.json: "),
        ("summary.json", b'{"seed": ' + b"9" * 5000 + b"}", "is not JSON"),
        ("metrics.jsonl", b"", "is empty; expected one line a window"),
        ("metrics.jsonl", b'{"interactions": 1', "line 1 is not JSON"),
        ("metrics.jsonl", b"\n3\n", "line 2: the content is 3; expected names with values"),
        ("metrics.jsonl", b"\n\n\xff\n", "line 3 is not UTF-8 at byte 0"),
        ("metrics.jsonl", b" " * 2**21, "line 1 has more than 1,048,576 bytes"),
    ],
)
def test_a_broken_file_is_named(tmp_path, recorded, name, content, message):
    recorded.write_run(tmp_path, recorded.summary(), recorded.windows())
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        draw(tmp_path)
    assert str(tmp_path / name) in str(error.value)


def test_no_more_of_a_file_is_read_than_a_run_records(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "LARGEST_FILE", 100)
    path = tmp_path / "summary.json"
    path.write_text("{" + " " * 98 + "}")
    assert records.read_json(path) == {}
    path.write_text("{" + " " * 99 + "}")
    with pytest.raises(UserError, match="has more than 100 bytes"):
        records.read_json(path)


def test_a_folder_in_place_of_a_file_is_named(tmp_path):
    (tmp_path / "summary.json").mkdir()
    with pytest.raises(UserError, match=r"summary\.json cannot be read: Is a directory"):
        records.read_json(tmp_path / "summary.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stage": "later"}, "line 42: stage is 'later'; expected one of offline, online"),
        ({"window": None}, "line 42: window is None; expected a whole number"),
        ({"weights": {"user_id": 3}}, "line 42: weights.user_id is 3; expected a list"),
        ({"weights": {"user_id": ["x"]}}, r"line 42: weights.user_id\[0\] is 'x'; .* or null"),
    ],
)
def test_a_broken_line_of_the_metrics_is_numbered(tmp_path, recorded, change, message):
    lines = recorded.windows()
    lines[41] |= change
    recorded.write_run(tmp_path, recorded.summary(), lines)
    with pytest.raises(UserError, match=message):
        draw(tmp_path)


@pytest.mark.parametrize("depth", [7, 8, 600])
def test_a_configuration_is_not_deep(recorded, depth):
    content = recorded.comparison()
    value: object = 1
    for _ in range(depth):
        value = [value]
    content["config"] = {"dims": value}
    if depth < 8:
        Comparison.parse(content, "compare.json")
    else:
        with pytest.raises(UserError, match=r"compare.json: config is .*nested eight deep at most"):
            Comparison.parse(content, "compare.json")


def test_what_is_not_complete_asks_for_resume(tmp_path, recorded):
    recorded.write_comparison(tmp_path, recorded.comparison())
    (tmp_path / "sam-seed1" / "summary.json").unlink()
    with pytest.raises(UserError, match=r"sam-seed1/summary.json is missing: the run is not compl"):
        draw(tmp_path)
    (tmp_path / "compare.json").unlink()
    with pytest.raises(UserError, match=r"compare.json is missing: the comparison is not complete"):
        draw(tmp_path)
    with pytest.raises(UserError, match="--resume"):
        draw(tmp_path / "sam-seed1")


def test_a_folder_of_something_else(tmp_path):
    with pytest.raises(UserError, match="holds no run, comparison or study"):
        draw(tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        draw(tmp_path / "absent")


@pytest.mark.parametrize("name", ["../autoemb-seed0", "/etc", "..", "", 3])
def test_a_run_folder_lies_inside_the_comparison(tmp_path, recorded, name):
    content = recorded.comparison(methods=("autoemb",), seeds=(0,))
    recorded.write_comparison(tmp_path, content)
    content["results"][0]["run"] = name
    (tmp_path / "compare.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"results\[0\].run is .*; expected a name"):
        draw(tmp_path)
    del content["results"][0]["run"]
    (tmp_path / "compare.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"compare.json: results\[0\].run is missing"):
        draw(tmp_path)


def test_a_run_folder_of_another_method(tmp_path, recorded):
    content = recorded.comparison(methods=("fse", "sam"), seeds=(0,))
    recorded.write_comparison(tmp_path, content)
    content["results"][0]["run"], content["results"][1]["run"] = "sam-seed0", "fse-seed0"
    (tmp_path / "compare.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="method sam, seed 0; expected fse, seed 0"):
        draw(tmp_path)


def test_a_comparison_has_a_result(recorded):
    with pytest.raises(UserError, match=r"c: results is \[\]; expected at least 1 values"):
        Comparison.parse(recorded.comparison() | {"results": []}, "c")


def test_null_nan_and_infinity_are_not_numbers(tmp_path, recorded):
    content = recorded.summary()
    content["online"]["loss"] = None
    content["online"]["accuracy"] = math.inf
    content["seconds"] = 10**400
    recorded.write_run(tmp_path, content, recorded.windows())
    result = read(tmp_path).comparison.results[0]
    assert all(map(math.isnan, (result.online.loss, result.seconds)))
    assert math.isnan(result.online.metrics["accuracy"])


def test_windows_are_read_in_stream_order(tmp_path, recorded):
    lines = recorded.windows()
    recorded.write_run(tmp_path, recorded.summary(), lines[::-1])
    windows = read(tmp_path).runs[0].windows
    assert [window.interactions for window in windows] == [line["interactions"] for line in lines]
    assert [window.loss for window in windows] == [line["loss"] for line in lines]


def test_rate_of_a_comparison_comes_from_its_seconds(recorded):
    content = recorded.comparison()
    assert Comparison.parse(content, "c").results[0].rate == 2500
    content["results"][0]["seconds"] = 0
    assert math.isnan(Comparison.parse(content, "c").results[0].rate)


def test_further_keys_are_welcome(recorded):
    content = recorded.summary() | {"recorded_by": {"anything": [1, {"deep": None}]}}
    content["data"] = content["data"] | {"features": {"user_id": 5, "city": 3}, "other": 1}
    assert Summary.parse(content, "s").data.features == {"user_id": 5, "city": 3}


def test_windows_cover_the_events_of_the_run(tmp_path, recorded):
    recorded.write_run(tmp_path, recorded.summary(), recorded.windows()[:-1])
    with pytest.raises(UserError, match=r"metrics.jsonl covers 9,900 events; .* had 10,000"):
        read_windows(tmp_path / "metrics.jsonl", recorded.summary())


def test_windows_cut_at_other_events_are_not_subtracted(recorded):
    lines = [Window.parse(line, "m") for line in recorded.windows()]
    other = [lines[0].model_copy(update={"window": 50}), *lines[1:]]
    with pytest.raises(UserError, match="windows of the offline stage differ"):
        differences({("fse", 0): lines, ("sam", 0): other}, ["fse", "sam"], [0])


def test_only_means_over_events_are_subtracted(recorded, monkeypatch):
    monkeypatch.setattr("autoemb.lab.differences.RESAMPLES", 10)
    lines = [
        Window.parse(
            {k: v for k, v in line.items() if k != "accuracy"} | {"auc": 0.5, "mae": i}, "m"
        )
        for i, line in enumerate(recorded.windows())
    ]
    rows = differences({("fse", 0): lines, ("sam", 0): lines}, ["fse", "sam"], [0])
    assert {row["metric"] for row in rows} == {"loss", "mae"}


STUDY = {
    "results": [
        {
            "data": "ml", "task": "regression", "order": "chronological", "method": "fse",
            "seed": 0, "run": "runs/ml-fse-0", "chosen": {"row_rate": 3},
            "offline": {"loss": 1, "interactions": 3}, "online": {"loss": 1, "interactions": 3},
            "first_tenth": 1, "embedding_bytes": 8, "seconds": 1,
        }
    ],
    "differences": [],
    "methods": {"fse": {"options": {}, "candidates": [{}]}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            ["results", 0, "run"],
            "runs/..",
            r"results\[0\].run is .*; expected a folder below runs/",
        ),
        (["results", 0, "run"], "runs/a/../..", "expected a folder below runs/"),
        (["results", 0, "run"], "/etc", "expected a folder below runs/"),
        (["results", 0, "run"], MISSING, r"results\[0\].run is missing"),
        (["results", 0, "first_tenth"], "x", "first_tenth is 'x'; expected a number or null"),
        (["results", 0, "embedding_bytes"], None, "embedding_bytes is None; expected a whole"),
        (["results", 0, "chosen"], [], "chosen is .*; expected names with values"),
        (["results"], [], "results is .*; expected at least 1"),
        (["methods"], {"a b": {}}, "methods.a b.* expected a name"),
        (["methods", "fse"], {}, "methods.fse.candidates is missing"),
        (["methods", "fse", "candidates"], 3, "methods.fse.candidates is 3; expected a list"),
    ],
)
def test_a_broken_value_of_a_study_is_named(path, value, message):
    content = copy.deepcopy(STUDY)
    StudyRecord.parse(content, "study.json")
    spoil(content, path, value)
    with pytest.raises(UserError, match=message) as caught:
        StudyRecord.parse(content, "study.json")
    assert str(caught.value).startswith("study.json: ")
    assert "\n" not in str(caught.value)


# Fuzzing

ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([2**63, -1, 10**400, "\ud800", "a\n", math.nan]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


def refusal(call):
    """Return what is said of a mistake, or nothing; anything else is a fault."""
    try:
        call()
    except UserError as error:
        return str(error)
    return ""


def places(content, path=()):
    yield path
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items:
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))
        else:
            yield (*path, key)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_changed_records_are_read_or_refused_in_one_line(data, recorded):
    kind, content = data.draw(
        st.sampled_from(
            [
                (Summary, recorded.summary()),
                (Comparison, recorded.comparison()),
                (Window, recorded.windows(count=1)[0]),
                (StudyRecord, STUDY),
            ]
        )
    )
    content = json.loads(json.dumps(content))
    path = data.draw(st.sampled_from([*places(content)][1:]))
    spoil(content, path, data.draw(ODD | st.just(MISSING)))
    said = refusal(lambda: kind.parse(content, "file"))
    assert "\n" not in said
    assert len(said) < 500


@settings(max_examples=60, deadline=None)
@given(
    position=st.integers(0, 10**6), part=st.binary(max_size=9), repeat=st.sampled_from([1, 2000])
)
def test_changed_bytes_are_read_or_refused_in_one_line(
    tmp_path_factory, recorded, position, part, repeat
):
    folder = tmp_path_factory.getbasetemp() / "changed-bytes"
    recorded.write_run(folder, recorded.summary(), recorded.windows(count=3))
    for name in ("summary.json", "metrics.jsonl"):
        whole = (folder / name).read_bytes()
        at = position % len(whole)
        (folder / name).write_bytes(whole[:at] + part * repeat + whole[at + len(part) :])
        said = refusal(lambda: read(folder))
        assert "\n" not in said
        assert name in said or not said
        (folder / name).write_bytes(whole)
