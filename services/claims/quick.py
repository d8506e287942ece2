"""Frozen values without what freezing costs at birth.

A frozen dataclass sets each of its fields through `object.__setattr__`, in its own `__init__` too: a value of ten fields
takes four times as long to make as one that may be changed. Where values are made for every line of every claim,
`quick(cls)` makes them as an open twin of the same slots and then turns them into what they are.
"""

from collections.abc import Callable
from dataclasses import MISSING, field, fields, make_dataclass
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def quick(cls: Callable[P, T]) -> Callable[P, T]:
    """A maker that stands for the class itself: same arguments, same value.

    For dataclasses with `frozen` and `slots`, without bases and `__post_init__`; any other class is given back as it is.
    """
    twin = _twin(cls)
    if twin is None:
        return cls

    names: dict[str, Any] = {"twin": twin, "cls": cls, "default": {f.name: f.default for f in fields(twin)}}
    taken = [f.name if f.default is MISSING else f"{f.name}=default[{f.name!r}]" for f in fields(twin)]
    given = ", ".join(f.name for f in fields(twin))
    source = f"def make({', '.join(taken)}):\n    value = twin({given})\n    value.__class__ = cls\n    return value\n"
    exec(source, names)  # noqa: S102 - made of the names of fields
    make: Callable[P, T] = names["make"]
    return make


def _twin(cls: Any) -> Any:
    """A class of the same slots in the same order that may be changed; None where that is not to be had."""
    frozen = getattr(cls, "__dataclass_params__", None)
    plain = frozen is not None and frozen.frozen and hasattr(cls, "__slots__") and cls.__bases__ == (object,)
    if not plain or hasattr(cls, "__post_init__") or any(f.default_factory is not MISSING for f in fields(cls)):
        return None
    same = [(f.name, Any, field(default=f.default)) for f in fields(cls)]
    return make_dataclass(f"_Open{cls.__name__}", same, slots=True)
