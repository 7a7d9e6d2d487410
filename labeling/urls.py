from django.urls import path

from labeling.views import account, data, home, label, mine, people, reports

app_name = "labeling"
urlpatterns = [
    path("", home.home, name="home"),
    path("account/", account.account, name="account"),
    path("account/language/", account.choose_language, name="language"),
    path("account/keys/", account.keys, name="keys"),
    path("tokens/", account.tokens, name="tokens"),
    path("tokens/<str:digest>/revoke/", account.revoke_token, name="revoke-token"),
    path("p/<slug:slug>/", home.project, name="project"),
    path("p/<slug:slug>/settings/", home.settings, name="settings"),
    path("p/<slug:slug>/guidelines/", home.guidelines, name="guidelines"),
    path("p/<slug:slug>/label/", label.label, name="label"),
    path("p/<slug:slug>/label/next/", label.next_comparison, name="next"),
    path("p/<slug:slug>/label/answer/", label.answer, name="answer"),
    path("p/<slug:slug>/label/texts/", label.texts, name="texts"),
    path("p/<slug:slug>/label/put-aside/", label.put_aside, name="put-aside"),
    path("p/<slug:slug>/label/undo/", label.undo, name="undo"),
    path("p/<slug:slug>/label/renew/", label.renew, name="renew"),
    path("p/<slug:slug>/mine/", mine.mine, name="mine"),
    path("p/<slug:slug>/data/", data.data, name="data"),
    path("p/<slug:slug>/data/import/", data.upload, name="import"),
    path("p/<slug:slug>/data/freeze/", data.freeze, name="freeze"),
    path("p/<slug:slug>/reports/", reports.reports, name="reports"),
    path("p/<slug:slug>/reports/<int:report>/decide/", reports.decide, name="report-decide"),
    path("p/<slug:slug>/people/", people.people, name="people"),
    path("p/<slug:slug>/people/<int:member>/role/", people.change_role, name="change-role"),
    path("p/<slug:slug>/people/<int:member>/password/", people.reset_password, name="reset-password"),
]
