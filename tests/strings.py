"""Strings that are hard on a tokenizer: some picked by hand, and as many random ones as wanted."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Callable, Iterator

PROSE = [
    "",
    "a",
    " ",
    "Hello, world!",
    "The quick brown fox jumps over the lazy dog.",
    "The capital of France is",
    "Once upon a time there was a king who had three daughters, and he loved them all.",
    "I'm sure you've heard it's they're, we'll, he'd — don't. I'M YOU'VE IT'S THEY'RE WE'LL",
    "“Curly quotes” and ‘single’ ones, it’s … an en–dash, an em—dash, a §, a ¶ and a • too.",
    "naïve café, Ångström, Straße, œuvre, smørrebrød, žluťoučký kůň, ğüşiöç, İstanbul ı, ñandú",
    "Tiếng Việt có dấu thanh: ngã, hỏi, nặng, sắc, huyền.",
    "Zażółć gęślą jaźń. Árvíztűrő tükörfúrógép. Þjóðólfur. Ħamrun. Łódź.",
    "Съешь же ещё этих мягких французских булок да выпей чаю. Їжак, ґанок, ћирилица, ѝ.",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία. Ἐν ἀρχῇ ἦν ὁ λόγος.",
    "صِف خَلقَ خَودِ كَمِثلِ الشَمسِ إِذ بَزَغَت. سلام دنیا، ۱۲۳۴ ؟",
    "דג סקרן שט בים מאוכזב ולפתע מצא חברה. בְּרֵאשִׁית בָּרָא אֱלֹהִים",
    "ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण। क्षत्रिय ज्ञान १२३",
    "আমি বাংলায় গান গাই। ગુજરાતી ਪੰਜਾਬੀ தமிழ் తెలుగు ಕನ್ನಡ മലയാളം සිංහල",
    "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า กว่าบรรดาฝูงสัตว์เดรัจฉาน ๑๒๓",
    "ພາສາລາວ ភាសាខ្មែរ မြန်မာဘာသာ བོད་སྐད། ქართული հայերեն አማርኛ ᏣᎳᎩ ᠮᠣᠩᠭᠣᠯ ⵜⴰⵎⴰⵣⵉⵖⵜ ߒߞߏ",
    "天地玄黃，宇宙洪荒。日月盈昃，辰宿列張。简体中文：我能吞下玻璃而不伤身体。",
    "いろはにほへと ちりぬるを。カタカナ、ﾊﾝｶｸ、漢字。「吾輩は猫である。」",
    "키스의 고유조건은 입술끼리 만나야 하고 특별한 기술은 필요치 않다. ㄱㄴㄷ 한글",
    "𐌰𐌱𐌲 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝒜𝓈𝒸𝒾𝒾 𠀀𠜎 𓀀𓂀 𒀀𒁀 🂡 🄰 𞤀𞤣𞤤𞤢𞤥 𐎠 \U000e0041 \U000f0000 \U0010fffd",
]
EMOJI = [
    "😀 😂🤣 ❤️ ❤ 👍 ✨🎉 ☺️ ☺ ©️ ™",
    "👍🏻👍🏽👍🏿 🧑🏾‍🚀 👩🏽‍💻",
    "👨‍👩‍👧‍👦 👩‍❤️‍💋‍👨 🏳️‍🌈 🏴‍☠️ 🐻‍❄️",
    "🇫🇷🇩🇪🇯🇵 🇺🇳 🇦 🏴󠁧󠁢󠁳󠁣󠁴󠁿",
    "1️⃣#️⃣*️⃣ 🫠🫡🫨 🪿 🩷",
    "text 😀text😀 text",
]
MARKS = [
    "e\u0301 E\u0301 n\u0303 a\u0308\u0304 \u0301 x\u0489 Z\u0351\u036b\u0343\u036a\u0302\u036b",
    "a\u200bb a\u200cb a\u200db a\u2060b a\u00adb \u200e\u200f \u202aabc\u202c \u2066x\u2069",
    "が か\u3099 \u1112\u1161\u11ab 각",
    "ﬁ ﬂ ﷺ ㎏ ㍿ ℡ Å Å K K",
]
NUMBERS = [
    "0 1 12 123 1234 12345 3.14159 1,000,000 -1 +1 1e-6 0x1F 1/2 50% $9.99 €5 £3 ¥100",
    "½ Ⅷ ² _",
    "x² + y³ = z¹⁰, H₂O, ⅓ ⅞ ↉, ⅰⅱⅲ ⅯⅮ ↀ, ①②⑳ ⒈ ㈠ ㊿, 〇一二三 〡〢",
    "٠١٢٣ ۴۵۶ ०१२ ๑๒ ௰௱ ༪ ፩፪ ᛮ 𐄇 𝟘𝟙𝟚 𝟎 𝟿 ０１２ 🄋",
    "a1b2 1a2b a½b ½½ a² 2² _1 1_ _a_ __init__",
]
CODE = [
    'def f(x: int) -> str:\n    return f"{x!r}"  # comment\n\n\nclass A:\n\tpass\n',
    '#include <stdio.h>\r\nint main(void) {\r\n\tprintf("%d\\n", 42);\r\n\treturn 0;\r\n}\r\n',
    "for (let i = 0; i < n; ++i) { a[i] = b[i] ?? c?.d; } // => `${x}`",
    "SELECT * FROM t WHERE a <> 'b' AND c >= 3;",
    "https://example.com/a/b?c=d&e=f#g user@example.com C:\\Users\\x ~/.config",
    "\\frac{1}{2} \\alpha $x_i^2$ $$\\int_0^1 f\\,dx$$",
    '{"a": [1, 2.5, null, true], "b": {"c": "d\\u00e9"}}',
    "<table><tr><td>1</td></tr></table>",
    "<html>\n<body class=\"a\"><h1>Hi</h1><p>b</p><ul><li>x</li></ul><br/><a href='#'>y</a>",
    "<strong>a</strong> <em>b</em> <code>c</code> <pre> d </pre> <blockquote>e</blockquote>",
    "<start_of_turn>user\nhi<end_of_turn>",
    "<start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\n",
    "<mask> <unused0> <unused98> <unused99> <unused6241> [multimodal] <start_of_image>",
    "<start_of_turn <end_of_turn> < table> <TABLE> <0x41> <0x0A> </s> <s> [INST] <|im_start|>",
    "a<|endoftext|>b <|endoftext|> <|endoftext|><|endoftext|> <|endoftext| >",
]
SPACES = [
    "a  b",
    "  a",
    "a  ",
    "a   b    c     d",
    " \n a \t b\n\n c\n \n\t\t\n",
    "\ta\t\tb\t \tc \t d",
    "line\nline\n\nline\n\n\nline\r\nline\r\n\r\nline\rline",
    "a\u00a0b\u00a0\u00a0c a\u2003b\u2009c\u202fd\u3000e\u3000\u3000f",
    "a\u1680b a\u205fb \u180e a\u180eb",
    "a\x85b a\u2028b a\u2029b a\x1cb a\x1d\x1e\x1fb a\x0bb a\x0cb \ufeffa\ufeff",
    "".join(map(chr, range(32))) + "\x7f" + "".join(map(chr, range(0x80, 0xA1))),
    "NUL \0 in the middle \0\0",
    "\ufffd \ufffe \uffff \ufdd0 \ue000 \uf8ff",
    *(run * n for run in (" ", "\n", "\t") for n in (2, 3, 7, 16, 30, 31, 32, 33, 63, 100)),
    *("a" + " " * n + "b" for n in (2, 3, 4, 5, 31, 32, 33)),
    "=" * 80 + "\n" + "-" * 40 + "\n" + "*" * 10 + "\n" + "." * 3 + "_" * 20,
    "a" * 100,
    "supercalifragilisticexpialidocious antidisestablishmentarianism Donaudampfschifffahrt",
]
HAND_PICKED = PROSE + EMOJI + MARKS + NUMBERS + CODE + SPACES
HAND_PICKED += [f" {text}" for text in PROSE + NUMBERS if text]

WHITE = "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u180e\u2028\u2029\u202f\u205f\u2060\u3000"
WHITE += "\ufeff" + "".join(map(chr, range(0x2000, 0x200C)))
CONTROLS = "".join(map(chr, [*range(0x20), *range(0x7F, 0xA0)])) + "\u200c\u200d\u200e\u202a\u2066"
NUMERALS = "½¼¾²³¹⁰₂⅓⅞↉Ⅷⅰↀ①⒈㈠㊿〇〡٣۵९๙௰༪፩ᛮ𐄇𝟘𝟿０９🄋一𒐕"
PIECES = [
    *" .,;:!?'\"-_()[]{}<>/\\|@#$%^&*+=~`",
    *"'s 't 're 've 'm 'll 'd 'S 'T ’s".split(),
    *"the of and to in cat Dog HTML é ß ñ я ы ع ש क ก 中 国 の ア 한 글 ½ Ⅷ ² _ 1 23 456".split(),
    *("  ", "   ", "\n", "\n\n", "\t", "\r\n", " \n", "\u3000", "\u00a0"),
    *("\u0301", "\u200d", "\ufe0f", "😀", "👍🏽", "🇫🇷"),
]
JOINED = [
    *"👨 👩 🧑 👧 👦 ❤ 🔥 💻 🚀 🏳 🏴 🌈 ☠ 🐻 ❄ 1 # 😀 🫠 a".split(),
    *("\u200d", "\ufe0f", "\ufe0e", "\u20e3", " ", *map(chr, range(0x1F3FB, 0x1F400))),
    *map(chr, range(0x1F1E6, 0x1F200, 5)),
    *map(chr, (0xE0067, 0xE0062, 0xE007F)),
]
PARTS = ["<|endoftext|>", "<|endoftext", "<|", "|>", "endoftext", "<", "|", ">", "\n", "a", "é"]
RUNS = [*"aeh 0!=.\n\t-_é中😀½\u0301\u3000\x85", "ha", "ab ", "\r\n", "12", " a", "\u200d"]
# Where any_plane looks: 256 code points from each, so that small scripts count as much as large.
BLOCKS = [
    *(*range(0, 0x3400, 0x80), 0xA000, 0xA980, 0xAC00, 0xF900, 0xFB00, 0xFE00, 0xFF00),
    *(*range(0x10000, 0x11000, 0x100), 0x12000, 0x13000, 0x16E00, 0x1B000, 0x1D400),
    *(0x1E900, 0x1F000, 0x1F300, 0x1F600, 0x1F900, 0x20000, 0x2A700, 0x30000),
    *(0x4E00, 0x6000, 0xE000, 0xE0000, 0xF0000, 0xFFF00, 0x100000, 0x10FF00),
    *(plane + last for plane in range(0x40000, 0xE0000, 0x10000) for last in (0, 0xFF00)),
]


def stable(code: int) -> bool:
    """Whether a code point can be written and its category won't change: not a surrogate, not
    one that a later version of Unicode is likely to assign."""
    is_noncharacter = code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF
    is_kept_empty = 0x40000 <= code < 0xE0000  # ten planes that nobody has a plan for
    return is_noncharacter or is_kept_empty or unicodedata.category(chr(code)) not in ("Cs", "Cn")


def any_plane(random_: random.Random) -> str:
    """A character from anywhere in Unicode, its planes and its scripts about equally likely."""
    while True:
        code = random_.choice(BLOCKS) + random_.randrange(0x100)
        if code <= 0x10FFFF and stable(code):
            return chr(code)


def random_strings(n: int, seed: int) -> Iterator[str]:
    """Yield n strings of several kinds, the same ones for the same seed and Unicode version.

    The kinds take turns: characters of any plane, accented letters, white space, controls,
    numerals, combining marks, emoji sequences, words and punctuation, plain English letters,
    long runs, and `<|endoftext|>`, whole or in parts.
    """
    random_ = random.Random(seed)
    letters = "aAzé中я क"

    def mixed(alphabet: str | list[str], least: int, most: int) -> str:
        return "".join(random_.choices(alphabet, k=random_.randint(least, most)))

    accented, marks = (list(map(chr, codes)) for codes in (range(0x250), range(0x300, 0x370)))
    kinds: list[Callable[[], str]] = [
        lambda: "".join(any_plane(random_) for _ in range(random_.randint(1, 8))),
        lambda: mixed(accented, 1, 16),
        lambda: mixed(WHITE, 1, 5) + mixed(letters, 0, 2) + mixed(WHITE + letters, 0, 6),
        lambda: mixed(CONTROLS + letters, 1, 10),
        lambda: mixed(NUMERALS + " a1_.", 1, 10),
        lambda: mixed([*marks, *letters], 1, 8),
        lambda: mixed(JOINED, 1, 10),
        lambda: mixed(PIECES, 1, 12),
        lambda: mixed(PIECES, 1, 12),
        lambda: mixed("etaoinshrdlu ETAOIN  ,.'\n0123456789", 1, 40),
        lambda: mixed("etaoinshrdlu", 10, 100),
        lambda: "".join(random_.choice(RUNS) * random_.randint(1, 40) for _ in range(3)),
        lambda: mixed(PARTS + PIECES[:4], 1, 6),
    ]
    for i in range(n):
        yield kinds[i % len(kinds)]()


# What Gemma's tokenizer treats in a way of its own: spaces, typed or marked, and its set pieces.
GEMMA_SHORT = [*"▁ <>/\n\t[]_.(#=-1", "▁▁", "  ", "</", "> </", ">▁</", "<unused", "table"]
GEMMA_SHORT += ["a", "the", "b", "é", "🦔", "unused", "multimodal", "0x41"]
GEMMA_PIECES = """<pad> <eos> <bos> <unk> <mask> [multimodal] <start_of_turn> <end_of_turn>
    <start_of_image> <end_of_image> <image_soft_token> <unused0> <unused07> <unused99>
    <unused6241> <unused6242> <0x0A> <0xF0> <table> </table> <h1> <h7> <b> <p> <é> <b/> <B>
    </mask> <blockquote> </s> <s> <html> <bbox> <div>""".split()
GEMMA_RUNS = [1, 1, 2, 3, 29, 30, 31, 32, 33, 62, 63]


def gemma_strings(n: int, seed: int) -> Iterator[str]:
    """Yield n strings of Gemma's set pieces, whole or in parts, and of spaces and their mark."""
    random_ = random.Random(seed)

    def run() -> str:
        return random_.choice("▁ ▁ \n\t") * random_.choice(GEMMA_RUNS)

    for i in range(n):
        if i % 3 == 0:
            parts = random_.choices(GEMMA_SHORT + GEMMA_PIECES, k=random_.randint(1, 12))
        elif i % 3 == 1:
            parts = random_.choices("▁ <>/\na\tb", k=random_.randint(1, 20))
        else:
            ends = random_.choices(["", *GEMMA_SHORT], k=random_.randint(1, 4))
            parts = [run() + end for end in ends]
        yield "".join(parts)
