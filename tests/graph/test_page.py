"""The page that steps through the two passes: in a real browser, and, where none is installed, as text."""

import functools
import json
import re
import shutil

import jax
import jax.numpy as jnp
import pytest

from overbar import make_graph
from overbar.graph.arrays import MAP_COLUMNS, MAP_ROWS, array
from overbar.graph.picture import picture
from overbar.graph.text import number

from .models import graph_of

pytestmark = pytest.mark.usefixtures("permissive")

HOSTILE = "</script><img src=x onerror=alert(1)>"


def odd(p, x, key, n, z):
    """Every dtype and shape that displays differently, a name that is markup, and NaN."""
    e = jnp.zeros((0, 3))
    b = jnp.log(x + jax.random.normal(key, x.shape))
    c = jnp.where(n > 1, b, 0.0)
    u = jnp.real(z * jnp.conj(z)).sum()
    v = jnp.sum(p[HOSTILE].astype(jnp.float32)) + jnp.sum(e)
    größe = jnp.sum(c) + u + v
    return größe


@functools.cache
def odd_graph():
    p = {HOSTILE: jnp.linspace(-1, 1, 40).astype(jnp.bfloat16)}
    x = jnp.linspace(-1, 1, 600).reshape(2, 10, 30)
    return make_graph(odd)(p, x, jax.random.key(0), jnp.arange(30), jnp.array([1 + 2j, 3j]))


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


# ---------------------------------------------------------------------- without a browser


def test_the_page_is_self_contained_and_names_are_no_markup():
    page = odd_graph().page()
    assert set(re.findall(r"https?://[^\s\"'`;)]+", page)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<(link|script|img)[^>]*\s(src|href)=\"(?!data:)", page)
    assert "@import" not in page
    assert "url(" not in page
    assert HOSTILE not in page
    assert page.count("</script>") == 2
    assert "{{" not in page
    assert any(HOSTILE in box["name"] for box in data_of(page)["boxes"])


def test_values_bars_and_messages_are_the_graphs():
    graph = graph_of("lecture")
    drawn = picture(graph, arrays=True)
    boxes = {box.id: box for box in drawn.boxes}
    for node, box in zip(graph.order, drawn.boxes, strict=True):
        assert box.values[0].number == number(node.value)
        assert box.bars[0].number == number(node.bar)
        sent = [edge.value.number for edge in drawn.edges if boxes[edge.source] is box]
        assert sorted(sent) == sorted(number(message.value) for message in node.messages)
    assert [box.name for box in drawn.boxes if box.given] == ["L_reg"]


def test_an_array_is_a_table_or_a_coarse_map():
    small = array(jnp.array([[1.0, -2.0], [jnp.nan, jnp.inf]]))
    assert small.rows == (("1", "-2"), ("nan", "inf"))
    assert small.cells == ((0.5, -1.0), (None, 2.0))
    assert small.note == "1 of 4 entries NaN; 1 of 4 entries infinite"
    wide = jnp.zeros((100, 200)).at[57, 120].set(-3.0).at[57, 121].set(1.0)
    large = array(wide)
    assert large.rows == ()
    assert (len(large.cells), len(large.cells[0])) == (MAP_ROWS, MAP_COLUMNS)
    assert [c for row in large.cells for c in row if c] == [-1.0]
    assert (large.norm, large.least, large.most) == (number(10**0.5), "-3", "1")
    vector = array(jnp.arange(1.0, 101.0))
    assert [c for row in vector.cells for c in row][:100] == [round(i / 100, 2) for i in range(1, 101)]
    assert array(jnp.zeros((0, 3))).note == "no entries"
    assert array(jnp.array(2 - 1j)).number == "2-1j"
    assert array(jnp.array([3 + 4j])).norm == "5"
    assert array(jnp.bfloat16(0.5)).type == "bfloat16[]"
    assert array(jax.random.key(7)).note == "key data 0 7"
    assert array(jnp.array([True, False])).rows == (("True", "False"),)


def test_what_opens_holds_its_own_picture():
    graph = graph_of("calls")
    (y,) = [box for box in picture(graph, arrays=True).boxes if box.inner]
    ((name, inner),) = y.inner
    assert name == "inner"
    assert inner.boxes[-1].bars == y.bars
    assert inner.boxes[-1].values == y.values
    scan = next(box for box in picture(graph_of("recurrent"), arrays=True).boxes if box.inner)
    assert scan.inner[0][0] == "step, 3 times"
    ids = re.findall(r'"id": "([^"]+)"', graph.page())
    assert len(ids) == len(set(ids))


def test_the_page_says_what_it_folded_and_why_there_are_no_bars():
    def f(x, w):
        for _ in range(300):
            x = jnp.sin(x) + w
        return x

    graph = make_graph(f, level="operation")(1.0, 0.5)
    data = data_of(graph.page(most=20))
    assert len(data["boxes"]) == 20
    assert "583 of 602 nodes are folded" in data["notes"][0]
    folded = [edge for edge in data["edges"] if edge["uses"] > 1]
    assert sum(edge["uses"] for edge in folded) > 250
    assert "No values" in data_of(make_graph(f)(jax.ShapeDtypeStruct((), "float32"), 0.5).page())["notes"][0]
    vector = make_graph(jnp.sin)(jnp.ones(3))
    assert "no float number" in data_of(vector.page())["notes"][0]
    vector.backprop(jnp.ones(3))
    assert "notes" not in data_of(vector.page())
    loop = make_graph(lambda x: jax.lax.while_loop(lambda c: c < 9, lambda c: 2 * c, x))(1.0)
    assert "no derivative in reverse" in data_of(loop.page())["notes"][0]


# ---------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver")
    binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("no chromium with chromedriver is installed: the page is not tested in a browser")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (
        "headless=new no-sandbox disable-gpu disable-quic no-first-run disable-background-networking "
        "disable-component-update disable-sync disable-dev-shm-usage "
        f"user-data-dir={tmp_path_factory.mktemp('profile')}"
    ).split():
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield driver
    driver.quit()


@pytest.fixture
def visit(browser, tmp_path):
    """Opens a graph's page; afterwards the console must be empty and nothing fetched."""

    def opened(graph, width=1280, scheme="light", **media):
        graph.save(tmp_path / "page.html")
        look(browser, width, scheme, **media)
        browser.get((tmp_path / "page.html").as_uri())
        return browser

    yield opened
    assert browser.get_log("browser") == []
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0


def look(browser, width, scheme="light", media=""):
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [
        {"name": "prefers-color-scheme", "value": scheme},
        {"name": "prefers-reduced-motion", "value": "reduce"},
    ]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})


def css(browser, selector):
    return browser.find_element("css selector", selector)


def seen(browser):
    """The progress, the step's node, its equation, the numbers of its messages, and its value or bar."""
    return browser.execute_script("""
      const texts = (s) => [...document.querySelectorAll(s)].map((e) => e.firstChild.textContent);
      return [
        document.getElementById("progress").textContent,
        document.querySelector("[aria-current]").querySelector("b").textContent,
        document.querySelector("#detail .equation").textContent,
        texts("#detail .messages .number"),
        texts("#detail .piece > .number"),
      ];
    """)


def expected(graph):
    """The same, by the graph."""
    steps = []
    for i, node in enumerate(graph.order, start=1):
        made = f" = {picture(graph, arrays=True).boxes[i - 1].made}" if node.operation else ""
        progress = f"Forward, {i} of {len(graph)}"
        steps.append([progress, node.symbol, node.symbol + made, [], [number(node.value)]])
    barred = list(reversed([box for box in picture(graph, arrays=True).boxes if box.gets_bar]))
    for i, box in enumerate(barred, start=1):
        node = graph[box.name]
        arriving = [number(bar) for output, bar in graph.seeds if output is node]
        order = {(child, argument): k for k, child in enumerate(graph.order) for argument in range(9)}
        sent = sorted(node.messages, key=lambda m: (order[m.source, m.argument], m.argument))
        arriving += [number(message.value) for message in sent]
        equation = f"{box.bar_name} = {node.equation}"
        steps.append([f"Backward, {i} of {len(barred)}", node.symbol, equation, arriving, [number(node.bar)]])
    return steps


def test_every_step_shows_the_graphs_numbers_there_and_back(visit):
    from selenium.webdriver.common.keys import Keys

    browser = visit(graph_of("lecture"))
    steps = expected(graph_of("lecture"))
    for step in steps[:-1]:
        assert seen(browser) == step
        css(browser, "#next").click()
    assert seen(browser) == steps[-1]
    css(browser, "#next").click()  # stays there
    body = css(browser, "body")
    for step in steps[:0:-1]:
        assert seen(browser) == step
        body.send_keys(Keys.ARROW_LEFT)
    assert seen(browser) == steps[0]
    body.send_keys(Keys.ARROW_RIGHT)
    assert seen(browser) == steps[1]
    assert css(browser, "#status").get_attribute("textContent").startswith(steps[1][0])
    body.send_keys(Keys.END)
    assert seen(browser) == steps[-1]
    css(browser, "#back").click()
    assert seen(browser) == steps[-2]
    body.send_keys(Keys.HOME)
    assert seen(browser) == steps[0]
    body.send_keys(Keys.END, Keys.SPACE)  # plays, from the start
    assert css(browser, "#play").text == "Pause"
    assert seen(browser)[0] in [step[0] for step in steps[:9]]
    body.send_keys(Keys.SPACE)
    assert css(browser, "#play").text == "Play"


@pytest.mark.parametrize("name", ["square", "fan_out"])
def test_a_node_used_twice_gathers_two_messages(visit, name):
    browser = visit(graph_of(name))
    steps = expected(graph_of(name))
    for step in steps:
        assert seen(browser) == step
        css(browser, "#next").click()
    assert max(len(step[3]) for step in steps) == {"square": 2, "fan_out": 3}[name]


FLAWS = """
  const flaws = [];
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const ground = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const found = rgb(getComputedStyle(e).backgroundColor);
      if (found.length === 3 || found[3] === 1) return found;
      if (found[3] > 0) flaws.push(`translucent behind ${element.textContent}`);
    }
  };
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > width) flaws.push("the page");
  for (const e of document.querySelectorAll("body *")) {
    const style = getComputedStyle(e);
    const box = e.getBoundingClientRect();
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!box.width || style.visibility === "hidden" || e.closest(".unseen, script")) continue;
    const said = e.textContent.slice(0, 40);
    if (box.right > width + 0.5 || box.left < -0.5) flaws.push(`${e.tagName} ${said} ends at ${box.right}`);
    if (!own) continue;
    if (parseFloat(style.fontSize) < 12) flaws.push(`${said}: ${style.fontSize}`);
    const inBadge = e.closest(".badge");
    const [text, back] = inBadge
      ? [rgb(style.fill), rgb(getComputedStyle(inBadge.querySelector("rect")).fill)]
      : [rgb(style.color), ground(e)];
    const [a, b] = [light(text), light(back)].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < 4.5) flaws.push(`${said}: contrast ${contrast}`);
    if (!inBadge && e.scrollWidth > e.clientWidth + 1 && e.clientWidth) flaws.push(`${said} is cut`);
  }
  return flaws;
"""


@pytest.mark.parametrize("name", ["deep", "odd"])
def test_it_fits_and_is_legible_at_every_width_in_dark_and_light(visit, name):
    from selenium.webdriver.common.keys import Keys

    graph = odd_graph() if name == "odd" else graph_of(name)
    browser = visit(graph)
    body = css(browser, "body")
    slider = css(browser, "#slider")
    steps = int(slider.get_attribute("max"))
    for width in (360, 768, 1280):
        look(browser, width, "light")
        for fraction in (0.4, 0.8):
            body.send_keys(Keys.HOME)
            browser.execute_script(
                "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))",
                slider,
                round(steps * fraction),
            )
            for scheme in ("light", "dark"):
                look(browser, width, scheme)
                assert browser.execute_script(FLAWS) == [], (width, scheme, fraction)
    grounds = set()
    for _ in range(3):
        grounds.add(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
        css(browser, "#theme").click()
    assert len(grounds) == 2


def test_without_colour_the_sign_is_a_pattern_and_a_letter(visit):
    from selenium.webdriver.common.keys import Keys

    browser = visit(graph_of("lecture"))
    css(browser, "body").send_keys(Keys.END)
    bars = browser.execute_script("""
      return [...document.querySelectorAll(".chip")].map((chip) => {
        const fill = chip.querySelector(".meter i");
        return [chip.querySelector(".bar").textContent, getComputedStyle(fill).backgroundImage !== "none"];
      });
    """)
    signs = {text.split()[-1].startswith("-"): hatched for text, hatched in bars}
    assert signs == {True: True, False: False}
    look(browser, 800, media="print")
    assert not css(browser, "nav").is_displayed()
    assert css(browser, "#columns").is_displayed()


def test_groups_and_loops_open_and_close(visit):
    from selenium.webdriver.common.keys import Keys

    browser = visit(graph_of("deep"))
    count = len(graph_of("deep"))
    assert css(browser, "#progress").text == f"Forward, 1 of {count}"
    inside = len(graph_of("deep").groups["layer"])
    opener = css(browser, ".opener")
    assert opener.get_attribute("aria-expanded") == "true"
    opener.send_keys(Keys.ENTER)
    opener = css(browser, ".opener")
    assert opener.get_attribute("aria-expanded") == "false"
    assert browser.execute_script("return document.activeElement === arguments[0]", opener)
    assert css(browser, "#progress").text.endswith(f" of {count - inside + 1}")
    assert len(browser.find_elements("css selector", ".chip")) == count - inside
    css(browser, "#last").click()
    while "here" not in css(browser, ".opener").get_attribute("class"):
        css(browser, "#back").click()
    assert "w̄" in css(browser, "#detail").text or "z̄" in css(browser, "#detail").text
    css(browser, ".opener").click()
    assert css(browser, "#progress").text.endswith(f" of {count}")

    browser = visit(graph_of("calls"))
    assert css(browser, ".opener").text == "▸ inner"
    css(browser, ".opener").click()
    (inner,) = graph_of("calls")["y"].inner.values()
    assert css(browser, "#progress").text == f"Forward, 1 of {len(graph_of('calls')) + len(inner)}"
    for _ in range(2):
        css(browser, "#next").click()
    assert "sin(x)" in css(browser, "#detail .equation").text


def test_markup_in_a_name_is_inert_and_every_value_displays(visit):
    from selenium.webdriver.common.keys import Keys

    browser = visit(odd_graph())
    assert browser.find_elements("css selector", "img") == []
    assert HOSTILE in css(browser, "#graph").text.replace("\n", " ")
    shown = []
    for _ in range(int(css(browser, "#slider").get_attribute("max"))):
        shown.append(css(browser, "#detail").get_attribute("textContent"))
        css(browser, "body").send_keys(Keys.ARROW_RIGHT)
    shown = "\n".join(shown)
    for text in ("bfloat16[40]", "key<fry>[]", "key data 0 0", "complex64[2]", "1+2j", "int32[30]"):
        assert text in shown
    for text in ("no entries", "entries NaN", "größe", "norm nan", "2 × 10 rows, one after another"):
        assert text in shown
