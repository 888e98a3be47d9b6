"""The same thing, written in every way people write it: one healthy loop, one expression of it replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from vladoctor.check import Severity, all_checks
from vladoctor.lint.run import lint_paths

HEALTHY = (Path(__file__).parent / "lint" / "vd201" / "rot180.good.py").read_text("utf-8")
IMPORTS = """
import cv2
import einops
import torch.nn.functional as F
import torchvision
import torchvision.transforms.functional as TF
from PIL import ImageOps
"""

FRAME = 'frame = obs["agentview_image"][::-1, ::-1]'
PROMPT = 'prompt = f"In: What action should the robot take to {instruction.lower()}?\\nOut:"'
GRIPPER = "    action = np.array(action)\n    action[-1] = -np.sign(2 * action[-1] - 1)\n    return action\n"

ROT180 = [
    "x[::-1, ::-1]",
    "x[::-1, ::-1, :]",
    "x[::-1, ::-1, ...]",
    "x[::-1][:, ::-1]",
    "x[:, ::-1][::-1]",
    "x[slice(None, None, -1), slice(None, None, -1)]",
    "np.ascontiguousarray(x[::-1, ::-1])",
    "x[::-1, ::-1].copy()",
    "np.flip(x, axis=(0, 1))",
    "np.flip(x, (0, 1)).copy()",
    "np.flip(np.flip(x, 0), 1)",
    "np.flip(x, axis=[0, 1])",
    "np.fliplr(np.flipud(x))",
    "np.flipud(np.fliplr(x).copy()).copy()",
    "np.rot90(x, 2)",
    "np.rot90(x, k=2)",
    "np.rot90(x, k=2, axes=(0, 1))",
    "np.rot90(np.rot90(x))",
    "np.rot90(x, -2)",
    "cv2.flip(x, -1)",
    "cv2.rotate(x, cv2.ROTATE_180)",
    "cv2.flip(cv2.flip(x, 0), 1)",
    "np.array(Image.fromarray(x).rotate(180))",
    "np.array(Image.fromarray(x).transpose(Image.ROTATE_180))",
    "np.asarray(Image.fromarray(x).transpose(Image.Transpose.ROTATE_180))",
    "np.array(Image.fromarray(x).transpose(Image.FLIP_TOP_BOTTOM).transpose(Image.FLIP_LEFT_RIGHT))",
    "np.array(ImageOps.mirror(ImageOps.flip(Image.fromarray(x))))",
    "torch.flip(torch.from_numpy(x), dims=[0, 1]).numpy()",
    "torch.from_numpy(x.copy()).flip(0, 1).numpy()",
    "torch.flip(torch.from_numpy(x).permute(2, 0, 1), [1, 2]).permute(1, 2, 0).numpy()",
    "torch.rot90(torch.from_numpy(x), 2, [0, 1]).numpy()",
    "TF.vflip(TF.hflip(torch.from_numpy(x).permute(2, 0, 1))).permute(1, 2, 0).numpy()",
    "np.array(TF.rotate(Image.fromarray(x), 180))",
    "np.transpose(np.transpose(x, (2, 0, 1))[:, ::-1, ::-1], (1, 2, 0))",
    "einops.rearrange(einops.rearrange(x, 'h w c -> c h w')[:, ::-1, ::-1], 'c h w -> h w c')",
    "x.transpose(1, 0, 2)[::-1].transpose(1, 0, 2)[::-1]",
    "np.stack([row[::-1] for row in x[::-1]])",
]

FLIPPED = [
    "x[::-1]",
    "x[::-1, :, :]",
    "x[::-1, ...]",
    "x[::-1].copy()",
    "np.flip(x, 0)",
    "np.flip(x, axis=0)",
    "np.flipud(x)",
    "np.flipud(x).astype(np.uint8)",
    "cv2.flip(x, 0)",
    "np.array(Image.fromarray(x).transpose(Image.FLIP_TOP_BOTTOM))",
    "np.array(ImageOps.flip(Image.fromarray(x)))",
    "torch.flip(torch.from_numpy(x), dims=[0]).numpy()",
    "torch.from_numpy(x).flip(0).numpy()",
    "TF.vflip(torch.from_numpy(x).permute(2, 0, 1)).permute(1, 2, 0).numpy()",
    "np.flip(x, axis=(0, 1))[:, ::-1]",
]

OTHERWISE = [
    "x",
    "x.copy()",
    "x[:, ::-1]",
    "np.fliplr(x)",
    "np.flip(x, 1)",
    "cv2.flip(x, 1)",
    "np.rot90(x)",
    "np.rot90(x, 3)",
    "cv2.rotate(x, cv2.ROTATE_90_CLOCKWISE)",
    "x.transpose(1, 0, 2)",
    "np.swapaxes(x, 0, 1)",
    "np.array(Image.fromarray(x).rotate(90))",
    "np.array(Image.fromarray(x).transpose(Image.FLIP_LEFT_RIGHT))",
    "x[::-1, ::-1][::-1, ::-1]",
]

PROMPTS = [
    'f"In: What action should the robot take to {instruction.lower()}?\\nOut:"',
    'f"In: What action should the robot take to {instruction}?\\nOut:"',
    'f"In: What action should the robot take to {instruction.lower().strip()}?\\nOut:"',
    '"In: What action should the robot take to {}?\\nOut:".format(instruction.lower())',
    '"In: What action should the robot take to {0}?\\nOut:".format(instruction)',
    '"In: What action should the robot take to {x}?\\nOut:".format(x=instruction)',
    '"In: What action should the robot take to {x}?\\nOut:".format(**{"x": instruction})',
    '"In: What action should the robot take to {x}?\\nOut:".format_map({"x": instruction})',
    '"In: What action should the robot take to %s?\\nOut:" % instruction.lower()',
    '"In: What action should the robot take to %s?\\nOut:" % (instruction,)',
    '"In: What action should the robot take to %(x)s?\\nOut:" % {"x": instruction}',
    '"In: What action should the robot take to " + instruction + "?\\nOut:"',
    '"".join(["In: What action should the robot take to ", instruction.lower(), "?\\nOut:"])',
    '"\\n".join((f"In: What action should the robot take to {instruction}?", "Out:"))',
    '"In: What action should the robot take to X?\\nOut:".replace("X", instruction.lower())',
    '("In: What action should the robot take to " f"{instruction}?" "\\nOut:")',
    '"In: What action should the robot take to {}?{}Out:".format(instruction, chr(10))',
    'f"In: What action should the robot take to {str(instruction)}?\\nOut:"',
    'f"In: What action should the robot take to {instruction:s}?\\nOut:"',
    'f"""In: What action should the robot take to {instruction}?\nOut:"""',
]

WRONG_PROMPTS = [
    "instruction",
    "instruction.lower()",
    "str(instruction)",
    'f"{instruction}"',
    'f"In: {instruction}\\nOut:"',
    'f"In: What action should the robot take to {instruction}?"',
    'f"In: What action should the robot take to {instruction}? Out:"',
    'f"In: What action should the robot take to {instruction}?\\n\\nOut:"',
    'f"In: What action should the robot take to {instruction}?\\nOut:\\n"',
    'f"In:What action should the robot take to {instruction}?\\nOut:"',
    'f"In: What action should the robot take to {instruction}.\\nOut:"',
    'f"What action should the robot take to {instruction}?"',
    'f"USER: What action should the robot take to {instruction}? ASSISTANT:"',
    'f"In: What action should the robot take to {instruction.upper()}?\\nOut:"',
    '"In: What action should the robot take to {}\\nOut:".format(instruction)',
    '"In: What action should the robot take to " + instruction + "? \\nOut:"',
    '"In: What action should the robot take to do the task?\\nOut:"',
]

GRIPPERS = [
    "action[-1] = -np.sign(2 * action[-1] - 1)",
    "action[-1] = np.sign(1 - 2 * action[-1])",
    "action[-1] = 1 - 2 * action[-1]",
    "action[-1] = 1.0 - 2.0 * (action[-1] > 0.5)",
    "action[-1] = -1 if action[-1] > 0.5 else 1",
    "action[6] = 1.0 if action[6] < 0.5 else -1.0",
    "action[6:] = np.where(action[6:] > 0.5, -1, 1)",
    "action[..., -1] = -(action[..., -1] * 2 - 1)",
    "action[-1] = (action[-1] - 0.5) * -2",
    "action[-1] = -2 * (float(action[-1] > 0.5) - 0.5)",
    "action[-1] = np.interp(action[-1], [0, 1], [1, -1])",
    "action = np.concatenate([action[:6], -np.sign(2 * action[6:7] - 1)])",
    "action = np.append(action[:-1], 1 - 2 * action[-1])",
    "action = np.hstack([action[:6], [1 - 2 * round(action[6])]])",
    "action = np.array([*action[:6], 1 - 2 * action[6]])",
    "action = list(action[:6]) + [-1.0 if action[6] >= 0.5 else 1.0]; action = np.array(action)",
    "action = action * np.array([1, 1, 1, 1, 1, 1, 2]) - np.array([0, 0, 0, 0, 0, 0, 1]); action[-1] *= -1",
    "action[-1] = np.clip(1 - 2 * action[-1], -1, 1)",
    "action[-1] = 1 - action[-1]; action[-1] = 2 * action[-1] - 1",
    "action[-1] = np.round(action[-1]); action[-1] = -1 if action[-1] == 1 else 1",
    "action[-1:] = np.sign(1 - 2 * action[-1:])",
    "np.put(action, 6, 1 - 2 * action[6])",
    "x, y, z, a, b, c, g = action; action = np.array([x, y, z, a, b, c, 1 - 2 * g])",
]

WRONG_GRIPPERS = [
    "pass",
    "action[-1] = np.sign(2 * action[-1] - 1)",
    "action[-1] = 2 * action[-1] - 1",
    "action[-1] = -action[-1]",
    "action[-1] = 1 - action[-1]",
    "action[-1] = 1 if action[-1] > 0.5 else -1",
    "action[-1] = np.round(action[-1])",
    "action[-1] = np.where(action[-1] > 0.5, 1.0, -1.0)",
    "action[-1] = float(action[-1] > 0.5)",
    "action = np.clip(action, -1, 1)",
    "action[-1] = 1 - 2 * action[-1]; action[-1] = -action[-1]",
]

CROPS = [
    "image.crop((6, 6, 218, 218)).resize((224, 224))",
    "TF.resize(TF.center_crop(image, int(224 * 0.9**0.5)), [224, 224])",
    "torchvision.transforms.CenterCrop(212)(image).resize((224, 224))",
    "Image.fromarray(np.asarray(image)[6:218, 6:218]).resize((224, 224))",
    "Image.fromarray(cv2.resize(np.asarray(image)[6:-6, 6:-6], (224, 224)))",
    "Image.fromarray(np.array(image)[6:218][:, 6:218]).resize((224, 224), Image.BICUBIC)",
    "ImageOps.crop(image, border=6).resize((224, 224))",
    "TF.resized_crop(image, 6, 6, 212, 212, [224, 224])",
]


def codes(text: str, folder: Path) -> set[str]:
    path = folder / "loop.py"
    path.write_text(text.replace("from PIL import Image\n", "from PIL import Image\n" + IMPORTS, 1), "utf-8")
    result = lint_paths([path], all_checks(), {}, folder)
    assert not result.skipped
    assert len(result.loops) == 1
    return {finding.code for finding in result.findings if finding.severity.at_least(Severity.FIX)}


def replaced(old: str, new: str) -> str:
    assert HEALTHY.count(old) == 1
    return HEALTHY.replace(old, new)


@pytest.mark.parametrize("expression", ROT180)
def test_turned_by_180_degrees(expression: str, tmp_path: Path) -> None:
    assert codes(replaced(FRAME, f'x = obs["agentview_image"]\n    frame = {expression}'), tmp_path) == set()


@pytest.mark.parametrize("expression", FLIPPED + OTHERWISE)
def test_turned_otherwise(expression: str, tmp_path: Path) -> None:
    assert codes(replaced(FRAME, f'x = obs["agentview_image"]\n    frame = {expression}'), tmp_path) == {"VD201"}


@pytest.mark.parametrize("expression", PROMPTS)
def test_prompt(expression: str, tmp_path: Path) -> None:
    assert codes(replaced(PROMPT, f"prompt = {expression}"), tmp_path) == set()


@pytest.mark.parametrize("expression", WRONG_PROMPTS)
def test_wrong_prompt(expression: str, tmp_path: Path) -> None:
    found = codes(replaced(PROMPT, f"prompt = {expression}"), tmp_path)
    assert found == ({"VD302"} if "do the task" in expression else {"VD301"})


@pytest.mark.parametrize("statement", GRIPPERS)
def test_gripper(statement: str, tmp_path: Path) -> None:
    body = f"    action = np.array(action)\n    {statement}\n    return action\n"
    assert codes(replaced(GRIPPER, body), tmp_path) == set()


@pytest.mark.parametrize("statement", WRONG_GRIPPERS)
def test_wrong_gripper(statement: str, tmp_path: Path) -> None:
    body = f"    action = np.array(action)\n    {statement}\n    return action\n"
    assert codes(replaced(GRIPPER, body), tmp_path) == {"VD502"}


@pytest.mark.parametrize("expression", CROPS)
def test_crop(expression: str, tmp_path: Path) -> None:
    assert codes(replaced("return centre_crop(image)", f"return {expression}"), tmp_path) == set()
