import json
import math

import pytest

from autoemb.errors import UserError
from autoemb.lab.json_object import JsonObject
from autoemb.lab.report import draw
from autoemb.lab.report.records import parse_comparison, read

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
        (["online"], None, "online is None; expected an object"),
        (["seed"], -1, "seed is -1; expected a whole number"),
        (["seed"], 2**63, "expected a whole number"),
        (["seconds"], MISSING, "seconds is missing; expected a number or null"),
        (["task"], "ranking", "task is 'ranking'; expected regression or classification"),
        (["task"], ["regression"], "expected regression or classification"),
        (["method"], "<script>", "method is '<script>'; expected a name"),
        (["method"], "", "expected a name"),
        (["data", "name"], 7, "data.name is 7; expected text"),
        (["config"], [], r"config is \[\]; expected an object"),
        (["by_popularity"], MISSING, "by_popularity is missing; expected an object"),
        (["by_popularity", "online"], {}, "by_popularity.online is {}; expected a list"),
        (["by_popularity", "online", 0], 3, r"by_popularity.online\[0\] is 3; expected an object"),
        (["by_popularity", "online", 0, "field"], "../../x", "expected a name"),
        (["by_popularity", "online", 0, "weights"], "x", "expected a list of numbers or null"),
        (["by_popularity", "online", 0, "weights"], ["x"], r"weights\[0\] is 'x'"),
    ],
)
def test_a_broken_field_of_a_summary_is_named(tmp_path, recorded, path, value, message):
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
        ("summary.json", b"[1]", r"the content is \[1\]; expected an object"),
        ("summary.json", b"\xff\xfe", "is not UTF-8 at byte 0"),
        ("summary.json", b"[" * 100_000, "is not JSON"),
        ("summary.json", b'{"seed": ' + b"9" * 5000 + b"}", "is not JSON"),
        ("metrics.jsonl", b"", "is empty; expected one line a window"),
        ("metrics.jsonl", b'{"interactions": 1', "line 1 is not JSON"),
        ("metrics.jsonl", b"3\n", "line 1: the content is 3; expected an object"),
    ],
)
def test_a_broken_file_is_named(tmp_path, recorded, name, content, message):
    recorded.write_run(tmp_path, recorded.summary(), recorded.windows())
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        draw(tmp_path)
    assert str(tmp_path / name) in str(error.value)


def test_a_broken_line_of_the_metrics_is_numbered(tmp_path, recorded):
    lines = recorded.windows()
    lines[41]["stage"] = "later"
    recorded.write_run(tmp_path, recorded.summary(), lines)
    with pytest.raises(UserError, match="line 42: stage is 'later'; expected offline or online"):
        draw(tmp_path)


@pytest.mark.parametrize("depth", [8, 9, 600])
def test_a_configuration_is_not_deep(recorded, depth):
    content = recorded.comparison()
    value: object = 1
    for _ in range(depth):
        value = [value]
    content["config"] = {"dims": value}
    record = JsonObject(content, "compare.json")
    if depth < 8:
        parse_comparison(record)
    else:
        with pytest.raises(UserError, match="nested eight deep at most"):
            parse_comparison(record)


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


def test_a_run_folder_of_another_method(tmp_path, recorded):
    content = recorded.comparison(methods=("fse", "sam"), seeds=(0,))
    recorded.write_comparison(tmp_path, content)
    content["results"][0]["run"], content["results"][1]["run"] = "sam-seed0", "fse-seed0"
    (tmp_path / "compare.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="method sam, seed 0; expected fse, seed 0"):
        draw(tmp_path)


def test_null_nan_and_infinity_are_not_numbers(tmp_path, recorded):
    content = recorded.summary()
    content["online"]["loss"] = None
    content["online"]["accuracy"] = math.inf
    content["seconds"] = 10**400
    recorded.write_run(tmp_path, content, recorded.windows())
    result = read(tmp_path).comparison.results[0]
    assert all(map(math.isnan, (result.stages["online"].loss, result.seconds)))
    assert math.isnan(result.stages["online"].accuracy)


def test_windows_are_read_in_stream_order(tmp_path, recorded):
    lines = recorded.windows()
    recorded.write_run(tmp_path, recorded.summary(), lines[::-1])
    windows = read(tmp_path).runs[0].windows
    assert [window.interactions for window in windows] == [line["interactions"] for line in lines]
    assert [window.loss for window in windows] == [line["loss"] for line in lines]


def test_rate_of_a_comparison_comes_from_its_seconds(recorded):
    content = recorded.comparison()
    assert parse_comparison(JsonObject(content, "c")).results[0].interactions_per_second == 2500
    content["results"][0]["seconds"] = 0
    result = parse_comparison(JsonObject(content, "c")).results[0]
    assert math.isnan(result.interactions_per_second)
