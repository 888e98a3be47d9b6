"""Models, processors, tokenizers and image processors of transformers, remote code included.

Every class is wrapped where it defines a method, those that are made later as well: remote code is imported when a
checkpoint is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from vladoctor.taps.patch import Maker, Undo, wrap_classes
from vladoctor.taps.policy import METHODS, asked, compiling
from vladoctor.taps.processors import processed
from vladoctor.taps.watch import current


def _model(boundary: str) -> Maker:
    def tap(original: Callable[..., Any]) -> Callable[..., Any]:
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            watch = None if compiling() else current()
            if watch is None:
                return original(self, *args, **kwargs)
            return asked(watch, boundary, original, (self, *args), kwargs)

        return method

    return tap


def _processor(kind: str) -> Maker:
    def tap(original: Callable[..., Any]) -> Callable[..., Any]:
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            watch = current()
            if watch is None:
                return original(self, *args, **kwargs)
            return processed(watch, kind, original, (self, *args), kwargs)

        return method

    return tap


def _models(base: str) -> Callable[[ModuleType], Sequence[Undo]]:
    return lambda module: [wrap_classes(getattr(module, base), {name: _model(name) for name in METHODS})]


def _processors(base: str, kind: str, *methods: str) -> Callable[[ModuleType], Sequence[Undo]]:
    return lambda module: [wrap_classes(getattr(module, base), {name: _processor(kind) for name in methods})]


HOOKS = {
    # Up to 4.49 every model can generate; since then, and in code that knows no transformers model, a class says so.
    "transformers.modeling_utils": _models("PreTrainedModel"),
    "transformers.generation.utils": _models("GenerationMixin"),
    "transformers.processing_utils": _processors("ProcessorMixin", "text", "__call__"),
    "transformers.tokenization_utils_base": _processors(
        "PreTrainedTokenizerBase", "text", "__call__", "encode", "encode_plus", "batch_encode_plus"
    ),
    "transformers.image_processing_utils": _processors("ImageProcessingMixin", "image", "__call__", "preprocess"),
}
