"""The tiny checkpoint behaves like an openvla-7b snapshot: loading, id layout, prompts, decoding, one vision pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from compat_actions import load, smooth_image  # noqa: E402

FOLDER = Path(__file__).resolve().parents[1] / "fixtures" / "tiny-openvla"
PROMPT = "In: What action should the robot take to {}?\nOut:"
CHAT_PROMPT = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. USER: What action should the robot take to {}? ASSISTANT:"
)
SOUP = "pick up the alphabet soup and place it in the basket"
KEY = "libero_object"


@pytest.fixture(scope="module")
def policy() -> tuple[Any, Any]:
    return load(FOLDER)


@pytest.fixture(scope="module")
def tokenizer(policy: tuple[Any, Any]) -> Any:
    return policy[0].tokenizer


def ids_of(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text)["input_ids"]


def test_folder_is_small() -> None:
    sizes = {path.name: path.stat().st_size for path in FOLDER.iterdir() if path.is_file()}
    assert sizes["model.safetensors"] <= 16e6
    assert sum(sizes.values()) <= 20e6


def test_every_stored_weight_is_loaded_and_the_head_is_tied(policy: tuple[Any, Any]) -> None:
    from safetensors.torch import load_file

    model = policy[1]
    stored = load_file(FOLDER / "model.safetensors")
    loaded = dict(model.named_parameters())
    assert set(stored) == set(loaded)
    for name, value in stored.items():
        torch.testing.assert_close(loaded[name], value.float(), rtol=0, atol=0, msg=name)
    assert model.language_model.lm_head.weight is model.language_model.model.embed_tokens.weight


def test_rotary_frequencies_survive_loading(policy: tuple[Any, Any]) -> None:
    # A buffer that is not in the file; loading through the meta device has to compute it anew.
    config = policy[1].config.text_config
    width = config.hidden_size // config.num_attention_heads
    expected = 10_000.0 ** -(torch.arange(0, width, 2).float() / width)
    found = [value for name, value in policy[1].named_buffers() if name.endswith("rotary_emb.inv_freq")]
    assert found
    for value in found:
        torch.testing.assert_close(value, expected)


def test_processor_output(policy: tuple[Any, Any]) -> None:
    image = smooth_image(0)
    inputs = policy[0](PROMPT.format(SOUP), image)
    assert inputs["input_ids"].shape == inputs["attention_mask"].shape
    assert inputs["pixel_values"].shape == (1, 6, 128, 128)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255.0
    torch.testing.assert_close(inputs["pixel_values"][0, 3:], (pixels - 0.5) / 0.5)
    red = (pixels[0] - 0.485) / 0.229
    torch.testing.assert_close(inputs["pixel_values"][0, 0], red)

    cast = inputs.to("cpu", dtype=torch.bfloat16)
    assert cast["pixel_values"].dtype == torch.bfloat16
    assert cast["input_ids"].dtype == torch.int64


def test_id_layout(policy: tuple[Any, Any], tokenizer: Any) -> None:
    model = policy[1]
    assert model.vocab_size == 32_000
    assert model.get_input_embeddings().weight.shape[0] == 32_064
    assert model.bins.shape == (256,)
    assert model.bin_centers.shape == (255,)
    assert tokenizer.convert_tokens_to_ids(["<unk>", "<s>", "</s>", "<0x0A>", "<PAD>"]) == [0, 1, 2, 13, 32_000]
    assert tokenizer.convert_tokens_to_ids("\u2581") == 29_871
    assert tokenizer.pad_token_id == 32_000


def test_trailing_space_is_the_empty_token(tokenizer: Any) -> None:
    canonical = ids_of(tokenizer, PROMPT.format(SOUP))
    assert canonical[0] == 1
    assert canonical.count(1) == 1
    assert canonical.count(13) == 1
    assert ids_of(tokenizer, PROMPT.format(SOUP) + " ") == [*canonical, 29_871]


@pytest.mark.parametrize(
    "text",
    [
        PROMPT.format(SOUP) + "  ",
        PROMPT.format(SOUP) + "\n",
        PROMPT.format(SOUP).replace("\n", " "),
        PROMPT.format(SOUP).replace("\n", ""),
        PROMPT.format(SOUP.capitalize()),
        PROMPT.format(SOUP + "."),
        CHAT_PROMPT.format(SOUP),
        SOUP,
    ],
)
def test_other_prompts_have_other_ids(tokenizer: Any, text: str) -> None:
    canonical = ids_of(tokenizer, PROMPT.format(SOUP))
    ids = ids_of(tokenizer, text)
    assert ids not in (canonical, [*canonical, 29_871])
    assert max(ids) < 31_744, "no text may produce an action id"


@pytest.mark.parametrize("template", [PROMPT, CHAT_PROMPT])
@pytest.mark.parametrize("thing", ["alphabet soup", "tomato sauce", "butter"])
def test_prompts_are_made_of_whole_words(tokenizer: Any, template: str, thing: str) -> None:
    text = template.format(f"pick up the {thing} and place it in the basket")
    pieces = tokenizer.convert_ids_to_tokens(ids_of(tokenizer, text))
    assert "<unk>" not in pieces
    words = {piece.lstrip("\u2581") for piece in pieces}
    assert {*thing.split(), "pick", "basket"} <= words
    assert len(pieces) <= 2 * len(text.split())


@pytest.mark.parametrize("text", ["caf\u00e9 \u2192 \U0001f916", "xylophone_17 #[]{}", "tab\tand\r\nnewline"])
def test_any_text_survives_the_round_trip(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(ids_of(tokenizer, text), skip_special_tokens=True) == text


def test_tokenizer_files_are_what_their_script_builds(tmp_path: Path) -> None:
    from vladoctor.fixtures.build import tokenizer as build

    build.write(tmp_path)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (FOLDER / path.name).read_bytes(), path.name


def test_one_vision_pass_per_query(policy: tuple[Any, Any]) -> None:
    processor, model = policy
    inputs = processor(PROMPT.format(SOUP), smooth_image(1))
    passes: list[int] = []
    lengths: list[int] = []
    towers = [model.vision_backbone.featurizer, model.vision_backbone.fused_featurizer, model.projector]
    hooks = [module.register_forward_hook(lambda *_: passes.append(1)) for module in towers]
    norm = model.language_model.model.norm
    hooks.append(norm.register_forward_hook(lambda _, __, output: lengths.append(output.shape[1])))
    try:
        model.predict_action(**inputs, unnorm_key=KEY, do_sample=False)
    finally:
        for hook in hooks:
            hook.remove()
    assert len(passes) == len(towers)
    assert lengths == [256 + inputs["input_ids"].shape[1] + 1, 1, 1, 1, 1, 1, 1]


def test_cache_does_not_change_the_ids(policy: tuple[Any, Any]) -> None:
    processor, model = policy
    inputs = processor(PROMPT.format(SOUP) + " ", smooth_image(2))
    generated = model.generate(**inputs, max_new_tokens=7, do_sample=False)
    ids = inputs["input_ids"]
    for _ in range(7):
        with torch.no_grad():
            logits = model(input_ids=ids, pixel_values=inputs["pixel_values"], logits_to_keep=1).logits
        assert logits.shape[1] == 1
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(ids, generated)


def test_trailing_space_gives_the_same_action(policy: tuple[Any, Any]) -> None:
    processor, model = policy
    without, with_space = (processor(PROMPT.format(SOUP) + end, smooth_image(3)) for end in ("", " "))
    before = without["attention_mask"].clone()
    action = model.predict_action(**without, unnorm_key=KEY, do_sample=False)
    np.testing.assert_array_equal(action, model.predict_action(**with_space, unnorm_key=KEY, do_sample=False))
    assert torch.equal(without["attention_mask"], before)


@pytest.mark.parametrize(
    ("token_id", "normalized"),
    [
        (31_999, -254 / 255), (31_872, 0.0), (31_745, 254 / 255), (31_744, 254 / 255),
        (2, 254 / 255), (29_871, 254 / 255), (32_000, -254 / 255),
    ],
)  # fmt: skip
def test_decoding_follows_the_formula(policy: tuple[Any, Any], token_id: int, normalized: float) -> None:
    model = policy[1]
    stats = json.loads((FOLDER / "dataset_statistics.json").read_text("utf-8"))[KEY]["action"]
    action = model.decode_action(np.full(7, token_id), KEY)
    low, high = np.array(stats["q01"]), np.array(stats["q99"])
    expected = np.where(stats["mask"], 0.5 * (normalized + 1) * (high - low) + low, normalized)
    np.testing.assert_allclose(action, expected, atol=1e-9)
    assert action.shape == (model.get_action_dim(KEY),)


def test_predicted_action_is_the_decoded_ids(policy: tuple[Any, Any]) -> None:
    processor, model = policy
    inputs = processor(PROMPT.format(SOUP) + " ", smooth_image(0))
    generated = model.generate(**inputs, max_new_tokens=7, do_sample=False)
    action = model.predict_action(**inputs, unnorm_key=KEY, do_sample=False)
    np.testing.assert_array_equal(action, model.decode_action(generated[0, -7:].numpy(), KEY))


def test_unknown_key_raises(policy: tuple[Any, Any]) -> None:
    processor, model = policy
    inputs = processor(PROMPT.format(SOUP), smooth_image(0))
    with pytest.raises(AssertionError, match="fractal20220817_data"):
        model.predict_action(**inputs, unnorm_key="fractal20220817_data")
    with pytest.raises(AssertionError, match="several"):
        model.get_action_stats()


def test_statistics_agree_in_both_files() -> None:
    config = json.loads((FOLDER / "config.json").read_text("utf-8"))
    assert config["norm_stats"] == json.loads((FOLDER / "dataset_statistics.json").read_text("utf-8"))


def test_more_than_one_query_at_a_time_is_refused(policy: tuple[Any, Any]) -> None:
    processor, model = policy
    inputs = processor([PROMPT.format(SOUP)] * 2, [smooth_image(0), smooth_image(1)])
    with pytest.raises(ValueError, match="batch size 1"):
        model.generate(**inputs, max_new_tokens=7)
