"""Every page of the book in a real browser: what it loads, whom it shuts out, whether it fits.

See browser.py for where it comes from. ``axe`` is axe-core 4.14.1 from npm, as it is there.
"""

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
from playwright.sync_api import ConsoleMessage, Page, Response

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build/html"
AXE = ROOT / "tests/axe/axe.min.js"
MOST = 1_500_000  # bytes that a page loads before the reader asks for more
GRAVE = {"serious", "critical"}

PAGES = sorted(str(path.relative_to(HTML)) for path in HTML.rglob("*.html"))
PAGES = [page for page in PAGES if page != "index.html"]  # which only leads to the first page
FROM_DISK = ("book/index.html", "book/gpt2/attention.html", "src/gpt2.html", "search.html")

pytestmark = pytest.mark.usefixtures("browser", "site")


@pytest.fixture(scope="module")
def context(browser):
    """A window of the browser as wide as that of a small laptop."""
    with browser.new_context(viewport={"width": 1280, "height": 800}) as context:
        yield context


@dataclass
class Visit:
    """What happened while a page was open, and what was seen there."""

    messages: list[str] = field(default_factory=list)  # errors and warnings of the console
    requests: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)  # requests
    names: dict[str, str] = field(default_factory=dict)  # addresses by the requests' numbers
    sizes: dict[str, int] = field(default_factory=dict)  # bytes that came, by those numbers
    bare_icons: list[str] = field(default_factory=list)
    overflow: list[str] = field(default_factory=list)
    cut_off: list[str] = field(default_factory=list)  # in print
    grave: dict[str, list[str]] = field(default_factory=dict)  # what axe found, by theme

    def watch(self, page: Page):
        """Note what a page says and loads from now on."""
        page.on("console", self.hear)
        page.on("pageerror", lambda error: self.messages.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("requestfailed", lambda request: self.failed.append(request.url))
        page.on("response", self.check)
        network = page.context.new_cdp_session(page)
        network.send("Network.enable")
        network.send("Network.setCacheDisabled", {"cacheDisabled": True})
        network.on("Network.requestWillBeSent", self.name)
        network.on("Network.dataReceived", self.weigh)

    def hear(self, message: ConsoleMessage):
        if message.type in ("error", "warning"):
            self.messages.append(f"{message.text} ({message.location['url']})")

    def check(self, response: Response):
        if response.status >= 400:
            self.failed.append(f"{response.url}: {response.status}")

    def name(self, event: dict):
        self.names[event["requestId"]] = event["request"]["url"]

    def weigh(self, event: dict):
        number = event["requestId"]
        self.sizes[number] = self.sizes.get(number, 0) + event["dataLength"]

    def size(self) -> int:
        """Bytes that were loaded; a "data:" address is a part of the page, and no request."""
        return sum(n for i, n in self.sizes.items() if not self.names[i].startswith("data:"))

    def foreign(self, base: str):
        """List the requests that go elsewhere."""
        return [url for url in self.requests if not url.startswith((base, "data:", "blob:"))]


# What makes a page wider than the screen: the deepest elements beyond its right edge.
OVERFLOW = """() => {
  const beyond = (element) => element.scrollWidth > element.clientWidth + 1
    || element.getBoundingClientRect().right > innerWidth + 1;
  const scrolls = (element) => getComputedStyle(element).overflowX !== "visible";
  const hidden = (element) => element.closest(".bd-sidebar") || !element.checkVisibility();
  const inBox = (element) => {
    for (let box = element.parentElement; box; box = box.parentElement)
      if (box !== document.body && box !== document.documentElement && scrolls(box)) return true;
    return false;
  };
  if (document.scrollingElement.scrollWidth <= innerWidth) return [];
  const wide = [...document.querySelectorAll("body *")]
    .filter((element) => beyond(element) && !hidden(element) && !inBox(element));
  return [`${document.scrollingElement.scrollWidth} pixels`]
    .concat(wide.slice(-5).map((element) => element.outerHTML.slice(0, 200)));
}"""

# Boxes that are cut off in print, where nothing scrolls.
CUT_OFF = """() => [...document.querySelectorAll(
    ".bd-article :is(pre, .output, .formula, .tangled-file)")]
  .filter((box) => box.checkVisibility() && box.clientWidth > 0)
  .filter((box) => box.scrollWidth > box.clientWidth + 1
    || box.getBoundingClientRect().right > innerWidth + 1
    || box.scrollHeight > box.clientHeight + 1 && getComputedStyle(box).overflowY !== "visible")
  .map((box) => `${box.scrollWidth} in ${box.clientWidth} px: ${box.textContent.slice(0, 200)}`)"""
PAPER = 680  # pixels between the margins of A4

# axe takes a while for each element, and a chapter has ten thousand. One span of each class in each
# kind of box stands for all, and the label of a picture for its strokes.
THIN_OUT = """() => {
  const still = document.createElement("style");  // a colour on its way to another is neither
  still.textContent = "* { transition: none !important }";
  document.head.append(still);
  for (const picture of document.querySelectorAll("svg[role=img]")) picture.replaceChildren();
  for (const formula of document.querySelectorAll("math")) formula.replaceWith(formula.textContent);
  const seen = new Set();
  for (const span of document.querySelectorAll("pre span:not([id])")) {
    const box = span.closest(".cell_input, .cell_output, .tangled-file, .highlight, pre");
    const key = [box.className, span.parentElement.className, span.className, span.style.cssText];
    if (seen.has(key.join(" | "))) span.replaceWith(...span.childNodes);
    seen.add(key.join(" | "));
  }
  document.body.normalize();
}"""

BARE_ICONS = """() => [...document.querySelectorAll(".fa-solid, .fas, .fa-regular, .fa-brands")]
  .filter((icon) => getComputedStyle(icon).maskImage === "none")
  .map((icon) => icon.outerHTML)"""

AXE_RUN = """async (options) => {
  const { violations } = await axe.run(document, { ...options, resultTypes: ["violations"] });
  return violations.map(({ id, impact, nodes }) => ({
    id, impact, nodes: nodes.map(({ target, failureSummary }) => `${target}: ${failureSummary}`),
  }));
}"""


def examine(page: Page, theme: str, **options) -> list[str]:
    """List what axe finds serious or critical in a theme."""
    page.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
    return [
        f"{found['id']} ({found['impact']}, {len(found['nodes'])} times): "
        + "\n  ".join(found["nodes"][:5])
        for found in page.evaluate(AXE_RUN, options)
        if found["impact"] in GRAVE
    ]


@pytest.fixture(scope="module")
def visit(context, site):
    """Open a page, once for all tests, and look at it."""

    @cache
    def look(name: str) -> Visit:
        with context.new_page() as page:
            seen = Visit()
            seen.watch(page)
            page.goto(f"{site}/{name}", wait_until="networkidle")
            seen.bare_icons = page.evaluate(BARE_ICONS)
            page.set_viewport_size({"width": 400, "height": 800})
            seen.overflow = page.evaluate(OVERFLOW)
            page.set_viewport_size({"width": PAPER, "height": 800})
            page.emulate_media(media="print")
            seen.cut_off = page.evaluate(CUT_OFF)
            page.emulate_media(media="screen")
            page.set_viewport_size({"width": 1280, "height": 800})
            page.wait_for_timeout(100)  # what depends on the width may follow a little later
            page.evaluate(THIN_OUT)
            page.evaluate(AXE.read_text("utf-8"))
            seen.grave["light"] = examine(page, "light")
            # The theme changes nothing but colours.
            seen.grave["dark"] = examine(page, "dark", runOnly=["color-contrast"])
        return seen

    return look


@pytest.mark.parametrize("name", PAGES)
def test_a_page_loads_little_and_only_from_the_book(name, visit, site):
    seen = visit(name)
    assert seen.foreign(f"{site}/") == [] and seen.failed == []
    assert seen.requests and 0 < seen.size() <= MOST


@pytest.mark.parametrize("name", PAGES)
def test_a_page_says_nothing_on_the_console(name, visit):
    assert visit(name).messages == []


@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing_serious_on_a_page(name, visit):
    assert visit(name).grave == {"light": [], "dark": []}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_a_telephone(name, visit):
    assert visit(name).overflow == []


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_cut_off_in_print(name, visit):
    assert visit(name).cut_off == []


@pytest.mark.parametrize("name", PAGES)
def test_every_icon_has_a_picture(name, visit):
    assert visit(name).bare_icons == []


@pytest.mark.parametrize("name", FROM_DISK)
def test_a_page_works_when_it_is_opened_from_disk(name, context):
    with context.new_page() as page:
        seen = Visit()
        seen.watch(page)
        page.goto((HTML / name).as_uri(), wait_until="networkidle")
        assert page.locator("h1").count() > 0
    assert (seen.messages, seen.failed, seen.foreign(HTML.as_uri())) == ([], [], [])


def test_the_search_finds_a_chapter_from_any_page(context, site):
    with context.new_page() as page:
        page.goto(f"{site}/book/index.html")
        page.locator(".search-button-field").click()
        page.locator("#pst-search-dialog input[name=q]").fill("sliding window")
        page.keyboard.press("Enter")
        page.wait_for_url("**/search.html?q=*")
        page.locator("#search-results a[href*='gemma3/windows']").first.wait_for()


def test_formulas_are_drawn_with_the_font_that_comes_with_the_book(context, site):
    with context.new_page() as page:
        page.goto(f"{site}/book/gpt2/attention.html", wait_until="networkidle")
        assert page.evaluate("document.fonts.check('16px \"STIX Two Math Part\"', '\u221a')")
        # A root is as high as what stands in it, and so are the brackets around it.
        heights = page.evaluate("""() => {
          const fraction = [...document.querySelectorAll(".formula mfrac")].at(-1);
          const root = fraction.querySelector("msqrt"), bracket = fraction.parentElement.firstChild;
          return [root, bracket, fraction].map((part) => part.getBoundingClientRect().height);
        }""")
        root, bracket, fraction = heights
        assert 0 < root < fraction and fraction * 0.8 < bracket
