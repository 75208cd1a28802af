"""What the report shows of notebooks: each as an HTML page that needs no network, and its question, finding and key figure."""

import re
from dataclasses import dataclass
from pathlib import Path

from latex2mathml.converter import convert

from lt_utils.files import write_whole
from lt_utils.runs.parameters import read_notebook

KEY_FIGURE = "key-figure"  # tag of the cell whose picture stands for its notebook
# Formulas are MathML already: the template's scripts, which fetch MathJax and others from the network, are left out.
TEMPLATE = """{% extends 'lab/index.html.j2' %}{% block html_head_js %}{% endblock %}{% block html_head_js_mathjax %}
{% endblock %}{% block html_head_js_mermaidjs %}{% endblock %}{% block jupyter_widgets %}{% endblock %}"""
# What to do about a page that cannot be written.
AGAIN = "make room and give the same command again"


@dataclass(frozen=True)
class Summary:
    """What a notebook says of itself: texts are Markdown, `figure` is a PNG in base64, all empty if it says nothing."""

    title: str
    question: str
    finding: str
    figure: str


def to_html(text: str) -> str:
    """Markdown with formulas as HTML; formulas become MathML, which a browser draws without a network."""
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    class Renderer(IPythonRenderer):
        def inline_math(self, body: str) -> str:
            return convert(body)

        def block_math(self, body: str) -> str:
            return convert(body, display="block")

    return MarkdownWithMath(renderer=Renderer(escape=False, anchor_link_text="¶")).render(text)


def write_page(notebook: Path) -> None:
    """notebook.html beside notebook.ipynb, unless it is there and newer."""
    page = notebook.with_suffix(".html")
    if not notebook.exists() or (page.exists() and page.stat().st_mtime >= notebook.stat().st_mtime):
        return
    # Here, because the import takes longer than a batch with nothing to do.
    from nbconvert import HTMLExporter
    from nbconvert.preprocessors import TagRemovePreprocessor

    exporter = HTMLExporter(raw_template=TEMPLATE, filters={"markdown2html": to_html})
    folded = TagRemovePreprocessor(enabled=True, remove_input_tags={"more-parameters"})  # parameters.yaml has them all
    exporter.register_preprocessor(folded, enabled=True)
    body, _ = exporter.from_filename(str(notebook))
    # Half a page, newer than its notebook, would stay.
    write_whole(page, lambda file: file.write(body.encode()), AGAIN)


def summary_of(notebook: Path) -> Summary:
    """Title, question, finding and key figure of a notebook file; CourseError if it is none."""
    cells = read_notebook(notebook)["cells"]
    texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    header = texts[0] if texts else ""
    title = re.search(r"^# (.+)$", "\n".join(texts), re.M)
    said = {
        name: re.search(rf"\*\*{name}\.\*\*\s*(.+?)(?=\n\n|\n\*\*|\Z)", header, re.S)
        for name in ("Question", "What we found")
    }
    figures = [
        "".join(output["data"]["image/png"]).replace("\n", "")
        for cell in cells
        if KEY_FIGURE in cell.get("metadata", {}).get("tags", [])
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    question, finding = ("" if found is None else " ".join(found[1].split()) for found in said.values())
    return Summary(title[1].strip() if title else notebook.stem, question, finding, figures[0] if figures else "")
