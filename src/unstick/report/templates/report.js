// Draws the figures. Colors are roles such as "@measured"; the page's own palette says what they are now.
(function () {
  "use strict";
  const specifications = JSON.parse(document.getElementById("specifications").textContent);
  const root = document.documentElement;
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const button = document.getElementById("theme");
  const PAPER = 660; // pixels between the margins of a printed page, A4 or Letter
  const NARROW = 480; // pixels, the width of a phone
  let chosen = null; // what the reader asked for; otherwise the system decides

  function colored(value, palette) {
    if (typeof value === "string") {
      return value[0] === "@" ? palette.getPropertyValue("--" + value.slice(1)).trim() : value;
    }
    if (Array.isArray(value)) {
      return value.map(function (item) { return colored(item, palette); });
    }
    if (value === null || typeof value !== "object") {
      return value;
    }
    return Object.fromEntries(Object.entries(value).map(function (entry) {
      return [entry[0], colored(entry[1], palette)];
    }));
  }

  function draw(specification, palette, width) {
    const plot = document.getElementById(specification.name);
    const layout = colored(specification.layout, palette);
    layout.width = width || Math.max(plot.clientWidth, specification.least);
    layout.height = specification.height;
    if (layout.width < NARROW) {
      layout.font.size = 11;
      if (specification.flat) {
        layout.margin = Object.assign({}, layout.margin, { l: 48, r: 8 });
        const listed = layout.showlegend === false ? [] : specification.traces.filter(function (trace) {
          return trace.showlegend !== false;
        });
        const lines = listed.reduce(function (sum, trace) {
          return sum + (trace.name || "").split("<br>").length;
        }, 0);
        layout.height += 14 * lines; // of the legend
      } else {
        layout.height *= 0.75;
        const eye = layout.scene.camera.eye; // from farther off, so that the width holds it
        layout.scene.camera.eye = { x: 1.2 * eye.x, y: 1.2 * eye.y, z: 1.2 * eye.z };
      }
    }
    if (width) {
      layout.height = Math.round(0.8 * layout.height); // two figures to a page
    }
    plot.style.height = layout.height + "px";
    const options = { displaylogo: false, displayModeBar: false, scrollZoom: false, showTips: false };
    return Plotly.react(plot, colored(specification.traces, palette), layout, options);
  }

  function drawAll(width) {
    const palette = getComputedStyle(root);
    return Promise.all(specifications.map(function (specification) {
      return draw(specification, palette, width);
    })).then(function () { root.dataset.drawn = root.dataset.theme; });
  }

  function paint(theme, width) {
    root.dataset.theme = theme;
    button.textContent = theme === "dark" ? "Light" : "Dark";
    button.setAttribute("aria-label", "Switch to " + (theme === "dark" ? "light" : "dark") + " colors");
    return drawAll(width);
  }

  function current() {
    return chosen || (system.matches ? "dark" : "light");
  }

  let waiting = 0, before = window.innerWidth;
  window.addEventListener("resize", function () {
    if (window.innerWidth === before) { return; } // a phone's address bar, not a new width
    before = window.innerWidth;
    clearTimeout(waiting);
    waiting = setTimeout(function () { paint(current()); }, 120);
  });
  system.addEventListener("change", function () { paint(current()); });
  button.addEventListener("click", function () {
    chosen = current() === "dark" ? "light" : "dark";
    paint(chosen);
  });
  window.addEventListener("beforeprint", function () { paint("light", PAPER); });
  window.addEventListener("afterprint", function () { paint(current()); });
  button.hidden = false;
  paint(current());
})();
