"""Models and processors of transformers, remote code included, as `from_pretrained` returns them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from vladoctor.taps.patch import Undo, wrap_classes
from vladoctor.taps.policy import watch_policy
from vladoctor.taps.watch import current


def _found_model(original: Callable[..., Any]) -> Callable[..., Any]:
    def from_pretrained(cls: type, *args: Any, **kwargs: Any) -> Any:
        result = original(cls, *args, **kwargs)
        watch = current()
        model = result[0] if isinstance(result, tuple) else result
        if watch is not None and hasattr(model, "predict_action"):
            with watch.tap:
                watch_policy(model, None, watch)  # type: ignore[arg-type]
        return result

    return from_pretrained


def _hook(module: ModuleType) -> Sequence[Undo]:
    return [wrap_classes(module.PreTrainedModel, {"from_pretrained": _found_model})]


HOOKS = {"transformers.modeling_utils": _hook}
