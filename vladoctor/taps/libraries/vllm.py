"""vLLM's offline engine, `vllm.LLM.generate`: prompts with pictures in, token ids out.

Written after vLLM's documentation (`RequestOutput.prompt`, `.prompt_token_ids`, `.outputs[0].token_ids`) and tried on a
stand-in of that shape only: vLLM needs a GPU and has never run under this tap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from types import ModuleType
from typing import Any

from vladoctor.taps.given import given
from vladoctor.taps.patch import Undo, wrap_classes
from vladoctor.taps.recorder import describe
from vladoctor.taps.watch import current

_BOUNDARY = "vllm.generate"


def _tap(original: Callable[..., Any]) -> Callable[..., Any]:
    def generate(self: Any, *args: Any, **kwargs: Any) -> Any:
        watch = current()
        if watch is None:
            return original(self, *args, **kwargs)
        began = perf_counter()
        try:
            outputs = original(self, *args, **kwargs)
        except BaseException as error:
            with watch.tap:
                watch.called(_BOUNDARY, raised=describe(error))
            raise
        elapsed = perf_counter() - began
        if watch.active:
            with watch.tap:
                prompts = args[0] if args else kwargs.get("prompts")
                prompts = list(prompts) if isinstance(prompts, (list, tuple)) else [prompts]
                pictures = [_picture(prompt) for prompt in prompts]
                if isinstance(outputs, (list, tuple)) and any(picture is not None for picture in pictures):
                    watch.took("forward", elapsed)
                    given(
                        watch,
                        prompt=[getattr(one, "prompt", "") or "" for one in outputs],
                        image=pictures,
                        input_ids=[list(getattr(one, "prompt_token_ids", None) or ()) for one in outputs],
                        token_ids=[list(one.outputs[0].token_ids) for one in outputs],
                        boundary=_BOUNDARY,
                    )
            watch.mark("answered")
        return outputs

    return generate


def _picture(prompt: Any) -> Any:
    """The picture of a prompt, the first where it has several."""
    data = prompt.get("multi_modal_data") if isinstance(prompt, Mapping) else None
    image = data.get("image") if isinstance(data, Mapping) else None
    return image[0] if isinstance(image, (list, tuple)) and image else image


def _hook(module: ModuleType) -> Sequence[Undo]:
    return [wrap_classes(module.LLM, {"generate": _tap})]


HOOKS = {"vllm.entrypoints.llm": _hook}
