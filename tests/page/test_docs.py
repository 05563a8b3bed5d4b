"""The page of the API's schema, in a browser."""

from collections.abc import Callable

from pages import Opened
from playwright.sync_api import expect
from serving import RunningService


def test_the_api_is_read_and_tried_with_files_of_our_own(service: RunningService, opened: Callable[..., Opened]):
    page = opened(service, path="/docs", shows=".opblock").page
    expect(page.locator("h1, h2").first).to_contain_text("Anysize")
    page.locator("[id*=variants_get]").first.click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    expect(page.locator(".live-responses-table .response-col_status").last).to_contain_text("200")


def test_its_policy_names_the_one_script_that_it_holds(service: RunningService):
    with service.client() as client:
        policy = client.get("/docs").headers["content-security-policy"]
    assert "unsafe" not in policy
    assert policy.count("'sha256-") == 1
