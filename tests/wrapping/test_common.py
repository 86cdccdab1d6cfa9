from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from resumable_llm.wrapping.common import base_of, kind_of, owner_of, prove, rebuilt


class Base:
    def __init__(self, inside: object, *, option: str = "") -> None:
        self.inside = inside
        self.option = option


class Mine(Base):
    """With a constructor that takes other arguments."""

    def __init__(self, name: str) -> None:
        super().__init__(object())
        self.name = name


class Other:
    __module__ = f"{__name__}_of_another_package"


def test_a_class_is_known_by_its_package_and_name() -> None:
    thing = Mine("a")
    assert base_of(thing, __name__, "Base") is Base
    assert base_of(thing, __name__, "Base", "Mine") is Mine
    assert base_of(thing, __name__.rpartition(".")[0] or __name__, "Base") is Base
    assert base_of(thing, __name__, "Another") is None
    assert base_of(thing, "builtins", "Base") is None
    assert base_of(Other(), __name__, "Other") is None, "the name of a package that only begins alike"


def test_an_object_is_rebuilt_by_its_base() -> None:
    thing = Mine("a")
    made = rebuilt(thing, Base, "inside", option="o")
    assert type(made) is Mine
    assert vars(made) == {"inside": "inside", "option": "o", "name": "a"}


def test_what_was_put_into_an_sdks_own_object_is_not_carried_over() -> None:
    """As a tracer does, whose function is bound to the original."""
    thing: Any = Base("outside")
    thing.traced = print
    assert vars(rebuilt(thing, Base, "inside")) == {"inside": "inside", "option": ""}


def test_the_proof() -> None:
    http_client = object()
    made = SimpleNamespace(one=SimpleNamespace(two=http_client))
    prove(made, "one.two", http_client)
    with pytest.raises(TypeError, match=r"^SimpleNamespace did not take the HTTP client \(one\.two\), so nothing"):
        prove(made, "one.two", object())
    with pytest.raises(TypeError, match=r"one\.three\.four"):
        prove(made, "one.three.four", http_client)


def test_an_owner_stands_behind_an_owner() -> None:
    first = owner_of(object(), SimpleNamespace(_transport=object()))
    assert first.is_alone()
    held = object()
    transport = SimpleNamespace(owner=owner_of(held, SimpleNamespace(_transport=None)))
    second = owner_of(object(), SimpleNamespace(_transport=transport))
    assert not second.is_alone()
    del held
    assert second.is_alone()


def test_the_full_name_of_a_kind() -> None:
    assert kind_of("text") == "builtins.str"
    assert kind_of(Mine("a")) == f"{__name__}.Mine"
