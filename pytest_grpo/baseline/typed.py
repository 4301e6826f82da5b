"""Dataclasses from JSON, each value held against its annotation. Light: the plugin alone has no pydantic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

_Value = TypeVar("_Value")
_NAMES = {str: "text", bool: "true or false", int: "a whole number", float: "a number", NoneType: "null"}


class TypedError(ValueError):
    """Which value is not what its annotation says."""


def read_typed(kind: type[_Value], value: object) -> _Value:
    """``value``, as parsed from JSON, as the dataclass ``kind``. A list becomes the tuple that is annotated, a whole
    number a float. Keys that the dataclass does not have are ignored.

    Raises:
        TypedError: a key is missing, or a value is not what its annotation says.
    """
    return _read(kind, value, "")


def _read(kind: Any, value: Any, where: str) -> Any:
    if is_dataclass(kind):
        return _read_dataclass(kind, value, where)
    origin, inner = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return None if value is None else _read(next(each for each in inner if each is not NoneType), value, where)
    if origin is Literal:
        return value if value in inner else _refuse(value, where, f"one of {', '.join(map(str, inner))}")
    if origin is list:
        return [_read(inner[0], each, f"{where}.{place}") for place, each in enumerate(_as(list, value, where))]
    if origin is tuple:
        return _read_tuple(inner, _as(list, value, where), where)
    if origin is dict:
        return {key: _read(inner[1], each, f"{where}.{key}") for key, each in _as(dict, value, where).items()}
    return value if kind is object else _read_scalar(kind, value, where)


def _read_dataclass(kind: Any, value: Any, where: str) -> Any:
    given: Mapping[str, Any] = _as(dict, value, where)
    hints = _hints(kind)
    for field in fields(kind):
        if field.name not in given and field.default is MISSING and field.default_factory is MISSING:
            raise TypedError(f"{where}.{field.name}: it is missing".removeprefix("."))
    return kind(**{name: _read(hint, given[name], f"{where}.{name}") for name, hint in hints.items() if name in given})


def _read_tuple(inner: tuple[Any, ...], value: list[Any], where: str) -> tuple[Any, ...]:
    kinds = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
    if len(kinds) != len(value):
        _refuse(value, where, f"a list of {len(kinds)}")
    return tuple(
        _read(each, part, f"{where}.{place}") for place, (each, part) in enumerate(zip(kinds, value, strict=True))
    )


def _read_scalar(kind: Any, value: Any, where: str) -> Any:
    if type(value) is kind:
        return value
    if kind is float and type(value) is int:
        return float(value)
    return _refuse(value, where, _NAMES[kind])


def _as(kind: type, value: Any, where: str) -> Any:
    return value if isinstance(value, kind) else _refuse(value, where, "a list" if kind is list else "an object")


def _refuse(value: object, where: str, allowed: str) -> Any:
    shown = repr(value)
    raise TypedError(f"{where.removeprefix('.')}: {shown[:40]}{'...' if len(shown) > 40 else ''} is not {allowed}")


@cache
def _hints(kind: type) -> Mapping[str, Any]:
    return get_type_hints(kind)
