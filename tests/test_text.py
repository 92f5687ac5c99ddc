import pytest

from rulepatch.text import Table, percent, plural, points


def test_columns_are_aligned_numbers_to_the_right():
    lines = Table(["name", "n", "share"], [["a", 7, "5 %"], ["much longer", 1234, "-"]]).to_text().splitlines()
    assert lines == [
        "name            n  share",
        "a               7  5 %",
        "much longer  1234  -",
    ]


def test_table_without_rows_is_its_header():
    assert Table(["a", "b"], []).to_text() == "a  b"


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0.0 %"), (1, "100.0 %"), (0.4267, "42.7 %"), (1e-9, "0.0 %"), (None, "n/a")]
)
def test_percent(share, text):
    assert percent(share) == text


@pytest.mark.parametrize(("difference", "text"), [(0.012, "+1.2 points"), (-0.5, "-50.0 points"), (0, "+0.0 points")])
def test_points_have_a_sign(difference, text):
    assert points(difference) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 edits"), (1, "1 edit"), (2, "2 edits"), (12_345, "12,345 edits")])
def test_plural(count, text):
    assert plural(count, "edit") == text
