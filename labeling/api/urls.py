from django.urls import path

from labeling.api import data, projects, tokens, work

app_name = "labeling-api"
urlpatterns = [
    path("auth/token/", tokens.TokenView.as_view(), name="token"),
    path("auth/token/<slug:prefix>/", tokens.OneTokenView.as_view(), name="one-token"),
    path("projects/", projects.ProjectsView.as_view(), name="projects"),
    path("projects/<slug:slug>/", projects.ProjectView.as_view(), name="project"),
    path("projects/<slug:slug>/prompts/", projects.PromptsView.as_view(), name="prompts"),
    path("projects/<slug:slug>/comparisons/", projects.ComparisonsView.as_view(), name="comparisons"),
    path("projects/<slug:slug>/next/", work.NextView.as_view(), name="next"),
    path("projects/<slug:slug>/undo/", work.UndoView.as_view(), name="undo"),
    path("projects/<slug:slug>/my-judgments/", work.OwnJudgmentsView.as_view(), name="my-judgments"),
    path("projects/<slug:slug>/judgments/", work.ReviewView.as_view(), name="judgments"),
    path("projects/<slug:slug>/judgments/lines/", data.JudgmentsView.as_view(), name="judgment-lines"),
    path("projects/<slug:slug>/qualification/", data.QualificationView.as_view(), name="qualification"),
    path("projects/<slug:slug>/preferences/", data.PreferencesView.as_view(), name="preferences"),
    path("projects/<slug:slug>/demonstrations/", data.DemonstrationsView.as_view(), name="demonstrations"),
    path("projects/<slug:slug>/put-aside/", data.PutAsideView.as_view(), name="put-aside"),
    path("projects/<slug:slug>/datasets/", data.DatasetsView.as_view(), name="datasets"),
    path("assignments/<int:pk>/", work.AssignmentView.as_view(), name="assignment"),
    path("assignments/<int:pk>/judgment/", work.AnswerView.as_view(), name="answer"),
    path("assignments/<int:pk>/skip/", work.SkipView.as_view(), name="skip"),
    path("assignments/<int:pk>/flag/", work.FlagView.as_view(), name="flag"),
    path("assignments/<int:pk>/renew/", work.RenewView.as_view(), name="renew"),
    path("assignments/<int:pk>/release/", work.ReleaseView.as_view(), name="release"),
    path("judgments/<int:pk>/", work.JudgmentView.as_view(), name="judgment"),
    path("datasets/<int:pk>/", data.DatasetView.as_view(), name="dataset"),
    path("datasets/<int:pk>/file/", data.DatasetFileView.as_view(), name="dataset-file"),
]
