"""HTML pages from templates: one file each, which needs no other."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render(template: str, **values: Any) -> str:
    """Fill a template of `reports/templates`; text from users and other parties is escaped."""
    environment = Environment(
        loader=PackageLoader("hyfree_ray.reports", "templates"),
        autoescape=True,  # names of sites, labels and reasons come from users
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template(template).render(**values)
