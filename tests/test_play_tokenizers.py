"""The picture of two tokenizers in a real browser: its ids are those of the book's Python."""

from __future__ import annotations

import json
import random
import re
from itertools import pairwise
from urllib.parse import quote

import pytest
from conftest import ROOT
from strings import HAND_PICKED, gemma_strings, random_strings

import gemma3_tokenizer
import gpt2

PAGE = "book/gemma3/tokenizer.html"
NAMES = {"gpt2": "GPT-2", "gemma": "Gemma 3"}
OWN = "Der Igel rennt,\tзнаешь? 🦔\nनमस्ते 你好  `a_b=[1,23]`"
LONG = random.Random(7).choices("abcdefghijklmnopqrstuvwxyz", k=4000)
TEXTS = [*HAND_PICKED, *random_strings(3000, 41), *gemma_strings(1200, 42), "".join(LONG)]
TEXTS += ["na" * 2000, "中" * 2000, " " * 2000, "😀" * 1000]


@pytest.fixture(scope="module")
def python(gemma):
    """The book's tokenizers."""
    vocab = json.loads((ROOT / "book/models/fairy-gpt2/vocab.json").read_bytes())
    model = (gemma / "tokenizer.model").read_bytes()
    return {"gpt2": gpt2.Tokenizer(vocab), "gemma": gemma3_tokenizer.Tokenizer(model)}


@pytest.fixture
def page(browser):
    """An empty page; what goes wrong in the picture's scripts fails the test."""
    page = browser.new_page(viewport={"width": 1000, "height": 900})
    ours = re.compile("play|gemma3-tokenizer")  # and not MathJax, which takes long
    page.route(
        re.compile(r"\.js\b"),
        lambda route: route.continue_() if ours.search(route.request.url) else route.abort(),
    )
    errors = []
    page.on("pageerror", lambda error: errors.append(f"{error}\n{error.stack}"))
    yield page
    page.close()
    assert not [error for error in errors if ours.search(error)]


@pytest.fixture
def show(page, site):
    """Open the picture in a state of the address."""

    def open_page(root=site, **state):
        words = "".join(f"&{key}={quote(str(value))}" for key, value in state.items())
        page.goto("about:blank")
        page.goto(f"{root}/{PAGE}#tokenizers{words}")
        picture = page.locator("#tokenizers")
        picture.locator(".tz-counts").wait_for()
        if "text" in state:
            picture.locator(".tz-loader").wait_for(state="detached")
        return picture

    return open_page


@pytest.fixture(scope="module")
def loaded(browser, site):
    """A page with both vocabularies loaded, for tests that call its tokenizers."""
    page = browser.new_page()
    page.goto(f"{site}/{PAGE}")
    load(page.locator("#tokenizers"))
    yield page
    page.close()


def load(picture):
    picture.get_by_role("button", name="Load both vocabularies").click()
    picture.locator(".tz-loader").wait_for(state="detached")


def write(picture, text):
    """Type a text all at once. Its tokens are there as soon as the vocabularies are."""
    picture.get_by_label("Text for both tokenizers").fill(text)
    picture.locator(".tz-loader").wait_for(state="detached")


def drawn(picture, who):
    """The ids that a tokenizer's row shows; the whole text is drawn first, by scrolling."""
    stage = picture.locator(".tz-stage")
    boxes = stage.locator(f".tz-{who} .tz-token")
    before = -1
    while before != boxes.count():
        before = boxes.count()
        stage.evaluate("stage => stage.scrollTo(0, stage.scrollHeight)")
        picture.page.wait_for_timeout(50)
    return boxes.evaluate_all("all => all.map(box => Number(box.dataset.id))")


def plain_joins(tokenizer, parts):
    """The ids of all joins in their order, by looking at all pairs after each: slow and simple."""
    made = []
    while known := [tokenizer.id[a + b] for a, b in pairwise(parts) if a + b in tokenizer.id]:
        i = [tokenizer.id.get(a + b) for a, b in pairwise(parts)].index(min(known))
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
        made.append(min(known))
    return made, len(parts)


# ------------------------------------------------------------------------------------------- ids


@pytest.mark.parametrize("who", NAMES)
def test_ids_are_those_of_the_book(loaded, python, who):
    found = loaded.evaluate(
        "([who, texts]) => texts.map((text) => play.tokenizers[who].encode(text))", [who, TEXTS]
    )
    wrong = [
        ascii(text)
        for text, ids in zip(TEXTS, found, strict=True)
        if ids != python[who].encode(text)
    ]
    assert len(TEXTS) > 4000 and not wrong


@pytest.mark.parametrize("who", NAMES)
def test_the_bytes_of_all_tokens_are_those_of_the_book(loaded, python, who):
    known = python[who].token_bytes
    script = (
        "([who, n]) => [...Array(n).keys()].map((i) => hex(play.tokenizers[who].tokenBytes(i)))"
    )
    found = loaded.evaluate(script, [who, len(known)])
    assert [bytes.fromhex(text) for text in found] == [known[i] for i in range(len(known))]


def test_the_prepared_texts_are_shown_before_anything_is_loaded(show, python):
    asked = []
    picture = show()
    files = re.compile("_play|[.]js")
    picture.page.on("request", lambda request: asked.extend(files.findall(request.url)))
    options = json.loads(picture.get_attribute("data-options"))["presets"]
    assert len(options) == 10
    for key, preset in options.items():
        picture.get_by_role("combobox").select_option(key)
        assert picture.get_by_label("Text for both tokenizers").input_value() == preset["text"]
        for who, tokenizer in python.items():
            assert drawn(picture, who) == tokenizer.encode(preset["text"]), (key, who)
    assert not asked


# ------------------------------------------------------------------------------------- own texts


def test_a_typed_text_loads_the_vocabularies_and_is_counted(show, python):
    picture = show()
    write(picture, OWN)
    ids = {who: tokenizer.encode(OWN) for who, tokenizer in python.items()}
    for who, tokens in ids.items():
        assert drawn(picture, who) == tokens
        row = picture.get_by_role("row", name=NAMES[who]).locator("td").all_inner_texts()
        total, _, characters, size = (float(cell.replace(",", "")) for cell in row)
        assert total == len(tokens)
        assert characters == pytest.approx(len(OWN) / len(tokens), abs=0.006)
        assert size == pytest.approx(len(OWN.encode()) / len(tokens), abs=0.006)
    write(picture, "One two three four, five.")
    words = picture.get_by_role("row", name="GPT-2").locator("td").nth(1).inner_text()
    assert float(words) == len(python["gpt2"].encode("One two three four, five.")) / 5


def ends(tokenizer, text):
    """Where tokens end, in bytes."""
    total, found = 0, set()
    for i in tokenizer.encode(text):
        total += len(tokenizer.token_bytes[i])
        found.add(total)
    return found


def test_places_where_only_one_cuts_are_counted_and_lit(show, python):
    picture = show(text=OWN)
    old, new = (ends(python[who], OWN) for who in NAMES)
    numbers = re.findall(r"(?:at|alone at) (\d+)", picture.locator(".tz-summary").inner_text())
    assert [int(n) for n in numbers] == [len(old & new), len(old - new), len(new - old)]
    drawn(picture, "gpt2")
    groups = picture.locator(".tz-group").evaluate_all(
        "all => all.map(group => [group.classList.contains('tz-differs'),"
        " ...['.tz-gpt2', '.tz-gemma'].map(row =>"
        " [...group.querySelectorAll(row + ' .tz-token')].map(box => Number(box.dataset.id)))])"
    )
    for differs, *rows in groups:
        texts = [
            b"".join(python[who].token_bytes[i] for i in ids)
            for who, ids in zip(NAMES, rows, strict=True)
        ]
        assert texts[0] == texts[1] and texts[0].decode()
        assert differs == (max(map(len, rows)) > 1)
    assert {differs for differs, *_ in groups} == {True, False}


def test_a_typed_mark_is_a_space_to_gemma_alone(show, python):
    picture = show(text="a▁b▁▁c d")
    for who, tokenizer in python.items():
        assert drawn(picture, who) == tokenizer.encode("a▁b▁▁c d")


def test_ten_thousand_characters_are_drawn_fast(show, python):
    """In processor time, of which a busy machine takes no more than an idle one."""
    picture = show()
    load(picture)
    devtools = picture.page.context.new_cdp_session(picture.page)
    devtools.send("Performance.enable", {"timeDomain": "threadTicks"})

    def spent():
        metrics = devtools.send("Performance.getMetrics")["metrics"]
        return next(m["value"] for m in metrics if m["name"] == "ThreadTime")

    times = []
    for n in range(3):
        text = ("सभी मनुष्यों को गौरव और the rights of man 人权 x=1 " * 300)[n:][:10_000]
        start = spent()
        write(picture, text)
        total = picture.locator(".tz-total").first.inner_text()
        assert total == f"{len(python['gpt2'].encode(text)):,}"
        times.append(spent() - start)
    assert min(times) < 1


# ---------------------------------------------------------------------------------------- joins


@pytest.mark.parametrize("word", [" hedgehog", "Menschenrechte", " unwelcomed", "Ωμέγα", "🦔"])
def test_joins_are_shown_in_their_order(show, python, word):
    picture = show(text=word, part="gpt2", at=0)
    picture.locator(".tz-ladders").wait_for()
    for who, tokenizer in python.items():
        ladder = picture.locator(f".tz-ladder.tz-{who}")
        parts = [*word] if who == "gemma" else [bytes([byte]) for byte in word.encode()]
        first = len(parts)
        made, left = plain_joins(tokenizer, parts)
        labels = ladder.locator(".tz-join").all_inner_texts()
        assert labels == ["parts", *(f"{i:,}" for i in made)]
        rows = ladder.locator("li")
        assert rows.first.locator(".tz-piece").count() == first
        assert rows.last.locator(".tz-piece").count() == left
        assert ladder.locator(".tz-made").count() == len(made)


def test_joins_can_be_stepped_through(show, python):
    picture = show(text=" hedgehog", part="gemma", at=0)
    slider = picture.get_by_role("slider", name="Joins")
    slider.wait_for()
    last = int(slider.get_attribute("max"))
    assert slider.input_value() == str(last) and picture.locator(".tz-later").count() == 0
    slider.focus()
    for _ in range(last):
        picture.page.keyboard.press("ArrowLeft")
    gemma = picture.locator(".tz-ladder.tz-gemma")
    visible = gemma.locator("li").evaluate_all(
        "all => all.filter(row => getComputedStyle(row).visibility === 'visible').length"
    )
    made, _ = plain_joins(python["gemma"], [*" hedgehog"])
    assert visible == 1 and f"{made[0]:,}" in gemma.locator(".tz-next").inner_text()
    picture.get_by_role("button", name="One join on").click()
    assert f"{made[1]:,}" in gemma.locator(".tz-next").inner_text()
    picture.get_by_role("button", name="One join back").click()
    assert f"{made[0]:,}" in gemma.locator(".tz-next").inner_text()


def test_joins_never_lead_from_word_to_word(show, python):
    """GPT-2 has two words where Gemma has three spaces and a name."""
    picture = show(text="a   b", part="gpt2", at=1)
    picture.locator(".tz-ladders").wait_for()
    last = picture.locator(".tz-ladder.tz-gpt2 li").last.locator(".tz-piece").all_inner_texts()
    tokens = [python["gpt2"].token_bytes[i] for i in python["gpt2"].encode("a   b")[1:]]
    assert [text.replace("␣", " ").encode() for text in last] == tokens


def test_a_word_with_too_many_parts_says_so(show):
    picture = show(text="ha" * 150, part="gpt2", at=0)
    picture.get_by_text("too many to draw").wait_for()


# ------------------------------------------------------------------------------------- controls


def test_tokens_are_reached_by_keyboard(show, python):
    picture = show(preset="english")
    text = picture.get_by_label("Text for both tokenizers").input_value()
    keyboard, details = picture.page.keyboard, picture.locator(".tz-details")
    assert picture.locator(".tz-stage [tabindex='0']").count() == 1

    def says(who, n):
        token = python[who].encode(text)[n]
        expected = f"{NAMES[who]}, token {n + 1} of {len(python[who].encode(text))}"
        assert details.inner_text().startswith(expected), details.inner_text()
        assert f"id {token:,}" in details.inner_text()
        assert details.locator("code").inner_text() == python[who].token_bytes[token].hex(" ")

    picture.locator(".tz-stage [tabindex='0']").focus()
    says("gpt2", 0)
    for key, who, n in (
        ("ArrowRight", "gpt2", 1),
        ("ArrowDown", "gemma", 1),
        ("ArrowLeft", "gemma", 0),
        ("End", "gemma", len(python["gemma"].encode(text)) - 1),
        ("ArrowUp", "gpt2", len(python["gpt2"].encode(text)) - 1),
        ("Home", "gpt2", 0),
    ):
        keyboard.press(key)
        says(who, n)
    keyboard.press("Enter")
    picture.get_by_role("slider", name="Joins").wait_for()


def test_pointing_at_a_token_holds_what_it_covers(show):
    picture = show(preset="german")
    picture.locator(".tz-differs .tz-gemma .tz-token").first.hover()
    group = picture.locator(".tz-differs").first
    assert picture.locator(".tz-held").count() == group.locator(".tz-token").count() > 1


def test_invisible_characters_are_named_and_directions_kept(show):
    picture = show(text="a\u200b\u202eb\x07 \ufeff")
    shown = " ".join(picture.locator(".tz-gemma .tz-piece").all_inner_texts())
    for name in ("U+200B", "U+202E", "U+0007", "U+FEFF", "␣"):
        assert name in shown
    assert "\u202e" not in picture.locator(".tz-stage").inner_text()
    assert picture.locator(".tz-stage").get_attribute("dir") == "ltr"
    picture.get_by_role("combobox").select_option("arabic")
    assert picture.locator(".tz-stage").get_attribute("dir") == "rtl"
    first, second = (picture.locator(".tz-token").nth(i).bounding_box()["x"] for i in (0, 2))
    assert first > second
    bidi = picture.locator(".tz-piece").first.evaluate("e => getComputedStyle(e).unicodeBidi")
    assert bidi == "plaintext"


def test_it_fits_on_a_telephone(show):
    picture = show(text=OWN + "a" * 300, part="gemma", at=3)
    picture.page.set_viewport_size({"width": 400, "height": 800})
    picture.locator(".tz-ladders").wait_for()
    assert picture.page.evaluate("document.documentElement.scrollWidth") <= 400
    box = picture.bounding_box()
    inner = picture.locator(".tz-group, .tz-counts, .tz-parts").evaluate_all(
        "all => Math.max(...all.map(e => e.getBoundingClientRect().right))"
    )
    assert inner <= box["x"] + box["width"]


def test_links_lead_to_the_lines_that_join(show, site):
    picture = show(preset="english", part="gpt2", at=0)
    links = picture.locator(".tz-ladders .play-source")
    links.first.wait_for()
    for link, name in zip(links.all(), ("gpt2", "gemma3_tokenizer"), strict=True):
        url = link.evaluate("a => a.href")
        path, line = re.fullmatch(r".*/src/(\w+)\.html#L(\d+)", url).groups()
        text = (ROOT / f"src/{path}.py").read_text().splitlines()[int(line) - 1]
        assert path == name and "heapq.heappop(heap)" in text


# --------------------------------------------------------------------------------------- address


def test_the_address_keeps_text_and_joins(show, python):
    picture = show()
    assert picture.page.url.endswith("#tokenizers")
    write(picture, OWN)
    picture.locator(".tz-gemma .tz-token").nth(2).click()
    heading = picture.get_by_role("heading", name="The joins of")
    heading.wait_for()
    url, words = picture.page.url, heading.inner_text()
    picture.page.goto("about:blank")
    picture.page.goto(url)
    heading.wait_for()
    assert heading.inner_text() == words and picture.page.url == url
    assert picture.get_by_label("Text for both tokenizers").input_value() == OWN
    picture.get_by_role("combobox").select_option("hindi")
    assert picture.page.url.endswith("#tokenizers&preset=hindi")
    picture.page.reload()
    assert drawn(picture, "gpt2") == python["gpt2"].encode(
        picture.get_by_label("Text for both tokenizers").input_value()
    )
    write(picture, "long " * 400)
    assert len(picture.page.url) < 200


# ------------------------------------------------------------------------------------ data files


@pytest.mark.parametrize("name", ["gpt2-vocabulary", "gemma-vocabulary", "gemma3-tokenizer"])
@pytest.mark.parametrize("disk", [False, True], ids=["served", "disk"])
def test_a_missing_file_is_said_and_may_come_later(show, site, name, disk):
    picture = show(root=(ROOT / "_build/html").as_uri() if disk else site)
    pattern = re.compile(name)
    picture.page.route(pattern, lambda route: route.abort())
    picture.get_by_role("button", name="Load both vocabularies").click()
    alert = picture.get_by_role("alert")
    alert.wait_for()
    assert name in alert.inner_text() and "missing" in alert.inner_text()
    write = picture.get_by_label("Text for both tokenizers").fill
    write("Igel")
    assert picture.get_attribute("aria-busy") == "true"  # what is shown is not this text's
    picture.page.unroute(pattern)
    write("Igel!")
    picture.locator(".tz-loader").wait_for(state="detached")
    assert alert.count() == 0 and picture.get_attribute("aria-busy") == "false"


def test_opened_from_disk_it_works_as_well(show, python):
    picture = show(root=(ROOT / "_build/html").as_uri())
    write(picture, OWN)
    for who, tokenizer in python.items():
        assert drawn(picture, who) == tokenizer.encode(OWN)
