"""Puts reports of rehearsals into the README, as a table and samples, and into docs/images/learning-curve.svg.

.venv/bin/python manage.py rehearse --rounds 2 --seed 2001 --report docs/rehearsals/seed-2001.json
.venv/bin/python docs/show_rehearsals.py docs/rehearsals/*.json
"""

import json
import sys
from pathlib import Path

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 860, 330, 56, 150, 46, 44
COLOURS = ("#0b6e66", "#2f5fc2", "#8d3f9e", "#6b665e")
LEAST, MOST = 0.4, 1.0
HERE = Path(__file__).parent
TABLE_HEAD = (
    "| seed | round | reward model, held out | noise ceiling | gold win rate | gold score, first to new | KL, nats | seconds |",
    "|---|---|---|---|---|---|---|---|",
)


def main(paths: list[Path]) -> None:
    reports = [json.loads(path.read_text()) for path in paths]
    draw_curve(reports)
    readme = HERE.parent / "README.md"
    text = readme.read_text()
    text = between(
        text, "rehearsal", "\n".join([*TABLE_HEAD, *(row for each in reports for row in rows(each))])
    )
    readme.write_text(between(text, "samples", "\n".join(samples(reports[0]))))


def between(text: str, name: str, content: str) -> str:
    """The text with what stands between the comments `name` and `/name` replaced."""
    before, rest = text.split(f"<!-- {name} -->\n", 1)
    after = rest.split(f"<!-- /{name} -->", 1)[1]
    return f"{before}<!-- {name} -->\n{content}\n<!-- /{name} -->{after}"


def rows(report: dict) -> list[str]:
    """A line of the table for each round."""
    return [
        f"| {report['seed']} | {turn['round']} | {with_interval(turn, 'reward_accuracy')} | {turn['noise_ceiling']:.2f} "
        f"| {with_interval(turn, 'gold_win_rate')} | {turn['gold_score_first_policy']:.2f} to {turn['gold_score']:.2f} "
        f"| {turn['kl_nats']:.1f} of {turn['kl_budget_nats']:g} | {sum(turn['seconds'].values()):.0f} |"
        for turn in report["rounds"]
    ]


def with_interval(turn: dict, name: str) -> str:
    low, high = turn[f"{name}_interval"]
    return f"{turn[name]:.2f} ({low:.2f} to {high:.2f})"


def samples(report: dict) -> list[str]:
    """What the first and the last policy say to the same customers."""
    head = ["| customer | first policy | after two rounds |", "|---|---|---|"]
    return head + [
        f"| {each['prompt']} | {each['before']} | {each['after']} |"
        for each in report["rounds"][-1]["samples"]
    ]


def draw_curve(reports: list[dict]) -> None:
    rounds = max(len(report["rounds"]) for report in reports)
    parts = [frame(rounds)]
    for number, report in enumerate(reports):
        parts.append(curve(report, rounds, COLOURS[number % len(COLOURS)], number - (len(reports) - 1) / 2))
    parts += labels(reports)
    (HERE / "images" / "learning-curve.svg").write_text("\n".join([*parts, "</svg>", ""]))


def x_of(turn: float, rounds: int) -> float:
    return LEFT + 20 + turn / rounds * (WIDTH - LEFT - RIGHT - 40)


def y_of(rate: float) -> float:
    return HEIGHT - BOTTOM - (rate - LEAST) / (MOST - LEAST) * (HEIGHT - TOP - BOTTOM)


def frame(rounds: int) -> str:
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'aria-label="Gold win rate against the first policy by round" font-family="system-ui, sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fffdfa"/>',
        f'<text x="{LEFT - 30}" y="24" font-size="15" font-weight="600" fill="#1f1d1a">'
        "Gold win rate against the first policy, on prompts it never trained on</text>",
    ]
    for tick in (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0):
        y = y_of(tick)
        lines.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#e3ded5"/>')
        lines.append(
            f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" fill="#6b665e">{tick:.0%}</text>'
        )
    goal = y_of(0.85)
    lines.append(f'<path d="M{LEFT} {goal:.1f}H{WIDTH - RIGHT}" stroke="#a35a00" stroke-dasharray="5 4"/>')
    lines.append(f'<text x="{LEFT + 6}" y="{goal - 6:.1f}" fill="#a35a00">to reach: 85 %</text>')
    for turn in range(rounds + 1):
        label = "first policy" if turn == 0 else f"after round {turn}"
        lines.append(
            f'<text x="{x_of(turn, rounds):.1f}" y="{HEIGHT - 16}" text-anchor="middle" fill="#6b665e">{label}</text>'
        )
    return "\n".join(lines)


def labels(reports: list[dict]) -> list[str]:
    """A name beside each curve's end, as near as the others leave room."""
    last = [
        (y_of(report["rounds"][-1]["gold_win_rate"]), number, report) for number, report in enumerate(reports)
    ]
    lines, lowest = [], 0.0
    for wanted, number, report in sorted(last, key=lambda entry: entry[0]):
        lowest = max(wanted + 4, lowest + 16)
        colour = COLOURS[number % len(COLOURS)]
        lines.append(
            f'<text x="{WIDTH - RIGHT + 8}" y="{lowest:.1f}" fill="{colour}">seed {report["seed"]}</text>'
        )
    return lines


def curve(report: dict, rounds: int, colour: str, shift: float) -> str:
    """One rehearsal, moved aside a little so that intervals of several do not hide each other."""
    turns = report["rounds"]
    points = [(x_of(0, rounds) + 7 * shift, y_of(0.5))]
    points += [(x_of(row["round"], rounds) + 7 * shift, y_of(row["gold_win_rate"])) for row in turns]
    lines = [
        f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}" fill="none" stroke="{colour}" stroke-width="2"/>'
    ]
    for row, (x, y) in zip(turns, points[1:], strict=True):
        low, high = row["gold_win_rate_interval"]
        lines.append(
            f'<path d="M{x:.1f} {y_of(low):.1f}V{y_of(high):.1f}" stroke="{colour}" stroke-width="1.4" opacity="0.6"/>'
        )
        lines.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>')
    return "\n".join(lines)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    main([Path(name) for name in sys.argv[1:]])
