import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helios_shm.mcts import picture
from helios_shm.mcts.tree import TreeNode, grow
from tests.mcts.rows import PlainEdge, PlainRow, PlainRows, id_of, numbered, played, small, tree_of

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "]]>",
    "'\"><img src=x onerror=alert(1)>",
    "@@TREE@@",
    "&lt;b&gt;",
    "\u2028\u2029",
    "\x00\x07\x1b\ufffe",
    "\ud800",
    "",
    "name " * 50,
]


class Page(HTMLParser):
    """The elements of a page, the text of scripts and styles, and every attribute that leads elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.texts: dict[str, list[str]] = {}
        self.inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        kind = dict(attrs).get("type")
        self.inside = f"{tag} {kind}" if kind else tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self.inside, []).append(data)

    def text(self, inside: str) -> str:
        return "".join(self.texts[inside])

    def policy(self) -> dict[str, str]:
        (content,) = [
            value for tag, name, value in self.attributes if name == "content" and value.startswith("default")
        ]
        return dict(part.strip().split(" ", 1) for part in content.split(";"))


def hostile_tree(names: list[str]) -> TreeNode[str]:
    row = PlainRow(id_of("root"))
    edges = [PlainEdge(2, 0, -1.0, 0.5, id_of(i)) for i in range(len(names))]
    return grow(PlainRows({row: edges}), row.id, lambda id, player: names)


def test_page_holds_the_tree() -> None:
    tree = tree_of(small())
    page = Page(tree.to_html(title="Search <of> & all"))
    assert json.loads(page.text("script application/json")) == json.loads(tree.to_json())
    assert page.text("title") == page.text("h1") == "Search <of> & all"


def test_page_runs_its_own_script_alone_and_loads_nothing() -> None:
    page = Page(tree_of(small()).to_html())
    policy = page.policy()
    assert policy["default-src"] == "'none'" and policy["base-uri"] == "'none'"
    for directive, inside in (("script-src", "script"), ("style-src", "style")):
        digest = hashlib.sha256(page.text(inside).encode()).digest()
        assert policy[directive] == f"'sha256-{base64.b64encode(digest).decode()}'"
    leads = [
        (tag, name, value)
        for tag, name, value in page.attributes
        if name in ("src", "href", "action", "srcset", "data")
    ]
    assert leads == [("link", "href", "data:,")]
    assert [name for _, name, _ in page.attributes if name.startswith("on") or name == "style"] == []
    assert (
        re.findall(
            r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", page.text("script") + page.text("style")
        )
        == []
    )


def test_hostile_names_are_text_in_the_page() -> None:
    plain = Page(hostile_tree(["a"] * len(HOSTILE)).to_html(title="a"))
    page = Page(hostile_tree(HOSTILE).to_html(title="".join(HOSTILE)))
    assert page.tags == plain.tags
    assert page.policy() == plain.policy()
    names = [node["action"] for node in json.loads(page.text("script application/json"))["nodes"][1:]]
    assert names == HOSTILE
    hostile_tree(HOSTILE).to_html(title="\ud800\x00").encode()


@given(st.lists(st.text(st.characters()), min_size=1, max_size=4), st.text(st.characters()))
def test_any_name_can_be_shown(names: list[str], title: str) -> None:
    tree = hostile_tree(names)
    page = Page(tree.to_html(title=title))
    assert json.loads(page.text("script application/json")) == json.loads(tree.to_json())
    ElementTree.fromstring(tree.to_svg(title=title).encode())


def cards(text: str) -> list[ElementTree.Element]:
    root = ElementTree.fromstring(text.encode())
    assert root.tag == f"{SVG}svg"
    return [group for group in root.iter(f"{SVG}g") if "node" in group.get("class", "").split()]


def name_of(card: ElementTree.Element) -> str | None:
    return card.find(f"{SVG}title").text


def test_drawing_is_xml_and_shows_each_node() -> None:
    tree = tree_of(small())
    drawn = cards(tree.to_svg())
    assert sorted(map(name_of, drawn)) == sorted(node.action_name or "root" for node in tree)
    classes = [set(card.get("class").split()) for card in drawn]
    assert sum("principal" in each for each in classes) == len(tree.principal_line())
    assert sum("repeats" in each for each in classes) == 2
    assert sum("terminal" in each for each in classes) == sum("chance" in each for each in classes) == 1


def test_drawing_of_hostile_names_has_no_other_elements() -> None:
    drawing = ElementTree.fromstring(hostile_tree(HOSTILE).to_svg(title=HOSTILE[1]).encode())
    assert {element.tag.removeprefix(SVG) for element in drawing.iter()} == {
        "svg",
        "title",
        "style",
        "rect",
        "g",
        "path",
        "text",
    }
    names = {name_of(card) for card in cards(hostile_tree(HOSTILE).to_svg())}
    assert {"<script>alert(1)</script>", "]]>", "\ufffd\ufffd\ufffd\ufffd"} <= names


def test_drawing_takes_the_most_visited_nodes() -> None:
    tree = tree_of(played(300, branching=4))
    everything = sorted((node.visits for node in tree), reverse=True)
    text = tree.to_svg(max_nodes=25)
    assert len(cards(text)) == 25
    least = min(int(card.find(f"{SVG}text[@class='visits']").text) for card in cards(text))
    assert least >= everything[24]
    with pytest.raises(ValueError, match="max_nodes is a number from 1 on"):
        tree.to_svg(max_nodes=0)


def test_cards_and_lines_lie_on_the_drawing_and_no_two_cards_overlap() -> None:
    text = tree_of(played(200, branching=4)).to_svg()
    root = ElementTree.fromstring(text.encode())
    width, height = (float(root.get(side)) for side in ("width", "height"))
    places = [tuple(map(float, re.findall(r"[-\d.]+", card.get("transform")))) for card in cards(text)]
    assert all(0 <= x <= width - 172 - 24 and 0 <= y <= height - 38 - 24 for x, y in places)
    columns: dict[float, list[float]] = {}
    for x, y in sorted(places):
        assert all(abs(y - other) >= 38 for other in columns.get(x, []))
        columns.setdefault(x, []).append(y)


def tone_classes(tree: TreeNode[str]) -> dict[str, str]:
    """The tone of each card's stripe, by the node's name."""
    found = {}
    for card in cards(tree.to_svg()):
        (stripe,) = [rect for rect in card.findall(f"{SVG}rect") if "tone" in rect.get("class").split()]
        found[name_of(card)] = stripe.get("class").split()[1]
    return found


def test_colours_go_from_the_least_value_to_the_greatest_with_zero_amid() -> None:
    row = PlainRow(id_of("root"))
    sums = [-4.0, 0.0, 2.0, float("inf")]
    edges = [PlainEdge(2, 0, value, 0.25, id_of(i)) for i, value in enumerate(sums)]
    rows = PlainRows({row: edges[:3]})
    tones = tone_classes(grow(rows, row.id, numbered(rows)))
    assert (tones["a0"], tones["a1"], tones["a2"]) == ("q0", "q5", "q8")
    rows = PlainRows({row: edges})
    assert set(tone_classes(grow(rows, row.id, numbered(rows))).values()) == {"qnone"}


def test_long_names_are_cut_on_the_card_and_whole_in_its_title() -> None:
    (card,) = (card for card in cards(hostile_tree(["x" * 100]).to_svg()) if name_of(card) != "root")
    assert name_of(card) == "x" * 100
    assert card.find(f"{SVG}text[@class='name']").text == "x" * 16 + "\u2026"


def test_large_counts_are_short() -> None:
    assert [picture._short(n) for n in (9999, 12_345, 123_456, 12_345_678)] == [
        "9,999",
        "12.3k",
        "123k",
        "12.3M",
    ]
