"""The questions of the qualification round, as managers write them, and whom they let in."""

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from labeling import qualification as acts
from labeling.access import MANAGER, access_project
from labeling.forms import DecisionForm, QuestionForm, QuestionsFileForm
from labeling.imports import ImportRefused, ImportReport, import_questions
from labeling.models import Membership, Project, QualificationQuestion
from labeling.rendering import render_markdown
from labeling.views.label import rendered

RIGHT = dict(QuestionForm.RIGHT)


@require_GET
@login_required
def questions(request: HttpRequest, slug: str) -> HttpResponse:
    project = access_project(request.user, slug, MANAGER)
    return render(request, "labeling/questions.html", page(project))


def page(
    project: Project, form: QuestionsFileForm | None = None, report: ImportReport | None = None
) -> dict[str, object]:
    in_use = {question.pk for question in acts.asked(project)}
    shown = [
        {
            "pk": question.pk,
            "right": [RIGHT[one] for one in question.right],
            "explanation": render_markdown(question.explanation, top_heading=3),
            "asked": question.pk in in_use,
            **rendered(question.messages, question.answers),
        }
        for question in project.questions.standing()
    ]
    return {
        "project": project,
        "role": MANAGER,
        "questions": shown,
        "removed": acts.removed(project),
        "needed": acts.needed_right(project, len(in_use)),
        "form": form or QuestionsFileForm(),
        "report": report,
    }


@require_http_methods(["GET", "POST"])
@login_required
def new(request: HttpRequest, slug: str) -> HttpResponse:
    project = access_project(request.user, slug, MANAGER)
    form = QuestionForm(request.POST or None)
    if request.method == "POST" and form.is_valid() and (question := form.build(project)):
        try:
            added = acts.add_questions(project, [question], request.user)
        except ValidationError as error:
            form.add_error(None, error)
        else:
            said = "Added, as the last question." if added else "This question is there, word for word."
            messages.success(request, said)
            return redirect("labeling:questions", slug)
    return render(request, "labeling/question.html", {"project": project, "role": MANAGER, "form": form})


@require_http_methods(["GET", "POST"])
@login_required
def change(request: HttpRequest, slug: str, question: int) -> HttpResponse:
    project = access_project(request.user, slug, MANAGER)
    old = (
        any_question(project, question) if request.method == "POST" else standing_question(project, question)
    )
    form = QuestionForm(request.POST) if request.method == "POST" else QuestionForm.of(old)
    if request.method == "POST" and form.is_valid() and (fresh := form.build(project, old.messages[:-1])):
        try:
            acts.replace_question(old, fresh, request.user)
        except acts.QuestionGone as gone:
            form.add_error(None, str(gone))  # what was typed stays on the page
        except ValidationError as error:
            form.add_error(None, error)
        else:
            messages.success(
                request, "Changed for attempts that begin from now on. Who has passed has passed."
            )
            return redirect("labeling:questions", slug)
    before = rendered(old.messages[:-1], [])["messages"]
    context = {"project": project, "role": MANAGER, "form": form, "question": old, "before": before}
    return render(request, "labeling/question.html", context)


@require_POST
@login_required
def move(request: HttpRequest, slug: str, question: int) -> HttpResponse:
    project = access_project(request.user, slug, MANAGER)
    moved = any_question(project, question)
    try:
        acts.move_question(moved, -1 if request.POST.get("to") == "up" else 1)
    except acts.QuestionGone as gone:
        messages.error(request, str(gone))
    return redirect("labeling:questions", slug)


@require_POST
@login_required
def remove(request: HttpRequest, slug: str, question: int) -> HttpResponse:
    project = access_project(request.user, slug, MANAGER)
    if acts.remove_question(any_question(project, question)):
        messages.success(request, "Removed. Who has passed has passed.")
    else:
        messages.warning(request, "This question was removed or changed before. Nothing was changed now.")
    return redirect("labeling:questions", slug)


@require_POST
@login_required
def put_back(request: HttpRequest, slug: str, question: int) -> HttpResponse:
    project = access_project(request.user, slug, MANAGER)
    try:
        acts.put_back(any_question(project, question))
    except ValidationError as error:
        messages.error(request, f"Nothing was changed. {error.messages[0]}")
    else:
        messages.success(request, "It is asked again, as the last question.")
    return redirect("labeling:questions", slug)


@require_POST
@login_required
def upload(request: HttpRequest, slug: str) -> HttpResponse:
    project = access_project(request.user, slug, MANAGER)
    form = QuestionsFileForm(request.POST, request.FILES)
    if not form.is_valid():
        return render(request, "labeling/questions.html", page(project, form), status=400)
    try:
        report = import_questions(form.cleaned_data["file"], project, request.user)
    except ImportRefused as refused:
        context = page(project, report=refused.report)
        return render(request, "labeling/questions.html", context, status=400)
    messages.success(request, added_in_words(report))
    return redirect("labeling:questions", slug)


def added_in_words(report: ImportReport) -> str:
    count = report.questions_added
    if not count:
        return (
            "Every question of the file was there already."
            if report.present
            else "The file holds no questions."
        )
    return f"Added, behind the others: {count} question{'' if count == 1 else 's'}."


def standing_question(project: Project, pk: int) -> QualificationQuestion:
    return get_object_or_404(QualificationQuestion.objects.standing(), project=project, pk=pk)


def any_question(project: Project, pk: int) -> QualificationQuestion:
    """Standing or not: the act says what became of one that another request has removed or replaced."""
    return get_object_or_404(QualificationQuestion, project=project, pk=pk)


@require_POST
@login_required
def decide(request: HttpRequest, slug: str, member: int) -> HttpResponse:
    """Let a person work without passing, or try once more."""
    project = access_project(request.user, slug, MANAGER)
    place = get_object_or_404(Membership.objects.active().select_related("user"), project=project, pk=member)
    form = DecisionForm(request.POST)
    if form.is_valid():
        said = dict(form.fields["decision"].choices)[form.cleaned_data["decision"]]
        if acts.decide(place, form.cleaned_data["decision"], request.user):
            messages.success(request, f"{place.user.username}: {said}.")
        else:
            messages.warning(request, f"{place.user.username} has no need of it: nothing was changed.")
    else:
        messages.error(request, "Choose one of the decisions offered; nothing was changed.")
    return redirect("labeling:people", slug)
