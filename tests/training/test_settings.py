"""What is out of range is refused by name, and the ends of a range are where they are said to be."""

import pytest

from unstick.errors import BadRecipe
from unstick.training.settings import (
    check_below_one,
    check_choice,
    check_not_negative,
    check_positive,
)

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("check", "taken", "refused"),
    [
        (check_positive, (1e-300, 1, 5.0), (0, 0.0, -1.0, INF, NAN)),
        (check_not_negative, (0, 0.0, 5.0), (-1e-300, -1, INF, -INF, NAN)),
        (check_below_one, (0, 0.5, 1 - 1e-16), (1, 1.0, -1e-300, INF, NAN)),
    ],
)
def test_numbers_are_taken_up_to_the_ends_of_their_range(check, taken, refused):
    for value in taken:
        check(before=value, size=value)
    for value in refused:
        with pytest.raises(BadRecipe, match=f"^size is {value}; expected "):
            check(before=taken[0], size=value)


def test_a_name_is_one_of_those_that_are_known():
    known = {"red": 1, "green": 2}
    check_choice(known, one="red", other="green")

    with pytest.raises(BadRecipe, match=r"^other is 'blue'; expected one of red, green$"):
        check_choice(known, one="red", other="blue")
