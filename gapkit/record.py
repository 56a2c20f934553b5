"""Record: the frozen, self-describing value that every result and plan is; written and read back unchanged."""

from __future__ import annotations

from html import escape
from typing import Annotated, Any

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    PlainSerializer,
    PlainValidator,
    SerializationInfo,
    ValidationInfo,
    WithJsonSchema,
)


def _read_array(value: Any, info: ValidationInfo) -> np.ndarray:
    if isinstance(value, dict) and set(value) == {"tensor"}:
        arrays = (info.context or {}).get("arrays", {})
        if value["tensor"] not in arrays:
            raise ValueError(
                f"Expected an array named {value['tensor']!r} beside the record, found none"
            )
        value = arrays[value["tensor"]]
    array = np.array([] if value is None else value)
    if array.dtype == object or array.dtype.kind in "US":
        array = np.array(value, dtype=np.float64)  # 'nan' and 'inf' come back from JSON as words
    array.flags.writeable = False
    return array


def _write_array(array: np.ndarray, info: SerializationInfo) -> Any:
    arrays = (info.context or {}).get("arrays")
    if arrays is not None:
        name = f"a{len(arrays)}"
        arrays[name] = np.ascontiguousarray(array)
        return {"tensor": name}
    if info.mode == "json" and array.dtype.kind == "f":
        finite, words = np.isfinite(array), array.astype(object)
        words[~finite] = array[~finite].astype(str)  # numbers stay numbers beside "nan" and "inf"
        return words.tolist()
    return array.tolist() if info.mode == "json" else array


Array = Annotated[
    np.ndarray,
    PlainValidator(_read_array),
    PlainSerializer(_write_array),
    WithJsonSchema({"type": ["array", "object"]}),
]
"""A read-only numpy array; as JSON a nested list, or a name when arrays are stored beside the text."""


class Record(BaseModel):
    """Frozen, keyword-only, compared by value; unknown fields are refused.

    >>> class Point(Record):
    ...     x: Array
    >>> Point.model_validate_json(Point(x=[1.0, float("nan")]).model_dump_json()).x
    array([ 1., nan])
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", ser_json_inf_nan="strings", arbitrary_types_allowed=True
    )

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.model_dump_json() == other.model_dump_json()  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    def with_(self, **changes: Any):
        """A validated copy with some fields changed."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self)(**(fields | changes))

    def _repr_html_(self) -> str:
        """What a notebook shows: the record in a line, and its fields in a table."""
        fields = ((name, _cell(getattr(self, name))) for name in type(self).model_fields)
        rows = "".join(
            f'<tr><th scope="row" style="text-align: left">{escape(name.replace("_", " "))}</th>'
            f'<td style="text-align: left">{cell}</td></tr>'
            for name, cell in fields
            if cell
        )
        return f"<p>{_words(self)}</p><table>{rows}</table>"


SHOWN, LONGEST = 8, 300


def _words(value: Any) -> str:
    text = " ".join(str(value).split())
    return escape(text if len(text) <= LONGEST else text[:LONGEST] + "…")


def _cell(value: Any) -> str:
    """A field's value as HTML; several records a line each, arrays by their shape, nothing for nothing."""
    if isinstance(value, np.ndarray):
        return f"{'×'.join(map(str, value.shape))} numbers" if value.size else ""
    if isinstance(value, (tuple, list)):
        more = f"<br>… {len(value) - SHOWN} more" if len(value) > SHOWN else ""
        return "<br>".join(map(_words, value[:SHOWN])) + more
    return "" if value is None or value in ("", {}) else _words(value)
