"""The picture "Step through" in a real browser: its numbers are Python's, its controls work."""

import json
import urllib.request

import numpy as np
import pytest
from conftest import ROOT

import gpt2
import step_data

PROMPTS = {
    "king": "Once upon a time there was a king and a",
    "fact": "The Eiffel tower is in the city of",
}


@pytest.fixture
def page(browser, site):
    """The chapter's page, on a screen of 1,400 pixels, and `go` to a state of the picture."""
    page = browser.new_page(viewport={"width": 1400, "height": 1000})

    def go(**state):
        page.goto("about:blank")  # so that the page is loaded anew
        address = "&".join(["#steps", *(f"{key}={value}" for key, value in state.items())])
        page.goto(f"{site}/book/play/steps.html{address if state else ''}")
        page.wait_for_selector("#steps .steps-token, #steps .play-error:not(:empty)")

    page.go = go
    yield page
    page.close()


@pytest.fixture(scope="module")
def small():
    """What Python says of the small GPT-2: data and facts by prompt."""
    model, tokenizer = gpt2.load(ROOT / "book/models/fairy-gpt2")
    return {key: step_data.gpt2_steps(model, tokenizer, text) for key, text in PROMPTS.items()}


def published(page, site, name):
    """The arrays and facts of a published file, read from the page's own files."""
    digest = json.loads(page.locator("#steps").get_attribute("data-files"))[name]
    with urllib.request.urlopen(f"{site}/_play/{name}.{digest}.safetensors") as response:
        content = response.read()
    from safetensors.numpy import load

    size = int.from_bytes(content[:8], "little")
    return load(content), json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["about"])


def panel(page, number):
    """The part of the picture that is about GPT-2 (0) or Gemma (1)."""
    return page.locator("#steps .steps-panel").nth(number)


def rows(where):
    """The names and numbers of a table of bars."""
    return [
        (row.locator(".steps-name").text_content(), row.locator(".steps-number").text_content())
        for row in where.locator(".steps-bar").all()
    ]


def shown(token):
    return token.replace(" ", "␣").replace("\n", "↵")


def value(text):
    """The number at the beginning of a text."""
    return float(text.split(",  ")[0].split()[0].rstrip(",").replace(",", ""))


@pytest.mark.parametrize(("prompt", "layer", "position"), [("king", 0, 0), ("fact", 5, 9)])
def test_lengths_and_tokens_are_those_of_python(page, small, prompt, layer, position):
    data, _, about = small[prompt]
    page.go(prompt=prompt, part="output", model="gpt2", layer=layer, position=position)
    seen = panel(page, 0)
    tokens = [token.text_content() for token in seen.locator(".steps-token").all()]
    assert tokens == [f"{shown(token['text'])}{token['id']}" for token in about["tokens"]]
    lengths = [value(number) for _, number in rows(seen.locator(".steps-summary"))]
    wanted = [data["stream"][layer, position], *data["adds"][layer, :, position]]
    wanted.append(data["stream"][layer + 1, position])
    assert np.allclose(lengths, wanted, rtol=0.01, atol=0.06)
    likeliest = rows(seen.locator(".steps-details"))
    ids = data["likeliest"][layer + 1, position]
    assert [name for name, _ in likeliest] == [shown(about["texts"][str(i)]) for i in ids]
    p = [value(number.removeprefix("<")) / 100 for _, number in likeliest]
    assert np.allclose(p, data["likeliest_p"][layer + 1, position], atol=0.006)


def test_the_pattern_is_that_of_python(page, small):
    data, *_ = small["king"]
    page.go(prompt="king", part="pattern", model="gpt2", layer=3, position=7, head=2)
    shares = [
        value(n.removeprefix("<")) / 100 for _, n in rows(panel(page, 0).locator(".steps-pattern"))
    ]
    assert len(shares) == 8
    assert np.allclose(shares, data["patterns"][3, 2, 7, :8] / 65535, atol=0.006)


def test_gemma_goes_in_step(page, site):
    page.go(prompt="fact", part="mlp", model="gpt2", layer=7, position=3)
    data, about = published(page, site, "steps-fact")
    text = panel(page, 1).locator(".steps-token[aria-pressed=true] span").text_content()
    assert text == "␣Eiffel", "the token in which GPT-2's third piece of it ends"
    last, position = about["gemma3"]["L"] - 1, 2
    assert panel(page, 1).locator("input[type=range]").input_value() == str(last)
    units = rows(panel(page, 1).locator(".steps-details"))
    assert [name for name, _ in units] == [f"unit {u}" for u in data["gemma3.unit"][last, position]]
    added = [value(number) for _, number in units]
    assert np.allclose(added, data["gemma3.unit_adds"][last, position], rtol=0.06, atol=0.06)


def test_keys_move_and_the_address_follows(page):
    page.go(prompt="king", part="pattern", model="gpt2", layer=3, position=4, head=1)
    panel(page, 0).focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp", "ArrowUp"):
        page.keyboard.press(key)
    assert panel(page, 0).locator("input[type=range]").input_value() == "2"
    pressed = panel(page, 0).locator(".steps-token[aria-pressed=true]")
    assert pressed.get_attribute("title").startswith("token 5,")
    hash_ = page.evaluate("location.hash")
    for pair in ("prompt=king", "part=pattern", "model=gpt2", "layer=2", "position=5", "head=1"):
        assert pair in hash_.split("&")
    for _ in range(20):
        page.keyboard.press("ArrowLeft")
    assert panel(page, 0).locator(".steps-token").first.get_attribute("aria-pressed") == "true"
    pressed.focus()  # one stop of the keyboard, and the focus goes along
    assert panel(page, 0).locator(".steps-token[tabindex='0']").count() == 1
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.title").startswith("token 1,")
    assert pressed.get_attribute("title").startswith("token 1,")
    tab = page.locator("#steps [role=tab][aria-selected=true]")
    tab.focus()
    page.keyboard.press("ArrowRight")
    assert tab.text_content() == "values" and "part=values" in page.evaluate("location.hash")


def test_an_address_gives_its_state_again(page):
    state = {"prompt": "fact", "part": "qkv", "model": "gemma3", "layer": 11, "position": 4}
    page.go(**state, head=3, **{"with": "2.6.1"})
    first, second = panel(page, 0), panel(page, 1)
    assert second.locator("input[type=range]").input_value() == "11"
    assert first.locator("input[type=range]").input_value() == "2", "each by itself"
    assert not page.locator("#steps .play-bar input[type=checkbox]").is_checked()
    for where, position, head in ((first, 6, 1), (second, 4, 3)):
        token = where.locator(".steps-token[aria-pressed=true]")
        assert token.get_attribute("title").startswith(f"token {position},")
        assert (
            where.locator(".steps-heads [aria-pressed=true]").get_attribute("aria-label")
            == f"head {head}"
        )
    page.wait_for_selector("#steps .steps-strips")
    before = page.evaluate("location.hash")
    page.locator("#steps .play-bar input[type=checkbox]").check()
    assert page.evaluate("location.hash") != before
    assert first.locator("input[type=range]").input_value() == "5", "in step again"


@pytest.mark.parametrize("part", ["gemma3.rope", "gpt2.mlp", "gemma3.norm", "gpt2.embedding"])
def test_a_line_of_src_leads_to_its_part_and_back(page, site, part):
    page.go(part=part)
    model, name = part.split(".")
    where = panel(page, ["gpt2", "gemma3"].index(model))
    link = where.locator(".steps-details .play-source")
    assert f"src/{model}.py, line " in link.text_content()
    page.goto(link.evaluate("link => link.href"))
    line = page.evaluate("document.querySelector(location.hash).textContent")
    words = {"rope": "a * cos", "mlp": "gelu", "norm": "rsqrt", "embedding": "self.wpe"}
    assert words[name] in line
    assert page.url.startswith(f"{site}/")


def test_all_parts_of_all_prompts_can_be_seen(page):
    errors = []
    page.on("console", lambda message: message.type == "error" and errors.append(message.text))
    page.go()
    select = page.locator("#steps select")
    for prompt in select.locator("option").all():
        select.select_option(prompt.get_attribute("value"))
        for tab in page.locator("#steps [role=tab]").all():
            tab.click()
            page.wait_for_function(
                "!document.querySelector('#steps').textContent.includes('Loading')"
            )
            texts = page.locator("#steps .steps-details").all_text_contents()
            assert len(texts) == 2 and all(len(text) > 40 for text in texts)
            assert "NaN" not in "".join(texts) and "undefined" not in "".join(texts)
    assert not [text for text in errors if "steps" in text]


def test_a_missing_file_is_said_and_the_rest_works(page, site):
    page.route("**/_play/steps-fact.*", lambda route: route.fulfill(status=404))
    page.route("**/_play/steps-king-vectors.*", lambda route: route.fulfill(status=404))
    page.go()
    page.locator("#steps select").select_option("fact")
    page.wait_for_selector("#steps .play-error:not(:empty)")
    assert "steps-fact" in page.locator("#steps .play-error:not(:empty)").text_content()
    page.locator("#steps select").select_option("king")
    page.wait_for_selector("#steps > .play-error:empty", state="attached")
    page.locator("#steps [role=tab]", has_text="q, k, v").click()
    page.wait_for_selector("#steps .steps-details .play-error")
    text = page.locator("#steps .steps-details .play-error").first.text_content()
    assert "steps-king-vectors" in text and "missing" in text


def test_it_fits_on_a_telephone(browser, site):
    page = browser.new_page(viewport={"width": 400, "height": 800})
    page.goto(f"{site}/book/play/steps.html#steps&part=gemma3.qkv")
    page.wait_for_selector("#steps .steps-strips")
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    sizes = [where.bounding_box() for where in page.locator("#steps .steps-panel").all()]
    assert sizes[0]["x"] == sizes[1]["x"] and sizes[0]["y"] < sizes[1]["y"]
    page.close()
