"""The playground of a service that answers only those who have a key, and of one whose metrics lie elsewhere."""

from collections.abc import Callable

import pytest
from axe_playwright_python.sync_playwright import Axe
from fakes import long_winded_family
from pages import DESKTOP, PHONE, Opened
from playwright.sync_api import expect
from serving import serving

Open = Callable[..., Opened]
KEY = "a-key-for-the-page-0123"


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_a_key_is_asked_for_used_and_forgotten_with_the_page(opened: Open, width: int):
    with serving(long_winded_family(), api_keys=KEY) as service:
        one = opened(service, shows="#key", width=width)
        one.may_fail = True  # a browser says every status of 400 or more to the console
        page = one.page
        field = page.get_by_label("API key", exact=True)
        expect(field).to_be_focused()
        expect(page.get_by_role("button", name="Generate")).to_be_hidden()
        serious = [said for said in Axe().run(page).response["violations"] if said["impact"] in {"serious", "critical"}]
        assert not serious

        field.fill("another-key-0123456789")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert").filter(has_text="does not know this key")).to_be_visible()
        field.fill(KEY)
        page.get_by_role("button", name="Use this key").click()

        expect(field).to_be_hidden()
        page.get_by_label("Max tokens").fill("4")
        page.get_by_role("button", name="Generate").click()
        expect(page.get_by_role("article", name="Answer A").locator("[data-field=tokens]")).to_contain_text("4")
        expect(page.locator("#health")).to_have_text("answering")
        assert service.family.steps > 0
        assert page.evaluate("[...Object.values(localStorage), ...Object.values(sessionStorage)].join()") == ""
        page.reload()
        expect(field).to_be_visible()
        page.goto("about:blank")


def test_where_metrics_have_a_port_of_their_own_the_page_does_without(opened: Open):
    with serving(long_winded_family(), admin_port=0) as service:
        one = opened(service)
        one.may_fail = True

        expect(one.page.locator("#health")).to_have_text("answering")
        expect(one.page.get_by_role("heading", name="Live")).to_be_hidden()
        expect(one.page.get_by_role("link", name="Metrics")).to_be_hidden()
        one.page.get_by_role("button", name="Generate").click()
        expect(one.page.get_by_role("article", name="Answer A").locator("[data-field=tokens]")).to_contain_text("64")
        one.page.goto("about:blank")
