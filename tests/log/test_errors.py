from __future__ import annotations

import copy
import pickle

from resumable_llm.log import errors


def test_all_have_one_base() -> None:
    ours = [each for each in vars(errors).values() if isinstance(each, type) and each.__module__ == errors.__name__]
    assert len(ours) == 12
    assert all(issubclass(each, errors.LogError) for each in ours)


def test_ahead_says_what_is_there() -> None:
    error = errors.Ahead("too far", 17)
    for each in error, copy.copy(error), pickle.loads(pickle.dumps(error)):
        assert (str(each), each.last) == ("too far", 17)
