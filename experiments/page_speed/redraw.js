// Draws figures of a band, a line and a step, with marks, again and again with a point more; how long each took.
async ([figures, points, times]) => {
  const { Figure } = await import("/assets/figure.js");
  const box = document.createElement("section");
  box.className = "charts";
  document.querySelector("#view").replaceChildren(box);
  const all = Array.from({ length: figures }, (_, index) => new Figure(box, { id: `f${index}`, title: "Load", unit: "rps" }));
  const at = (index) => new Date(1.7e12 + 5000 * index).toISOString();
  const took = [];
  for (let first = 0; first < times; first += 1) {
    const x = Array.from({ length: points }, (_, index) => at(first + index));
    const y = x.map((_, index) => 10 + 5 * Math.sin((first + index) / 30) + (index % 7) / 7);
    const marks = Array.from({ length: 12 }, (_, index) => ({ x: x[(index * points) / 12], text: "change", href: "#/health" }));
    const series = [
      { name: "forecast", kind: "band", colour: "violet", x, y, lower: y, upper: y.map((value) => value + 2) },
      { name: "seen", kind: "line", x, y },
      { name: "cores", kind: "step", colour: "teal", x, y: y.map(Math.round) },
    ];
    await new Promise((resolve) => requestAnimationFrame(resolve));
    const began = performance.now();
    for (const figure of all) figure.show({ series, marks });
    // Until it is laid out and painted.
    await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
    took.push(performance.now() - began);
  }
  return took;
}
