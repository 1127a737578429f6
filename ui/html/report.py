"""Write a run as one HTML page that needs no network and no other file. Text in, text out."""

from __future__ import annotations

import base64
from pathlib import Path

from slimllm.core.attention_unit import UNITS
from slimllm.methods.recovery import RECOVERIES
from slimllm.planning.plan_json import plan_text
from ui.charts.chart_style import COLOUR
from ui.facts.command_line import command_line, plan_name
from ui.facts.comparison import Comparison
from ui.facts.runs import LABELS, Run
from ui.facts.verdicts import on_layers
from ui.html.coloured_passage import best_reader, passage_html
from ui.html.runs_table import came_from
from ui.html.svg import Series, key_of, layers_chart, map_of
from ui.html.tables import table_of, verdict_html
from ui.html.topics_table import topics_html
from ui.look.formatting import (
    dropped_layers,
    escape_html,
    format_share,
    format_time,
    is_dropped,
    method_title,
)
from ui.look.theme import PALETTE, SCRIPTS, STYLES, colour_variables

# The page's own script for a passage, run on the passage of the report.
SAYS = f"""
for (const element of document.querySelectorAll('#passage')) {{
{(SCRIPTS / "passage.js").read_text(encoding="utf-8")}
}}
"""
BAR = COLOUR["sequential"][2]
# With this policy, the browser refuses to load anything that is not in this file.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def report_page(run: Run) -> str:
    """Return the report of a run as HTML.

    Its parts are the verdict, figures, maps, layers, answers, findings, and the command that makes the run
    again.
    """
    title = f"{run.name}: {Path(run.plan.model).name}, {format_share(run.smaller)} smaller"
    sheets = ((STYLES / name).read_text(encoding="utf-8") for name in ("found.css", "report.css"))
    style = colour_variables(":root", PALETTE["light"]) + "".join(sheets)
    script = (SCRIPTS / "report.js").read_text(encoding="utf-8") + SAYS
    parts = (
        report_heading(run, title),
        figures_section(run),
        maps_section(run),
        layers_section(run),
        answers_section(run),
        *findings_sections(run),
        again_section(run),
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{escape_html(title)}</title><style>{style}</style></head>"
        f'<body><main>{"".join(parts)}</main><div id="tip" hidden></div>'
        f"<script>{script}</script></body></html>"
    )


def report_section(name: str, title: str, body: str) -> str:
    """Return a section of the report with its heading."""
    return f'<section id="{name}"><h2>{escape_html(title)}</h2>{body}</section>'


def fact_list(rows: dict[str, str]) -> str:
    """Return names and values as an HTML list, without those whose value is empty."""
    shown = ((name, value) for name, value in rows.items() if value)
    items = (f"<div><dt>{escape_html(name)}</dt><dd>{escape_html(value)}</dd></div>" for name, value in shown)
    return f"<dl>{''.join(items)}</dl>"


def report_heading(run: Run, title: str) -> str:
    """Return the heading: the title, the verdict, and where the run came from."""
    plan = run.plan
    told = verdict_html(Comparison(plan, run.protocol, dict(run.columns)))
    read = plan.calibration
    rows = {
        "Made": format_time(run.made),
        "Plan": came_from(run),
        "Method": method_title(plan.method),
        "Recovery": RECOVERIES[plan.recovery].title,
        "Has read": f"{read.samples * read.length:,} tokens of {read.text}",
        "Note": run.note,
    }
    return f"<header><h1>{escape_html(title)}</h1>{told}{fact_list(rows)}</header>"


def figures_section(run: Run) -> str:
    """Return the section with the table of figures."""
    table = table_of(dict(run.columns), run.protocol, run.plan.recovery)
    return report_section("figures", "What it cost and what it saved", table)


def maps_section(run: Run) -> str:
    """Return the section with the maps of heads and channels, which show what was removed."""
    portrait, plan = run.portrait, run.plan
    if portrait is None:
        return report_section("maps", "Where it was cut", "<p>The maps of this run were not kept.</p>")
    groups = plan.widths[0][1]
    unit = UNITS[plan.unit].noun
    apart = (
        groups if len({width[1] for width in plan.widths}) == 1 and groups < portrait.attention.units else 0
    )
    body = (
        "<p>Every row is a layer. The darker, the more it matters; what was removed is brown.</p>"
        f"<h3>{UNITS[plan.unit].plural.capitalize()} of the attention</h3>{key_of('best')}"
        f"{map_of(portrait.attention, unit, 'best', apart)}"
        f"<h3>Channels of the MLP</h3>{key_of('median')}{map_of(portrait.mlp, 'channel', 'median')}"
    )
    return report_section("maps", "Where it was cut", body)


def layers_section(run: Run) -> str:
    """Return the section on every layer: its cosine, what it keeps, and how far its output moved."""
    plan, body = run.plan, ""
    if run.portrait is not None:
        cosine = Series("cosine of input and output", run.portrait.cosine, "bars", BAR, "{:.3f}")
        body += "<h3>How alike the input and the output of each layer are</h3>" + layers_chart(
            [cosine], "Cosine"
        )
    channels = [100 * c / w[2] for c, w in zip(plan.channels, plan.widths, strict=True)]
    kept = [Series("channels kept", channels, "steps", COLOUR["accent"], "{:.1f} %")]
    if not UNITS[plan.unit].narrows_heads:
        heads = [100 * h / w[0] for h, w in zip(plan.heads, plan.widths, strict=True)]
        kept.append(Series("heads kept", heads, "steps", COLOUR["second"], "{:.1f} %"))
    body += f"<h3>What each layer keeps</h3>{layers_chart(kept, 'Kept, %')}"
    if run.errors:
        predicted, measured = ([100 * e[i] for e in run.errors] for i in (0, 1))
        errors = [
            Series("error measured", measured, "bars", BAR, "{:.3g} %"),
            Series("error predicted", predicted, "dots", COLOUR["second"], "{:.3g} %"),
        ]
        body += f"<h3>How far each layer’s output moved</h3>{layers_chart(errors, 'Error, %')}"
        body += f'<p class="foot">{escape_html(on_layers(run.errors, run.best.held_out))}</p>'
    table = f"<details><summary>All layers as a table</summary>{layers_table(run)}</details>"
    link = download_link(layers_csv(run), "text/csv", f"layers-run{run.number}.csv", "Download as CSV")
    return report_section(
        "layers", "Layer by layer", f"<p>{escape_html(dropped_layers(plan))}</p>{body}{table}<p>{link}</p>"
    )


def rows_of(run: Run) -> list[tuple[int, int, int, int, int, str, str]]:
    """Return a row per layer: its number, units kept and dense, channels kept and dense, both errors.

    The number of dense units is 0 where the plan cuts value columns. An unknown error is an empty string.
    """
    plan, found = run.plan, []
    for i, (heads, channels, dense) in enumerate(zip(plan.heads, plan.channels, plan.widths, strict=True)):
        errors = [f"{e:.6g}" for e in run.errors[i]] if i < len(run.errors) else ["", ""]
        whole = 0 if UNITS[plan.unit].narrows_heads else dense[0]
        found.append((i, heads, whole, channels, dense[2], errors[0], errors[1]))
    return found


def layers_table(run: Run) -> str:
    """Return the layers of a run as an HTML table."""
    units = UNITS[run.plan.unit].plural.capitalize()
    body = ""
    for i, heads, whole, channels, dense, predicted, measured in rows_of(run):
        part = f" of {whole}" if whole else " in each head"
        kept = f"<td>{heads}{part}</td><td>{channels:,} of {dense:,}</td>"
        if is_dropped(run.plan, i):
            kept = '<td colspan="2">dropped whole</td>'
        errors = "".join(f"<td>{format_share(float(e)) if e else '–'}</td>" for e in (predicted, measured))
        body += f'<tr><th scope="row">{i}</th>{kept}{errors}</tr>'
    names = ("Layer", f"{units} kept", "Channels kept", "Error predicted", "Error measured")
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def layers_csv(run: Run) -> str:
    """Return the layers of a run as CSV with a header."""
    names = "layer,heads_kept,heads,channels_kept,channels,error_predicted,error_measured"
    return "\n".join([names, *(",".join(map(str, row)) for row in rows_of(run))]) + "\n"


def answers_section(run: Run) -> str:
    """Return the section with what the models wrote after the same prompts."""
    if not run.answers:
        return report_section("answers", "What they write", "<p>No prompts were answered in this run.</p>")
    body = ""
    for prompt, texts in run.answers:
        cells = "".join(
            f"<div><h4>{LABELS[name]}</h4><p>{escape_html(texts[name].strip()) or '–'}</p></div>"
            for name in LABELS
            if name in texts
        )
        body += f'<h3 class="prompt">“{escape_html(prompt)} …”</h3><div class="answers">{cells}</div>'
    return report_section("answers", "What they write", body)


def findings_sections(run: Run) -> list[str]:
    """Return the sections on the passage and on the topics, if the run has them."""
    parts: list[str] = []
    if run.found is not None and run.found.passage is not None:
        passage = passage_html(run.found.passage, best_reader(run.found.passage))
        parts.append(report_section("passage", "Where it broke", passage))
    if run.found is not None and run.found.topics:
        parts.append(report_section("topics", "What it forgot", topics_html(run.found)))
    return parts


def again_section(run: Run) -> str:
    """Return the section with the command, the plan and the versions."""
    plan, text = run.plan, plan_text(run.plan)
    name = plan_name(run)
    how = "It follows from the rules alone." if run.rules else f"It needs the plan file {name} beside it."
    rows = {**dict(plan.versions), "Data type": run.dtype, "Seed": str(plan.seed)}
    body = (
        f"<p>{escape_html(how)}</p><pre>{escape_html(command_line(run))}</pre>"
        f"<p>{download_link(text, 'application/json', name, f'Download {name}')}</p>{fact_list(rows)}"
        f"<details><summary>The plan</summary><pre>{escape_html(text)}</pre></details>"
    )
    return report_section("again", "Make it again", body)


def download_link(text: str, kind: str, name: str, label: str) -> str:
    """Return a link that saves a text of MIME type `kind`; the text is in the page itself."""
    data = base64.b64encode(text.encode()).decode()
    return f'<a download="{escape_html(name)}" href="data:{kind};base64,{data}">{escape_html(label)}</a>'
