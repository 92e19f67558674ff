"""The page and the drawing in a real browser: Debian's Chromium without a screen, driven by selenium: `make browser`.

Each test opens a page from a file, does what a person does with pointer and keys, and looks at what is there, in the
DOM and on a screenshot; at its end the console has to be silent.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helios_shm.mcts.tree import TreeNode, grow
from tests.crash import debian
from tests.mcts.environments import TicTacToe
from tests.mcts.rows import PlainEdge, PlainRow, PlainRows, id_of, played, small, tree_of
from tests.mcts.test_picture import HOSTILE, hostile_tree

pytestmark = pytest.mark.browser

WIDTH, HEIGHT = 1300, 800


def is_installed() -> bool:
    return shutil.which("chromium") is not None and shutil.which("chromedriver") is not None


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser of this module's own; it ends with it."""
    from selenium import webdriver

    debian.install(is_installed, "chromium", "chromium-driver", "fonts-dejavu-core")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-dev-shm-usage",
        "disable-breakpad",
        "lang=en",
    ):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    made = webdriver.Chrome(options=options, service=service)
    try:
        made.set_script_timeout(20)
        made.set_page_load_timeout(60)
        yield made
    finally:
        made.quit()


class Page:
    """What a person can do with an open page, and see of it."""

    def __init__(self, driver: Any, path: Path) -> None:
        self.driver = driver
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False},
        )
        self.scheme("light")
        driver.get(path.as_uri())

    def js(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)

    def settled(self) -> None:
        """Wait until what was asked for is drawn."""
        self.driver.execute_async_script(
            "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done()));"
        )

    def one(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def click(self, selector: str) -> None:
        self.one(selector).click()
        self.settled()

    def press(self, *keys: str, at: str = "#view") -> None:
        self.one(at).send_keys(*keys)
        self.settled()

    def names(self) -> list[str]:
        """What is written on the cards in sight, from top to bottom."""
        return self.js(
            "return [...document.querySelectorAll('#nodes .node')].map(n => [n.getBoundingClientRect(), n])"
            ".sort((a, b) => a[0].top - b[0].top || a[0].left - b[0].left)"
            ".map(([_, n]) => n.querySelector('.name').textContent)"
        )

    def ids(self) -> set[int]:
        found = self.js("return [...document.querySelectorAll('#nodes .node')].map(node => node.id)")
        return {int(id[1:]) for id in found}

    def chosen(self) -> int:
        return int(self.js("return document.querySelector('.node.selected').id").removeprefix("n"))

    def details(self) -> dict[str, str]:
        return dict(
            self.js(
                "return [...document.querySelectorAll('#details dt')]"
                ".map(term => [term.textContent, term.nextSibling.textContent])"
            )
        )

    def scheme(self, value: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": value}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def screenshot(self) -> Any:
        from PIL import Image

        image = Image.open(io.BytesIO(self.driver.get_screenshot_as_png()))
        image.load()
        return image.convert("RGB")

    def console(self) -> list[dict[str, Any]]:
        return self.driver.get_log("browser")


@pytest.fixture
def opened(driver: Any, tmp_path: Path) -> Iterator[Callable[[str], Page]]:
    """Opens a text as a page, or with another suffix as a drawing. Whatever a test does, the console stays silent."""
    pages = []

    def open_(text: str, suffix: str = "html") -> Page:
        path = tmp_path / f"picture.{suffix}"
        path.write_text(text, encoding="utf-8")
        pages.append(Page(driver, path))
        return pages[-1]

    yield open_
    assert [entry["message"] for page in pages for entry in page.console()] == []


def wide(children: int) -> TreeNode[str]:
    """A root with many children, each with two."""
    rows = {
        PlainRow(id_of("root")): [PlainEdge(200 - i, 0, float(i), 0.01, id_of(i)) for i in range(children)]
    }
    for i in range(children):
        rows[PlainRow(id_of(i), player=1)] = [PlainEdge(90 - i, 0, 1.0, 0.5, id_of((i, k))) for k in range(2)]
    return tree_of(PlainRows(rows))


# --- what is seen ---


def test_page_is_not_blank(opened: Callable[..., Page]) -> None:
    tree = tree_of(small())
    page = opened(tree.to_html(title="A small tree"))
    image = page.screenshot()
    assert image.size == (WIDTH, HEIGHT)
    assert len(image.getcolors(maxcolors=WIDTH * HEIGHT)) > 100
    background = image.getpixel((300, HEIGHT - 60))
    # Each card is seen as something else than the page behind it, and has ink on it.
    for card in page.driver.find_elements("css selector", "#nodes .node"):
        box = card.rect
        part = image.crop((int(box["x"]), int(box["y"]), int(box["x"] + 150), int(box["y"] + box["height"])))
        shades = {colour: n for n, colour in part.getcolors(maxcolors=100_000)}
        assert len(shades) > 20 and shades.get(background, 0) < part.width * part.height / 4
        assert any(sum(colour) < 200 for colour in shades)
    assert page.one("h1").text == page.driver.title == "A small tree"
    assert page.one("#summary").text == "10 simulations, 7 nodes, 5 states"
    texts = [text.text for text in page.driver.find_elements("css selector", "#nodes .name")]
    assert "root" in texts and "a0" in texts and all(text.strip() for text in texts)


def test_lines_are_as_wide_as_they_were_visited_and_coloured_by_value(opened: Callable[..., Page]) -> None:
    page = opened(tree_of(small()).to_html())
    lines = page.js(
        "return [...document.querySelectorAll('#edges .edge')].map(e => "
        "[parseFloat(getComputedStyle(e).strokeWidth), getComputedStyle(e).stroke])"
    )
    assert len(lines) == len(page.ids()) - 1
    assert len({width for width, _ in lines}) > 2 and len({colour for _, colour in lines}) > 2
    image = page.screenshot()
    widest = page.js(
        "const e = [...document.querySelectorAll('#edges .edge')].sort((a, b) => "
        "parseFloat(b.getAttribute('stroke-width')) - parseFloat(a.getAttribute('stroke-width')))[0];"
        "const p = e.getPointAtLength(e.getTotalLength() / 2).matrixTransform(e.getScreenCTM()); return [p.x, p.y];"
    )
    red, _green, blue = image.getpixel((round(widest[0]), round(widest[1])))
    assert blue > red, "the best action's line is blue"


def luminance(colour: str) -> float:
    channels = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_can_be_read_in_light_and_dark(opened: Callable[..., Page], scheme: str) -> None:
    page = opened(tree_of(small()).to_html())
    page.scheme(scheme)
    page.settled()
    style = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
    card = luminance(page.js(style, "#nodes .card", "fill"))
    behind = luminance(page.js(style, "body", "backgroundColor"))
    assert behind < 0.05 if scheme == "dark" else behind > 0.85
    for selector in (".name", ".visits", ".small"):
        text = luminance(page.js(style, f"#nodes {selector}", "fill"))
        assert (max(text, card) + 0.05) / (min(text, card) + 0.05) >= 4.5, f"{selector} on a card"
    for index in range(11):
        tone = luminance(page.js(style, f"#scale .q{index}", "fill"))
        assert (max(tone, behind) + 0.05) / (min(tone, behind) + 0.05) >= 2.5, f"tone {index}"
    image = page.screenshot().convert("L")
    assert (sum(image.histogram()[:80]) > image.width * image.height / 2) == (scheme == "dark")


# --- pointer and keys ---


def test_click_opens_and_closes_a_node(opened: Callable[..., Page]) -> None:
    tree = tree_of(played(400, branching=4))
    page = opened(tree.to_html())
    nodes = json.loads(tree.to_json())["nodes"]
    index = nodes[0]["children"][-1]
    below = set(nodes[index]["children"])
    assert below and not below & page.ids()
    before = page.screenshot()
    page.click(f"#n{index}")
    assert below <= page.ids()
    assert page.one(f"#n{index}").get_attribute("aria-expanded") == "true"
    assert page.screenshot().tobytes() != before.tobytes()
    page.click(f"#n{index} .fold")
    assert not below & page.ids()
    assert page.one(f"#n{index}").get_attribute("aria-expanded") == "false"


def test_keys_walk_open_and_close(opened: Callable[..., Page]) -> None:
    from selenium.webdriver.common.keys import Keys

    tree = tree_of(small())
    nodes = json.loads(tree.to_json())["nodes"]
    page = opened(tree.to_html())
    page.click("#none")
    assert page.ids() == {0}
    page.press(Keys.ARROW_RIGHT)
    assert page.ids() == {0, *nodes[0]["children"]} and page.chosen() == 0
    page.press(Keys.ARROW_RIGHT)
    assert page.chosen() == nodes[0]["children"][0]
    assert page.one("#view").get_attribute("aria-activedescendant") == f"n{page.chosen()}"
    page.press(Keys.ARROW_DOWN)
    assert page.chosen() == nodes[0]["children"][1]
    page.press(Keys.ENTER)
    assert set(nodes[page.chosen()]["children"]) <= page.ids()
    page.press(" ")
    assert not set(nodes[page.chosen()]["children"]) & page.ids()
    page.press(Keys.ARROW_UP, Keys.ARROW_LEFT)
    assert page.chosen() == 0
    page.press(Keys.ARROW_LEFT)
    assert page.ids() == {0}


def test_principal_line_is_opened_and_highlighted(opened: Callable[..., Page]) -> None:
    tree = tree_of(played(2000, branching=3))
    line = tree.principal_line()
    assert len(line) > 5
    page = opened(tree.to_html())
    page.click("#line")
    assert page.details()["state"] == line[-1].state
    page.click("#fit")
    assert len(page.js("return document.querySelectorAll('#nodes .principal')")) == len(line)
    assert len(page.js("return document.querySelectorAll('#edges .halo')")) == len(line) - 1


def test_details_tell_of_the_chosen_node(opened: Callable[..., Page]) -> None:
    tree = tree_of(small())
    page = opened(tree.to_html())
    nodes = json.loads(tree.to_json())["nodes"]
    assert page.details() == {
        "state": tree.state,
        "kind": "choice",
        "to move": "player 0",
        "visits": "10",
        "in flight": "1",
        "value": "0.200",
        "not shown": "1 actions",
    }
    right = nodes[0]["children"][1]
    page.click(f"#n{right}")
    told = page.details()
    assert told["visits"] == "3  (30.0 %)" and "of the state" not in told
    assert (told["value"], told["prior"], told["rewards"]) == (
        "-0.500 for player 0",
        "25.0 %",
        "1.000, -1.000",
    )
    assert page.js("return document.querySelectorAll('#details tbody tr').length") == 2
    page.click("#path button:first-child")
    assert page.chosen() == 0
    page.click("#n1")
    assert page.details()["of the state"] == "7 on all paths"


def test_repeated_state_leads_to_where_it_is_shown(opened: Callable[..., Page]) -> None:
    tree = tree_of(small())
    page = opened(tree.to_html())
    page.click("#all")
    nodes = json.loads(tree.to_json())["nodes"]
    (again,) = (index for index, node in enumerate(nodes) if node["repeats"] == "transposition")
    page.click(f"#n{again}")
    assert page.one("#details h3").text == "Another path leads there as well"
    page.click("#details > button")
    assert page.chosen() == nodes[again]["same_as"] == 1


def test_search_finds_opens_and_marks(opened: Callable[..., Page]) -> None:
    from selenium.webdriver.common.keys import Keys

    tree = tree_of(played(1500, branching=5))
    nodes = json.loads(tree.to_json())["nodes"]
    page = opened(tree.to_html())
    deep = max(range(len(nodes)), key=lambda index: (nodes[index]["state"] is not None, index))
    assert deep not in page.ids()
    page.press(nodes[deep]["state"][:16], at="#search")
    assert page.one("#found").text == "1 found"
    page.press(Keys.ENTER, at="#search")
    assert page.chosen() == deep and "hit" in page.one(f"#n{deep}").get_attribute("class")
    page.press(Keys.ESCAPE, at="#search")
    assert page.js("return document.querySelectorAll('.hit').length") == 0
    page.press("A2", at="#search")
    expected = sum(node["action"] == "a2" for node in nodes)
    assert page.one("#found").text == f"{expected} found"
    page.press(Keys.ENTER, Keys.ENTER, at="#search")
    assert page.one("#found").text == f"2 of {expected}"
    page.press("x", at="#search")
    assert page.one("#found").text == "none"


def test_many_children_are_shown_in_portions(opened: Callable[..., Page]) -> None:
    page = opened(wide(40).to_html())
    page.click("#none")
    page.click("#n0")
    page.click("#fit")
    assert len(page.ids()) == 13
    assert page.one("#m0").text == "28 more"
    page.click("#m0")
    page.click("#fit")
    assert len(page.ids()) == 41 and not page.driver.find_elements("css selector", "#m0")


def test_pointer_moves_and_zooms(opened: Callable[..., Page]) -> None:
    from selenium.webdriver import ActionChains

    page = opened(tree_of(small()).to_html())
    before = page.one("#n0").rect
    view = page.one("#view")
    ActionChains(page.driver).move_to_element_with_offset(view, 0, 250).click_and_hold().move_by_offset(
        60, 40
    ).release().perform()
    page.settled()
    moved = page.one("#n0").rect
    assert (round(moved["x"] - before["x"]), round(moved["y"] - before["y"])) == (60, 40)
    page.click("#larger")
    assert page.one("#n0").rect["width"] > moved["width"]
    page.js(
        "document.getElementById('view').dispatchEvent(new WheelEvent('wheel', "
        "{deltaY: 240, ctrlKey: true, clientX: 200, clientY: 200, cancelable: true}))"
    )
    page.settled()
    assert page.one("#n0").rect["width"] < moved["width"]


def test_thousands_of_open_nodes_cost_what_is_in_sight(opened: Callable[..., Page]) -> None:
    from selenium.webdriver.common.keys import Keys

    tree = tree_of(played(6000, branching=6), max_nodes=6000)
    assert len(tree) == 6000
    page = opened(tree.to_html())
    page.click("#all")
    assert page.chosen() == 0
    seen = set()
    for key in (Keys.END, Keys.ARROW_UP, Keys.ARROW_LEFT, Keys.HOME):
        before = page.ids()
        page.press(key)
        seen |= page.ids()
        assert page.chosen() in page.ids() and (key != Keys.END or not page.ids() & before)
        assert page.js("return document.querySelectorAll('#picture *').length") < 4000
    assert page.chosen() == 0 and len(seen) < 600
    top = page.one("#n0").rect["y"]
    page.js(
        "document.getElementById('view').dispatchEvent(new WheelEvent('wheel', {deltaY: 90, cancelable: true}))"
    )
    page.settled()
    assert top - page.one("#n0").rect["y"] == 90


def test_narrow_window_keeps_picture_and_details(opened: Callable[..., Page]) -> None:
    page = opened(tree_of(small()).to_html())
    page.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 420, "height": 800, "deviceScaleFactor": 1, "mobile": False},
    )
    page.settled()
    view, aside = page.one("#view").rect, page.one("aside").rect
    assert (
        view["width"] == aside["width"] == 420
        and view["height"] > 150
        and aside["y"] >= view["y"] + view["height"]
    )
    assert page.js("return document.documentElement.scrollWidth") == 420


def test_page_of_a_search_shows_what_it_found(opened: Callable[..., Page], tmp_path: Path) -> None:
    """From a real search, of whose first moves the middle square is best: a cross there wins most often."""
    import helios_shm
    from helios_shm.mcts import Search

    with (
        helios_shm.open(tmp_path / "store") as engine,
        Search(TicTacToe(), engine.empty, seed=1, workers=2) as search,
    ):
        result, tree = search.run(3000), search.tree(max_nodes=2000)
    page = opened(tree.to_html(title="Tic-tac-toe"))
    assert page.one("#summary").text.startswith("3,000 simulations, ")
    best = int(page.js("return document.querySelectorAll('#nodes .principal')[1].id").removeprefix("n"))
    page.click(f"#n{best}")
    assert page.one("#details h2").text == str(result.action) == "4"
    assert page.details()["visits"].startswith(f"{result.visit_counts[4]:,} ")
    assert len(page.screenshot().getcolors(maxcolors=WIDTH * HEIGHT)) > 100


# --- hostile names ---


def test_hostile_names_are_harmless_text(opened: Callable[..., Page]) -> None:
    page = opened(hostile_tree(HOSTILE).to_html(title=HOSTILE[1] + HOSTILE[4]))
    page.click("#all")
    page.click("#fit")
    assert page.js("return document.querySelectorAll('img, iframe, object, b').length") == 0
    assert page.js("return document.scripts.length") == 2
    assert page.one("h1").text == HOSTILE[1] + HOSTILE[4]
    shown = page.js("return [...document.querySelectorAll('.node > title')].map(title => title.textContent)")
    controls = {code: 0x2400 + code for code in range(32)} | {0xD800: 0xFFFD}
    assert sorted(shown) == sorted(["root", *(name.translate(controls) or "\u2205" for name in HOSTILE)])
    for index in range(1, len(HOSTILE) + 1):
        page.click(f"#n{index}")
    assert page.js("return document.querySelectorAll('img, iframe, object, b').length") == 0


def test_policy_stops_what_is_not_the_page_s_own(opened: Callable[..., Page], driver: Any) -> None:
    page = opened(tree_of(small()).to_html())
    page.js(
        "const s = document.createElement('script'); s.textContent = 'window.ran = 1'; document.body.append(s);"
        "document.body.setAttribute('onclick', 'window.ran = 1'); document.body.click();"
        "const i = new Image(); i.src = 'file:///x.png'; document.body.append(i);"
    )
    page.settled()
    assert page.js("return window.ran === undefined")
    refused = [entry["message"] for entry in page.console()]
    assert len(refused) == 3 and all("Content Security Policy" in message for message in refused)


# --- the drawing ---


def test_drawing_is_seen(opened: Callable[..., Page]) -> None:
    tree = tree_of(played(300, branching=4))
    page = opened(tree.to_svg(max_nodes=12), "svg")
    image = page.screenshot()
    assert len(image.getcolors(maxcolors=WIDTH * HEIGHT)) > 100
    assert (
        page.js("return [...document.querySelectorAll('.name')].filter(t => t.getBBox().width > 10).length")
        == 12
    )
    assert page.js("return document.documentElement.localName") == "svg"
    page.scheme("dark")
    page.settled()
    assert page.screenshot().convert("L").getpixel((4, 4)) < 60


def test_value_of_a_game_is_shown_for_who_chose(opened: Callable[..., Page]) -> None:
    rows = {
        PlainRow(id_of("r"), player=0): [PlainEdge(4, 0, 4.0, 1.0, id_of("s"))],
        PlainRow(id_of("s"), player=1): [PlainEdge(3, 0, -3.0, 1.0, id_of("t"))],
    }
    page = opened(grow(PlainRows(rows), id_of("r"), lambda id, player: ["move"]).to_html())
    page.click("#n1")
    assert page.details()["value"] == "1.000 for player 0"
    page.click("#n2")
    assert page.details()["value"] == "-1.000 for player 1"
