"""A picture as one self-contained HTML page that steps through the two passes; it fetches nothing."""

from __future__ import annotations

import dataclasses
import json
import re
from html import escape
from importlib import resources
from typing import Any

from overbar.graph.picture import Picture


def page(picture: Picture) -> str:
    """The page: page.html with its style, its program and the picture as data put in.

    The picture is data to the page's program, which writes every text of it as text: no name in it is markup.
    """
    files = resources.files("overbar.graph")
    parts = {
        "title": escape(picture.title),
        "style": files.joinpath("page.css").read_text("utf-8"),
        "script": files.joinpath("page.js").read_text("utf-8"),
        "data": _data(picture),
    }
    template = files.joinpath("page.html").read_text("utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match.group(1)], template)


def _data(picture: Picture) -> str:
    """JSON that stands in a script element: < and & are written as \\u codes, so that nothing ends it."""
    text = json.dumps(_plain(picture), ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _plain(value: Any) -> Any:
    """Without the fields that hold nothing: the page's program takes a missing one for an empty one."""
    if dataclasses.is_dataclass(value):
        fields = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
        return {name: _plain(item) for name, item in fields if item not in ("", (), None)}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value
