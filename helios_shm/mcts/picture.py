"""Pictures of a search's tree: a page to click through, and a drawing that stands still.

    html()   picture.html with the tree as JSON in it: one file, no network; its nodes open, close and are found
    svg()    the most visited nodes, drawn here

Both show a node as a card: its name, visits, value and prior, and a stripe whose colour is the value for the player who
chose the action. Lines are as wide as they were visited; the principal line has a halo.

Names come from users and may be anything. In the page they are JSON in a block that no parser reads as markup, and
the script makes text nodes of them; in the drawing they are escaped, and what XML cannot hold is replaced. The page's
policy (CSP) lets run what bears the hash of this package's own script and style, and nothing else.
"""

from __future__ import annotations

import heapq
import re
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from html import escape
from importlib import resources
from itertools import count
from typing import Any

from .tree import TreeNode

CARD_WIDTH, CARD_HEIGHT = 172, 38
COLUMN, PITCH, EDGE = 262, 46, 24
TONES = 11
_NAME_MAX = 17
_WIDEST = 13.0
_OFTEN = 0.01  # of all visits

# Of values from the least to the greatest, on a light and on a dark page: red, grey, blue; told apart by those who see
# no red, too.
_LIGHT = ((178, 24, 43), (150, 152, 158), (33, 102, 172))
_DARK = ((255, 110, 100), (128, 134, 144), (90, 172, 255))

_COLOURS = {
    "page": ("#f7f8fa", "#14171c"),
    "card": ("#ffffff", "#1e232b"),
    "ink": ("#1b1f27", "#e8ebf0"),
    "faint": ("#667080", "#98a2b3"),
    "rule": ("#d5dae2", "#363d49"),
    "accent": ("#b7791f", "#f0b429"),
    "halo": ("#f6d58a", "#6b5316"),
    "hit": ("#fff3c4", "#4a3f12"),
}
# What the page and the drawing share.
_SHARED = """
.card { fill: var(--card); stroke: var(--rule); stroke-width: 1; }
.principal .card { stroke: var(--accent); stroke-width: 2; }
.repeats .card { stroke-dasharray: 4 3; }
.unvisited { opacity: .6; }
.name, .visits, .small { fill: var(--ink); font-size: 12.5px; }
.name { font-weight: 600; }
.small { fill: var(--faint); font-size: 11px; white-space: pre; }
.visits, .end { text-anchor: end; }
.fold text { fill: var(--ink); }
.visits, .small { font-variant-numeric: tabular-nums; }
.edge, .halo { fill: none; stroke-linecap: round; }
.edge { stroke-opacity: .85; }
.rest { stroke: var(--rule); stroke-dasharray: 2 4; }
.halo { stroke: var(--halo); }
.qnone { stroke: var(--rule); }
.tone.qnone { fill: var(--rule); }
"""


def html(tree: TreeNode[Any], *, title: str = "Search tree") -> str:
    """A page that shows a tree: one file, to be saved as UTF-8, that loads nothing. O(nodes)."""
    parts = {
        "POLICY": _policy(),
        "TITLE": escape(title.translate(_NOT_XML)),
        "STYLE": _style(),
        "TREE": _json_in_html(tree),
    }
    return re.sub("@@([A-Z]+)@@", lambda found: parts[found[1]], _template())


def _json_in_html(tree: TreeNode[Any]) -> str:
    """JSON that holds no character which could end or open markup."""
    text = tree.to_json()
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


@lru_cache(maxsize=1)
def _template() -> str:
    return resources.files(__package__).joinpath("picture.html").read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def _policy() -> str:
    page = _template().replace("@@STYLE@@", _style())
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    styles = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    script, style = (" ".join(map(_hash_of, texts)) for texts in (scripts, styles))
    return (
        f"default-src 'none'; script-src {script}; style-src {style}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _hash_of(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


# --- colours ---


@lru_cache(maxsize=1)
def _style() -> str:
    light, dark = (_variables(side) for side in (0, 1))
    tones = (
        f".q{i} {{ stroke: var(--q{i}); }} .tone.q{i} {{ fill: var(--q{i}); stroke: none; }}"
        for i in range(TONES)
    )
    return (
        f"\n:root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"
        + "\n".join(tones)
        + _SHARED
    )


def _variables(side: int) -> str:
    ends = (_LIGHT, _DARK)[side]
    named = [f"--{name}: {colours[side]};" for name, colours in _COLOURS.items()]
    return " ".join(named + [f"--q{step}: {_mixed(ends, step / (TONES - 1))};" for step in range(TONES)])


def _mixed(ends: tuple[tuple[int, int, int], ...], part: float) -> str:
    """A colour between the first and the middle one, or the middle and the last."""
    low, high = (ends[0], ends[1]) if part < 0.5 else (ends[1], ends[2])
    weight = part * 2 if part < 0.5 else part * 2 - 1
    mixed = (round(a + (b - a) * weight) for a, b in zip(low, high, strict=True))
    return "#" + "".join(f"{channel:02x}" for channel in mixed)


class _Scale:
    """From values to tones: from the least to the greatest, or as far to both sides of 0, of the values of what was
    visited often: a few simulations say anything."""

    def __init__(self, tree: TreeNode[Any]) -> None:
        known = [(node.visits, node.value) for node in tree if node.value is not None]
        often = [value for visits, value in known if visits >= tree.visits * _OFTEN]
        values = often if len(often) > 1 else [value for _, value in known]
        self.low, self.high = min(values, default=0.0), max(values, default=0.0)
        if self.low < 0 < self.high:
            self.high = max(self.high, -self.low)
            self.low = -self.high

    def tone(self, value: float | None) -> str:
        if value is None or not self.high - self.low < float("inf"):
            return "none"
        part = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return str(round(min(1.0, max(0.0, part)) * (TONES - 1)))


# --- the drawing ---


@dataclass(slots=True)
class _Place:
    """A node on the drawing; ``below`` are those of its children that are drawn."""

    node: TreeNode[Any]
    x: int
    y: float
    principal: bool
    below: list[_Place]


def svg(tree: TreeNode[Any], *, title: str = "Search tree", max_nodes: int = 200) -> str:
    """A drawing of the most visited nodes of a tree, as an SVG file. O(nodes log nodes).

    max_nodes: no more than that. Raises ValueError if it is not from 1 on.
    """
    if max_nodes < 1:
        raise ValueError(f"max_nodes is a number from 1 on, not {max_nodes}")
    places = _places(tree, max_nodes)
    scale, most = _Scale(tree), max(1, tree.visits)
    width = max(place.x for place in places) + CARD_WIDTH + 2 * EDGE
    height = _spread(places) + 2 * EDGE
    edges = (line for place in places for child in place.below for line in _edge(place, child, scale, most))
    cards = (line for place in places for line in _card(place, scale))
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height:g}" '
            f'viewBox="0 0 {width} {height:g}" '
            "font-family=\"system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif\">",
            f"<title>{_text(title)}</title>",
            f"<style>{_style()}</style>",
            f'<rect width="{width}" height="{height:g}" style="fill: var(--page)"/>',
            f'<g transform="translate({EDGE} {EDGE})">',
            *edges,
            *cards,
            "</g>",
            "</svg>",
            "",
        )
    )


def _places(tree: TreeNode[Any], max_nodes: int) -> list[_Place]:
    """The nodes to draw, parents first: always the most visited of those whose parent is drawn."""
    line = {id(node) for node in tree.principal_line()}
    first = _Place(tree, 0, 0.0, True, [])
    places, serial = [first], count()
    ahead: list[tuple[int, int, TreeNode[Any], _Place]] = []

    def look_below(place: _Place) -> None:
        for node in place.node.children:
            heapq.heappush(ahead, (-node.visits, next(serial), node, place))

    look_below(first)
    while ahead and len(places) < max_nodes:
        _, _, node, above = heapq.heappop(ahead)
        place = _Place(node, above.x + COLUMN, 0.0, id(node) in line, [])
        above.below.append(place)
        places.append(place)
        look_below(place)
    return places


def _spread(places: list[_Place]) -> float:
    """Give each place its y: leaves one below the other, the others amid their children. Returns the height."""
    bottom = 0.0
    ahead = [places[0]]
    while ahead:
        place = ahead.pop()
        ahead.extend(reversed(place.below))
        if not place.below:
            place.y = bottom
            bottom += PITCH
    for place in reversed(places):
        if place.below:
            place.y = (place.below[0].y + place.below[-1].y) / 2
    return bottom


def _edge(above: _Place, place: _Place, scale: _Scale, most: int) -> Iterator[str]:
    x, y, v = above.x + CARD_WIDTH, above.y + CARD_HEIGHT / 2, place.y + CARD_HEIGHT / 2
    middle = (x + place.x) / 2
    line = f"M{x} {y:g}C{middle:g} {y:g} {middle:g} {v:g} {place.x} {v:g}"
    width = 1 + _WIDEST * (place.node.visits / most) ** 0.5
    if place.principal:
        yield f'<path class="halo" stroke-width="{width + 6:.2f}" d="{line}"/>'
    yield f'<path class="edge q{scale.tone(place.node.value)}" stroke-width="{width:.2f}" d="{line}"/>'


def _card(place: _Place, scale: _Scale) -> Iterator[str]:
    node = place.node
    name = "root" if node.action_name is None else node.action_name
    marks = (node.kind, "principal" if place.principal else "", "repeats" if node.repeats else "")
    radius = 2 if node.kind == "terminal" else 9
    yield f'<g class="node {" ".join(filter(None, marks))}" transform="translate({place.x} {place.y:g})">'
    yield f"<title>{_text(name)}</title>"
    yield f'<rect class="card" width="{CARD_WIDTH}" height="{CARD_HEIGHT}" rx="{radius}"/>'
    yield (
        f'<rect class="tone q{scale.tone(node.value)}" x="5" y="6" width="5" height="{CARD_HEIGHT - 12}" rx="2.5"/>'
    )
    yield f'<text class="name" x="17" y="16">{_text(_cut(name, _NAME_MAX))}</text>'
    yield f'<text class="visits" x="{CARD_WIDTH - 9}" y="16">{_short(node.visits)}</text>'
    yield f'<text class="small" x="17" y="30">{_worth(node)}</text>'
    yield f'<text class="small end" x="{CARD_WIDTH - 9}" y="30">{_remark(place)}</text>'
    yield "</g>"


def _worth(node: TreeNode[Any]) -> str:
    if node.value is None:
        return "not tried" if node.kind == "unvisited" else "no visits"
    prior = "" if node.action_name is None else f"   P {100 * node.prior:.1f} %"
    return _decimal(node.value) + prior


def _remark(place: _Place) -> str:
    node = place.node
    if node.repeats is not None:
        return "&#x21ba; cycle" if node.repeats == "cycle" else "&#x21e2; shown"
    hidden = len(node.children) - len(place.below)
    if hidden:
        return f"+{hidden}"
    return {"terminal": "end", "chance": "chance"}.get(node.kind, "")


def _decimal(value: float) -> str:
    size = abs(value)
    if size >= 1e6 or 0 < size < 1e-3:
        return f"{value:.2e}"
    return f"{value:.1f}" if size >= 100 else f"{value:.3f}"


def _short(visits: int) -> str:
    if visits < 10_000:
        return f"{visits:,}"
    return f"{visits / 1e3:,.{visits < 100_000:d}f}k" if visits < 1_000_000 else f"{visits / 1e6:,.1f}M"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "\u2026"


class _NotXml(dict[int, str]):
    """What stands in the place of characters that XML 1.0 cannot hold, not even escaped."""

    def __missing__(self, code: int) -> str:
        printable = code in (0x9, 0xA, 0xD) or 0x20 <= code <= 0xD7FF or 0xE000 <= code <= 0xFFFD
        if printable or 0x10000 <= code <= 0x10FFFF:
            raise LookupError
        return "\ufffd"


_NOT_XML = _NotXml()


def _text(text: str) -> str:
    return escape(text.translate(_NOT_XML))
