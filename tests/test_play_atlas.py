"""The atlas of attention in a real browser: its numbers are those of the book's Python."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from conftest import ROOT
from safetensors import safe_open

import gemma3
import gpt2
from activations import gemma3_patterns, gpt2_patterns

PAGE = "book/play/atlas.html"
HTML = ROOT / "_build/html"
WINDOW = 512
HEADS = [("gpt2", 6, 2), ("gemma3", 2, 3), ("gemma3", 5, 2)]


def about(text):
    """The facts in the data file of a text."""
    [path] = (HTML / "_play").glob(f"atlas-{text}.*.safetensors")
    with safe_open(path, "numpy") as file:
        return json.loads(file.metadata()["about"])


@pytest.fixture(scope="module")
def python(gemma, site):
    """The patterns (L, H, T, T) of a model for the text in a data file."""
    small, small_tokenizer = gpt2.load(str(ROOT / "book/models/fairy-gpt2"))
    config, params, tokenizer = gemma3.load(str(gemma))
    known = {}

    def patterns(text, model):
        if (text, model) not in known:
            words = "".join(about(text)["models"][model]["tokens"]).removeprefix("<bos>")
            if model == "gpt2":
                known[text, model] = gpt2_patterns(small, small_tokenizer.encode(words))
            else:
                ids = [tokenizer.special["<bos>"], *tokenizer.encode(words)]
                known[text, model] = gemma3_patterns(config, params, ids)
        return known[text, model].astype(float)

    return patterns


@pytest.fixture
def page(browser):
    """An empty page; an error in its scripts fails the test."""
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    errors = []
    page.on("pageerror", lambda error: errors.append(f"{error}\n{error.stack}"))
    yield page
    page.close()
    assert not errors


@pytest.fixture
def show(page, site):
    """Open the picture in a state of the address."""

    def open_page(state="", root=site):
        page.goto("about:blank")
        page.goto(f"{root}/{PAGE}" + (f"#atlas&{state}" if state else ""))
        picture = page.locator("#atlas")
        picture.locator(".atlas-grid").first.wait_for()
        if "head=" in state:
            picture.locator(".atlas-title").wait_for()
        return picture

    return open_page


def number(text):
    """The number in a text, None where it says that there is none."""
    found = re.search(r"([\d.]+) (%|back|bits)$", text)
    return found and float(found[1])


def labels(picture):
    """What the tokens of an open head's text say to a screen reader."""
    return [word.get_attribute("aria-label") for word in picture.locator(".atlas-token").all()]


def taken_out(pattern):
    """A pattern without its first key, row by row."""
    rest = pattern.copy()
    rest[..., 0] = 0
    rest[..., 1:, :] /= rest[..., 1:, :].sum(-1, keepdims=True)
    return rest


def four(pattern):
    """The statistics of a pattern (T, T), query by query: in percent, tokens and bits."""
    rows = []
    for t in range(2, len(pattern)):
        row = pattern[t, : t + 1]
        bits = -sum(p * np.log2(p) for p in row if p > 0)
        rows.append((100 * row[0], 100 * row[t - 1], row @ np.arange(t, -1, -1), bits))
    return np.mean(rows, axis=0)


# -------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize("sink", ["in", "out"])
@pytest.mark.parametrize("query", [7, 41])
@pytest.mark.parametrize("model, layer, head", HEADS)
def test_shares_of_a_query(show, python, model, layer, head, query, sink):
    state = f"text=tale&model={model}&layer={layer}&head={head}&query={query}&sink={sink}"
    picture = show(state)
    pattern = python("tale", model)[layer, head]
    expected = (taken_out(pattern) if sink == "out" else pattern)[query]
    said = labels(picture)
    assert len(said) == len(pattern) and "the query" in said[query]
    shares = [number(label) for label in said]
    assert [t for t, share in enumerate(shares) if share is None] == [
        *([0] if sink == "out" else []), *range(query + 1, len(pattern))
    ]  # fmt: skip
    shares = np.array([share or 0 for share in shares])
    assert np.abs(shares - 100 * expected).max() < 1
    listed = [
        (int(item.get_attribute("data-key")), number(item.locator(".atlas-share").inner_text()))
        for item in picture.locator(".atlas-keys li").all()
    ]
    assert listed[0][0] == expected.argmax()
    assert all(abs(share - 100 * expected[key]) < 1 for key, share in listed)


@pytest.mark.parametrize("sink", ["in", "out"])
@pytest.mark.parametrize("model, layer, head", HEADS)
def test_statistics_of_a_head(show, python, model, layer, head, sink):
    picture = show(f"text=tale&model={model}&layer={layer}&head={head}&sink={sink}")
    pattern = python("tale", model)[layer, head]
    even = np.tri(len(pattern)) / np.arange(1, len(pattern) + 1)[:, None]
    if sink == "out":
        pattern, even = taken_out(pattern), taken_out(even)
    for column, rows in (("this", four(pattern)), ("even", four(even))):
        for which, expected in zip(("first", "previous", "distance", "entropy"), rows):
            cell = picture.locator(f"td[data-statistic={which}]")
            if column == "even":
                cell = cell.locator("xpath=following-sibling::td")
            assert number(cell.inner_text()) == pytest.approx(expected, abs=0.51)
            if expected > 1 and which in ("distance", "entropy"):
                assert number(cell.inner_text()) == pytest.approx(expected, abs=0.06)


def test_a_long_text_in_cells(show, python):
    facts = about("prince")
    starts = facts["models"]["gemma3"]["starts"]
    assert list(facts["models"]) == ["gemma3"] and starts[-1] > 600
    picture = show("text=prince&model=gemma3&layer=13&head=1&query=80")
    assert "reads at most 512 tokens" in picture.locator("[data-model=gpt2]").inner_text()
    pattern = python("prince", "gemma3")[13, 1]
    rows = pattern[starts[80] : starts[81]].mean(0)
    expected = [rows[a:b].sum() for a, b in zip(starts, starts[1:])]
    for cell, label in enumerate(labels(picture)):
        hidden = cell > 80 or starts[80] - (starts[cell + 1] - 1) >= WINDOW
        assert label.endswith("not seen") == hidden
        if not hidden:
            assert abs(number(label) - 100 * expected[cell]) < 1


def test_order(show, python):
    picture = show("text=tale&order=previous&sink=in")
    pattern = python("tale", "gemma3")
    score = np.array([[four(head)[1] for head in layer] for layer in pattern])
    heads = picture.locator("[data-model=gemma3] .atlas-head").all()
    order = [tuple(map(int, tile.get_attribute("data-head").split("."))) for tile in heads]
    scores = [score[place] for place in order]
    assert np.diff(scores).max() < 1e-3 and len(set(order)) == score.size


@pytest.mark.parametrize(
    ("shown", "gpt2_layers", "gemma3_layers"),
    [
        ("all", range(8), range(18)), ("gpt2", range(8), []), ("gemma3", [], range(18)),
        ("local", [], [n for n in range(18) if n % 6 != 5]), ("global", [], [5, 11, 17]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("order", ["layer", "distance"])
def test_only_some_heads_are_shown(show, page, shown, gpt2_layers, gemma3_layers, order):
    picture = show(f"text=tale&order={order}&model=gemma3&layer=5&head=1")
    picture.get_by_label("Show").select_option(shown)
    for model, layers, heads in (("gpt2", gpt2_layers, 5), ("gemma3", gemma3_layers, 4)):
        tiles = picture.locator(f"[data-model={model}] .atlas-head").all()
        found = {tile.get_attribute("data-head") for tile in tiles}
        assert found == {f"{layer}.{head}" for layer in layers for head in range(heads)}
    assert picture.locator(".atlas-title").count() == (5 in gemma3_layers)  # else it is closed
    state = page.evaluate("location.hash").removeprefix("#atlas&")
    assert (f"show={shown}" in state) == (shown != "all")
    assert show(state).get_by_label("Show").input_value() == shown


# ------------------------------------------------------------------------- keyboard and pointer


def focused(page):
    return page.evaluate("document.activeElement.dataset.head")


def test_keyboard(show, page):
    picture = show()
    picture.get_by_label("take the first token out").focus()
    page.keyboard.press("Tab")
    assert focused(page) == "0.0"
    for key, at in (
        ("ArrowRight", "1.0"), ("ArrowDown", "1.1"), ("ArrowLeft", "0.1"), ("ArrowUp", "0.0"),
        ("ArrowUp", "0.0"), ("End", "7.4"), ("ArrowLeft", "6.4"),
    ):  # fmt: skip
        page.keyboard.press(key)
        assert focused(page) == at
    page.keyboard.press("Enter")
    title = picture.locator(".atlas-title")
    assert title.inner_text().strip() == "GPT-2, layer 6, head 4"
    assert title.evaluate("e => e === document.activeElement")
    query = picture.locator(".atlas-token[aria-current=true]")
    query.focus()
    for key, label in (("Home", "(0)"), ("ArrowRight", "(1)"), ("ArrowDown", "(2)")):
        page.keyboard.press(key)
        assert label in query.get_attribute("aria-label")
        assert query.evaluate("e => e === document.activeElement")
    page.keyboard.press("Escape")
    assert title.count() == 0 and focused(page) == "6.4"
    page.keyboard.press("Tab")  # one stop a grid
    assert focused(page) == "0.0"
    assert page.evaluate("document.activeElement.closest('section').dataset.model") == "gemma3"


def test_the_large_map(show, page, python):
    picture = show("text=tale&model=gemma3&layer=5&head=2&query=41")
    pattern = python("tale", "gemma3")[5, 2]
    area = picture.locator(".atlas-map")
    box = area.bounding_box()

    def at(query, key):
        side = box["width"] / len(pattern)
        return {"x": (key + 0.5) * side, "y": (query + 0.5) * side}

    area.hover(position=at(20, 0))
    under = picture.locator(".atlas-under").inner_text()
    assert abs(number(under) - 100 * pattern[20, 0]) < 1
    area.hover(position=at(20, 30))
    assert picture.locator(".atlas-under").inner_text().endswith("not seen")
    area.click(position=at(20, 3))
    query = picture.locator(".atlas-token[aria-current=true]").get_attribute("aria-label")
    assert "(20), the query" in query


# ------------------------------------------------------------------------- address and links


def test_the_address_has_the_state(show, page):
    picture = show()
    picture.get_by_label("Text").select_option("atlas-code")
    picture.get_by_label("take the first token out").check()
    picture.locator("[data-model=gemma3] [data-head='11.1']").click()
    picture.locator(".atlas-token").nth(5).click()
    said = picture.locator(".atlas-said").inner_text()
    state = page.evaluate("location.hash").removeprefix("#atlas&")
    fields = dict(field.split("=") for field in state.split("&"))
    assert fields == {
        "text": "code", "sink": "out", "order": "layer", "model": "gemma3", "layer": "11",
        "head": "1", "query": "5",
    }  # fmt: skip
    again = show(state)
    assert again.locator(".atlas-said").inner_text() == said
    assert again.get_by_label("take the first token out").is_checked()
    assert again.locator("[data-head='11.1'][aria-expanded=true]").count() == 1
    nothing = show("model=gemma3&layer=99&text=none&order=none")  # no such things, and no error
    assert not nothing.locator(".atlas-detail").is_visible()


@pytest.mark.parametrize("model", ["gpt2", "gemma3"])
def test_a_part_is_in_sight(show, page, model):
    picture = show(f"part={model}")
    picture.locator(".atlas-part").wait_for()
    box = picture.locator(f".atlas-part[data-model={model}]").bounding_box()
    assert 0 <= box["y"] < 900


@pytest.mark.parametrize(
    "model, chapter, text",
    [
        ("gpt2", "gpt2/attention", "scaled_dot_product_attention("),
        ("gemma3", "gemma3/attention", "jax.nn.softmax(scores)"),
    ],
)
def test_lines_of_the_source_and_back(show, page, site, model, chapter, text):
    picture = show(f"model={model}&layer=0&head=0")
    href = picture.locator(".atlas-detail .play-source").get_attribute("href")
    file, _, line = href.rpartition("#L")
    assert file.endswith(f"src/{model}.html")
    lines = (ROOT / f"src/{model}.py").read_text().split("\n")
    assert text in lines[int(line) - 1]
    page.goto(f"{site}/book/{chapter}.html")
    back = page.locator(".tangled-play a[href*='atlas.html#atlas']")
    assert f"part={model}" in back.first.get_attribute("href")


# --------------------------------------------------------------------------- missing and damaged


def spoil(page, text, how):
    """Let the browser find a text's data missing, cut off, or another's."""

    def answer(route):
        if how == "missing":
            return route.fulfill(status=404)
        body = route.fetch().body()
        return route.fulfill(body=body[:-100] if how == "cut" else body[::-1])

    page.route(re.compile(rf"atlas-{text}\..*\.safetensors"), answer)


@pytest.mark.parametrize("how", ["missing", "cut", "reversed"])
def test_bad_data_is_said(page, site, how):
    spoil(page, "tale", how)
    page.goto(f"{site}/{PAGE}")
    alert = page.locator("#atlas [role=alert]")
    alert.wait_for()
    assert re.search(r"atlas-tale\.\w+ is missing or damaged", alert.inner_text())


def test_a_text_that_cannot_be_loaded_changes_nothing(show, page):
    spoil(page, "list", "missing")
    picture = show("text=tale&model=gpt2&layer=1&head=1")
    before = labels(picture)
    picture.get_by_label("Text").select_option("atlas-list")
    alert = picture.locator("[role=alert]")
    alert.wait_for()
    assert "atlas-list" in alert.inner_text() and labels(picture) == before
    assert picture.get_by_label("Text").input_value() == "atlas-tale"
    picture.get_by_label("Text").select_option("atlas-code")
    picture.locator(".atlas-token", has_text="soft").first.wait_for()
    assert alert.count() == 0


# ------------------------------------------------------------------------------------ everywhere


def test_opened_from_disk(show):
    picture = show("text=list&model=gemma3&layer=3&head=0", root=HTML.as_uri())
    assert "Monday" in " ".join(labels(picture))


def test_a_telephone(show, page):
    page.set_viewport_size({"width": 400, "height": 800})
    picture = show("text=tale&model=gemma3&layer=5&head=2")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    right = picture.bounding_box()["x"] + picture.bounding_box()["width"]
    for tile in picture.locator(".atlas-head").all():
        box = tile.bounding_box()
        assert box["width"] >= 24 and box["x"] + box["width"] <= right
    assert not picture.locator(".atlas-arcs").is_visible()


def test_what_loads_with_the_page(site):
    [data] = (HTML / "_play").glob("atlas-tale.*.safetensors")
    ours = [data, *(HTML / "_static").glob("play.*"), *(HTML / "_static").glob("play-atlas.*")]
    assert len(ours) == 5 and sum(path.stat().st_size for path in ours) < 350_000
