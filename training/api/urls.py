from django.urls import path, re_path

from training.api import views

app_name = "training-api"
urlpatterns = [
    path("projects/<slug:slug>/runs/", views.RunsView.as_view(), name="runs"),
    path("projects/<slug:slug>/models/", views.ModelsView.as_view(), name="models"),
    path("projects/<slug:slug>/rounds/", views.RoundsView.as_view(), name="rounds"),
    path("runs/<int:pk>/", views.RunView.as_view(), name="run"),
    path("runs/<int:pk>/stop/", views.StopView.as_view(), name="run-stop"),
    path("runs/<int:pk>/metrics/", views.MetricsView.as_view(), name="run-metrics"),
    path("runs/<int:pk>/marked/", views.MarkedView.as_view(), name="run-marked"),
    path("models/<int:pk>/promote/", views.PromoteView.as_view(), name="promote"),
    path("models/<int:pk>/files/", views.ModelFilesView.as_view(), name="model-files"),
    re_path(
        r"^models/(?P<pk>[0-9]+)/files/(?P<name>(?:adapter/)?[^/]+)/$",
        views.ModelFileView.as_view(),
        name="model-file",
    ),
    path("rounds/<int:pk>/", views.RoundView.as_view(), name="round"),
    path("rounds/<int:pk>/train/", views.TrainView.as_view(), name="round-train"),
    path("rounds/<int:pk>/retry/", views.RetryView.as_view(), name="round-retry"),
    path("rounds/<int:pk>/cancel/", views.CancelView.as_view(), name="round-cancel"),
]
