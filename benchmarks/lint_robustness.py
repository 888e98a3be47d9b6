"""What `vladoctor lint` does with files that nobody meant for it: the section `lint-robustness`.

    python benchmarks/lint_robustness.py [--mutants 10000] [--seed 0] [--corpus FOLDER] [--workers 2] [--keep FOLDER]
        [--write docs/evidence.md]

Linted, each file by itself and with the clock on it: the test suite of the standard library (where it is installed; the
standard library itself beside it), once as it is and once with a comment that makes the linter look closer, because it
leaves a file at once whose bytes have no word of an evaluation loop; and mutants of the loops of `tests/lint` (and of
every script below `--corpus`).

A mutant is a valid file in which between one and eight times something was done to the syntax tree: statements
dropped, doubled, swapped, nested in a block or a function, moved into another file; names and constants exchanged,
arguments dropped or turned round, expressions replaced by others and nested in each other.

Wanted: no exception, no crashed check, no file that takes longer than a second of the processor, and nothing executed.
Mutants lie in a folder whose modules write a file when they are imported, and every other mutant imports them and would
write one itself; an audit hook notes when anything of the folder is executed, a file written, a process started or a
connection opened.
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import platform
import random
import signal
import sys
import sysconfig
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from evidence import write_section

from vladoctor.check import all_checks
from vladoctor.lint.run import lint_paths

LOOPS = Path(__file__).parents[1] / "tests" / "lint"
LONGEST = 1.0
"""Seconds of the processor that a file may take."""

TRAP = """
from pathlib import Path
Path(__file__).with_name("EXECUTED").write_text("an import was carried out")
"""
TRAPPED = ("lab", "robot_tools", "helpers")
"""Packages that loops import, and that betray being imported."""

IMPORTS = "import helpers.tools\nfrom lab.vision import upright\nfrom robot_tools import sim\n"


@dataclass
class Tally:
    """What happened to a share of the files."""

    files: int = 0
    unparsed: int = 0
    loops: int = 0
    findings: int = 0
    crashed: list[str] = field(default_factory=list)
    slow: list[str] = field(default_factory=list)
    executed: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        for name in ("files", "unparsed", "loops", "findings", "crashed", "slow", "executed", "seconds"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


class _Watch:
    """Notes what a linter must not do. Audit hooks cannot be taken off; this one is silent unless it is on."""

    def __init__(self) -> None:
        self.on = False
        self.folder = ""
        self.seen: list[str] = []
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "exec" and str(getattr(arguments[0], "co_filename", "")).startswith(self.folder):
            self.seen.append(f"executed {arguments[0].co_filename}")
        elif event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wxa+"):
            self.seen.append(f"wrote {arguments[0]}")
        elif event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect"):
            self.seen.append(event)


class _TookTooLong(BaseException):
    pass


def _too_long(_signal: int, _frame: FrameType | None) -> None:
    raise _TookTooLong


def lint_each(files: Sequence[Path], root: Path | None) -> Tally:
    """Lint files one by one. `root`: the trapped folder that they lie in; None where they lie in the library."""
    tally = Tally()
    watch = _Watch()
    checks = all_checks()
    signal.signal(signal.SIGPROF, _too_long)
    for path in files:
        tally.files += 1
        watch.folder, watch.seen, watch.on = str(root or path.parent), [], True
        started = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, 20 * LONGEST)
        try:
            result = lint_paths([path], checks, {}, root or path.parent)
        except _TookTooLong:
            tally.slow.append(f"{path.name}: stopped after {20 * LONGEST:.0f} s")
            continue
        except BaseException:  # noqa: BLE001 - whatever it is, it is what we look for
            tally.crashed.append(f"{path.name}: {traceback.format_exc(limit=-4)}")
            continue
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            watch.on = False
            taken = time.process_time() - started
        tally.seconds.append(taken)
        tally.unparsed += len(result.skipped)
        tally.loops += len(result.loops)
        tally.findings += sum(1 for _ in result.findings)
        tally.crashed += [
            f"{path.name}: {one.code} {one.error[-600:]}" for loop in result.loops for one in loop.crashed
        ]
        tally.executed += [f"{path.name}: {what}" for what in watch.seen]
        if taken > LONGEST:
            tally.slow.append(f"{path.name}: {taken:.2f} s")
    if root:
        tally.executed += [f"imported: {path.name}" for path in root.rglob("EXECUTED*")]
    return tally


class Mutator:
    """Does things to syntax trees. `pool`: trees of which parts are taken."""

    def __init__(self, pool: Sequence[ast.Module], chance: random.Random) -> None:
        self.pool = pool
        self.chance = chance
        self.statements = [node for tree in pool for node in ast.walk(tree) if isinstance(node, ast.stmt)]
        self.expressions = [
            node
            for tree in pool
            for node in ast.walk(tree)
            if isinstance(node, ast.expr)
            and isinstance(getattr(node, "ctx", ast.Load()), ast.Load)
            and not isinstance(node, (ast.Starred, ast.Slice, ast.FormattedValue, ast.JoinedStr))
        ]
        self.names = sorted({node.id for tree in pool for node in ast.walk(tree) if isinstance(node, ast.Name)})

    def mutant(self) -> str:
        """A valid file."""
        while True:
            tree = copy.deepcopy(self.chance.choice(self.pool))
            for _ in range(self.chance.randint(1, 8)):
                self.chance.choice(
                    (
                        self.drop,
                        self.double,
                        self.swap,
                        self.nest,
                        self.transplant,
                        self.rename,
                        self.constant,
                        self.arguments,
                        self.expression,
                        self.wrap,
                    )
                )(tree)
            try:
                text = ast.unparse(ast.fix_missing_locations(tree))
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    compile(text, "mutant", "exec")
            except (SyntaxError, ValueError, RecursionError, TypeError, AttributeError, OverflowError):
                continue
            return text + "\n"

    def _body(self, tree: ast.Module) -> list[ast.stmt]:
        bodies = [
            body
            for node in ast.walk(tree)
            for name in ("body", "orelse", "finalbody")
            if isinstance(body := getattr(node, name, None), list) and body
        ]
        return self.chance.choice(bodies) if bodies else tree.body

    def drop(self, tree: ast.Module) -> None:
        body = self._body(tree)
        if body:
            body[self.chance.randrange(len(body))] = ast.Pass()

    def double(self, tree: ast.Module) -> None:
        body = self._body(tree)
        if body:
            body.insert(self.chance.randrange(len(body) + 1), copy.deepcopy(self.chance.choice(body)))

    def swap(self, tree: ast.Module) -> None:
        body = self._body(tree)
        if len(body) > 1:
            one, other = self.chance.sample(range(len(body)), 2)
            body[one], body[other] = body[other], body[one]

    def nest(self, tree: ast.Module) -> None:
        body = self._body(tree)
        if not body:
            return
        at = self.chance.randrange(len(body))
        inner, test = [body[at]], self._expression()
        body[at] = self.chance.choice(
            (
                ast.If(test=test, body=inner, orelse=[]),
                ast.While(test=test, body=inner, orelse=[ast.Pass()]),
                ast.For(target=ast.Name(self._name(), ast.Store()), iter=test, body=inner, orelse=[]),
                ast.With(items=[ast.withitem(context_expr=test, optional_vars=None)], body=inner),
                ast.Try(
                    body=inner,
                    handlers=[ast.ExceptHandler(type=None, name=None, body=[ast.Pass()])],
                    orelse=[],
                    finalbody=[],
                ),
                self._defined("def", inner, test),
                self._defined("class", inner, test),
            )
        )

    def _defined(self, keyword: str, body: list[ast.stmt], decorator: ast.expr) -> ast.stmt:
        """A function or a class around statements; parsed, as its fields differ between Python's versions."""
        (made,) = ast.parse(f"{keyword} {self._name()}({self._name()}): pass").body
        assert isinstance(made, (ast.FunctionDef, ast.ClassDef))
        made.body = body
        if self.chance.random() < 0.3:
            made.decorator_list = [decorator]
        return made

    def transplant(self, tree: ast.Module) -> None:
        self._body(tree).insert(0, copy.deepcopy(self.chance.choice(self.statements)))

    def rename(self, tree: ast.Module) -> None:
        old, new = self._name(), self._name()
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and (node.id == old or self.chance.random() < 0.02):
                node.id = new

    def constant(self, tree: ast.Module) -> None:
        found = [node for node in ast.walk(tree) if isinstance(node, ast.Constant)]
        if found:
            self.chance.choice(found).value = self.chance.choice(
                (
                    0,
                    -1,
                    1,
                    7,
                    10**9,
                    -(10**40),
                    0.0,
                    1e308,
                    float("inf"),
                    None,
                    True,
                    "",
                    "x" * 300,
                    "{}{",
                    "%s%d",
                    b"\x00",
                    ...,
                    3j,
                )
            )

    def arguments(self, tree: ast.Module) -> None:
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        if not calls:
            return
        call = self.chance.choice(calls)
        what = self.chance.randrange(5)
        if what == 0 and call.args:
            call.args.pop()
        elif what == 1 and call.keywords:
            call.keywords.pop(0)
        elif what == 2:
            call.args.reverse()
        elif what == 3:
            call.args.append(ast.Starred(self._expression(), ast.Load()))
        else:
            call.keywords.append(ast.keyword(arg=None, value=self._expression()))

    def expression(self, tree: ast.Module) -> None:
        places = [
            (node, name, index)
            for node in ast.walk(tree)
            for name, value in ast.iter_fields(node)
            for index, child in enumerate(value if isinstance(value, list) else [value])
            if isinstance(child, ast.expr) and isinstance(getattr(child, "ctx", ast.Load()), ast.Load)
        ]
        if not places:
            return
        node, name, index = self.chance.choice(places)
        value = getattr(node, name)
        if isinstance(value, list):
            value[index] = self._expression()
        else:
            setattr(node, name, self._expression())

    def wrap(self, tree: ast.Module) -> None:
        """Nest an expression in itself, up to sixty deep."""
        inner = self._expression()
        for _ in range(self.chance.choice((1, 2, 5, 20, 60))):
            inner = self.chance.choice(
                (
                    ast.Call(ast.Name(self._name(), ast.Load()), [inner], []),
                    ast.BinOp(inner, ast.Sub(), ast.Constant(1)),
                    ast.Subscript(inner, ast.Slice(None, None, ast.UnaryOp(ast.USub(), ast.Constant(1))), ast.Load()),
                    ast.IfExp(ast.Name(self._name(), ast.Load()), inner, ast.Name(self._name(), ast.Load())),
                    ast.Attribute(inner, self._name(), ast.Load()),
                    ast.List([inner, ast.Constant(0)], ast.Load()),
                    ast.Lambda(
                        ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[]), inner
                    ),
                )
            )
        self._body(tree).insert(0, ast.Assign([ast.Name(self._name(), ast.Store())], inner))

    def _expression(self) -> ast.expr:
        return copy.deepcopy(self.chance.choice(self.expressions))

    def _name(self) -> str:
        return self.chance.choice(self.names)


def sources(corpus: Path | None) -> list[ast.Module]:
    paths = sorted(LOOPS.rglob("*.py"))
    if corpus:
        paths += [path for path in sorted(corpus.rglob("*.py")) if path.stat().st_size < 60_000]
    trees = []
    for path in paths:
        try:
            trees.append(ast.parse(path.read_bytes()))
        except (SyntaxError, ValueError):
            continue
    return trees


def planted(folder: Path) -> None:
    """Modules that betray being imported, where a loop's imports would find them."""
    for name in TRAPPED:
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "__init__.py").write_text(TRAP, "utf-8")
        for module in ("vision", "sim", "gripper", "augment", "tools"):
            (folder / name / f"{module}.py").write_text(TRAP, "utf-8")
    for name in ("sitecustomize", "conftest", "setup"):
        (folder / f"{name}.py").write_text(TRAP, "utf-8")


def mutants(count: int, seed: int, corpus: Path | None, folder: Path) -> list[Path]:
    made = Mutator(sources(corpus), random.Random(seed))
    paths = []
    for number in range(count):
        path = folder / f"mutant_{number:05}.py"
        # Half of them would write a file if they were executed.
        path.write_text((IMPORTS + TRAP if number % 2 else "") + made.mutant(), "utf-8")
        paths.append(path)
    return paths


def library() -> tuple[list[Path], str]:
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    tests = sorted(path for path in (stdlib / "test").rglob("*.py") if path.is_file())
    rest = sorted(path for path in stdlib.rglob("*.py") if not {"site-packages", "test"} & set(path.parts))
    return tests + rest, f"{len(tests)} files of the standard library's test suite, {len(rest)} of the library itself"


def looked_at(files: Sequence[Path], folder: Path) -> list[Path]:
    """Copies of files with the words that the linter looks for first."""
    folder.mkdir()
    copies = []
    for number, path in enumerate(files):
        copy_ = folder / f"{number:04}_{path.name}"
        copy_.write_bytes(path.read_bytes() + b"\n# openvla: model.predict_action(...), env.step(...)\n")
        copies.append(copy_)
    return copies


def spread(files: Sequence[Path], root: Path | None, workers: int) -> Tally:
    shares = [files[start::workers] for start in range(workers)]
    total = Tally()
    with ProcessPoolExecutor(workers) as pool:
        for tally in pool.map(lint_each, shares, [root] * workers):
            total.add(tally)
    total.executed = sorted(set(total.executed))
    return total


def rows(tallies: dict[str, Tally]) -> Iterator[str]:
    yield (
        "| files | number | do not parse | loops found | findings | exceptions | over 1 s | executed or written "
        "| median, ms | longest, ms |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for name, one in tallies.items():
        times = sorted(one.seconds) or [0.0]
        yield (
            f"| {name} | {one.files:,} | {one.unparsed} | {one.loops:,} | {one.findings:,} | {len(one.crashed)} | "
            f"{len(one.slow)} | {len(one.executed)} | {times[len(times) // 2] * 1000:.1f} | {times[-1] * 1000:.0f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--corpus", type=Path, help="a folder whose scripts are mutated too")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--no-library", action="store_true", help="mutants only")
    parser.add_argument("--keep", type=Path, help="folder for the files that crashed or took too long")
    parser.add_argument("--write", type=Path, help="Markdown file whose section `lint-robustness` is replaced")
    arguments = parser.parse_args()
    tallies: dict[str, Tally] = {}
    words = "no file of the standard library"
    if not arguments.no_library:
        files, words = library()
        tallies["standard library, as it is"] = spread(files, None, arguments.workers)
        with tempfile.TemporaryDirectory() as name:
            copies = looked_at(files, Path(name) / "library")
            tallies["standard library, looked at"] = spread(copies, Path(name) / "library", arguments.workers)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        planted(folder)
        paths = mutants(arguments.mutants, arguments.seed, arguments.corpus, folder)
        tallies["mutants"] = spread(paths, folder, arguments.workers)
        bad = {line.split(":", 1)[0] for one in tallies.values() for line in (*one.crashed, *one.slow)}
        if arguments.keep:
            arguments.keep.mkdir(parents=True, exist_ok=True)
            for file in bad:
                if (folder / file).is_file():
                    (arguments.keep / file).write_bytes((folder / file).read_bytes())
    text = "\n".join(
        [
            f"Machine: {platform.machine()}, {os.cpu_count()} cores, {arguments.workers} processes; python "
            f"{platform.python_version()}. {words}; {arguments.mutants:,} mutants, seed {arguments.seed}.",
            "",
            *rows(tallies),
        ]
    )
    kinds = Counter(line.strip().splitlines()[-1][:150] for one in tallies.values() for line in one.crashed)
    for kind, count in kinds.most_common(20):
        print(f"crashed {count} times: {kind}", file=sys.stderr)
    for one in tallies.values():
        for line in (*one.slow[:20], *one.executed[:20]):
            print(line, file=sys.stderr)
    if arguments.write:
        write_section(arguments.write, "lint-robustness", text)
    print(text)


if __name__ == "__main__":
    main()
