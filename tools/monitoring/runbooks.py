"""The page /runbooks of the service, from docs/how-to/alerts.md: each alert's remedy under its name."""

from __future__ import annotations

import posixpath
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from tools.monitoring.alerts import RUNBOOK

PAGE = """<!doctype html>
<!-- Made by `make reference` from {source}; change it there. -->
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <meta name="color-scheme" content="light dark">
  <title>Runbooks · ipa</title>
  <link rel="icon" href="/assets/icon.svg" type="image/svg+xml">
  <link rel="stylesheet" href="/assets/style.css">
</head>
<body>
  <header class="top"><a class="brand" href="/"><img src="/assets/icon.svg" alt="" width="26" height="26">\
<b>ipa</b></a><span>Runbooks</span></header>
  <main class="doc prose">
{body}  </main>
</body>
</html>
"""


def anchor(title: str) -> str:
    """The fragment of a heading, as GitHub and GitLab make it."""
    kept = [letter for letter in title.lower() if letter.isalnum() or letter in " -_"]
    return "".join(kept).replace(" ", "-")


def runbooks(root: Path) -> str:
    """The page. Its links to other pages, which the service does not have, are their paths in words."""
    markdown = MarkdownIt("commonmark").enable("table")
    tokens = markdown.parse((root / RUNBOOK).read_text("utf-8"))
    for at, token in enumerate(tokens):
        if token.type == "heading_open":
            token.attrSet("id", anchor(tokens[at + 1].content))
        elif token.type == "inline":
            token.children = _within(token.children or [])
    body = markdown.renderer.render(tokens, markdown.options, {})
    # What may scroll is reached by the keyboard.
    body = body.replace("<pre>", '<pre tabindex="0">')
    body = body.replace(
        "<table>", '<div class="scrolls" tabindex="0" role="region" aria-label="Table"><table>'
    )
    return PAGE.format(source=RUNBOOK, body=body.replace("</table>", "</table></div>"))


def _within(tokens: list[Token]) -> list[Token]:
    """The tokens; a link out of the page is its words and the path that it leads to."""
    found: list[Token] = []
    path = ""
    for token in tokens:
        if token.type == "link_open" and not str(token.attrGet("href")).startswith("#"):
            path = posixpath.normpath(posixpath.join(posixpath.dirname(RUNBOOK), str(token.attrGet("href"))))
        elif token.type == "link_close" and path:
            found += [Token("text", "", 0, content=" ("), Token("code_inline", "code", 0, content=path)]
            found.append(Token("text", "", 0, content=")"))
            path = ""
        else:
            found.append(token)
    return found
