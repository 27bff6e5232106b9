"""The public API, linted: names, signatures, defaults, docstrings, imports."""

import importlib
import importlib.metadata
import inspect
import math
import pkgutil
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cases
import pytest
from cases import SCORES

import jaxseg
import jaxseg.evaluation

FUNCTIONS = [name for name in jaxseg.__all__ if inspect.isfunction(getattr(jaxseg, name))]
KIND = {name: row.kind for name, row in cases.TABLE.items()}
DOCS = Path(__file__).parents[1] / "docs"

DATA = {  # the positional arguments of each kind; all others are keyword-only
    "hard": ["predictions", "labels"],
    "soft": ["probs", "labels"],
    "region": ["logits", "labels"],
    "compound": ["logits", "labels"],
    **{kind: ["logits", "labels"] for kind in ("pixel", "ordered", "spatial")},
    "predict": ["logits"],
    "check": ["labels"],
    "counts": ["counts"],
    "text": ["counts"],
    "class weights": ["counts"],
    "space": ["mask"],
    "surfaces": ["predictions", "labels"],
    "surface": ["distances"],
    "wrapper": ["loss"],
    "matrix": ["matrix"],
    "convert": ["matrix"],
    "moments": ["values"],
    "spread": ["moments"],
    "running": ["statistic"],
    "skeletons": ["predictions", "labels"],
    "topology": ["counts"],
    "state": [],
}
LAST = ["where", "weights", "axis", "axis_name"]  # in this order, where a function has them
NEEDED = {  # what every function of the kind has
    "hard": ["num_classes", "where", "weights", "axis"],
    "check": ["num_classes", "where"],
    "soft": ["activation", "where", "weights", "axis"],
    "region": ["activation", "smooth", *LAST],
    "pixel": ["where", "weights"],
    "ordered": ["where", "weights", "axis"],
    "spatial": ["activation", "spatial_axes", *LAST],
    "compound": ["smooth", *LAST],
    "counts": ["zero_division"],
    "skeletons": ["num_classes", "spatial_axes", "where", "axis"],
    "surfaces": ["num_classes", "spacing", "where"],
    "topology": ["zero_division"],
    "matrix": ["zero_division"],
    "moments": ["where", "axis"],
    "spread": ["zero_division"],
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "hard": {},
    "soft": {"activation": None},
    "region": {"activation": "softmax", "smooth": 1.0, "eps": 0.0},
    "compound": {"smooth": 1.0},
    "ordered": {"activation": "softmax"},
    "spatial": {
        "activation": "softmax",
        "smooth": 1.0,
        "eps": 0.0,
        "spacing": 1.0,
        "spatial_axes": None,
    },
    "space": {"spacing": 1.0, "spatial_axes": None},
    **{kind: {"smooth": 0.0, "eps": 0.0, "zero_division": math.nan} for kind in SCORES},
    "predict": {"activation": "softmax", "threshold": 0.5},
    "moments": {"axis": 0},
    "spread": {"zero_division": math.nan},
    "topology": {"zero_division": math.nan},
}
# An index or a reduction of the result says the same.
FORBIDDEN = {"reduction", "average", "include_background", "ignore_index", "ignore_label"}

each_function = pytest.mark.parametrize("name", FUNCTIONS)


def modules() -> list[Any]:
    """The private modules of the package, those of optional extras apart."""
    names = [m.name for m in pkgutil.iter_modules(jaxseg.__path__) if m.name.startswith("_")]
    return [importlib.import_module(f"jaxseg.{name}") for name in names if name != "__main__"]


def has_example(thing: Callable[..., Any]) -> bool:
    return ">>>" in (thing.__doc__ or "")


def parameters(name: str) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(getattr(jaxseg, name)).parameters)


def test_all_is_what_the_package_holds() -> None:
    held = {
        name
        for name, value in vars(jaxseg).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert held == set(jaxseg.__all__)
    assert len(jaxseg.__all__) == len(set(jaxseg.__all__))


def test_all_is_what_the_modules_define() -> None:
    """What a private module defines with an example is public; helpers, shared or not, have none.

    An alias is public under both names.
    """
    defined = {
        name
        for module in modules()
        for name, value in vars(module).items()
        if not name.startswith("_")
        and callable(value)
        and getattr(value, "__module__", None) == module.__name__
        and has_example(value)
    }
    assert defined == set(jaxseg.__all__)


def test_all_is_the_union_of_the_modules() -> None:
    """A module that defines public names lists them, and no others, in its own ``__all__``."""
    public = {name: getattr(jaxseg, name).__module__ for name in jaxseg.__all__}
    listed = {module.__name__: module.__all__ for module in modules() if hasattr(module, "__all__")}
    assert not set(public.values()) - listed.keys(), "these modules lack __all__"
    assert {name: module for module, names in listed.items() for name in names} == public


def test_public_names_live_in_private_modules() -> None:
    for name in jaxseg.__all__:
        assert re.fullmatch(r"jaxseg\._\w+", getattr(jaxseg, name).__module__), name


def test_every_function_has_a_row() -> None:
    lacking, unknown = set(FUNCTIONS) - set(KIND), set(KIND) - set(FUNCTIONS)
    assert not lacking, f"add rows to TABLE in tests/cases.py for {sorted(lacking)}"
    assert not unknown, f"TABLE in tests/cases.py has rows of no function: {sorted(unknown)}"


@each_function
def test_only_data_is_positional(name: str) -> None:
    positional = [
        p.name for p in parameters(name).values() if p.kind is not inspect.Parameter.KEYWORD_ONLY
    ]
    assert positional == (cases.TABLE[name].data or DATA[KIND[name]])


@each_function
def test_arguments_have_agreed_names_and_order(name: str) -> None:
    names = list(parameters(name))
    assert not FORBIDDEN & set(names)
    assert set(NEEDED.get(KIND[name], [])) <= set(names)
    last = [argument for argument in LAST if argument in names]
    if "where" not in names and "weights" in last:  # of something else
        last.remove("weights")
    if name == "check_labels":  # what it can check besides comes after
        last.append("predictions")
    if name == "surface_distances":  # what the statistic holds comes after what it is of
        last.append("element_areas")
    assert names[len(names) - len(last) :] == last
    # A loss with one number per class leaves the mean over the classes to the caller.
    weights = {argument for argument in names if "class_weights" in argument}
    assert not weights or cases.TABLE[name].class_axes == 0


@each_function
def test_defaults_are_the_agreed_ones(name: str) -> None:
    agreed = {**dict.fromkeys(LAST), **DEFAULTS.get(KIND[name], {}), **cases.TABLE[name].defaults}
    for argument, parameter in parameters(name).items():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            assert parameter.default is inspect.Parameter.empty or cases.TABLE[name].data
            continue
        assert argument in agreed, (
            f"{argument} of {name} has no agreed default: add it to the row of {name} in "
            "tests/cases.py, as defaults={...}"
        )
        default, want = parameter.default, agreed[argument]
        both_nan = want is math.nan and isinstance(default, float) and math.isnan(default)
        assert both_nan or (default == want and type(default) is type(want)), argument


@each_function
def test_signatures_are_annotated(name: str) -> None:
    signature = inspect.signature(getattr(jaxseg, name))
    assert signature.return_annotation is not inspect.Signature.empty
    for parameter in signature.parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty, parameter.name


@pytest.mark.parametrize("name", jaxseg.__all__)
def test_docstring_has_its_parts(name: str) -> None:
    thing = getattr(jaxseg, name)
    doc = inspect.getdoc(thing)
    assert doc
    first, _, rest = doc.partition("\n")
    assert len(first) <= 100
    assert first.endswith(".")
    assert rest.startswith("\n") or not rest
    assert re.search(r"^Example:\n +>>> ", doc, re.MULTILINE)
    if name not in FUNCTIONS:
        return
    sections = re.findall(r"^(Args|Returns|Raises|Example|References|Note):$", doc, re.MULTILINE)
    required = ["Args", "Returns", "Raises", "Example"]
    assert sections[:4] == required
    assert sections[4:] == [s for s in ("References", "Note") if s in sections]
    assert (".. math::" in doc) == (KIND[name] != "text")
    args = doc[doc.index("\nArgs:") : doc.index("\nReturns:")]
    documented = re.findall(r"^  (\w[\w, ]*):(?=\s)", args, re.MULTILINE)
    assert set(", ".join(documented).split(", ")) == set(parameters(name))


def test_docs_list_every_name() -> None:
    pages = "\n".join(page.read_text(encoding="utf-8") for page in DOCS.glob("*.md"))
    entries = set(re.findall(r"\.\. (?:auto)?(?:function|class):: (?:jaxseg\.)?(\w+)", pages))
    names = {*jaxseg.__all__, *jaxseg.evaluation.__all__}
    lacking = names - entries
    assert not lacking, f"add entries to a page of docs/ for {sorted(lacking)}"
    assert entries == names


def test_import_pulls_in_no_extras() -> None:
    extras = ["flax", "scipy", "matplotlib", "keras", "rich", "PIL", "jax.experimental.pallas"]
    code = (
        "import sys, jax, optax; before = set(sys.modules); import jaxseg;"
        f"print(*(m for m in {extras} if m in sys.modules and m not in before))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


def test_version_is_that_of_the_distribution() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.?\w+)?", jaxseg.__version__)
    try:
        installed = importlib.metadata.version("jaxseg")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("jaxseg is not installed")
    assert jaxseg.__version__ == installed
