"""Replaces attributes of other people's objects and classes, now or when a module is imported, and puts them back.

Two ways, for two needs. `wrap` changes one object: for a model or an environment that is ours to run. `wrap_classes`
changes a class with all its subclasses, those made later included: for programs that nobody here wrote, whose objects
may be copied, pickled and sent to other processes. What is put there is a plain function in both cases, so that
`inspect.signature`, pickle and cloudpickle find what they would have found. Wrappers of classes therefore hold no
reference to the recording: they ask `vladoctor.taps.watch.current` for it.
"""

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Callable, Iterable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

Maker = Callable[[Callable[..., Any]], Callable[..., Any]]
"""Makes the wrapper of a function."""

Undo = Callable[[], None]


def wrap(owner: Any, name: str, make: Maker) -> Undo:
    """Replace an attribute of one object by `make(attribute)`; returns the call that puts it back.

    Of a class, the wrapper is called with `self`; a method that it inherits is replaced in that class alone.
    """
    absent = object()
    before = vars(owner).get(name, absent)
    original = getattr(owner, name)
    wrapper = functools.wraps(original)(make(original))
    setattr(wrapper, _MARK, True)
    setattr(owner, name, wrapper)

    def undo() -> None:
        if vars(owner).get(name) is not wrapper:
            return
        if before is absent:
            delattr(owner, name)
        else:
            setattr(owner, name, before)

    return undo


def wrap_classes(base: type, makers: dict[str, Maker]) -> Undo:
    """Wrap methods of a class and of all its subclasses, each where it is defined; returns the call that undoes it all.

    Subclasses made later are wrapped as they are made. A method that calls its parent's runs through two wrappers: the
    wrapper has to expect that.

    Args:
        base: a class that can be changed (not one of C).
        makers: method name -> maker of its wrapper, which is called with `self` and the arguments. Static methods,
            properties and the like are left alone; of class methods the function below is wrapped.
    """
    undos: list[Undo] = []
    active = True

    def wrap_one(cls: type) -> None:
        for name, make in makers.items():
            found = vars(cls).get(name)
            function = found.__func__ if isinstance(found, classmethod) else found
            # Of what is not a function in Python (Cython's are like one) nothing is known.
            if not hasattr(function, "__get__") or not hasattr(function, "__dict__") or is_wrapped(function):
                continue
            if not callable(function) or isinstance(function, (staticmethod, type)):
                continue
            wrapper = functools.wraps(function)(make(function))
            setattr(wrapper, _MARK, True)
            put = classmethod(wrapper) if isinstance(found, classmethod) else wrapper
            setattr(cls, name, put)
            undos.append(functools.partial(_put_back, cls, name, put, found))

    def hook(before: Any) -> Any:
        def __init_subclass__(cls: type, **kwargs: Any) -> None:  # noqa: N807 - it is put in the place of one
            before.__get__(None, cls)(**kwargs)
            if active:
                wrap_one(cls)

        return classmethod(functools.wraps(before.__func__)(__init_subclass__)) if before else None

    for cls in (base, *_subclasses(base)):
        wrap_one(cls)
        # A class with an `__init_subclass__` of its own may not call its parent's.
        own = vars(cls).get("__init_subclass__")
        if own is None and cls is base:
            mine = hook(classmethod(lambda cls, **kwargs: super(base, cls).__init_subclass__(**kwargs)))  # type: ignore[arg-type]
            base.__init_subclass__ = mine  # type: ignore[method-assign]
            undos.append(functools.partial(_remove, base, "__init_subclass__", mine))
        elif isinstance(own, classmethod):
            mine = hook(own)
            cls.__init_subclass__ = mine  # type: ignore[method-assign]
            undos.append(functools.partial(_put_back, cls, "__init_subclass__", mine, own))

    def undo() -> None:
        nonlocal active
        active = False
        undo_all(undos)
        undos.clear()

    return undo


def is_wrapped(function: Any) -> bool:
    """Whether a function is one of our wrappers, or wraps one in turn and says so."""
    return getattr(function, _MARK, False) is True


def on_import(module: str, hook: Callable[[ModuleType], None]) -> None:
    """Call `hook` with a module: at once if it is imported, else right after it is.

    wrapt's import hooks cannot be taken back: `hook` has to do nothing once it is no longer wanted. For a module that
    is not there yet only the first hook of a kind (`functools.partial`s of one function and argument are one) is kept,
    so that programs may be watched again and again.
    """
    from wrapt import register_post_import_hook
    from wrapt.importer import ImportHookFinder

    found = sys.modules.get(module)
    if found is not None:
        if not _when_finished(found, hook):
            hook(found)
        return
    expected = _expected.setdefault(register_post_import_hook, set())
    if (key := (module, *_identity(hook))) not in expected:
        expected.add(key)
        register_post_import_hook(hook, module)
    if not any(isinstance(finder, ImportHookFinder) for finder in sys.meta_path):
        # wrapt adds its finder only once, and pytest's `pytester`, for one, puts the list back as it was.
        sys.meta_path.insert(0, ImportHookFinder())


def undo_all(undo: Sequence[Undo]) -> None:
    """Undo in the reverse order."""
    for call in reversed(undo):
        call()


_MARK = "__vladoctor__"

_expected: weakref.WeakKeyDictionary[Callable[..., Any], set[tuple[Any, ...]]] = weakref.WeakKeyDictionary()
"""What was registered, by the function of wrapt's that it was registered with: wrapt may be imported anew."""


class _Unfinished(ModuleSpec):
    """The spec of a module whose import is going on: calls back when Python marks it as finished.

    wrapt would call at once. It happens where a module that we wrap is the one that brings in what starts the watching.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "_initializing" and not value:
            hooks = self.__dict__.pop(_MARK)
            self.__class__ = ModuleSpec  # type: ignore[assignment]
            module = sys.modules.get(self.name)
            for hook in hooks if module is not None else ():
                hook(module)


def _when_finished(module: ModuleType, hook: Callable[[ModuleType], None]) -> bool:
    """Have a hook called when the import of a module ends; False if it is not going on."""
    spec = getattr(module, "__spec__", None)
    if not getattr(spec, "_initializing", False) or type(spec) not in (ModuleSpec, _Unfinished):
        return False
    spec.__dict__.setdefault(_MARK, []).append(hook)
    spec.__class__ = _Unfinished
    return True


def _identity(hook: Callable[[ModuleType], None]) -> tuple[Any, ...]:
    return (hook.func, *hook.args) if isinstance(hook, functools.partial) else (hook,)


def _subclasses(base: type) -> Iterable[type]:
    seen: dict[type, None] = {}
    waiting: list[type] = list(base.__subclasses__())
    while waiting:
        cls = waiting.pop()
        if cls not in seen:
            seen[cls] = None
            waiting.extend(cls.__subclasses__())
    return seen


def _put_back(cls: type, name: str, put: Any, before: Any) -> None:
    if vars(cls).get(name) is put:
        setattr(cls, name, before)


def _remove(cls: type, name: str, put: Any) -> None:
    if vars(cls).get(name) is put:
        delattr(cls, name)
