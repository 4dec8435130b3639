"""The filter grammar: `cpu > 5 and comm ~ "postgres|pg_.*"`. Pure: text in, a `Query` out.

    query       an `or` of `and`s of terms; terms side by side are an `and`; not, ( )
    term        field op value: = != < <= > >= ~ (pattern, re.search) !~
                field is [not] unknown (also `field = -`)
    a word or "quoted text": the row shows it, in either case, in what is no figure
    value       a word, a number with a unit (20ms 1.5MiB 10k 5%), "quoted text"

What fields there are is the table's affair: ktop/query_match.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

HELP = """\
  postgres                rows that show it, in either case, not in figures
  cpu > 5 and rss > 1GiB  a column or a field of the row: = != < <= > >=
  comm ~ "pg_.*|psql"     has the pattern; !~ has not; capitals mean capitals
  rtt > 20ms or not (state = ESTAB)
  cpu is unknown          what shows as -: comparing it is never true
Units: ns us ms s m h d; KB MB GB by 1000, KiB MiB GiB by 1024, K M G as the
column has them. The totals above the tables stay those of the scope."""
MAX_LENGTH = 500
MAX_DEPTH = 40
OPERATORS = ("=", "!=", "<", "<=", ">", ">=", "~", "!~")
_SAME = {"==": "=", "=~": "~", "!": "not", "&&": "and", "||": "or"}
_KEYWORDS = ("and", "or", "not")
_OPERATOR = re.compile(r"==|=~|!=|!~|<=|>=|[=<>~]")
_WORD = re.compile(r"""[^\s()"'=<>!~]+""")
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)")
# for `20 ms`: a number, a blank and exactly one of these are one value
UNITS = ("ns", "us", "µs", "ms", "s", "m", "min", "h", "d", "B", "%", "k", "K", "M", "G", "T",
         "KB", "kB", "MB", "GB", "TB", "KiB", "MiB", "GiB", "TiB")


class QueryError(ValueError):
    """What is wrong, and the character it is about (0 is the first).

    unfinished: more to come would put it right; who is still typing need not be told.
    """

    def __init__(self, message: str, at: int, unfinished: bool = False) -> None:
        super().__init__(message)
        self.message, self.at, self.unfinished = message, at, unfinished


@dataclass(frozen=True)
class Search:
    """The row shows this text, in upper or lower case."""

    text: str
    at: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Compare:
    """A field against a value. `quoted`: text and never a number. `at`, `value_at`: where."""

    name: str
    op: str
    value: str
    quoted: bool = False
    at: int = field(default=0, compare=False)
    value_at: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Unknown:
    """A field whose value nobody knows; `known` turns it round."""

    name: str
    known: bool = False
    at: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Not:
    """What is not so."""

    term: Term


@dataclass(frozen=True)
class And:
    """All of two or more; none of them is an And."""

    terms: tuple[Term, ...]


@dataclass(frozen=True)
class Or:
    """Any of two or more; none of them is an Or."""

    terms: tuple[Term, ...]


Term = Search | Compare | Unknown | Not | And | Or


@dataclass(frozen=True)
class Query:
    """What was asked. Nothing asked for (`term` is None) is every row."""

    term: Term | None = None

    def __bool__(self) -> bool:
        """Whether it asks for anything."""
        return self.term is not None

    def __str__(self) -> str:
        """The query in the grammar, with every `and` written: parse(str(query)) == query."""
        return "" if self.term is None else _text(self.term)


class Token(NamedTuple):
    """kind: `word`, `text` (quoted), `value` (after an operator), `op`, `(`, `)`, `and`, `or`,
    `not`. open: a quote that is not closed.
    """

    kind: str
    text: str
    start: int
    end: int
    open: bool = False


# -- text to tokens --------------------------------------------------------------------------------


def _quoted(text: str, start: int) -> Token:
    r"""Text in quotes; `\"` and `\\` are the characters, other backslashes stay for patterns."""
    quote, at, found = text[start], start + 1, ""
    while at < len(text) and text[at] != quote:
        if text[at] == "\\" and text[at + 1:at + 2] in (quote, "\\"):
            at += 1
        found += text[at:at + 1]
        at += 1
    closed = at < len(text)
    return Token("text", found, start, min(at + 1, len(text)), not closed)


def _value(text: str, start: int) -> Token:
    """A value without quotes: to the next blank, or to a parenthesis that was open before."""
    depth, at = 0, start
    while at < len(text) and not text[at].isspace():
        depth += (text[at] == "(") - (text[at] == ")")
        if depth < 0:
            break
        at += 1
    return Token("value", text[start:at], start, at)


def tokens(text: str) -> list[Token]:
    """All of the text as tokens, mistakes included: what completion looks at too."""
    found: list[Token] = []
    at = 0
    while at < len(text):
        char = text[at]
        if char.isspace():
            at += 1
            continue
        if char in "\"'":
            token = _quoted(text, at)
        elif found and found[-1].kind == "op" and char != ")":
            token = _value(text, at)
        elif char in "()":
            token = Token(char, char, at, at + 1)
        elif match := _OPERATOR.match(text, at):
            op = match.group()
            token = Token("op", _SAME.get(op, op), at, match.end())
        elif char == "!":
            token = Token("not", "!", at, at + 1)
        else:
            match = _WORD.match(text, at)
            word = match.group() if match else char
            lower = _SAME.get(word, word.lower())
            token = Token(lower if lower in _KEYWORDS else "word", word, at, at + len(word))
        found.append(token)
        at = token.end
    return found


# -- tokens to a query -----------------------------------------------------------------------------


class _Parser:
    """Recursive descent over the tokens."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = tokens(text)
        self.at = 0
        self.depth = 0

    def peek(self, ahead: int = 0) -> Token:
        """The token at hand; past the end an empty one."""
        if self.at + ahead < len(self.tokens):
            return self.tokens[self.at + ahead]
        return Token("end", "", len(self.text), len(self.text))

    def take(self) -> Token:
        """The token at hand, and on to the next."""
        token = self.peek()
        self.at += 1
        return token

    def any(self) -> Term:
        """`a or b`."""
        terms = [self.all()]
        while self.peek().kind == "or":
            self.take()
            terms.append(self.all())
        return _joined(Or, terms)

    def all(self) -> Term:
        """`a and b`, `a b`."""
        terms = [self.one()]
        while True:
            if self.peek().kind == "and":
                self.take()
            elif self.peek().kind not in ("word", "text", "not", "("):
                return _joined(And, terms)
            terms.append(self.one())

    def one(self) -> Term:
        """One term, with all the `not`s before it."""
        negations = 0
        while self.peek().kind == "not":
            self.take()
            negations += 1
        if negations > MAX_DEPTH:
            raise QueryError(f"more than {MAX_DEPTH} times not", self.peek().start)
        term = self.plain()
        for _ in range(negations):
            term = Not(term)
        return term

    def plain(self) -> Term:
        """A group, a comparison or a word."""
        token = self.take()
        if token.kind == "(":
            return self.group(token)
        if token.kind == "text":
            if token.open:
                raise QueryError("this quote is not closed", token.start, True)
            if self.peek().kind == "op":
                raise QueryError("a field is written without quotes", token.start)
            if not token.text:
                raise QueryError("nothing is quoted here", token.start)
            return Search(token.text, token.start)
        if token.kind != "word":
            raise QueryError(_instead(token), token.start, token.kind == "end")
        if self.peek().kind == "op":
            return self.comparison(token)
        return self.state(token) or Search(token.text, token.start)

    def group(self, opening: Token) -> Term:
        """`( ... )`."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise QueryError(f"more than {MAX_DEPTH} parentheses in each other", opening.start)
        term = self.any()
        if self.peek().kind != ")":
            unclosed = self.peek().kind == "end"
            raise QueryError("this parenthesis is not closed" if unclosed else
                             _instead(self.peek()),
                             opening.start if unclosed else self.peek().start, unclosed)
        self.take()
        self.depth -= 1
        return term

    def comparison(self, name: Token) -> Term:
        """`field op value`."""
        op, value = self.take(), self.take()
        if value.kind not in ("value", "text"):
            raise QueryError(f"a value is missing after {op.text}", value.start,
                             value.kind == "end")
        if value.open:
            raise QueryError("this quote is not closed", value.start, True)
        if value.kind == "value" and value.text[0] in "=<>!~":
            raise QueryError(f"{op.text}{value.text[0]} is no operator: "
                             f"{' '.join(OPERATORS)}; or quote the value", value.start)
        text = value.text
        if value.kind == "value" and text.count("(") > text.count(")"):
            raise QueryError("quote a value with a parenthesis that stays open", value.start)
        if value.kind == "value" and text == "-" and op.text in ("=", "!="):
            return Unknown(name.text, op.text == "!=", name.start)
        after = self.peek()
        if (value.kind == "value" and after.kind == "word" and after.text in UNITS
                and _NUMBER.fullmatch(text) and self.peek(1).kind != "op"):
            text += self.take().text
        return Compare(name.text, op.text, text, value.kind == "text", name.start, value.start)

    def state(self, name: Token) -> Term | None:
        """`field is [not] unknown|known`; None when it is just words."""
        words = [self.peek(n) for n in range(3)]
        if words[0].kind != "word" or words[0].text.lower() != "is":
            return None
        negated = words[1].kind == "not"
        what = words[2 if negated else 1]
        if what.kind != "word" or what.text.lower() not in ("unknown", "known"):
            return None
        self.at += 3 if negated else 2
        return Unknown(name.text, (what.text.lower() == "known") != negated, name.start)


def _joined(kind: type[And] | type[Or], terms: list[Term]) -> Term:
    """Terms as one; what is of the same kind within is the same list."""
    if len(terms) == 1:
        return terms[0]
    flat: list[Term] = []
    for term in terms:
        flat.extend(term.terms if isinstance(term, And | Or) and isinstance(term, kind)
                    else (term,))
    return kind(tuple(flat))


def _instead(token: Token) -> str:
    """What somebody who knows the grammar would say about a token out of place."""
    return {"op": f"a field is missing before {token.text}",
            ")": "no parenthesis is open here",
            "end": "something is missing at the end"}.get(
                token.kind, f"something is missing before {token.text}")


def parse(text: str) -> Query:
    """The query. QueryError with the place of what is wrong; nothing else is ever raised."""
    if len(text) > MAX_LENGTH:
        raise QueryError(f"longer than {MAX_LENGTH} characters", MAX_LENGTH)
    parser = _Parser(text)
    if not parser.tokens:
        return Query()
    term = parser.any()
    rest = parser.peek()
    if rest.kind != "end":
        raise QueryError(_instead(rest), rest.start)
    return Query(term)


# -- a query to text -------------------------------------------------------------------------------


def quote(text: str) -> str:
    """Text in quotes, as `parse` reads it."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def word(text: str) -> str:
    """Text as a search: in quotes where it would be something else without."""
    plain = _WORD.fullmatch(text) and _SAME.get(text, text.lower()) not in _KEYWORDS
    return text if plain else quote(text)


def value(text: str) -> str:
    """Text as a value: in quotes where it would not be one word without."""
    found = tokens("x=" + text)
    plain = (len(found) == 3 and found[2].kind == "value" and found[2].text == text
             and text[0] not in "=<>!~" and text != "-" and text.count("(") == text.count(")"))
    return text if plain else quote(text)


def _text(term: Term, inside: str = "") -> str:
    if isinstance(term, Search):
        return word(term.text)
    if isinstance(term, Compare):
        return f"{term.name} {term.op} {quote(term.value) if term.quoted else term.value}"
    if isinstance(term, Unknown):
        return f"{term.name} is {'known' if term.known else 'unknown'}"
    if isinstance(term, Not):
        return f"not {_text(term.term, 'not')}"
    joint = "and" if isinstance(term, And) else "or"
    text = f" {joint} ".join(_text(part, joint) for part in term.terms)
    return f"({text})" if inside and (inside, joint) != ("or", "and") else text
