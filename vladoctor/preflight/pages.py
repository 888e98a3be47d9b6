"""What a pre-flight looks at under each code of the catalogue, for `vladoctor explain` and the documentation."""

from __future__ import annotations

from collections.abc import Mapping

BEFORE: Mapping[str, tuple[int, str]] = {
    "VD101": (1, "frames that are drawn while the arm is driven a few centimetres: black, noise, or nothing to see"),
    "VD102": (1, "the same frames: whether they change as the arm moves"),
    "VD103": (1, "whether the camera of the run file exists in the environment"),
    "VD104": (0, "whether the assets are there that the scene is drawn of; at level 1 those of the task, one by one"),
    "VD204": (1, "whether the processor makes images of the size that the model is made for"),
    "VD302": (1, "whether the tasks that the run file names exist"),
    "VD303": (
        0,
        "the processor's files; at level 1 the ids that it makes of the expected prompt, and that it gives it back",
    ),
    "VD401": (1, "whether all 256 action ids go through the tokenizer's text and back"),
    "VD405": (1, "the vocabulary's base and the number of bins by the checkpoint's configuration"),
    "VD501": (0, "the file of statistics; at level 1 those of the suite: their key, their length, their numbers"),
    "VD502": (1, "the fingers, told to open, to close and to open again"),
    "VD503": (
        1,
        "the hand, told one dimension at a time: along which axis, in which frame, how far; that it stands still when "
        "told nothing; the length of an action; at level 2 that an answer has finite numbers",
    ),
    "VD602": (
        0,
        "LIBERO's configuration, without which its import asks on stdin, and its folders; at level 1 the files and "
        "numbers of init states, and that a state that was set is in force",
    ),
    "VD604": (2, "whether a short episode runs to its end"),
    "VD606": (1, "control steps a second by the simulator's own clock"),
    "VD607": (0, "the variables that choose how MuJoCo draws; at level 1 that it draws, and on what"),
    "VD701": (1, "the device, the dtype, and memory for the weights in it"),
    "VD703": (
        0,
        "libraries that the loop needs, versions against the profile's; at level 1 that the checkpoint's code runs",
    ),
    "VD704": (
        0,
        "the model folder; at level 1 whether files of weights are whole, as the index and their hashes say, hold what "
        "the model has, and are of this suite; at level 2 that they load",
    ),
    "VD705": (2, "how long a query takes"),
    "VD803": (0, "the run file"),
    "VD902": (0, "whether there is room for recordings and reports"),
}
"""Code -> (lowest level, what is looked at)."""


def before(code: str) -> str:
    """A sentence for a check's page; "" where a pre-flight does not look at it by itself."""
    if code not in BEFORE:
        return ""
    level, what = BEFORE[code]
    return f"`vladoctor preflight` looks, from level {level} on, at {what}."
