"""Straight code for a layout: what `forms.py` does by walking a tree, written out once as two functions.

Both functions do nothing but the good case. At the first thing that is not as it should be they raise any of
`NOT_PLAIN`, without saying what it was; the forms then go over the same value or bytes and say it. So there is one place
that judges, and this one only has to be careful never to accept what the forms refuse:

- a slice beyond the end is short, but `at` moves on regardless, and the caller compares it with the length;
- counts are held against their limit before anything is made;
- text that has not been seen is judged by its form.
"""

import struct
from collections.abc import Callable
from typing import Any, Final

from claims.forms import BytesForm, Form, ManyForm, OptionalForm, PackedForm, ScalarForm, StructForm, TextForm
from claims.quick import quick

NOT_PLAIN: Final = (ValueError, TypeError, LookupError, AttributeError, struct.error)
"""What the straight code raises where it gives up; encoding and decoding errors are values of the first."""
_COUNT: Final = struct.Struct(">I")
_LENGTH: Final = struct.Struct(">H")
Write = Callable[[Any, bytearray], None]
Read = Callable[[bytes, int], tuple[Any, int]]


class _Source:
    """Lines of a function under way, and the objects that they name."""

    def __init__(self, head: str) -> None:
        self._lines = [head]
        self._depth = 1
        self._taken = 0
        self.names: dict[str, Any] = {
            "COUNT": _COUNT.pack,
            "LENGTH": _LENGTH.pack,
            "count_at": _COUNT.unpack_from,
        }

    def fresh(self) -> str:
        """A name that nothing else has."""
        self._taken += 1
        return f"v{self._taken}"

    def known(self, thing: Any) -> str:
        """A name for an object of this process."""
        name = self.fresh()
        self.names[name] = thing
        return name

    def add(self, *lines: str) -> None:
        self._lines += ["    " * self._depth + line for line in lines]

    def deeper(self, head: str) -> "_Source":
        self.add(head)
        return self

    def __enter__(self) -> None:
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1

    def function(self, name: str) -> Any:
        exec("\n".join(self._lines), self.names)  # noqa: S102 - made of a layout, of nothing that comes in
        return self.names[name]


def compile_write(form: StructForm) -> Write:
    """`write(value, out)`: appends the encoding of a plain value."""
    source = _Source("def write(value, out):")
    _write_struct(source, form, "value")
    return source.function("write")  # type: ignore[no-any-return]


def compile_read(form: StructForm) -> Read:
    """`read(data, at)`: the value and where it ended, which may be beyond the end of the bytes."""
    source = _Source("def read(data, at):")
    value = _read(source, form)
    source.add(f"return {value}, at")
    return source.function("read")  # type: ignore[no-any-return]


def _refuse_if(source: _Source, condition: str) -> None:
    source.add(f"if {condition}: raise ValueError")


# Writing: each takes the expression of a value and adds lines that append it to `out`.


def _write(source: _Source, form: Form, value: str) -> None:
    match form:
        case StructForm():
            _write_struct(source, form, value)
        case ScalarForm(packed=packed):
            _write_packed(source, packed, [value])
        case BytesForm(limit=limit):
            _refuse_if(source, f"len({value}) > {limit}")
            source.add(f"out += COUNT(len({value}))", f"out += {value}")
        case TextForm():
            _write_text(source, form, value)
        case ManyForm(limit=limit, item=item):
            _refuse_if(source, f"len({value}) > {limit}")
            source.add(f"out += COUNT(len({value}))")
            one = source.fresh()
            with source.deeper(f"for {one} in {value}:"):
                _write(source, item, one)
        case OptionalForm(item=item):
            source.add(f"out.append({value} is not None)")
            with source.deeper(f"if {value} is not None:"):
                _write(source, item, value)
        case _:
            raise TypeError(f"no straight code for {form!r}")


def _write_text(source: _Source, form: TextForm, value: str) -> None:
    carefully = f"{source.known(form.write)}({value}, out)"
    if form.is_kept:
        text = source.fresh()
        source.add(f"{text} = {source.known(form.written)}.get({value})", f"if {text} is None: {carefully}")
        source.add(f"else: out += {text}")
    else:
        source.add(f"if {value}.isascii() and {value}.isprintable() and len({value}) <= {form.limit}:")
        source.add(f"    out += LENGTH(len({value}))", f"    out += {value}.encode()")
        source.add(f"else: {carefully}")


def _write_struct(source: _Source, form: StructForm, value: str) -> None:
    for name, part in form.parts:
        if isinstance(part, PackedForm):
            _write_packed(source, part, [f"{value}.{field}" for field in part.names])
        else:
            taken = source.fresh()
            source.add(f"{taken} = {value}.{name}")
            _write(source, part, taken)


def _write_packed(source: _Source, form: PackedForm, values: list[str]) -> None:
    wrong = [f"len({values[index]}) != {length}" for index, length in form.fixed]
    wrong += [f"type({values[index]}) is not {source.known(kind)}" for index, kind in form.kinds]
    if wrong:
        _refuse_if(source, " or ".join(wrong))
    source.add(f"out += {source.known(form.pack)}({', '.join(values)})")


# Reading: each adds lines that take a value from `data` at `at`, and returns the name that then holds it.


def _read(source: _Source, form: Form) -> str:
    match form:
        case StructForm():
            return _read_struct(source, form)
        case ScalarForm(packed=packed):
            return _read_packed(source, packed)[0]
        case BytesForm(limit=limit):
            start, value = source.fresh(), source.fresh()
            source.add(f"{start} = at + 4", f"at = {start} + count_at(data, at)[0]")
            _refuse_if(source, f"at - {start} > {limit}")
            source.add(f"{value} = data[{start}:at]")
            return value
        case TextForm():
            return _read_text(source, form)
        case ManyForm(limit=limit, item=item):
            return _read_many(source, limit, item)
        case OptionalForm(item=item):
            return _read_optional(source, item)
    raise TypeError(f"no straight code for {form!r}")


def _read_struct(source: _Source, form: StructForm) -> str:
    taken: list[str] = []
    for _, part in form.parts:
        taken += _read_packed(source, part) if isinstance(part, PackedForm) else [_read(source, part)]
    value = source.fresh()
    source.add(f"{value} = {source.known(quick(form.make))}({', '.join(taken)})")
    return value


def _read_packed(source: _Source, form: PackedForm) -> list[str]:
    taken = [source.fresh() for _ in form.names]
    source.add(f"{', '.join(taken)}, = {source.known(form.unpack_from)}(data, at)", f"at += {form.size}")
    source.add(*(f"{taken[index]} = {source.known(members)}[{taken[index]}]" for index, members in form.members))
    return taken


def _read_text(source: _Source, form: TextForm) -> str:
    start, raw, value = source.fresh(), source.fresh(), source.fresh()
    source.add(
        f"{start} = at + 2",
        f"at = {start} + (data[at] << 8 | data[at + 1])",
        f"{raw} = data[{start}:at]",
    )
    carefully = f"{value} = {source.known(form.read)}(data, {start} - 2)[0]"
    if form.is_kept:
        source.add(f"{value} = {source.known(form.known)}.get({raw})", f"if {value} is None: {carefully}")
    else:
        source.add(f"{value} = {raw}.decode()")
        source.add(f"if not ({raw}.isascii() and {value}.isprintable() and len({raw}) <= {form.limit}): {carefully}")
    return value


def _read_many(source: _Source, limit: int, item: Form) -> str:
    count, items, value = source.fresh(), source.fresh(), source.fresh()
    source.add(f"{count} = count_at(data, at)[0]", "at += 4")
    _refuse_if(source, f"{count} > {limit}")
    source.add(f"{items} = []")
    with source.deeper(f"for _ in range({count}):"):
        one = _read(source, item)
        source.add(f"{items}.append({one})")
    source.add(f"{value} = tuple({items})")
    return value


def _read_optional(source: _Source, item: Form) -> str:
    value = source.fresh()
    source.add("at += 1")
    with source.deeper("if data[at - 1] == 1:"):
        one = _read(source, item)
        source.add(f"{value} = {one}")
    with source.deeper("else:"):
        _refuse_if(source, "data[at - 1]")
        source.add(f"{value} = None")
    return value
