"""The Tune tab in a real browser, on a tiny model: preview, presets, undo by keys, the hand on the faders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.serving import drag, spot
from tests.support.visitor import BROWSER, Visitor, expect

pytestmark = BROWSER


@pytest.fixture
def tuner(visitor: Visitor, text_file: str) -> Visitor:
    """A person who has come as far as the Tune tab."""
    visitor.load()
    visitor.analyse(text_file)
    visitor.page.click("#analyse-next")
    expect(visitor.fader("mlp", 1)).to_be_visible()
    return visitor


def test_preview_after_a_release_and_on_request(tuner: Visitor) -> None:
    page, panel = tuner.page, tuner.page.locator("#tune-preview")
    expect(panel.locator(".mp-state")).to_contain_text("done in")
    expect(panel.locator(".mp-badge")).to_have_text("Preview, no recovery")
    number = panel.locator(".mp-number").inner_text()
    visible = tuner.fader("mlp", 1)
    visible.scroll_into_view_if_needed()
    drag(page, *(spot(page, "mlp", 1, share) for share in (0.9, 0.5, 0.1)))
    expect(panel.locator(".mp-number")).not_to_have_text(number)
    expect(panel.locator(".mp-state")).to_contain_text("done in")
    page.locator("#tune-undo").click()
    expect(panel.locator(".mp-number")).to_have_text(number)
    tuner.set("tune-preview-prompt", "Cut <b>away</b>")
    expect(panel.locator(".mp-text").last).to_contain_text("Cut <b>away</b>")
    page.locator("#tune-preview-auto input").uncheck()
    tuner.fader("mlp", 0).press("Home")
    expect(panel.locator(".mp-state")).to_contain_text("press Preview")
    page.click("#tune-preview-button")
    expect(panel.locator(".mp-state")).to_contain_text("done in")
    tuner.open()
    tuner.tab("Tune")
    expect(page.locator("#tune-preview-prompt textarea")).to_have_value("Cut <b>away</b>")
    expect(page.locator("#tune-preview-auto input")).not_to_be_checked()


def kept(tuner: Visitor, site: str, layer: int) -> int:
    return int(tuner.fader(site, layer).get_attribute("aria-valuenow") or -1)


def shown(tuner: Visitor, site: str, layer: int, wanted: int) -> None:
    expect(tuner.fader(site, layer)).to_have_attribute("aria-valuenow", str(wanted))


def settled(tuner: Visitor) -> None:
    """Waits until Python has answered, with its own exact figures."""
    expect(tuner.page.locator("#tune-forecast")).to_have_attribute("data-exact", "true")


def test_keys_and_tools_on_a_fader_and_undo_to_the_start(tuner: Visitor) -> None:
    page = tuner.page
    start = [kept(tuner, "mlp", i) for i in range(3)]
    settled(tuner)
    tuner.fader("mlp", 0).focus()
    page.keyboard.type("50%")
    expect(page.get_by_test_id("fader-number")).to_be_focused()
    page.keyboard.press("Enter")
    shown(tuner, "mlp", 0, 48)
    expect(tuner.fader("mlp", 0)).to_be_focused()
    settled(tuner)
    page.keyboard.press("c")
    settled(tuner)
    assert [kept(tuner, "mlp", i) for i in range(3)] == [48, 48, 48]
    page.keyboard.press("ArrowRight")
    page.keyboard.press("a")
    shown(tuner, "mlp", 1, start[1])
    settled(tuner)
    page.keyboard.press("l")
    page.keyboard.press("l")  # unlocks again
    expect(tuner.fader("mlp", 1)).to_have_attribute("aria-disabled", "false")
    tuner.fader("mlp", 2).scroll_into_view_if_needed()
    page.mouse.dblclick(*spot(page, "mlp", 2, 0.2))
    shown(tuner, "mlp", 2, start[2])
    settled(tuner)
    page.get_by_test_id("fader-number").fill("many")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("fader-number")).to_have_attribute("aria-invalid", "")
    page.keyboard.press("Control+z")  # in a text field this is the browser's own
    page.keyboard.press("Escape")
    for _ in range(8):  # more than there are steps
        page.keyboard.press("Control+z")
    expect(page.locator("#tune-undo")).to_be_disabled()
    for layer in range(3):
        shown(tuner, "mlp", layer, start[layer])
    page.keyboard.press("Control+y")
    shown(tuner, "mlp", 0, 48)


def test_solo_counts_one_site_and_the_error_of_every_layer_is_drawn(tuner: Visitor) -> None:
    page, parameters = tuner.page, tuner.page.locator("#tune-forecast [data-key=parameters]")
    settled(tuner)
    both = int(parameters.get_attribute("data-value") or 0)
    before = page.locator("[data-error='1']").evaluate("node => node.style.getPropertyValue('--error')")
    page.get_by_role("button", name="Solo attention").click()
    expect(parameters).not_to_have_attribute("data-value", str(both))
    assert int(parameters.get_attribute("data-value") or 0) > both
    expect(tuner.fader("mlp", 1)).to_have_attribute("aria-disabled", "true")
    expect(page.locator("#tune-preview")).to_contain_text("attention alone")
    page.keyboard.press("Enter")
    expect(parameters).to_have_attribute("data-value", str(both))
    tuner.fader("mlp", 1).press("Home")
    after = page.locator("[data-error='1']").evaluate("node => node.style.getPropertyValue('--error')")
    assert float(after) > float(before)


def test_presets_equal_widths_and_what_a_restart_keeps(tuner: Visitor) -> None:
    page = tuner.page
    expect(page.locator("#tune-same-cost")).to_contain_text("with it")
    tuner.choose("tune-preset", "Half")
    expect(page.locator("#tune-target input[type=number]")).to_have_value("0.5")
    page.locator("#tune-same input").check()
    expect(page.locator("#tune-same-cost")).to_contain_text("a width of its own")
    page.wait_for_function(
        "new Set([...document.querySelectorAll('[role=slider][data-site=mlp]')]"
        ".map((node) => node.getAttribute('aria-valuenow'))).size === 1"
    )
    tuner.fader("mlp", 1).press("Home")
    settled(tuner)
    mine = kept(tuner, "mlp", 1)
    page.locator("#tune-preset-name input, #tune-preset-name textarea").fill("Narrow <i>waist</i>")
    page.click("#tune-preset-keep")
    expect(page.locator("#tune-intro")).to_contain_text("kept as “Narrow <i>waist</i>”")
    tuner.choose("tune-preset", "Gentle 10 %")
    expect(page.locator("#tune-target input[type=number]")).to_have_value("0.1")
    tuner.open()
    tuner.tab("Tune")
    expect(page.locator("#tune-preset input")).to_have_value("Gentle 10 %")
    tuner.choose("tune-preset", "Narrow <i>waist</i> (yours)")
    shown(tuner, "mlp", 1, mine)
    page.click("#tune-preset-forget")
    expect(page.locator("#tune-intro")).to_contain_text("is forgotten")


def test_protected_and_forced_units_limit_the_faders(tuner: Visitor, tmp_path: Path) -> None:
    page = tuner.page
    with page.expect_download() as saved:
        page.click("#tune-save")
    plan = json.loads(Path(saved.value.path()).read_text())
    plan["protected"] = [{"layer": 1, "site": "mlp", "index": i} for i in range(40)]
    plan["forced"] = [{"layer": 2, "site": "mlp", "index": i} for i in range(40)]
    plan["channels"][2] = 48
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(plan))
    page.get_by_test_id("Load plan-upload-button").set_input_files(file)
    expect(page.locator("#tune-intro")).to_contain_text("The plan is loaded")
    tuner.fader("mlp", 1).press("Home")
    shown(tuner, "mlp", 1, 40)
    expect(page.locator("#tune-faders")).to_contain_text("40 protected: at least 40 stay")
    tuner.fader("mlp", 2).press("End")
    shown(tuner, "mlp", 2, 56)
    expect(page.locator("#tune-faders")).to_contain_text("40 forced out: at most 56 stay")
    expect(page.locator("#tune-faders .fd-guard")).to_have_count(2)


def test_a_layer_that_is_forced_out_says_where_and_moves_for_no_hand(tuner: Visitor, tmp_path: Path) -> None:
    page = tuner.page
    with page.expect_download() as saved:
        page.click("#tune-save")
    plan = json.loads(Path(saved.value.path()).read_text())
    layer, (heads, _, channels) = 1, plan["widths"][1]
    plan["heads"][layer] = plan["channels"][layer] = 0
    plan["forced"] = [
        {"layer": layer, "site": site, "index": i}
        for site, units in (("attention", heads), ("mlp", channels))
        for i in range(units)
    ]
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(plan))
    page.get_by_test_id("Load plan-upload-button").set_input_files(file)
    expect(page.locator("#tune-intro")).to_contain_text("The plan is loaded")
    for site in ("attention", "mlp"):
        fader = tuner.fader(site, layer)
        expect(fader).to_have_attribute("aria-disabled", "true")
        expect(tuner.fader(site, 0)).to_have_attribute("aria-disabled", "false")
        tuner.press(fader)
        expect(page.locator("#tune-faders")).to_contain_text("forced out on Analyse")
        expect(page.get_by_test_id("fader-number")).to_be_disabled()
        shown(tuner, site, layer, 0)


def test_quick_presses_of_undo_are_as_many_steps(tuner: Visitor) -> None:
    page = tuner.page
    settled(tuner)
    start = kept(tuner, "mlp", 0)
    for share in ("40%", "60%", "50%"):
        tuner.fader("mlp", 0).focus()
        page.keyboard.type(share)
        page.keyboard.press("Enter")
        settled(tuner)
    page.locator("#tune-undo").scroll_into_view_if_needed()
    box = page.locator("#tune-undo").bounding_box()
    assert box is not None
    page.evaluate(
        "() => { const ask = window.fetch; window.fetch = async (...given) => {"
        " await new Promise((done) => setTimeout(done, 300)); return ask(...given); }; }"
    )
    for _ in range(3):
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    shown(tuner, "mlp", 0, start)
    expect(page.locator("#tune-undo")).to_be_disabled()


def test_balance_moves_what_goes_between_attention_and_mlp(tuner: Visitor) -> None:
    page, slider = tuner.page, tuner.page.locator("#tune-balance")
    settled(tuner)
    before = page.locator("#tune-summary").inner_text()
    heads = [kept(tuner, "attention", i) for i in range(3)]
    page.get_by_role("button", name="By which rules").click()
    expect(slider.locator("input[type=number]")).to_be_enabled()
    share = int(slider.locator("input[type=number]").input_value())
    slider.locator("input[type=number]").fill("95")
    slider.locator("input[type=number]").press("Tab")
    expect(page.locator("#tune-words")).to_contain_text("By hand")
    settled(tuner)
    after = [kept(tuner, "attention", i) for i in range(3)]
    assert sum(after) < sum(heads)
    assert int(slider.locator("input[type=number]").input_value()) > share
    slider.locator("input[type=range]").scroll_into_view_if_needed()
    box = slider.locator("input[type=range]").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 2, box["y"] + box["height"] / 2)
    for i in range(3):
        shown(tuner, "attention", i, 6)
    expect(slider.locator("input[type=number]")).to_have_value("0")
    page.click("#tune-undo")
    page.click("#tune-undo")
    expect(page.locator("#tune-summary")).to_have_text(before, use_inner_text=True)
    expect(slider.locator("input[type=number]")).to_have_value(str(share))


TYPED_AT_ONCE = """async ([selector, letters, last]) => {
  const box = document.querySelector(selector);
  box.focus();
  box.select();
  // All within one task, as on a page that is busy drawing while somebody types.
  document.execCommand('delete');
  for (const letter of letters) document.execCommand('insertText', false, letter);
  await new Promise((done) => setTimeout(done, 200));
  document.execCommand('insertText', false, last);
  return box.value;
}"""


def test_a_number_typed_fast_on_a_busy_page_keeps_its_point(tuner: Visitor) -> None:
    box = "#tune-target input[type=number]"
    typed = [tuner.page.evaluate(TYPED_AT_ONCE, [box, *parts]) for parts in (("0.", "3"), ("0.10", "5"))]
    assert typed == ["0.3", "0.105"]
