"""What goes over the wire compressed, and what does not."""

import gzip

import pytest

ACCEPT = {"HTTP_ACCEPT_ENCODING": "gzip"}
DESK_ASSETS = (
    "css/tokens.css", "css/base.css", "css/label.css", "js/label.js", "js/once.js", "js/outbox.js", "js/bar.js", "js/better.js", "js/diff.js",
    "js/drafts.js", "js/gone.js", "js/keys.js", "js/pace.js", "js/ranking.js", "js/ratings.js", "js/sides.js", "js/status.js", "js/strip.js", "js/words.js", "icon.svg",
)  # fmt: skip
MOST_BYTES = 60_000


def body_of(response):
    return b"".join(response.streaming_content) if response.streaming else response.content


def test_the_desk_loads_less_than_60_kb_of_scripts_and_styles(client):
    total = 0
    for name in DESK_ASSETS:
        response = client.get(f"/static/{name}", **ACCEPT)
        body = body_of(response)
        assert response["Content-Encoding"] == "gzip"
        plain = body_of(client.get(f"/static/{name}"))
        assert gzip.decompress(body) == plain and plain
        total += len(body)
    assert total < MOST_BYTES


@pytest.mark.django_db
def test_the_list_above_is_what_the_desk_asks_for(client, project, bob):
    client.force_login(bob)
    page = client.get(f"/p/{project.slug}/label/").content.decode()
    scripts = (client.get(f"/static/{name}") for name in DESK_ASSETS if name.endswith(".js"))
    sources = [page, *(body_of(script).decode() for script in scripts)]
    asked = {
        part.split('"')[0]
        for source in sources
        for start in ('"/static/', 'from "./', 'import "./')
        for part in source.split(start)[1:]
    }
    assert {name.split("/")[-1] for name in asked} == {name.split("/")[-1] for name in DESK_ASSETS}


def test_a_file_that_has_not_changed_is_not_sent_again(client):
    first = client.get("/static/js/label.js", **ACCEPT)
    again = client.get("/static/js/label.js", HTTP_IF_NONE_MATCH=first["ETag"], **ACCEPT)
    assert (first.status_code, again.status_code) == (200, 304)


@pytest.mark.django_db
def test_an_export_is_not_compressed(client, project, alice):
    client.force_login(alice)
    response = client.get(f"/api/v1/projects/{project.slug}/preferences/", **ACCEPT)
    assert response.status_code == 200 and "Content-Encoding" not in response
    response.close()
