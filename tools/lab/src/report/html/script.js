"use strict";
(() => {
  const root = document.documentElement;
  const each = (selector, act) => document.querySelectorAll(selector).forEach(act);

  // Colours: as the system has them, or as the reader says. `#dark` and `#light` say so too.
  const theme = (name) => {
    if (name === "auto") delete root.dataset.theme;
    else root.dataset.theme = name;
    each("[data-set-theme]", (b) => b.setAttribute("aria-pressed", String(b.dataset.setTheme === name)));
  };
  each("[data-set-theme]", (b) => b.addEventListener("click", () => theme(b.dataset.setTheme)));
  theme({ "#dark": "dark", "#light": "light" }[location.hash] || "auto");

  // A click on a name in the legend hides its series.
  each(".legend button", (button) => {
    button.setAttribute("aria-pressed", "true");
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(on));
      const figure = button.closest("figure");
      figure.querySelectorAll("svg.chart [data-series]").forEach((part) => {
        if (part.dataset.series === button.dataset.series) part.classList.toggle("off", !on);
      });
    });
  });

  // What the lines say under the pointer.
  const tip = document.getElementById("tip");
  const short = (v) => (v > 1e300 ? "\u221e" : Math.abs(v) >= 100 ? v.toFixed(0) : Number(v.toPrecision(3)).toString());
  const nearest = (points, x) => {
    let low = 0, high = points.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (points[middle][0] < x) low = middle; else high = middle;
    }
    return x - points[low][0] < points[high][0] - x ? points[low] : points[high];
  };
  each("svg.chart", (svg) => {
    if (!svg.dataset.hover) return;
    const plot = JSON.parse(svg.dataset.hover);
    svg.addEventListener("pointerleave", () => { tip.hidden = true; });
    svg.addEventListener("pointermove", (event) => {
      const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      const share = (place.x - plot.left) / (plot.right - plot.left);
      if (share < 0 || share > 1 || place.y < plot.top || place.y > plot.bottom) { tip.hidden = true; return; }
      const x = plot.log ? plot.x0 * (plot.x1 / plot.x0) ** share : plot.x0 + (plot.x1 - plot.x0) * share;
      const lines = plot.series.map((series) => {
        const found = nearest(series.points, x);
        return `${series.name}: ${short(found[1])} at ${short(found[0])}`;
      });
      tip.textContent = `${plot.y} / ${plot.x}\n${lines.join("\n")}`;
      tip.hidden = false;
      const box = tip.getBoundingClientRect();
      tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - box.width - 8))}px`;
      tip.style.top = `${Math.max(4, Math.min(event.clientY + 14, innerHeight - box.height - 8))}px`;
    });
  });

  // On paper everything is open.
  addEventListener("beforeprint", () => each("details", (d) => { d.open = true; }));

  // For tests: every chart that the page declares is there and has a size; nothing was loaded.
  const charts = JSON.parse(document.getElementById("chart-list").textContent);
  const missing = charts.filter((id) => {
    const box = document.getElementById(id)?.getBoundingClientRect();
    return !box || box.width < 300 || box.height < 50;
  });
  missing.forEach((id) => console.error(`chart ${id} is missing or has no size`));
  root.dataset.chartsDrawn = String(charts.length - missing.length);
  root.dataset.requests = String(performance.getEntriesByType("resource").length);
})();
