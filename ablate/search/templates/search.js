"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const objective = data.objectives[0];
  const better = objective.direction === "minimize" ? Math.min : Math.max;
  const room = () => (isNarrow() ? 16 : 44);
  const brief = (text) => plain(text.length > room() ? "…" + text.slice(1 - room()) : text);

  const complete = (arm) => arm.history.filter((row) => row.values);
  const describe = (row) => plain("trial " + row.number) + Object.entries(row.params).map(([path, value]) =>
    "<br>" + plain(path) + " " + (typeof value === "number" ? value.toPrecision(4) : plain(value))).join("");

  function drawHistory(arm) {
    const rows = complete(arm), x = rows.map((row) => row.number), y = rows.map((row) => row.values[0]);
    const best = y.map((_, index) => better(...y.slice(0, index + 1)));
    const lost = arm.history.filter((row) => !row.values);
    const top = Math.max(...y), shapes = [];
    const first = rows.find((row) => row.number === arm.default);
    if (first) shapes.push({ type: "line", xref: "paper", x0: 0, x1: 1, y0: first.values[0], y1: first.values[0],
      line: { color: color("--soft"), dash: "dash", width: 1 } });
    return [[
      { x, y, mode: "markers", marker: { color: "#0072b2", size: 8, opacity: 0.75 }, text: rows.map(describe),
        hovertemplate: "%{y:.5g}<br>%{text}<extra></extra>" },
      { x, y: best, mode: "lines", line: { color: "#d55e00", shape: "hv", width: 2 }, hovertemplate: "best so far %{y:.5g}<extra></extra>" },
      { x: lost.map((row) => row.number), y: lost.map(() => top), mode: "markers", text: lost.map((row) => plain(row.state)),
        marker: { symbol: "x", color: color("--flag"), size: 8 }, hovertemplate: "%{text}<extra></extra>" },
    ], layout({ shapes, xaxis: { title: { text: "trial" } }, yaxis: { title: { text: plain(objective.text) } } })];
  }

  function drawSlices(arm, figure) {
    const path = figure.querySelector("button[aria-pressed=true]").dataset.path;
    const rows = complete(arm).filter((row) => row.params[path] !== undefined), choices = arm.space[path].choices;
    const special = new Map([[arm.default, "diamond"], [arm.best, "star"]]);
    return [[{
      x: rows.map((row) => (choices ? plain(row.params[path]) : row.params[path])), y: rows.map((row) => row.values[0]), mode: "markers",
      text: rows.map((row) => describe(row) + (row.number === arm.best ? "<br>the best" : row.number === arm.default ? "<br>the defaults" : "")),
      hovertemplate: "%{y:.5g}<br>%{text}<extra></extra>",
      marker: {
        size: rows.map((row) => (special.has(row.number) ? 14 : 8)), symbol: rows.map((row) => special.get(row.number) || "circle"),
        color: rows.map((row) => row.number), colorscale: [[0, "#9ecae9"], [1, "#08519c"]], line: { width: 1, color: color("--paper") },
      },
    }], layout({
      xaxis: { title: { text: plain(path) }, type: choices ? "category" : arm.space[path].log ? "log" : "linear",
        categoryorder: "array", categoryarray: (choices || []).map(plain) },
      yaxis: { title: { text: plain(objective.text) } },
    })];
  }

  function drawImportance(arm) {
    const rows = [...arm.importance].reverse();
    return [[{
      type: "bar", orientation: "h", x: rows.map((row) => row.importance), y: rows.map((row) => brief(row.path)), marker: { color: "#0072b2" },
      error_x: { type: "data", symmetric: false, color: color("--soft"), array: rows.map((row) => Math.max(0, row.high - row.importance)),
        arrayminus: rows.map((row) => Math.max(0, row.importance - row.low)) },
      hovertemplate: "%{y}: %{x:.2f}<extra></extra>",
    }], layout({ height: 90 + 30 * rows.length, xaxis: { title: { text: "importance" }, rangemode: "tozero" }, yaxis: { type: "category" } })];
  }

  function drawConfirmation() {
    const arms = data.confirmation.losses;
    const traces = data.confirmation.seeds.map((seed) => ({
      x: arms.map((arm) => brief(arm.arm)), y: arms.map((arm) => arm.by_seed[seed] ?? null), mode: "lines+markers", name: "seed " + seed,
      line: { color: color("--soft"), width: 1 }, marker: { size: 9, color: "#0072b2" }, hovertemplate: "%{x}: %{y:.4f}<extra>seed " + seed + "</extra>",
    }));
    return [traces, layout({ xaxis: { type: "category" }, yaxis: { title: { text: data.metric } } })];
  }

  const draw = { history: drawHistory, slices: drawSlices, importance: drawImportance, confirmation: drawConfirmation };
  function show(figure) {
    const [traces, shape] = draw[figure.dataset.figure](data.arms[Number(figure.dataset.arm)], figure);
    Plotly.react(figure.querySelector(".plot"), traces, shape, { responsive: true, displayModeBar: false });
  }
  const figures = document.querySelectorAll("figure[data-figure]");
  const showAll = () => figures.forEach(show);
  figures.forEach((figure) => figure.querySelectorAll("button").forEach((button) => button.addEventListener("click", () => {
    figure.querySelectorAll("button").forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
    show(figure);
  })));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showAll);
  showAll();
})();
