"""The packaged models are the trained models they claim to be, with their terms beside them."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from logitfuse.storage.errors import BadInput
from logitfuse.tasks.packaged.models import MODELS, fetch_model, licence_notice

PARAGRAPH = (
    "The Roman Empire was one of the largest in the ancient world. At its height it stretched from Britain to Egypt, "
    "and it was ruled by emperors who lived in the city of Rome. In 117 AD, under Trajan, it covered about 5 million "
    "square kilometres."
)


def test_an_unknown_name_is_answered_with_the_closest(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"'smolm2'.*Did you mean 'smollm2-135m'"):
        fetch_model("smolm2", tmp_path)
    with pytest.raises(BadInput, match="gemma3-270m"):
        licence_notice("gemma", tmp_path)


SMALLEST = "smollm2-135m"
OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in sorted(set(MODELS) - {SMALLEST})]


@pytest.fixture(scope="module", params=[SMALLEST, *OTHERS])
def real(request: pytest.FixtureRequest) -> tuple[str, Path, Any, Any]:
    folder = fetch_model(request.param)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    return request.param, folder, model, AutoTokenizer.from_pretrained(folder)


def nats(model: Any, ids: list[int], start: list[int]) -> float:
    """Mean nats per predicted token of a text, with or without a start token before it."""
    ids_BL = torch.tensor([start + ids])
    with torch.no_grad():
        logprobs_TV = model(ids_BL).logits[0, :-1].float().log_softmax(-1)
    return -logprobs_TV.gather(1, ids_BL[0, 1:, None]).mean().item()


@pytest.mark.models
def test_it_is_the_trained_model(real: tuple[str, Path, Any, Any]) -> None:
    name, _, model, tokenizer = real
    ids = tokenizer(PARAGRAPH, add_special_tokens=False).input_ids
    with_start, without = nats(model, ids, [tokenizer.bos_token_id]), nats(model, ids, [])
    per_byte = with_start * len(ids) / len(PARAGRAPH.encode())
    assert 0.4 < per_byte < 0.7
    if name == "gemma3-270m":
        assert without > 2 * with_start  # it has never seen a text without <bos>
    else:
        assert with_start < nats(model, ids, tokenizer.convert_tokens_to_ids(["<|im_start|>"]))


@pytest.mark.models
def test_the_head_is_tied_and_as_wide_as_the_vocabulary(real: tuple[str, Path, Any, Any]) -> None:
    _, folder, model, tokenizer = real
    head = model.get_output_embeddings().weight
    assert head.shape[0] == len(tokenizer) == model.config.vocab_size
    assert head.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    assert (folder / "model.safetensors").stat().st_size < 2.01 * model.num_parameters()  # bfloat16, nothing twice
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


@pytest.mark.models
def test_terms_lie_beside_the_model_and_the_record_says_where_it_is_from(real: tuple[str, Path, Any, Any]) -> None:
    name, folder, *_ = real
    record = json.loads((folder / "logitfuse.json").read_text())
    assert record["gguf_sha256"] == MODELS[name].gguf_sha256
    assert all((folder / terms).stat().st_size > 100 for terms in record["terms"])
    notice = licence_notice(name)
    assert Path(notice.rpartition("Full terms: ")[2]).exists()
    assert {"smollm2-135m": "Apache License 2.0", "gemma3-270m": "Gemma Terms of Use"}[name] in notice


@pytest.mark.models
def test_a_saved_copy_computes_the_same(real: tuple[str, Path, Any, Any], tmp_path: Path) -> None:
    *_, model, tokenizer = real
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    ids = tokenizer("Once upon a time").input_ids
    assert math.isclose(nats(again, ids, []), nats(model, ids, []), rel_tol=1e-6)
