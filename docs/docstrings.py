"""A Griffe extension: the docstrings here, in the sections that mkdocstrings knows."""

import re
from typing import Any

import griffe


class Docstrings(griffe.Extension):
    """Makes `Example:` a section of code, and sets off the two lines that end a dialect's docstring."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrites a docstring before it is parsed."""
        if obj.docstring is not None:
            text = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
            text = re.sub(r"^Example::$", "For example:", text, flags=re.MULTILINE)
            obj.docstring.value = re.sub(r"^(Differs|Source): ", r"\n**\1**: ", text, flags=re.MULTILINE)
        for parameter in obj.parameters if isinstance(obj, griffe.Function) else ():
            if str(parameter.annotation) == "Any":  # says nothing
                parameter.annotation = None
