"""Formulas of the pages as SVG, set when they are built, so that a reader needs no network."""

import re
from xml.etree import ElementTree

import ziamath
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number
from sphinx.writers.html5 import HTML5Translator

SIZE = 20.0  # of ziamath's drawing; the page scales it to its own text by em
SCALE = 1.1  # STIX is smaller than the text's sans serif of the same size

ziamath.config.svg2 = False  # no symbols with ids, which would stand on a page more than once
ziamath.config.precision = 2


def draw(tex: str, node: nodes.Node, *, inline: bool) -> str:
    """An SVG element in the colour of the text, whose baseline is that of the text."""
    formula = ziamath.Latex(tex, size=SIZE, color="currentColor", inline=inline, title=tex)
    if unknown := re.findall(r"\\\w*", "".join(formula.mathml.itertext())):
        message = "unknown TeX in a formula: %s"
        logging.getLogger(__name__).warning(message, ", ".join(unknown), location=node)
    svg = formula.svgxml()
    _, top, width, height = map(float, svg.attrib["viewBox"].split())
    em = SCALE / SIZE
    svg.attrib["width"] = f"{width * em:.3f}em"
    svg.attrib["height"] = f"{height * em:.3f}em"
    below, least = -(top + height) * em, 0.75 * width * em
    svg.attrib["style"] = f"vertical-align: {below:.3f}em; min-width: {least:.3f}em"
    svg.attrib["role"] = "img"  # named by its title
    return ElementTree.tostring(svg, encoding="unicode")


def visit_inline(page: HTML5Translator, node: nodes.math) -> None:
    page.body.append(page.starttag(node, "span", "", CLASS="math notranslate nohighlight"))
    page.body.append(draw(node.astext(), node, inline=True) + "</span>")
    raise nodes.SkipNode


def visit_block(page: HTML5Translator, node: nodes.math_block) -> None:
    page.body.append(page.starttag(node, "div", CLASS="math notranslate nohighlight"))
    if node["number"]:
        page.body.append(f'<span class="eqno">({get_node_equation_number(page, node)})</span>')
    page.body.append(draw(node.astext(), node, inline=False) + "</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("svg", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
