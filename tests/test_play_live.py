"""The model in the page: src/gpt2.js in a real browser against src/gpt2.py, and its picture."""

import base64
import itertools
import random
import re
from urllib.parse import urlencode

import numpy as np
import pytest
import torch
from browser import missing
from conftest import ROOT
from strings import HAND_PICKED, random_strings

import gpt2

MODEL = ROOT / "book/models/fairy-gpt2"
DATA = ROOT / "_build/html/_play"
PAGE = "book/play/live.html"
PROMPTS = [
    "Once upon a time",
    "The old woman lived in a little",
    "A",
    " ",
    "   three spaces",
    "\n",
    "He said:\n\n\t“Who are you?”\r\n",
    "Es war einmal ein König",
    "naïve café, œuvre, İstanbul",
    "Жил-был царь",
    "昔々あるところに",
    "한 옛날에",
    "\u0627\u0644\u0633\u0644\u0627\u0645",
    "👩🏽‍💻 met a 🦔 and 👨‍👩‍👧‍👦",
    "e\u0301\u0302 \ufeff\x85\u200d\u2028",
    "<|endoftext|>",
    "The end.<|endoftext|>The king",
    "12345 + 67890 = ½ of 3.14159",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "There was a fox who lived in a wood, and he was hungry. " * 25,
]
assert len(PROMPTS) == 20


@pytest.fixture(scope="session")
def fairy():
    """The model and the tokenizer in Python."""
    return gpt2.load(MODEL)


def published(name):
    """The address of a published file."""
    files = list(DATA.glob(f"{name}.*.safetensors"))
    if len(files) != 1:
        missing("the chapter of the live model is not built; run `make book`")
    return f"_play/{files[0].name}"


@pytest.fixture(scope="session")
def engine(browser, site):
    """A page with nothing but src/gpt2.js, the model and the tokenizer; it evaluates JavaScript."""
    page = browser.new_page()
    page.goto(f"{site}/{PAGE.replace('live.html', '')}")
    page.set_content("")
    page.add_script_tag(path=ROOT / "src/gpt2.js")
    page.evaluate(
        """async (url) => {
            const response = await fetch(url);
            [window.model, window.tokenizer] = load(await response.arrayBuffer());
            window.bytes = (numbers) => {
                const all = new Uint8Array(numbers.buffer);
                let text = "";
                for (let i = 0; i < all.length; i += 8192)
                    text += String.fromCharCode(...all.subarray(i, i + 8192));
                return btoa(text);
            };
            window.greedy = { temperature: 0, top_k: 1, top_p: 1 };
        }""",
        f"{site}/{published('fairy-gpt2')}",
    )
    yield page.evaluate
    page.close()


def floats(text):
    """Numbers in single precision, as the browser sends them."""
    return np.frombuffer(base64.b64decode(text), np.float32)


@torch.inference_mode()
def logits(model, ids, off=()):
    """The scores after ids, of the model without the parts named in off."""
    x = model.wte(torch.tensor([ids])) + model.wpe.weight[: len(ids)]
    for i, block in enumerate(model.h):
        if f"h.{i}.*" in off:
            continue
        c_proj = torch.nn.Linear(*block.attn["c_proj"].weight.shape[::-1])
        c_proj.weight.copy_(block.attn["c_proj"].weight)
        c_proj.bias.copy_(block.attn["c_proj"].bias)
        d = c_proj.in_features // block.n_head
        for h in range(block.n_head):
            if f"h.{i}.attn.{h}" in off:
                c_proj.weight[:, h * d : (h + 1) * d] = 0
        x = x + gpt2.attention(block.ln_1(x), block.n_head, block.attn["c_attn"], c_proj)
        if f"h.{i}.mlp" not in off:
            h = torch.nn.functional.gelu(block.mlp["c_fc"](block.ln_2(x)), approximate="tanh")
            x = x + block.mlp["c_proj"](h)
    return model.lm_head(model.ln_f(x))[0, -1].numpy()


# ------------------------------------------------------------------------------- src/gpt2.js


def test_half_precision(engine):
    ours = floats(engine("bytes(HALVES)"))
    theirs = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = np.isfinite(theirs)
    assert np.array_equal(ours[finite], theirs[finite])


@pytest.mark.parametrize("prompt", PROMPTS)
def test_logits_and_greedy_tokens_are_those_of_python(engine, fairy, prompt):
    model, tokenizer = fairy
    ids = tokenizer.encode(prompt)
    assert engine("(text) => tokenizer.encode(text)", prompt) == ids
    ours = floats(engine("(ids) => bytes(model.logits(ids, model.cache()))", ids))
    assert ours.shape == (50257,)
    assert np.abs(ours - logits(model, ids)).max() < 1e-3
    theirs = [i for [i] in gpt2.generate(model, ids, 20)]
    drawn = "(ids) => [...generate(model, ids, 20, greedy, Math.random)].map(({ id }) => id)"
    assert engine(drawn, ids) == theirs


def test_token_ids_and_texts_are_those_of_python(engine, fairy):
    _, tokenizer = fairy
    texts = [*HAND_PICKED, *random_strings(3000, 12)]
    wanted = [tokenizer.encode(text) for text in texts]
    found = engine("(texts) => texts.map((text) => tokenizer.encode(text))", texts)
    different = [text for text, ours, theirs in zip(texts, found, wanted) if ours != theirs]
    assert different == []
    back = "(all) => all.map((ids) => [...tokenizer.decode(ids)].join(''))"
    assert engine(back, wanted) == texts


def test_a_long_word_takes_no_time(engine, fairy):
    word = "".join(random.Random(5).choices("abcdefghij", k=5_000))
    ids, seconds = engine(
        """(word) => {
            const begin = performance.now();
            const ids = tokenizer.merge(word);
            return [ids, (performance.now() - begin) / 1000];
        }""",
        word,
    )
    assert ids == fairy[1].encode(word)
    assert seconds < 10, seconds  # a tenth of a second on a machine with nothing else to do


def test_broken_characters_are_decoded_as_in_python(engine, fairy):
    _, tokenizer = fairy
    random_ = random.Random(0)
    rare = [i for i, b in tokenizer.token_bytes.items() if any(byte > 127 for byte in b)]
    lists = [random_.choices(rare, k=random_.randint(1, 8)) for _ in range(500)]
    pieces = [list(tokenizer.decode(ids)) for ids in lists]
    assert any("\ufffd" in "".join(p) for p in pieces)
    joined = "(all) => all.map((ids) => [...tokenizer.decode(ids)].join(''))"
    assert engine(joined, lists) == ["".join(p) for p in pieces]


@pytest.mark.parametrize(
    "off",
    [
        ["h.0.attn.0"],
        ["h.7.attn.4", "h.3.attn.1", "h.3.attn.2"],
        ["h.2.mlp"],
        ["h.0.*"],
        ["h.7.*", "h.4.mlp", "h.5.attn.3"],
        [f"h.{i}.*" for i in range(8)],
        [f"h.{i}.attn.{h}" for i in range(8) for h in range(5)],
    ],
    ids=lambda off: f"{off[0]}+{len(off) - 1}",
)
def test_a_part_left_out(engine, fairy, off):
    model, tokenizer = fairy
    ids = tokenizer.encode("Once upon a time there was a king")
    cut = "([ids, off]) => bytes(model.logits(ids, model.cache(new Set(off))))"
    ours = floats(engine(cut, [ids, off]))
    assert np.abs(ours - logits(model, ids, off)).max() < 1e-3
    assert np.abs(ours - logits(model, ids)).max() > 0.05  # it does make a difference


def test_the_cache_follows_a_text_that_changes(engine, fairy):
    model, tokenizer = fairy
    texts = ["The", "The king", "The kind", "The kind old man", "The", "The", "A kind old man"]
    all_ids = [tokenizer.encode(text) for text in texts]
    found = engine(
        """(all) => {
            const cache = model.cache();
            return all.map((ids) => bytes(model.logits(ids, cache)));
        }""",
        all_ids,
    )
    for ids, ours in zip(all_ids, found):
        assert np.abs(floats(ours) - logits(model, ids)).max() < 1e-3


@pytest.mark.parametrize(
    "temperature, top_k, top_p",
    [(0, 1, 1), (0, 40, 0.5), (1, 50257, 1), (0.7, 40, 0.9), (1.5, 1000, 0.3), (2, 5, 1)],
)
def test_the_draw_is_prepared_as_in_python(engine, fairy, temperature, top_k, top_p):
    model, tokenizer = fairy
    ids = tokenizer.encode("The old woman lived in a little")
    scores, best = torch.tensor(logits(model, ids)).topk(top_k)
    p = torch.softmax(scores / max(temperature, 1e-9), dim=0)
    p[p.cumsum(dim=0) - p >= top_p] = 0
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    found = engine("([ids, o]) => choices(model.logits(ids, model.cache()), o)", [ids, options])
    assert np.abs(np.array(found["p"]) - p.numpy()).max() < 1e-4
    first = min(top_k, 20)
    assert found["best"][:first] == best[:first].tolist()
    assert len(set(found["best"])) == top_k


def mulberry32(seed):
    """The random numbers, written independently: all arithmetic is cut to 32 bits."""
    while True:
        seed = (seed + 0x6D2B79F5) % 2**32
        z = (seed ^ seed >> 15) * (seed | 1) % 2**32
        z ^= (z + (z ^ z >> 7) * (z | 61)) % 2**32
        yield (z ^ z >> 14) / 2**32


@pytest.mark.parametrize("seed", [0, 1, 42, 999_999])
def test_random_numbers(engine, seed):
    thousand = "(s) => { const r = generator(s); return Array.from({ length: 1000 }, r); }"
    assert engine(thousand, seed) == list(itertools.islice(mulberry32(seed), 1000))


def test_tokens_are_drawn_as_often_as_they_should_be(engine, fairy):
    model, tokenizer = fairy
    ids = tokenizer.encode("Once upon a time there was a")
    options = {"temperature": 1, "top_k": 4, "top_p": 1}
    drawn = engine(
        """([ids, options]) => {
            const [random, cache] = [generator(5), model.cache()];
            const draw = () => generate(model, ids, 1, options, random, cache).next().value.id;
            return Array.from({ length: 400 }, draw);
        }""",
        [ids, options],
    )
    scores, best = torch.tensor(logits(model, ids)).topk(4)
    p = torch.softmax(scores, dim=0).tolist()
    for token, share in zip(best.tolist(), p):
        assert abs(drawn.count(token) / 400 - share) < 4 * (share * (1 - share) / 400) ** 0.5
    assert set(drawn) <= set(best.tolist())


def test_a_text_ends_where_the_context_is_full(engine, fairy):
    ids = fairy[1].encode("on and " * 255)
    count = "(ids) => [...generate(model, ids, 9, greedy, Math.random)].length"
    assert engine(count, ids) == 512 - len(ids) < 9


# ------------------------------------------------------------------------------- the picture


class Reader:
    """Somebody who uses the picture."""

    def __init__(self, page):
        self.page = page

    def load(self):
        self.page.get_by_role("button", name=re.compile("^Load the model")).click()
        self.page.wait_for_selector(".live-bars li", timeout=120_000)
        return self

    def press(self, name):
        self.page.locator("#live").get_by_role("button", name=name, exact=True).click()

    def type(self, prompt):
        self.page.get_by_label("Prompt").fill(prompt)

    def slide(self, label, value):
        slider = self.page.get_by_label(label, exact=True)
        move = "(s, v) => { s.value = v; s.dispatchEvent(new Event('input')); }"
        slider.evaluate(move, str(value))

    def wait(self, test, argument=None):
        self.page.wait_for_function(test, arg=argument, timeout=120_000)

    def written(self):
        buttons = "[...document.querySelectorAll('#live button')]"
        self.wait(f"{buttons}.find((b) => b.textContent === 'Stop').disabled")
        return self.ids()

    def ids(self, of=".live-token"):
        return [int(t) for t in self.page.locator(f"{of} small").all_inner_texts()]

    def wait_for_ids(self, ids):
        shown = "[...document.querySelectorAll('.live-token small')].map((t) => t.textContent)"
        self.wait(f"(ids) => {shown}.join() === ids", ",".join(map(str, ids)))

    def bars(self, column=0):
        """The labels of the chances and, in per cent, what the model says and what is drawn."""
        rows = "document.querySelectorAll('.live-bars')[column].querySelectorAll('li')"
        # Read in one go: the page may draw the bars anew between finding and reading them.
        texts = self.page.evaluate(f"(column) => [...{rows}].map((li) => li.innerText)", column)
        rows = [re.fullmatch(r"(.*)\n<?([\d.]+) → <?([\d.]+|–) %", text).groups() for text in texts]
        return [(a, float(b), None if c == "–" else float(c)) for a, b, c in rows]


@pytest.fixture
def reader(browser, site):
    """Open the chapter, with a state in the address if one is given."""
    pages = []

    def open_page(state="", base=site, size=(1200, 900), **routes):
        page = browser.new_page(viewport={"width": size[0], "height": size[1]})
        pages.append(page)
        for pattern, answer in routes.items():
            page.route(f"**/_play/{pattern}*", answer)
        published("fairy-gpt2")
        page.goto(f"{base}/{PAGE}{'#live&' + state if state else ''}")
        return Reader(page)

    yield open_page
    for page in pages:
        page.close()


def assert_chances(bars, scores, temperature=0.8, top_k=40, top_p=1.0):
    """The bars show these scores, and what is drawn of them."""
    p = torch.softmax(torch.tensor(scores), dim=0)
    best = p.topk(10)
    drawn, _ = torch.tensor(scores).topk(top_k)
    q = torch.softmax(drawn / max(temperature, 1e-9), dim=0)
    q[q.cumsum(dim=0) - q >= top_p] = 0
    q = torch.cat([q / q.sum(), torch.zeros(10)])
    assert len(bars) == 10
    for (_, before, after), one, two in zip(bars, best.values.tolist(), q[:10].tolist()):
        assert abs(before - 100 * one) < 0.51
        assert (after is None) == (two == 0) and abs((after or 0) - 100 * two) < 0.51


def test_tokens_form_and_chances_follow_as_the_reader_types(reader, fairy):
    model, tokenizer = fairy
    page = reader().load()
    for prompt in ("The café 🦔", "The café 🦔 was", "  Two\nlines"):
        page.type(prompt)
        ids = tokenizer.encode(prompt)
        page.wait_for_ids(ids)
        assert_chances(page.bars(), logits(model, ids))
    page.slide("Temperature", 1.5)
    page.slide("Top-k", 3)  # the fourth of its places: five tokens
    page.slide("Top-p", 0.6)
    page.wait("document.querySelectorAll('.live-cut').length === 7")  # two more by top-p
    assert_chances(page.bars(), logits(model, ids), 1.5, 5, 0.6)


def test_generate_step_stop_and_again(reader, fairy):
    model, tokenizer = fairy
    prompt = "The old woman lived in a little"
    ids = tokenizer.encode(prompt)
    page = reader(urlencode({"prompt": prompt, "temperature": 0})).load()
    page.wait_for_ids(ids)
    theirs = [i for [i] in gpt2.generate(model, ids, 61)]
    page.press("One token")
    page.wait_for_ids(ids + theirs[:1])
    page.press("Generate 60 tokens")
    page.wait("document.querySelectorAll('.live-drawn').length === 61")
    assert page.written() == ids + theirs
    page.press("Again")
    page.wait(  # and press Stop as soon as there is something new, before it is too late
        """() => {
            const drawn = document.querySelectorAll(".live-drawn").length;
            const buttons = [...document.querySelectorAll("#live button")];
            const stop = drawn > 0 && drawn < 50 && buttons.find((b) => b.textContent === "Stop");
            stop && stop.click();
            return Boolean(stop);
        }"""
    )
    some = page.written()
    assert len(some) < len(ids + theirs) and (ids + theirs)[: len(some)] == some
    page.type(prompt + " house")
    page.wait_for_ids(tokenizer.encode(prompt + " house"))


def test_what_was_generated_is_read_as_a_text_and_can_be_forgotten(reader, fairy):
    _, tokenizer = fairy
    prompt = "The café 🦔"
    page = reader(urlencode({"prompt": prompt, "temperature": 0})).load()
    page.wait_for_ids(tokenizer.encode(prompt))
    prose = page.page.locator(".live-prose")
    assert not prose.is_visible()
    page.press("Generate 60 tokens")
    page.wait("document.querySelectorAll('.live-drawn').length > 0")
    ids = page.written()
    assert prose.text_content() == "".join(tokenizer.decode(ids))
    new = "".join(tokenizer.decode(page.ids(".live-drawn")))
    assert prose.locator(".live-new").text_content() == new
    page.press("Back to the prompt")
    page.wait_for_ids(tokenizer.encode(prompt))
    assert not prose.is_visible()


def test_patterns_are_drawn_while_the_model_writes(reader):
    page = reader("prompt=The+king&temperature=0&head=0.1").load()
    page.page.wait_for_selector(".live-looked span")
    page.page.evaluate(
        """() => {
            window.seen = new Set();
            const observer = new MutationObserver(() => {
                if (![...document.querySelectorAll("#live button")]
                    .find((b) => b.textContent === "Stop").disabled)
                    window.seen.add(document.querySelectorAll(".live-looked span").length);
            });
            observer.observe(document.querySelector(".live-looked"), { childList: true });
        }"""
    )
    page.press("Generate 60 tokens")
    page.wait("document.querySelectorAll('.live-drawn').length > 0")
    n = len(page.written())
    between = [length for length in page.page.evaluate("[...window.seen]") if 2 < length < n]
    assert between, "the open pattern grew only at the end"


def test_a_prompt_that_was_erased_can_be_typed_again(reader, fairy):
    prompt = "The wolf and"
    page = reader(urlencode({"prompt": prompt, "head": "1.3"})).load()
    for text in ("", prompt):
        page.type(text)
        page.wait_for_ids(fairy[1].encode(text))
    page.wait("document.querySelectorAll('.live-looked span').length === 3")
    assert page.page.locator(".play-error").count() == 0


def test_the_keyboard_goes_on_when_the_model_is_there(reader):
    page = reader()
    page.page.get_by_role("button", name=re.compile("^Load the model")).focus()
    page.page.keyboard.press("Enter")
    page.page.wait_for_selector(".live-bars li", timeout=120_000)
    assert page.page.evaluate("document.activeElement.textContent") == "Generate 60 tokens"


def test_a_seed_repeats_a_text(reader):
    page = reader("prompt=The+king&temperature=1&seed=7").load()
    page.press("Generate 60 tokens")
    first = page.written()
    page.press("Again")
    page.wait("document.querySelectorAll('.live-drawn').length < 60")
    assert page.written() == first and len(first) > 5


def test_switches_show_both_models_at_once(reader, fairy):
    model, tokenizer = fairy
    prompt = "Once upon a time there was a king who had three"
    ids = tokenizer.encode(prompt)
    page = reader().load()
    page.type(prompt)
    page.wait_for_ids(ids)
    off = ["h.1.attn.2", "h.3.mlp", "h.6.*"]
    for name in ("Block 1, head 2", "Block 3, MLP", "Block 6"):
        page.page.get_by_label(name, exact=True).uncheck()
    page.wait("/^Without 3 parts/.test(document.querySelectorAll('.live-bars')[1].textContent)")
    page.wait("document.querySelector('.live-moved').textContent")
    before, after = logits(model, ids), logits(model, ids, off)
    for _ in range(60):  # until what was asked last has been answered
        page.page.wait_for_timeout(500)
        if abs(page.bars(1)[0][1] - 100 * torch.softmax(torch.tensor(after), dim=0).max()) < 0.51:
            break
    assert_chances(page.bars(0), before)
    assert_chances(page.bars(1), after)
    p, q = (torch.softmax(torch.tensor(scores), dim=0) for scores in (before, after))
    moved = float(re.search(r"([\d.]+) %", page.page.inner_text(".live-moved"))[1])
    assert abs(moved - 50 * (p - q).abs().sum().item()) < 0.06
    page.slide("Temperature", 0)
    page.press("One token")
    page.wait("document.querySelectorAll('.live-drawn').length === 1")
    assert page.ids()[-1] == after.argmax()
    page.press("Switch all on")
    page.wait("document.querySelectorAll('.live-bars')[1].childElementCount === 0")


def test_patterns_are_those_of_the_model(reader, fairy):
    model, tokenizer = fairy
    prompt = "The wolf and the lamb"
    ids = tokenizer.encode(prompt)
    page = reader(urlencode({"prompt": prompt, "head": "1.3"})).load()
    page.wait_for_ids(ids)
    page.page.wait_for_selector(".live-looked span")
    with torch.inference_mode():
        x = model.wte(torch.tensor([ids])) + model.wpe.weight[: len(ids)]
        x = model.h[0](x)
        block = model.h[1]
        qkv = block.attn["c_attn"](block.ln_1(x))[0].view(len(ids), 3, block.n_head, -1)
        q, k, _ = qkv.permute(1, 2, 0, 3)[:, 3]
        last = torch.softmax(q[-1] @ k.T / q.shape[-1] ** 0.5, dim=0)
    assert "Block 1, head 3" in page.page.inner_text(".live-large")
    shown = page.page.locator(".live-looked span").evaluate_all("(all) => all.map((s) => s.title)")
    assert len(shown) == len(ids)
    for text, weight in zip(shown, last.tolist()):
        assert abs(float(text.removesuffix(" %")) - 100 * weight) < 0.8


def test_the_address_holds_the_state(reader):
    page = reader().load()
    page.type("A château & a #1")
    page.slide("Top-p", 0.5)
    page.page.get_by_label("Block 2, MLP", exact=True).uncheck()
    page.page.get_by_label("Open the pattern of block 4, head 0", exact=True).click()
    address = page.page.url
    assert "%" in address
    again = reader(address.partition("#live&")[2]).load()
    again.page.wait_for_selector(".live-looked span")
    assert again.page.get_by_label("Prompt").input_value() == "A château & a #1"
    assert again.page.get_by_label("Top-p", exact=True).input_value() == "0.5"
    assert not again.page.get_by_label("Block 2, MLP", exact=True).is_checked()
    assert "Block 4, head 0" in again.page.inner_text(".live-large")


def test_an_address_that_makes_no_sense_is_survived(reader):
    page = reader("prompt=A&off=h.99.mlp+x&head=9.9&top_k=7&temperature=hot&seed=-1").load()
    assert page.page.locator("#live input[type=checkbox]:not(:checked)").count() == 0
    assert page.page.locator(".play-error").count() == 0


def test_what_the_model_cannot_read_is_said(reader):
    page = reader().load()
    for prompt, words in [("", "needs at least one token"), ("on and " * 300, "room for 512")]:
        page.type(prompt)
        status = "document.querySelector('#live [role=status]').textContent"
        page.wait(f"(words) => {status}.includes(words)", words)
        assert page.ids() == []
        assert page.page.locator("#live").get_by_role("button", name="One token").is_disabled()
    page.type("The king")
    page.wait("document.querySelectorAll('.live-token').length === 2")


def test_the_table_is_one_stop_of_the_keyboard(reader):
    page = reader().load()
    grid = page.page.get_by_role("grid")
    assert grid.locator("[tabindex='0']").count() == 1
    grid.locator("[tabindex='0']").focus()
    for key in ("ArrowDown", "ArrowRight", "Space"):
        page.page.keyboard.press(key)
    assert not page.page.get_by_label("Block 1, head 0", exact=True).is_checked()
    page.page.keyboard.press("ArrowLeft")
    page.page.keyboard.press("Enter")
    page.page.wait_for_selector(".live-looked span")
    assert "Block 1, head 0" in page.page.inner_text(".live-large")
    assert grid.locator("[tabindex='0']").count() == 1


def test_works_from_disk(reader, fairy):
    model, tokenizer = fairy
    page = reader(base=(ROOT / "_build/html").as_uri()).load()
    page.type("The king")
    page.wait_for_ids(tokenizer.encode("The king"))
    assert_chances(page.bars(), logits(model, tokenizer.encode("The king")))


@pytest.mark.parametrize("size", [(400, 800), (1400, 900)])
def test_nothing_is_wider_than_the_screen(reader, size):
    page = reader("prompt=A+king&head=0.0&off=h.1.mlp", size=size).load()
    assert page.page.evaluate("document.documentElement.scrollWidth") <= size[0]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nobody_is_shut_out(reader, scheme):
    page = reader("prompt=A+king&head=0.0&off=h.1.mlp+h.2.attn.0&top_k=3").load().page
    page.emulate_media(color_scheme=scheme)
    page.wait_for_selector(".live-looked span")
    page.add_script_tag(path=ROOT / "tests/axe/axe.min.js")
    found = page.evaluate("axe.run('#live').then((result) => result.violations)")
    grave = [v for v in found if v["impact"] in ("serious", "critical")]
    assert [(v["id"], [node["html"] for node in v["nodes"]]) for v in grave] == []


@pytest.mark.parametrize("name", ["fairy-gpt2", "gpt2-js"])
@pytest.mark.parametrize("kind", ["missing", "cut off", "another"])
def test_a_missing_or_wrong_file_is_said(reader, name, kind):
    other = published("gpt2-js" if name == "fairy-gpt2" else "fairy-gpt2").partition("/")[2]
    contents = {
        "missing": {"status": 404, "body": "no"},
        "cut off": {"body": next(DATA.glob(f"{name}.*.safetensors")).read_bytes()[:5000]},
        "another": {"body": (DATA / other).read_bytes()},
    }
    page = reader(**{name: lambda route: route.fulfill(**contents[kind])})
    page.page.get_by_role("button", name=re.compile("^Load the model")).click()
    page.page.wait_for_selector(".play-error", timeout=60_000)
    assert f"The data file {name}." in page.page.inner_text(".play-error")
    assert page.page.get_by_role("button", name=re.compile("^Load the model")).is_enabled()
