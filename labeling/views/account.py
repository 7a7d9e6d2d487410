"""A person's own account, and the tokens by which their programs speak for them."""

from datetime import timedelta

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone, translation
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST
from knox.models import get_token_model

from labeling.access import ANNOTATING, access_place
from labeling.forms import KeysForm, LanguageForm, TokenForm
from labeling.models import User
from labeling.views.home import own_places

REMEMBERED = timedelta(days=365)


@require_GET
@login_required
def account(request: HttpRequest) -> HttpResponse:
    context = {"places": own_places(request.user), "form": LanguageForm(instance=request.user)}
    return render(request, "labeling/account.html", context)


@require_POST
@login_required
def choose_language(request: HttpRequest) -> HttpResponse:
    """Keep the person's choice; this browser remembers it too, for the page where they sign in."""
    form = LanguageForm(request.POST, instance=request.user)
    if not form.is_valid():
        messages.error(request, _("Choose one of the languages listed."))
        return redirect("labeling:account")
    chosen = form.save().language
    answer = redirect("labeling:account")
    if chosen:
        answer.set_cookie(
            settings.LANGUAGE_COOKIE_NAME,
            chosen,
            max_age=REMEMBERED,
            secure=settings.SESSION_COOKIE_SECURE,
            httponly=True,
            samesite="Lax",
        )
    else:
        answer.delete_cookie(settings.LANGUAGE_COOKIE_NAME, samesite="Lax")
        request.COOKIES.pop(settings.LANGUAGE_COOKIE_NAME, None)
    with translation.override(chosen or translation.get_language_from_request(request)):
        messages.success(request, _("Saved. Our pages speak this language to you from now on."))
    return answer


@never_cache
@require_http_methods(["GET", "POST"])
@login_required
def keys(request: HttpRequest) -> HttpResponse:
    """The keys of one's own desk; `?project=` names the desk to go back to."""
    context = {}
    if slug := request.GET.get("project"):
        place = access_place(request.user, slug, *ANNOTATING)
        context = {"project": place.project, "role": place.role}
    if "usual" in request.POST:
        forget_own_keys(request.user)
        messages.success(request, _("The desk has its usual keys again."))
        return redirect(request.get_full_path())
    form = KeysForm(request.user, request.POST or None)
    if form.is_valid():
        form.save()
        messages.success(
            request, _("Saved. Your desk has these keys from its next page on, on every device.")
        )
        return redirect(request.get_full_path())
    return render(request, "labeling/keys.html", context | {"form": form})


def forget_own_keys(user: User) -> None:
    user.own_keys = {}
    user.save(update_fields=["own_keys"])


@never_cache
@require_http_methods(["GET", "POST"])
@login_required
def tokens(request: HttpRequest) -> HttpResponse:
    """List, and make: the answer to the POST is the only page that ever shows the token."""
    form = TokenForm(request.POST or None)
    fresh = None
    if request.method == "POST" and form.is_valid():
        expiry = timedelta(days=form.cleaned_data["lifetime"])
        _token, fresh = get_token_model().objects.create(user=request.user, expiry=expiry)
        form = TokenForm()
    own = get_token_model().objects.filter(user=request.user).order_by("-created")
    context = {"form": form, "fresh": fresh, "tokens": own, "now": timezone.now()}
    return render(request, "labeling/tokens.html", context)


@require_POST
@login_required
def revoke_token(request: HttpRequest, digest: str) -> HttpResponse:
    revoked, _by_model = get_token_model().objects.filter(user=request.user, digest=digest).delete()
    if not revoked:
        raise Http404
    messages.success(request, _("Revoked. Programs that used it are refused from now on."))
    return redirect("labeling:tokens")
