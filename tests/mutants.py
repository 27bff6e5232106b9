"""Copies of jaxseg with one mistake each: another constant, operator or name in a formula.

Nothing inside the library is named here: the formulas of a public function are what it returns and
assigns, and what the functions that it names do, in the modules of losses, scores and soft counts.
Only numbers are changed. Constants that are arguments of calls (axes, values of no meaning under a
mask) and arithmetic of shapes are not.
"""

import ast
import copy
import importlib
import importlib.abc
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jaxseg

FORMULAS = ("_losses", "_scores", "_soft_counts")  # how the names of modules with formulas end
EACH = 3  # mutants of a function's own body
OF_HELPER = 2  # of a function that it names

OPERATORS: dict[type, type] = {ast.Add: ast.Sub, ast.Sub: ast.Add}
# Names that are easily confused.
NAMES = (("alpha", "beta"), ("tp", "fp", "fn", "tn"), ("p", "g", "q"), ("log_p", "log_q"))
EXTREMES = {"minimum": "maximum", "maximum": "minimum"}
OF_SHAPES = {"axes", "axis", "ndim", "shape", "shapes", "size", "space", "steps", "len", "range"}


class Mutant(NamedTuple):
    public: str  # the function to whose formula it belongs
    others: tuple[str, ...]  # those that share it
    module: str
    line: int
    before: str  # the expression
    after: str
    number: int  # which of the module's places for a mistake

    @property
    def name(self) -> str:
        return f"{self.public}: {self.before} -> {self.after}"


# ---------------------------------------------------------------------------------- places


class Place(NamedTuple):
    """An expression and what could stand in its place."""

    node: ast.expr
    wrong: ast.expr


def words(node: ast.AST) -> set[str]:
    names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    return names | {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}


def is_number(node: ast.expr) -> bool:
    if isinstance(node, ast.BinOp):
        return is_number(node.left) and is_number(node.right)
    return isinstance(node, ast.Constant) and type(node.value) in (int, float)


def confused(node: ast.expr, known: set[str]) -> ast.expr | None:
    """The next one of the names that a formula may confuse, of those that it has."""
    name = getattr(node, "id", getattr(node, "attr", None))
    for names in NAMES:
        if name in names:
            i = names.index(name)
            if isinstance(node, ast.Attribute):
                return ast.Attribute(node.value, names[(i + 1) % len(names)], node.ctx)
            others = [other for other in (*names[i + 1 :], *names[:i]) if other in known]
            return ast.Name(others[0], ast.Load()) if others else None
    return None


def is_text(node: ast.AST) -> bool:
    strings = (ast.JoinedStr, ast.Tuple, ast.List)
    return isinstance(node, strings) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def wrong_forms(node: ast.expr, known: set[str]) -> Iterator[ast.expr]:
    """What a slip would make of an expression."""
    match node:
        case ast.BinOp(left=left, op=op, right=right):
            if any(is_text(side) or words(side) & OF_SHAPES for side in (left, right)):
                return
            if is_number(left) and is_number(right):  # a limit
                return
            if isinstance(left, ast.Constant) and left.value == 0:  # zeros of some shape
                return
            if type(op) in OPERATORS:
                yield ast.BinOp(left, OPERATORS[type(op)](), right)
            if isinstance(op, ast.Mult | ast.Div):
                yield ast.BinOp(node, ast.Mult(), ast.Constant(1.1))
            if isinstance(op, ast.Pow):
                yield left
            for side in ("left", "right"):
                part = getattr(node, side)
                number = isinstance(part, ast.Constant)
                other = ast.Constant(part.value + 1) if number else confused(part, known)
                if other is not None:
                    wrong = copy.copy(node)
                    setattr(wrong, side, other)
                    yield wrong
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            if not is_number(operand) and not words(operand) & OF_SHAPES:
                yield operand
        case ast.Call(func=function, args=args, keywords=keywords):
            for i, keyword in enumerate(keywords):
                other = confused(keyword.value, known)
                if isinstance(keyword.value, ast.Name) and other is not None:
                    wrong = [*keywords[:i], ast.keyword(keyword.arg, other), *keywords[i + 1 :]]
                    yield ast.Call(function, args, wrong)
            if isinstance(function, ast.Attribute) and function.attr in EXTREMES:
                other = ast.Attribute(function.value, EXTREMES[function.attr], ast.Load())
                yield ast.Call(other, args, keywords)


def expressions(node: ast.AST) -> Iterator[ast.expr]:
    """Those of a statement's values, without indices, axes, texts and annotations."""
    for field, value in ast.iter_fields(node):
        if field in ("slice", "annotation", "returns", "decorator_list", "test", "exc", "ops"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.keyword) and child.arg in OF_SHAPES:
                continue
            if isinstance(child, ast.arguments | ast.Raise | ast.JoinedStr | ast.Assert):
                continue
            if isinstance(child, ast.AST):
                if isinstance(child, ast.expr):
                    yield child
                yield from expressions(child)


@cache
def tree_of(module: str) -> ast.Module:
    file = Path(inspect.getfile(importlib.import_module(module)))
    return ast.parse(file.read_text(encoding="utf-8"))


@cache
def definitions(module: str) -> dict[str, ast.stmt]:
    """Functions and constants at the top of a module."""
    found: dict[str, ast.stmt] = {}
    for statement in tree_of(module).body:
        if isinstance(statement, ast.FunctionDef):
            found[statement.name] = statement
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            target = getattr(statement, "targets", [getattr(statement, "target", None)])[0]
            if isinstance(target, ast.Name):
                found[target.id] = statement
    return found


@cache
def places(module: str) -> list[tuple[str, Place]]:
    """All places for a mistake in a module, each with the definition that it is in."""
    found = []
    for name, statement in definitions(module).items():
        known = words(statement)
        of_this = [
            Place(node, wrong)
            for node in expressions(statement)
            for wrong in wrong_forms(node, known)
        ]
        if not of_this and name in jaxseg.__all__:  # no arithmetic: its result is scaled
            values = [n.value for n in ast.walk(statement) if isinstance(n, ast.Return)]
            of_this = [Place(v, ast.BinOp(v, ast.Mult(), ast.Constant(1.1))) for v in values if v]
        found += [(name, place) for place in of_this]
    return found


# ---------------------------------------------------------------------------------- choice


def reached(module: str, name: str) -> Iterator[tuple[str, str]]:
    """A definition, and those that it names, directly or not, in modules of formulas."""
    seen, rest = set(), [(module, name)]
    while rest:
        module, name = rest.pop(0)
        thing = getattr(importlib.import_module(module), name, None)
        home = getattr(thing, "__module__", None) or module
        home = home if home.startswith("jaxseg.") else module
        if (home, name) in seen or not home.endswith(FORMULAS) or name not in definitions(home):
            continue
        seen.add((home, name))
        yield home, name
        rest += [(home, word) for word in sorted(words(definitions(home)[name]))]


def spread(items: list[Any], count: int) -> list[Any]:
    """So many of them, from the first to the last."""
    if len(items) <= count:
        return items
    return [items[i * (len(items) - 1) // max(count - 1, 1)] for i in range(count)]


def chain_of(public: str) -> list[tuple[str, str]]:
    """The definition of a public function, and those of its helpers."""
    function = getattr(jaxseg, public)
    own, *others = reached(function.__module__, function.__name__)
    return [own, *(other for other in others if other[1] not in jaxseg.__all__)]


def mutants_of(names: list[str]) -> list[Mutant]:
    """Of each public function's body and of its helpers, of which each is taken once.

    A function without arithmetic of its own has those of its helpers.
    """
    chains = {name: chain_of(name) for name in names}
    used: set[tuple[str, str]] = set()
    found = []
    for name, chain in chains.items():

        def candidates(definition: tuple[str, str], name: str = name) -> list[Mutant]:
            sharing = (n for n in names if n != name and definition in chains[n])
            return mutants_in(*definition, name, tuple(sharing))

        new = spread(candidates(chain[0]), EACH)
        for helper in chain[1:]:
            if helper not in used:
                used.add(helper)
                new += spread(candidates(helper), OF_HELPER)
        found += new or spread([m for helper in chain for m in candidates(helper)], EACH)
    return found


def mutants_in(module: str, name: str, public: str, others: tuple[str, ...]) -> list[Mutant]:
    return [
        Mutant(
            public,
            others,
            module,
            place.node.lineno,
            ast.unparse(place.node),
            ast.unparse(place.wrong),
            i,
        )
        for i, (definition, place) in enumerate(places(module))
        if definition == name
    ]


# ---------------------------------------------------------------------------------- copies


def mutated(module: str, number: int) -> ast.Module:
    """The module with a mistake in one place; the tree that holds the places is not changed."""
    place = places(module)[number][1]
    memo: dict[int, Any] = {id(place.node): copy.deepcopy(place.wrong)}
    tree = copy.deepcopy(tree_of(module), memo)
    return ast.fix_missing_locations(tree)


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives one module of a package the code of a tree."""

    def __init__(self, module: str, tree: ast.Module) -> None:
        self.module, self.tree = module, tree

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != self.module:
            return None
        return importlib.util.spec_from_loader(name, self)

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self.tree, f"<a wrong {module.__name__}>", "exec"), module.__dict__)


def imports(module: str) -> set[str]:
    """The modules of the package that a module imports."""
    found = set()
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.ImportFrom) and node.module == "jaxseg":
            found |= {f"jaxseg.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found & sys.modules.keys()


@cache
def importers(module: str) -> set[str]:
    """A module and all that import it, directly or not."""
    found = {module}
    modules = [name for name in sys.modules if re.fullmatch(r"jaxseg(\.\w+)*", name)]
    while more := {name for name in modules if imports(name) & found} - found:
        found |= more
    return found


@contextmanager
def with_mistake(mutant: Mutant) -> Iterator[ModuleType]:
    """The package with the mistake in it.

    All modules that see the mistake are copies, so that JAX has not traced their functions yet.
    """
    kept = {name: sys.modules.pop(name) for name in importers(mutant.module)}
    finder = Finder(mutant.module, mutated(mutant.module, mutant.number))
    sys.meta_path.insert(0, finder)
    try:
        yield importlib.import_module("jaxseg")
    finally:
        sys.meta_path.remove(finder)
        sys.modules.update(kept)
