from __future__ import annotations

import inspect
import pickle
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest

from vladoctor.taps.patch import is_wrapped, on_import, undo_all, wrap, wrap_classes


class Base:
    def step(self, action: int = 1) -> str:
        """Base's."""
        return f"base {action}"

    @classmethod
    def make(cls) -> str:
        return cls.__name__

    @staticmethod
    def helper() -> int:
        return 3


class Child(Base):
    def step(self, action: int = 1) -> str:
        return "child, " + super().step(action)


class Silent(Base):
    pass


def counting(log: list[str]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            log.append(original.__qualname__)
            return original(self, *args, **kwargs)

        return call

    return make


def test_methods_of_a_class_and_those_below_it_are_wrapped_where_they_are_defined() -> None:
    before = dict(vars(Base)), dict(vars(Child)), dict(vars(Silent))
    log: list[str] = []
    undo = wrap_classes(Base, {"step": counting(log), "make": counting(log), "helper": counting(log)})
    assert Child().step(2) == "child, base 2"
    assert Silent().step() == "base 1"
    assert Silent.make() == "Silent"
    assert Base.helper() == 3
    assert log == ["Child.step", "Base.step", "Base.step", "Base.make"]
    assert "step" not in vars(Silent)
    undo()
    assert (dict(vars(Base)), dict(vars(Child)), dict(vars(Silent))) == before
    log.clear()
    assert Child().step(2) == "child, base 2"
    assert log == []


def test_classes_made_later_are_wrapped_too_and_only_while_it_lasts() -> None:
    log: list[str] = []
    undo = wrap_classes(Base, {"step": counting(log)})

    class Later(Child):
        def __init_subclass__(cls, **kwargs: Any) -> None:
            """Keeps to itself: it does not call its parent's."""

        def step(self, action: int = 1) -> str:
            return "later"

    assert Later().step() == "later"
    assert [name.rpartition(".")[2] for name in log] == ["step"]
    undo()

    class TooLate(Child):
        def step(self, action: int = 1) -> str:
            return "too late"

    log.clear()
    assert (Later().step(), TooLate().step()) == ("later", "too late")
    assert log == []
    assert "__init_subclass__" not in vars(Base)


def test_a_class_below_one_that_has_a_hook_of_its_own() -> None:
    seen: list[str] = []

    class Registry:
        def __init_subclass__(cls, tag: str = "", **kwargs: Any) -> None:
            super().__init_subclass__(**kwargs)
            seen.append(f"{cls.__name__} {tag}")

        def step(self) -> int:
            return 1

    own = vars(Registry)["__init_subclass__"]
    log: list[str] = []
    undo = wrap_classes(Registry, {"step": counting(log)})

    class Entry(Registry, tag="x"):
        def step(self) -> int:
            return 2

    assert (Entry().step(), Registry().step(), len(log)) == (2, 1, 2)
    undo()
    assert seen == ["Entry x"]
    assert vars(Registry)["__init_subclass__"] is own


def test_what_is_looked_at_from_outside_stays_the_same() -> None:
    signature, document = inspect.signature(Base.step), Base.step.__doc__
    child = Child()
    undo = wrap_classes(Base, {"step": counting([])})
    try:
        assert inspect.signature(Base.step) == signature
        assert Base.step.__doc__ == document
        assert Base.step.__qualname__ == "Base.step"
        assert inspect.getsource(Base.step).startswith("    def step")
        assert isinstance(pickle.loads(pickle.dumps(child)), Child)
        assert pickle.loads(pickle.dumps(child.step))(3) == "child, base 3"
    finally:
        undo()


def test_somebody_elses_wrapper_on_top_stays() -> None:
    log: list[str] = []
    original = vars(Silent.__mro__[1])["step"]
    undo = wrap_classes(Base, {"step": counting(log)})
    ours = vars(Base)["step"]
    try:
        Base.step = lambda self, action=1: "theirs, " + ours(self, action)  # type: ignore[method-assign]
        undo()
        assert Silent().step() == "theirs, base 1"
    finally:
        Base.step = original  # type: ignore[method-assign]


def test_attributes_that_are_no_functions_are_left_alone() -> None:
    class Odd:
        step = len
        reset = property(lambda self: "property")
        close = None
        render = int

    before = dict(vars(Odd))
    undo = wrap_classes(Odd, {name: counting([]) for name in ("step", "reset", "close", "render")})
    found = {name: value for name, value in vars(Odd).items() if name in before}
    assert found == before
    undo()


def test_one_object() -> None:
    log: list[str] = []
    one, other = Child(), Child()

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            log.append("one")
            return original(*args)

        return call

    undo = wrap(one, "step", make)
    assert (one.step(4), other.step(5)) == ("child, base 4", "child, base 5")
    assert log == ["one"]
    assert is_wrapped(one.step)
    assert not is_wrapped(other.step)
    undo()
    assert "step" not in vars(one)


def test_undo_in_the_reverse_order() -> None:
    order: list[int] = []
    undo_all([lambda: order.append(1), lambda: order.append(2)])
    assert order == [2, 1]


def test_imports(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "vladoctor_test_module.py").write_text("class Env: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "vladoctor_test_module", raising=False)
    seen: list[types.ModuleType] = []
    on_import("vladoctor_test_module", seen.append)
    assert seen == []
    import vladoctor_test_module  # type: ignore[import-not-found]

    assert seen == [vladoctor_test_module]
    assert vladoctor_test_module.Env.__name__ == "Env"
    on_import("vladoctor_test_module", seen.append)
    assert len(seen) == 2


def test_a_hook_that_waits_already_is_not_doubled(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    from functools import partial

    (tmp_path / "vladoctor_test_other.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    seen: list[str] = []

    def note(name: str, module: types.ModuleType) -> None:
        seen.append(name)

    for _ in range(3):
        on_import("vladoctor_test_other", partial(note, "a"))
    on_import("vladoctor_test_other", partial(note, "b"))
    import vladoctor_test_other  # type: ignore[import-not-found]  # noqa: F401

    assert sorted(seen) == ["a", "b"]


def test_hooks_outlive_what_puts_the_finders_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """As pytest's `pytester` does behind every suite that it runs in its own process."""
    from wrapt.importer import ImportHookFinder

    (tmp_path / "vladoctor_test_third.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    seen: list[types.ModuleType] = []
    on_import("vladoctor_test_third", seen.append)
    others = [finder for finder in sys.meta_path if not isinstance(finder, ImportHookFinder)]
    monkeypatch.setattr(sys, "meta_path", others)
    on_import("vladoctor_test_third", seen.append)
    import vladoctor_test_third  # type: ignore[import-not-found]

    assert set(seen) == {vladoctor_test_third}
