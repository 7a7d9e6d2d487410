from allauth.account.adapter import DefaultAccountAdapter
from django.http import HttpRequest


class ClosedSignup(DefaultAccountAdapter):
    """Accounts are made by managers. An open sign-up has turned many a labelling server inside out."""

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        return False
