"""Three small pictures in a real browser: a sliding window, RoPE's clock, what a cache takes."""

import json
import re
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT

import gemma3
import gemma3_files

pytestmark = pytest.mark.usefixtures("browser", "site")
CHAPTERS = {"window": "windows", "clock": "rope", "cache": "windows"}
GEMMA = "this book's Gemma 3 270M"


@pytest.fixture
def show(browser, site):
    """Open the page of a picture in a state, and give the picture; errors of its scripts fail."""
    page = browser.new_page(viewport={"width": 1000, "height": 900})
    page.route(re.compile(r"\.js\b"), lambda route: (
        route.continue_() if "/play" in route.request.url else route.abort()  # MathJax takes long
    ))
    errors = []
    page.on("pageerror", lambda error: errors.append(error.stack))

    def open_page(kind, **state):
        words = "".join(f"&{key}={value}" for key, value in state.items())
        page.goto("about:blank")
        page.goto(f"{site}/book/gemma3/{CHAPTERS[kind]}.html#{kind}{words}")
        picture = page.locator(f"#{kind}")
        picture.locator(".play-bar").first.wait_for()
        return picture

    yield open_page
    page.close()
    assert not [stack for stack in errors if "/play" in stack]


def change(picture, **state):
    """Give the picture another state by its page's address."""
    kind = picture.get_attribute("id")
    picture.page.evaluate(
        """hash => new Promise((done) => {
          addEventListener("hashchange", () => done(), { once: true });
          location.hash = hash;
        })""",
        kind + "".join(f"&{key}={value}" for key, value in state.items()),
    )


def slider(picture, name):
    """The slider with this label."""
    return picture.get_by_role("slider", name=name)


def numbers(text):
    """All numbers in a text, which may be written with commas."""
    return [float(word.replace(",", "")) for word in re.findall(r"-?\d+(?:[,.]\d+)*", text)]


# ------------------------------------------------------------------------------ a sliding window


def grid(picture):
    """Which keys each query sees (T, T), and the numbers at the ends of the rows."""
    rows = picture.locator(".window-row[data-query]")
    kinds = rows.evaluate_all(
        "rows => rows.map(row => [...row.querySelectorAll('i')].map(cell => cell.className))"
    )
    counts = rows.evaluate_all("rows => rows.map(row => Number(row.lastElementChild.textContent))")
    return np.array(kinds), counts


def by_python(T, window, layer, reading, bug):
    """The same by `visible` (T, T), and the number of products of a query and a key."""
    reach = window if layer == "local" else T
    if reading == "tokens":
        S, seen = reach, np.zeros((T, T), bool)
        for t in range(T):
            held = t - (t - np.arange(S)) % S
            seen[t, held[np.asarray(gemma3.visible(jnp.array([t]), S, reach))[0]]] = True
        return seen, T * S
    mask = np.asarray(gemma3.visible(jnp.arange(T), T, reach))
    if bug:
        return mask & (np.arange(T) >= T - reach), T * reach
    return mask, T * T


STATES = [
    (10, 4, "local", "prompt", False),
    (10, 4, "local", "prompt", True),
    (20, 7, "local", "prompt", True),
    (6, 6, "local", "prompt", True),
    (12, 5, "global", "prompt", True),
    (12, 5, "local", "tokens", False),
    (12, 5, "local", "tokens", True),
    (9, 4, "global", "tokens", False),
    (1, 1, "local", "prompt", False),
]


def test_the_mask_is_that_of_visible(show):
    picture = show("window")
    for T, window, layer, reading, bug in STATES:
        state = {"tokens": T, "window": window, "layer": layer, "reading": reading}
        change(picture, **state, bug=str(bug).lower())
        kinds, counts = grid(picture)
        seen, products = by_python(T, window, layer, reading, bug)
        right, _ = by_python(T, window, layer, reading, False)
        assert ((kinds == "window-seen") == seen).all()
        assert ((kinds == "window-missed") == (right & ~seen)).all()
        assert counts == seen.sum(axis=1).tolist()
        found = numbers(picture.locator(".window-numbers").inner_text())
        assert found == [products, seen.sum()]


def test_the_switch_of_the_bug_blinds_early_queries(show):
    picture = show("window")
    verdict = picture.locator(".window-verdict")
    assert verdict.inner_text() == "Each query sees what it should."
    picture.get_by_label("The bug").check()
    assert "6 queries see nothing, 3 too little, 1 what it should." in verdict.inner_text()
    picture.get_by_label("Read").select_option("tokens")
    assert "changes nothing here: each query is the last" in verdict.inner_text()
    picture.get_by_label("Read").select_option("prompt")
    slider(picture, "Window").focus()
    for _ in range(6):
        picture.page.keyboard.press("ArrowRight")
    assert "changes nothing here: the text fits" in verdict.inner_text()
    assert (grid(picture)[0] != "window-missed").all()


def test_a_query_says_what_it_sees(show):
    picture = show("window", bug="true", query=2)
    sentence = picture.locator(".window-sentence")
    assert sentence.inner_text() == "Query 2 sees no key, and should see keys 0 to 2."
    picture.locator(".window-row[data-query='7']").hover()
    assert sentence.inner_text() == "Query 7 sees keys 6 and 7, and should see keys 4 to 7."
    slider(picture, "Query").press("Home")
    assert sentence.inner_text() == "Query 0 sees no key, and should see key 0."
    assert picture.locator(".window-selected").get_attribute("data-query") == "0"
    slider(picture, "Tokens").press("Home")  # one token, so one query
    assert sentence.inner_text() == "Query 0 sees key 0: 1 of 1."


def test_the_ring_holds_the_last_keys(show):
    picture = show("window", part="ring", tokens=12, window=5, query=7)
    held = picture.locator(".window-ring span").all_inner_texts()
    assert held == [str(7 - (7 - place) % 5) for place in range(5)]
    slider(picture, "Query").press("Home")
    assert picture.locator(".window-ring span").all_inner_texts() == ["0", *"––––"]


# -------------------------------------------------------------------------------- RoPE's clock


def by_rope(m, n, base, pairs=128):
    """The dot product of two equal vectors turned to two positions, divided by the pairs."""
    x = jnp.concatenate((jnp.ones(pairs), jnp.zeros(pairs)))[None]
    q, k = (gemma3.rope(x, jnp.array([position]), base)[0] for position in (m, n))
    return float(q @ k) / pairs


def test_the_clock_turns_as_rope_does(show):
    picture = show("clock")
    for n, distance, base in [(0, 11, 1e4), (1000, 11, 1e4), (3, 512, 1e4), (700, 512, 1e6)]:
        change(picture, key=n, distance=distance, base=int(base))
        found = numbers(picture.locator(".clock-product").inner_text())
        m, key, value, far, start, again = found
        assert (m, key, far, start) == (n + distance, n, distance, 0)
        assert abs(value - by_rope(n + distance, n, base)) < 2e-3
        assert value == again  # of m and n only the distance counts
        omegas = base ** (-np.arange(128) / 128)
        for face, pair in zip(picture.locator("figure").all(), [0, 16, 32, 48, 64, 80, 96, 127]):
            name, turn = face.inner_text().split("\n")
            assert name == f"pair {pair}"
            assert abs(numbers(turn)[0] * omegas[pair] / (2 * np.pi) - 1) < 5e-3
            for hand, position in (("query", n + distance), ("key", n)):
                line = face.locator(f".clock-{hand}")
                end = [float(line.get_attribute(axis)) / 0.92 for axis in ("x2", "y2")]
                angle = position * omegas[pair]
                np.testing.assert_allclose(end, [np.cos(angle), -np.sin(angle)], atol=1e-6)
        near = (distance * omegas < np.pi).sum()
        assert f"{near} of 128 pairs make less than half a turn" in picture.inner_text()


def test_the_base_moves_the_slow_pairs_only(show):
    picture = show("clock")
    turns = picture.locator("figure")
    before = turns.all_inner_texts()
    slider(picture, "Base").press("End")
    assert picture.locator("label", has_text="Base").inner_text().endswith("1,000,000")
    after = turns.all_inner_texts()
    assert after[0] == before[0] and all(a != b for a, b in zip(after[1:], before[1:]))
    curve = picture.locator(".clock-curve").get_attribute("d")
    picture.get_by_role("button", name="local").click()
    assert turns.all_inner_texts() == before
    assert picture.locator(".clock-curve").get_attribute("d") != curve


def test_the_curve_is_the_dot_product_by_distance(show):
    path = show("clock", base=1_000_000).locator(".clock-curve").get_attribute("d")
    points = np.array([point.split() for point in path[1:].split("L")], float)
    distances = np.rint(32_768 ** (points[:, 0] / 1000))
    omegas = 1e6 ** (-np.arange(128) / 128)
    near = distances < 50  # where the rounded x still says which distance it was
    exact = np.cos(distances[near, None] * omegas).mean(axis=1)
    np.testing.assert_allclose(1 - 1.3 * points[near, 1] / 100, exact, atol=1e-3)
    assert near.sum() == 49 and distances[-1] == 32_768


def test_both_walk_and_the_dot_product_stays(show):
    picture = show("clock")
    value = picture.locator(".clock-product output").inner_text()
    walk = picture.get_by_role("button", name="walk")
    walk.press("Enter")
    picture.locator(".clock-product", has_text=re.compile(r"key at n = ([3-9]|\d\d)")).wait_for()
    walk.press("Enter")
    assert picture.locator(".clock-product output").inner_text() == value
    assert walk.get_attribute("aria-pressed") == "false"


# ----------------------------------------------------------------------------- what a cache takes


def sizes(picture):
    """The bytes of the variants by their names."""
    found = {}
    for line in picture.locator(".cache-variants li").all():
        exact = line.locator("b").get_attribute("title")
        found[line.inner_text().split(":")[0]] = int(numbers(exact)[0])
    return found


def grown_bytes(config, length, texts=1):
    """Bytes of the cache as gemma3.py makes it, without allocating it."""
    shapes = jax.eval_shape(
        lambda: gemma3.grow(config, gemma3.empty_cache(config, texts), length)
    )
    return sum(4 * array.size for array in jax.tree.leaves(shapes))


def options(picture):
    return json.loads(picture.get_attribute("data-options"))


def test_a_cache_of_gemma_is_that_of_grow(show, tmp_path):
    picture = show("cache")
    names = [GEMMA, "Gemma 3 1B", "Gemma 3 4B", "Gemma 3 12B", "Gemma 3 27B"]
    for name, (tokens, texts) in product(names, [(64, 1), (512, 3), (3072, 1), (32_768, 2)]):
        change(picture, config=name, tokens=tokens, texts=texts)
        (tmp_path / "config.json").write_text(json.dumps(options(picture)["presets"][name]))
        config, _ = gemma3_files.read_config(tmp_path)
        c = json.loads((tmp_path / "config.json").read_text())
        heads = (gemma3_files.DEFAULTS | c | c.get("text_config", {}))["num_attention_heads"]
        place = texts * 2 * config.num_key_value_heads * config.head_dim * 4
        now = place * sum(min(tokens, layer.window) for layer in config.layers)
        assert list(sizes(picture).values()) == [
            now,
            grown_bytes(config, tokens, texts),
            place * tokens * len(config.layers),
            now * heads // config.num_key_value_heads,
        ], (name, tokens)


def test_a_cache_of_gpt2_is_that_of_generate(show):
    fairy = json.loads((ROOT / "book/models/fairy-gpt2/config.json").read_text())
    picture = show("cache")
    presets = options(picture)["presets"]
    assert presets["this book's GPT-2"] == fairy
    of_gpt2 = [name for name, fields in presets.items() if fields["model_type"] == "gpt2"]
    assert len(of_gpt2) == 6
    for name in of_gpt2:
        picture.get_by_role("combobox", name="Model").select_option(name)
        picture.get_by_role("combobox", name="Numbers").select_option("2")
        fields = presets[name]
        n_bytes = fields["n_layer"] * 2 * fields["n_positions"] * fields["n_embd"] * 2
        assert list(sizes(picture).values()) == [n_bytes] * 3
        assert "gpt2.py" in picture.locator(".play-source").inner_text()


OTHERS = {  # as other programs write their config.json
    "mistral": {"sliding_window": 4096},
    "gemma2": {},
    "qwen2": {"use_sliding_window": True, "max_window_layers": 20, "sliding_window": 4096},
    "qwen3": {"use_sliding_window": False, "sliding_window": None},
    "llama": {"num_key_value_heads": 8},
    "phi3": {"sliding_window": 2047},
    "gpt_oss": {},
}


def test_a_pasted_config_is_read_as_transformers_reads_it(show):
    """The reference is the kind of cache that transformers makes, layer by layer."""
    from transformers import AutoConfig, DynamicCache

    picture, tokens = show("cache"), 64 * 2**6 * 3 // 2
    for kind, fields in OTHERS.items():
        reference = AutoConfig.for_model(kind, max_position_embeddings=16_384, **fields)
        layers = DynamicCache(config=reference).layers
        area = picture.get_by_role("textbox", name="config.json")
        area.fill(json.dumps(reference.to_dict(), default=str))
        slider(picture, "Tokens").press("Home")  # 64, 96, 128, …
        for _ in range(13):
            slider(picture, "Tokens").press("ArrowRight")
        assert f"of {tokens:,} tokens" in picture.locator("[aria-live]").inner_text()
        windows = [getattr(layer, "sliding_window", None) or tokens for layer in layers]
        places = sum(min(tokens, window) for window in windows)
        heads = reference.num_attention_heads
        size = getattr(reference, "head_dim", None) or reference.hidden_size // heads
        place = 2 * reference.num_key_value_heads * size * 4
        by_head = places * 2 * heads * size * 4
        found = list(sizes(picture).values())
        assert found == [places * place, tokens * len(windows) * place, by_head], kind
        assert picture.get_by_role("combobox", name="Model").input_value() == "own"


LLAMA = {
    "model_type": "llama", "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64,
    "max_position_embeddings": 128,
}  # fmt: skip
REFUSED = {
    "num_hidden_layers or n_layer is missing": {"num_hidden_layers": None},
    "num_hidden_layers is 2.5": {"num_hidden_layers": 2.5},
    "num_hidden_layers is 1000000000": {"num_hidden_layers": 10**9},
    "num_attention_heads is \"4\"": {"num_attention_heads": "4"},
    "num_key_value_heads is 3": {"num_key_value_heads": 3},
    "hidden_size is 66": {"hidden_size": 66},
    "head_dim is 0": {"head_dim": 0},
    "max_position_embeddings or n_positions or n_ctx is missing": {"max_position_embeddings": None},
    "layer_types is [\"full_attention\"]": {"layer_types": ["full_attention"]},
    "layer_types is [\"linear_attention\"": {"layer_types": ["linear_attention"] * 2},
    "sliding_window is missing": {"layer_types": ["sliding_attention"] * 2},
    "layer_types is missing": {"sliding_window": 64},
    "sliding_window_pattern is 0": {"sliding_window": 64, "sliding_window_pattern": 0},
    "text_config is 3": {"text_config": 3},
    "kv_lora_rank is 512": {"kv_lora_rank": 512},
}


def test_what_cannot_be_read_is_refused_by_name(show):
    picture = show("cache")
    area, alert = picture.get_by_role("textbox", name="config.json"), picture.get_by_role("alert")
    for message, change in REFUSED.items():
        area.fill(json.dumps(LLAMA | change))
        assert message in alert.inner_text(), message
        assert picture.locator("table").count() == 0
    for text in ("", "{", "[1]", "null", "3"):
        area.fill(text)
        assert "JSON" in alert.inner_text()
    area.fill(json.dumps(LLAMA))
    assert alert.count() == 0 and list(sizes(picture).values()) == [2 * 128 * 2 * 64 * 4] * 3


def test_the_longest_text_is_that_of_the_model(show):
    picture = show("cache", config="GPT-2 XL")
    assert slider(picture, "Tokens").get_attribute("aria-valuetext") == "1,024"
    picture.get_by_role("combobox", name="Model").select_option("Gemma 3 27B")
    assert slider(picture, "Tokens").get_attribute("aria-valuetext") == "131,072"
    slider(picture, "Tokens").press("ArrowLeft")
    assert "98,304 tokens" in picture.locator("[aria-live]").inner_text()
    picture.get_by_role("combobox", name="Model").select_option("Gemma 3 12B")
    assert "98,304 tokens" in picture.locator("[aria-live]").inner_text()


# --------------------------------------------------------------------------------- all of them


@pytest.mark.parametrize("kind", CHAPTERS)
def test_a_state_has_an_address(show, kind):
    name = {"window": "Window", "clock": "Distance", "cache": "Texts"}[kind]
    picture = show(kind)
    slider(picture, name).press("ArrowRight")
    value = slider(picture, name).get_attribute("aria-valuetext")
    fragment = picture.page.evaluate("location.hash")
    assert fragment.startswith(f"#{kind}&")
    text = picture.inner_text()
    again = show(kind, **dict(pair.split("=") for pair in fragment.split("&")[1:]))
    assert slider(again, name).get_attribute("aria-valuetext") == value
    assert again.inner_text() == text


@pytest.mark.parametrize("kind", CHAPTERS)
def test_parts_lead_to_src_and_back(show, site, kind):
    """Each link of a picture leads to a line, and the cell of that line links to the picture."""
    picture = show(kind, part="ring" if kind == "window" else "")
    links = picture.locator(".play-source").evaluate_all("links => links.map(link => link.href)")
    page = picture.page
    assert links
    for link in links:
        page.goto(link)
        line = page.locator(f"#{link.split('#')[1]}")
        assert line.is_visible()
        origin = line.locator("xpath=ancestor::*[contains(@class, 'tangled-fragment')]//p/a")
        page.goto(origin.evaluate("link => link.href"))
        cell = page.locator(f"[id='{page.url.split('#')[1]}']")
        back = cell.locator(f".tangled-play a[href*='#{kind}&part=']")
        assert back.count() == 1


@pytest.mark.parametrize("kind, state", [
    ("window", {"tokens": 20, "window": 20, "reading": "tokens", "query": 19}),
    ("clock", {"key": 1000, "distance": 32_768, "base": 1_000_000}),
    ("cache", {"config": "Gemma 3 27B", "texts": 64}),
])  # fmt: skip
def test_nothing_is_wider_than_a_telephone(show, kind, state):
    picture = show(kind)
    picture.page.set_viewport_size({"width": 400, "height": 800})
    picture = show(kind, **state)
    root = picture.evaluate("root => [root.scrollWidth, root.clientWidth]")
    assert root[0] <= root[1]
    assert picture.page.evaluate("document.documentElement.scrollWidth") <= 400
    outside = picture.evaluate("""root => {
      const right = root.getBoundingClientRect().right;
      const all = [...root.querySelectorAll("*")];
      return all.filter((part) => part.getBoundingClientRect().right > right).map(String);
    }""")
    assert outside == []
