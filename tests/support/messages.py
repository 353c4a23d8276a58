"""What the package may say: the texts of its errors and warnings, read from the source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ANY = "…"
"""Stands for what is filled in when a message is made."""

_PROGRAMMING = {"AttributeError", "EOFError", "Exit"}
"""Raised where a program errs, or to end the command, and never shown as a message."""


class Texts:
    """Texts of expressions, with names that stand for texts resolved."""

    def __init__(self, constants: dict[str, str], assigned: dict[str, list[ast.expr]]) -> None:
        self._constants = constants
        self._assigned = assigned

    def of(self, node: ast.expr, depth: int = 0) -> list[str]:
        """Every text that an expression may give."""
        if isinstance(node, ast.Constant):
            return [node.value] if isinstance(node.value, str) else [ANY]
        if isinstance(node, ast.JoinedStr):
            texts = [""]
            for value in node.values:
                inner = value.value if isinstance(value, ast.FormattedValue) else value
                texts = [text + more for text in texts for more in self.of(inner, depth + 1)]
            return texts
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return [one + two for one in self.of(node.left, depth) for two in self.of(node.right, depth)]
        if isinstance(node, ast.IfExp):
            return [*self.of(node.body, depth), *self.of(node.orelse, depth)]
        if isinstance(node, ast.Name):
            if node.id in self._constants:
                return [self._constants[node.id]]
            found = (
                [text for value in self._assigned.get(node.id, ()) for text in self.of(value, 9)]
                if depth < 1
                else []
            )
            return found or [ANY]
        return [ANY]


def messages(package: Path) -> dict[str, str]:
    """Each message once, with `ANY` in the place of what is filled in, and where it was found first."""
    trees = {path: ast.parse(path.read_text()) for path in sorted(package.rglob("*.py"))}
    constants = {name: text for tree in trees.values() for name, text in _constants(tree)}
    found: dict[str, str] = {}
    for path, tree in trees.items():
        for scope in _scopes(tree):
            texts = Texts(constants, _assigned(scope))
            for call in _calls(scope):
                for text in _longest(texts, call):
                    text = re.sub(f"{ANY}+", ANY, " ".join(text.split()))
                    if re.search(r"\w{2}.* .*\w{2}", text.replace(ANY, "")):
                        found.setdefault(text, f"{path.relative_to(package)}:{call.lineno}")
    return found


def _constants(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                value = ast.literal_eval(node.value)
            except ValueError:
                continue
            if isinstance(value, str) and " " in value:
                yield node.targets[0].id, value


def _scopes(tree: ast.Module) -> Iterator[ast.AST]:
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def _assigned(scope: ast.AST) -> dict[str, list[ast.expr]]:
    found: dict[str, list[ast.expr]] = {}
    for node in ast.walk(scope):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found.setdefault(node.targets[0].id, []).append(node.value)
    return found


def _calls(scope: ast.AST) -> Iterator[ast.Call]:
    """Calls that make an error or a warning."""
    for node in ast.walk(scope):
        made = (
            node.exc if isinstance(node, ast.Raise) else node.value if isinstance(node, ast.Return) else node
        )
        if not isinstance(made, ast.Call):
            continue
        name = ast.unparse(made.func).split(".")[-1]
        if isinstance(node, ast.Raise):
            wanted = name not in _PROGRAMMING
        elif isinstance(node, ast.Return):
            wanted = name.endswith("Error")
        else:
            wanted = ast.unparse(made.func) == "warnings.warn"
        if wanted:
            yield made


def _longest(texts: Texts, call: ast.Call) -> list[str]:
    """The texts of the argument that is the message: the longest."""
    options = [texts.of(argument) for argument in call.args]
    return max(options, key=lambda found: max(map(len, found)), default=[])
