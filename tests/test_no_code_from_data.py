"""No data is ever code: all source, tests and benchmarks too, is looked through for what would run what it reads."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("flows", "tasks", "storage", "kernels", "benchmarks", "tests", "docs")
PICKLES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "shelve", "marshal", "joblib", "jsonpickle"}
FORBIDDEN = {
    "eval", "exec", "compile", "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput",
    "torch.save", "yaml.unsafe_load", "yaml.full_load", "yaml.unsafe_load_all", "tempfile.mktemp", "pd.read_pickle",
    "pandas.read_pickle", "torch.hub.load", "runpy.run_path", "ssl._create_unverified_context",
}  # fmt: skip
# The keyword that a call must have, and its value.
DEMANDED = {
    "torch.load": ("weights_only", "True"),
    "jinja2.Environment": ("autoescape", "True"),
    "AutoModelForCausalLM.from_pretrained": ("trust_remote_code", "False"),
    "AutoTokenizer.from_pretrained": ("trust_remote_code", "False"),
    "AutoConfig.from_pretrained": ("trust_remote_code", "False"),
}
NEVER = {
    "trust_remote_code": "True",
    "shell": "True",
    "allow_pickle": "True",
    "verify": "False",
    "weights_only": "False",
}
# Where one of these is the purpose, and why that is no danger.
ALLOWED = {
    ("tasks/suite_tasks/program_runner.py", "exec"),  # generated programs, in a child with limits, on request only
    ("tasks/suite_tasks/program_runner.py", "compile"),
    ("benchmarks/pieces.py", "archive.extractall"),  # with the filter for data
    ("storage/yaml_text.py", "yaml.load"),  # its loaders are SafeLoaders, by its signature
    ("tests/storage/test_readers.py", "exec"),  # the examples of our own docs
    ("tests/storage/test_readers.py", "compile"),
    ("tests/test_docs_examples.py", "exec"),
    ("tests/test_docs_examples.py", "compile"),
}


def dangers(text: str, place: str) -> Iterator[str]:
    """Yield what is dangerous in a module's text; `place` is its path."""
    product = not place.startswith(("tests/", "benchmarks/"))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            yield from (f"line {node.lineno}: imports {name}" for name in names if name.split(".")[0] in PICKLES)
        elif isinstance(node, ast.Call):
            yield from _of_call(node, place, product)


def _of_call(node: ast.Call, place: str, product: bool) -> Iterator[str]:
    name = ast.unparse(node.func)
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    where = f"line {node.lineno}: {name}"
    if (name in FORBIDDEN or name == "yaml.load" or name.endswith(".extractall")) and (place, name) not in ALLOWED:
        yield where
    yield from (f"{where}({key}={value})" for key, value in NEVER.items() if given.get(key) == value)
    key, value = DEMANDED.get(name, ("", ""))
    if key and product and given.get(key) != value:
        yield f"{where} without {key}={value}"


def test_no_module_runs_what_it_reads() -> None:
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(files) > 400
    found = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in files}
    assert not [f"{place}, {danger}" for place, text in found.items() for danger in dangers(text, place)]


@pytest.mark.parametrize(
    "code",
    [
        "import pickle", "from pickle import loads", "import numpy, dill", "torch.load(f, weights_only=False)",
        "eval(x)", "exec(x)", "yaml.load(x, Loader)", "np.load(f, allow_pickle=True)", "subprocess.run(x, shell=True)",
        "AutoTokenizer.from_pretrained(x, trust_remote_code=True)", "AutoConfig.from_pretrained(x)", "os.system(x)",
        "jinja2.Environment()", "archive.extractall(x)", "httpx.get(x, verify=False)",
    ],
)  # fmt: skip
def test_the_search_finds_them(code: str) -> None:
    assert list(dangers(code, "tasks/some.py"))


def test_what_is_harmless_is_not_reported() -> None:
    harmless = "model.eval()\nre.compile('a')\ntorch.load(f, weights_only=True)\nyaml.safe_load(x)\nnp.load(f)\n"
    assert not list(dangers(harmless, "tasks/some.py"))
