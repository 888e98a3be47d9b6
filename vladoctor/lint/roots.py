"""Where to begin: a file as a program, and functions and classes that no program reached, by their parameters.

A parameter's name is a weak hint. It is believed only here, where nobody calls the function, and only for what it can
be: a picture of which nothing is known, an instruction, an observation.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator

from vladoctor.lint.facts import ImageWay
from vladoctor.lint.interpret import Interpreter
from vladoctor.lint.sources import SourceFile
from vladoctor.lint.values import Class, Func, Hole, Image, Text, Thing, Unknown, Value

Entry = Callable[[Interpreter], None]

_QUERY = re.compile(
    r"predict_action|select_action|\.infer\(|sample_actions|get_vla_action|env\w*\.step\(|get_action\(|\.inference\("
    r"|norm_stats|action_tokenizer"
)
_INSTRUCTION = re.compile(
    r"^(task_)?(instruction|description|label|language|lang|goal|command|text)s?$|^task(_desc\w*)?$|language"
)
_IMAGE = re.compile(r"(^|_)(image|img|frame|rgb)(_\w+)?$")
_OBSERVATION = re.compile(r"^(obs|observation)$")


def programs(file: SourceFile) -> Iterator[Entry]:
    """The file as it runs as a script."""
    yield lambda interp: interp.run_module(file)


def parts(file: SourceFile, visited: set[int]) -> Iterator[Entry]:
    """Functions and classes with a query that were not reached."""
    for node in file.tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if id(node) not in visited and _QUERY.search(_text(file, node)):
                yield _function(file, node, visited)
        elif isinstance(node, ast.ClassDef):
            for method in node.body:
                if not isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef) or id(method) in visited:
                    continue
                if method.name != "__init__" and _QUERY.search(_text(file, method)):
                    yield _method(file, node, method, visited)


def _text(file: SourceFile, node: ast.stmt) -> str:
    return "\n".join(file.lines[node.lineno - 1 : node.end_lineno])


def _function(file: SourceFile, node: ast.FunctionDef | ast.AsyncFunctionDef, visited: set[int]) -> Entry:
    def run(interp: Interpreter) -> None:
        if id(node) in visited:
            return
        scope = interp.module_scope(file)
        interp.run_function(Func(node, file, (scope,)), _hints(node))

    return run


def _method(
    file: SourceFile, cls: ast.ClassDef, node: ast.FunctionDef | ast.AsyncFunctionDef, visited: set[int]
) -> Entry:
    def run(interp: Interpreter) -> None:
        if id(node) in visited:
            return
        scope = interp.module_scope(file)
        found = interp.lookup(cls.name, (scope,), file)
        if not isinstance(found, Class):
            return
        made = interp.run_class(found)
        interp.run_function(Func(node, file, (scope,), found), _hints(node), made)

    return run


def _hints(node: ast.FunctionDef | ast.AsyncFunctionDef) -> dict[str, Value]:
    """Values for parameters, by their names."""
    given: dict[str, Value] = {}
    for parameter in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
        name = parameter.arg
        if _INSTRUCTION.search(name):
            given[name] = Text((Hole("instruction"),))
        elif _IMAGE.search(name):
            given[name] = Image(ImageWay("", None, channels=None))
        elif _OBSERVATION.search(name):
            given[name] = Thing("observation", info={})
        elif name == "payload":
            given[name] = Unknown("a request", frozenset({"observation"}))
    return given
