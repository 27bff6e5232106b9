"""A Sphinx extension: formulas as SVG within the page, which needs no network, script or font."""

import html
import re
from typing import Any

import ziamath
from docutils import nodes
from sphinx.application import Sphinx

SIZE = 17.0  # pixels, beside the text's 16

ziamath.config.svg2 = False  # each formula has its own glyphs: no names that two could share


def drawing(tex: str, inline: bool) -> str:
    """The formula as an SVG element, in the text's colour and, if inline, on its baseline."""
    formula = ziamath.Latex(tex, size=SIZE, inline=inline, color="currentColor")
    text = html.escape(re.sub(r"\s+", " ", tex), quote=True)
    style = f' style="vertical-align: {formula.getyofst() - formula.margin:.2f}px"' if inline else ""
    svg = formula.svg().replace("<svg ", f'<svg role="img" aria-label="{text}"{style} ', 1)
    return svg.replace("><", f"><title>{text}</title><", 1)


def visit_inline(translator: Any, node: nodes.math) -> None:
    translator.body.append(f'<span class="formula">{drawing(node.astext(), True)}</span>')
    raise nodes.SkipNode


def visit_block(translator: Any, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="formula-block">{drawing(node.astext(), False)}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("svg", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
