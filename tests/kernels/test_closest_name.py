"""Answers to a name that is not known."""

import pytest

from logitfuse.kernels.closest_name import did_you_mean, known_names


@pytest.mark.parametrize(
    ("name", "answer"),
    [("fuze", "Did you mean 'fuse'? Known: fuse, map."), ("zzz", "Known: fuse, map."), ("", "Known: fuse, map.")],
)
def test_a_close_name_is_asked_for_and_all_are_listed_once(name: str, answer: str) -> None:
    assert known_names(name, ["fuse", "map", "fuse"]) == answer


def test_where_nothing_is_known_it_says_so() -> None:
    assert known_names("fuse", [], called="Stages") == "Stages: none."


def test_how_alike_a_name_must_be_is_the_callers_choice() -> None:
    assert did_you_mean("llama", ["llama-2-7b"]) == "Did you mean 'llama-2-7b'? "
    assert did_you_mean("llama", ["llama-2-7b"], cutoff=0.9) == ""
