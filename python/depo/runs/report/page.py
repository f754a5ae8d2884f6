"""Self-contained HTML: no scripts, no network, images inside.

Every text that comes in is escaped here.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from depo.runs.report.charts import Chart
from depo.state.whole_files import write_whole

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 1020px;
  margin: 2em auto; padding: 0 1em }
h1 { margin-bottom: 0 } h2 { margin: 2em 0 .3em; border-bottom: 1px solid #ddd } p { margin: .4em
  0 1em; max-width: 48em }
table { border-collapse: collapse; margin: .5em 0 1em } th, td { padding: .25em .9em .25em 0;
  text-align: left; vertical-align: top }
th { border-bottom: 1px solid #999 } td { border-bottom: 1px solid #eee } .number { text-align:
  right; font-variant-numeric: tabular-nums; white-space: nowrap }
img { max-width: 100%; height: auto } pre { background: #f6f6f6; padding: 1em; overflow-x: auto;
  font-size: 13px } .left-out { color: #666 }
"""


def write_page(path: Path, title: str, subtitle: str, sections: Sequence[str]) -> Path:
    """Write a page of sections that are HTML already, whole at every moment.

    Also return its path.
    """
    write_whole(path, page(title, subtitle, sections))
    return path


def page(title: str, subtitle: str, sections: Sequence[str]) -> str:
    """Return an HTML document of sections that are HTML already."""
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width, '
        f'initial-scale=1"><title>{escape(title)}</title><style>{_STYLE}</style>'
    )
    body = "\n".join([f"<h1>{escape(title)}</h1>", paragraph(subtitle), *sections])
    return (
        f"<!DOCTYPE html>\n<html "
        f'lang="en">\n<head>{head}</head>\n<body>\n{body}\n</body>\n</html>\n'
    )


def section(title: str, *parts: str) -> str:
    """Return a heading and parts that are HTML already."""
    return "\n".join([f"<h2>{escape(title)}</h2>", *parts])


def paragraph(text: str) -> str:
    """Return a text as a paragraph."""
    return f"<p>{escape(text)}</p>"


def bullets(texts: Sequence[str]) -> str:
    """Return texts as a list."""
    return "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in texts) + "</ul>"


def preformatted(text: str) -> str:
    """Return a text whose line breaks and spaces stay."""
    return f"<pre>{escape(text)}</pre>"


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, numeric: Sequence[int] = ()
) -> str:
    """Return a table of texts; `numeric` columns are aligned at the right."""
    attribute = [
        "" if column not in numeric else ' class="number"' for column in range(len(header))
    ]
    head = "".join(
        f"<th{kind}>{escape(text)}</th>" for kind, text in zip(attribute, header, strict=True)
    )
    body = [
        "".join(f"<td{kind}>{escape(text)}</td>" for kind, text in zip(attribute, row, strict=True))
        for row in rows
    ]
    return (
        f"<table><thead><tr>{head}</tr></thead>\n<tbody>"
        + "\n".join(f"<tr>{cells}</tr>" for cells in body)
        + "</tbody></table>"
    )


def chart_section(chart: Chart) -> str:
    """Return a figure under its heading, or the sentence that says why it is left out."""
    if chart.png is None:
        return section(chart.title, f'<p class="left-out">{escape(chart.caption)}</p>')
    source = f"data:image/png;base64,{base64.b64encode(chart.png).decode()}"
    return section(
        chart.title, paragraph(chart.caption), f'<img alt="{escape(chart.title)}" src="{source}">'
    )


def number(value: float | None) -> str:
    """Return a number for people: 19,200, 0.435 or 2.69e-08; unknown as a dash."""
    if value is None or value != value:
        return "–"
    if float(value).is_integer() or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3f}" if abs(value) >= 0.001 else f"{value:.2e}"


def percent(share: float | None) -> str:
    """Return a share in percent; unknown as a dash."""
    return "–" if share is None or share != share else f"{100 * share:.1f} %"
