"""The files of the playground over HTTP, without a browser."""

import re

import pytest
from fakes import long_winded_family
from serving import RunningService, serving

from anysize.api.page import FOLDER


@pytest.fixture(scope="module")
def plain():
    with serving(long_winded_family()) as service:
        yield service


@pytest.mark.parametrize("path", ["/", *(f"/page/{file.name}" for file in sorted(FOLDER.iterdir()))])
def test_every_file_is_served_under_a_strict_policy(plain: RunningService, path: str):
    with plain.client() as client:
        response = client.get(path)

    assert response.status_code == 200
    assert response.headers["content-security-policy"].startswith("default-src 'self';")
    assert "unsafe" not in response.headers["content-security-policy"]
    assert response.headers["x-content-type-options"] == "nosniff"
    kind = {"css": "text/css", "svg": "image/svg+xml", "html": "text/html", "": "text/html"}
    assert response.headers["content-type"].split(";")[0] in {
        kind.get(path.rpartition(".")[2] if "." in path else "", "text/javascript"),
        "application/javascript",
    }


def test_a_browser_that_has_a_file_is_told_that_it_has_not_changed(plain: RunningService):
    with plain.client() as client:
        etag = client.get("/page/page.css").headers["etag"]
        again = client.get("/page/page.css", headers={"if-none-match": etag})

    assert again.status_code == 304
    assert again.content == b""


@pytest.mark.parametrize("path", ["/page/nothing.js", "/page/", "/page/..%2fsettings.py", "/page/%2e%2e/api/app.py"])
def test_nothing_else_is(plain: RunningService, path: str):
    with plain.client() as client:
        response = client.get(path)

    assert response.status_code == 404
    assert response.json()["error"]["type"] == "not_found"


def test_the_page_runs_no_script_and_no_style_that_its_policy_forbids():
    html = (FOLDER / "index.html").read_text()

    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", html)
    assert not re.search(r"<script(?![^>]* src=)", html)


def test_no_file_names_another_host():
    for file in FOLDER.iterdir():
        named = set(re.findall(r"https?://[^\s\"')]+", file.read_text()))
        assert named <= {"http://www.w3.org/2000/svg"}, file.name


def test_the_api_does_not_list_the_page(plain: RunningService):
    with plain.client() as client:
        assert "/" not in client.get("/openapi.json").json()["paths"]
        assert client.post("/").status_code == 405
