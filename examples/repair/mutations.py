"""Mutation operators over Python source: small changes, each of which another one takes back.

    comparison   <  <=  >  >=   |   ==  !=   |   is  is not   |   in  not in
    arithmetic   +  -           |   *  //  %
    boolean      and  or        |   True  False
    constant     n              ->  n + 1, n - 1
    negation     not x  ->  x, and in conditions, and where the truth of something is returned, x  ->  not x

So they can seed a bug, and mend it. Operators as in Jia & Harman, An Analysis and Survey of the Development of
Mutation Testing, 2011. libcst says where they stand; all else in the file stays as it is, to the byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from helios_shm.mcts.agent import Replace

try:
    import libcst
    from libcst.metadata import ByteSpanPositionProvider, MetadataWrapper, PositionProvider
except ImportError as error:
    raise ImportError('libcst is not installed: pip install "helios-shm[repair]"') from error

_FAMILIES: Sequence[dict[type[libcst.CSTNode], str]] = (
    {
        libcst.LessThan: "<",
        libcst.LessThanEqual: "<=",
        libcst.GreaterThan: ">",
        libcst.GreaterThanEqual: ">=",
    },
    {libcst.Equal: "==", libcst.NotEqual: "!="},
    {libcst.Is: "is", libcst.IsNot: "is not"},
    {libcst.In: "in", libcst.NotIn: "not in"},
    {libcst.Add: "+", libcst.Subtract: "-"},
    {libcst.Multiply: "*", libcst.FloorDivide: "//", libcst.Modulo: "%"},
    {libcst.And: "and", libcst.Or: "or"},
)
_OTHERS = {
    kind: [other for name, other in family.items() if name is not kind]
    for family in _FAMILIES
    for kind in family
}


@dataclass(frozen=True, slots=True)
class Mutation:
    """A change of one file, and the line where it is."""

    line: int
    edit: Replace


class _Finder(libcst.CSTVisitor):
    METADATA_DEPENDENCIES = (ByteSpanPositionProvider, PositionProvider)

    def __init__(self, path: str, source: bytes) -> None:
        super().__init__()
        self.path, self.source = path, source
        self.found: list[Mutation] = []

    def _add(self, node: libcst.CSTNode, new: str | None = None, *, negated: bool = False) -> None:
        span = self.get_metadata(ByteSpanPositionProvider, node)
        line = self.get_metadata(PositionProvider, node).start.line
        old = self.source[span.start : span.start + span.length].decode()
        at = len(self.source[: span.start].decode())
        made = f"not ({old})" if negated else new
        assert made is not None
        self.found.append(Mutation(line, Replace(self.path, old, made, at)))

    def _swap(self, operator: libcst.CSTNode) -> None:
        for other in _OTHERS.get(type(operator), ()):
            self._add(operator, other)

    def _negate(self, condition: libcst.BaseExpression | None) -> None:
        if condition is not None and not _is_not(condition):
            self._add(condition, negated=True)

    def visit_ComparisonTarget(self, node: libcst.ComparisonTarget) -> None:
        self._swap(node.operator)

    def visit_BinaryOperation(self, node: libcst.BinaryOperation) -> None:
        self._swap(node.operator)

    def visit_BooleanOperation(self, node: libcst.BooleanOperation) -> None:
        self._swap(node.operator)

    def visit_UnaryOperation(self, node: libcst.UnaryOperation) -> None:
        if _is_not(node):
            inner = self.get_metadata(ByteSpanPositionProvider, node.expression)
            self._add(node, self.source[inner.start : inner.start + inner.length].decode())

    def visit_Integer(self, node: libcst.Integer) -> None:
        value = node.evaluated_value
        self._add(node, str(value + 1))
        if value > 0:
            self._add(node, str(value - 1))

    def visit_Name(self, node: libcst.Name) -> None:
        if node.value in ("True", "False"):
            self._add(node, "False" if node.value == "True" else "True")

    def visit_If(self, node: libcst.If) -> None:
        self._negate(node.test)

    def visit_IfExp(self, node: libcst.IfExp) -> None:
        self._negate(node.test)

    def visit_Return(self, node: libcst.Return) -> None:
        if isinstance(node.value, libcst.Comparison | libcst.BooleanOperation):
            self._negate(node.value)


def _is_not(node: libcst.CSTNode) -> bool:
    return isinstance(node, libcst.UnaryOperation) and isinstance(node.operator, libcst.Not)


def mutations_of(path: str, source: bytes) -> Iterator[Mutation]:
    """All mutations of a file, in the order of its lines. Raises libcst.ParserSyntaxError for what is no Python."""
    finder = _Finder(path, source)
    MetadataWrapper(libcst.parse_module(source), unsafe_skip_copy=True).visit(finder)
    return iter(sorted(finder.found, key=lambda mutation: mutation.line))
