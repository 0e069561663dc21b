from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoemb.data import load

BIGGEST = 2**63 - 1
DAY = 86_400

rows = st.lists(
    st.tuples(
        st.integers(0, BIGGEST) | st.integers(0, 9),
        st.integers(0, BIGGEST) | st.integers(0, 9),
        st.sampled_from([1.0, 2.0, 3.0, 4.0, 5.0]),
        st.integers(0, 3).map(lambda day: day * DAY)
        | st.integers(0, 40_000).map(lambda d: d * DAY),
    ),
    min_size=1,
    max_size=30,
)
bad_rows = st.sampled_from(
    [
        "1,2,3",
        "1,2,3,4,5",
        "a,2,x,4",
        "1,2,-3,4",
        "1,2,nan,4",
        "1,2,3,",
        "99999999999999999999,2,3,4,5",
    ]
)
fast = settings(max_examples=25, deadline=None, derandomize=True)


def test_round_trip_and_stable_sort_of_every_layout(layout, tmp_path_factory) -> None:
    writer, format, _ = layout

    @fast
    @given(rows)
    def check(rows):
        stream = load(writer(tmp_path_factory.mktemp("layout"), rows))
        if format == "Netflix Prize":  # its files go by movie: by number, or by first sight
            firsts = [row[1] for row in rows]
            key = (
                (lambda r: r[1])
                if "training" in writer.__name__
                else (lambda r: firsts.index(r[1]))
            )
            rows = sorted(rows, key=key)
        expected = sorted(rows, key=lambda row: row[3])
        assert stream.frame.rows() == expected
        assert stream.format == format

    check()


@pytest.mark.parametrize("quoted", [False, True])
def test_exactly_the_bad_rows_are_skipped(tmp_path: Path, quoted: bool) -> None:
    path = tmp_path / "x.csv"

    @fast
    @given(st.lists(st.integers(0, 99) | bad_rows | st.just(""), max_size=40))
    def check(entries):
        # Bad rows do not decide whether ids are integers.
        entries = [*range(50), *entries]
        lines = [f"{entry},2,3,{entry}" if isinstance(entry, int) else entry for entry in entries]
        if quoted:
            lines[0] = '"0",2,3,0'
        path.write_text("user_id,item_id,rating,timestamp\n" + "\n".join(lines) + "\n")
        stream = load(path, skip_bad_rows=True)
        good = sorted(e for e in entries if isinstance(e, int))
        assert stream.frame["user_id"].to_list() == good
        assert stream.skipped_rows == sum(isinstance(e, str) and e != "" for e in entries)

    check()
