"""The kit for interactive pictures: from a chapter's call to the files and links of the page."""

import base64
import json
import re
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
from conftest import ROOT
from safetensors import safe_open
from safetensors.numpy import load

import playground
from tiny_models import pictures
from tiny_models.pictures import PlayError

PAGE = "src/a.py"
TEXT = 'a = 1\nb = x < "y" & z\na = 2\n'
TANGLED = {PAGE: SimpleNamespace(text=TEXT, page="src/a")}


@pytest.fixture
def shown(monkeypatch):
    """Everything that the kit displays."""
    displayed = []
    monkeypatch.setattr(playground, "display", lambda data, raw=False: displayed.append(data))
    monkeypatch.setattr(playground, "_digests", {})
    return displayed


def notebook(folder, shown, name="chapter"):
    """Write what was displayed as an executed notebook."""
    data = [item if isinstance(item, dict) else {"text/html": item.data} for item in shown]
    cell = nbformat.v4.new_code_cell("play()")
    cell.outputs = [nbformat.v4.new_output("display_data", item) for item in data]
    path = folder / f"{name}.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    return path


def test_the_build_knows_what_was_published():
    assert pictures.MIME == playground.MIME


def test_what_is_published_is_a_safetensors_file(shown, tmp_path):
    numbers = np.arange(6, dtype=np.float32).reshape(2, 3)
    playground.publish("data", {"n": numbers.T, "i": np.arange(3, dtype=np.uint8)}, words=["é"])
    [content] = [item[playground.MIME] for item in shown]
    data = base64.b64decode(content["base64"])
    tensors = load(data)
    assert tensors["n"].tolist() == numbers.T.tolist() and tensors["i"].dtype == np.uint8
    (tmp_path / "file").write_bytes(data)
    with safe_open(tmp_path / "file", "numpy") as file:
        assert json.loads(file.metadata()["about"]) == {"words": ["é"]}
        assert file.metadata()["digest"] == content["digest"]


@pytest.mark.parametrize("change", ["numbers", "facts"])
def test_other_data_has_another_digest(shown, change):
    playground.publish("data", {"n": np.zeros(2)}, fact=0)
    numbers = np.zeros(2) + (change == "numbers")
    playground.publish("data", {"n": numbers}, fact=int(change == "facts"))
    one, other = (item[playground.MIME]["digest"] for item in shown)
    assert one != other


def test_quantized_values_are_within_half_a_step():
    values = np.random.default_rng(0).normal(size=(5, 40))
    values[2] = 0
    integers, scale = playground.quantized(values)
    assert integers.dtype == np.int8 and np.abs(integers).max() == 127
    assert np.allclose(scale[:, 0] * 127, np.abs(values).max(axis=1))
    assert (np.abs(integers * scale - values) <= scale * 0.5001).all()


def test_a_picture_may_only_load_what_was_published_before(shown):
    with pytest.raises(KeyError, match="data"):
        playground.play("kind", "A picture", data=["data"])


def test_a_picture_gives_its_script_options_and_files(shown):
    playground.publish("data", {"n": np.zeros(2)})
    playground.play("kind", 'A "picture" <here>', data=["data"], words=["<é>", '"'])
    html = shown[1].data
    assert '<' not in re.search(r'data-options="([^"]*)"', html)[1].replace("&lt;", "")
    assert pictures.parts(html) == ["play", "play-kind"]
    assert "which is off here" in html


def test_a_page_without_pictures_needs_nothing():
    assert pictures.parts('<div class="played">data-kind="x"</div>') == []


def test_published_data_is_no_part_of_the_page(shown, tmp_path):
    playground.publish("data", {"n": np.zeros(2)})
    playground.play("kind", "A picture", data=["data"])
    outputs = nbformat.read(notebook(tmp_path, shown), 4).cells[0].outputs
    assert ["text/html" in output.data for output in pictures.drop_data(outputs)] == [True]


def test_data_is_written_as_bytes_and_as_a_script_and_old_files_go(shown, tmp_path):
    playground.publish("data", {"n": np.arange(3)})
    content = shown[0][playground.MIME]
    old = tmp_path / pictures.FOLDER / "data.0123456789ab.js"
    old.parent.mkdir()
    old.write_text("old")
    pictures.write_data([notebook(tmp_path, shown), tmp_path / "none.ipynb"], tmp_path)
    stem = f"data.{content['digest']}"
    files = {path.name: path.read_bytes() for path in old.parent.iterdir()}
    assert files.keys() == {f"{stem}.safetensors", f"{stem}.js"}
    assert load(files[f"{stem}.safetensors"])["n"].tolist() == [0, 1, 2]
    script = files[f"{stem}.js"].decode()
    name, text = re.fullmatch(r'play.receive\("(.+)", "(.+)"\);\n', script).groups()
    assert name == stem and base64.b64decode(text) == files[f"{stem}.safetensors"]


def picture(text, part="sum"):
    playground.play("kind", "A picture", lines={part: (PAGE, text)})


def test_a_line_is_found_by_its_text_and_finds_the_picture(shown, tmp_path):
    picture('b = x < "y" & z')
    path = notebook(tmp_path, shown)
    [found] = pictures.pictures({"book/c": path}, TANGLED)
    assert found == pictures.Picture("book/c", "A picture", "kind&part=sum", PAGE, 2)
    body = pictures.resolve(shown[0].data, "book/c", TANGLED, lambda page: f"../{page}.html")
    assert 'data-part="sum" data-line="2" href="../src/a.html#L2"' in body
    for spans, plays in (((1, 1),), []), (((1, 1), (2, 3)), [found]), (((3, 3),), []):
        fragment = SimpleNamespace(spans=spans)
        assert pictures.of_fragment([found], PAGE, fragment) == plays
    assert pictures.of_fragment([found], "src/b.py", SimpleNamespace(spans=((1, 9),))) == []


def test_without_javascript_a_picture_leads_to_the_figure_before_it(shown):
    picture('b = x < "y" & z')
    assert pictures.name_still(shown[0].data) == shown[0].data
    figures = [
        f'<figure class="align-default" id="fig-{n}"><img src="{n}.svg">\n<figcaption><p>'
        f'<span class="caption-number">Fig. {n} </span>About</p></figcaption></figure>'
        for n in (7, 8, 9)
    ]
    body = pictures.name_still(figures[0] + figures[1] + shown[0].data + figures[2])
    message = re.search('<p class="play-missing">(.*?)</p>', body)[1]
    assert "JavaScript, which is off here" in message
    assert '<a href="#fig-8">Fig. 8</a> above' in message


@pytest.mark.parametrize("text, found", [("a = ", 2), ("nothing like it", 0)])
def test_a_text_that_is_not_on_one_line_is_refused(shown, tmp_path, text, found):
    picture(text)
    for use in (
        lambda: list(pictures.pictures({"book/c": notebook(tmp_path, shown)}, TANGLED)),
        lambda: pictures.resolve(shown[0].data, "book/c", TANGLED, str),
    ):
        with pytest.raises(PlayError, match=f"book/c: .* {PAGE} with '{text}', but {found} lines"):
            use()


def test_a_file_that_no_chapter_makes_is_refused(shown, tmp_path):
    picture("a")
    with pytest.raises(PlayError, match=f"book/c: .* {PAGE}, which no chapter makes"):
        list(pictures.pictures({"book/c": notebook(tmp_path, shown)}, {}))


def test_the_still_picture_is_small_and_described():
    assert (ROOT / "book/_static/playground.png").stat().st_size <= 150_000
    readme = (ROOT / "README.md").read_text("utf-8")
    index = (ROOT / "book/index.md").read_text("utf-8")
    in_readme = re.search(r"!\[([^\]]+)\]\(book/_static/playground\.png\)", readme)
    in_index = re.search(r"\{image\} _static/playground\.png\n:alt: (.+)\n", index)
    assert len(in_readme[1]) > 80 and len(in_index[1]) > 80
