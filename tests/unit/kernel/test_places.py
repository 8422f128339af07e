"""Places: one holder's are bounded, and come back whatever ends the holding."""

from contextlib import ExitStack

import pytest

from federation.kernel.errors import LimitExceededError
from federation.kernel.places import Places


def test_who_has_as_many_as_it_may_gets_no_more_and_others_do() -> None:
    places = Places(each=2)
    with ExitStack() as held:
        for _ in range(2):
            held.enter_context(places.hold("a"))
        with pytest.raises(LimitExceededError, match="a has 2 streams here, at most 2 are allowed"):
            held.enter_context(places.hold("a"))
        held.enter_context(places.hold("b"))
    with places.hold("a"):
        pass


def test_a_place_comes_back_when_what_was_done_there_fails() -> None:
    places = Places(each=1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), places.hold("a"):
            raise ZeroDivisionError


def test_nobody_is_not_counted() -> None:
    places = Places(each=1)
    with places.hold(""), places.hold(""):
        pass
