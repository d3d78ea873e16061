"""What the build leaves out of pages and styles, and what it must not."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from tiny_models import lean


def test_scripts_are_left_out_by_name():
    html = '<script defer src="../_static/a.js?v=1"></script><script src="b.js"></script>'
    assert lean.without_scripts(html, "a") == '<script src="b.js"></script>'
    assert lean.without_scripts(html, "static", "c") == html


@pytest.mark.parametrize(
    "css, slim",
    [
        (".a,.b{x:y}.b .a{x:y}", ".a{x:y}"),
        ("@media print{.b{x:y}}p{x:y}", "p{x:y}"),
        ("@media print{.a{x:y}.b{x:y}}", "@media print{.a{x:y}}"),
        (".a:not(.b){x:y}", ".a:not(.b){x:y}"),
        (":is(.b,.a) p{x:y}", ":is(.b,.a) p{x:y}"),
        ("@keyframes k{0%{x:y}to{x:z}}", "@keyframes k{0%{x:y}to{x:z}}"),
        (".bs-tooltip-top{x:y}", ".bs-tooltip-top{x:y}"),
        ("@font-face{font-family:Font Awesome\\ 6 Free;src:url(f)}p{x:y}", "p{x:y}"),
        ("/* a,b */.b{x:y}p{x:1.5em}", "/* a,b */p{x:1.5em}"),
    ],
)
def test_rules_for_classes_that_are_not_used_are_left_out(css, slim):
    assert lean.slim_css(css, {"a"}) == slim


def test_names_of_classes_are_those_of_pages_and_scripts(tmp_path):
    (tmp_path / "page.html").write_text('<p class="one two" id="three">four</p>')
    script = tmp_path / "code.js"
    script.write_text('element.classList.add("five-six")')
    (tmp_path / "other.js").write_text("seven")
    used = lean.used_names(tmp_path, [script])
    assert {"one", "two", "five-six"} <= used and not {"three", "four", "seven"} & used


def test_a_figure_is_shorter_and_keeps_what_shows():
    fig, ax = plt.subplots()
    ax.plot([1, 2, 3], [3, 1, 2], color="#123456")
    ax.imshow(np.arange(16).reshape(4, 4))
    buffer = io.StringIO()
    fig.savefig(buffer, format="svg", transparent=True)
    plt.close(fig)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    slim = lean.slim_svg(svg)
    assert len(slim) < 0.8 * len(svg)
    assert "<metadata>" not in slim and "Matplotlib" not in slim
    assert slim.count("<use") == svg.count("<use") and slim.count("#123456") == 1


@pytest.mark.parametrize(
    "path, slim",
    [
        ("M 1.23456 -0.001 \nL 12.999999 1234567.891 \nz\n", "M1.23 -0L13 1234567.89z"),
        ("M 1 2 Q 3 4 5 6", "M1 2Q3 4 5 6"),
    ],
)
def test_a_path_is_rounded_to_hundredths(path, slim):
    assert lean.slim_path(path) == slim


def test_other_drawings_stay_as_they_are():
    svg = '<svg viewBox="0 0 1 1"><path d="M 0.123456 0"/></svg>'
    assert lean.slim_svg(svg) == svg


def test_an_image_keeps_its_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 4), dtype=np.uint8)
    pixels[..., 3] |= 1  # what is wholly transparent has no colour to keep
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    slim = lean.slim_png(lean.b64encode(file.getvalue()).decode())
    again = np.asarray(Image.open(io.BytesIO(lean.b64decode(slim))).convert("RGBA"))
    assert (again == pixels).all()
