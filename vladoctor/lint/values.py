"""What the interpreter computes with: values that stand for what a variable can hold.

Pictures are followed as what was done to a camera's frame, texts as parts with holes, and what a model answers as
numbers: a handful of sample answers ("worlds") that every arithmetic step is really done to, so that a rule for the
gripper or a decoder of tokens is known by what it does and not by how it is written. Everything is immutable; lists,
dicts, objects and scopes live on a heap (`Heap`) and are replaced when they change, so that two branches can be
followed from one state and joined.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from vladoctor.lint.facts import ImageWay
from vladoctor.places import Hop, Place

if TYPE_CHECKING:
    from vladoctor.lint.sources import SourceFile

WORLDS = 8
"""How many sample answers of a model are followed at once."""

MOST = 10
"""Alternatives of one value that are kept apart; more are not known."""

When = tuple[tuple[str, str], ...]
"""Under which choices a value holds: (what is asked, the answer) pairs."""


@dataclass(frozen=True, eq=False)
class Limit:
    """A counter compared with a bound, the counter on the left."""

    op: str
    counter: Counter
    bound: Value


@dataclass(frozen=True, eq=False)
class Unknown:
    """Not known.

    Attributes:
        taints: what it was made of ("action", "image", "instruction", "observation", ...).
        limits: of a condition, the counters that it compares.
    """

    why: str = ""
    taints: frozenset[str] = frozenset()
    limits: tuple[Limit, ...] = ()


@dataclass(frozen=True, eq=False)
class Const:
    """A constant.

    Attributes:
        at: where its literal stands.
        origin: the option whose default it is ("--center_crop"); empty where it is a plain literal.
        choices: of an option, what it can be.
    """

    value: Any
    at: tuple[SourceFile, ast.AST] | None = None
    origin: str = ""
    choices: tuple[str, ...] = ()

    @property
    def place(self) -> Place | None:
        return self.at[0].place(self.at[1]) if self.at else None


@dataclass(frozen=True)
class Hole:
    """What a text contains that is not in the source.

    Attributes:
        kind: "instruction", "bddl_file", "problem_folder", "folder", or "?" for anything.
        lower: made lower case. clean: it is so by itself, and without punctuation.
        case: another case that it was put in, "capitalize".
    """

    kind: str
    lower: bool = False
    clean: bool = False
    case: str = ""


@dataclass(frozen=True, eq=False)
class Text:
    """A text with holes. `filled`: of an f-string with one expression, the expression as the source has it."""

    parts: tuple[str | Hole, ...]
    place: Place | None = None
    trail: tuple[Hop, ...] = ()
    filled: str = ""

    @property
    def holes(self) -> tuple[Hole, ...]:
        return tuple(part for part in self.parts if isinstance(part, Hole))


@dataclass(frozen=True, eq=False)
class Image:
    """A picture.

    Attributes:
        axes: letters of its axes in order: H rows, W columns, C channels, N anything else.
        size: (height, width) where known.
        scaled: its numbers are no longer 0..255.
    """

    way: ImageWay
    axes: str = "HWC"
    trail: tuple[Hop, ...] = ()
    size: tuple[int, int] | None = None
    scaled: bool = False


@dataclass(frozen=True, eq=False)
class Num:
    """Numbers, one numpy array for each world.

    Attributes:
        origin: what they come from: "action", "token", "state", "statistics", "" for constants.
        stats: where statistics were mixed in.
        rows: (rows that a query answered, rows of them that are executed) of what comes from a chunk.
        native: the model's own answer that it was made of, as it was before anything was done to it.
        whole: of ids that were decoded, the samples before single elements were touched.
    """

    samples: tuple[Any, ...]
    origin: str = ""
    trail: tuple[Hop, ...] = ()
    stats: Place | None = None
    rows: tuple[int | None, int | None] | None = None
    native: Answer | None = None
    place: Place | None = None
    whole: tuple[Any, ...] | None = None

    @property
    def uniform(self) -> bool:
        first = self.samples[0]
        return all(one is first for one in self.samples)


@dataclass(frozen=True, eq=False)
class Answer:
    """What a query answered: the samples before anything was done to them, and the query's event."""

    samples: tuple[Any, ...]
    kind: str
    query: Any = None


@dataclass(frozen=True, eq=False)
class Counter:
    """A number that changes from one iteration to the next. `bound`: of a range, where it ends."""

    start: float = 0
    bound: Value | None = None


@dataclass(frozen=True, eq=False)
class Tup:
    """A tuple."""

    items: tuple[Value, ...]


@dataclass(frozen=True, eq=False)
class Slice:
    """A slice, each part None where it is left out."""

    low: Value | None = None
    high: Value | None = None
    step: Value | None = None


@dataclass(frozen=True, eq=False)
class Ref:
    """Something on the heap."""

    id: int


@dataclass(frozen=True, eq=False)
class Alt:
    """One of several, the default first."""

    options: tuple[tuple[When, Value], ...]


@dataclass(frozen=True, eq=False)
class Ext:
    """A name of a library: "numpy.flip"."""

    name: str


@dataclass(frozen=True, eq=False)
class Thing:
    """An object of a library, known by its kind: "env", "observation", "model", "processor", "suite", "task", ..."""

    kind: str
    name: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)
    id: int = 0


@dataclass(frozen=True, eq=False)
class Func:
    """A function of the program, with the scopes that it sees, the innermost first."""

    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
    source: SourceFile
    scopes: tuple[int, ...]
    owner: Class | None = None


@dataclass(frozen=True, eq=False)
class Class:
    """A class of the program."""

    node: ast.ClassDef
    source: SourceFile
    scopes: tuple[int, ...]
    bases: tuple[Value, ...] = ()


@dataclass(frozen=True, eq=False)
class Bound:
    """A method of something: of an object of the program (`func`), or of anything else by its name."""

    owner: Value
    name: str
    func: Func | None = None


@dataclass(frozen=True, eq=False)
class Partial:
    """A function of which some arguments are given already."""

    func: Value
    args: tuple[Value, ...]
    kwargs: Mapping[str, Value]


@dataclass(frozen=True, eq=False)
class Module:
    """A module of the project."""

    source: SourceFile


@dataclass(frozen=True, eq=False)
class Deferred:
    """What `from module import name` binds, looked up when it is asked for. `name` empty: the module itself."""

    source: SourceFile
    module: str
    level: int
    name: str = ""


Value = (
    Unknown
    | Const
    | Text
    | Image
    | Num
    | Counter
    | Tup
    | Slice
    | Ref
    | Alt
    | Ext
    | Thing
    | Func
    | Class
    | Bound
    | Partial
    | Module
    | Deferred
)

NONE = Const(None)
UNKNOWN = Unknown()


# What stands on the heap.


@dataclass(frozen=True, eq=False)
class List:
    """A list, set or deque.

    Attributes:
        items: None where their number is not known.
        element: what any of them is then.
        most: of a deque, its maxlen.
    """

    items: tuple[Value, ...] | None
    element: Value | None = None
    most: int | None = None


@dataclass(frozen=True, eq=False)
class Dict:
    """`rest`: what any other key has, or the observation that it was copied from; None where there is none."""

    items: Mapping[Any, Value]
    rest: Value | None = None
    name: str = ""


@dataclass(frozen=True, eq=False)
class Obj:
    """An object of a class of the program. `base`: name of the library's class that it inherits from."""

    cls: Class | None
    attrs: Mapping[str, Value]
    base: str = ""


@dataclass(frozen=True, eq=False)
class Scope:
    """Names of a function's or a module's scope."""

    names: Mapping[str, Value]


Content = List | Dict | Obj | Scope
Heap = dict[int, Content]


def taints(value: Value | None) -> frozenset[str]:
    """What a value was made of, without looking into the heap."""
    if isinstance(value, Unknown):
        return value.taints
    if isinstance(value, Num):
        return frozenset({value.origin}) if value.origin else frozenset()
    if isinstance(value, Image):
        return frozenset({"image"})
    if isinstance(value, Text):
        return frozenset(hole.kind for hole in value.holes)
    if isinstance(value, Tup):
        return frozenset().union(*(taints(item) for item in value.items))
    if isinstance(value, Alt):
        return frozenset().union(*(taints(option) for _, option in value.options))
    if isinstance(value, Thing):
        return frozenset({value.kind})
    if isinstance(value, Bound):
        return taints(value.owner)
    return frozenset()


def unknown(why: str, *made_of: Value | None) -> Unknown:
    """Not known, but made of these."""
    return Unknown(why, frozenset().union(*(taints(value) for value in made_of)))


def options(value: Value) -> tuple[tuple[When, Value], ...]:
    """The alternatives of a value, each with its choices."""
    return value.options if isinstance(value, Alt) else (((), value),)


def together(one: When, other: When) -> When | None:
    """Both sets of choices; None where they exclude each other."""
    if not one:
        return other
    if not other:
        return one
    merged = dict(one)
    for asked, answer in other:
        if merged.setdefault(asked, answer) != answer:
            return None
    return tuple(merged.items())


def alternatives(found: Iterable[tuple[When, Value]]) -> Value:
    """One value of several, doubles left out; not known where there are too many."""
    kept: list[tuple[When, Value]] = []
    for when, value in found:
        for inner, option in options(value):
            both = together(when, inner)
            if both is None or any(same(option, other) for _, other in kept):
                continue
            kept.append((both, option))
    if not kept:
        return UNKNOWN
    if len(kept) == 1:
        return kept[0][1]
    if len(kept) > MOST:
        return unknown("too many ways", *(value for _, value in kept))
    return Alt(tuple(kept))


def same(one: Value, other: Value) -> bool:
    """Whether two values are one and the same, as far as the interpreter can tell."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, Const) and isinstance(other, Const):
        return type(one.value) is type(other.value) and one.value == other.value
    if isinstance(one, Ref) and isinstance(other, Ref):
        return one.id == other.id
    if isinstance(one, Text) and isinstance(other, Text):
        return one.parts == other.parts
    if isinstance(one, Image) and isinstance(other, Image):
        return one.way == other.way and one.axes == other.axes
    if isinstance(one, Num) and isinstance(other, Num):
        return one.origin == other.origin and all(
            np.shape(a) == np.shape(b) and np.array_equal(a, b) for a, b in zip(one.samples, other.samples, strict=True)
        )
    if isinstance(one, Tup) and isinstance(other, Tup):
        return len(one.items) == len(other.items) and all(
            same(a, b) for a, b in zip(one.items, other.items, strict=True)
        )
    if isinstance(one, Ext) and isinstance(other, Ext):
        return one.name == other.name
    if isinstance(one, Thing) and isinstance(other, Thing):
        return one.kind == other.kind and one.name == other.name and one.id == other.id
    if isinstance(one, Func) and isinstance(other, Func):
        return one.node is other.node
    if isinstance(one, Class) and isinstance(other, Class):
        return one.node is other.node
    if isinstance(one, Module) and isinstance(other, Module):
        return one.source is other.source
    if isinstance(one, Bound) and isinstance(other, Bound):
        return one.name == other.name and same(one.owner, other.owner)
    if isinstance(one, Unknown) and isinstance(other, Unknown):
        return one.taints == other.taints
    return isinstance(one, Counter)


def select(mask: tuple[bool, ...], yes: Value, no: Value) -> Value | None:
    """World by world one of two numbers; None where they are none."""
    first, second = numbers(yes), numbers(no)
    if first is None or second is None:
        return None
    shaped = yes if isinstance(yes, Num) else no
    assert isinstance(shaped, Num | Const)
    base = shaped if isinstance(shaped, Num) else Num(second)
    other = no if isinstance(no, Num) else base
    origin = base.origin or other.origin
    samples = tuple(a if chosen else b for chosen, a, b in zip(mask, first, second, strict=True))
    longest = max(base.trail, other.trail, key=len)
    return replace(base, samples=samples, origin=origin, trail=longest, native=base.native or other.native)


def numbers(value: Value) -> tuple[Any, ...] | None:
    """The worlds of a number or an array; None where it is none."""
    if isinstance(value, Num):
        return value.samples
    if isinstance(value, Const) and isinstance(value.value, bool | int | float):
        return (value.value,) * WORLDS
    return None


def text_of(value: Value) -> Text | None:
    """A value as a text with holes; None where it cannot be one."""
    if isinstance(value, Text):
        return value
    if isinstance(value, Const) and isinstance(value.value, str | int | float | bool):
        literal = str(value.value)
        return Text((literal,) if literal else (), value.place if isinstance(value.value, str) else None)
    return None


def joined(parts: Iterable[str | Hole]) -> tuple[str | Hole, ...]:
    """Neighbouring literals made one."""
    out: list[str | Hole] = []
    for part in parts:
        if isinstance(part, str) and out and isinstance(out[-1], str):
            out[-1] += part
        elif part != "":
            out.append(part)
    return tuple(out)


def plain(value: Value) -> Any:
    """The Python value of a constant; None where it is none."""
    return value.value if isinstance(value, Const) else None
