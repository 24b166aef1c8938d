"""Shards are encoded by several threads with one tokenizer; none may see another's switches."""

from concurrent.futures import ThreadPoolExecutor, TimeoutError

import pytest

from logitfuse.tasks.models import vocabulary as module
from logitfuse.tasks.models.vocabulary import encode_texts, load_tokenizer, read_vocabulary
from logitfuse.tasks.packaged.tokenizers import tokenizer_folder


@pytest.mark.models
def test_one_thread_at_a_time_switches_a_tokenizer() -> None:
    tokenizer = load_tokenizer(tokenizer_folder("llama-2"))
    vocabulary = read_vocabulary(tokenizer)
    ((alone, _),) = encode_texts(tokenizer, vocabulary, ["<s> literal </s>"])
    assert not {1, 2} & set(alone.tolist())
    with ThreadPoolExecutor(1) as pool:
        with module._plain(tokenizer.backend_tokenizer, specials=False):
            other = pool.submit(encode_texts, tokenizer, vocabulary, ["<s> literal </s>"])
            with pytest.raises(TimeoutError):  # it waits, or leaving this block would switch under its feet
                other.result(timeout=0.3)
        ((ids, _),) = other.result(timeout=30)
    assert ids.tolist() == alone.tolist()
