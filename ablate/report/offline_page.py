"""HTML pages that work offline: a single file with its style and the drawing library.

The page's Content-Security-Policy lists the hash of each script and forbids all requests. So the name of an arm or a
study, which may contain anything, cannot run, load or send anything.
"""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from importlib import resources
from typing import Any


def render_page(template: str, script: str, data: Any, **context: Any) -> str:
    """Render a page from a Jinja template and a script, which finds the data as JSON in the element `data`.

    The template gets `style`, `scripts`, `policy` and `data` in addition to the context.
    """
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    scripts = [_read_plotly(), read_template("figures.js") + script]
    return environment.from_string(template).render(
        data=embed_json(data),
        scripts=scripts,
        style=read_template("page.css"),
        policy=" ".join(_hash_script(script) for script in scripts),
        **context,
    )


def embed_json(data: Any) -> str:
    """JSON that is safe inside a script element: it cannot end the element or open a comment."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@cache
def read_template(name: str, package: str = "ablate.report") -> str:
    """Read a file from the folder `templates` of a package."""
    return resources.files(package).joinpath("templates", name).read_text(encoding="utf-8")


def _hash_script(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


@cache
def _read_plotly() -> str:
    script = resources.files("plotly").joinpath("package_data", "plotly.min.js").read_text(encoding="utf-8")
    return script.replace("\r\n", "\n").replace("\r", "\n").replace("</script", "<\\/script")
