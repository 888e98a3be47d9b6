"""What turns a loud error into a silent one: found by its syntax, in every file that a loop uses."""

from __future__ import annotations

import ast
import re
import weakref
from collections.abc import Iterable, Iterator, Sequence

from vladoctor.lint.facts import Workaround
from vladoctor.lint.sources import SourceFile

_DRAWS = re.compile(r"(libero\.)?libero\.envs|robosuite|mujoco(?!_)|dm_control|OpenGL|gymnasium_robotics|metaworld")
"""Modules that choose a backend when they are imported."""

_WORDS = re.compile(
    r"_supports_sdpa|torch\.load\s*=[^=]|strict\s*=\s*False|MUJOCO_GL|FORCE_NO_WEIGHTS_ONLY|PYOPENGL_PLATFORM"
)


def found(files: Iterable[SourceFile]) -> tuple[Workaround, ...]:
    """Every workaround in some files."""
    return tuple(one for file in files for one in _of(file))


def _of(file: SourceFile) -> tuple[Workaround, ...]:
    if not _WORDS.search(file.text):
        return ()
    if file not in _CACHE:
        _CACHE[file] = tuple(_walk(file))
    return _CACHE[file]


# Several loops share files; what is kept goes with the file.
_CACHE: weakref.WeakKeyDictionary[SourceFile, tuple[Workaround, ...]] = weakref.WeakKeyDictionary()


def _walk(file: SourceFile) -> Iterator[Workaround]:
    drawn = next(_drawing(file.tree.body), None)
    alone: set[int] = set()  # calls whose answer nobody looks at
    for node in _in_order(file.tree):
        late = drawn[0] if drawn is not None and getattr(node, "lineno", 0) > drawn[1] else ""
        if isinstance(node, ast.Expr):
            alone.add(id(node.value))
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                yield from _assigned(file, target, node, late)
        elif isinstance(node, ast.Call):
            yield from _called(file, node, late, id(node) in alone)


def _drawing(body: Sequence[ast.stmt]) -> Iterator[tuple[str, int]]:
    """What a module imports, when it is imported itself, that chooses a backend: its name and line."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module or ''}.{name}" for name in names]
            yield from ((name, node.lineno) for name in names if _DRAWS.match(name))
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        elif isinstance(node, ast.If | ast.Try | ast.With):
            yield from _drawing(node.body)


def _in_order(tree: ast.AST) -> Iterator[ast.AST]:
    """Nodes in the order of the source."""
    for child in ast.iter_child_nodes(tree):
        yield child
        yield from _in_order(child)


def _assigned(file: SourceFile, target: ast.expr, node: ast.Assign, late: str) -> Iterator[Workaround]:
    if isinstance(target, ast.Attribute):
        if target.attr == "_supports_sdpa":
            yield Workaround("patched-attention", file.segment(node), file.place(node))
        if target.attr == "load" and isinstance(target.value, ast.Name) and target.value.id == "torch":
            yield Workaround("permissive-torch-load", file.segment(node)[:80], file.place(node))
    elif isinstance(target, ast.Name) and target.id == "_supports_sdpa":
        yield Workaround("patched-attention", file.segment(node), file.place(node))
    elif isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Constant):
        if target.slice.value in ("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD",):
            yield Workaround("permissive-torch-load", file.segment(node)[:80], file.place(node))
        if target.slice.value in ("MUJOCO_GL", "PYOPENGL_PLATFORM") and late and _is_environ(target.value):
            yield Workaround("late-gl", f"{target.slice.value} is set after {late} was imported", file.place(node))


def _called(file: SourceFile, node: ast.Call, late: str, alone: bool) -> Iterator[Workaround]:
    func = node.func
    name = func.attr if isinstance(func, ast.Attribute) else func.id if isinstance(func, ast.Name) else ""
    literals = [one.value if isinstance(one, ast.Constant) else None for one in node.args]
    if name == "setattr" and literals[1:2] == ["_supports_sdpa"]:
        yield Workaround("patched-attention", file.segment(node), file.place(node))
    if name == "from_pretrained" or (name in ("load_state_dict", "load_model") and alone):
        for keyword in node.keywords:
            if keyword.arg == "strict" and isinstance(keyword.value, ast.Constant) and keyword.value.value is False:
                yield Workaround("strict-false", name, file.place(keyword.value))
    if name in ("setdefault", "putenv") and late and literals[:1] == ["MUJOCO_GL"]:
        yield Workaround("late-gl", f"MUJOCO_GL is set after {late} was imported", file.place(node))


def _is_environ(node: ast.expr) -> bool:
    return (isinstance(node, ast.Attribute) and node.attr == "environ") or (
        isinstance(node, ast.Name) and node.id == "environ"
    )
