"""How the page looks, and its keys."""

from __future__ import annotations

import gradio as gr

THEME = gr.themes.Base(
    primary_hue=gr.themes.colors.blue,
    neutral_hue=gr.themes.colors.slate,
    radius_size=gr.themes.sizes.radius_lg,
    font=("ui-sans-serif", "system-ui", "sans-serif"),
    font_mono=("ui-monospace", "Consolas", "monospace"),
).set(
    body_background_fill="*neutral_50",
    body_background_fill_dark="*neutral_950",
    block_background_fill="white",
    block_background_fill_dark="*neutral_900",
    block_border_width="1px",
    block_shadow="none",
    block_label_background_fill="transparent",
    block_label_background_fill_dark="transparent",
    block_label_border_width="0px",
    button_primary_background_fill="*primary_600",  # white on the default is hard to read
    button_primary_background_fill_hover="*primary_700",
    button_primary_background_fill_dark="*primary_600",
    button_primary_background_fill_hover_dark="*primary_700",
    button_primary_text_color="white",
    body_text_color_subdued="*neutral_500",  # the defaults are too faint to read
    body_text_color_subdued_dark="*neutral_400",
    block_info_text_color="*neutral_500",
    block_info_text_color_dark="*neutral_400",
    input_placeholder_color="*neutral_500",
    input_placeholder_color_dark="*neutral_400",
)
CSS = """
.gradio-container { max-width: 1240px !important; margin: 0 auto !important; }
.gradio-container, .gradio-container > .main { width: 100% !important; }
.html-container { padding: 0 !important; }
.block:has(> .html-container:empty), .block:has(> .html-container > .prose:empty),
.block:has(> .wrap + .html-container > .prose:empty) { display: none; }
#title h1 { margin: 0; letter-spacing: -.02em; }
#title p, .world { margin: 2px 0 0; color: var(--body-text-color-subdued); }
footer .divider:last-child { display: none; }
.live { display: flex; flex-direction: column; gap: 8px; }
.live img { width: 100%; max-width: 320px; border-radius: 12px; }
.live span, .hint span { color: var(--body-text-color-subdued); overflow-wrap: anywhere; }
.bar { height: 6px; border-radius: 3px; background: var(--border-color-primary); overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--primary-500); transition: width .4s; }
.nothing {
  display: flex; flex-direction: column; align-items: center; justify-content: center; gap: 6px;
  min-height: 180px; padding: 24px; border: 2px dashed var(--border-color-primary);
  border-radius: 12px; text-align: center;
}
.nothing span { color: var(--body-text-color-subdued); max-width: 340px; }
.cards { gap: 12px !important; }
.card {
  background: var(--block-background-fill); border: 1px solid var(--border-color-primary);
  border-radius: 12px; padding: 10px; gap: 6px !important; flex: 1 1 240px !important;
  max-width: 100%;
}
.concept { display: flex; gap: 12px; align-items: flex-start; }
.concept > div { display: flex; flex-direction: column; min-width: 0; overflow-wrap: anywhere; }
.concept img, .face { width: 72px; height: 72px; border-radius: 10px; flex: none; }
.concept img { object-fit: cover; }
.face {
  display: grid; place-items: center; font-size: 28px; font-weight: 600; color: white;
  background: linear-gradient(135deg, var(--primary-400), var(--primary-700));
}
.concept span { font-size: var(--text-sm); color: var(--body-text-color-subdued); }
.concept span.face { font-size: 28px; color: white; }
.concept.off img, .concept.off .face, .concept.off b { opacity: .45; filter: grayscale(1); }
.why { margin: 4px 0 0; font-size: var(--text-sm); color: var(--body-text-color); }
.dial { align-items: center !important; gap: 8px !important; }
.dial .form { background: none !important; border: 0 !important; box-shadow: none !important; }
.dial .block { border: 0 !important; padding: 0 !important; background: none !important; }
.facts table { width: 100%; border-collapse: collapse; }
.facts table, .facts tr, .facts th, .facts td { border: 0 !important; background: none !important; }
.facts th, .facts td { text-align: left; padding: 4px 8px 4px 0 !important; vertical-align: top; }
.facts th { color: var(--body-text-color-subdued); font-weight: 500; white-space: nowrap; }
.facts td { overflow-wrap: anywhere; }
.verdict { margin: 0 0 8px; padding: 10px 12px; border-radius: 10px; border-left: 4px solid; }
.verdict.yes { border-color: #16a34a; background: #16a34a1a; }
.verdict.no, .run.failed .message { border-color: #dc2626; background: #dc26261a; }
.run { display: flex; flex-direction: column; gap: 12px; }
.run header { display: flex; justify-content: space-between; gap: 12px; flex-wrap: wrap; }
.run header b { font-size: var(--text-lg); }
.run header span, .run figcaption { color: var(--body-text-color-subdued); }
.run figcaption { font-size: var(--text-xs); }
.run .message { margin: 0; padding: 10px 12px; border-radius: 10px; border-left: 4px solid; }
.strip { display: grid; grid-template-columns: repeat(auto-fill, minmax(96px, 1fr)); gap: 8px; }
.strip figcaption { font-size: var(--text-xs); color: var(--body-text-color-subdued); }
.strip figure { margin: 0; }
.strip img { width: 100%; border-radius: 10px; display: block; }
.curve { margin: 0; }
.curve svg { width: 100%; height: 120px; background: var(--block-background-fill);
  border: 1px solid var(--border-color-primary); border-radius: 10px; }
.curve polyline { fill: none; stroke-width: 1.5; vector-effect: non-scaling-stroke; }
.curve .steps { stroke: var(--neutral-400); }
.curve .held { stroke: var(--primary-500); stroke-width: 2.5; }
.curve circle { fill: var(--primary-500); }
#pictures, #pictures .empty { min-height: 420px; }
#pictures .empty::after {
  content: "Your pictures appear here: write a prompt, then press Generate or Ctrl+Enter.";
  max-width: 260px; margin-left: 12px; color: var(--body-text-color-subdued);
}
@media (max-width: 768px) {
  #pictures, #pictures .empty { min-height: 220px; }
  footer { display: none !important; }
  .gradio-container .fillable { padding: 12px !important; }
  .tab-container button { padding: 0 11px !important; }
}
"""
# Ctrl+Enter (Cmd+Enter on a Mac) presses the main button of the tab that is open. On a phone what
# it makes lies below the form: go there, once the live view has its place.
KEYS = """() => {
  const seen = (name) => [...document.querySelectorAll(name)].find((part) => part.offsetParent);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && seen("button.go")) {
      event.preventDefault();
      seen("button.go").click();
    }
  });
  document.addEventListener("click", (event) => {
    if (innerWidth < 769 && event.target.closest("button.go")) {
      setTimeout(() => seen(".made").scrollIntoView({ behavior: "smooth" }), 300);
    }
  });
}"""
