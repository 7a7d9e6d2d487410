from rest_framework.pagination import CursorPagination


class ById(CursorPagination):
    """Pages by key: the thousandth costs as little as the first."""

    ordering = "id"
    page_size = 100
    page_size_query_param = "limit"
    max_page_size = 1000


class NewestFirst(ById):
    ordering = "-id"
