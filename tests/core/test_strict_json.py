from __future__ import annotations

import pytest

from hyfree_ray.core.strict_json import StrictObject


def parse(text: str) -> StrictObject:
    return StrictObject.parse(text, ["a"])


@pytest.mark.parametrize("text", ["", "[1]", "{}", '{"b": 1}', '{"a": 1, "a": 2}', '{"a": NaN}'])
def test_only_an_object_with_exactly_the_keys_is_taken(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse(text)


def test_keys_of_others_are_quoted_and_cut() -> None:
    with pytest.raises(ValueError, match=r"1 keys missing, 1 unknown") as caught:
        parse('{"x\\n%s": 1}' % ("y" * 500))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 120


def test_true_is_no_number() -> None:
    with pytest.raises(ValueError, match="a is not a whole number"):
        parse('{"a": true}').integer("a", least=0, most=9)
    with pytest.raises(ValueError, match="finite"):
        parse('{"a": [true]}').numbers("a", positive=False)


@pytest.mark.parametrize("value", ["1e999", "-1e999", "0", "-1", "1" + "0" * 400, '"1"', "null"])
def test_what_is_not_a_positive_finite_number_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="positive finite number"):
        parse(f'{{"a": [{value}]}}').numbers("a", positive=True)


def test_depth_is_limited_however_deep() -> None:
    for depth in (8, 100, 100_000):
        with pytest.raises(ValueError, match="deep"):
            parse('{"a": {"b": ' + "[" * depth + "]" * depth + "}}").free("a")
    assert parse('{"a": {"b": [[1.5, true, null]]}}').free("a") == {"b": [[1.5, True, None]]}
