"""Text in UTF-16 code units, as JSON writes it: a server may cut an emoji between the two halves of its pair."""

from __future__ import annotations


def joined(text: str) -> str:
    """The text with every pair of surrogates as the one character that it is; a lone one stays."""
    if text.isascii() or not any("\ud800" <= each <= "\udfff" for each in text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def split(text: str) -> str:
    """The text with every character beyond the 16th bit as two surrogates, so that it can be cut between them."""
    if text.isascii() or max(text) <= "\uffff":
        return text
    units = text.encode("utf-16-le", "surrogatepass")
    return "".join([chr(units[at] | units[at + 1] << 8) for at in range(0, len(units), 2)])


def characters(text: str) -> int:
    """How many characters there are in a text, or in pieces of it: the second half of a pair is none of its own."""
    return len(text) if text.isascii() else sum(not "\udc00" <= each <= "\udfff" for each in text)


def common_prefix(one: str, other: str) -> int:
    """How many characters two texts have in common at their beginning."""
    limit = min(len(one), len(other))
    if one[:limit] == other[:limit]:
        return limit
    low, high = 0, limit  # the first difference is in [low, high)
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low
