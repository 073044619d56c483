"""The expressions of `when`, `exclude`, `conditions` and `--where`: a whitelisted syntax tree, never eval.

attention == 'differential' and context_length >= 512
normalization in ('prenorm', 'peri') or not model.tie_embeddings
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

from ablate.formatting import quote
from ablate.study.settings import find_same, is_same

Value = Any
Environment = Mapping[str, Value]

MAX_LENGTH = 2_000


class PredicateError(ValueError):
    """The expression does not parse, uses forbidden syntax, or compares values that cannot be compared."""


def _is_in(left: Value, right: Value) -> bool:
    return left in right if isinstance(right, str) else find_same(left, right) is not None


_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: is_same,
    ast.NotEq: lambda left, right: not is_same(left, right),
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: _is_in,
    ast.NotIn: lambda left, right: not _is_in(left, right),
}
_ORDERINGS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)

_Node = Callable[[Environment], Value]


class Predicate:
    """A compiled expression.

    `names` are the names that it reads, including dotted ones. `literals` are the texts that it compares names with:
    a misspelled one would never be equal, so callers check them.
    The constructor raises `PredicateError` for anything but names, literals, comparisons, `and`, `or`, `not`.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.names: frozenset[str] = frozenset()
        self.literals: frozenset[tuple[str, str]] = frozenset()
        if not isinstance(text, str) or len(text) > MAX_LENGTH:
            raise PredicateError(f"an expression must be text of at most {MAX_LENGTH} characters")
        try:
            self._evaluate = self._compile(ast.parse(text.strip(), mode="eval").body)
        except (RecursionError, MemoryError):
            raise PredicateError(f"{quote(text[:40])}... is nested too deeply") from None
        except SyntaxError as error:
            hint = f"{error.msg}; write it like attention == 'standard'"
            raise PredicateError(f"{quote(text)} does not parse: {hint}") from None
        except ValueError as error:
            raise (
                error if isinstance(error, PredicateError) else PredicateError(f"{quote(text)} does not parse: {error}")
            ) from None

    def __call__(self, environment: Environment) -> bool:
        """Evaluate the expression. An axis that does not exist in the arm is None: it equals and orders with nothing.

        Raises `PredicateError` where two values cannot be compared.
        """
        return bool(self._evaluate(environment))

    def _compile(self, node: ast.expr) -> _Node:
        match node:
            case ast.Constant(value=value) if value is None or isinstance(value, str | int | float | bool):
                return lambda _: value
            case ast.Name() | ast.Attribute():
                name = self._dotted(node)
                self.names |= {name}
                return lambda environment: environment[name]
            case ast.Tuple(elts=items) | ast.List(elts=items) | ast.Set(elts=items):
                parts = [self._compile(item) for item in items]
                return lambda environment: [part(environment) for part in parts]
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                inner = self._compile(operand)
                return lambda environment: not inner(environment)
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
                return lambda _: -number
            case ast.BoolOp(op=op, values=values):
                parts = [self._compile(value) for value in values]
                combine = all if isinstance(op, ast.And) else any
                return lambda environment: combine(part(environment) for part in parts)
            case ast.Compare():
                return self._compile_comparison(node)
        raise PredicateError(
            f"{quote(self.text)}: {quote(ast.unparse(node))} is not allowed; an expression consists of names, "
            "texts, numbers, == != < <= > >= in, and, or, not"
        )

    def _compile_comparison(self, node: ast.Compare) -> _Node:
        operands = (node.left, *node.comparators)
        terms = [self._compile(term) for term in operands]
        read = [self._dotted(term) for term in operands if isinstance(term, ast.Name | ast.Attribute)]
        texts = [leaf.value for term in operands for leaf in ast.walk(term) if isinstance(leaf, ast.Constant)]
        self.literals |= {(name, text) for name in read for text in texts if isinstance(text, str)}
        for op in node.ops:
            if type(op) not in _COMPARISONS:
                raise PredicateError(f"{quote(self.text)}: use == and != instead of `is`")

        def compare(environment: Environment) -> bool:
            values = [term(environment) for term in terms]
            return all(self._holds(op, *pair) for op, pair in zip(node.ops, pairwise(values), strict=True))

        return compare

    def _holds(self, op: ast.cmpop, left: Value, right: Value) -> bool:
        if isinstance(op, _ORDERINGS) and (left is None or right is None):
            return False
        try:
            return bool(_COMPARISONS[type(op)](left, right))
        except TypeError:
            raise PredicateError(f"{quote(self.text)}: {quote(left)} and {quote(right)} cannot be compared") from None

    def _dotted(self, node: ast.expr) -> str:
        if isinstance(node, ast.Name):
            return node.id
        if isinstance(node, ast.Attribute):
            return f"{self._dotted(node.value)}.{node.attr}"
        raise PredicateError(f"{quote(self.text)}: {quote(ast.unparse(node))} is not a name")
