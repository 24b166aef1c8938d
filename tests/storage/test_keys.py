"""Keys: stable over versions, changed by all that changes bytes and by nothing else."""

from pydantic import Field

from logitfuse.storage.keys import result_key
from logitfuse.storage.settings import Settings


class Old(Settings):
    k: int = Field(10, description="kept")


class New(Old):
    mode: str = Field("topk", description="an option that came later")


def test_a_new_option_with_its_default_changes_no_key() -> None:
    for k in (10, 16):
        assert result_key("capture", Old(k=k), ["a"]) == result_key("capture", New(k=k), ["a"])
    assert result_key("capture", New(mode="topp"), ["a"]) != result_key("capture", New(), ["a"])


def test_everything_that_counts_changes_the_key() -> None:
    base = result_key("capture", Old(), ["a", "b"], {"model": "m"})
    others = [
        result_key("align", Old(), ["a", "b"], {"model": "m"}),
        result_key("capture", Old(k=11), ["a", "b"], {"model": "m"}),
        result_key("capture", Old(), ["b", "a"], {"model": "m"}),
        result_key("capture", Old(), ["a", "b"], {"model": "n"}),
    ]
    assert len({base, *others}) == 5
