"""How the page looks: a Gradio theme in paper and ink with one warm accent, no font from outside.

What Gradio's variables do not reach is in `page.css`, which reads the same variables.
"""

from __future__ import annotations

import gradio as gr
from gradio.themes.utils import colors, sizes

EMBER = colors.Color(
    "#fff4ef", "#ffe6db", "#ffcbb6", "#ffa888", "#ff8560", "#ec6440", "#d2492a", "#b03a1f", "#8c301c", "#6f291a",
    "#3d140b", "ember",
)  # fmt: skip
PAPER = colors.Color(
    "#faf8f5", "#f3f0eb", "#e6e1d9", "#d2ccc2", "#a29b91", "#767068", "#57524c", "#3e3a36", "#2a2825", "#1e1c1a",
    "#151413", "paper",
)  # fmt: skip
SANS = ["Inter", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"]
MONO = ["SF Mono", "Cascadia Mono", "Consolas", "Liberation Mono", "monospace"]


def theme() -> gr.themes.Base:
    """The theme, light and dark."""
    base = gr.themes.Base(
        primary_hue=EMBER,
        secondary_hue=EMBER,
        neutral_hue=PAPER,
        radius_size=sizes.radius_lg,
        font=[gr.themes.Font(name) for name in SANS],
        font_mono=[gr.themes.Font(name) for name in MONO],
    )
    return base.set(**_SURFACES, **_CONTROLS)


_SURFACES = {
    "body_background_fill": "*neutral_50",
    "body_background_fill_dark": "*neutral_950",
    "background_fill_primary": "white",
    "background_fill_primary_dark": "*neutral_900",
    "background_fill_secondary": "*neutral_100",
    "background_fill_secondary_dark": "*neutral_800",
    "body_text_color": "*neutral_900",
    "body_text_color_dark": "*neutral_100",
    "body_text_color_subdued": "*neutral_500",
    "body_text_color_subdued_dark": "*neutral_400",
    "block_background_fill": "transparent",
    "block_background_fill_dark": "transparent",
    "block_border_width": "0px",
    "block_border_width_dark": "0px",
    "block_shadow": "none",
    "block_padding": "0px",
    "block_title_text_weight": "600",
    "block_title_text_color": "*neutral_700",
    "block_title_text_color_dark": "*neutral_200",
    "block_info_text_color": "*neutral_500",
    "block_info_text_color_dark": "*neutral_400",
    "block_label_background_fill": "transparent",
    "block_label_background_fill_dark": "transparent",
    "border_color_primary": "*neutral_200",
    "border_color_primary_dark": "*neutral_800",
    "panel_border_width": "0px",
    "layout_gap": "20px",
    "form_gap_width": "0px",
}

_CONTROLS = {
    "input_background_fill": "white",
    "input_background_fill_dark": "*neutral_900",
    "input_border_width": "1px",
    "input_border_color": "*neutral_300",
    "input_border_color_dark": "*neutral_700",
    "input_border_color_focus": "*primary_600",
    "input_border_color_focus_dark": "*primary_400",
    "input_shadow_focus": "0 0 0 3px color-mix(in srgb, *primary_500 22%, transparent)",
    "input_shadow_focus_dark": "0 0 0 3px color-mix(in srgb, *primary_500 28%, transparent)",
    "input_placeholder_color": "*neutral_400",
    "input_placeholder_color_dark": "*neutral_500",
    "input_padding": "10px 12px",
    "slider_color": "*primary_600",
    "slider_color_dark": "*primary_400",
    "button_primary_background_fill": "*primary_600",
    "button_primary_background_fill_dark": "*primary_500",
    "button_primary_background_fill_hover": "*primary_700",
    "button_primary_background_fill_hover_dark": "*primary_400",
    "button_primary_text_color": "white",
    "button_primary_text_color_dark": "*neutral_950",
    "button_primary_border_color": "transparent",
    "button_primary_border_color_dark": "transparent",
    "button_large_radius": "12px",
    "button_large_text_weight": "600",
    "link_text_color": "*primary_700",
    "link_text_color_dark": "*primary_300",
}
