"""The calculator of chapters/calculator, compared with memembed.sizing."""

import ast
import itertools
import re
from types import SimpleNamespace

import keras
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from playwright.sync_api import expect

import memembed
from built import HTML
from memembed import sizing
from memembed.layers._common import INT32_IDS
from memembed.shapes import qr_shapes
from test_browser import violations

pytestmark = pytest.mark.book

PAGE = "chapters/calculator"
WHOLE = 100_000  # thousandths of a percent

# Fill the fields, as a reader would but all at once, and read the results.
FILL = """
setting => {
    const form = document.getElementById('calculator');
    for (const name in setting) form.elements[name].value = setting[name];
    form.dispatchEvent(new Event('input'));
    const data = [...form.querySelectorAll('data')].map(each => [each.id, each.value]);
    return {
        ...Object.fromEntries(data),
        python: document.getElementById('python').textContent,
        problems: [...form.querySelectorAll('.problem')].map(each => each.textContent),
    };
}
"""


@pytest.fixture
def fill(tab, visit):
    visit(PAGE)
    return lambda setting: SimpleNamespace(**tab.evaluate(FILL, setting))


def sizes(most):
    """Integers up to `most`, small ones as often as large ones."""
    limits = [limit for limit in (10, 300, 10**5, 10**8) if limit < most]
    return st.one_of(*(st.integers(1, limit) for limit in [*limits, most]))


@st.composite
def any_setting(draw):
    """A setting as a reader may enter it."""
    columns = draw(sizes(65_536))
    cuts = draw(st.sets(st.integers(1, WHOLE - 1), max_size=3))
    ends = [*sorted(cuts), WHOLE]
    shares = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    widths = [draw(st.integers(1, columns)) for _ in shares]
    combiners = ["multiply", "add"] + ["concatenate"] * (columns % 2 == 0)
    return {
        "tables": " ".join(
            map(str, draw(st.lists(sizes(10**12), min_size=1, max_size=4)))
        ),
        "columns": str(columns),
        "method": draw(st.sampled_from(["plain", "hashing", "qr", "md", "bits"])),
        "share": str(draw(sizes(10**12))),
        "buckets": draw(st.just("") | sizes(10**12).map(str)),
        "combiner": draw(st.sampled_from(combiners)),
        "blocks": " ".join(
            f"{share // 1000}.{share % 1000:03}:{width}"
            for share, width in zip(shares, widths, strict=True)
        ),
        "bits": str(draw(st.integers(1, 8))),
        "dtype": draw(st.sampled_from(list(sizing.BITS))),
        "optimizer": draw(st.sampled_from(list(sizing.OPTIMIZER_SLOTS))),
        "bandwidth": str(draw(st.sampled_from([0.5, 25.6, 3350]))),
    }


def layer_arguments(setting, ids):
    """The name and the arguments of the layer that a setting asks for."""
    columns = int(setting["columns"])
    dtype = {"dtype": setting["dtype"]} if "float16" in setting["dtype"] else {}
    if setting["method"] == "plain":
        return "Embedding", [ids, columns], dtype
    if setting["method"] == "hashing":
        buckets = -(-ids // int(setting["share"]))
        return "HashEmbedding", [ids, columns, buckets], dtype
    if setting["method"] == "qr":
        given = {}
        if setting["buckets"]:
            given["num_buckets"] = int(setting["buckets"])
        if setting["combiner"] != "multiply":
            given["combiner"] = setting["combiner"]
        return "QREmbedding", [ids, columns], given | dtype
    if setting["method"] == "bits":
        return "LowBitEmbedding", [ids, columns], {"bits": int(setting["bits"])}
    blocks = [each.split(":") for each in setting["blocks"].split()]
    share, ends = 0, [0]
    for percent, _ in blocks:
        share += int(percent.replace(".", ""))
        ends.append(ids * share // WHOLE)
    sizes = [end - start for start, end in itertools.pairwise(ends)]
    return "MDEmbedding", [sizes, [int(width) for _, width in blocks], columns], dtype


def problem(method, layers):
    """Part of the message if the layers cannot be made, else None."""
    if method == "md" and any(0 in args[0] for _, args, _ in layers):
        return "would be empty"
    for _, (ids, columns), bits in layers if method == "bits" else ():
        codes = sizing.code_bytes(ids, [bits["bits"]] * columns)
        if ids <= INT32_IDS < codes:
            return "must take at most 2,147,483,648 bytes"
    return None


def stored_and_trained(name, args, kwargs, dtype):
    """A layer's bytes by memembed.sizing, and the shapes of its trained weights."""
    kwargs = {key: kwargs[key] for key in kwargs if key != "dtype"}
    if name == "Embedding":
        return sizing.plain_bytes(*args, dtype), [args]
    if name == "HashEmbedding":
        _, columns, buckets = args
        return sizing.plain_bytes(buckets, columns, dtype), [(buckets, columns)]
    if name == "QREmbedding":
        shapes = qr_shapes(
            *args, kwargs.get("num_buckets"), kwargs.get("combiner", "multiply")
        )
        return sizing.qr_bytes(*args, **kwargs, dtype=dtype), shapes
    if name == "LowBitEmbedding":
        return sizing.low_bit_bytes(*args, **kwargs), [args, *[(1, args[1])] * 2]
    rows, widths, columns = args
    shapes = list(zip(rows, widths, strict=True))
    shapes += [(width, columns) for width in widths if width < columns]
    return sizing.md_bytes(*args, dtype=dtype), shapes


def calls(python):
    """The layers in lines of Python: their names and arguments."""
    for node in ast.parse(python).body:
        if isinstance(node, ast.Expr) and "Embedding" in ast.unparse(node.value.func):
            yield (
                ast.unparse(node.value.func).rpartition(".")[2],
                [ast.literal_eval(each) for each in node.value.args],
                {
                    each.arg: ast.literal_eval(each.value)
                    for each in node.value.keywords
                },
            )


def test_counts_as_memembed_sizing_does(fill):
    seen = set()

    @settings(max_examples=400)
    @given(any_setting())
    def compare(setting):
        tables = [int(ids) for ids in setting["tables"].split()]
        layers = [layer_arguments(setting, ids) for ids in tables]
        shown = fill(setting)
        expected = problem(setting["method"], layers)
        if expected:
            assert expected in "".join(shown.problems)
            return
        assert "".join(shown.problems) == ""
        assert list(calls(shown.python)) == layers

        columns = int(setting["columns"])
        full = [("Embedding", [ids, columns], {}) for ids in tables]
        for whose, made, dtype in [
            ("full", full, "float32"),
            ("yours", layers, setting["dtype"]),
        ]:
            counted = [stored_and_trained(*layer, dtype) for layer in made]
            stored = sum(each for each, _ in counted)
            shapes = [shape for _, shapes in counted for shape in shapes]
            training = sizing.training_bytes(shapes, setting["optimizer"])
            assert int(getattr(shown, f"{whose}-stored")) == stored
            assert int(getattr(shown, f"{whose}-training")) == training["total"]
            seconds = float(getattr(shown, f"{whose}-reading"))
            bandwidth = float(setting["bandwidth"])
            assert seconds == pytest.approx(stored / (bandwidth * 1e9), rel=1e-9)
        seen.add((setting["method"], setting["dtype"], setting["optimizer"]))

    compare()
    assert len({method for method, _, _ in seen}) == 5
    assert len(seen) > 50


def test_offers_all_that_memembed_sizing_counts(tab, visit):
    visit(PAGE)
    values = "select => [...select.options].map(each => each.value)"
    assert tab.locator("#dtype").evaluate(values) == list(sizing.BITS)
    assert tab.locator("#optimizer").evaluate(values) == list(sizing.OPTIMIZER_SLOTS)


@pytest.mark.parametrize("method", ["plain", "hashing", "qr", "md", "bits"])
def test_the_line_of_python_makes_the_layer(method, fill):
    setting = {"tables": "300 70", "columns": "8", "share": "3", "blocks": "10:8 90:2"}
    shown = fill({**setting, "method": method, "optimizer": "adafactor"})
    names = {"keras": keras, "memembed": memembed, **vars(memembed)}
    layers = []
    for line in shown.python.splitlines():
        if "Embedding(" in line:
            layers.append(eval(line, names))
            layers[-1].build(None)
    shapes = [weight.shape for each in layers for weight in each.trainable_weights]
    training = sizing.training_bytes(shapes, "adafactor")["total"]
    assert int(getattr(shown, "yours-training")) == training
    stored = [each.pack() if method == "bits" else each for each in layers]
    arrays = [array for each in stored for array in each.get_weights()]
    assert int(getattr(shown, "yours-stored")) == sum(each.nbytes for each in arrays)


@pytest.mark.parametrize(
    ("method", "field", "text", "answer"),
    [
        ("plain", "tables", " ", "There must be 1 to 100 tables. Received: nothing"),
        ("plain", "tables", "9 " * 101, "1 to 100 tables. Received: 101"),
        ("plain", "tables", "-5", "positive whole number. Received: -5"),
        ("plain", "tables", "6040,3706", "Received: 6040,3706"),
        ("plain", "tables", "users", "Received: users"),
        ("plain", "tables", "1e-3", "Received: 1e-3"),
        ("plain", "tables", "1e13", "at most 1,000,000,000,000. Received: 1e13"),
        ("plain", "tables", "9" * 40, "at most 1,000,000,000,000. Received: 999"),
        ("plain", "columns", "", "Columns must be a positive whole number."),
        ("plain", "columns", "0", "Received: 0"),
        ("plain", "columns", "8.5", "Received: 8.5"),
        ("plain", "columns", "65537", "at most 65,536"),
        ("plain", "bandwidth", "fast", "a positive number, at most 1,000,000."),
        ("plain", "bandwidth", "-1", "Received: -1"),
        ("plain", "bandwidth", "0", "Received: 0"),
        ("hashing", "share", "<b>2</b>", "Received: <b>2</b>"),
        ("qr", "buckets", "-1", "Buckets must be a positive whole number."),
        ("md", "blocks", "", "The percentages must sum to 100. Received: 0"),
        ("md", "blocks", "10:64 80:4", "must sum to 100. Received: 90"),
        ("md", "blocks", "100:65", "wider than the 64 columns above. Received: 65"),
        ("md", "blocks", "half:4", "such as 10:64. Received: half:4"),
        ("md", "blocks", "0:8 100:4", "Block 1 of a table of 6040 ids would be empty."),
    ],
)
def test_bad_input_is_reported_at_its_field(
    method, field, text, answer, tab, visit, problems
):
    visit(PAGE)
    tab.select_option("#method", method)
    place = tab.locator(f"#{field}")
    before = place.input_value()
    place.fill(text)
    expect(place).to_have_attribute("aria-invalid", "true")
    expect(place).to_have_accessible_description(re.compile(re.escape(answer)))
    expect(tab.locator("#summary")).to_contain_text(answer)
    expect(tab.locator("#result")).to_be_hidden()
    place.fill(before)
    expect(place).to_have_attribute("aria-invalid", "false")
    expect(tab.locator("#result")).to_be_visible()
    assert problems == []


def test_a_number_can_be_written_in_several_ways(fill):
    written = fill({"tables": "1e9 2E3 1,000,000 50_000", "columns": "64"})
    plain = fill({"tables": "1000000000 2000 1000000 50000", "columns": "64"})
    assert written == plain
    assert "".join(plain.problems) == ""


def test_incompatible_choices_are_reported_at_their_field(tab, visit):
    visit(PAGE)
    tab.fill("#columns", "7")
    tab.select_option("#combiner", "concatenate")
    expect(tab.locator("#combiner-problem")).to_contain_text(
        "an even number of columns"
    )
    tab.select_option("#method", "bits")
    expect(tab.locator("#summary")).to_contain_text("Your tables take")
    tab.fill("#tables", "1,000,000,000")
    expect(tab.locator("#bits-problem")).to_contain_text("at most 2,147,483,648 bytes")


SETTING = {
    "Vocabulary size of each table": "1,000,000 50_000",
    "Columns": "32",
    "Blocks": "1:32 99:4",
    "Bandwidth, in GB per second": "100",
}


def test_a_setting_is_shared_by_the_address(tab, browser, visit):
    visit(PAGE)
    tab.get_by_label("Method").select_option("md")
    tab.get_by_label("Number type, stored").select_option("int8")
    for label, text in SETTING.items():
        tab.get_by_label(label, exact=True).fill(text)
    summary = tab.locator("#summary").text_content()
    assert "Your tables take" in summary

    context = browser.new_context()
    other = context.new_page()
    other.goto(tab.url)
    for label, text in SETTING.items():
        expect(other.get_by_label(label, exact=True)).to_have_value(text)
    expect(other.locator("#summary")).to_have_text(summary)
    expect(other.locator("#python")).to_contain_text(
        "MDEmbedding([10000, 990000], [32, 4], 32)"
    )
    context.close()

    # Change the address by hand, then go back.
    tab.evaluate("location.hash = '#method=bits&bits=1&columns=8&tables=80'")
    expect(tab.locator("#yours-stored")).to_have_text("144 bytes")
    tab.go_back()
    expect(tab.locator("#summary")).to_have_text(summary)


def test_a_broken_address_is_reported(tab, visit, address, problems):
    tab.goto(f"{address}/{PAGE}.html#method=magic&dtype=&columns=-3&who=%F0%9F&x=<b>")
    expect(tab.locator("#method")).to_have_value("qr")
    expect(tab.locator("#columns-problem")).to_contain_text("Received: -3")
    assert problems == []


def test_works_from_a_file(tab, problems):
    tab.goto((HTML / f"{PAGE}.html").as_uri())
    tab.get_by_label("Columns").fill("16")
    expect(tab.locator("#python")).to_contain_text("QREmbedding(6040, 16)")
    assert "columns=16" in tab.url
    assert [each for each in problems if not each.startswith("elsewhere: file:")] == []


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("columns", ["64", "none"])
def test_axe_finds_nothing_serious_for_any_method(theme, columns, tab, visit):
    tab.emulate_media(color_scheme=theme)
    visit(PAGE)
    for method in tab.locator("#method option").all():
        tab.select_option("#method", method.get_attribute("value"))
        tab.fill("#columns", columns)
        assert violations(tab, "article") == []


def test_keyboard_alone_fills_it_in(tab, visit):
    visit(PAGE)
    tab.locator("#tables").focus()
    for keys in ["500", "Tab", "12", "Tab", "few", "Tab", "8", "Tab", "SGD"]:
        if keys == "Tab":
            tab.keyboard.press("Tab")
        else:
            tab.keyboard.press("Control+A")
            tab.keyboard.type(keys)
    expect(tab.locator("#python")).to_contain_text("LowBitEmbedding(500, 12, bits=8)")
    expect(tab.locator("#optimizer")).to_have_value("sgd")
