"""Line charts as inline SVG: a plot that stretches to its column, with its labels as HTML around it.

The drawing holds lines only and is stretched by the browser (`preserveAspectRatio="none"`, strokes keep their width),
so labels keep one size at every page width. Colours come from the page's style sheet through class names; nothing is
told by colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 600, 160
"""Drawing units; whole numbers keep the paths short, and 600 columns are more than a chart has pixels."""

MAX_POINTS = 1500

Value = float | None


@dataclass(frozen=True)
class Series:
    """One line: values over steps; None or a non-finite value is a gap. `style` is a class name of the style sheet."""

    name: str
    style: str
    steps: Sequence[int]
    values: Sequence[Value]
    stepped: bool = False


@dataclass(frozen=True)
class Mark:
    """A vertical line over the whole height ("from here on"), or with `short` a tick at the bottom ("here")."""

    step: int
    style: str
    title: str
    short: bool = False


def number(value: float, digits: int = 3) -> str:
    """Format for reading: so many significant digits, whole numbers in full, an exponent only for the very small."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞" if value > 0 else "-∞"
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e6 or size < 1e-3:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    decimals = max(0, digits - 1 - math.floor(math.log10(size)))
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def line_chart(
    title: str, series: Sequence[Series], *, unit: str = "", marks: Sequence[Mark] = (), last_step: int | None = None
) -> Markup:
    """Draw one panel; empty where no series has a finite value. `last_step` is where the axis ends at least."""
    finite = [value for line in series for value in line.values if value is not None and math.isfinite(value)]
    if not finite:
        return Markup("")
    steps = [step for line in series for step in line.steps]
    first, last = min(steps), max([*steps, *([last_step] if last_step is not None else [])])
    low, high = min(finite), max(finite)
    middle, half = (low + high) / 2, max((high - low) / 2, abs(high) * 1e-3, 1e-9) * 1.08

    def x(step: float) -> float:
        return (step - first) / max(last - first, 1) * WIDTH

    def y(value: float) -> float:
        return (1 - (value - middle + half) / (2 * half)) * HEIGHT

    drawing = []
    if low < 0 < high:
        drawing.append(f'<path class="zero" d="M0 {y(0):.0f}H{WIDTH}"/>')
    for mark in marks:
        if first <= mark.step <= last:
            top = HEIGHT * 3 // 4 if mark.short else 0
            drawing.append(
                f'<path class="{escape(mark.style)}" d="M{x(mark.step):.0f} {top}V{HEIGHT}">'
                f"<title>{escape(mark.title)}</title></path>"
            )
    for line in series:
        path = _path([(round(x(s)), round(y(v))) if v is not None else None for s, v in _thin(line)], line.stepped)
        if path:
            drawing.append(f'<path class="{escape(line.style)}" d="{path}"/>')
    spoken = f"{title}{f' in {unit}' if unit else ''} over steps {first} to {last}: " + "; ".join(
        f"{line.name} {_span(line)}" for line in series
    )
    return Markup(
        '<figure class="chart"><figcaption>{title}{unit}</figcaption>'
        '<div class="plot"><div class="y"><span>{high}</span><span>{low}</span></div>'
        '<svg viewBox="0 0 {width} {height}" preserveAspectRatio="none" role="img" aria-label="{spoken}">'
        "{drawing}</svg>"
        '<div class="x"><span>{first}</span><span>step</span><span>{last}</span></div></div></figure>'
    ).format(
        title=title,
        unit=Markup(" <small>{}</small>").format(unit) if unit else "",
        high=number(high),
        low=number(low) if low != high else "",
        width=WIDTH,
        height=HEIGHT,
        spoken=spoken,
        drawing=Markup("".join(drawing)),
        first=first,
        last=last,
    )


def _span(line: Series) -> str:
    finite = [value for value in line.values if value is not None and math.isfinite(value)]
    if not finite:
        return "has no values"
    low, high = min(finite), max(finite)
    return f"is {number(low)} throughout" if low == high else f"from {number(low)} to {number(high)}"


def _thin(line: Series) -> list[tuple[int, Value]]:
    """Pairs of step and value; of a long series the smallest and largest of each bucket, so that no peak is lost."""
    pairs: list[tuple[int, Value]] = [
        (step, value if value is not None and math.isfinite(value) else None)
        for step, value in zip(line.steps, line.values, strict=False)
    ]
    if len(pairs) <= MAX_POINTS:
        return pairs
    size = math.ceil(2 * len(pairs) / MAX_POINTS)
    thinned: list[tuple[int, Value]] = []
    for start in range(0, len(pairs), size):
        bucket = pairs[start : start + size]
        known = [(value, step) for step, value in bucket if value is not None]
        if known:
            ends = sorted({(step, value) for value, step in (min(known), max(known))})
            thinned.extend(ends)
        if len(known) < len(bucket):
            thinned.append((bucket[-1][0], None))
    return thinned


def _path(points: Sequence[tuple[int, int] | None], stepped: bool) -> str:
    """SVG path through the points in relative whole numbers, lifted at gaps; a lone point becomes a dot."""
    parts: list[str] = []
    last: tuple[int, int] | None = None
    for point in points:
        if point is None:
            last = None
            continue
        if last is None:
            parts.append(f"M{point[0]} {point[1]}h0")
        elif stepped:
            parts.append(f"h{point[0] - last[0]}" + (f"v{point[1] - last[1]}" if point[1] != last[1] else ""))
        elif point != last:
            parts.append(f"l{point[0] - last[0]} {point[1] - last[1]}")
        last = point
    return "".join(parts)
