"""Pages that open offline: one file, with the style and the drawing library in it.

Scripts run only where their hash stands in the page's own policy, and the policy forbids every request: no name that a
person gave can run, load or send anything.
"""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from importlib import resources
from typing import Any


def render_page(template: str, script: str, data: Any, **context: Any) -> str:
    """A page from its template (Jinja) and its own script, which finds the data as JSON in the element `data`.

    The template gets `style`, `scripts`, `policy` and `data` besides the context.
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
    """JSON that may stand inside a script element: no character of it can end the element or open a comment."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@cache
def read_template(name: str, package: str = "ablate.report") -> str:
    """A file of the package's folder `templates`."""
    return resources.files(package).joinpath("templates", name).read_text(encoding="utf-8")


def _hash_script(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


@cache
def _read_plotly() -> str:
    script = resources.files("plotly").joinpath("package_data", "plotly.min.js").read_text(encoding="utf-8")
    return script.replace("\r\n", "\n").replace("\r", "\n").replace("</script", "<\\/script")
