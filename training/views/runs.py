"""Runs: the list, the form that starts one, the page that follows one."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from django.conf import settings as site
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from training import charts, marked, runs
from training.engine.config import METHODS, EngineError
from training.engine.records import CompletionRecord, iterate_records
from training.forms import RunForm
from training.models import ModelVersion, Run
from training.situation import spoken
from training.views.access import managed, readable, run_of

PAGE = 30
SAMPLES = 6
MOST_MARKED = 50
METHOD_WORDS = {
    "sft": "learn from demonstrations",
    "reward": "train a reward model",
    "ppo": "fine-tune a policy with PPO",
    "grpo": "fine-tune a policy with GRPO",
    "rloo": "fine-tune a policy with RLOO",
    "dpo": "fine-tune a policy with DPO",
    "generate": "sample completions",
    "score": "score completions",
    "evaluate": "compare two policies",
}


@require_GET
@login_required
def index(request: HttpRequest, slug: str) -> HttpResponse:
    project, context = readable(request, slug)
    rows = Run.objects.filter(project=project).select_related("input_model", "round", "model_version")
    if before := request.GET.get("before", ""):
        rows = rows.filter(pk__lt=int(before)) if before.isdecimal() else rows.none()
    listed = list(rows[: PAGE + 1])
    context |= {
        "runs": listed[:PAGE],
        "older": listed[PAGE - 1].pk if len(listed) > PAGE else None,
        "methods": METHOD_WORDS,
        "running": [run for run in listed if run.unfinished],
        "newest": not before,
    }
    return render(request, "training/runs.html", context)


@require_http_methods(["GET", "POST"])
@login_required
def new(request: HttpRequest, slug: str, method: str) -> HttpResponse:
    project = managed(request, slug)
    if method not in METHODS:
        raise Http404("There is no such method.")
    form = RunForm(project, method, request.POST or None, request.FILES or None)
    if request.method == "POST" and form.is_valid() and (run := form.start(request.user)):
        return redirect(run)
    context = {
        "project": project,
        "role": "manager",
        "form": form,
        "method": method,
        "words": METHOD_WORDS[method],
    }
    return render(request, "training/run_new.html", context)


@never_cache
@require_GET
@login_required
def show(request: HttpRequest, slug: str, run_id: int) -> HttpResponse:
    project, context = readable(request, slug)
    run = run_of(project, run_id)
    return render(request, "training/run.html", context | following(run))


@never_cache
@require_GET
@login_required
def live(request: HttpRequest, slug: str, run_id: int) -> HttpResponse:
    """The part of a run's page that changes; it asks for itself every two seconds while the run goes on."""
    project, context = readable(request, slug)
    return render(request, "training/_run_live.html", context | following(run_of(project, run_id)))


def following(run: Run) -> dict[str, object]:
    looked_at = marked.listed(run, MOST_MARKED)
    return {
        "run": run,
        "headline": headline(run),
        "left": spoken(run.seconds_left) if run.seconds_left is not None else "",
        "took": spoken(run.took.total_seconds()) if run.took else "",
        "panels": charts.run_panels(run),
        "charted": charts.PANELS,
        "version": getattr(run, "model_version", None),
        "second_judge": second_judge(run),
        "samples": samples(run),
        "marked": looked_at,
        "marked_waiting": sum(row["comparison"] is None for row in looked_at),
        "figures": figures(run.result),
    }


def second_judge(run: Run) -> ModelVersion | None:
    """The reward model beside the one that was optimised, which a run's config names by its folder."""
    path = run.config.get("held_out_reward_model") or run.config.get("second_judge_model")
    if not path:
        return None
    below = path.removeprefix(f"{site.DATA}/")
    return ModelVersion.objects.filter(project=run.project_id, location__in=[path, below]).first()


def headline(run: Run) -> str:
    """The situation in a sentence."""
    name = f"Run {run.pk} ({run.method})"
    match run.status:
        case Run.Status.QUEUED:
            return f"{name} waits for a worker" if not run.attempts else f"{name} waits to continue"
        case Run.Status.RUNNING if run.is_stale:
            return f"{name} has not been heard of; it will be continued"
        case Run.Status.RUNNING:
            return f"{name} is stopping" if run.stop_requested_at else f"{name} is running"
        case Run.Status.DONE:
            return f"{name} is done"
        case Run.Status.STOPPED:
            return f"{name} was stopped"
    return f"{name} failed"


def figures(result: dict[str, object], prefix: str = "") -> list[tuple[str, str]]:
    """A result as rows of name and figure; an interval stands beside what it belongs to."""
    rows = []
    for name, value in result.items():
        if name.endswith("_interval") or (name == "stopped_by" and not value):
            continue
        between = result.get(f"{name}_interval") or (result.get("kl_interval") if name == "kl_nats" else None)
        if isinstance(value, bool | int) or value is None:
            words = "not measured" if value is None else str(value)
        elif isinstance(value, float):
            words = charts.number(value)
        elif isinstance(value, dict):
            rows += figures(value, f"{prefix}{name} ")
            continue
        else:
            words = str(value)
        if between and None not in between:
            words += f" ({charts.number(between[0])} to {charts.number(between[1])})"
        rows.append((f"{prefix}{name}".replace("_", " "), words))
    return rows


def samples(run: Run) -> list[dict[str, str]]:
    """A few completions to read, beside the baseline's where there is one."""
    if run.status != Run.Status.DONE or run.method not in ("generate", "evaluate"):
        return []
    ours = first_completions(run.path / "completions.jsonl")
    theirs = first_completions(run.path / "baseline_completions.jsonl")
    return [
        {
            "prompt": record.text,
            "completion": record.completion,
            "baseline": theirs[place].completion if theirs else "",
        }
        for place, record in enumerate(ours)
    ]


def first_completions(path: Path) -> list[CompletionRecord]:
    """The first completion of the first few prompts."""
    try:
        records = (record for record in iterate_records(path, CompletionRecord) if record.sample == 0)
        return list(islice(records, SAMPLES))
    except (OSError, EngineError):
        return []


@require_POST
@login_required
def stop(request: HttpRequest, slug: str, run_id: int) -> HttpResponse:
    run = run_of(managed(request, slug), run_id)
    runs.request_stop(run, request.user)
    messages.success(request, f"Run {run.pk} was asked to stop. It saves a checkpoint first.")
    return redirect(run)


@require_POST
@login_required
def put_marked(request: HttpRequest, slug: str, run_id: int) -> HttpResponse:
    run = run_of(managed(request, slug), run_id)
    try:
        messages.success(request, str(marked.put_before_annotators(run)))
    except marked.NothingMarked as reason:
        messages.error(request, str(reason))
    return redirect(run)
