"""Who forgot their password is sent a link to set a new one, where the operator named a server for mail."""

import logging
from typing import Any

from allauth.account.views import LoginView, PasswordResetView
from django.conf import settings
from django.forms import Form
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _

log = logging.getLogger(__name__)


class SignIn(LoginView):
    """allauth's, which leads to Forgotten where there is mail."""

    def get_context_data(self, **context: Any) -> dict[str, Any]:
        return super().get_context_data(mail=bool(settings.EMAIL_HOST), **context)


class Forgotten(PasswordResetView):
    """allauth's, which mails known and unknown addresses alike, so that neither page nor failure tells who is here.

    Without mail it says who makes new passwords, and promises no letter.
    """

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if not settings.EMAIL_HOST:
            return render(request, "account/no_mail.html")
        return super().dispatch(request, *args, **kwargs)

    def form_valid(self, form: Form) -> HttpResponse:
        try:
            return super().form_valid(form)
        except OSError:  # every fault of smtplib is one
            log.exception("A link to set a new password could not be mailed")
            form.add_error(
                None, _("The mail could not be sent. Try again later, or ask a manager for a new password.")
            )
            return self.form_invalid(form)
