from django.urls import path

from training.views import effect, loop, runs, schedules, versions

app_name = "training"
urlpatterns = [
    path("p/<slug:slug>/mine/effect/", effect.show, name="effect"),
    path("p/<slug:slug>/loop/", loop.show, name="loop"),
    path("p/<slug:slug>/loop/live/", loop.live, name="loop-live"),
    path("p/<slug:slug>/loop/settings/", loop.edit, name="loop-settings"),
    path("p/<slug:slug>/loop/first-policy/", loop.first_policy, name="first-policy"),
    path("p/<slug:slug>/loop/<str:act>/", loop.act, name="loop-act"),
    path("p/<slug:slug>/runs/", runs.index, name="runs"),
    path("p/<slug:slug>/runs/new/<str:method>/", runs.new, name="run-new"),
    path("p/<slug:slug>/runs/<int:run_id>/", runs.show, name="run"),
    path("p/<slug:slug>/runs/<int:run_id>/live/", runs.live, name="run-live"),
    path("p/<slug:slug>/runs/<int:run_id>/stop/", runs.stop, name="run-stop"),
    path("p/<slug:slug>/runs/<int:run_id>/marked/", runs.put_marked, name="run-marked"),
    path("p/<slug:slug>/versions/", versions.index, name="versions"),
    path("p/<slug:slug>/versions/<int:version_id>/promote/", versions.promote, name="promote"),
    path("p/<slug:slug>/schedules/", schedules.index, name="schedules"),
    path("p/<slug:slug>/schedules/remove/<int:schedule_id>/", schedules.remove, name="schedule-remove"),
]
