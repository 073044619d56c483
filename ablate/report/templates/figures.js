"use strict";
// Shared by the figures of all pages.
// Plotly interprets some HTML in texts, but a name must appear as it was written.
const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const isNarrow = () => matchMedia("(max-width: 40rem)").matches;
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function layout(changes) {
  const axis = { gridcolor: color("--line"), linecolor: color("--line"), zeroline: false, automargin: true };
  const { xaxis, yaxis, ...rest } = changes;
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false, hovermode: "closest",
    font: { color: color("--ink"), family: "system-ui, sans-serif", size: 12 },
    hoverlabel: { bgcolor: color("--panel"), font: { color: color("--ink") }, namelength: -1 },
    margin: { l: 56, r: 16, t: 12, b: 48 }, dragmode: isNarrow() ? false : "zoom",
    xaxis: { ...axis, ...xaxis }, yaxis: { ...axis, ...yaxis }, ...rest,
  };
}
