"""An abstract interpreter: runs a program on values that stand for others, and writes down what it does.

Only the syntax tree is read; nothing of the program is imported or run. Both ways of a branch are followed where its
condition is not known and joined behind it, each value with the choices that it depends on. A loop's body is followed
once (a loop that queries a policy twice, so that what the first pass left behind is seen), with whatever counts in it
replaced by a counter. Calls are followed into functions of the project, wherever they stand. Depth and the number of
steps are bounded: behind the bound everything is not known, and what is not known accuses nobody.
"""

from __future__ import annotations

import ast
import itertools
import operator
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from vladoctor.lint import arrays, library
from vladoctor.lint.sources import SourceFile, Sources
from vladoctor.lint.values import (
    NONE,
    UNKNOWN,
    Alt,
    Bound,
    Class,
    Const,
    Content,
    Counter,
    Deferred,
    Dict,
    Ext,
    Func,
    Heap,
    Hole,
    Image,
    Limit,
    List,
    Module,
    Num,
    Obj,
    Partial,
    Ref,
    Scope,
    Slice,
    Text,
    Thing,
    Tup,
    Unknown,
    Value,
    When,
    alternatives,
    joined,
    numbers,
    options,
    plain,
    same,
    select,
    taints,
    text_of,
    together,
    unknown,
)
from vladoctor.places import Hop, Place

DEEPEST = 40
"""Calls within each other."""

STEPS = 60_000
"""Expressions evaluated for one entry point."""

SECONDS = 0.8
"""Time for one entry point."""

UNROLLED = 8
"""Items of a known sequence that are gone through one by one."""


class OutOfBudget(Exception):  # noqa: N818 - no error: it ends the reading
    """The bound on steps or time is reached."""


@dataclass(frozen=True, eq=False)
class Loop:
    """A loop that is being gone through. `count`: how often, where known; `limits`: of a while loop's condition."""

    node: ast.AST
    source: SourceFile
    count: Value | None = None
    limits: tuple[Limit, ...] = ()
    nth: int = 0


@dataclass(frozen=True, eq=False)
class Condition:
    """A condition under which the interpreter is: whether it holds, and what is run where it is otherwise."""

    node: ast.expr
    source: SourceFile
    holds: bool
    value: Value
    other: Sequence[ast.stmt] = ()


@dataclass(frozen=True, eq=False)
class Event:
    """Something that the program does.

    Attributes:
        kind: "env", "reset", "init_state", "step", "query", "policy_reset", "seed", "env_seed", "load", "handler",
            "accumulate", "limit", "escape", "eval", "train".
        calls: the calls that led here, the outermost first: (source, node).
    """

    kind: str
    source: SourceFile
    node: ast.AST
    data: dict[str, Any]
    calls: tuple[tuple[SourceFile, ast.AST], ...] = ()
    loops: tuple[Loop, ...] = ()
    conditions: tuple[Condition, ...] = ()
    tries: tuple[ast.AST, ...] = ()

    @property
    def place(self) -> Place:
        return self.source.place(self.node)


@dataclass(eq=False)
class _Frame:
    """A call that is being followed."""

    source: SourceFile
    scopes: tuple[int, ...]
    func: Func | None = None
    self_value: Value | None = None
    returns: list[tuple[Heap, Value, When, tuple[bool, ...] | None]] = field(default_factory=list)
    returned_at: list[ast.AST] = field(default_factory=list)
    yields: list[Value] = field(default_factory=list)
    depth_of_conditions: int = 0
    globals: set[str] = field(default_factory=set)
    written: set[str] = field(default_factory=set)
    """Names whose arrays were written into."""


class Interpreter:
    """Follows one entry point at a time; `events` is what it found."""

    def __init__(self, sources: Sources, seconds: float = SECONDS) -> None:
        self.sources = sources
        self.heap: Heap = {}
        self.events: list[Event] = []
        self.files: dict[str, SourceFile] = {}
        self.visited: set[int] = set()
        self.made: dict[int, tuple[Loop, ...]] = {}
        self.steps = 0
        self.deadline = time.process_time() + seconds
        self._ids = itertools.count(1)
        self._modules: dict[int, int] = {}
        self._pending: set[tuple[int, str]] = set()
        self._registered: set[int] = set()
        self._constants: dict[int, Const] = {}
        self.frames: list[_Frame] = []
        self.calls: list[tuple[SourceFile, ast.AST]] = []
        self.loops: list[Loop] = []
        self.conditions: list[Condition] = []
        self.masks: list[tuple[bool, ...] | None] = []
        self.whens: list[When] = []
        self.tries: list[ast.AST] = []
        self._pending_writes: list[tuple[ast.expr, Value]] = []
        self.breaks: list[list[Heap]] = []
        self.continues: list[list[Heap]] = []

    # -- entry points ----------------------------------------------------------------------------------------------

    def run_module(self, source: SourceFile) -> None:
        """Run a file as a script."""
        scope = self.module_scope(source)
        self.frames.append(_Frame(source, (scope,)))
        self.put(scope, "__name__", Const("__main__"))
        try:
            self._block(source.tree.body)
        finally:
            self.frames.pop()

    def run_function(self, func: Func, given: Mapping[str, Value], self_value: Value | None = None) -> Value:
        """Run a function as an entry point, with values for parameters that nobody gives."""
        frame = _Frame(func.source, func.scopes)
        self.frames.append(frame)
        try:
            return self.call_func(func, (), dict(given), self_value, func.node, lenient=True)
        finally:
            self.frames.pop()

    def run_class(self, cls: Class) -> Value:
        """Make an object of a class as an entry point, with its defaults."""
        self.frames.append(_Frame(cls.source, cls.scopes))
        try:
            return self.instantiate(cls, (), {}, cls.node)
        finally:
            self.frames.pop()

    # -- heap and scopes -------------------------------------------------------------------------------------------

    def new(self, content: Content) -> Ref:
        """Put something on the heap."""
        found = next(self._ids)
        self.heap[found] = content
        if isinstance(content, List):
            self.made[found] = tuple(self.loops)
        return Ref(found)

    def content(self, value: Value | None) -> Content | None:
        """What stands on the heap behind a value; None where it stands nowhere."""
        return self.heap.get(value.id) if isinstance(value, Ref) else None

    def put(self, scope: int, name: str, value: Value) -> None:
        """Bind a name."""
        found = self.heap[scope]
        assert isinstance(found, Scope)
        self.heap[scope] = Scope({**found.names, name: value})

    def module_scope(self, source: SourceFile) -> int:
        """The scope of a module; its names are evaluated when they are asked for."""
        key = id(source)
        if key not in self._modules:
            self._modules[key] = self.new(Scope({})).id
            self.files[str(source.path)] = source
        scope = self._modules[key]
        self.heap.setdefault(scope, Scope({}))
        return scope

    def lookup(self, name: str, scopes: Sequence[int], source: SourceFile) -> Value | None:
        """The value of a name as seen from some scopes, the innermost first."""
        for scope in scopes:
            found = self.heap.get(scope)
            if isinstance(found, Scope) and name in found.names:
                value = found.names[name]
                return self._import_now(value, scope, name) if isinstance(value, Deferred) else value
        return self.module_name(source, name)

    def module_name(self, source: SourceFile, name: str) -> Value | None:
        """A module's name, evaluated if need be; None where the module has none."""
        scope = self.module_scope(source)
        found = self.heap[scope]
        if isinstance(found, Scope) and name in found.names:
            value = found.names[name]
            return self._import_now(value, scope, name) if isinstance(value, Deferred) else value
        statement = bindings(source).get(name)
        if statement is None:
            return None
        key = (scope, name)
        if key in self._pending:
            return UNKNOWN
        self._pending.add(key)
        self.frames.append(_Frame(source, (scope,)))
        context = self._leave_context()
        try:
            self._statement(statement)
        finally:
            self._enter_context(context)
            self.frames.pop()
            self._pending.discard(key)
        found = self.heap[scope]
        value = found.names.get(name, UNKNOWN) if isinstance(found, Scope) else UNKNOWN
        return self._import_now(value, scope, name) if isinstance(value, Deferred) else value

    def _leave_context(self) -> tuple[Any, ...]:
        held = (self.loops, self.conditions, self.masks, self.whens, self.tries, self.breaks, self.continues)
        self.loops, self.conditions, self.masks, self.whens, self.tries = [], [], [], [], []
        self.breaks, self.continues = [], []
        return held

    def _enter_context(self, held: tuple[Any, ...]) -> None:
        self.loops, self.conditions, self.masks, self.whens, self.tries, self.breaks, self.continues = held

    @property
    def source(self) -> SourceFile:
        return self.frames[-1].source

    def place(self, node: ast.AST) -> Place:
        """Where a node of the file that is being followed stands."""
        return self.source.place(node)

    def hop(self, label: str, node: ast.AST) -> Hop:
        """A step of the way that data takes."""
        return Hop(label, self.place(node))

    def event(self, kind: str, node: ast.AST, **data: Any) -> Event:
        """Write down something that the program does."""
        found = Event(
            kind,
            self.source,
            node,
            data,
            tuple(self.calls),
            tuple(self.loops),
            tuple(self.conditions),
            tuple(self.tries),
        )
        self.events.append(found)
        return found

    # -- statements ------------------------------------------------------------------------------------------------

    def _block(self, statements: Sequence[ast.stmt]) -> bool:
        """Run statements; whether what follows them is reached."""
        return all(self._statement(statement) for statement in statements)

    def _statement(self, node: ast.stmt) -> bool:
        self._spend()
        run = _STATEMENTS.get(type(node))
        return True if run is None else run(self, node)

    def _spend(self) -> None:
        self.steps += 1
        if self.steps > STEPS or (self.steps % 256 == 0 and time.process_time() > self.deadline):
            raise OutOfBudget

    def _expression_statement(self, node: ast.Expr) -> bool:
        result = self.eval(node.value)
        if isinstance(node.value, ast.Call):
            self._handed_over(node.value, result)
        return not (isinstance(node.value, ast.Call) and _ends(node.value))

    def _handed_over(self, call: ast.Call, result: Value) -> None:
        """An array that was given to something unknown, whose answer nobody takes, may have been written into."""
        out = next((keyword.value for keyword in call.keywords if keyword.arg == "out"), None)
        if isinstance(out, ast.Name):
            self._write_back(out, result)
        if not isinstance(result, Unknown) or "not known" not in result.why:
            return
        for argument in call.args:
            if isinstance(argument, ast.Name):
                value = self.lookup(argument.id, self.frames[-1].scopes, self.source)
                if isinstance(value, Num) and value.native is not None and arrays.rows(value):
                    self._write_back(argument, unknown("given to something unknown", value))

    def _assign(self, node: ast.Assign) -> bool:
        value = self.eval(node.value)
        if isinstance(value, Text) and len(value.parts) == 1 and isinstance(value.parts[0], Hole):
            value = replace(value, trail=(*value.trail, self.hop(self.source.segment(node), node)))
        for target in node.targets:
            self.assign(target, value)
        return True

    def _annotated(self, node: ast.AnnAssign) -> bool:
        if node.value is not None:
            self.assign(node.target, self.eval(node.value))
        return True

    def _augmented(self, node: ast.AugAssign) -> bool:
        load = _as_load(node.target)
        before, added = self.eval(load), self.eval(node.value)
        counts = isinstance(before, Counter) or (
            isinstance(before, Const) and isinstance(before.value, int | float) and bool(self.loops)
        )
        if counts and isinstance(added, Num | Unknown | Alt) and "action" in taints(added):
            self.event("accumulate", node, value=added, op=type(node.op).__name__)
        content = self.content(before)
        if isinstance(content, List) and isinstance(node.op, ast.Add):
            library.extend(self, before, content, added)
            return True
        if counts and isinstance(node.target, ast.Attribute | ast.Name) and numbers(added) is not None:
            start = before.start if isinstance(before, Counter) else before.value  # type: ignore[union-attr]
            self.assign(node.target, Counter(start) if not taints(added) else unknown("a running sum", added))
            return True
        self.assign(node.target, self.binary(node.op, before, added, node))
        return True

    def assign(self, target: ast.expr, value: Value) -> None:
        """Bind a target of an assignment."""
        if isinstance(target, ast.Name) and "succ" in target.id.lower():
            never = isinstance(value, Const) and value.origin == library.NEVER
            if never or not (isinstance(value, Const) and not value.value):
                self.event("success", target, name=target.id, never=never, value=value)
        if isinstance(target, ast.Name):
            self._bind(target.id, value)
        elif isinstance(target, ast.Tuple | ast.List):
            starred = next((i for i, item in enumerate(target.elts) if isinstance(item, ast.Starred)), None)
            parts = self.unpack(value, len(target.elts), target, starred)
            for item, part in zip(target.elts, parts, strict=True):
                self.assign(item.value if isinstance(item, ast.Starred) else item, part)
        elif isinstance(target, ast.Attribute):
            self._set_attribute(self.eval(target.value), target.attr, value, target)
        elif isinstance(target, ast.Subscript):
            self._set_item(target, value)

    def _bind(self, name: str, value: Value) -> None:
        frame = self.frames[-1]
        self.put(self.module_scope(frame.source) if name in frame.globals else frame.scopes[0], name, value)

    def _set_attribute(self, owner: Value, name: str, value: Value, node: ast.AST) -> None:
        for _, option in options(owner):
            content = self.content(option)
            if isinstance(content, Obj) and isinstance(option, Ref):
                setter = self.class_member(content.cls, name) if content.cls else None
                if isinstance(setter, Func) and name not in content.attrs and _is_property(setter.node):
                    continue
                self.heap[option.id] = replace(content, attrs={**content.attrs, name: value})
            else:
                library.set_attribute(self, option, name, value, node)

    def _set_item(self, target: ast.Subscript, value: Value) -> None:
        owner, index = self.eval(target.value), self.eval(target.slice)
        for _, option in options(owner):
            content = self.content(option)
            if isinstance(content, Dict) and isinstance(option, Ref):
                key = library.key_of(index)
                if key is None:
                    rest = value if content.rest is None else alternatives([((), content.rest), ((), value)])
                    self.heap[option.id] = replace(content, rest=rest)
                else:
                    self.heap[option.id] = replace(content, items={**content.items, key: value})
            elif isinstance(content, List) and isinstance(option, Ref):
                at = plain(index)
                if content.items is not None and isinstance(at, int) and -len(content.items) <= at < len(content.items):
                    items = list(content.items)
                    items[at] = value
                    self.heap[option.id] = replace(content, items=tuple(items))
                elif content.items is not None:
                    known = alternatives([*(((), item) for item in content.items), ((), value)])
                    self.heap[option.id] = replace(content, items=None, element=known)
        if isinstance(owner, Num | Image | Unknown | Alt):
            written = arrays.put(self, owner, index, value, target)
            if written is not None:
                self._write_back(target.value, written)
        elif isinstance(owner, Thing):
            library.set_item(self, owner, index, value, target)

    def _write_back(self, target: ast.expr, value: Value) -> None:
        """Give an array that was written into to the name that holds it, here and, of a parameter, in the caller."""
        if isinstance(target, ast.Name):
            self.frames[-1].written.add(target.id)
            self._bind(target.id, value)
        elif isinstance(target, ast.Attribute | ast.Subscript):
            self.assign(target, value)

    def _delete(self, node: ast.Delete) -> bool:
        return True

    def _return(self, node: ast.Return) -> bool:
        value = NONE if node.value is None else self.eval(node.value)
        self.frames[-1].returned_at.append(node)
        self._returned(value)
        return False

    def _returned(self, value: Value) -> None:
        frame = self.frames[-1]
        depth = frame.depth_of_conditions
        when: When | None = ()
        for one in self.whens[depth:]:
            when = together(when or (), one)
        mask: tuple[bool, ...] | None = None
        for one_mask in self.masks[depth:]:
            if one_mask is not None:
                mask = one_mask if mask is None else tuple(a and b for a, b in zip(mask, one_mask, strict=True))
        frame.returns.append((self.heap, value, when or (), mask))
        self.heap = dict(self.heap)

    def _raise(self, node: ast.Raise) -> bool:
        return False

    def _break(self, node: ast.Break) -> bool:
        if self.breaks:
            self.breaks[-1].append(self.heap)
            self.heap = dict(self.heap)
        return False

    def _continue(self, node: ast.Continue) -> bool:
        if self.continues:
            self.continues[-1].append(self.heap)
            self.heap = dict(self.heap)
        return False

    def _if(self, node: ast.If) -> bool:
        value = self.eval(node.test)
        truth = self.truth(value)
        if isinstance(value, Unknown) and value.limits and _leaves(node.body):
            self.event("limit", node, limits=value.limits)
        self._decided(node.test, value)
        suite = self._suite_asked(node.test)
        if suite is not None and (not isinstance(suite[1], Const) or suite[1].origin):
            truth = None
        if isinstance(truth, bool):
            return self._under(
                node.test,
                value,
                truth,
                node.body if truth else node.orelse,
                (),
                None,
                node.orelse if truth else node.body,
            )
        yes, no = self._choices(node.test)
        base = self.heap
        self.heap = dict(base)
        reached = self._under(node.test, value, True, node.body, yes, truth)
        first, self.heap = self.heap, dict(base)
        opposite = tuple(not one for one in truth) if truth is not None else None
        other_reached = self._under(node.test, value, False, node.orelse, no, opposite)
        if reached and other_reached:
            second_first = self._default_is_other(node.test)
            self.heap = self.join(first, self.heap, yes, no, truth, second_first)
        elif reached:
            self.heap = first
        return reached or other_reached

    def _decided(self, test: ast.expr, value: Value) -> None:
        """Write down a constant that decides a branch: an option's default, or what is named after a crop."""
        if isinstance(value, Const):
            asked = self.source.segment(test)
            if value.origin or "crop" in asked.lower():
                self.event("decided", test, value=value, asked=asked)

    def _under(
        self,
        test: ast.expr,
        value: Value,
        holds: bool,
        body: Sequence[ast.stmt],
        when: When,
        mask: tuple[bool, ...] | None,
        other: Sequence[ast.stmt] = (),
    ) -> bool:
        self.conditions.append(Condition(test, self.source, holds, value, other))
        self.whens.append(when)
        self.masks.append(mask)
        try:
            return self._block(body)
        finally:
            self.conditions.pop()
            self.whens.pop()
            self.masks.pop()

    def _choices(self, test: ast.expr) -> tuple[When, When]:
        """What holds in the branches of a condition; of a comparison with a suite's name, that suite."""
        suite = self._suite_asked(test)
        if suite is not None:
            return (("suite", suite[0]),), ()
        asked = self.source.segment(test) or f"line {test.lineno}"
        return ((asked, "true"),), ((asked, "false"),)

    def _suite_asked(self, test: ast.expr) -> tuple[str, Value] | None:
        if not (isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq)):
            return None
        left, right = test.left, test.comparators[0]
        for name, other in ((right, left), (left, right)):
            found = self.eval(name) if isinstance(name, ast.Constant | ast.Attribute | ast.Name) else UNKNOWN
            if isinstance(found, Const) and library.is_suite(found.value) and not found.origin:
                return found.value, self.eval(other)
        return None

    def _default_is_other(self, test: ast.expr) -> bool:
        asked = self._suite_asked(test)
        return asked is not None and isinstance(asked[1], Const) and asked[1].value != asked[0]

    def _for(self, node: ast.For | ast.AsyncFor) -> bool:
        iterable = self.eval(node.iter)
        items = self.items(iterable)
        if items is not None and len(items) <= UNROLLED and not (isinstance(iterable, Thing) and _steps(node)):
            return self._unrolled(node, items, iterable)
        element, count = self.element(iterable, node.iter)
        return self._looped(node, count, (), lambda: self.assign(node.target, element))

    def _unrolled(self, node: ast.For | ast.AsyncFor, items: Sequence[Value], iterable: Value) -> bool:
        self.breaks.append([])
        broken = False
        for nth, item in enumerate(items):
            self.continues.append([])
            self.loops.append(Loop(node, self.source, Const(len(items)), nth=nth))
            self.assign(node.target, item)
            reached = self._block(node.body)
            self.loops.pop()
            reached = self._gather(self.continues.pop(), reached)
            if not reached:
                broken = True
                break
        reached = not broken or not node.body
        if reached and node.orelse:
            reached = self._block(node.orelse)
        return self._gather(self.breaks.pop(), reached)

    def _while(self, node: ast.While) -> bool:
        self._widen(node)
        value = self.eval(node.test)
        truth = self.truth(value)
        if truth is False:
            return self._block(node.orelse)
        limits = value.limits if isinstance(value, Unknown) else ()
        endless = truth is True and isinstance(node.test, ast.Constant)
        return self._looped(node, None, limits, lambda: None, endless)

    def _looped(
        self,
        node: ast.For | ast.AsyncFor | ast.While,
        count: Value | None,
        limits: tuple[Limit, ...],
        bind: Callable[[], None],
        endless: bool = False,
    ) -> bool:
        self._widen(node)
        reached = False
        self.breaks.append([])
        for nth in range(2):
            before = len(self.events)
            self.continues.append([])
            self.loops.append(Loop(node, self.source, count, limits, nth))
            entry = dict(self.heap)
            bind()
            reached = self._block(node.body)
            self.loops.pop()
            reached = self._gather(self.continues.pop(), reached)
            asked = any(
                event.kind == "query" and event.loops[-1:] and event.loops[-1].node is node
                for event in self.events[before:]
            )
            if not reached or not asked or nth:
                break
            self.heap = self.join(self.heap, entry, (), ())
        if not reached:
            # Every way through the body leaves the loop: with no iteration at all what follows is reached as well.
            self.heap = entry if not self.breaks[-1] else self.heap
            reached = not self.breaks[-1] and not endless
        elif endless:
            reached = False
        if reached and node.orelse:
            reached = self._block(node.orelse)
        return self._gather(self.breaks.pop(), reached)

    def _gather(self, heaps: list[Heap], reached: bool) -> bool:
        """Join the states in which a loop or an iteration was left with the one that reaches its end."""
        for heap in heaps:
            self.heap = self.join(self.heap, heap, (), ()) if reached else heap
            reached = True
        if heaps:
            self.heap = dict(self.heap)
        return reached

    def _widen(self, node: ast.For | ast.AsyncFor | ast.While) -> None:
        for target in counted(node):
            before = self.eval(target)
            if isinstance(before, Const) and isinstance(before.value, int | float) and before.value is not True:
                self.assign(target, Counter(before.value))

    def _try(self, node: ast.Try) -> bool:
        base = dict(self.heap)
        self.tries.append(node)
        reached = self._block(node.body)
        self.tries.pop()
        if reached and node.orelse:
            reached = self._block(node.orelse)
        imports_only = all(isinstance(one, ast.Import | ast.ImportFrom) for one in node.body)
        after = self.heap
        for handler in node.handlers if not imports_only else ():
            self.heap = self.join(dict(after), base, (), ()) if reached else dict(base)
            asked = f"an exception is caught in line {handler.lineno}"
            self.whens.append(((asked, "true"),))
            self.masks.append(None)
            self.event("handler", handler, around=node)
            if handler.name:
                self._bind(handler.name, unknown("an exception"))
            handled = self._block(handler.body)
            self.whens.pop()
            self.masks.pop()
            if handled and reached:
                after = self.join(after, self.heap, (), ((asked, "true"),))
            elif handled:
                after, reached = self.heap, True
        self.heap = dict(after)
        if node.finalbody:
            final = self._block(node.finalbody)
            return reached and final
        return reached

    def _with(self, node: ast.With | ast.AsyncWith) -> bool:
        for item in node.items:
            value = self.eval(item.context_expr)
            if item.optional_vars is not None:
                self.assign(item.optional_vars, library.entered(self, value))
        return self._block(node.body)

    def _def(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
        frame = self.frames[-1]
        self._bind(node.name, self._decorate(node, Func(node, frame.source, frame.scopes)))
        return True

    def _decorate(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, made: Value) -> Value:
        """What decorators of the program make of a function or a class: most only register it."""
        result = made
        for decorator in reversed(node.decorator_list):
            target = decorator.func if isinstance(decorator, ast.Call) else decorator
            if not isinstance(target, ast.Name | ast.Attribute):
                continue
            found = self.eval(target)
            if isinstance(found, Func) or (isinstance(found, Bound) and found.func is not None):
                wrap = self.eval(decorator) if isinstance(decorator, ast.Call) else found
                if isinstance(wrap, Func | Bound | Partial):
                    wrapped = self.call(wrap, (result,), {}, decorator)
                    result = wrapped if isinstance(wrapped, Func | Class | Bound | Partial) else result
        return result

    def register(self) -> None:
        """Run what fills registries in modules that were only looked at: decorators, and calls that register."""
        for source in list(self.files.values()):
            if id(source) in self._registered:
                continue
            self._registered.add(id(source))
            for statement in source.tree.body:
                if isinstance(statement, ast.FunctionDef | ast.ClassDef) and statement.decorator_list:
                    self.module_name(source, statement.name)
                elif _fills(statement):
                    self._run_in(source, statement)

    def _run_in(self, source: SourceFile, statement: ast.stmt) -> None:
        self.frames.append(_Frame(source, (self.module_scope(source),)))
        context = self._leave_context()
        try:
            self._statement(statement)
        finally:
            self._enter_context(context)
            self.frames.pop()

    def _class(self, node: ast.ClassDef) -> bool:
        frame = self.frames[-1]
        bases = tuple(self.eval(base) for base in node.bases if not isinstance(base, ast.Starred))
        self._bind(node.name, self._decorate(node, Class(node, frame.source, frame.scopes, bases)))
        return True

    def _global(self, node: ast.Global) -> bool:
        self.frames[-1].globals.update(node.names)
        return True

    def _import(self, node: ast.Import) -> bool:
        for alias in node.names:
            whole, top = alias.name, alias.name.split(".")[0]
            self._bind(alias.asname or top, Deferred(self.source, whole if alias.asname else top, 0))
        return True

    def _import_from(self, node: ast.ImportFrom) -> bool:
        name = node.module or ""
        for alias in node.names:
            if alias.name == "*":
                self._import_all(self._project_module(name, node.level, self.source))
            else:
                self._bind(alias.asname or alias.name, Deferred(self.source, name, node.level, alias.name))
        return True

    def _project_module(self, name: str, level: int, importer: SourceFile) -> SourceFile | None:
        """A module of the project; None where it is a library's."""
        return self.sources.module(name, importer, level) if level or not library.is_library(name) else None

    def _import_now(self, wanted: Deferred, scope: int, name: str) -> Value:
        """What an import binds; the scope is told."""
        self.put(scope, name, UNKNOWN)  # a circle of imports ends here
        value = self._imported(wanted)
        self.put(scope, name, value)
        return value

    def _imported(self, wanted: Deferred) -> Value:
        module = self._project_module(wanted.module, wanted.level, wanted.source)
        whole = f"{wanted.module}.{wanted.name}" if wanted.module else wanted.name
        if not wanted.name:
            return Module(module) if module is not None else Ext(library.canonical(wanted.module))
        if module is not None:
            value = self.module_name(module, wanted.name)
            if value is not None:
                return value
        inner = self._project_module(whole, wanted.level, wanted.source)
        if inner is not None:
            return Module(inner)
        if module is not None or wanted.level:
            return unknown(f"{whole} is not found")
        return Ext(library.canonical(whole))

    def _import_all(self, found: SourceFile | None) -> None:
        if found is None:
            return
        for name in bindings(found):
            if not name.startswith("_"):
                value = self.module_name(found, name)
                if value is not None:
                    self._bind(name, value)

    def _assert(self, node: ast.Assert) -> bool:
        return True

    def _match(self, node: ast.Match) -> bool:
        subject = self.eval(node.subject)
        base, ends = self.heap, []
        for case in node.cases:
            value = self.eval(case.pattern.value) if isinstance(case.pattern, ast.MatchValue) else None
            when: When = ()
            if isinstance(value, Const):
                if library.is_suite(value.value):
                    when = (("suite", value.value),)
                elif isinstance(subject, Const) and subject.value != value.value:
                    continue
                else:
                    when = ((f"{self.source.segment(node.subject)} == {value.value!r}", "true"),)
            self.heap = dict(base)
            self.whens.append(when)
            self.masks.append(None)
            if self._block(case.body):
                ends.append((when, self.heap))
            self.whens.pop()
            self.masks.pop()
        if not ends:
            self.heap = base
            return True
        first_when, merged = ends[0]
        for index, (when, heap) in enumerate(ends[1:]):
            merged = self.join(merged, heap, first_when if index == 0 else (), when)
        self.heap = dict(merged)
        return True

    # -- joining ---------------------------------------------------------------------------------------------------

    def join(
        self,
        one: Heap,
        other: Heap,
        yes: When,
        no: When,
        mask: tuple[bool, ...] | None = None,
        second_first: bool = False,
    ) -> Heap:
        """One state of two."""
        merged = dict(one)
        for key, content in other.items():
            mine = one.get(key)
            if mine is None:
                merged[key] = content
            elif mine is not content:
                merged[key] = self._join_content(mine, content, yes, no, mask, second_first)
        return merged

    def _join_content(
        self, one: Content, other: Content, yes: When, no: When, mask: tuple[bool, ...] | None, second_first: bool
    ) -> Content:
        def both(a: Value | None, b: Value | None) -> Value:
            if a is None or b is None:
                return a or b or UNKNOWN
            if same(a, b) or isinstance(b, Deferred):
                return a
            if isinstance(a, Deferred):
                return b
            if mask is not None:
                chosen = select(mask, a, b)
                if chosen is not None:
                    return chosen
            if isinstance(a, Counter) or isinstance(b, Counter):
                return a if isinstance(a, Counter) else b
            pair: list[tuple[When, Value]] = [(yes, a), (no, b)]
            return alternatives(reversed(pair) if second_first else pair)

        if isinstance(one, Scope) and isinstance(other, Scope):
            return Scope(_merge(one.names, other.names, both))
        if isinstance(one, Obj) and isinstance(other, Obj):
            return replace(one, attrs=_merge(one.attrs, other.attrs, both))
        if isinstance(one, Dict) and isinstance(other, Dict):
            rest = both(one.rest, other.rest) if one.rest is not None or other.rest is not None else None
            return replace(one, items=_merge(one.items, other.items, both), rest=rest)
        if isinstance(one, List) and isinstance(other, List):
            if one.items is not None and other.items is not None and len(one.items) == len(other.items):
                return replace(one, items=tuple(both(a, b) for a, b in zip(one.items, other.items, strict=True)))
            found = [*(one.items or ()), *(other.items or ())]
            found += [item for item in (one.element, other.element) if item is not None]
            return replace(one, items=None, element=alternatives([((), item) for item in found]) if found else None)
        return one

    # -- expressions -----------------------------------------------------------------------------------------------

    def eval(self, node: ast.expr) -> Value:
        """The value of an expression."""
        self._spend()
        run = _EXPRESSIONS.get(type(node))
        return run(self, node) if run is not None else UNKNOWN

    def _computed(self, do: Callable[..., Value], *args: Any) -> Value:
        """What a library does with the program's values; not known where they are none that it can be done with."""
        try:
            return do(self, *args)
        except (ArithmeticError, ValueError, TypeError, LookupError, AttributeError, MemoryError) as error:
            return unknown(f"it does not compute ({type(error).__name__})", *(a for a in args if _is_value(a)))

    def _constant(self, node: ast.Constant) -> Value:
        found = self._constants.get(id(node))
        if found is None:
            found = self._constants[id(node)] = Const(node.value, (self.source, node))
        return found

    def _name(self, node: ast.Name) -> Value:
        frame = self.frames[-1]
        found = self.lookup(node.id, frame.scopes, frame.source)
        return found if found is not None else Ext(f"builtins.{node.id}")

    def _attribute(self, node: ast.Attribute) -> Value:
        if node.attr in ("remote", "local", "spawn"):  # modal, ray: the same function elsewhere
            owner = self.eval(node.value)
            if isinstance(owner, Func) or (isinstance(owner, Bound) and owner.func is not None):
                return owner
            return self.attribute(owner, node.attr, node)
        return self.attribute(self.eval(node.value), node.attr, node)

    def attribute(self, owner: Value, name: str, node: ast.AST) -> Value:
        """`owner.name`."""
        if isinstance(owner, Alt):
            return self.lift(lambda one: self.attribute(one, name, node), owner)
        content = self.content(owner)
        if isinstance(content, Obj):
            if name in content.attrs:
                return content.attrs[name]
            member = self.class_member(content.cls, name) if content.cls is not None else None
            if isinstance(member, Func):
                if _is_property(member.node):
                    return self.call_func(member, (), {}, owner, node)
                return Bound(owner, name, member) if not _is_static(member.node) else member
            if member is not None:
                return member
            if name == "__dict__":
                return self.new(Dict(dict(content.attrs)))
            return library.inherited(self, owner, content, name, node)
        if isinstance(owner, Class):
            member = self.class_member(owner, name)
            if isinstance(member, Func) and _is_class_method(member.node):
                return Bound(owner, name, member)
            if member is not None:
                return member
            if name == "__name__":
                return Const(owner.node.name)
            base = self.library_base(owner)
            return Bound(Ext(base), name) if base else unknown(f"{owner.node.name}.{name}")
        if isinstance(owner, Module):
            found = self.module_name(owner.source, name)
            if found is None:
                inner = self.sources.module(name, owner.source, 1) if owner.source.path.name == "__init__.py" else None
                return Module(inner) if inner is not None else unknown(f"{name} is not found")
            return found
        if isinstance(owner, Ext):
            return Ext(f"{owner.name}.{name}")
        return self._computed(library.attribute, owner, name, node)

    def class_member(self, cls: Class | None, name: str, depth: int = 0) -> Value | None:
        """What a class, or one that it inherits from, binds a name to; None where none of the program does."""
        if cls is None or depth > 8:
            return None
        for statement in reversed(cls.node.body):
            if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef) and statement.name == name:
                return Func(statement, cls.source, cls.scopes, cls)
            if isinstance(statement, ast.ClassDef) and statement.name == name:
                return Class(statement, cls.source, cls.scopes)
            value = None
            if isinstance(statement, ast.Assign):
                if any(isinstance(target, ast.Name) and target.id == name for target in statement.targets):
                    value = statement.value
            elif isinstance(statement, ast.AnnAssign) and _named(statement.target, name):
                value = statement.value
                if value is None:
                    return None
            if value is not None:
                found_value = self.eval_in(value, cls.source, cls.scopes)
                annotated = isinstance(statement, ast.AnnAssign)
                return self.field_default(found_value, cls, name, annotated)
        for base in cls.bases:
            if isinstance(base, Class):
                found = self.class_member(base, name, depth + 1)
                if found is not None:
                    return found
        return None

    def field_default(self, value: Value, cls: Class, name: str, annotated: bool = False) -> Value:
        """A default that stands in a class, marked as such where its objects are configurations."""
        if isinstance(value, Thing) and value.kind == "field":
            return value.info.get("default", unknown("a field without default"))
        if isinstance(value, Const) and (annotated or is_config(cls)):
            return replace(value, origin=name)
        return value

    def eval_in(self, node: ast.expr, source: SourceFile, scopes: tuple[int, ...]) -> Value:
        """Evaluate an expression of another file or scope."""
        self.frames.append(_Frame(source, scopes))
        try:
            return self.eval(node)
        finally:
            self.frames.pop()

    def library_base(self, cls: Class, depth: int = 0) -> str:
        """Name of the library's class that a class inherits from; empty where there is none."""
        for base in cls.bases:
            if isinstance(base, Ext):
                return base.name
            if isinstance(base, Class) and depth < 8:
                found = self.library_base(base, depth + 1)
                if found:
                    return found
        return ""

    def _subscript(self, node: ast.Subscript) -> Value:
        return self.subscript(self.eval(node.value), self.eval(node.slice), node)

    def subscript(self, owner: Value, index: Value, node: ast.AST) -> Value:
        """`owner[index]`."""
        if isinstance(owner, Alt):
            return self.lift(lambda one: self.subscript(one, index, node), owner)
        if isinstance(index, Alt) and not isinstance(owner, Image):
            return self.lift(lambda one: self.subscript(owner, one, node), index, keep_none=True)
        content = self.content(owner)
        if isinstance(content, Dict):
            key = library.key_of(index)
            if key is not None and key not in content.items and content.rest is None:
                self.register()
                again = self.content(owner)
                content = again if isinstance(again, Dict) else content
            found = library.dict_item(self, content, index, None, node)
            if isinstance(found, Thing) and found.kind == "ids":
                found = replace(found, info={**found.info, "at": self.place(node)})
            return found
        items = content.items if isinstance(content, List) else owner.items if isinstance(owner, Tup) else None
        if isinstance(content, List) or isinstance(owner, Tup):
            return self._sequence_item(owner, content, items, index)
        if isinstance(content, Obj):
            getter = self.class_member(content.cls, "__getitem__")
            if isinstance(getter, Func):
                return self.call_func(getter, (index,), {}, owner, node)
            return library.inherited_item(self, owner, content, index, node)
        if isinstance(owner, Class):  # an enum's member by its name
            name = plain(index)
            member = self.class_member(owner, name) if isinstance(name, str) else None
            return member if member is not None else owner
        return self._computed(library.subscript, owner, index, node)

    def _sequence_item(
        self, owner: Value, content: Content | None, items: tuple[Value, ...] | None, index: Value
    ) -> Value:
        if items is None:
            assert isinstance(content, List)
            if isinstance(index, Slice):
                return owner
            return content.element or UNKNOWN
        if isinstance(index, Slice):
            low, high, step = (
                plain(part) if part is not None else None for part in (index.low, index.high, index.step)
            )
            if all(part is None or isinstance(part, int) for part in (low, high, step)) and step != 0:
                known_low, known_high = _given(index.low, low), _given(index.high, high)
                if known_low and known_high:
                    chosen = items[slice(low, high, step)]
                    return Tup(chosen) if isinstance(owner, Tup) else self.new(List(chosen))
            return self.new(List(None, alternatives([((), item) for item in items]) if items else None))
        at = plain(index)
        if isinstance(at, int) and -len(items) <= at < len(items):
            return items[at]
        if isinstance(at, int):
            return unknown("an index out of range")
        return alternatives([((), item) for item in items]) if items else UNKNOWN

    def _slice(self, node: ast.Slice) -> Value:
        low, high, step = (
            self.eval(part) if part is not None else None for part in (node.lower, node.upper, node.step)
        )
        return Slice(low, high, step)

    def _tuple(self, node: ast.Tuple) -> Value:
        return Tup(tuple(self._elements(node.elts)))

    def _list(self, node: ast.List | ast.Set) -> Value:
        return self.new(List(tuple(self._elements(node.elts))))

    def _elements(self, nodes: Sequence[ast.expr]) -> Iterator[Value]:
        for node in nodes:
            if isinstance(node, ast.Starred):
                value = self.eval(node.value)
                items = self.items(value)
                yield from items if items is not None else (self.element(value, node.value)[0],)
            else:
                yield self.eval(node)

    def _dict(self, node: ast.Dict) -> Value:
        items: dict[Any, Value] = {}
        rest: Value | None = None
        for key, value_node in zip(node.keys, node.values, strict=True):
            value = self.eval(value_node)
            if key is None:
                content = self.content(value)
                if isinstance(content, Dict):
                    items.update(content.items)
                    rest = rest or content.rest
                elif isinstance(value, Thing) and value.kind == "observation":
                    rest = value
                else:
                    rest = unknown("what is unpacked into a dict", value)
                continue
            name = library.key_of(self.eval(key))
            if isinstance(value, Image) and isinstance(name, str):
                value = replace(value, trail=(*value.trail, Hop(name, self.place(value_node))))
            if name is None:
                rest = value if rest is None else alternatives([((), rest), ((), value)])
            else:
                items[name] = value
        return self.new(Dict(items, rest))

    def _joined_text(self, node: ast.JoinedStr) -> Value:
        parts: list[str | Hole] = []
        filled: list[Const] = []
        trail: tuple[Hop, ...] = ()
        for part in node.values:
            if isinstance(part, ast.Constant):
                parts.append(str(part.value))
                continue
            assert isinstance(part, ast.FormattedValue)
            value = self.eval(part.value)
            spec = part.format_spec
            plain_spec = spec is None or (isinstance(spec, ast.JoinedStr) and self._is_plain(spec))
            formatted = not plain_spec or part.conversion not in (-1, 115)
            if isinstance(value, Alt) and len(value.options) > 1 and not formatted:
                return self._joined_alternatives(node)
            text = None if formatted else text_of(value)
            parts.extend(text.parts if text is not None else (Hole("?"),))
            trail = max(trail, text.trail if text is not None else (), key=len)
            if isinstance(value, Const) and value.at is not None and isinstance(value.value, str):
                filled.append(value)
        made = self.text(parts, node, trail)
        inner = [part.value for part in node.values if isinstance(part, ast.FormattedValue)]
        if isinstance(made, Text) and len(inner) == 1:
            return replace(made, filled=self.source.segment(inner[0]))
        return replace(made, at=filled[0].at) if isinstance(made, Const) and len(filled) == 1 else made

    @staticmethod
    def _is_plain(spec: ast.JoinedStr) -> bool:
        return all(isinstance(one, ast.Constant) and one.value in ("", "s") for one in spec.values)

    def _joined_alternatives(self, node: ast.JoinedStr) -> Value:
        """An f-string some of whose parts have alternatives: one text for each combination."""
        found: list[tuple[When, tuple[str | Hole, ...]]] = [((), ())]
        for part in node.values:
            value: Value = Const(part.value) if isinstance(part, ast.Constant) else UNKNOWN
            formatted = False
            if isinstance(part, ast.FormattedValue):
                value = self.eval(part.value)
                formatted = part.format_spec is not None
            longer: list[tuple[When, tuple[str | Hole, ...]]] = []
            for when, parts in found:
                for choice, option in options(value):
                    both = together(when, choice)
                    text = None if formatted else text_of(option)
                    if both is not None:
                        longer.append((both, (*parts, *(text.parts if text is not None else (Hole("?"),)))))
            found = longer[:16]
        return alternatives((when, self.text(list(parts), node, ())) for when, parts in found)

    def text(self, parts: Sequence[str | Hole], node: ast.AST, trail: tuple[Hop, ...]) -> Value:
        """A text of some parts: a constant where it has no hole."""
        merged = joined(parts)
        if not any(isinstance(part, Hole) for part in merged):
            return Const("".join(str(part) for part in merged), (self.source, node))
        return Text(merged, self.place(node), trail)

    def _binary(self, node: ast.BinOp) -> Value:
        return self.binary(node.op, self.eval(node.left), self.eval(node.right), node)

    def binary(self, op: ast.operator, left: Value, right: Value, node: ast.AST) -> Value:
        """An arithmetic operation."""
        if isinstance(left, Alt) or isinstance(right, Alt):
            return self.lift2(lambda a, b: self.binary(op, a, b, node), left, right)
        if isinstance(op, ast.Add | ast.Mod | ast.Div | ast.Mult):
            found = library.joined_texts(self, op, left, right, node)
            if found is not None:
                return found
        if isinstance(op, ast.BitOr) and isinstance(left, Ref) and isinstance(right, Ref):
            one, other = self.content(left), self.content(right)
            if isinstance(one, Dict) and isinstance(other, Dict):
                return self.new(Dict({**one.items, **other.items}, one.rest or other.rest))
        return self._computed(arrays.binary, op, left, right, node)

    def _unary(self, node: ast.UnaryOp) -> Value:
        value = self.eval(node.operand)
        if isinstance(node.op, ast.Not):
            truth = self.truth(value)
            if isinstance(truth, bool):
                return Const(not truth, *((value.at, value.origin) if isinstance(value, Const) else (None, "")))
            if truth is not None:
                return Num(tuple(not one for one in truth), "action")
            flipped = value.limits if isinstance(value, Unknown) else ()
            return Unknown("not known", taints(value), tuple(replace(one, op=_OPPOSITE[one.op]) for one in flipped))
        return self.lift(lambda one: arrays.unary(self, node.op, one, node), value)

    def _compare(self, node: ast.Compare) -> Value:
        left = self.eval(node.left)
        result: Value | None = None
        for op, right_node in zip(node.ops, node.comparators, strict=True):
            right = self.eval(right_node)
            if isinstance(left, Counter) or isinstance(right, Counter):
                found = self.compare(op, left, right, node)  # the bound keeps its alternatives
            else:
                found = self.lift2(lambda a, b, op=op: self.compare(op, a, b, node), left, right)  # type: ignore[misc]
            result = found if result is None else self.both(result, found)
            left = right
        return result or UNKNOWN

    def both(self, one: Value, other: Value) -> Value:
        """Of two conditions, that both hold."""
        first, second = self.truth(one), self.truth(other)
        if first is False or second is False:
            return Const(False)
        if first is True:
            return other
        if second is True:
            return one
        if first is not None and second is not None:
            return Num(tuple(a and b for a, b in zip(first, second, strict=True)), "action")
        limits = tuple(limit for value in (one, other) if isinstance(value, Unknown) for limit in value.limits)
        return Unknown("a condition", taints(one) | taints(other), limits)

    def compare(self, op: ast.cmpop, left: Value, right: Value, node: ast.AST) -> Value:
        """A comparison."""
        if isinstance(op, ast.Is | ast.IsNot):
            equal = self._is(left, right)
            if equal is None:
                return unknown("an identity", left, right)
            return Const(equal == isinstance(op, ast.Is))
        if isinstance(op, ast.In | ast.NotIn):
            found = library.contains(self, right, left)
            if found is None:
                return unknown("a membership", left, right)
            return Const(found == isinstance(op, ast.In))
        name = _COMPARISONS[type(op)]
        for counter, bound, turned in ((left, right, name), (right, left, _TURNED[name])):
            if isinstance(counter, Counter):
                return Unknown("a counter", frozenset(), (Limit(turned, counter, bound),))
        if isinstance(left, Const) and isinstance(right, Const):
            try:
                return Const(bool(_OPERATORS[name](left.value, right.value)), None, left.origin or right.origin)
            except Exception:  # noqa: BLE001 - of the program's own values
                return UNKNOWN
        if isinstance(left, Num) or isinstance(right, Num):
            return arrays.comparison(_OPERATORS[name], left, right)
        if name in ("==", "!=") and same(left, right) and not isinstance(left, Unknown):
            return Const(name == "==")
        return unknown("a comparison", left, right)

    def _is(self, left: Value, right: Value) -> bool | None:
        for one, other in ((left, right), (right, left)):
            if isinstance(one, Const) and one.value is None:
                if isinstance(other, Const):
                    return other.value is None
                return None if isinstance(other, Unknown | Alt) else False
        if isinstance(left, Const) and isinstance(right, Const):
            return left.value is right.value or (left.value == right.value and type(left.value) is type(right.value))
        return True if same(left, right) and not isinstance(left, Unknown) else None

    def _bool(self, node: ast.BoolOp) -> Value:
        result = self.eval(node.values[0])
        for other_node in node.values[1:]:
            truth = self.truth(result)
            if isinstance(node.op, ast.And):
                if truth is False:
                    return result
                other = self.eval(other_node)
                if truth is True:
                    result = other
                elif isinstance(result, Alt):
                    kept = [(w, o if self.truth(o) is False else other) for w, o in result.options]
                    result = alternatives(kept)
                else:
                    result = self.both(result, other)
            else:
                if truth is True:
                    return result
                other = self.eval(other_node)
                if truth is False:
                    result = other
                elif isinstance(result, Alt):
                    result = alternatives([(w, other if self.truth(o) is False else o) for w, o in result.options])
                elif truth is not None:
                    second = self.truth(other)
                    result = (
                        Num(tuple(a or b for a, b in zip(truth, second, strict=True)), "action")
                        if isinstance(second, tuple)
                        else unknown("a condition", result, other)
                    )
                elif isinstance(result, Unknown) and not isinstance(other, Unknown | Const):
                    result = alternatives([((), result), ((), other)])
                else:
                    limits = tuple(
                        limit for value in (result, other) if isinstance(value, Unknown) for limit in value.limits
                    )
                    result = Unknown("a condition", taints(result) | taints(other), limits)
        return result

    def _ternary(self, node: ast.IfExp) -> Value:
        value = self.eval(node.test)
        truth = self.truth(value)
        self._decided(node.test, value)
        suite = self._suite_asked(node.test)
        if suite is not None and (not isinstance(suite[1], Const) or suite[1].origin):
            truth = None
        if isinstance(truth, bool):
            return self.eval(node.body if truth else node.orelse)
        yes, no = self._choices(node.test)
        first = self._eval_under(node.test, value, True, node.body)
        second = self._eval_under(node.test, value, False, node.orelse)
        if truth is not None:
            chosen = select(truth, first, second)
            if chosen is not None:
                return chosen
        pair: list[tuple[When, Value]] = [(yes, first), (no, second)]
        return alternatives(reversed(pair) if self._default_is_other(node.test) else pair)

    def _eval_under(self, test: ast.expr, value: Value, holds: bool, node: ast.expr) -> Value:
        """One side of a conditional expression; what happens in it happens under its condition."""
        self.conditions.append(Condition(test, self.source, holds, value))
        try:
            return self.eval(node)
        finally:
            self.conditions.pop()

    def _lambda(self, node: ast.Lambda) -> Value:
        frame = self.frames[-1]
        return Func(node, frame.source, frame.scopes)

    def _walrus(self, node: ast.NamedExpr) -> Value:
        value = self.eval(node.value)
        self.assign(node.target, value)
        return value

    def _await(self, node: ast.Await) -> Value:
        return self.eval(node.value)

    def _yield(self, node: ast.Yield) -> Value:
        self.frames[-1].yields.append(self.eval(node.value) if node.value is not None else NONE)
        return UNKNOWN

    def _yield_from(self, node: ast.YieldFrom) -> Value:
        self.frames[-1].yields.append(self.element(self.eval(node.value), node.value)[0])
        return UNKNOWN

    def _starred(self, node: ast.Starred) -> Value:
        return self.eval(node.value)

    def _list_comprehension(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp) -> Value:
        found: list[Value] = []
        complete = self._comprehend(node.generators, lambda: found.append(self.eval(node.elt)))
        if complete:
            return self.new(List(tuple(found)))
        return self.new(List(None, alternatives([((), item) for item in found]) if found else None))

    def _dict_comprehension(self, node: ast.DictComp) -> Value:
        found: list[tuple[Value, Value]] = []
        self._comprehend(node.generators, lambda: found.append((self.eval(node.key), self.eval(node.value))))
        items: dict[Any, Value] = {}
        rest: Value | None = None
        for key, value in found:
            name = library.key_of(key)
            if name is None:
                rest = value
            else:
                items[name] = value
        return self.new(Dict(items, rest))

    def _comprehend(self, generators: Sequence[ast.comprehension], then: Callable[[], object]) -> bool:
        """Go through a comprehension; whether every item was gone through."""
        frame = self.frames[-1]
        scope = self.new(Scope({})).id
        self.frames.append(
            _Frame(
                frame.source,
                (scope, *frame.scopes),
                frame.func,
                frame.self_value,
                frame.returns,
                yields=frame.yields,
            )
        )
        try:
            return self._generate(generators, then)
        finally:
            self.frames.pop()

    def _generate(self, generators: Sequence[ast.comprehension], then: Callable[[], object]) -> bool:
        if not generators:
            then()
            return True
        first, rest = generators[0], generators[1:]
        iterable = self.eval(first.iter)
        items = self.items(iterable)
        complete = items is not None and len(items) <= 4 * UNROLLED
        if not complete:
            items = (self.element(iterable, first.iter)[0],)
        for item in items or ():
            self.assign(first.target, item)
            truths = [self.truth(self.eval(test)) for test in first.ifs]
            if any(truth is False for truth in truths):
                continue
            complete = complete and all(truth is True for truth in truths)
            complete = self._generate(rest, then) and complete
        return complete

    # -- what values are -------------------------------------------------------------------------------------------

    def truth(self, value: Value) -> bool | tuple[bool, ...] | None:
        """Whether a condition holds: known, known world by world, or not known."""
        if isinstance(value, Const):
            return bool(value.value)
        if isinstance(value, Num):
            return arrays.truth(value)
        content = self.content(value)
        if isinstance(content, List):
            return bool(content.items) if content.items is not None else None
        if isinstance(content, Dict):
            return True if content.items else None if content.rest is not None else False
        if isinstance(value, Tup):
            return bool(value.items)
        if isinstance(value, Text):
            return True if any(isinstance(part, str) and part for part in value.parts) else None
        if isinstance(content, Obj) or isinstance(value, Func | Class | Module | Bound):
            return True
        if isinstance(value, Alt):
            found = {self.truth(option) for _, option in value.options}
            if len(found) == 1:
                return found.pop()
        return None

    def lift(self, do: Callable[[Value], Value], value: Value, keep_none: bool = False) -> Value:
        """Do something to every alternative; None is left out, as nothing can be done to it."""
        if not isinstance(value, Alt):
            return do(value)
        kept = [
            (when, option)
            for when, option in value.options
            if keep_none or not (isinstance(option, Const) and option.value is None)
        ]
        return alternatives([(when, do(option)) for when, option in kept])

    def lift2(self, do: Callable[[Value, Value], Value], left: Value, right: Value) -> Value:
        """The same for two values; choices that exclude each other are left out."""
        if not isinstance(left, Alt) and not isinstance(right, Alt):
            return do(left, right)
        found = []
        for when, one in options(left):
            for other_when, other in options(right):
                both = together(when, other_when)
                if both is not None:
                    found.append((both, do(one, other)))
        return alternatives(found[:32])

    def items(self, value: Value) -> tuple[Value, ...] | None:
        """Every item of a sequence; None where their number is not known."""
        if isinstance(value, Tup):
            return value.items
        content = self.content(value)
        if isinstance(content, List):
            return content.items
        if isinstance(content, Dict):
            return tuple(Const(key) for key in content.items) if content.rest is None else None
        if isinstance(value, Num):
            return arrays.rows(value)
        if isinstance(value, Class):  # an enum
            targets = [s.targets[0] for s in value.node.body if isinstance(s, ast.Assign)]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
            return tuple(self.class_member(value, name) or UNKNOWN for name in names)
        if isinstance(value, Thing) and value.kind == "sequence":
            found = value.info.get("items")
            return found if found is None else tuple(found)
        if isinstance(value, Thing) and value.kind == "benchmarks":
            return tuple(Const(name) for name in library.SUITES)
        if isinstance(value, Const) and isinstance(value.value, str) and len(value.value) <= UNROLLED:
            return tuple(Const(letter) for letter in value.value)
        return None

    def element(self, value: Value, node: ast.expr) -> tuple[Value, Value | None]:
        """Any item of a sequence, and how many there are, where that is known."""
        if isinstance(value, Thing) and value.kind == "sequence":
            return value.info.get("element", UNKNOWN), value.info.get("count")
        items = self.items(value)
        if items is not None:
            found = alternatives([((), item) for item in items]) if items else UNKNOWN
            suites = [item for item in items if isinstance(item, Const) and library.is_suite(item.value)]
            if items and len(suites) == len(items):
                found = alternatives([((("suite", item.value),), item) for item in suites])
            return found, Const(len(items))
        content = self.content(value)
        if isinstance(content, List):
            return content.element or UNKNOWN, None
        if isinstance(value, Alt):
            parts = [self.element(option, node)[0] for _, option in value.options]
            return alternatives([((), part) for part in parts]), None
        return library.element(self, value, node)

    def unpack(self, value: Value, wanted: int, node: ast.AST, starred: int | None = None) -> tuple[Value, ...]:
        """The parts of a value that is assigned to several targets."""
        if isinstance(value, Alt):
            parts = [(when, self.unpack(option, wanted, node, starred)) for when, option in value.options]
            parts = [
                (w, p)
                for (w, p), (_, o) in zip(parts, value.options, strict=True)
                if plain(o) is not None or not isinstance(o, Const)
            ]
            return tuple(alternatives([(when, part[i]) for when, part in parts]) for i in range(wanted))
        special = library.unpacked(self, value, wanted, node)
        if special is not None:
            return special
        items = self.items(value)
        if items is not None and starred is not None and len(items) >= wanted - 1:
            behind = wanted - starred - 1
            middle = self.new(List(items[starred : len(items) - behind]))
            return (*items[:starred], middle, *items[len(items) - behind :])
        if items is not None and len(items) == wanted:
            return items
        if items is None:
            element, _ = self.element(value, ast.Constant(None))
            if not isinstance(element, Unknown):
                return (element,) * wanted
        return (unknown("a part of something", value),) * wanted

    # -- calls -----------------------------------------------------------------------------------------------------

    def _call(self, node: ast.Call) -> Value:
        if isinstance(node.func, ast.Name) and node.func.id == "super":
            return self._super()
        func = self.eval(node.func)
        args: list[Value] = []
        kwargs: dict[str, Value] = {}
        for argument in node.args:
            if isinstance(argument, ast.Starred):
                items = self.items(self.eval(argument.value))
                args.extend(items if items is not None else (Unknown("several arguments"),))
            else:
                args.append(self.eval(argument))
        for keyword in node.keywords:
            value = self.eval(keyword.value)
            if keyword.arg is not None:
                kwargs[keyword.arg] = value
                continue
            content = self.content(value)
            if isinstance(content, Dict):
                kwargs.update({key: item for key, item in content.items.items() if isinstance(key, str)})
            else:
                kwargs["**"] = value
        result = self.call(func, tuple(args), kwargs, node)
        self._written_through(node)
        return result

    def _super(self) -> Value:
        frame = self.frames[-1]
        if frame.func is None or frame.func.owner is None or frame.self_value is None:
            return UNKNOWN
        return Thing("super", info={"owner": frame.func.owner, "self": frame.self_value})

    def _written_through(self, node: ast.Call) -> None:
        """What the call wrote into arrays that it was given becomes what their names hold."""
        if self._pending_writes:
            for argument, value in self._pending_writes:
                if isinstance(argument, ast.Name | ast.Attribute | ast.Subscript):
                    self._write_back(argument, value)
            self._pending_writes = []

    def call(self, func: Value, args: tuple[Value, ...], kwargs: dict[str, Value], node: ast.AST) -> Value:
        """Call something."""
        if isinstance(func, Alt):
            return self._call_alternatives(func, args, kwargs, node)
        if isinstance(func, Func):
            return self.call_func(func, args, kwargs, None, node)
        if isinstance(func, Bound):
            if func.func is not None:
                return self._asked(func.owner, func.name, func.func, args, kwargs, node)
            return self._computed(library.call_method, func.owner, func.name, args, kwargs, node)
        if isinstance(func, Class):
            return self.instantiate(func, args, kwargs, node)
        if isinstance(func, Partial):
            return self.call(func.func, (*func.args, *args), {**func.kwargs, **kwargs}, node)
        if isinstance(func, Ext):
            return self._computed(library.call, func.name, args, kwargs, node)
        content = self.content(func)
        if isinstance(content, Obj):
            for name in ("__call__", "forward"):
                member = self.class_member(content.cls, name)
                if isinstance(member, Func):
                    return self._asked(func, "forward", member, args, kwargs, node)
        return self._computed(library.call_value, func, args, kwargs, node)

    def _asked(
        self, owner: Value, name: str, func: Func, args: tuple[Value, ...], kwargs: dict[str, Value], node: ast.AST
    ) -> Value:
        """Call a method of the program. What looks like a query, and leads to none that is known, is one itself."""
        before = len(self.events)
        result = self.call_func(func, args, kwargs, owner, node)
        if name not in library.QUERIES and name != "forward":
            return result
        if any(event.kind in ("query", "step") for event in self.events[before:]) or not isinstance(
            result, Unknown | Alt
        ):
            return result
        return library.own_query(self, owner, name, args, kwargs, node) or result

    def write_later(self, target: ast.expr, value: Value) -> None:
        """Have what a call wrote into an array become what its name holds."""
        self._pending_writes = [*self._pending_writes, (target, value)]

    def _call_alternatives(self, func: Alt, args: tuple[Value, ...], kwargs: dict[str, Value], node: ast.AST) -> Value:
        base, ends = self.heap, []
        for when, option in func.options:
            if isinstance(option, Const):
                continue
            self.heap = dict(base)
            self.whens.append(when)
            self.masks.append(None)
            value = self.call(option, args, dict(kwargs), node)
            self.whens.pop()
            self.masks.pop()
            ends.append((when, value, self.heap))
        if not ends:
            self.heap = base
            return UNKNOWN
        merged = ends[0][2]
        for when, _, heap in ends[1:]:
            merged = self.join(merged, heap, (), when)
        self.heap = merged
        return alternatives([(when, value) for when, value, _ in ends])

    def call_func(
        self,
        func: Func,
        args: tuple[Value, ...],
        kwargs: dict[str, Value],
        self_value: Value | None,
        node: ast.AST,
        lenient: bool = False,
    ) -> Value:
        """Follow a call into a function of the program."""
        again = sum(1 for frame in self.frames if frame.func is not None and frame.func.node is func.node)
        if len(self.frames) > DEEPEST or again >= 2:
            return unknown("calls itself", *args, *kwargs.values())
        self.visited.add(id(func.node))
        scope = self.new(Scope({})).id
        frame = _Frame(func.source, (scope, *func.scopes), func, self_value)
        frame.depth_of_conditions = len(self.whens)
        names = self._bind_arguments(func, scope, args, kwargs, self_value, lenient)
        if not lenient:
            self.calls.append((self.source, node))
        self.frames.append(frame)
        held, self.breaks, self.continues = (self.breaks, self.continues), [], []
        before = len(self.events)
        try:
            if isinstance(func.node, ast.Lambda):
                return self.eval(func.node.body)
            if self._block(func.node.body):
                frame.returns.append((self.heap, NONE, (), None))
            elif (
                len(frame.returns) > 1
                and all(plain(value) is True for _, value, _, _ in frame.returns)
                and any(event.kind == "step" for event in self.events[before:])
            ):
                self.event("always", frame.returned_at[-1])
            self._never(frame)
            result = self._result(frame)
        finally:
            self.breaks, self.continues = held
            self.frames.pop()
            if not lenient:
                self.calls.pop()
        if frame.yields:
            return self.new(List(None, alternatives([((), value) for value in frame.yields])))
        if frame.written and isinstance(node, ast.Call):
            self._note_writes(frame, scope, names, node, self_value)
        return result

    def _never(self, frame: _Frame) -> None:
        """Write down that a function answers with a success that the environment never states, and nothing else."""
        values = [value for _, value, _, _ in frame.returns]
        states = [value for value in values if isinstance(value, Const) and value.origin == library.NEVER]
        if states and all(isinstance(value, Const) and not value.value for value in values):
            self.event("success", frame.returned_at[-1], name=f"answer {id(frame)}", never=True, value=states[0])

    def _result(self, frame: _Frame) -> Value:
        if not frame.returns:
            return UNKNOWN
        heap, value, when, _ = frame.returns[-1]
        found: list[tuple[When, Value]] = [(when, value)]
        for other_heap, other, other_when, other_mask in reversed(frame.returns[:-1]):
            heap = self.join(other_heap, heap, other_when, (), other_mask)
            chosen = select(other_mask, other, found[0][1]) if other_mask is not None and len(found) == 1 else None
            if chosen is not None:
                found = [(other_when, chosen)]
            else:
                found.insert(0, (other_when, other))
        self.heap = dict(heap)
        return alternatives(found)

    def _bind_arguments(
        self,
        func: Func,
        scope: int,
        args: tuple[Value, ...],
        kwargs: dict[str, Value],
        self_value: Value | None,
        lenient: bool,
    ) -> list[str]:
        """Bind parameters; the names of the positional ones, in order."""
        spec = func.node.args
        positional = [*spec.posonlyargs, *spec.args]
        names = [one.arg for one in positional]
        given: dict[str, Value] = {}
        if self_value is not None and positional:
            args = (self_value, *args)
        given.update(zip(names, args, strict=False))
        if spec.vararg is not None:
            given[spec.vararg.arg] = Tup(tuple(args[len(names) :]))
        extra = {key: value for key, value in kwargs.items() if key not in names and key != "**"}
        given.update({key: value for key, value in kwargs.items() if key in names})
        for one in spec.kwonlyargs:
            if one.arg in extra:
                given[one.arg] = extra.pop(one.arg)
        if spec.kwarg is not None:
            given[spec.kwarg.arg] = self.new(Dict(extra, UNKNOWN if "**" in kwargs else None))
        defaults = dict(zip(names[len(names) - len(spec.defaults) :], spec.defaults, strict=True))
        defaults.update({one.arg: d for one, d in zip(spec.kwonlyargs, spec.kw_defaults, strict=True) if d is not None})
        for one in (*positional, *spec.kwonlyargs):
            if one.arg in given:
                continue
            if "**" in kwargs:
                given[one.arg] = unknown("given by **", kwargs["**"])
            elif one.arg in defaults:
                default = self.eval_in(defaults[one.arg], func.source, func.scopes)
                if lenient and not (isinstance(default, Const) and isinstance(default.value, str)):
                    default = unknown("a parameter")
                given[one.arg] = self.field_default(default, func.owner, one.arg) if func.owner else default
            else:
                given[one.arg] = self._hydra(func) or self._annotated_default(one, func)
        self.heap[scope] = Scope(given)
        return names

    def _hydra(self, func: Func) -> Value | None:
        """The configuration that hydra gives to a function; None where it gives none, or it is not found."""
        for decorator in getattr(func.node, "decorator_list", ()):
            if isinstance(decorator, ast.Call) and isinstance(decorator.func, ast.Attribute):
                if decorator.func.attr != "main":
                    continue
                named = {one.arg: one.value.value for one in decorator.keywords if isinstance(one.value, ast.Constant)}
                folder, name = named.get("config_path"), named.get("config_name")
                folder = folder if isinstance(folder, str) else "."
                if isinstance(name, str):
                    file = name if name.endswith((".yaml", ".yml")) else f"{name}.yaml"
                    found = library.configuration(self, Const(f"{folder}/{file}"))
                    return found if isinstance(found, Ref) else None
        return None

    def _annotated_default(self, parameter: ast.arg, func: Func) -> Value:
        """What a parameter is that nobody gives: an object of its class with its defaults, if it is a configuration."""
        if parameter.annotation is not None and not isinstance(parameter.annotation, ast.Constant):
            found = self.eval_in(parameter.annotation, func.source, func.scopes)
            if isinstance(found, Class) and is_config(found):
                return self.instantiate(found, (), {}, parameter)
        return unknown(f"parameter {parameter.arg}")

    def _note_writes(
        self, frame: _Frame, scope: int, names: list[str], node: ast.Call, self_value: Value | None
    ) -> None:
        found = self.heap.get(scope)
        if not isinstance(found, Scope):
            return
        shift = 1 if self_value is not None else 0
        notes = []
        for position, argument in enumerate(node.args):
            name = names[position + shift] if position + shift < len(names) else ""
            if name in frame.written:
                notes.append((argument, found.names[name]))
        for keyword in node.keywords:
            if keyword.arg in frame.written:
                notes.append((keyword.value, found.names[keyword.arg]))
        self._pending_writes = notes

    def instantiate(self, cls: Class, args: tuple[Value, ...], kwargs: dict[str, Value], node: ast.AST) -> Value:
        """Make an object of a class of the program."""
        base = self.library_base(cls)
        if base.rpartition(".")[2] in ("Enum", "StrEnum", "IntEnum"):
            return args[0] if args else UNKNOWN
        made = self.new(Obj(cls, {}, base))
        init = self.class_member(cls, "__init__")
        if isinstance(init, Func):
            self.call_func(init, args, kwargs, made, node)
            return made
        attrs: dict[str, Value] = dict(kwargs)
        attrs.update(zip(fields(cls), args, strict=False))
        self.heap[made.id] = Obj(cls, attrs, base)
        library.constructed(self, made, base, args, kwargs, node)
        after = self.class_member(cls, "__post_init__")
        if isinstance(after, Func):
            self.call_func(after, (), {}, made, node)
        return made


def _merge(
    one: Mapping[Any, Value], other: Mapping[Any, Value], both: Callable[[Value | None, Value | None], Value]
) -> dict[Any, Value]:
    merged = dict(one)
    for key, value in other.items():
        mine = one.get(key)
        if mine is not value:
            merged[key] = both(mine, value)
    return merged


def bindings(source: SourceFile) -> Mapping[str, ast.stmt]:
    """Name -> the statement of the module that binds it; of several the last, of a branch the first."""
    found = _BINDINGS.get(source)
    if found is None:
        names: dict[str, ast.stmt] = {}
        _collect(source.tree.body, names, True)
        found = _BINDINGS[source] = names
    return found


_BINDINGS: weakref.WeakKeyDictionary[SourceFile, Mapping[str, ast.stmt]] = weakref.WeakKeyDictionary()


def _collect(body: Sequence[ast.stmt], names: dict[str, ast.stmt], last: bool) -> None:
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names[statement.name] = statement
        elif isinstance(statement, ast.Import | ast.ImportFrom):
            for alias in statement.names:
                bound = alias.asname or (alias.name.split(".")[0] if isinstance(statement, ast.Import) else alias.name)
                names.setdefault(bound, statement)
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            for target in targets:
                for one in ast.walk(target) if isinstance(target, ast.Tuple | ast.List) else (target,):
                    if isinstance(one, ast.Name) and (last or one.id not in names):
                        names[one.id] = statement
        elif isinstance(statement, ast.If):
            if _is_name(statement.test) and statement.test.id == "TYPE_CHECKING":  # type: ignore[attr-defined]
                continue
            _collect(statement.body, names, False)
            _collect(statement.orelse, names, False)
        elif isinstance(statement, ast.Try):
            _collect(statement.body, names, False)
            for handler in statement.handlers:
                _collect(handler.body, names, False)
        elif isinstance(statement, ast.With):
            _collect(statement.body, names, False)


def counted(node: ast.For | ast.AsyncFor | ast.While) -> list[ast.expr]:
    """What a loop's body counts in: names and attributes with `+= ...` or `x = x + ...`."""
    cached: list[ast.expr] | None = getattr(node, "_counted", None)
    if cached is not None:
        return cached
    found: dict[str, ast.expr] = {}
    for inner in _within(node.body):
        if isinstance(inner, ast.AugAssign) and isinstance(inner.target, ast.Name | ast.Attribute):
            found[ast.dump(inner.target)] = _as_load(inner.target)
        elif isinstance(inner, ast.Assign) and isinstance(inner.value, ast.BinOp) and len(inner.targets) == 1:
            target = inner.targets[0]
            if isinstance(target, ast.Name) and any(
                isinstance(side, ast.Name) and side.id == target.id for side in (inner.value.left, inner.value.right)
            ):
                found[ast.dump(target)] = _as_load(target)
    result = list(found.values())
    node._counted = result  # type: ignore[union-attr]
    return result


def _within(body: Sequence[ast.stmt]) -> Iterator[ast.AST]:
    waiting: list[ast.AST] = list(body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            continue
        yield node
        waiting.extend(ast.iter_child_nodes(node))


def _as_load(target: ast.expr) -> ast.expr:
    if isinstance(target, ast.Name):
        return ast.copy_location(ast.Name(target.id, ast.Load()), target)
    if isinstance(target, ast.Attribute):
        return ast.copy_location(ast.Attribute(target.value, target.attr, ast.Load()), target)
    if isinstance(target, ast.Subscript):
        return ast.copy_location(ast.Subscript(target.value, target.slice, ast.Load()), target)
    return target


def fields(cls: Class) -> list[str]:
    """Names of the fields of a dataclass, its bases' first."""
    names: list[str] = []
    for base in cls.bases:
        if isinstance(base, Class):
            names += [name for name in fields(base) if name not in names]
    for statement in cls.node.body:
        target = statement.target if isinstance(statement, ast.AnnAssign) else None
        if isinstance(target, ast.Name) and target.id not in names:
            names.append(target.id)
    return names


def is_config(cls: Class) -> bool:
    """Whether the objects of a class are made to be configured: a dataclass, or annotated fields and no methods."""
    if any("dataclass" in ast.dump(one) or "attr" in ast.dump(one) for one in cls.node.decorator_list):
        return True
    has_fields = any(isinstance(one, ast.AnnAssign) for one in cls.node.body)
    has_init = any(isinstance(one, ast.FunctionDef) and one.name == "__init__" for one in cls.node.body)
    if has_fields and not has_init:
        return True
    return any(isinstance(base, Class) and is_config(base) for base in cls.bases)


def _is_value(found: Any) -> bool:
    return isinstance(found, Unknown | Const | Text | Image | Num | Thing | Tup | Alt)


def _given(part: Value | None, found: Any) -> bool:
    """Whether a bound of a slice is known, be it that there is none."""
    return part is None or found is not None or (isinstance(part, Const) and part.value is None)


def _fills(statement: ast.stmt) -> bool:
    """Whether a module's statement fills a container or registers something."""
    if isinstance(statement, ast.Assign):
        return all(isinstance(target, ast.Subscript) for target in statement.targets)
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        func = statement.value.func
        name = func.attr if isinstance(func, ast.Attribute) else func.id if isinstance(func, ast.Name) else ""
        return name in ("update", "append") or "register" in name
    return False


def _steps(node: ast.For | ast.AsyncFor) -> bool:
    """Whether a loop's own body steps or resets something: then it is gone through once, however short it is."""
    return any(isinstance(one, ast.Attribute) and one.attr in ("step", "reset") for one in _within(node.body))


def _named(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _is_name(node: ast.AST) -> bool:
    return isinstance(node, ast.Name)


def _decorated(node: ast.AST, *names: str) -> bool:
    return any(
        (isinstance(one, ast.Name) and one.id in names) or (isinstance(one, ast.Attribute) and one.attr in names)
        for one in getattr(node, "decorator_list", ())
    )


def _is_property(node: ast.AST) -> bool:
    return _decorated(node, "property", "cached_property")


def _is_static(node: ast.AST) -> bool:
    return _decorated(node, "staticmethod")


def _is_class_method(node: ast.AST) -> bool:
    return _decorated(node, "classmethod")


def _ends(call: ast.Call) -> bool:
    """Whether a call ends the program."""
    func = call.func
    return (isinstance(func, ast.Name) and func.id in ("exit", "quit")) or (
        isinstance(func, ast.Attribute)
        and func.attr in ("exit", "_exit")
        and isinstance(func.value, ast.Name)
        and func.value.id in ("sys", "os")
    )


def _leaves(body: Sequence[ast.stmt]) -> bool:
    """Whether a branch ends the loop that it is in."""
    return bool(body) and isinstance(body[-1], ast.Break | ast.Return)


_COMPARISONS = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
}
_OPERATORS: Mapping[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_TURNED = {"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_OPPOSITE = {"==": "!=", "!=": "==", "<": ">=", "<=": ">", ">": "<=", ">=": "<"}

_STATEMENTS: Mapping[type, Callable[..., bool]] = {
    ast.Expr: Interpreter._expression_statement,
    ast.Assign: Interpreter._assign,
    ast.AnnAssign: Interpreter._annotated,
    ast.AugAssign: Interpreter._augmented,
    ast.Return: Interpreter._return,
    ast.Raise: Interpreter._raise,
    ast.Break: Interpreter._break,
    ast.Continue: Interpreter._continue,
    ast.If: Interpreter._if,
    ast.For: Interpreter._for,
    ast.AsyncFor: Interpreter._for,
    ast.While: Interpreter._while,
    ast.Try: Interpreter._try,
    ast.With: Interpreter._with,
    ast.AsyncWith: Interpreter._with,
    ast.FunctionDef: Interpreter._def,
    ast.AsyncFunctionDef: Interpreter._def,
    ast.ClassDef: Interpreter._class,
    ast.Global: Interpreter._global,
    ast.Import: Interpreter._import,
    ast.ImportFrom: Interpreter._import_from,
    ast.Match: Interpreter._match,
}

_EXPRESSIONS: Mapping[type, Callable[..., Value]] = {
    ast.Constant: Interpreter._constant,
    ast.Name: Interpreter._name,
    ast.Attribute: Interpreter._attribute,
    ast.Subscript: Interpreter._subscript,
    ast.Slice: Interpreter._slice,
    ast.Tuple: Interpreter._tuple,
    ast.List: Interpreter._list,
    ast.Set: Interpreter._list,
    ast.Dict: Interpreter._dict,
    ast.JoinedStr: Interpreter._joined_text,
    ast.BinOp: Interpreter._binary,
    ast.UnaryOp: Interpreter._unary,
    ast.Compare: Interpreter._compare,
    ast.BoolOp: Interpreter._bool,
    ast.IfExp: Interpreter._ternary,
    ast.Lambda: Interpreter._lambda,
    ast.NamedExpr: Interpreter._walrus,
    ast.Await: Interpreter._await,
    ast.Yield: Interpreter._yield,
    ast.YieldFrom: Interpreter._yield_from,
    ast.Starred: Interpreter._starred,
    ast.ListComp: Interpreter._list_comprehension,
    ast.SetComp: Interpreter._list_comprehension,
    ast.GeneratorExp: Interpreter._list_comprehension,
    ast.DictComp: Interpreter._dict_comprehension,
    ast.Call: Interpreter._call,
}
