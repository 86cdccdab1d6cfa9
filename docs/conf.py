"""How Sphinx builds these pages."""

from __future__ import annotations

from importlib.metadata import version as version_of
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from docutils.nodes import Element
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

project = "resumable-llm"
author = "resumable-llm contributors"
copyright = "2026, resumable-llm contributors"
release = version = version_of("resumable-llm")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
default_role = "code"
html_theme = "furo"
html_title = f"resumable-llm {release}"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_use_ivar = True  # else Report.bytes becomes a target, and every `bytes` a link to it
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88

# The build must work without a network, so no other project's inventory is read and links into them are not demanded.
nitpick_ignore_regex = [
    (r"py:.*", r"(httpx|httpx2|httpx_sse|tenacity|anyio|collections|os|pathlib|re|types|pytest|_pytest)\..*"),
]
nitpick_ignore = [
    ("py:class", "resumable_llm.wrapping.ClientT"),  # a type variable: whatever type you give
    ("py:exc", "HTTPStatusError"),  # of httpx or httpx2, as the client is
    ("py:exc", "SSEError"),  # httpx-sse's
]


def find_by_last_name(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: Element) -> Element | None:
    """Lead a type named by the module that defines it to its public name, which is where it is documented."""
    if node.get("refdomain") != "py":
        return None
    last = node["reftarget"].rpartition(".")[2]
    python = env.domains.python_domain
    found = [name for name in python.objects if name.rpartition(".")[2] == last]
    if len(found) != 1:
        return None
    return python.resolve_xref(env, node["refdoc"], app.builder, "obj", found[0], node, content)


def setup(app: Sphinx) -> None:
    app.connect("missing-reference", find_by_last_name)
