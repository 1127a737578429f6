"""A run as one self-contained HTML page. Text in, text out."""

from __future__ import annotations

from slimllm.recipes import plan_text
from ui.repeating import command_line
from ui.runs import Run
from ui.tables import table_of
from ui.words import dropped, safe, share, unit_words

STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1c1917}
table{border-collapse:collapse;width:100%;margin:1rem 0}
th,td{padding:.4rem .6rem;border-bottom:1px solid #e3dfdb;text-align:left}
small{display:block;color:#68625d;font-weight:400}pre{background:#f5f3f1;padding:1rem;overflow:auto}
"""


def page(run: Run) -> str:
    """The report: figures, widths and errors per layer, the plan, the command line."""
    units = unit_words(run.plan.unit).capitalize()
    rows = ""
    for i, (heads, channels) in enumerate(zip(run.plan.heads, run.plan.channels, strict=True)):
        errors = (
            "".join(f"<td>{share(e)}</td>" for e in run.errors[i])
            if i < len(run.errors)
            else "<td></td><td></td>"
        )
        dense = run.plan.widths[i]
        whole = " in each head" if run.plan.unit == "value-column" else f" of {dense[0]}"
        kept = f"<td>{heads}{whole}</td><td>{channels:,} of {dense[2]:,}</td>"
        if dropped(run.plan, i):
            kept = '<td colspan="2">dropped whole</td>'
        rows += f"<tr><td>{i}</td>{kept}{errors}</tr>"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{safe(run.name)}</title>'
        f"<style>{STYLE}</style>"
        f"<h1>{safe(run.name)}: {safe(run.plan.model)}, {share(run.smaller)} smaller</h1>"
        f"<p>{safe(run.made)}</p>"
        f"{table_of(dict(run.columns), run.protocol, run.plan.recovery)}"
        "<h2>Layers</h2><table><tr><th>Layer</th>"
        f"<th>{units} kept</th><th>Channels kept</th>"
        f"<th>Error predicted</th><th>Error measured</th></tr>{rows}</table>"
        f"<h2>Command line</h2><pre>{safe(command_line(run))}</pre>"
        f"<h2>plan.json</h2><pre>{safe(plan_text(run.plan))}</pre></html>"
    )
