"""The playground in a browser, in front of a real server with a tiny family."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from axe_playwright_python.sync_playwright import Axe
from calibrated import MS_A_LAYER
from fakes import Gate, long_winded_family
from models import eventually
from pages import DESKTOP, PHONE, Opened
from playwright.sync_api import Page, expect
from serving import RunningService, serving

Open = Callable[..., Opened]
PROMPT = "The history of the bicycle begins"


@contextmanager
def held(service: RunningService) -> Iterator[Gate]:
    """The model moves a step at a time."""
    gate = Gate()
    service.family.before_step = gate
    try:
        yield gate
    finally:
        gate.open()
        service.family.before_step = lambda rows: None


def answer(page: Page, letter: str = "A"):
    return page.get_by_role("article", name=f"Answer {letter}")


def text(page: Page, letter: str = "A") -> str | None:
    """The last answer, to the letter."""
    return answer(page, letter).locator(".text").last.text_content()


def lane(page: Page, letter: str = "A"):
    return page.get_by_role("article", name=f"Size {letter}")


def slider(page: Page, letter: str = "A"):
    return lane(page, letter).get_by_role("slider", name="Size")


def generate(page: Page, max_tokens: int = 12) -> None:
    """Press Generate, and wait until every answer is there."""
    page.get_by_label("Max tokens").fill(str(max_tokens))
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_role("button", name="Generate")).to_be_enabled()


def in_engine(service: RunningService) -> int:
    state = service.state.engine.state()
    return state.running + state.waiting


def sideways(page: Page) -> int:
    """By how much the page is wider than the screen."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_the_slider_goes_over_the_ladder_with_the_arrow_keys(service: RunningService, opened: Open, width: int):
    page = opened(service, width=width).page
    slider(page).focus()
    page.keyboard.press("Home")

    for size in service.family.ladder:
        fields = lane(page).locator("[data-field]")
        expect(lane(page).locator("[data-field=id]")).to_have_text(size.id)
        expect(lane(page).locator("[data-field=layers]")).to_have_text(f"{size.layers} of 8")
        expect(lane(page).locator("[data-field=latency]")).to_have_text(f"{MS_A_LAYER * size.layers:.1f} ms a token")
        assert f"{20 * 2 ** (8 - size.layers)}" in " ".join(fields.all_text_contents()).replace(".0", "")
        expect(slider(page)).to_have_attribute("aria-valuetext", re.compile(f"{size.layers} of 8 layers"))
        expect(lane(page).locator(".slot.teacher")).to_have_count(len(size.variant.patched))
        assert lane(page).locator(".slot.teacher i").count() == sum(
            len(service.family.bank.blocks.blocks[position - 1]) for position in size.variant.patched
        )
        page.keyboard.press("ArrowRight")

    expect(lane(page).get_by_role("img")).to_have_accessible_name(
        re.compile("no student layers; teacher blocks at 1 to 4")
    )
    assert sideways(page) == 0


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_the_chosen_size_answers_and_says_so(service: RunningService, opened: Open, width: int):
    page = opened(service, width=width).page
    middle = service.family.ladder[1].id
    slider(page).fill("1")

    generate(page)

    plain = service.generate(prompt=PROMPT, variant=middle, max_tokens=12).json()
    assert text(page) == plain["text"]
    expect(answer(page).locator("[data-field=variant]")).to_contain_text(middle)
    expect(answer(page).locator("[data-field=tokens]")).to_contain_text("12 after")
    expect(answer(page).locator("[data-field=ttft]")).to_contain_text("ms")
    expect(answer(page).locator("[data-field=tpot]")).to_contain_text("ms")
    expect(page.locator("#announcer")).to_contain_text(f"Answer A, by {middle}")
    assert sideways(page) == 0


def test_text_comes_while_the_model_runs_and_stop_ends_it(service: RunningService, opened: Open):
    page = opened(service).page
    with held(service) as gate:
        page.get_by_role("button", name="Generate").click()
        for _ in range(8):
            gate.wait()
            gate.let()
        expect(answer(page).locator(".text")).not_to_be_empty()
        expect(page.get_by_role("button", name="Generate")).to_be_disabled()

        page.get_by_role("button", name="Stop").click()

        expect(answer(page).locator("[data-field=state]")).to_have_text("stopped")
        expect(page.get_by_role("button", name="Generate")).to_be_enabled()
    eventually(lambda: service.state.engine.state().running == 0)


def test_escape_stops_too(service: RunningService, opened: Open):
    page = opened(service).page
    with held(service):
        page.get_by_label("Text to go on from").press("Control+Enter")
        expect(page.get_by_role("button", name="Stop")).to_be_enabled()

        page.keyboard.press("Escape")

        expect(answer(page).locator("[data-field=state]")).to_have_text("stopped")


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_two_sizes_answer_one_prompt_at_once(service: RunningService, opened: Open, width: int):
    page = opened(service, width=width).page
    page.get_by_role("switch", name="Compare two sizes").check()
    slider(page, "A").fill("0")
    slider(page, "B").fill("2")
    page.get_by_label("Max tokens").fill("12")
    with held(service):
        page.get_by_role("button", name="Generate").click()
        eventually(lambda: in_engine(service) == 2)
    expect(page.get_by_role("button", name="Generate")).to_be_enabled()

    for letter, size in (("A", service.family.ladder[0]), ("B", service.family.ladder[2])):
        plain = service.generate(prompt=PROMPT, variant=size.id, max_tokens=12).json()
        assert text(page, letter) == plain["text"]
    first, second = answer(page, "A").bounding_box(), answer(page, "B").bounding_box()
    assert first is not None
    assert second is not None
    assert (first["y"] == second["y"]) is (width == DESKTOP)
    assert sideways(page) == 0


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_the_curve_can_be_read_and_chosen_from(service: RunningService, opened: Open, width: int):
    page = opened(service, width=width).page
    points = page.locator("#curve .point")
    sizes = service.family.ladder
    expect(points).to_have_count(len(sizes))
    for index, size in enumerate(sizes):
        expect(points.nth(index)).to_have_accessible_name(
            re.compile(f"{re.escape(size.id)}: .*{size.layers} of 8 layers, perplexity ")
        )
    heights = [float(points.nth(index).locator("circle").first.get_attribute("cy") or 0) for index in range(len(sizes))]
    assert heights == sorted(heights)  # larger is better, so lower

    points.last.focus()
    page.keyboard.press("Home")
    expect(points.first).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".tip")).to_contain_text(sizes[1].id)
    page.keyboard.press("Enter")

    expect(points.nth(1)).to_have_attribute("aria-pressed", "true")
    expect(slider(page)).to_have_value("1")

    page.locator("#curve svg").click(position={"x": 50, "y": 100})
    expect(slider(page)).to_have_value("0")
    page.get_by_text("All sizes as a table").click()
    expect(page.locator("#table tbody tr")).to_have_count(len(sizes))
    expect(page.locator("#table tbody tr").last).to_contain_text("teacher")
    assert sideways(page) == 0


def test_a_latency_budget_is_asked_for_instead_of_a_size(service: RunningService, opened: Open):
    page = opened(service).page
    lane(page).get_by_role("radio", name="Latency").check()
    bound = lane(page).get_by_role("slider", name=re.compile("At most"))
    smallest = service.family.ladder[0]
    bound.fill(str(MS_A_LAYER * smallest.layers + 5))
    expect(lane(page).locator("[data-field=id]")).to_have_text(smallest.id)

    generate(page)

    expect(answer(page).locator("[data-field=variant]")).to_contain_text(smallest.id)
    expect(answer(page).locator("[data-field=note]")).to_contain_text(
        re.compile("40.0 ms a token were predicted; the bound was (kept|missed)")  # a busy machine may miss it
    )


def test_a_conversation_goes_on(service: RunningService, opened: Open):
    page = opened(service).page
    page.get_by_role("radio", name="Chat").check()
    said: list[dict[str, str]] = []
    for message in ("Who are you?", "And who am I?"):
        page.get_by_label("Your message").fill(message)

        generate(page)

        said.append({"role": "user", "content": message})
        plain = service.generate(
            messages=said, variant=lane(page).locator("[data-field=id]").inner_text(), max_tokens=12
        )
        said.append({"role": "assistant", "content": plain.json()["text"]})
        assert text(page) == plain.json()["text"]
    expect(answer(page).locator(".turn")).to_have_count(2)
    page.get_by_role("button", name="New chat").click()
    expect(answer(page).locator(".turn")).to_have_count(0)


def test_an_error_is_told_in_words(service: RunningService, opened: Open):
    one = opened(service)
    one.may_fail = True  # a browser says every status of 400 or more to the console
    one.page.get_by_label("Text to go on from").fill("x" * 400)

    generate(one.page)

    expect(answer(one.page).get_by_role("alert")).to_contain_text("exceed the context of 256 tokens")


def test_nothing_is_asked_that_no_service_would_answer(service: RunningService, opened: Open):
    page = opened(service).page
    page.get_by_label("Max tokens").fill("0")
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#prompt-error")).to_contain_text("Max tokens: give a number from 1")

    page.get_by_label("Text to go on from").fill("")
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#prompt-error")).to_have_text("Write something first.")


def test_load_and_served_sizes_follow_the_service(service: RunningService, opened: Open):
    page = opened(service).page
    row = page.locator("#served tr", has_text="student").locator(".count")
    expect(row).to_have_text(re.compile("[0-9]"))
    before = int(row.inner_text())

    with held(service):
        page.get_by_role("button", name="Generate").click()
        expect(page.locator(".gauge", has_text="Running").locator(".reading")).to_have_text("1")
        page.get_by_role("button", name="Stop").click()
    service.generate(prompt="x", variant="student", max_tokens=2)

    expect(row).to_have_text(str(before + 1))
    expect(page.locator(".gauge", has_text="Running").locator(".reading")).to_have_text("0")
    expect(page.get_by_role("img", name=re.compile("Tokens a second, the last two minutes"))).to_be_visible()
    assert page.locator("#health").inner_text() == "answering"


def test_dark_and_light_follow_the_system_until_one_is_chosen(service: RunningService, opened: Open):
    page = opened(service, color_scheme="dark").page
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    page.emulate_media(color_scheme="light")
    light = page.evaluate(ground)
    assert light != dark

    page.get_by_role("button", name="Dark").click()
    assert page.evaluate(ground) == dark
    page.reload()
    assert page.evaluate(ground) == dark
    expect(page.get_by_role("button", name="Light")).to_be_visible()


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(service: RunningService, opened: Open, scheme: str, width: int):
    page = opened(service, width=width, color_scheme=scheme, reduced_motion="reduce").page
    page.get_by_role("switch", name="Compare two sizes").check()
    lane(page, "B").get_by_role("radio", name="Latency").check()
    page.get_by_text("All sizes as a table").click()
    generate(page)

    violations = Axe().run(page).response["violations"]

    serious = [one for one in violations if one["impact"] in {"serious", "critical"}]
    assert not serious, [(one["id"], [node["html"] for node in one["nodes"]][:3]) for one in serious]


def test_a_narrow_phone_needs_no_scrolling_sideways(service: RunningService, opened: Open):
    page = opened(service, width=360).page
    page.get_by_role("switch", name="Compare two sizes").check()
    page.get_by_text("All sizes as a table").click()
    page.get_by_label("Text to go on from").fill("w" * 120)

    generate(page)

    assert sideways(page) == 0


def test_what_was_never_measured_is_said_and_not_drawn(opened: Open):
    with serving(long_winded_family()) as plain:
        page = opened(plain).page

        expect(lane(page).locator("[data-field=perplexity]")).to_have_text("not measured")
        expect(lane(page).locator("[data-field=latency]")).to_have_text("not calibrated")
        expect(page.locator("#calibrate-note")).to_be_visible()
        expect(lane(page).get_by_text("Latency", exact=True)).to_be_hidden()
        expect(page.locator("#curve .point circle")).to_have_count(0)
        generate(page)
        expect(lane(page).locator("[data-field=latency]")).to_contain_text("ms a token")
        expect(page.locator("#curve .measured")).to_have_count(1)
        page.goto("about:blank")
