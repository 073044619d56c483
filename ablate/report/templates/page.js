"use strict";
// Fills the blanks of the charts' specifications and lets Vega draw them. What a chart looks like is declared in Python.
(() => {
  const page = JSON.parse(document.getElementById("data").textContent);
  const charts = new Map(page.charts.map((chart) => [chart.name, chart]));
  const figures = [...document.querySelectorAll("[data-chart]")];
  const chosen = new Map(); // by the name of a choice that all charts share, or by the chart's and the choice's name
  const hidden = new Set();
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const narrow = matchMedia("(max-width: 62rem)");
  const theme = () => page.themes[dark.matches ? "dark" : "light"];
  const scope = (chart, choice) => (chart.shared.includes(choice) ? choice : chart.name + " " + choice);

  const isBlank = (text) => typeof text === "string" && text.startsWith("$");
  function fill(value, blanks) {
    if (isBlank(value)) {
      if (!(value.slice(1) in blanks)) throw new Error("no value for " + value);
      return blanks[value.slice(1)];
    }
    if (Array.isArray(value)) return value.map((item) => fill(item, blanks));
    if (value === null || typeof value !== "object") return theme().colors[value] ?? value;
    const entries = Object.entries(value);
    if (entries.length === 1 && entries[0][0] === "expr" && isBlank(entries[0][1])) return fill(entries[0][1], blanks);
    return Object.fromEntries(entries.map(([key, item]) => [key, key === "data" ? item : fill(item, blanks)]));
  }
  const unpack = (item) => (typeof item === "string" && /^@\d+$/.test(item) ? page.lists[Number(item.slice(1))] : item);
  function spread(row) {
    const entries = Object.entries(row).map(([key, item]) => [key, unpack(item)]);
    const lists = entries.filter(([, item]) => Array.isArray(item));
    if (!lists.length) return [row];
    const rest = Object.fromEntries(entries.filter(([, item]) => !Array.isArray(item)));
    return lists[0][1].map((_, i) => ({ ...rest, ...Object.fromEntries(lists.map(([key, list]) => [key, list[i]])) }));
  }

  const keyOf = (chart) => chart.choices.map((choice) => chosen.get(scope(chart, choice))).join("|");
  function rowsOf(chart) {
    const found = chart.fills[keyOf(chart)];
    return found ? found.data.flatMap((name) => chart.data[name]).filter((row) => !hidden.has(row.arm)).flatMap(spread) : [];
  }

  // Vega-Lite warns of panels with independent ranges, which are as wanted.
  const quiet = { level: () => quiet, warn: () => quiet, info: () => quiet, debug: () => quiet, error: (...texts) => (console.error(...texts), quiet) };
  const room = new Map(); // pixels that names and axes take beside the panels of a figure
  async function draw(figure) {
    const chart = charts.get(figure.dataset.chart), plot = figure.querySelector(".plot");
    const rows = rowsOf(chart);
    figure.hidden = !rows.length;
    if (figure.hidden) return;
    const isNarrow = narrow.matches || plot.clientWidth < 520;
    const columns = isNarrow && innerWidth < 640 ? 1 : chart.columns;
    const key = chart.name + isNarrow;
    const blanks = { ...(isNarrow ? chart.narrow : chart.wide), ...chart.fills[keyOf(chart)], columns, legend: null, tips: "true" };
    const widthOf = () => Math.max(140, Math.floor((plot.clientWidth - (room.get(key) ?? 90)) / columns));
    blanks.width = widthOf();
    const spec = { ...fill(chart.spec, blanks), data: { name: "rows", values: rows }, config: theme().config };
    const { view } = await vegaEmbed(plot, spec, { mode: "vega-lite", actions: false, defaultStyle: false, logger: quiet, logLevel: 1, renderer: "svg", ast: true, tooltip: { theme: dark.matches ? "dark" : "light" } });
    figure.view = view;
    // Vega describes each mark to screen readers. The caption describes the figure, and its table has the numbers.
    plot.setAttribute("role", "img");
    plot.setAttribute("aria-label", figure.querySelector("figcaption").textContent);
    plot.removeAttribute("aria-roledescription");
    plot.querySelector("svg").setAttribute("aria-hidden", "true");
    const over = Number(plot.querySelector("svg").getAttribute("width")) - plot.clientWidth;
    if (over > 0 || over < -6) {
      room.set(key, (room.get(key) ?? 90) + over + 1);
      view.resize().signal("child_width" in view.getState({ signals: (name) => name === "child_width" }).signals ? "child_width" : "width", widthOf());
      await view.runAsync();
    }
  }
  let turn = Promise.resolve();
  const rest = () => new Promise((resolve) => setTimeout(resolve));
  function drawAll() {
    document.documentElement.removeAttribute("data-drawn");
    turn = turn.then(async () => {
      for (const figure of figures) {
        await draw(figure);
        await rest(); // so that the page answers while it draws
      }
      document.documentElement.setAttribute("data-drawn", "");
    });
  }

  // A spreadsheet must not run a name as a formula.
  const cell = (item) => {
    if (item === null || item === undefined) return "";
    const text = typeof item === "string" && /^[=+\-@\t\r\n]/.test(item) ? "'" + item : String(item);
    return /[",\r\n]/.test(text) ? '"' + text.replace(/"/g, '""') + '"' : text;
  };
  function writeCsv(rows) {
    const header = [...new Set(rows.flatMap(Object.keys))];
    return [header, ...rows.map((row) => header.map((key) => row[key]))].map((row) => row.map(cell).join(",")).join("\n") + "\n";
  }
  async function save(figure, format) {
    const chart = charts.get(figure.dataset.chart), link = document.createElement("a");
    link.href = format === "csv"
      ? URL.createObjectURL(new Blob([writeCsv(rowsOf(chart))], { type: "text/csv" }))
      : await figure.view.toImageURL(format, format === "png" ? 2 : 1);
    link.download = document.title.split(" – ")[0] + "-" + chart.name + "." + format;
    link.click();
    URL.revokeObjectURL(link.href);
  }

  const press = (button, isOn) => button.setAttribute("aria-pressed", String(isOn));
  for (const button of document.querySelectorAll("[data-choice]")) {
    const { choice, scope: chart, value } = button.dataset, name = chart ? chart + " " + choice : choice;
    if (!chosen.has(name)) chosen.set(name, value);
    button.addEventListener("click", () => {
      chosen.set(name, value);
      for (const other of button.parentElement.children) press(other, other === button);
      drawAll();
    });
  }
  for (const chart of page.charts) {
    for (const [place, choice] of chart.choices.entries()) { // a choice with one option has no buttons
      const name = scope(chart, choice);
      if (!chosen.has(name)) chosen.set(name, Object.keys(chart.fills)[0].split("|")[place]);
    }
  }
  for (const button of document.querySelectorAll("[data-arm]")) {
    button.addEventListener("click", () => {
      const isShown = hidden.delete(button.dataset.arm);
      if (!isShown) hidden.add(button.dataset.arm);
      press(button, isShown);
      drawAll();
    });
  }
  for (const button of document.querySelectorAll("[data-save]")) {
    button.addEventListener("click", () => save(button.closest("figure"), button.dataset.save));
  }
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") document.querySelector(".arms")?.removeAttribute("open");
  });
  addEventListener("beforeprint", () => document.querySelectorAll("main details, .answer").forEach((fold) => { fold.open = true; }));
  dark.addEventListener("change", drawAll);
  let width = innerWidth, timer;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    clearTimeout(timer);
    timer = setTimeout(drawAll, 150);
  });
  drawAll();
})();
