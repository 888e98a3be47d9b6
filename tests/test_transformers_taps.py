"""Taps on transformers' classes, with models and processors that know nothing of them."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import random
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from PIL import Image  # noqa: E402
from transformers import GenerationMixin, PreTrainedModel  # noqa: E402

from vladoctor.adapters.openvla import auto_class  # noqa: E402
from vladoctor.facts import Facts  # noqa: E402
from vladoctor.facts.frames import model_view  # noqa: E402
from vladoctor.profiles import load_profile  # noqa: E402
from vladoctor.records import Episode, Query  # noqa: E402
from vladoctor.taps.policy import vision_tower  # noqa: E402
from vladoctor.taps.processors import Given, normalisation_of  # noqa: E402
from vladoctor.taps.watch import Watch  # noqa: E402
from vladoctor.trace import find_traces, read_episode  # noqa: E402

FOLDER = Path(__file__).resolve().parents[1] / "fixtures" / "tiny-openvla"
TASKS = ("pick up the alphabet soup", "pick up the cream cheese and place it in the basket")
PROMPTS = tuple(f"In: What action should the robot take to {task}?\nOut:" for task in TASKS)
KEY = {"unnorm_key": "libero_object"}
GREEDY = {"do_sample": False}
IMAGE_ID, VOCABULARY, SIDE = 31999, 32064, 28

pytestmark = pytest.mark.torch


def picture(seed: int = 0, side: int = 128) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def processor() -> Any:
    return transformers.AutoProcessor.from_pretrained(FOLDER, trust_remote_code=True, local_files_only=True)


def load() -> Any:
    model = auto_class(transformers).from_pretrained(FOLDER, trust_remote_code=True, local_files_only=True)
    return model.float().eval()


@pytest.fixture(scope="module")
def model() -> Any:
    return load()


class Watched:
    """A recording of queries that no environment takes, ended by `episode`."""

    def __init__(self, folder: Path) -> None:
        self.watch = Watch(folder, full_every=1)
        self.watch.start()

    def episode(self) -> Episode:
        self.watch.close()
        (path,) = find_traces(self.watch.folder)
        return read_episode(path)

    def queries(self) -> list[Query]:
        return [query for _, query in self.episode().queries()]


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    one = Watched(tmp_path)
    yield one
    one.watch.close()


def rng_states() -> tuple[Any, ...]:
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    return random.getstate(), kind, tuple(keys), tuple(rest), tuple(torch.get_rng_state().tolist())


def seed() -> None:
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)


def hooks(model: Any) -> list[str]:
    """Modules on which a hook of ours sits."""
    return [
        name
        for name, module in model.named_modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        if type(hook).__module__.startswith("vladoctor")
    ]


# Nothing changes.


def loop(model: Any, processor: Any, steps: int = 3, **options: Any) -> list[Any]:
    found: list[Any] = []
    for step in range(steps):
        inputs = processor(PROMPTS[step % 2], picture(step))
        found.append(model.predict_action(**inputs, **KEY, **options).tobytes())
        found.append(model.generate(**inputs, max_new_tokens=3, **options).tolist())
    return found


@pytest.mark.parametrize("options", [GREEDY, {"do_sample": True, "temperature": 5.0}])
def test_the_program_sees_no_difference(model: Any, processor: Any, tmp_path: Path, options: dict[str, Any]) -> None:
    seed()
    bare, bare_rng = loop(model, processor, **options), rng_states()
    seed()
    recording = Watched(tmp_path)
    found, found_rng = loop(model, processor, **options), rng_states()
    queries = recording.queries()
    assert recording.watch.errors == []
    assert found == bare
    assert found_rng == bare_rng
    assert [query.boundary for query in queries] == ["predict_action", "generate"] * 3
    assert [query.prompt for query in queries] == [PROMPTS[0]] * 2 + [PROMPTS[1]] * 2 + [PROMPTS[0]] * 2
    assert hooks(model) == []


def test_everything_is_put_back(tmp_path: Path) -> None:
    classes = (
        PreTrainedModel,
        GenerationMixin,
        transformers.ProcessorMixin,
        transformers.PreTrainedTokenizerBase,
        transformers.CLIPImageProcessor,
    )
    before = [dict(vars(cls)) for cls in classes]
    recording = Watched(tmp_path)
    assert [dict(vars(cls)) for cls in classes] != before
    compiled = torch.compile
    recording.watch.close()
    assert [dict(vars(cls)) for cls in classes] == before
    assert torch.compile is not compiled
    assert "__wrapped__" not in vars(torch.compile)


def test_models_are_copied_saved_and_sent_as_ever(model: Any, processor: Any, watched: Watched) -> None:
    inputs = processor(PROMPTS[0], picture())
    action = model.predict_action(**inputs, **KEY, **GREEDY)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    copies = [
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(buffer, weights_only=False),
    ]
    before = pickle.dumps(model)
    watched.watch.close()
    assert pickle.dumps(model) == before
    for one in copies:
        assert hooks(one) == []
        np.testing.assert_array_equal(one.predict_action(**inputs, **KEY, **GREEDY), action)


def test_a_class_of_the_main_program_is_pickled_by_value(watched: Watched) -> None:
    cloudpickle = pytest.importorskip("cloudpickle")
    namespace: dict[str, Any] = {"PreTrainedModel": PreTrainedModel, "__name__": "__main__"}
    exec("class Policy(PreTrainedModel):\n    def predict_action(self, x):\n        return x + 1.0\n", namespace)
    sent = cloudpickle.dumps(namespace["Policy"](transformers.LlamaConfig()))
    there = "import pickle, sys\nprint(pickle.loads(sys.stdin.buffer.read()).predict_action(1.0))"
    done = subprocess.run([sys.executable, "-c", there], input=sent, capture_output=True, check=True)
    assert done.stdout == b"2.0\n"


def test_a_copy_made_during_a_call_has_nothing_of_it(model: Any, processor: Any, watched: Watched) -> None:
    copies: list[Any] = []

    def keep(ids: Any, scores: Any) -> Any:
        assert hooks(model)
        copies.extend(([copy.deepcopy(model), pickle.loads(pickle.dumps(model))]) if not copies else ())
        return scores

    inputs = processor(PROMPTS[0], picture())
    model.predict_action(**inputs, **KEY, **GREEDY, logits_processor=[keep])
    assert hooks(model) == []
    for one in copies:
        with torch.inference_mode():
            one(**inputs)
        one.predict_action(**inputs, **KEY, **GREEDY)
    queries = watched.queries()
    assert watched.watch.errors == [
        "there is a further model, TinyOpenVLAForActionPrediction, of which only the calls are recorded"
    ]
    assert [(query.vision_calls, len(query.margin)) for query in queries] == [(1, 7)] * 3


def test_exceptions_pass_through(model: Any, processor: Any, watched: Watched) -> None:
    inputs = processor(PROMPTS[0], picture())
    stop = KeyboardInterrupt("stop")

    def interrupt(ids: Any, scores: Any) -> Any:
        raise stop

    with pytest.raises(KeyboardInterrupt) as caught:
        model.predict_action(**inputs, **KEY, logits_processor=[interrupt])
    assert caught.value is stop
    assert stop.__context__ is None
    assert hooks(model) == []
    with pytest.raises(AssertionError, match="unnorm_key"):
        model.predict_action(**inputs, unnorm_key="nowhere")
    with pytest.raises(TypeError):
        processor(PROMPTS[0], picture(), nonsense=1)
    model.predict_action(**inputs, **KEY, **GREEDY)
    episode = watched.episode()
    first, second, third = (query for _, query in episode.queries())
    assert watched.watch.errors == []
    assert (first.action, second.action) == (None, None)
    assert third.action is not None
    assert (third.vision_calls, len(third.ids), len(third.margin)) == (1, 7, 7)
    calls = [call for step in episode.steps for call in step.info["vladoctor"]["calls"]]
    assert [call["call"] for call in calls if "raised" in call] == ["predict_action", "predict_action", "processor"]


def test_an_error_of_ours_never_reaches_the_program(
    model: Any, processor: Any, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError("a bug of ours")

    inputs = processor(PROMPTS[0], picture())
    monkeypatch.setattr("vladoctor.taps.policy.Policy.put_hooks", fail)
    assert model.predict_action(**inputs, **KEY, **GREEDY).shape == (7,)
    assert watched.watch.errors == ["recording stopped: RuntimeError: a bug of ours"]
    assert model.predict_action(**inputs, **KEY, **GREEDY).shape == (7,)


def test_a_model_is_not_kept_alive(watched: Watched, processor: Any) -> None:
    model = load()
    model.predict_action(**processor(PROMPTS[0], picture()), **KEY, **GREEDY)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


# Compilation.


def small_llama(**options: Any) -> Any:
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**text_config(**options))).eval()


def text_config(**more: Any) -> dict[str, Any]:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    return {**sizes, "num_key_value_heads": 1, "vocab_size": VOCABULARY, "pad_token_id": 0, **more}


def test_a_compiled_model_is_left_alone(tmp_path: Path) -> None:
    def run(how: str) -> tuple[Any, int]:
        torch._dynamo.reset()
        model, graphs = small_llama(), 0

        def backend(graph: Any, inputs: Any) -> Any:
            nonlocal graphs
            graphs += 1
            return graph.forward

        ids = torch.arange(5, 12)[None]
        found = [model.generate(ids, max_new_tokens=3, **GREEDY).tolist()]
        if how == "module":
            model.model.compile(backend=backend)
        elif how == "head":
            model.lm_head = torch.compile(model.lm_head, backend=backend, fullgraph=True)
        else:
            model.forward = torch.compile(model.forward, backend=backend)
        found += [model.generate(ids, max_new_tokens=3, **GREEDY).tolist() for _ in range(4)]
        assert hooks(model) == []
        return found, graphs

    for how in ("module", "head", "forward"):
        bare = run(how)
        recording = Watched(tmp_path / how)
        assert run(how) == bare
        first, *others = recording.queries()
        assert bare[1] > 0
        assert len(first.margin) == 3
        assert [(one.margin, one.vision_calls, len(one.ids)) for one in others] == [((), None, 3)] * 4
        (problem,) = recording.watch.errors
        assert "compiled" in problem


def test_what_is_compiled_with_hooks_on_holds_none(tmp_path: Path) -> None:
    """A program compiles a function of its own in which a module is called; nothing says that it is compiled."""

    def run() -> list[list[str]]:
        torch._dynamo.reset()
        model, graphs = small_llama(), []

        def backend(graph: Any, inputs: Any) -> Any:
            graphs.append(sorted(node.name for node in graph.graph.nodes))
            return graph.forward

        step = torch._dynamo.optimize(backend, nopython=True)(lambda hidden: model.lm_head(hidden))

        def after(module: Any, args: Any, output: Any) -> None:
            step(output[0][:, -1:])

        model.model.register_forward_hook(after)
        for _ in range(12):
            model.generate(torch.arange(5, 12)[None], max_new_tokens=2, **GREEDY)
        return graphs

    bare = run()
    recording = Watched(tmp_path)
    assert run() == bare
    assert [len(query.margin) for query in recording.queries()] == [2] * 12


# What is recorded.


def test_texts_are_found_by_content(model: Any, processor: Any, watched: Watched) -> None:
    """Made long before, in a batch with others, in another order, with an id more, or changed."""
    one, other = (processor(prompt, picture(index)) for index, prompt in enumerate(PROMPTS))
    processor.tokenizer("something else")
    model.predict_action(**other, **KEY, **GREEDY)
    model.predict_action(**one, **KEY, **GREEDY)
    with_mark = torch.cat([one["input_ids"], torch.tensor([[29871]])], 1)
    model.generate(with_mark, pixel_values=one["pixel_values"], max_new_tokens=7, **GREEDY)
    changed = one["input_ids"].clone()
    changed[0, 5] = 7
    model.generate(changed, pixel_values=one["pixel_values"], max_new_tokens=7, **GREEDY)
    batch = processor.tokenizer(list(PROMPTS), padding=True, return_tensors="pt")
    ids = batch["input_ids"][0][batch["attention_mask"][0].bool()][None]
    model.generate(ids, pixel_values=one["pixel_values"], max_new_tokens=7, **GREEDY)
    queries = watched.queries()
    assert watched.watch.errors == []
    assert [query.prompt for query in queries] == [PROMPTS[1], PROMPTS[0], PROMPTS[0], None, PROMPTS[0]]


@pytest.mark.parametrize(
    "encode",
    [
        lambda tokenizer, text: tokenizer(text, return_tensors="pt")["input_ids"],
        lambda tokenizer, text: torch.tensor([tokenizer(text)["input_ids"]]),
        lambda tokenizer, text: torch.tensor([tokenizer.encode(text)]),
        lambda tokenizer, text: tokenizer.encode(text, return_tensors="pt"),
        lambda tokenizer, text: tokenizer([text, "other"], padding=True, return_tensors="pt")["input_ids"][:1],
        lambda tokenizer, text: torch.tensor([[1, *tokenizer(text, add_special_tokens=False)["input_ids"]]]),
    ],
)
def test_ways_to_make_ids(processor: Any, watched: Watched, encode: Callable[[Any, str], Any]) -> None:
    small_llama().generate(encode(processor.tokenizer, PROMPTS[0]), max_new_tokens=1, **GREEDY)
    (query,) = watched.queries()
    assert query.prompt == PROMPTS[0]


def test_chat_templates(processor: Any, watched: Watched) -> None:
    tokenizer = copy.deepcopy(processor.tokenizer)
    tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}"
    said = [{"role": "user", "content": "lift the soup"}]
    found = tokenizer.apply_chat_template(said, return_tensors="pt")
    small_llama().generate(found if isinstance(found, torch.Tensor) else found["input_ids"], max_new_tokens=1, **GREEDY)
    (query,) = watched.queries()
    assert query.prompt == "[user] lift the soup"


def test_the_longest_text_is_found() -> None:
    given = Given()
    given.tokenised(["long"], {"input_ids": [[1, 2, 3, 4]]})
    given.tokenised(["short"], [3, 4])
    given.tokenised(["padded"], {"input_ids": [[0, 0, 8, 9]], "attention_mask": [[0, 0, 1, 1]]})
    assert given.text_of((1, 2, 3, 4, 5)) == "long"
    assert given.text_of((3, 4)) == "short"
    assert given.text_of((3, 4, 0, 0, 0, 0, 0)) is None
    assert given.text_of((8, 9)) == given.text_of((0, 0, 8, 9)) == "padded"
    assert given.text_of(()) is None


def test_the_checkpoint_is_described(model: Any, processor: Any, watched: Watched) -> None:
    model.predict_action(**processor(PROMPTS[0], picture()), **KEY, **GREEDY)
    small_llama().generate(torch.arange(5, 12)[None], max_new_tokens=1)
    run = watched.episode().run
    found = run["checkpoint"]
    assert run["device"] == "cpu"
    assert Path(found["name"]) == FOLDER
    assert found["class"].endswith("modeling_tiny_openvla.TinyOpenVLAForActionPrediction")
    assert found["norm_stats"]["libero_object"]["action"]["q01"] == model.norm_stats["libero_object"]["action"]["q01"]
    assert {name: found[name] for name in ("model_type", "n_action_bins", "vocab_size", "image_size", "chunk")} == {
        "model_type": "tiny_openvla",
        "n_action_bins": 256,
        "vocab_size": 32000,
        "image_size": 128,
        "chunk": 1,
    }
    assert found["pixel_mean"] == [0.485, 0.456, 0.406, 0.5, 0.5, 0.5]
    assert found["parameters"] == sum(one.numel() for one in model.parameters())
    assert (found["dtype"], found["device"], found["training"]) == ("float32", "cpu", False)


def test_options_are_plain_and_small(model: Any, processor: Any, watched: Watched) -> None:
    inputs = processor(PROMPTS[0], picture())
    model.predict_action(
        **inputs,
        **KEY,
        temperature=0.5,
        do_sample=True,
        logits_processor=[],
        bad_words_ids=[[5]],
        suppress_tokens=list(range(100)),
    )
    model.generate(**inputs, max_new_tokens=1)
    model.generate(**inputs, generation_config=transformers.GenerationConfig(do_sample=True, top_k=1, max_new_tokens=1))
    first, second, third = watched.queries()
    assert first.options == {
        **KEY,
        "temperature": 0.5,
        "do_sample": True,
        "logits_processor": [],
        "bad_words_ids": [[5]],
        "suppress_tokens": "<list>",
        "prompt_ids_added": [29871],
    }
    assert second.options == {"max_new_tokens": 1, "generation_config.do_sample": False}
    assert third.options == {"generation_config": "<GenerationConfig>", "generation_config.do_sample": True}


def test_modes_threads_and_dictionaries(model: Any, processor: Any, watched: Watched) -> None:
    inputs = processor(PROMPTS[0], picture())
    expected = model.generate(**inputs, max_new_tokens=7, **GREEDY)[0, -7:].tolist()
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        model.generate(**inputs, max_new_tokens=7, **GREEDY)
    model.generate(**inputs, max_new_tokens=7, return_dict_in_generate=True, output_scores=True, **GREEDY)
    model.generate(inputs["input_ids"], pixel_values=inputs["pixel_values"], max_new_tokens=7, **GREEDY)
    thread = threading.Thread(target=model.generate, kwargs={**inputs, "max_new_tokens": 7, **GREEDY})
    thread.start()
    thread.join()
    queries = watched.queries()
    assert watched.watch.errors == []
    assert [list(query.ids) for query in queries] == [expected] * 5
    assert [query.vision_calls for query in queries] == [1] * 5
    assert len({query.action_mass for query in queries}) == 1
    assert queries[0].margin == queries[-1].margin


def test_two_threads_share_a_model(model: Any, processor: Any, watched: Watched) -> None:
    inputs = [processor(prompt, picture(index)) for index, prompt in enumerate(PROMPTS)]
    expected = [model.generate(**one, max_new_tokens=7, **GREEDY)[0, -7:].tolist() for one in inputs]
    threads = [
        threading.Thread(target=lambda one=one: [model.generate(**one, max_new_tokens=7, **GREEDY) for _ in range(5)])
        for one in inputs
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    queries = watched.queries()
    assert watched.watch.errors == []
    assert len(queries) == 12
    assert hooks(model) == []
    for query in queries:
        assert list(query.ids) == expected[PROMPTS.index(query.prompt or "")]
        assert (query.vision_calls, len(query.margin)) == (1, 7)


def test_batches_without_their_padding(processor: Any, watched: Watched) -> None:
    model, tokenizer = small_llama(), copy.deepcopy(processor.tokenizer)
    tokenizer.padding_side = "left"
    batch = tokenizer([*PROMPTS, "a"], padding=True, return_tensors="pt")
    alone = [
        model.generate(**tokenizer(text, return_tensors="pt"), max_new_tokens=4, **GREEDY) for text in (*PROMPTS, "a")
    ]
    # The third row ends with its second id.
    end = int(alone[2][0, -3])
    output = model.generate(**batch, max_new_tokens=4, eos_token_id=end, pad_token_id=0, **GREEDY)
    *_, first, second, third = watched.queries()
    assert watched.watch.errors == []
    assert [one.prompt for one in (first, second, third)] == [*PROMPTS, "a"]
    assert first.input_ids == tuple(tokenizer(PROMPTS[0])["input_ids"])
    assert list(first.ids) == output[0, -4:].tolist() == alone[0][0, -4:].tolist()
    assert third.ids == tuple(alone[2][0, -4:-2].tolist())
    assert [len(one.margin) for one in (first, second, third)] == [4, 4, 2]
    assert (first.action_mass, first.entropy) == ((), ())


def test_margins_are_those_of_the_logits(watched: Watched) -> None:
    model, ids = small_llama(), torch.arange(5, 12)[None]
    rows: list[Any] = []
    handle = model.lm_head.register_forward_hook(lambda module, args, output: rows.append(output[:, -1].clone()))

    def only_actions(ids: Any, scores: Any) -> Any:
        scores[:, :31744] = -float("inf")
        return scores

    model.generate(ids, max_new_tokens=3, logits_processor=[only_actions], **GREEDY)
    handle.remove()
    (query,) = watched.queries()
    top = torch.cat(rows).topk(2).values
    np.testing.assert_allclose(query.margin, (top[:, 0] - top[:, 1]).numpy(), atol=1e-6)


def test_embeddings_alone(watched: Watched) -> None:
    model, ids = small_llama(), torch.arange(5, 12)[None]
    embeds = model.get_input_embeddings()(ids).detach()
    output = model.generate(inputs_embeds=embeds, max_new_tokens=3, **GREEDY)
    (query,) = watched.queries()
    assert list(query.ids) == output[0].tolist()
    assert (query.input_ids, len(query.margin)) == ((), 3)


@pytest.mark.parametrize(
    ("options", "recorded"),
    [
        ({"num_beams": 3}, True),
        ({"num_return_sequences": 2, "do_sample": True}, False),
        ({"num_beams": 3, "num_return_sequences": 2}, False),
    ],
)
def test_several_candidates_are_noted(watched: Watched, options: dict[str, Any], recorded: bool) -> None:
    output = small_llama().generate(torch.arange(5, 12)[None], max_new_tokens=3, **{**GREEDY, **options})
    (query,) = watched.queries()
    (problem,) = watched.watch.errors
    assert "not recorded" in problem
    assert query.ids == (tuple(output[0, -3:].tolist()) if recorded else ())
    assert query.margin == ()


# Policies of other makes.


class Policy(PreTrainedModel):
    """What tests make policies of; it answers with what it was made with."""

    config_class = transformers.LlamaConfig

    def __init__(self, answer: Any) -> None:
        super().__init__(transformers.LlamaConfig())
        self.answer = answer
        self.vision_tower = torch.nn.Identity()

    def predict_action(self, input_ids: Any = None, pixel_values: Any = None, **kwargs: Any) -> Any:
        for _ in range(kwargs.get("looks", 1)):
            self.vision_tower(torch.zeros(1))
        return self.answer


CHUNK = np.arange(56.0).reshape(8, 7)


@pytest.mark.parametrize(
    ("rows", "answer", "actions", "chunk_rows"),
    [
        (1, CHUNK[0], [CHUNK[0]], 0),
        (1, CHUNK[:1], [CHUNK[0]], 0),
        (1, torch.tensor(CHUNK[0], dtype=torch.bfloat16), [CHUNK[0]], 0),
        (1, list(map(float, range(7))), [CHUNK[0]], 0),
        (1, (CHUNK, torch.zeros(1, 56, 4096)), [CHUNK[0]], 8),
        (1, torch.tensor(CHUNK)[None], [CHUNK[0]], 8),
        (1, {"actions": CHUNK, "action_ids": np.zeros(7, int)}, [CHUNK[0]], 8),
        (2, CHUNK[:2], [CHUNK[0], CHUNK[1]], 0),
        (2, CHUNK.reshape(2, 4, 7), [CHUNK[0], CHUNK[4]], 4),
        (1, torch.zeros(1, 7, dtype=torch.long), [None], 0),
        (1, "an answer in words", [None], 0),
        (1, None, [None], 0),
        (2, CHUNK, [None, None], 0),
    ],
)
def test_answers(watched: Watched, rows: int, answer: Any, actions: list[Any], chunk_rows: int) -> None:
    policy = Policy(answer)
    assert policy.predict_action(torch.arange(5 * rows).reshape(rows, 5), looks=2) is answer
    queries = watched.queries()
    expected = [None if one is None else tuple(one.tolist()) for one in actions]
    assert [query.action for query in queries] == expected
    assert [len(query.chunk) for query in queries] == [chunk_rows] * rows
    assert [query.vision_calls for query in queries] == [2] * rows
    assert any("shape" in problem for problem in watched.watch.errors) == (rows == 2 and actions[0] is None)


def test_an_action_that_is_changed_afterwards(watched: Watched) -> None:
    action = np.zeros(7)
    Policy(action).predict_action()[-1] = 1.0
    (query,) = watched.queries()
    assert query.action == (0.0,) * 7


def test_states(watched: Watched) -> None:
    policy, ids = Policy(np.zeros((2, 7))), torch.zeros(2, 3, dtype=torch.long)
    policy.predict_action(ids, proprio=np.arange(16.0).reshape(2, 8), states=torch.ones(4), head=torch.nn.Linear(2, 2))
    one, two = watched.queries()
    assert one.proprio == {"proprio": tuple(map(float, range(8))), "states": (1.0,) * 4}
    assert two.proprio["proprio"] == tuple(map(float, range(8, 16)))
    assert one.options == {"head": "<Linear>"}


def test_a_policy_around_a_model(model: Any, processor: Any, watched: Watched) -> None:
    """Text goes in, an inner model is asked, twice, and what lies inside is one query."""

    class Around(Policy):
        def __init__(self) -> None:
            super().__init__(np.zeros(7))
            self.vlm = model

        def predict_action(self, instruction: str, image: Any) -> Any:  # type: ignore[override]
            inputs = processor(f"In: What action should the robot take to {instruction}?\nOut:", image)
            self.vlm.generate(**inputs, max_new_tokens=2, **GREEDY)
            self.vlm.generate(**inputs, max_new_tokens=3, **GREEDY)
            return self.answer

    Around().predict_action(TASKS[0], picture())
    (query,) = watched.queries()
    assert watched.watch.errors == []
    assert (query.boundary, query.prompt, query.vision_calls) == ("predict_action", PROMPTS[0], 2)
    assert len(query.ids) == 5
    assert len(query.margin) == 5
    assert query.image is not None
    assert query.options["instruction"] == TASKS[0]


# Images.


def images_of(watched: Watched, pixels: Any, rows: int = 1) -> list[Query]:
    Policy(np.zeros((rows, 7))).predict_action(torch.zeros(rows, 3, dtype=torch.long), pixels)
    return watched.queries()


def pixels_of(frame: Any) -> np.ndarray:
    assert frame is not None
    assert frame.full is not None
    return np.asarray(frame.full, int)


def near(frame: Any, expected: Image.Image, levels: int = 1) -> bool:
    return bool(np.abs(pixels_of(frame) - np.asarray(expected)).max() <= levels)


def test_images_as_processors_made_them(processor: Any, watched: Watched) -> None:
    """Two cameras of two towers each, channels in a row, as OpenVLA-OFT has them."""
    shots = [picture(0), picture(1)]
    pixels = torch.cat([processor(PROMPTS[0], shot)["pixel_values"] for shot in shots], 1)
    assert pixels.shape == (1, 12, 128, 128)
    (query,) = images_of(watched, pixels)
    assert near(query.image, shots[0])
    assert list(query.more_images) == ["image1"]
    assert near(query.more_images["image1"], shots[1])
    assert [len(values) for values in query.pixel_stats.values()] == [6, 6, 6]
    assert len(watched.watch.run["checkpoint"]["pixel_mean"]) == 12


@pytest.mark.parametrize("options", [{}, {"do_normalize": False}, {"do_rescale": False, "do_normalize": False}])
def test_images_of_clips_processor(watched: Watched, options: dict[str, Any]) -> None:
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
    shots = [picture(seed, 56) for seed in range(2)]
    pixels = torch.as_tensor(np.stack(processor(shots, **options)["pixel_values"])).float()
    first, second = images_of(watched, pixels, 2)
    assert near(first.image, shots[0])
    assert near(second.image, shots[1])
    assert watched.watch.errors == []


@pytest.mark.parametrize(
    ("shape", "rows", "slots"),
    [
        ((1, 3, 28, 42), 1, [[]]),
        ((1, 6, 28, 42), 1, [[]]),
        ((1, 12, 28, 42), 1, [["image1"]]),
        ((2, 3, 28, 42), 1, [["image1"]]),
        ((4, 3, 28, 42), 2, [["image1"], ["image1"]]),
        ((2, 3, 3, 28, 42), 2, [["image1", "image2"]] * 2),
        ((1, 12, 3, 28, 42), 1, [[f"image{index}" for index in range(1, 8)]]),
    ],
)
def test_layouts(watched: Watched, shape: tuple[int, ...], rows: int, slots: list[list[str]]) -> None:
    queries = images_of(watched, torch.randn(shape), rows)
    assert [list(query.more_images) for query in queries] == slots
    assert all(query.image is not None and query.image.shape == (28, 42) for query in queries)
    assert all(query.options["image_scale"] == "relative" for query in queries)
    assert len(watched.watch.errors) == 1


@pytest.mark.parametrize(
    ("pixels", "rows"), [(torch.randn(16, 1176), 1), ([1], 1), (torch.randn(3, 3, 8, 8), 2), (torch.zeros(1, 3, 4), 1)]
)
def test_what_is_no_picture_is_noted(watched: Watched, pixels: Any, rows: int) -> None:
    assert [query.image for query in images_of(watched, pixels, rows)] == [None] * rows
    (problem,) = watched.watch.errors
    assert "not recorded" in problem


def test_towers_by_name(watched: Watched) -> None:
    (query,) = images_of(watched, {"dino": torch.randn(1, 3, 28, 28), "siglip": torch.randn(1, 3, 28, 28)})
    assert query.image is not None
    assert len(query.pixel_stats["mean"]) == 3


def test_a_picture_without_levels_is_neither_black_nor_fine(watched: Watched) -> None:
    """Stretched to 0..255; what it says of brightness must not be judged. One value all over is one colour."""
    shot = torch.tensor(np.asarray(picture(0, 28)), dtype=torch.float32).permute(2, 0, 1) / 255.0
    policy, ids = Policy(np.zeros(7)), torch.zeros(1, 3, dtype=torch.long)
    for pixels in (shot, shot * 0.001, torch.zeros_like(shot)):
        policy.predict_action(ids, pixels[None])
    episode = watched.episode()
    bright, dim, nothing = (query for _, query in episode.queries())
    assert np.ptp(pixels_of(bright.image)) == np.ptp(pixels_of(dim.image)) == 255
    assert np.corrcoef(pixels_of(bright.image).ravel(), np.asarray(picture(0, 28)).ravel())[0, 1] > 0.999
    assert np.unique(pixels_of(nothing.image)).tolist() == [128]
    view = model_view(Facts(episode, load_profile("openvla")))
    assert view is not None
    assert [one.step for one in view.statistics] == [2]


def test_normalisations() -> None:
    class Processor:
        image_mean, image_std = 0.5, (0.5, 0.25, 0.5)
        rescale_factor = 1 / 127.5

    found = normalisation_of(Processor())
    assert found is not None
    assert (found.mean, found.std) == ([0.25] * 3, [0.25, 0.125, 0.25])
    plain = normalisation_of(Processor(), {"do_normalize": False, "do_rescale": False})
    assert plain is not None
    assert plain.mean == [0.0] * 3
    assert plain.std == pytest.approx([1 / 255] * 3)
    assert normalisation_of(None) is None
    assert normalisation_of(object()) is None


# Real classes of transformers, as small as they can be made.


def vision_config(**more: Any) -> dict[str, Any]:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    return {**sizes, "image_size": SIDE, "patch_size": 14, **more}


def make(name: str, **options: Any) -> Any:
    config = getattr(transformers, f"{name}Config")(**options)
    torch.manual_seed(0)
    return getattr(transformers, f"{name}ForConditionalGeneration")(config).eval()


def make_llava() -> tuple[Any, Mapping[str, Any]]:
    model = make(
        "Llava",
        vision_config=transformers.CLIPVisionConfig(**vision_config(projection_dim=32)),
        text_config=transformers.LlamaConfig(**text_config()),
        image_token_index=IMAGE_ID,
    )
    # One id an image until 4.45, one id a patch since.
    patches = 1 if transformers.__version__ < "4.45" else 4
    return model, prompt(patches, pixel_values=torch.randn(1, 3, SIDE, SIDE))


def make_llava_onevision() -> tuple[Any, Mapping[str, Any]]:
    model = make(
        "LlavaOnevision",
        vision_config=transformers.SiglipVisionConfig(**vision_config()),
        text_config=transformers.Qwen2Config(**text_config()),
        image_token_index=IMAGE_ID,
        image_grid_pinpoints=[[SIDE, SIDE]],
    )
    sizes = {"pixel_values": torch.randn(1, 2, 3, SIDE, SIDE), "image_sizes": torch.tensor([[SIDE, SIDE]])}
    return model, prompt(10, **sizes)


def make_paligemma() -> tuple[Any, Mapping[str, Any]]:
    model = make(
        "PaliGemma",
        vision_config=vision_config(model_type="siglip_vision_model", projection_dim=32),
        text_config=text_config(model_type="gemma", head_dim=16),
        image_token_id=IMAGE_ID,
        image_token_index=IMAGE_ID,
        projection_dim=32,
        hidden_size=32,
    )
    return model, prompt(4, pixel_values=torch.randn(1, 3, SIDE, SIDE))


def make_idefics2() -> tuple[Any, Mapping[str, Any]]:
    resampler = {"resampler_n_latents": 3, "resampler_depth": 1, "resampler_n_heads": 2, "num_key_value_heads": 1}
    model = make(
        "Idefics2",
        vision_config=vision_config(),
        text_config=transformers.MistralConfig(**text_config()),
        perceiver_config={**resampler, "resampler_head_dim": 16, "hidden_act": "silu"},
        image_token_id=IMAGE_ID,
    )
    return model, prompt(3, pixel_values=torch.randn(1, 1, 3, SIDE, SIDE))


def make_idefics3(name: str) -> tuple[Any, Mapping[str, Any]]:
    model = make(
        name,
        vision_config=vision_config(),
        text_config=text_config(model_type="llama"),
        image_token_id=IMAGE_ID,
        scale_factor=2,
        pad_token_id=0,
    )
    return model, prompt(3, pixel_values=torch.randn(1, 3, 3, SIDE, SIDE))


def make_qwen(name: str, **more: Any) -> tuple[Any, Mapping[str, Any]]:
    tower = {"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 14, **more}
    rope = {"type": "mrope", "rope_type": "default", "mrope_section": [2, 3, 3]}
    text = {**text_config(), "rope_scaling": rope}
    nested = {"text_config": text} if int(transformers.__version__.split(".")[0]) >= 5 else text
    model = make(name, vision_config=tower, image_token_id=IMAGE_ID, vision_start_token_id=298, **nested)
    inputs = dict(prompt(1, pixel_values=torch.randn(4, 1176), image_grid_thw=torch.tensor([[1, 2, 2]])))
    if nested.keys() == {"text_config"}:
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == IMAGE_ID).long()
    return model, inputs


def prompt(patches: int, **images: Any) -> Mapping[str, Any]:
    ids = torch.tensor([[1, *[IMAGE_ID] * patches, 5, 6]])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **images}


MODELS: dict[str, tuple[Callable[[], tuple[Any, Mapping[str, Any]]], int]] = {
    "Llava": (make_llava, 1),
    "LlavaOnevision": (make_llava_onevision, 2),
    "PaliGemma": (make_paligemma, 1),
    "Idefics2": (make_idefics2, 1),
    "Idefics3": (lambda: make_idefics3("Idefics3"), 3),
    "SmolVLM": (lambda: make_idefics3("SmolVLM"), 3),
    "Qwen2VL": (lambda: make_qwen("Qwen2VL"), 0),
    "Qwen2_5_VL": (
        lambda: make_qwen("Qwen2_5_VL", out_hidden_size=32, intermediate_size=64, fullatt_block_indexes=[0]),
        0,
    ),
}


@pytest.mark.parametrize("name", [name for name in MODELS if hasattr(transformers, f"{name}Config")])
def test_models_of_transformers(tmp_path: Path, name: str) -> None:
    make_model, pictures = MODELS[name]
    model, inputs = make_model()
    assert vision_tower(model) is not None
    with torch.no_grad():
        bare = model.generate(**inputs, max_new_tokens=3, **GREEDY)
        recording = Watched(tmp_path)
        found = model.generate(**inputs, max_new_tokens=3, **GREEDY)
    assert torch.equal(bare, found)
    assert hooks(model) == []
    (query,) = recording.queries()
    assert query.boundary == "generate"
    assert query.input_ids == tuple(inputs["input_ids"][0].tolist())
    assert query.ids == tuple(bare[0, -3:].tolist())
    assert query.vision_calls == 1
    assert len(query.margin) == 3
    assert (query.action_mass, query.entropy) == ((), ())
    assert (query.image is not None) + len(query.more_images) == pictures
    assert recording.watch.run["checkpoint"]["model_type"] == model.config.model_type
    assert recording.watch.run["checkpoint"].get("image_size") == (SIDE if pictures else None)


def test_llavas_own_processor(processor: Any, watched: Watched) -> None:
    images = transformers.CLIPImageProcessor(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, do_convert_rgb=True
    )
    tokenizer = copy.deepcopy(processor.tokenizer)
    if int(transformers.__version__.split(".")[0]) < 5:
        tokenizer = transformers.LlamaTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    llava = transformers.LlavaProcessor(images, tokenizer)
    if transformers.__version__ >= "4.45":
        llava.patch_size, llava.vision_feature_select_strategy, llava.num_additional_image_tokens = 14, "default", 1
    text = "USER: <image>\nlift the soup ASSISTANT:"
    inputs = llava(text=text, images=picture(0, SIDE), return_tensors="pt")
    Policy(np.zeros(7)).predict_action(**inputs)
    (query,) = watched.queries()
    assert query.prompt == text
    assert near(query.image, picture(0, SIDE))


@pytest.mark.may_skip
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_nothing_waits(processor: Any, watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    guard = type(watched.watch.tap)
    enter, leave = guard.__enter__, guard.__exit__

    def strict(self: Any) -> None:
        torch.cuda.set_sync_debug_mode("error")
        enter(self)

    def relaxed(self: Any, *args: Any) -> bool:
        torch.cuda.set_sync_debug_mode("default")
        return leave(self, *args)

    monkeypatch.setattr(guard, "__enter__", strict)
    monkeypatch.setattr(guard, "__exit__", relaxed)
    model, (llava, inputs) = load().to("cuda", torch.bfloat16), make_llava()
    llava, expected = llava.to("cuda"), []
    for prompt_, shot in zip(PROMPTS, map(picture, range(2)), strict=True):
        given = processor(prompt_, shot).to("cuda", dtype=torch.bfloat16)
        expected.append(tuple(model.predict_action(**given, **KEY, **GREEDY).tolist()))
    twice = {name: torch.cat([values] * 2).cuda() for name, values in inputs.items()}
    output = llava.generate(**twice, max_new_tokens=3, **GREEDY)
    Policy(torch.tensor(CHUNK, device="cuda")).predict_action(twice["input_ids"][:1], proprio=torch.ones(8).cuda())
    first, second, third, fourth, fifth = watched.queries()
    assert any("further model" in problem for problem in watched.watch.errors)
    assert not any("stopped" in problem for problem in watched.watch.errors)
    assert [first.action, second.action] == expected
    assert [first.prompt, second.prompt] == list(PROMPTS)
    assert near(first.image, picture(0), levels=2)
    assert (len(first.ids), len(first.margin), len(first.action_mass), first.vision_calls) == (7, 7, 7, 1)
    assert [third.ids, fourth.ids] == [tuple(row[-3:]) for row in output.tolist()]
    assert third.input_ids == tuple(inputs["input_ids"][0].tolist())
    assert third.margin == pytest.approx(fourth.margin, abs=1e-4)
    assert (len(third.margin), third.action_mass) == (3, ())
    assert np.ptp(pixels_of(third.image)) == 255
    assert (fifth.action, len(fifth.chunk), fifth.proprio) == (tuple(range(7)), 8, {"proprio": (1.0,) * 8})
