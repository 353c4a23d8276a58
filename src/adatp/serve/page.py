"""The page that describes the API: plain HTML, without scripts and without requests to other hosts."""

from __future__ import annotations

from html import escape
from typing import Any

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
code { background: #f2f2f2; padding: 0 .25rem; } h2 { border-top: 1px solid #ddd; padding-top: 1rem; }
table { border-collapse: collapse; width: 100%; } td, th { text-align: left; vertical-align: top;
padding: .25rem .75rem .25rem 0; border-bottom: 1px solid #eee; }
"""


def page_of(schema: dict[str, Any]) -> str:
    """The page of an OpenAPI description."""
    info, parts = schema["info"], schema["components"]["schemas"]
    paths = "".join(
        f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(facts.get('summary', ''))}.</p>"
        for path, methods in schema["paths"].items()
        for method, facts in methods.items()
    )
    tables = "".join(_table(name, parts[name]) for name in parts if parts[name].get("properties"))
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{escape(info['title'])}</title>"
        f"<style>{_STYLE}</style><h1>{escape(info['title'])} {escape(info['version'])}</h1>"
        f"<p>{escape(info['description'])} <a href='openapi.json'>openapi.json</a></p>{paths}{tables}</html>"
    )


def _table(name: str, part: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(field)}</code></td><td>{escape(_kind(facts))}</td>"
        f"<td>{escape(facts.get('description', ''))}</td></tr>"
        for field, facts in part["properties"].items()
    )
    about = escape(part.get("description", "")).replace("``", "")
    return f"<h2 id='{escape(name)}'>{escape(name)}</h2><p>{about}</p><table>{rows}</table>"


def _kind(facts: dict[str, Any]) -> str:
    """The kind of a field in a few words."""
    if "$ref" in facts:
        return str(facts["$ref"]).rpartition("/")[2]
    if "const" in facts or "enum" in facts:
        return ", ".join(map(repr, facts.get("enum", [facts.get("const")])))
    if "anyOf" in facts or "oneOf" in facts:
        kinds = [_kind(each) for each in facts.get("anyOf", facts.get("oneOf", []))]
        return " or ".join(kind for kind in kinds if kind != "null")
    if facts.get("type") == "array":
        return f"list of {_kind(facts.get('items', {}))}"
    return str(facts.get("type", "any"))
