"""A hook of mkdocs: ```math blocks become MathML, which browsers draw without a script or a font from elsewhere."""

import re

from latex2mathml.converter import convert


def on_page_markdown(markdown, **_):
    """The page with each ```math block as one line of HTML."""

    def equation(match):
        return f'<div class="equation">{convert(match[1].strip(), display="block")}</div>'

    return re.sub(r"^```math\n(.*?)^```$", equation, markdown, flags=re.DOTALL | re.MULTILINE)
