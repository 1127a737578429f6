"""Define the look of the page: fonts, colours, spacing, and the files that the browser loads.

Nothing is loaded from another server.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import gradio as gr
import plotly
from gradio.themes.utils import colors, fonts, sizes

from ui.look.glossary import as_data


def find_assets() -> Path:
    """Return the folder of styles and scripts: in `ui` where it is installed, beside it in the project."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "assets"
    return installed if installed.is_dir() else package.parent / "assets"


ASSETS = find_assets()
STYLES, SCRIPTS = ASSETS / "styles", ASSETS / "scripts"
PLOTLY = Path(plotly.__file__).resolve().parent / "package_data" / "plotly.min.js"

Colours = dict[str, str | tuple[str, ...]]

# Charts use the light colours; plotview.js swaps each for the dark one of the same name. The style sheet
# defines all of them as --slim-NAME. `sequential` (little to much) and `diverging` differ in lightness and in
# the hues brown and teal, which colour-blind people can tell apart.
PALETTE: dict[str, Colours] = {
    "light": {
        "page": "#faf9f7",
        "surface": "#ffffff",
        "raised": "#ffffff",
        "track": "#f1efec",
        "ink": "#1c1917",
        "muted": "#69635e",
        "line": "#e7e4e0",
        "line-strong": "#cbc6c1",
        "edge": "#8a837c",
        "accent": "#0d6b64",
        "accent-strong": "#0a5750",
        "accent-soft": "#d6eae6",
        "on-accent": "#ffffff",
        "second": "#9c4706",
        "third": "#6d4aa3",
        "fourth": "#5b6470",
        "sequential": ("#edf4f2", "#cfe3df", "#a3cbc5", "#6dafa7", "#36918a", "#0e7169", "#0b544f"),
        "diverging": ("#a6500f", "#d08f4e", "#ecd0ac", "#f3f1ee", "#b4d8d2", "#58a49b", "#0b6b64"),
    },
    "dark": {
        "page": "#141211",
        "surface": "#1c1a19",
        "raised": "#292624",
        "track": "#2b2826",
        "ink": "#f3f0ed",
        "muted": "#a8a19b",
        "line": "#34312e",
        "line-strong": "#57524e",
        "edge": "#857d77",
        "accent": "#4fc3b4",
        "accent-strong": "#74d5c8",
        "accent-soft": "#1f3b38",
        "on-accent": "#0b2421",
        "second": "#f0a35e",
        "third": "#b79ae6",
        "fourth": "#9aa4b2",
        "sequential": ("#232b2a", "#234441", "#25605a", "#2a8178", "#3ca396", "#62c8b9", "#a6ebdf"),
        "diverging": ("#f2a55f", "#b77a41", "#6b4d30", "#2b2927", "#29504b", "#3c8b81", "#5fd0c0"),
    },
}

# Any of these texts may stand on any of these grounds: tests compute the contrast of every pair in each mode.
TEXTS = ("ink", "muted", "accent", "accent-strong", "second", "third", "fourth")
GROUNDS = ("page", "surface", "raised", "track", "accent-soft")
# Every padding, margin and gap is one of these, in pixels.
SPACES = (0, 2, 4, 8, 12, 16, 24, 40)
SIZES = {"tiny": 12, "small": 13, "text": 15, "large": 17, "title": 24}  # pixels of type, as --slim-NAME
# The sizes for Gradio's xxs, xs, sm, md, lg, xl and xxl.
GRADIO_TEXTS = (
    "tiny",
    "tiny",
    "small",
    "text",
    "large",
    "title",
    "title",
)
PRESENTED = 1.4  # factor of the type sizes in presenter mode


def build_theme() -> gr.themes.Base:
    """Return the theme: warm neutral surfaces, thin lines, one teal accent, whole font files only."""
    sans, mono = (fonts.LocalFont(name, weights=(400, 700)) for name in ("Source Sans Pro", "IBM Plex Mono"))
    look = gr.themes.Base(
        primary_hue=colors.teal,
        secondary_hue=colors.stone,
        neutral_hue=colors.stone,
        spacing_size=sizes.spacing_md,
        radius_size=sizes.radius_md,
        text_size=sizes.Size(*(f"var(--slim-{name})" for name in GRADIO_TEXTS), name="slim"),
        font=(sans, "ui-sans-serif", "system-ui", "sans-serif"),
        font_mono=(mono, "ui-monospace", "monospace"),
    )
    return look.set(**theme_settings())


# Our colour for each of Gradio's variables, in light and in dark mode.
SETTINGS = {
    "body_background_fill": "page",
    "background_fill_primary": "surface",
    "background_fill_secondary": "page",
    "body_text_color": "ink",
    "body_text_color_subdued": "muted",
    "border_color_primary": "line",
    "border_color_accent": "accent",
    "color_accent_soft": "accent-soft",
    "link_text_color": "accent",
    "link_text_color_hover": "accent-strong",
    "link_text_color_visited": "accent",
    "link_text_color_active": "accent-strong",
    "block_background_fill": "surface",
    "block_border_color": "line",
    "block_label_background_fill": "surface",
    "block_label_border_color": "line",
    "block_label_text_color": "muted",
    "block_title_text_color": "ink",
    "block_info_text_color": "muted",
    "panel_background_fill": "page",
    "panel_border_color": "line",
    "input_background_fill": "surface",
    "input_border_color": "edge",
    "input_border_color_focus": "accent",
    "input_placeholder_color": "muted",
    "checkbox_background_color": "surface",
    "checkbox_background_color_selected": "accent",
    "checkbox_border_color": "edge",
    "checkbox_border_color_focus": "accent",
    "checkbox_border_color_selected": "accent",
    "checkbox_label_background_fill": "surface",
    "checkbox_label_background_fill_hover": "track",
    "checkbox_label_background_fill_selected": "accent-soft",
    "checkbox_label_border_color": "line-strong",
    "checkbox_label_border_color_selected": "accent",
    "slider_color": "accent",
    "loader_color": "accent",
    "button_primary_background_fill": "accent",
    "button_primary_background_fill_hover": "accent-strong",
    "button_primary_border_color": "accent",
    "button_primary_border_color_hover": "accent-strong",
    "button_primary_text_color": "on-accent",
    "button_primary_text_color_hover": "on-accent",
    "button_secondary_background_fill": "surface",
    "button_secondary_background_fill_hover": "track",
    "button_secondary_border_color": "line-strong",
    "button_secondary_border_color_hover": "muted",
    "button_secondary_text_color": "ink",
    "button_secondary_text_color_hover": "ink",
    "table_border_color": "line",
    "table_even_background_fill": "surface",
    "table_odd_background_fill": "surface",
    "table_row_focus": "accent-soft",
    "table_text_color": "ink",
    "stat_background_fill": "accent-soft",
}
MEASURES = {
    "color_accent": "var(--slim-accent)",  # has no dark twin
    "block_border_width": "1px",
    "block_shadow": "none",
    "block_shadow_dark": "none",
    "block_title_text_weight": "700",
    "block_label_text_weight": "400",
    "block_padding": "16px",
    "button_border_width": "1px",
    "button_large_text_weight": "700",
    "button_medium_text_weight": "400",
    "button_small_text_weight": "400",
    "button_transition": "background-color 120ms, border-color 120ms",
    "checkbox_label_shadow": "none",
    "input_border_width": "1px",
    "input_shadow": "none",
    "input_shadow_focus": "0 0 0 2px var(--slim-accent-soft)",
    "layout_gap": "24px",
    "section_header_text_weight": "700",
    "prose_header_text_weight": "700",
}


def theme_settings() -> dict[str, str]:
    """Return every Gradio variable that we set.

    Colours refer to our own CSS variables, which differ between light and dark mode.
    """
    found = dict(MEASURES)
    for name, colour in SETTINGS.items():
        found[name] = f"var(--slim-{colour})"
        found[f"{name}_dark"] = f"var(--slim-{colour})"
    return found


SHEETS = (
    "style.css",
    "notice.css",
    "faders.css",
    "tune.css",
    "compare.css",
    "found.css",
    "tour.css",
    "present.css",
)


def style_sheet() -> str:
    """Return the style sheet of the page, the charts and the faders."""
    sheets = [(STYLES / name).read_text(encoding="utf-8") for name in SHEETS]
    large = {name: round(PRESENTED * pixels) for name, pixels in SIZES.items()}
    looks = [colour_variables(":root", PALETTE["light"]), colour_variables(".dark", PALETTE["dark"])]
    return "\n".join([*looks, type_sizes(":root", SIZES), type_sizes(".presenting", large), *sheets])


def type_sizes(selector: str, pixels: Mapping[str, int]) -> str:
    """Return a CSS rule that defines the type sizes in pixels as variables."""
    return "\n".join(
        [f"{selector} {{", *(f"  --slim-{name}: {size}px;" for name, size in pixels.items()), "}"]
    )


def colour_variables(selector: str, colours: Colours) -> str:
    """Return a CSS rule that defines the palette as variables; the shades of a scale count from 1."""
    lines = []
    for name, value in colours.items():
        named = (
            {name: value} if isinstance(value, str) else {f"{name}-{i}": x for i, x in enumerate(value, 1)}
        )
        lines += [f"  --slim-{key}: {colour};" for key, colour in named.items()]
    return "\n".join([f"{selector} {{", *lines, "}"])


def head_scripts() -> str:
    """Return script tags for plotly.js and our own scripts, and let Gradio serve these files.

    No other file of the machine becomes readable.
    """
    ours = ("plotpick", "plotsave", "plotview", "glossary", "present", "sliders", "numbers")
    scripts = (PLOTLY, *(SCRIPTS / f"{name}.js" for name in ours))
    gr.set_static_paths(list(scripts))
    mark = f'nonce="{NONCE}"'
    tags = [f'<script defer {mark} src="gradio_api/file={path.as_posix()}"></script>' for path in scripts]
    # Read before the page writes to the storage.
    opened = "try { window.slimTab = sessionStorage.getItem('slimllm-tab'); } catch {}"
    known = (
        f"{opened} window.slimSwaps = {json.dumps(dark_swaps())}; window.slimGlossary = "
        f"{json.dumps(as_data())};"
    )
    # Not deferred, because the page may send a request before plotly.js is loaded.
    first = (SCRIPTS / "delivery.js").read_text(encoding="utf-8")
    return "\n".join([f"<script {mark}>{first}</script>", f"<script {mark}>{known}</script>", *tags])


CHART_COLOURS = (
    "surface", "track", "ink", "muted", "line", "line-strong", "accent", "accent-soft", "second", "third",
    "fourth", "sequential", "diverging",
)  # fmt: skip


def dark_swaps() -> dict[str, str]:
    """Return the dark colour for every light one that a chart may use."""
    pairs: dict[str, str] = {}
    for name in CHART_COLOURS:
        light, dark = PALETTE["light"][name], PALETTE["dark"][name]
        pairs.update(zip(scale_shades(light), scale_shades(dark), strict=True))
    return pairs


def scale_shades(colour: str | tuple[str, ...]) -> tuple[str, ...]:
    """Return the colours of a scale, or a tuple of the one colour."""
    return (colour,) if isinstance(colour, str) else colour


# A placeholder in the page's own script tags. The server replaces it with a new nonce for each page.
NONCE = "slim-nonce"
