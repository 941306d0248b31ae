import pytest

from morphnet.spec import MorphSpec, parse_spec


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("1c1", MorphSpec((1, 1))),
        ("3c1", MorphSpec((3, 1))),
        ("1c1_half", MorphSpec((1, 1), half=True)),
        ("1c1_2branch_half", MorphSpec((1, 1), two_branches=True, half=True)),
        ("11c5_2branch", MorphSpec((11, 5), two_branches=True)),
    ],
)
def test_notation_is_read_and_written_the_same(text, spec):
    assert parse_spec(text) == spec
    assert str(spec) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1c1_hlaf", "unknown suffix 'hlaf'; expected 'half' or '2branch'"),
        ("1c1_half_2branch", "out of order"),
        ("1c1_half_half", "out of order or repeated"),
        ("2c1", "kernel size 2 is not odd"),
        ("0c1", "kernel size 0 is not odd"),
        ("", "is not a pair of kernel sizes"),
        ("1x1", "is not a pair of kernel sizes"),
        ("²c1", "is not a pair"),
        ("-1c1", "is not a pair"),
    ],
)
def test_wrong_notation_is_refused_with_what_is_expected(text, message):
    with pytest.raises(ValueError, match=message):
        parse_spec(text)


def test_a_spec_that_is_no_string_is_refused():
    with pytest.raises(TypeError, match="got NoneType"):
        parse_spec(None)  # type: ignore[arg-type]
