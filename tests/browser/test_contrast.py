"""The colours of static/css/tokens.css: each pair that a page puts together, in both themes."""

import re

import pytest
from django.conf import settings

TEXT, LARGE_OR_EDGE = 4.5, 3.0  # WCAG 2.2 AA
PAIRS = [
    *[(ink, ground, TEXT) for ink in ("ink", "soft") for ground in ("ground", "paper", "sunk")],
    *[(ink, ground, TEXT) for ink in ("accent", "amber", "harm") for ground in ("ground", "paper")],
    *[
        ("ink", wash, TEXT)
        for wash in ("accent-wash", "amber-wash", "harm-wash", "side-a-wash", "side-b-wash")
    ],
    *[("soft", wash, TEXT) for wash in ("accent-wash", "amber-wash", "harm-wash")],
    *[("accent", "accent-wash", TEXT), ("amber", "amber-wash", TEXT), ("harm", "harm-wash", TEXT)],
    *[("on-accent", ground, TEXT) for ground in ("accent", "accent-strong")],
    ("on-harm", "harm", TEXT),
    *[("on-side", side, TEXT) for side in ("side-a", "side-b", "soft")],
    *[(side, ground, TEXT) for side in ("side-a", "side-b") for ground in ("ground", "paper")],
    *[(f"code-{kind}", "sunk", TEXT) for kind in ("keyword", "string", "number", "name", "comment")],
    *[("edge", ground, LARGE_OR_EDGE) for ground in ("ground", "paper")],
]


def themes():
    css = (settings.BASE_DIR / "static/css/tokens.css").read_text()
    light, dark = css.split("@media (prefers-color-scheme: dark)")
    colours = re.compile(r"--([a-z-]+): (#[0-9a-f]{6})")
    light = dict(colours.findall(light))
    return {"light": light, "dark": light | dict(colours.findall(dark))}


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    lighter, darker = sorted([luminance(one), luminance(other)], reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def test_the_measure_is_the_one_of_wcag():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(
        4.48, abs=0.005
    )  # the well-known grey that just fails


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(("ink", "ground", "least"), PAIRS)
def test_each_pair_of_colours_can_be_read(theme, ink, ground, least):
    colours = themes()[theme]
    assert contrast(colours[ink], colours[ground]) >= least
