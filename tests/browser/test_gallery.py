"""The gallery in a real JupyterLab: choose, sort, enlarge, and save a sheet."""

from PIL import Image
from playwright.sync_api import expect

from tests.helpers.browser_page import cut_off
from tests.helpers.jupyter_lab import Lab


def test_images_are_chosen_sorted_and_saved(lab: Lab) -> None:
    page = lab.page
    lab.run_clean("02_synthesis")
    images = page.locator(".prism-gallery figure")
    images.first.wait_for(timeout=240_000)
    methods = page.get_by_label("Images", exact=True)
    methods.scroll_into_view_if_needed()
    assert page.locator(".prism-panel").count() == 4
    assert images.count() == 8  # two of the first class each
    lab.shot("gallery")
    images.nth(1).click()
    dialog = page.get_by_role("dialog", name="Image inspector")
    dialog.get_by_role("heading", name="Real images, 0 · zero, image 1").wait_for()
    page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    assert cut_off(page) == []

    methods.select_option(label=["PRISM", "Real images"])
    classes = page.get_by_label("Classes", exact=True)
    classes.fill("all classes")
    page.keyboard.press("Enter")
    page.get_by_label("Sorted by", exact=True).select_option(label="agreement of the teachers")
    page.wait_for_selector("text=JS 0", timeout=60_000)
    page.get_by_label("Size (px)").select_option("96")
    page.get_by_label("Show initial images too").check()
    page.wait_for_selector("text=each after its initial image", timeout=60_000)
    methods.scroll_into_view_if_needed()
    lab.shot("gallery_sorted")
    assert cut_off(page) == []

    page.get_by_role("button", name="Save contact sheet").click()
    page.wait_for_selector("text=saved as figures/gallery_all_by_agreement_page1.png")
    sheet = lab.runs / "digits" / "figures" / "gallery_all_by_agreement_page1.png"
    with Image.open(sheet) as picture:
        assert picture.width > 2 * 96

    classes.fill("tvelve")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=no class 'tvelve'; did you mean")
    classes.fill("3-5")
    page.keyboard.press("Enter")
    expect(images).to_have_count(12)
