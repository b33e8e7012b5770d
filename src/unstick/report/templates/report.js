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

  // What moves: a trace's meta says at which step each of its points is reached, and how many of the last ones show.
  function reached(trace, step) {
    const meta = trace.meta;
    if (!meta || !meta.at) { return trace; }
    const end = meta.at.filter(function (at) { return at <= step; }).length;
    const begin = meta.keeps ? Math.max(0, end - meta.keeps) : 0;
    const shown = {};
    ["x", "y", "z", "text"].forEach(function (key) {
      if (Array.isArray(trace[key])) { shown[key] = trace[key].slice(begin, end); }
    });
    return Object.assign({}, trace, shown);
  }

  // Figures of one group play together; place is an index into their steps, rest the one shown until somebody plays.
  const groups = {};
  function groupOf(meta) {
    if (!meta || !meta.steps) { return null; }
    if (!groups[meta.group]) {
      const rest = meta.rest === undefined ? meta.steps.length - 1 : meta.rest;
      groups[meta.group] = { steps: meta.steps, rest: rest, place: rest, playing: false, members: [], bars: [] };
    }
    return groups[meta.group];
  }

  function traces(specification, paper) {
    const meta = specification.layout.meta || {}, group = groupOf(meta);
    const step = group && group.steps[paper ? group.rest : group.place];
    const offered = (meta.choices || []).flatMap(function (choice) { return choice.shows; });
    const chosen = meta.choices ? meta.choices[specification.choice || 0].shows : [];
    return specification.traces.map(function (trace, index) {
      const shown = group ? reached(trace, step) : trace;
      return offered.includes(index) ? Object.assign({}, shown, { visible: chosen.includes(index) }) : shown;
    });
  }

  function show(group, place) {
    group.place = Math.max(0, Math.min(place, group.steps.length - 1));
    group.bars.forEach(function (refresh) { refresh(); });
    return Promise.all(group.members.map(function (specification) {
      const moved = specification.traces.map(function (trace, index) { return trace.meta && trace.meta.at ? index : -1; })
        .filter(function (index) { return index >= 0; });
      const now = traces(specification), update = {};
      ["x", "y", "z", "text"].forEach(function (key) {
        if (moved.some(function (index) { return Array.isArray(specification.traces[index][key]); })) {
          update[key] = moved.map(function (index) { return now[index][key]; });
        }
      });
      return moved.length ? Plotly.restyle(specification.name, update, moved) : null;
    }));
  }

  function play(group) {
    const pause = Math.max(16, 8000 / group.steps.length); // all of it in about eight seconds
    if (group.place === group.steps.length - 1) { group.place = -1; } // at the end: once more
    group.playing = true;
    const run = group.run = (group.run || 0) + 1; // a play that was paused does not go on beside a later one
    function next() {
      if (!group.playing || group.run !== run) { return; }
      const last = group.place + 1 >= group.steps.length - 1;
      if (last) { group.playing = false; }
      show(group, group.place + 1).then(function () { if (!last) { setTimeout(next, pause); } });
    }
    next();
  }

  function element(name, attributes) {
    return Object.assign(document.createElement(name), attributes);
  }

  function addPlayer(specification, caption) {
    const meta = specification.layout.meta, group = groupOf(meta);
    const bar = element("div", { className: "play" }), start = element("button", { type: "button" });
    const slider = element("input", { type: "range", min: 0, max: group.steps.length - 1, step: 1 });
    const told = element("output", {});
    slider.setAttribute("aria-label", meta.word + ", " + document.getElementById(specification.name + "-title").textContent);
    function refresh() {
      slider.value = group.place;
      start.textContent = group.playing ? "Pause" : "Play";
      told.textContent = meta.word === "step" ? "step " + group.steps[group.place].toLocaleString("en") : meta.word;
      slider.setAttribute("aria-valuetext", told.textContent);
    }
    start.addEventListener("click", function () {
      if (group.playing) { group.playing = false; refresh(); } else { play(group); }
    });
    slider.addEventListener("input", function () {
      group.playing = false;
      show(group, Number(slider.value));
    });
    group.members.push(specification);
    group.bars.push(refresh);
    bar.append(start, slider, told);
    caption.prepend(bar);
    refresh();
  }

  function addChoices(specification, caption) {
    const row = element("div", { className: "choices" });
    row.setAttribute("role", "group");
    row.setAttribute("aria-label", document.getElementById(specification.name + "-title").textContent);
    specification.layout.meta.choices.forEach(function (choice, index) {
      const button = element("button", { type: "button", textContent: choice.name });
      button.setAttribute("aria-pressed", index === 0);
      button.addEventListener("click", function () {
        specification.choice = index;
        Array.from(row.children).forEach(function (other) { other.setAttribute("aria-pressed", other === button); });
        const now = traces(specification);
        Plotly.restyle(specification.name, { visible: now.map(function (trace) { return trace.visible !== false; }) });
      });
      row.append(button);
    });
    caption.prepend(row);
  }

  specifications.forEach(function (specification) {
    const meta = specification.layout.meta || {};
    const caption = document.getElementById(specification.name).parentElement.querySelector("figcaption");
    if (meta.steps) { addPlayer(specification, caption); }
    if (meta.choices) { addChoices(specification, caption); }
  });

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
        if (layout.yaxis && layout.yaxis.scaleanchor) { layout.height = Math.min(layout.height, layout.width + 30); }
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
    return Plotly.react(plot, colored(traces(specification, width), palette), layout, options);
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
