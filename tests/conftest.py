"""Shared by all tests: a maker of small notebooks, encoders in float64."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook


def write_notebook(path, parameters: dict, *sources: str):
    """Write a notebook, not executed: a title, a parameters cell, then one code cell per source. Returns its path."""
    lines = [f"{name} = {value!r}  # {name.lower()}" for name, value in parameters.items()]
    cells = [new_markdown_cell(f"# {path.stem}"), new_code_cell("\n".join(lines), metadata={"tags": ["parameters"]})]
    cells += [new_code_cell(source) for source in sources]
    path.parent.mkdir(parents=True, exist_ok=True)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


@pytest.fixture
def encoders_in_double(monkeypatch):
    """Encoders, alone and together, and their images in float64, where rounding hides nothing; a WCDAS head is in float32."""
    # Here, so that tests without torch need not wait for it.
    from lt_utils.data.augmentation import unit
    from lt_utils.models.heads import WCDASHead
    from lt_utils.recognition import encoders, together

    build = encoders.build_encoder

    def in_double(*one, **other):
        model = build(*one, **other).double()
        if isinstance(model.head, WCDASHead):
            model.head.float()
        return model

    for module in (encoders, together):
        monkeypatch.setattr(module, "build_encoder", in_double)
    monkeypatch.setattr(encoders, "unit", lambda images: unit(images).double())


@pytest.fixture
def notebook():
    """The function write_notebook(path, parameters, *sources)."""
    return write_notebook
