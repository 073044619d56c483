"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const state = { axis: data.axis, column: Object.keys(data.curves)[0], xlog: true, ylog: false, diagnostic: Object.keys(data.diagnostics)[0] };
  const hidden = new Set();
  const looks = new Map(data.arms.map((arm) => [arm.arm, arm]));
  const isShown = (item) => !hidden.has(item.arm);
  const nameOf = (item) => plain(looks.get(item.arm).label + (item.state ? ", " + item.state : ""));
  const axisName = () => data.axes[state.axis];

  // Names of arms often differ at the end, so the middle is cut. A narrow page has one line per level.
  const elide = (text, room) => plain(text.length > room ? text.slice(0, Math.ceil(room / 2) - 1) + "…" + text.slice(-Math.floor(room / 2)) : text);
  const brief = (text) => (isNarrow() ? text.split(" / ").slice(0, 4).map((part) => elide(part, 18)).join("<br>") : elide(text, 46));
  const rowHeight = (labels) => (isNarrow() ? 14 + 16 * Math.max(1, ...labels.map((label) => Math.min(4, label.split(" / ").length))) : 34);
  const fade = (hex) => hex + "2e";

  // A short range of a logarithmic axis may contain no decade.
  function costAxis(traces) {
    const axis = { title: { text: axisName() }, tickformat: "~s" };
    const costs = traces.flatMap((trace) => trace.x).filter((x) => x > 0);
    if (!state.xlog || !costs.length) return axis;
    const low = Math.floor(Math.log10(Math.min(...costs))), high = Math.ceil(Math.log10(Math.max(...costs)));
    const parts = high - low > (isNarrow() ? 2 : 3) ? [1] : [1, 2, 5];
    const decades = Array.from({ length: high - low + 1 }, (_, i) => 10 ** (low + i));
    return { ...axis, type: "log", tickvals: decades.flatMap((decade) => parts.map((part) => part * decade)) };
  }

  function drawCurves() {
    const { text, lines, range, cut } = data.curves[state.column];
    const isCut = range && !state.ylog;
    const traces = [];
    for (const line of lines.filter(isShown)) {
      const look = looks.get(line.arm), x = line.costs[state.axis], isWhole = !line.state;
      if (line.band) {
        const edge = { x, mode: "lines", line: { width: 0 }, hoverinfo: "skip" };
        traces.push({ ...edge, y: line.band[0] }, { ...edge, y: line.band[1], fill: "tonexty", fillcolor: fade(look.color) });
      }
      traces.push({
        x, y: line.mean, mode: x.length > 1 ? "lines" : "markers", name: nameOf(line),
        line: { color: look.color, dash: look.dash, width: isWhole ? 2.2 : 1 }, marker: { color: look.color },
        hovertemplate: "%{y:.4f} at %{x:.4s} " + axisName() + "<extra>" + nameOf(line) + "</extra>",
      });
    }
    return [traces, layout({
      xaxis: costAxis(traces),
      yaxis: {
        title: { text: text + (isCut ? ", cut at " + cut.toPrecision(3) : "") },
        type: state.ylog ? "log" : "linear", ...(isCut && { range }),
      },
    })];
  }

  const COARSE = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100];
  const FINE = [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.3, 1.5, 1.7, 2, 2.5, 3, 4];
  function ratioAxis(title, rows) {
    const ends = rows.flatMap((row) => [row.low, row.high, value(row), 1]).filter((end) => end > 0);
    const low = Math.min(...ends), high = Math.max(...ends), span = high / low;
    const ticks = span > (isNarrow() ? 3 : 5) ? COARSE : FINE.filter((tick, place) => !isNarrow() || span < 1.6 || place % 2);
    // If all values are alike, for example one limit for every arm, Plotly would show two decades.
    const range = span < 1.2 && { range: [Math.log10(low / 1.2), Math.log10(high * 1.2)] };
    return { type: "log", title: { text: title }, tickvals: ticks, ticktext: ticks.map((tick) => tick + "x"), ...range };
  }
  const unity = (direction) => ({
    type: "line", xref: direction === "v" ? "x" : "paper", yref: direction === "v" ? "paper" : "y",
    x0: direction === "v" ? 1 : 0, x1: 1, y0: direction === "v" ? 0 : 1, y1: 1, line: { color: color("--soft"), dash: "dash", width: 1 },
  });
  const value = (row) => row.ratio ?? (row.bound === "at_most" ? row.high : row.bound === "at_least" ? row.low : null);
  const describe = (row) => {
    if (row.ratio === null) return (row.bound || "not comparable").replace("_", " ") + (value(row) === null ? "" : " " + value(row).toFixed(2) + "x");
    return row.ratio.toFixed(2) + "x" + (row.low === null ? ", no interval" : " [" + row.low.toFixed(2) + ", " + row.high.toFixed(2) + "]");
  };
  const errors = (rows) => ({
    type: "data", visible: rows.some((row) => row.ratio !== null && row.low !== null), symmetric: false, thickness: 2,
    array: rows.map((row) => (row.ratio !== null && row.high !== null ? row.high - row.ratio : 0)),
    arrayminus: rows.map((row) => (row.ratio !== null && row.low !== null ? row.ratio - row.low : 0)),
  });
  const chosen = (row) => row.axis === state.axis && isShown(row);
  const drawn = (row) => chosen(row) && value(row) !== null;

  function drawSpeedUps() {
    const rows = data.speedup.filter((row) => row.target === data.target && drawn(row)).reverse();
    const colors = rows.map((row) => looks.get(row.arm).color);
    const pointers = { at_most: "triangle-left-open", at_least: "triangle-right-open" };
    const traces = rows.map((row, index) => ({
      x: [value(row)], y: [index], mode: "markers", error_x: { ...errors([row]), color: colors[index] },
      marker: { color: colors[index], size: 11, symbol: row.ratio === null ? pointers[row.bound] : "circle", line: { width: row.ratio === null ? 1.6 : 0 } },
      hovertemplate: plain(describe(row)) + "<extra>" + nameOf(row) + "</extra>",
    }));
    const ticks = { tickvals: rows.map((_, index) => index), ticktext: rows.map((row) => brief(looks.get(row.arm).label)), range: [-0.6, rows.length - 0.4] };
    return [traces, layout({
      xaxis: ratioAxis("speedup in " + axisName(), rows), yaxis: { ...ticks, showgrid: false }, shapes: [unity("v")],
      height: Math.max(180, 90 + rowHeight(rows.map((row) => looks.get(row.arm).label)) * rows.length),
    })];
  }

  // A line through neighboring ratios. It breaks at a bound, which is a separate marker.
  function joinRatios(rows, x, look, name) {
    const hover = (known) => ({ text: known.map((row) => plain(describe(row))), hovertemplate: "%{text}<extra>" + name + "</extra>" });
    const bounds = rows.filter((row) => row.ratio === null && value(row) !== null);
    return [{
      x: rows.map(x), y: rows.map((row) => row.ratio), mode: "lines+markers", connectgaps: false, name, ...hover(rows),
      line: { color: look.color, dash: look.dash }, error_y: { ...errors(rows), color: look.color }, marker: { size: 9, color: look.color },
    }, {
      x: bounds.map(x), y: bounds.map(value), mode: "markers", name, showlegend: false, ...hover(bounds),
      marker: { size: 10, color: look.color, symbol: bounds.map((row) => (row.bound === "at_most" ? "triangle-down-open" : "triangle-up-open")), line: { width: 1.6 } },
    }];
  }

  const drawGrowth = ({ along, families }) => () => {
    const traces = families.flatMap((family, place) => {
      const levels = new Map(family.arms.map((arm, i) => [arm, family.levels[i] * (1 + 0.04 * (place - (families.length - 1) / 2))])); // so that intervals do not overlap
      const rows = data.speedup.filter((row) => row.target === "final" && levels.has(row.arm) && chosen(row)).sort((a, b) => levels.get(a.arm) - levels.get(b.arm));
      return joinRatios(rows, (row) => levels.get(row.arm), looks.get(family.arms[family.arms.length - 1]), plain(family.label));
    });
    const levels = [...new Set(families.flatMap((family) => family.levels))];
    const members = new Set(families.flatMap((family) => family.arms));
    return [traces, layout({
      xaxis: { title: { text: plain(along) }, type: "log", tickvals: levels, ticktext: levels.map(String) },
      yaxis: ratioAxis("speedup in " + axisName(), data.speedup.filter((row) => row.target === "final" && members.has(row.arm) && drawn(row))), shapes: [unity("h")],
      showlegend: families.length > 1,
    })];
  };

  function drawLadder() {
    const index = new Map(data.targets.map((entry, place) => [entry.target, place]));
    const traces = [];
    const compared = data.arms.filter((arm) => data.speedup.some((row) => row.arm === arm.arm && drawn(row)));
    const aside = (place) => (compared.length > 1 ? 0.4 * (place / (compared.length - 1) - 0.5) : 0); // so that intervals do not overlap
    for (const [place, arm] of compared.entries()) {
      const rows = data.speedup.filter((row) => row.arm === arm.arm && chosen(row)).sort((a, b) => index.get(a.target) - index.get(b.target));
      traces.push(...joinRatios(rows, (row) => index.get(row.target) + aside(place), arm, nameOf(arm)));
    }
    return [traces, layout({
      xaxis: { title: { text: data.target_axis }, tickvals: [...index.values()], ticktext: data.targets.map((entry) => entry.text) },
      yaxis: ratioAxis("speedup in " + axisName(), data.speedup.filter(drawn)), shapes: [unity("h")],
    })];
  }

  const drawContrasts = (name) => () => {
    const items = data.contrasts[name].filter((item) => item.arm === null || isShown(item)).reverse();
    const hue = (item) => (item.arm === null ? color("--soft") : looks.get(item.arm).color);
    const interval = (item) => (item.low === null ? "" : " [" + item.low.toFixed(4) + ", " + item.high.toFixed(4) + "]");
    const traces = items.map((item, index) => ({
      type: "bar", orientation: "h", x: [item.estimate], y: [index], width: [0.6], marker: { color: hue(item) + "99" },
      error_x: {
        type: "data", visible: item.low !== null, symmetric: false, thickness: 2, color: hue(item), array: [item.high === null ? 0 : item.high - item.estimate],
        arrayminus: [item.low === null ? 0 : item.estimate - item.low],
      },
      hovertemplate: item.estimate.toFixed(4) + interval(item) + "<extra>" + plain(item.label) + "</extra>",
    }));
    const ticks = { tickvals: items.map((_, index) => index), ticktext: items.map((item) => brief(item.label)), range: [-0.6, items.length - 0.4] };
    return [traces, layout({
      xaxis: { title: { text: data.contrast_axis }, zeroline: true, zerolinecolor: color("--soft") },
      yaxis: { ...ticks, showgrid: false }, height: Math.max(180, 90 + rowHeight(items.map((item) => item.label)) * items.length), barmode: "overlay",
    })];
  };
  const contrastTable = (name) => () => [
    ["contrast", "estimate", "low", "high"], data.contrasts[name].map((item) => [item.label, item.estimate, item.low, item.high]),
  ];

  function drawDiagnostics() {
    const traces = [];
    for (const curve of data.diagnostics[state.diagnostic].filter(isShown)) {
      const look = looks.get(curve.arm), layers = Object.entries(curve.layers);
      layers.forEach(([layer, y], depth) => {
        const name = nameOf(curve) + (layer ? ", " + plain(layer) : "");
        traces.push({
          x: curve.costs[state.axis], y, mode: y.length > 1 ? "lines" : "markers", opacity: 0.25 + (0.75 * (depth + 1)) / layers.length,
          line: { color: look.color, dash: look.dash, width: 1.6 }, marker: { color: look.color },
          hovertemplate: "%{y:.4g} at %{x:.4s} " + axisName() + "<extra>" + name + "</extra>",
        });
      });
    }
    return [traces, layout({
      xaxis: costAxis(traces),
      yaxis: { title: { text: plain(state.diagnostic) } },
    })];
  }
  const diagnosticTable = () => [
    ["arm", "layer", state.axis, state.diagnostic],
    data.diagnostics[state.diagnostic].filter(isShown).flatMap((curve) =>
      Object.entries(curve.layers).flatMap(([layer, values]) => values.map((item, i) => [curve.arm, layer, curve.costs[state.axis][i], item]))),
  ];

  const speedUpTable = (keep) => [
    ["arm", "axis", "target", "ratio", "low", "high", "bound"],
    data.speedup.filter((row) => row.axis === state.axis && isShown(row) && keep(row)).map((row) => [row.arm, row.axis, row.target, row.ratio, row.low, row.high, row.bound]),
  ];
  const curveTable = () => [
    ["arm", "run", state.axis, state.column, "low", "high"],
    data.curves[state.column].lines.filter(isShown).flatMap((line) => line.mean.map((mean, i) => [line.arm, line.state, line.costs[state.axis][i], mean, line.band?.[0][i], line.band?.[1][i]])),
  ];
  const figures = {
    curves: { draw: drawCurves, table: curveTable },
    speedup: { draw: drawSpeedUps, table: () => speedUpTable((row) => row.target === data.target) },
    ...Object.fromEntries(Object.entries(data.growths).map(([name, growth]) => [
      name, { draw: drawGrowth(growth), table: () => speedUpTable((row) => row.target === "final" && growth.families.some((family) => family.arms.includes(row.arm))) },
    ])),
    ladder: { draw: drawLadder, table: () => speedUpTable(() => true) },
    differences: { draw: drawContrasts("differences"), table: contrastTable("differences") },
    effects: { draw: drawContrasts("effects"), table: contrastTable("effects") },
    diagnostics: { draw: drawDiagnostics, table: diagnosticTable },
  };

  const shown = [...document.querySelectorAll("[data-figure]")];
  const plotOf = (figure) => figure.querySelector(".plot");
  function redraw() {
    for (const figure of shown) {
      const [traces, shape] = figures[figure.dataset.figure].draw();
      figure.hidden = !traces.some((trace) => trace.y.some((y) => y !== null));
      if (!figure.hidden) Plotly.react(plotOf(figure), traces, shape, { displayModeBar: false, responsive: true });
    }
  }

  // A spreadsheet must not run a name as a formula.
  const cell = (item) => {
    if (item === null || item === undefined) return "";
    const text = typeof item === "string" && /^[=+\-@\t\r\n]/.test(item) ? "'" + item : String(item);
    return /[",\r\n]/.test(text) ? '"' + text.replace(/"/g, '""') + '"' : text;
  };
  function save(figure, format) {
    const name = document.title.split(" – ")[0] + "-" + figure.dataset.figure;
    if (format !== "csv") {
      Plotly.downloadImage(plotOf(figure), { format, filename: name, width: 1000, height: 600, scale: format === "png" ? 2 : 1 });
      return;
    }
    const [header, rows] = figures[figure.dataset.figure].table();
    const text = [header, ...rows].map((row) => row.map(cell).join(",")).join("\n") + "\n";
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    link.download = name + ".csv";
    link.click();
    URL.revokeObjectURL(link.href);
  }

  function press(buttons, isOn) {
    for (const button of buttons) button.setAttribute("aria-pressed", String(isOn(button)));
  }
  function choose(key) {
    const buttons = document.querySelectorAll("[data-" + key + "]");
    for (const button of buttons) {
      button.addEventListener("click", () => {
        state[key] = button.dataset[key];
        press(buttons, (other) => other === button);
        redraw();
      });
    }
  }
  choose("axis");
  choose("column");
  choose("diagnostic");
  for (const button of document.querySelectorAll("[data-toggle]")) {
    button.addEventListener("click", () => {
      state[button.dataset.toggle] = !state[button.dataset.toggle];
      press([button], () => state[button.dataset.toggle]);
      redraw();
    });
  }
  for (const button of document.querySelectorAll("[data-arm]")) {
    button.addEventListener("click", () => {
      const { arm } = data.arms[Number(button.dataset.arm)];
      if (!hidden.delete(arm)) hidden.add(arm);
      press([button], () => !hidden.has(arm));
      redraw();
    });
  }
  for (const button of document.querySelectorAll("[data-save]")) {
    button.addEventListener("click", () => save(button.closest("figure"), button.dataset.save));
  }
  if (isNarrow()) document.querySelector(".legend").removeAttribute("open");
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  redraw();
})();
