import itertools
import xml.etree.ElementTree as ET

import pytest
from django.utils import timezone

from training import charts, runs
from training.models import Metric


def test_ticks_are_round_numbers_within_the_span():
    assert charts.ticks(0, 1) == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert charts.ticks(0.03, 9.7) == pytest.approx([2.5, 5, 7.5])
    assert charts.ticks(-3.2, 4.1) == pytest.approx([-2, 0, 2, 4])


def test_a_chart_is_well_formed_and_hostile_names_are_text():
    lines = [charts.Line("<script>", [(0, 1.0), (1, 2.0)])]
    svg = ET.fromstring(charts.line_chart('a "title"', lines, "nats", "step", charts.Guard("budget", 1.5)))
    words = [element.text for element in svg.iter() if element.tag == "text"]
    assert "<script>" in words and "budget" in words and "nats" in words
    assert svg.get("role") == "img"
    assert "from 1 to 2" in svg.get("aria-label")


def test_no_inline_style_is_used_since_the_content_policy_forbids_it():
    svg = charts.interval_chart(
        "win rate", [charts.Measured("first", 0.5), charts.Measured("p", 0.7, 0.6, 0.8)]
    )
    assert "style=" not in svg


@pytest.mark.parametrize("points", [[(5, 2.0)], [(0, 0.0), (1, 0.0)], [(0, -1e-9), (1, 1e9)]])
def test_odd_figures_still_draw(points):
    ET.fromstring(charts.line_chart("odd", [charts.Line("line", points)], "", "step"))


def test_labels_never_cover_each_other():
    places = sorted(charts._spread([50.0, 51.0, 49.0]))
    assert all(below - above >= charts.LABEL_HEIGHT for above, below in itertools.pairwise(places))


def test_a_long_run_is_thinned_and_keeps_its_last_step(queued_run):
    run = runs.claim(queued_run.pk)
    now = timezone.now()
    Metric.objects.bulk_create(
        Metric(run=run, step=step, name="loss", value=1 / (step + 1), at=now) for step in range(1, 5001)
    )
    points = charts.run_lines(run, ["loss"])["loss"]
    assert 100 < len(points) <= charts.MOST_POINTS + 1
    assert points[-1][0] == 5000
