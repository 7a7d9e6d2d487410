"""allauth as it is used here: accounts are made by managers, and mail may be away or not set at all."""

import logging
from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest
from django.utils.translation import gettext as _

log = logging.getLogger(__name__)
SENT = "account/messages/email_confirmation_sent.txt"


class ClosedSignup(DefaultAccountAdapter):
    """Accounts are made by managers. An open sign-up has turned many a labelling server inside out."""

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        return False

    def send_confirmation_mail(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        """An address is kept whether or not a letter reaches it."""
        if settings.EMAIL_HOST:
            try:
                super().send_confirmation_mail(request, *args, **kwargs)
            except OSError:  # every fault of smtplib is one
                log.exception("A letter to confirm an address could not be mailed")
                request.letter_failed = True

    def add_message(
        self, request: HttpRequest, level: int, message_template: str = "", *args: Any, **kwargs: Any
    ) -> None:
        """Nothing is said to be sent that was not."""
        if message_template != SENT:
            super().add_message(request, level, message_template, *args, **kwargs)
        elif getattr(request, "letter_failed", False):
            messages.error(
                request,
                _("The mail could not be sent. Try again later, or ask a manager for a new password."),
            )
        elif settings.EMAIL_HOST:
            super().add_message(request, level, message_template, *args, **kwargs)
