"""Charts as SVG, drawn on the server: functions from plain values to markup.

Bokeh was tried first. Under this project's content policy (no inline styles) its page stays blank, with a
violation for every element that it draws; loosening the policy for all pages is not worth a chart. SVG takes
its colours from the theme, needs no script, and is read aloud by its label.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from django.db.models import F, Max
from django.db.models.functions import Mod
from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe

from training.models import Metric, Run

WIDTH, HEIGHT = 370, 196
LEFT, RIGHT, TOP, BOTTOM = 42, 10, 24, 28
LABEL_HEIGHT = 14
MOST_POINTS = 300
TONES = ("one", "two", "three")

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """A series: its name is written at its end."""

    name: str
    points: Sequence[Point]


@dataclass(frozen=True)
class Guard:
    """A limit that a figure is held against, drawn across the chart."""

    name: str
    value: float


@dataclass(frozen=True)
class Panel:
    """What one chart of a run shows: metrics by name, with the words for them."""

    title: str
    caption: str
    unit: str
    metrics: dict[str, str] = field(default_factory=dict)


LOSS = Panel("Loss", "Falls quickly, then slowly.", "nats", {"loss": "train", "eval_loss": "held out"})
PANELS = {
    "sft": [LOSS],
    "reward": [
        Panel(
            "Accuracy",
            "Share of pairs in which the chosen completion scores higher.",
            "share",
            {"accuracy": "train", "eval_accuracy": "held out"},
        ),
        LOSS,
    ],
    "dpo": [
        Panel(
            "Accuracy",
            "Share of pairs in which the chosen answer gained more likelihood.",
            "share",
            {"accuracy": "train"},
        ),
        Panel(
            "Likelihood",
            "Against the reference; chosen answers should not fall far.",
            "nats per answer",
            {"chosen_log_ratio": "chosen", "rejected_log_ratio": "rejected"},
        ),
        LOSS,
    ],
    "ppo": [
        Panel(
            "Reward",
            "By the reward model: should rise, then level off, and the held-out one with it.",
            "deviations",
            {"reward": "reward", "held_out_reward": "held out"},
        ),
        Panel(
            "KL to the first policy", "Has to stay below its budget.", "nats per answer", {"exact_kl": "KL"}
        ),
        Panel("Length", "A steady climb is often a way to please the judge.", "tokens", {"length": "tokens"}),
        Panel(
            "Loss", "Of the policy and of its critic.", "", {"policy_loss": "policy", "value_loss": "critic"}
        ),
        Panel(
            "Entropy", "Near zero it tries nothing new any more.", "nats per token", {"entropy": "entropy"}
        ),
        Panel(
            "Shape of the answers",
            "All answers should end, and few be the same.",
            "share",
            {"eos_rate": "ended", "identical_share": "identical", "distinct_2": "distinct pairs"},
        ),
    ],
}
# The same figures, of which those of the critic are missing.
PANELS |= dict.fromkeys(("grpo", "rloo"), PANELS["ppo"])


def run_panels(run: Run) -> list[dict[str, object]]:
    """The charts of a run, with the guard's line where its config sets one."""
    wanted = PANELS.get(run.method, [])
    lines = run_lines(run, [name for panel in wanted for name in panel.metrics])
    shown = []
    for panel in wanted:
        series = [Line(words, lines[name]) for name, words in panel.metrics.items() if lines.get(name)]
        if not series:
            continue
        budget = run.config.get("kl_budget_nats")
        guard = Guard(f"budget {budget:g}", budget) if "exact_kl" in panel.metrics and budget else None
        svg = line_chart(panel.title, series, panel.unit, "step", guard)
        shown.append({"title": panel.title, "caption": panel.caption, "svg": svg})
    return shown


def run_lines(run: Run, names: Sequence[str]) -> dict[str, list[Point]]:
    """Points of a run's metrics, thinned evenly where there are more than a chart can show."""
    metrics = Metric.objects.filter(run=run, name__in=names)
    last = metrics.aggregate(last=Max("step"))["last"]
    if last is None:
        return {}
    stride = last // MOST_POINTS + 1
    lines: dict[str, list[Point]] = {}
    thinned = metrics.annotate(place=Mod(F("step"), stride)).filter(place=last % stride)
    for name, step, value in thinned.order_by("name", "step").values_list("name", "step", "value"):
        lines.setdefault(name, []).append((step, value))
    return lines


def line_chart(
    title: str, lines: Sequence[Line], y_name: str, x_name: str, guard: Guard | None = None
) -> SafeString:
    """Lines over steps, each named at its end; at most three."""
    lines = [line for line in lines if line.points][:3]
    if not lines:
        return mark_safe("")
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    if guard:
        ys.append(guard.value)
    frame = _Frame(min(xs), max(xs), *_span(ys), right=RIGHT + 7 * max(len(line.name) for line in lines) + 6)
    parts = [*_grid(frame, y_name)]
    parts.append(_text(frame.x(frame.x_low), HEIGHT - 8, f"{frame.x_low:g}", "tick middle"))
    if frame.x_high > frame.x_low:
        parts.append(_text(frame.x(frame.x_high), HEIGHT - 8, f"{frame.x_high:g}", "tick middle"))
        parts.append(
            _text((frame.x(frame.x_low) + frame.x(frame.x_high)) / 2, HEIGHT - 8, x_name, "tick middle")
        )
    if guard:
        parts += _guard(frame, guard)
    label_places = _spread([frame.y(line.points[-1][1]) for line in lines])
    for tone, line, place in zip(TONES, lines, label_places, strict=False):
        path = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in line.points)
        parts.append(f'<polyline class="line {tone}" points="{path}"/>')
        x, y = line.points[-1]
        hint = f"{line.name} {number(y)} at {x_name} {x:g}"
        parts.append(
            f'<circle class="dot {tone}" cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="3"><title>{escape(hint)}</title></circle>'
        )
        parts.append(_text(frame.x(x) + 7, place + 4, line.name, f"name {tone}"))
    said = "; ".join(
        f"{line.name} from {number(line.points[0][1])} to {number(line.points[-1][1])}" for line in lines
    )
    return _svg(f"{title}: {said}", parts)


@dataclass(frozen=True)
class Measured:
    """A figure with its 95 % interval, under a name on the horizontal axis."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None


def interval_chart(title: str, figures: Sequence[Measured], guard: Guard | None = None) -> SafeString:
    """Shares with their intervals, one after the other."""
    if not figures:
        return mark_safe("")
    ends = [end for item in figures for end in (item.value, item.low, item.high) if end is not None]
    low, high = _span([*ends, guard.value] if guard else ends)
    frame = _Frame(-0.5, len(figures) - 0.5, max(0.0, low), min(1.0, high) if max(ends) <= 1 else high)
    parts = [*_grid(frame, "", percent=True)]
    if guard:
        parts += _guard(frame, guard, at_end=True)
    path = " ".join(f"{frame.x(place):.1f},{frame.y(item.value):.1f}" for place, item in enumerate(figures))
    parts.append(f'<polyline class="line one" points="{path}"/>')
    skip = math.ceil(len(figures) / 6)
    for place, item in enumerate(figures):
        x = frame.x(place)
        if item.low is not None and item.high is not None:
            parts.append(
                f'<line class="interval" x1="{x:.1f}" x2="{x:.1f}" y1="{frame.y(item.low):.1f}" y2="{frame.y(item.high):.1f}"/>'
            )
        parts.append(
            f'<circle class="dot one" cx="{x:.1f}" cy="{frame.y(item.value):.1f}" r="4"><title>{escape(_measured(item))}</title></circle>'
        )
        if (len(figures) - 1 - place) % skip == 0:
            parts.append(_text(x, HEIGHT - 8, item.name, "tick middle"))
    return _svg(f"{title}: {'; '.join(_measured(item) for item in figures)}", parts)


def _measured(item: Measured) -> str:
    between = "" if item.low is None or item.high is None else f" ({item.low:.0%} to {item.high:.0%})"
    return f"{item.name} {item.value:.0%}{between}"


# Pieces


@dataclass(frozen=True)
class _Frame:
    """Where a value lies on the drawing."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float
    right: float = RIGHT

    def x(self, value: float) -> float:
        share = (value - self.x_low) / (self.x_high - self.x_low) if self.x_high > self.x_low else 0.5
        return LEFT + share * (WIDTH - LEFT - self.right)

    def y(self, value: float) -> float:
        share = (value - self.y_low) / (self.y_high - self.y_low)
        return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)


def _span(values: Sequence[float]) -> tuple[float, float]:
    """A little more than the values take, so that nothing touches the edge."""
    low, high = min(values), max(values)
    room = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    return (low if low == 0 else low - room), high + room


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers between two values: 1, 2, 2.5 or 5 times a power of ten apart."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough)
    first = math.ceil(low / step - 1e-9)
    return [place * step for place in range(first, math.floor(high / step + 1e-9) + 1)]


def number(value: float) -> str:
    """Three digits that matter, and no more zeros than needed."""
    if value and (abs(value) >= 10_000 or abs(value) < 0.001):
        return f"{value:.1e}"
    return f"{value:.3g}"


def _grid(frame: _Frame, y_name: str, percent: bool = False) -> list[str]:
    parts = []
    for value in ticks(frame.y_low, frame.y_high):
        y = frame.y(value)
        words = f"{value:.0%}" if percent else number(value)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - frame.right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(_text(LEFT - 8, y + 4, words, "tick end"))
    if y_name:
        parts.append(_text(4, 11, y_name, "tick"))
    return parts


def _guard(frame: _Frame, guard: Guard, at_end: bool = False) -> list[str]:
    y, end = frame.y(guard.value), WIDTH - frame.right
    return [
        f'<line class="guard" x1="{LEFT}" x2="{end:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>',
        _text(end if at_end else LEFT + 6, y - 5, guard.name, f"name guard{' end' if at_end else ''}"),
    ]


def _spread(places: list[float]) -> list[float]:
    """Push labels apart until none covers another."""
    order = sorted(range(len(places)), key=places.__getitem__)
    spread = list(places)
    for above, below in itertools.pairwise(order):
        spread[below] = max(spread[below], spread[above] + LABEL_HEIGHT)
    return spread


def _text(x: float, y: float, words: str, classes: str) -> str:
    return f'<text class="{classes}" x="{x:.1f}" y="{y:.1f}">{escape(words)}</text>'


def _svg(said: str, parts: Sequence[str]) -> SafeString:
    # Every piece is made above from numbers and escaped words.
    return mark_safe(
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(said)}">{"".join(parts)}</svg>'
    )
