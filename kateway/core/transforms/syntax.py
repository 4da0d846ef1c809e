"""Reads CEL expressions into a small tree, for what must be known before one is run: names, places, depth, cost.

The evaluating is the library's; this is the grammar of cel-spec without messages and optionals. An expression that
this reader refuses is refused, though the library might take it: it cannot be bounded.
"""

from __future__ import annotations

import re

import attrs

from kateway.errors import ExpressionInvalid

MACROS = frozenset(["all", "exists", "exists_one", "map", "filter"])
MAX_NESTED_MACROS = 4
"""The estimate of the cost takes twice as long for each: 27 ms for six, 130 ms for twelve."""
FUNCTIONS = (
    frozenset(["size", "contains", "startsWith", "endsWith", "matches", "type", "dyn"])
    | frozenset(["string", "bytes", "int", "uint", "double", "timestamp", "duration"])
    | frozenset(["getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear"])
    | frozenset(["getHours", "getMinutes", "getSeconds", "getMilliseconds"])
)
TYPES = frozenset(
    ["int", "uint", "double", "string", "bool", "bytes", "list", "map", "null_type", "timestamp", "duration"]
)
FIELDS = frozenset(["key", "value", "json", "headers", "partition", "offset", "timestamp"])
RESERVED = frozenset(
    "as break const continue else for function if import let loop package namespace return var void while".split()  # noqa: SIM905
)
TOKEN = re.compile(
    r"""(?P<space>(?:[ \t\r\n\f]+|//[^\n]*)+)
    |(?P<text>(?:[rR][bB]?|[bB][rR]?)?(?:'{3}|"{3}|'|"))
    |(?P<number>0x[0-9a-fA-F]+u?|(?:\d+\.\d+|\.\d+)(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+|\d+[uU]?)
    |(?P<name>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<sign>\|\||&&|[<>=!]=|[-+*/%<>!?:.,()\[\]{}])""",
    re.VERBOSE,
)
RELATIONS = frozenset(["<", "<=", ">", ">=", "==", "!=", "in"])


@attrs.frozen
class Node:
    """A part of an expression. ``kind`` is one of

    ``literal`` (``text``: its spelling), ``name``, ``select`` (``text`` of ``parts[0]``), ``index``, ``operator``
    (``text``: the sign), ``choice``, ``list``, ``map``, ``call`` (function ``text`` of ``parts``, a method's receiver
    first) and ``macro`` (``text`` over ``parts[0]``, ``variable`` bound in ``parts[1:]``).
    """

    kind: str
    at: int
    text: str = ""
    parts: tuple[Node, ...] = ()
    variable: str = ""


def place(text: str, at: int) -> str:
    """The line and column of an index, both counted from one."""
    line = text.count("\n", 0, at) + 1
    return f"{line}:{at - (text.rfind(chr(10), 0, at) + 1) + 1}"


def parse(text: str, max_depth: int) -> Node:
    """Reads an expression; ``ExpressionInvalid`` names line, column and fault."""
    return _Reader(text, max_depth).whole()


@attrs.frozen
class _Token:
    kind: str
    text: str
    at: int


class _Reader:
    """Descends the grammar of one expression; each level of it and each operand of a chain counts in the depth."""

    def __init__(self, text: str, max_depth: int) -> None:
        self._text = text
        self._max_depth = max_depth
        self._tokens = self._split()
        self._next = 0
        self._depth = 0
        self._bound: list[str] = []

    def whole(self) -> Node:
        node = self._expression()
        if self._peek().kind != "end":
            raise self._unexpected()
        return node

    # --- tokens

    def _fault(self, at: int, fault: str) -> ExpressionInvalid:
        return ExpressionInvalid(f"{place(self._text, at)} {fault}")

    def _unexpected(self) -> ExpressionInvalid:
        token = self._peek()
        what = "the end" if token.kind == "end" else repr(token.text[:32])
        return self._fault(token.at, f"{what} is not expected here")

    def _split(self) -> list[_Token]:
        tokens = []
        at = 0
        while at < len(self._text):
            found = TOKEN.match(self._text, at)
            if found is None:
                raise self._fault(at, f"{self._text[at]!r} is no part of an expression")
            kind, end = str(found.lastgroup), found.end()
            if kind == "text":
                end = self._end_of_text(found.group(), end, at)
            if kind != "space":
                tokens.append(_Token(kind, self._text[at:end], at))
            at = end
        return [*tokens, _Token("end", "", at)]

    def _end_of_text(self, opening: str, start: int, at: int) -> int:
        raw = "r" in opening.lower()
        quote = opening.lstrip("rRbB")
        inside = r"[^\\]" if not raw else r"."
        escape = r"|\\." if not raw else ""
        body = re.compile(rf"(?:(?!{quote})(?:{inside}{escape}))*{quote}", re.DOTALL)
        found = body.match(self._text, start)
        if found is None or (len(quote) == 1 and "\n" in found.group()):
            raise self._fault(at, "the text has no end")
        return found.end()

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self, *texts: str) -> _Token | None:
        token = self._peek()
        if token.kind in ("sign", "name") and token.text in texts:
            self._next += 1
            return token
        return None

    def _expect(self, text: str) -> _Token:
        token = self._take(text)
        if token is None:
            raise self._unexpected()
        return token

    def _deeper(self, levels: int = 1) -> None:
        self._depth += levels
        if self._depth > self._max_depth:
            raise self._fault(self._peek().at, f"it is nested deeper than {self._max_depth} levels")

    # --- the grammar, top down

    def _expression(self) -> Node:
        before = self._depth
        self._deeper()
        node = self._chain(0)
        asked = self._take("?")
        if asked is not None:
            yes = self._chain(0)
            self._expect(":")
            node = Node("choice", asked.at, parts=(node, yes, self._expression()))
        self._depth = before
        return node

    LEVELS = (frozenset(["||"]), frozenset(["&&"]), RELATIONS, frozenset("+-"), frozenset("*/%"))

    def _chain(self, level: int) -> Node:
        if level == len(self.LEVELS):
            return self._unary()
        before = self._depth
        node = self._chain(level + 1)
        while (sign := self._take(*self.LEVELS[level])) is not None:
            self._deeper()
            node = Node("operator", sign.at, sign.text, (node, self._chain(level + 1)))
        self._depth = before
        return node

    def _unary(self) -> Node:
        signs: list[_Token] = []
        before = self._depth
        while (sign := self._take(signs[0].text) if signs else self._take("!", "-")) is not None:
            signs.append(sign)
            self._deeper()
        node = self._member()
        for each in reversed(signs):
            node = Node("operator", each.at, each.text, (node,))
        self._depth = before
        return node

    def _member(self) -> Node:
        before = self._depth
        node = self._primary()
        while True:
            if (dot := self._take(".")) is not None:
                name = self._peek()
                if name.kind != "name":
                    raise self._unexpected()
                self._next += 1
                node = self._method(node, name) if self._take("(") else self._select(node, name, dot)
            elif (bracket := self._take("[")) is not None:
                inner = self._expression()
                self._expect("]")
                node = Node("index", bracket.at, parts=(node, inner))
            else:
                self._depth = before
                return node
            self._deeper()

    def _select(self, of: Node, name: _Token, dot: _Token) -> Node:
        if of.kind == "name" and of.text == "record" and name.text not in FIELDS:
            known = ", ".join(sorted(FIELDS))
            raise self._fault(name.at, f"a record has no {name.text!r}; it has {known}")
        return Node("select", dot.at, name.text, (of,))

    def _method(self, of: Node, name: _Token) -> Node:
        if name.text not in MACROS:
            return self._call(name, (of,))
        variable = self._peek()
        if variable.kind != "name" or variable.text in {"record", "now", "true", "false", "null", *RESERVED}:
            raise self._fault(variable.at, f"{name.text} needs a variable's name first")
        self._next += 1
        if len(self._bound) == MAX_NESTED_MACROS:
            raise self._fault(name.at, f"more than {MAX_NESTED_MACROS} macros are nested")
        self._bound.append(variable.text)
        bodies = []
        while self._take(","):
            bodies.append(self._expression())
        self._expect(")")
        self._bound.pop()
        if len(bodies) not in ((1, 2) if name.text == "map" else (1,)):
            raise self._fault(name.at, f"{name.text} takes a variable and an expression")
        return Node("macro", name.at, name.text, (of, *bodies), variable.text)

    def _call(self, name: _Token, receiver: tuple[Node, ...]) -> Node:
        if name.text == "has" and not receiver:
            argument = self._expression()
            self._expect(")")
            if argument.kind != "select":
                raise self._fault(name.at, "has needs a field: has(record.json.field)")
            return Node("call", name.at, "has", (argument,))
        if name.text not in FUNCTIONS:
            raise self._fault(name.at, f"there is no function {name.text!r}")
        return Node("call", name.at, name.text, (*receiver, *self._list(")")))

    def _list(self, closing: str) -> tuple[Node, ...]:
        parts: list[Node] = []
        while not self._take(closing):
            if parts:
                self._expect(",")
                if closing == "]" and self._take(closing):
                    break
            parts.append(self._expression())
        return tuple(parts)

    def _map(self) -> tuple[Node, ...]:
        parts: list[Node] = []
        while not self._take("}"):
            if parts:
                self._expect(",")
                if self._take("}"):
                    break
            parts.append(self._expression())
            self._expect(":")
            parts.append(self._expression())
        return tuple(parts)

    def _primary(self) -> Node:
        token = self._peek()
        if self._take("("):
            node = self._expression()
            self._expect(")")
            return node
        if self._take("["):
            return Node("list", token.at, parts=self._list("]"))
        if self._take("{"):
            return Node("map", token.at, parts=self._map())
        if token.kind in ("text", "number"):
            self._next += 1
            return Node("literal", token.at, token.text)
        if token.kind != "name" or token.text in RESERVED:
            raise self._unexpected()
        self._next += 1
        if token.text in ("true", "false", "null"):
            return Node("literal", token.at, token.text)
        if self._take("("):
            return self._call(token, ())
        if token.text not in self._bound and token.text not in ("record", "now") and token.text not in TYPES:
            raise self._fault(token.at, f"there is no {token.text!r}; an expression sees record and now")
        return Node("name", token.at, token.text)
