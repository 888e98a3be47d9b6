"""Reading source files: scripts and notebooks, to text, syntax tree and places.

Most files of a repository have nothing to do with an evaluation loop. `may_matter` says so from the bytes alone, before
anything is decoded or parsed.
"""

from __future__ import annotations

import ast
import io
import json
import os
import re
import tokenize
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vladoctor.lint.result import Skipped
from vladoctor.places import Place

SUFFIXES = (".py", ".ipynb")

LARGEST = 2_000_000
"""Bytes; a longer file is data, not a script."""

LARGEST_NOTEBOOK = 50_000_000
"""Bytes; a notebook holds the pictures that it shows."""

FOLDERS_LEFT_OUT = frozenset(
    {
        ".git",
        ".hg",
        ".venv",
        "venv",
        "node_modules",
        "__pycache__",
        ".tox",
        ".mypy_cache",
        ".ruff_cache",
        "site-packages",
    }
)

_QUERY = re.compile(
    rb"predict_action|eval_libero|select_action|sample_actions|\.infer\(|get_action|get_vla_action|\.inference\(|\.act\("
    rb"|\.generate\(|\.step\(|/act\b|action_tokenizer|_supports_sdpa"
)
_MODEL = re.compile(
    rb"openvla|OpenVLA|lerobot|openpi|libero|LIBERO|simpler_env|SimplerEnv|mani_?skill|[Oo]cto_?[Mm]odel|octo\.|cogact"
    rb"|CogACT|[Gg]r00t|GR00T|unnorm_key|norm_stats|smolvla|SmolVLA|\bpi0|robosuite|\bvla\b|VLA\b|_vla\b"
)
"""Words of what is followed here; a file without any of them is some other program."""


@dataclass(frozen=True, eq=False)
class SourceFile:
    """A file that was read.

    Attributes:
        path: as it was found.
        text: what was parsed; of a notebook its code cells, one below the other, magics blanked.
        tree: the module.
        cells: of a notebook, (number of the code cell, its first line in `text`), in order; empty for a script.
        lines: of `text`.
        left_out: cells of a notebook that do not parse.
    """

    path: Path
    text: str
    tree: ast.Module
    cells: tuple[tuple[int, int], ...] = ()
    lines: tuple[str, ...] = field(default=(), repr=False)
    left_out: tuple[Skipped, ...] = ()

    def place(self, node: ast.AST) -> Place:
        """Where a node stands. Columns are in characters, as `Place` counts them."""
        line, column = getattr(node, "lineno", 0), getattr(node, "col_offset", 0)
        end, end_column = getattr(node, "end_lineno", None) or line, getattr(node, "end_col_offset", None) or column
        cell, first = None, 1
        for number, start in self.cells:
            if start <= line:
                cell, first = number, start
        return Place(
            str(self.path),
            line - first + 1 if line else 0,
            self._characters(line, column) + 1,
            end - first + 1 if line else 0,
            self._characters(end, end_column) + 1,
            cell,
        )

    def _characters(self, line: int, column: int) -> int:
        text = self.lines[line - 1] if 0 < line <= len(self.lines) else ""
        return column if text.isascii() else len(text.encode()[:column].decode(errors="ignore"))

    def segment(self, node: ast.AST) -> str:
        """The text of a node, in one line."""
        first, last = getattr(node, "lineno", 0), getattr(node, "end_lineno", 0)
        if not first or not last or last > len(self.lines):
            return ""
        start, end = getattr(node, "col_offset", 0), getattr(node, "end_col_offset", 0)
        lines = [line.encode() if not line.isascii() else line for line in self.lines[first - 1 : last]]
        lines[-1] = lines[-1][:end]
        lines[0] = lines[0][start:]
        return " ".join(" ".join(one if isinstance(one, str) else one.decode(errors="ignore") for one in lines).split())


def absolute(path: Path) -> str:
    """The one name of a file, whatever folder it is named from."""
    return os.path.normpath(path.absolute())


def walk(paths: Sequence[Path]) -> Iterator[Path]:
    """Every script and notebook below the paths, in the order of their names; each once."""
    seen: set[str] = set()
    for path in paths:
        for found in _below(path):
            key = absolute(found)
            if key not in seen:
                seen.add(key)
                yield found


def _below(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if name not in FOLDERS_LEFT_OUT)
        for name in sorted(names):
            if name.endswith(SUFFIXES):
                yield Path(folder, name)


def may_matter(data: bytes) -> bool:
    """Whether a file can hold an evaluation loop, a policy's wrapper or its server, by its bytes."""
    return _QUERY.search(data) is not None and _MODEL.search(data) is not None


_PROGRAM = re.compile(rb"__main__")
_ABOUT = re.compile(rb"libero|polic|eval|rollout|vla|episode|suite|simul", re.I)
_IMPORT = re.compile(rb"^[ \t]*(?:from[ \t]+(\.*)([\w.]*)[ \t]+import[ \t]+([\w, \t(]*)|import[ \t]+([\w.]+))", re.M)


def may_lead(data: bytes) -> bool:
    """Whether a file can be a program that runs a loop of another module, by its bytes."""
    return _PROGRAM.search(data) is not None and _ABOUT.search(data) is not None


def imports(data: bytes) -> Iterator[tuple[str, int]]:
    """Names of modules that a file imports, and how many dots stand before them, without parsing it."""
    for found in list(_IMPORT.finditer(data))[:60]:
        if found[4]:
            yield found[4].decode(), 0
            continue
        name = (found[2] or b"").decode()
        yield name, len(found[1] or b"")
        for part in (found[3] or b"").decode().strip("( \t").split(","):
            if part.strip():
                yield f"{name}.{part.strip().split()[0]}" if name else part.strip().split()[0], len(found[1] or b"")


def read_bytes(path: Path) -> bytes | Skipped:
    """What stands in a file; `Skipped` where it cannot be read."""
    try:
        with path.open("rb") as file:
            most = LARGEST_NOTEBOOK if path.suffix == ".ipynb" else LARGEST
            data = file.read(most + 1)
    except OSError as error:
        return Skipped(Place(str(path)), f"cannot be read: {error.strerror or error}")
    return Skipped(Place(str(path)), f"more than {most:,} bytes") if len(data) > most else data


def parse(path: Path, data: bytes) -> SourceFile | Skipped:
    """A file's text and tree; `Skipped` where it is no Python."""
    if path.suffix == ".ipynb":
        return _notebook(path, data)
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        text = data.decode(encoding)
    except (SyntaxError, UnicodeDecodeError, LookupError) as error:
        return Skipped(Place(str(path)), f"is no text: {error}")
    return _parsed(path, text.lstrip("\ufeff"))


def _parsed(path: Path, text: str, cells: tuple[tuple[int, int], ...] = ()) -> SourceFile | Skipped:
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except SyntaxError as error:
        draft = SourceFile(path, text, ast.Module([], []), cells, tuple(text.split("\n")))
        node = ast.Pass(lineno=error.lineno or 0, col_offset=max((error.offset or 1) - 1, 0))
        return Skipped(draft.place(node), f"is no Python: {error.msg}")
    except (ValueError, RecursionError, MemoryError) as error:
        return Skipped(Place(str(path)), f"cannot be parsed: {error}")
    return SourceFile(path, text, tree, cells, tuple(text.split("\n")))


def _notebook(path: Path, data: bytes) -> SourceFile | Skipped:
    try:
        loaded = json.loads(data)
        sources = [cell for cell in loaded["cells"] if cell["cell_type"] == "code"]
        texts = [source if isinstance(source := cell["source"], str) else "".join(source) for cell in sources]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return Skipped(Place(str(path)), f"is no notebook: {type(error).__name__} {error}")
    lines: list[str] = []
    cells: list[tuple[int, int]] = []
    left_out: list[Skipped] = []
    for number, text in enumerate(texts, 1):
        body = _without_magics(text.replace("\r\n", "\n").split("\n"))
        found = _parsed(path, "\n".join(body), ((number, 1),))
        if isinstance(found, Skipped):
            left_out.append(Skipped(replace(found.place, cell=number), found.reason))
            body = [""] * len(body)  # one broken cell does not hide the others
        cells.append((number, len(lines) + 1))
        lines.extend(body)
    whole = _parsed(path, "\n".join(lines), tuple(cells))
    return replace(whole, left_out=tuple(left_out)) if isinstance(whole, SourceFile) else whole


def _without_magics(lines: list[str]) -> list[str]:
    if lines and lines[0].lstrip().startswith("%%"):
        return [""] * len(lines)
    out = []
    for line in lines:
        bare = line.lstrip()
        indent = line[: len(line) - len(bare)]
        assigned = re.match(r"[\w, ]+=\s*[!%]", bare)
        out.append(f"{indent}pass" if bare.startswith(("%", "!", "?")) or bare.endswith("?") or assigned else line)
    return out


class Sources:
    """The files of a project, each read and parsed once and only when it is needed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._files: dict[str, SourceFile | Skipped | None] = {}
        self._exists: dict[str, Path | None] = {}

    def add(self, file: SourceFile) -> None:
        self._files[absolute(file.path)] = file

    def get(self, path: Path) -> SourceFile | None:
        """A file of the project; None where it cannot be read or is no Python."""
        key = absolute(path)
        if key not in self._files:
            data = read_bytes(path)
            self._files[key] = data if isinstance(data, Skipped) else parse(path, data)
        found = self._files[key]
        return found if isinstance(found, SourceFile) else None

    def module(self, name: str, importer: SourceFile, level: int = 0) -> SourceFile | None:
        """The project's module of that name; None where it is a library's, or not there.

        Looked for beside the importing file and in each folder above it up to the root, as scripts are run from
        anywhere, and in `src`.
        """
        path = self.find(name, importer, level)
        return self.get(path) if path is not None else None

    def find(self, name: str, importer: SourceFile, level: int = 0) -> Path | None:
        """The file of the project's module of that name; None where there is none."""
        folder = importer.path.parent
        if level:
            for _ in range(level - 1):
                folder = folder.parent
            return self._in(folder, name)
        own = absolute(importer.path)
        return next(
            (path for base in self._bases(folder) if (path := self._in(base, name)) and absolute(path) != own),
            None,
        )

    def configuration(self, name: str, importer: SourceFile) -> tuple[SourceFile, Any] | None:
        """A YAML file of the project and the root of its nodes; None where it is not found or is no YAML."""
        for base in self._bases(importer.path.parent):
            path = base / name
            if not path.is_file():
                continue
            data = read_bytes(path)
            if isinstance(data, Skipped):
                return None
            from ruamel.yaml import YAML
            from ruamel.yaml.error import YAMLError

            try:
                text = data.decode("utf-8")
                root = YAML(typ="safe").compose(text)
            except (UnicodeDecodeError, YAMLError):
                return None
            lines = tuple(text.split("\n"))
            return SourceFile(path, text, ast.Module([], []), (), lines), root
        return None

    def _bases(self, folder: Path) -> Iterator[Path]:
        stop = absolute(self.root)
        for _ in range(12):
            yield folder
            if (folder / "src").is_dir():
                yield folder / "src"
            if absolute(folder) == stop or folder.parent == folder:
                return
            folder = folder.parent

    def _in(self, base: Path, name: str) -> Path | None:
        path = base.joinpath(*name.split(".")) if name else base
        key = str(path)
        if key not in self._exists:
            file = path.with_name(f"{path.name}.py") if name else None
            package = path / "__init__.py"
            self._exists[key] = file if file is not None and file.is_file() else package if package.is_file() else None
        return self._exists[key]
