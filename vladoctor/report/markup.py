"""Text that others wrote, as safe HTML: prose with code in it, prompts with their whitespace made visible, numbers.

Everything goes through markupsafe, so nothing of an instruction, a prompt or a message is ever read as markup.
"""

from __future__ import annotations

import json
import re
import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from vladoctor.report.svg import number

CELL_LIMIT = 600
"""Characters of a value that is no number; what is longer is in the JSON report."""

_SIGNS = {" ": "·", "\n": "↵", "\t": "⇥", "\r": "␍", "\u00a0": "⍽"}
_UNSEEN = ("Cc", "Cf", "Co", "Cs", "Zl", "Zp", "Zs")
_FENCE = re.compile(r"^```.*?^```[ \t]*$", re.M | re.S)
_BOUNDARY = re.compile(r"^(?![ \t*-])(.*\S.*)\n(?= {4}\S|[*-] )|^( {4}.*)\n(?=\S)", re.M)
_EMPHASIS = re.compile(r"(?<![\w*])\*(\w(?:[^*\n]*\w)?)\*(?![\w*])")
_CODE = re.compile(r"(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.S)


def prose(text: str, heading: str = "h4") -> Markup:
    """The Markdown that messages, remedies and pages use: paragraphs, headings, lists, `code` and code blocks.

    Args:
        heading: tag for headings of every depth.
    """
    text = textwrap.dedent(text).strip("\n")
    parts: list[Markup] = []
    position = 0
    for fence in _FENCE.finditer(text):
        parts.append(_blocks(text[position : fence.start()], heading))
        parts.append(_code_block(fence.group().split("\n", 1)[1].rsplit("```", 1)[0]))
        position = fence.end()
    parts.append(_blocks(text[position:], heading))
    return Markup("").join(parts)


def inline(text: str) -> Markup:
    """One run of text: between backticks is code, between asterisks emphasis."""
    parts: list[Markup] = []
    position = 0
    for code in _CODE.finditer(text):
        parts.append(_emphasised(text[position : code.start()]))
        parts.append(Markup("<code>{}</code>").format(code.group(2)))
        position = code.end()
    parts.append(_emphasised(text[position:]))
    return Markup("").join(parts)


def visible(text: str) -> Markup:
    """Text with a sign in the place of (or, for a line end, before) every character that would not be seen."""
    return Markup("").join(_visible_character(character) for character in text)


def difference(diff: Sequence[Sequence[str]]) -> tuple[Markup, Markup]:
    """(what is expected, what was given) from a list of [op, text], with what differs marked in each."""
    expected: list[Markup] = []
    given: list[Markup] = []
    for op, text in diff:
        if op != "+":
            expected.append(Markup("<del>{}</del>" if op == "-" else "{}").format(visible(text)))
        if op != "-":
            given.append(Markup("<ins>{}</ins>" if op == "+" else "{}").format(visible(text)))
    return Markup("").join(expected), Markup("").join(given)


def value(item: Any) -> str:
    """A value of a finding's evidence as a short text."""
    item = plain(item)
    if isinstance(item, bool):
        return "yes" if item else "no"
    if item is None:
        return "–"
    if isinstance(item, int):
        return str(item)
    if isinstance(item, float):
        return number(item)
    if isinstance(item, str):
        text = item
    elif isinstance(item, Mapping):
        text = ", ".join(f"{str(key).replace('_', ' ')} {value(member)}" for key, member in item.items())
    elif isinstance(item, Sequence):
        text = ", ".join(value(member) for member in item)
    else:
        text = json.dumps(item, default=str, ensure_ascii=False)
    return text if len(text) <= CELL_LIMIT else text[: CELL_LIMIT - 1] + "…"


def plain(item: Any) -> Any:
    """Python's own numbers and lists in the place of numpy's."""
    return item.tolist() if isinstance(item, np.ndarray | np.generic) else item


def first_sentence(text: str) -> str:
    """Up to the first full stop that ends a sentence, without it."""
    first = re.split(r"(?<=[.!?])\s+(?=[A-Z\"'`])|\n\s*\n", text.strip(), maxsplit=1)[0]
    return " ".join(first.split()).removesuffix(".")


def _emphasised(text: str) -> Markup:
    return Markup(_EMPHASIS.sub(r"<em>\1</em>", str(escape(text))))


def _visible_character(character: str) -> Markup:
    if character == " ":
        return Markup('<span class="ws">·</span><wbr>')
    sign = _SIGNS.get(character)
    if sign is None and unicodedata.category(character) in _UNSEEN:
        sign = f"⟨U+{ord(character):04X}⟩"
    if sign is None:
        return Markup("{}").format(character)
    return Markup('<span class="ws">{}</span>{}').format(sign, "\n" if character == "\n" else "")


def _code_block(code: str) -> Markup:
    return Markup('<pre class="code"><code>{}</code></pre>').format(textwrap.dedent(code).strip("\n"))


def _blocks(text: str, heading: str) -> Markup:
    """Blocks that blank lines separate."""
    parts: list[Markup] = []
    text = _BOUNDARY.sub(lambda match: f"{match.group().rstrip()}\n\n", text)
    for block in re.split(r"\n[ \t]*\n", text.strip("\n")):
        lines = block.split("\n")
        if not block.strip():
            continue
        if all(line.startswith("    ") or not line.strip() for line in lines):
            parts.append(_code_block(block))
            continue
        if re.match("#{1,6} ", lines[0]):
            parts.append(_element(heading, inline(lines.pop(0).lstrip("# "))))
        elif len(lines) > 1 and re.fullmatch(r"([-=~])\1{2,}", lines[1]):
            parts.append(_element(heading, inline(lines[0])))
            lines = lines[2:]
        if not lines:
            continue
        if all(line.lstrip().startswith("|") for line in lines):
            parts.append(_code_block("\n".join(lines)))
        elif lines[0].lstrip().startswith(("* ", "- ")):
            items = re.split(r"\n(?=[ \t]*[*-] )", "\n".join(lines))
            entries = Markup("").join(Markup("<li>{}</li>").format(inline(_joined(item)[2:])) for item in items)
            parts.append(Markup("<ul>{}</ul>").format(entries))
        else:
            parts.append(Markup("<p>{}</p>").format(inline(_joined("\n".join(lines)))))
    return Markup("").join(parts)


def _element(tag: str, content: Markup) -> Markup:
    return Markup(f"<{tag}>{{}}</{tag}>").format(content)


def _joined(text: str) -> str:
    """One line for an indented or wrapped paragraph."""
    return " ".join(line.strip() for line in text.strip().split("\n"))
