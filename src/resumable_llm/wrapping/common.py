"""What all ways to wrap have in common: how an SDK is recognised, and the proof that it took the HTTP client.

No SDK is imported, here or in the modules beside: whoever holds its client has imported it already.
"""

from __future__ import annotations

from typing import Any, Protocol

from resumable_llm.transports.call import Owner


class Around(Protocol):
    """Makes the copy of an HTTP client that watches over its streams. It alone knows the caller's options."""

    def __call__(self, client: Any, owner: Owner | None = None, /) -> Any:
        """The copy.

        Args:
            client: A client of httpx or httpx2.
            owner: Who shares the connections, if not the HTTP client alone: an SDK's client whose finalizer closes it.
        """
        ...


def base_of(thing: object, package: str, *names: str) -> type[Any] | None:
    """The first class of a package that an object is of, among the named ones; None if there is none.

    Args:
        thing: Any object.
        package: The package whose class it is, in full; which of its modules the class is in changes with versions.
        names: The classes' names.
    """
    for base in type(thing).__mro__:
        if base.__name__ in names and f"{base.__module__}.".startswith(f"{package}."):
            return base
    return None


def owner_of(held: object, http_client: Any) -> Owner:
    """The owner for `Around`, where a finalizer of ``held`` would close the HTTP client."""
    return Owner(held, getattr(http_client._transport, "owner", None))


def rebuilt(client: Any, base: Any, /, *args: Any, **options: Any) -> Any:
    """An object of the same class, made by its SDK's constructor, for what cannot be copied.

    A user's subclass may have a constructor that takes other arguments; what it left in the object is carried over.

    Args:
        client: The object.
        base: Its SDK's class.
        args: For that class's constructor.
        options: The same.
    """
    made = object.__new__(type(client))
    base.__init__(made, *args, **options)
    if type(client) is not base:
        for name, value in vars(client).items():
            vars(made).setdefault(name, value)
    return made


def prove(made: object, path: str, http_client: object) -> None:
    """See that a copy uses an HTTP client: one that goes around it would look like success until the first drop.

    Args:
        made: The copy.
        path: The attributes that lead to the HTTP client.
        http_client: What must be found there.

    Raises:
        TypeError: Something else is there.
    """
    found: Any = made
    for name in path.split("."):
        found = getattr(found, name, None)
    if found is not http_client:
        raise TypeError(
            f"{type(made).__name__} did not take the HTTP client ({path}), so nothing would be watched over"
        )


def kind_of(thing: object) -> str:
    """The full name of an object's class."""
    return f"{type(thing).__module__}.{type(thing).__qualname__}"
