"""How keys and values of region tables look as bytes.

A :class:`Codec` pairs an encoder with its decoder and describes the layout for readers in other languages.
Keys use encodings whose byte order is the wanted order (big-endian numbers, UTF-8). Records are CBOR arrays:
item *n* is field *n* of the Struct in declaration order. Evolution: new fields go to the end and carry a
default; a shorter array takes the defaults, a longer one is read by its head; anything else is a new schema
number. Decoders raise ``ValueError`` on bytes that are not theirs; encoders raise ``ValueError`` or
``OverflowError`` on values that do not fit. Sans-IO.
"""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Callable
from typing import Any, Generic, TypeVar, get_type_hints

import cbor2
import msgspec

__all__ = ["JSON_BYTES", "RAW", "U64", "UTF8", "UUID16", "UUID_TEXT", "Codec", "cbor_record", "pair"]

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
S = TypeVar("S", bound=msgspec.Struct)


class Codec(Generic[T]):
    """One encoding.

    Args:
        layout: one line for people who read the bytes in another language.
        encode: value to bytes.
        decode: bytes to value; raises ``ValueError`` on foreign bytes.
        size_bytes: length of every encoding, or ``None`` when it varies.
    """

    __slots__ = ("decode", "encode", "layout", "size_bytes")

    def __init__(
        self,
        layout: str,
        encode: Callable[[T], bytes],
        decode: Callable[[bytes], T],
        *,
        size_bytes: int | None = None,
    ) -> None:
        self.layout = layout
        self.encode = encode
        self.decode = decode
        self.size_bytes = size_bytes

    def __repr__(self) -> str:
        return f"Codec({self.layout!r})"


def _same(value: bytes) -> bytes:
    return value


def _to_u64(raw: bytes) -> int:
    if len(raw) != 8:
        raise ValueError(f"u64 has 8 bytes, not {len(raw)}")
    return int.from_bytes(raw, "big")


def _uuid_text_to_bytes(text: str) -> bytes:
    raw = bytes.fromhex(text.replace("-", ""))
    if len(raw) != 16:
        raise ValueError(f"{text!r} is not a uuid")
    return raw


def _bytes_to_uuid_text(raw: bytes) -> str:
    digits = raw.hex()
    if len(digits) != 32:
        raise ValueError(f"a uuid has 16 bytes, not {len(raw)}")
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _decode_utf8(raw: bytes) -> str:
    return str(raw, "utf-8")


UTF8: Codec[str] = Codec("UTF-8 text", str.encode, _decode_utf8)
U64: Codec[int] = Codec(
    "u64, 8 bytes big-endian", lambda number: number.to_bytes(8, "big"), _to_u64, size_bytes=8
)
UUID16: Codec[uuid.UUID] = Codec(
    "uuid, 16 bytes", lambda value: value.bytes, lambda raw: uuid.UUID(bytes=raw), size_bytes=16
)
UUID_TEXT: Codec[str] = Codec("uuid, 16 bytes", _uuid_text_to_bytes, _bytes_to_uuid_text, size_bytes=16)
"""As text in the program (canonical, hyphenated, lower case), as 16 bytes in the table."""
RAW: Codec[bytes] = Codec("bytes", _same, _same)
JSON_BYTES: Codec[bytes] = Codec("JSON text, stored and forwarded verbatim", _same, _same)


def pair(first: Codec[A], second: Codec[B]) -> Codec[tuple[A, B]]:
    """Two values in one key or value, ordered by the first, then by the second.

    A fixed-size first part is followed directly by the second; any other first part by one 0x00, which it
    must not contain itself (``ValueError``).
    """
    size = first.size_bytes

    def encode(both: tuple[A, B]) -> bytes:
        head = first.encode(both[0])
        if size is not None:
            return head + second.encode(both[1])
        if b"\0" in head:
            raise ValueError("the first part of a key must not contain NUL")
        return head + b"\0" + second.encode(both[1])

    def decode(raw: bytes) -> tuple[A, B]:
        if size is not None:
            return first.decode(raw[:size]), second.decode(raw[size:])
        head, separator, tail = raw.partition(b"\0")
        if not separator:
            raise ValueError("separator is missing")
        return first.decode(head), second.decode(tail)

    joint = ", " if size is not None else ", 0x00, "
    both_fixed = size is not None and second.size_bytes is not None
    total = size + second.size_bytes if both_fixed and size and second.size_bytes else None
    return Codec(first.layout + joint + second.layout, encode, decode, size_bytes=total)


_SCALARS = (
    msgspec.inspect.StrType,
    msgspec.inspect.IntType,
    msgspec.inspect.FloatType,
    msgspec.inspect.BoolType,
    msgspec.inspect.BytesType,
    msgspec.inspect.NoneType,
    msgspec.inspect.LiteralType,
)


def _is_plain(kind: msgspec.inspect.Type) -> bool:
    """CBOR takes values of this type as they are."""
    if isinstance(kind, _SCALARS):
        return True
    if isinstance(kind, msgspec.inspect.UnionType):
        return all(map(_is_plain, kind.types))
    if isinstance(kind, msgspec.inspect.ListType | msgspec.inspect.VarTupleType):
        return _is_plain(kind.item_type)
    if isinstance(kind, msgspec.inspect.TupleType):
        return all(map(_is_plain, kind.item_types))
    if isinstance(kind, msgspec.inspect.DictType):
        return _is_plain(kind.key_type) and _is_plain(kind.value_type)
    return False


def _checked_struct(record: type[S]) -> msgspec.inspect.StructType:
    info = msgspec.inspect.type_info(record)
    if not isinstance(info, msgspec.inspect.StructType):
        raise TypeError(f"{record.__name__} is not a Struct")
    renamed = [field.name for field in info.fields if field.name != field.encode_name]
    if info.tag is not None or renamed:
        raise TypeError(f"{record.__name__}: a record of an array has neither tag nor renamed fields")
    return info


def _array_twin(record: type[S], info: msgspec.inspect.StructType) -> type[msgspec.Struct]:
    """A Struct with the same fields that msgspec reads from an array: types and defaults in one fast call."""
    hints = get_type_hints(record, include_extras=True)
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    for field in info.fields:
        if field.default is not msgspec.NODEFAULT:
            fields.append((field.name, hints[field.name], field.default))
        elif field.default_factory is not msgspec.NODEFAULT:
            factory = msgspec.field(default_factory=field.default_factory)
            fields.append((field.name, hints[field.name], factory))
        else:
            fields.append((field.name, hints[field.name]))
    return msgspec.defstruct(f"{record.__name__}Array", fields, array_like=True, kw_only=True)


def _from_items(record: type[S], info: msgspec.inspect.StructType) -> Callable[[list[object]], S]:
    """Checked record from decoded items; several times as fast as by way of a dictionary of names."""
    convert, twin = msgspec.convert, _array_twin(record, info)
    asdict, astuple = msgspec.structs.asdict, msgspec.structs.astuple
    kinds = {parameter.kind for parameter in inspect.signature(record).parameters.values()}
    if kinds <= {inspect.Parameter.POSITIONAL_OR_KEYWORD}:
        return lambda items: record(*astuple(convert(items, twin)))
    return lambda items: record(**asdict(convert(items, twin)))


def cbor_record(record: type[S]) -> Codec[S]:
    """Codec of a Struct as a CBOR array of its fields in declaration order.

    Fields may be text, bytes, numbers, booleans, ``None``, literals, enums, and lists, tuples, dicts or
    Structs of these; a Struct inside the record is a CBOR map by field name. Integers should fit 64 bits.

    Raises:
        TypeError: the Struct is tagged or renames fields, so an array could not hold it.
    """
    info = _checked_struct(record)
    loads, dumps, from_items = cbor2.loads, cbor2.dumps, _from_items(record, info)
    plain = all(_is_plain(field.type) for field in info.fields)

    def encode(value: S) -> bytes:
        items = msgspec.structs.astuple(value)
        try:
            return dumps(items if plain else msgspec.to_builtins(items, builtin_types=(bytes,)))
        except cbor2.CBOREncodeError as error:
            raise ValueError(str(error)) from error

    def decode(raw: bytes) -> S:
        try:
            items = loads(raw)
        except cbor2.CBORDecodeError as error:
            raise ValueError(str(error)) from error
        if not isinstance(items, list):
            raise ValueError(f"a record is a CBOR array, not {type(items).__name__}")
        return from_items(items)

    return Codec(f"CBOR array [{', '.join(record.__struct_fields__)}]", encode, decode)
