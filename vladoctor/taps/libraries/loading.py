"""What is said when weights are put into a model: names that the file lacked, and those that have no place in it.

Programs throw it away: `load_state_dict(..., strict=False)` returns it and nobody looks, transformers logs a warning
among others. Nothing is loaded in another way for it: the answer that the library makes anyway is read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from vladoctor.taps.checkpoint import loaded
from vladoctor.taps.patch import Undo, wrap
from vladoctor.taps.watch import current


def _load_state_dict(original: Callable[..., Any]) -> Callable[..., Any]:
    def load_state_dict(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        watch = current()
        missing = getattr(result, "missing_keys", None)
        # What is strict would have raised.
        if watch is not None and missing is not None and _lenient(args, kwargs):
            with watch.tap:
                loaded(self, missing, getattr(result, "unexpected_keys", ()))
        return result

    return load_state_dict


def _lenient(args: Any, kwargs: Any) -> bool:
    return not (args[1] if len(args) > 1 else kwargs.get("strict", True))


def _finalise(original: Callable[..., Any]) -> Callable[..., Any]:
    """Transformers 5: (model, settings, what was said) -> what was said."""

    def finalise(model: Any, *args: Any, **kwargs: Any) -> Any:
        said = original(model, *args, **kwargs)
        watch = current()
        if watch is not None and hasattr(said, "missing_keys"):
            with watch.tap:
                loaded(model, said.missing_keys, said.unexpected_keys, getattr(said, "mismatched_keys", ()))
        return said

    return finalise


def _load(original: Callable[..., Any]) -> Callable[..., Any]:
    """Transformers 4: a tuple that begins with the model and the names missing, unexpected and mismatched."""

    def load(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        watch = current()
        if watch is not None and isinstance(result, tuple) and len(result) >= 4 and hasattr(result[0], "modules"):
            with watch.tap:
                loaded(*result[:4])
        return result

    return load


def _transformers(module: ModuleType) -> Sequence[Undo]:
    base = module.PreTrainedModel
    if hasattr(base, "_finalize_model_loading"):
        return [_wrap_static(base, "_finalize_model_loading", _finalise)]
    return [_wrap_class_method(base, "_load_pretrained_model", _load)]


def _wrap_static(owner: type, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Undo:
    before = vars(owner)[name]
    put = staticmethod(make(before.__func__))
    setattr(owner, name, put)
    return lambda: setattr(owner, name, before) if vars(owner).get(name) is put else None


def _wrap_class_method(owner: type, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Undo:
    before = vars(owner)[name]
    put = classmethod(make(before.__func__))
    setattr(owner, name, put)
    return lambda: setattr(owner, name, before) if vars(owner).get(name) is put else None


HOOKS = {
    "torch.nn.modules.module": lambda module: [wrap(module.Module, "load_state_dict", _load_state_dict)],
    "transformers.modeling_utils": _transformers,
}
