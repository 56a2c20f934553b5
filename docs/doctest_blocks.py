"""Shows the doctests of docstrings as code: fenced, as Markdown has no paragraph that begins with >>>."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

DOCTEST = re.compile(r"^( *)>>> .*(?:\n *\S.*)*", re.MULTILINE)


def fenced(docstring: str) -> str:
    """The docstring with a fence around every doctest; a doctest ends at an empty line.

    >>> print(fenced("Twice.\\n\\n>>> 1 + 1\\n2\\n\\nMore."))
    Twice.
    <BLANKLINE>
    ```python
    >>> 1 + 1
    2
    ```
    <BLANKLINE>
    More.
    """
    return DOCTEST.sub(lambda found: f"{found[1]}```python\n{found[0]}\n{found[1]}```", docstring)


class DoctestBlocks(Extension):
    """Rewrites every docstring as it is collected."""

    def on_instance(self, *, obj: Object, **kwargs: Any) -> None:
        """Called by griffe for every module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)
