"use strict";
// Draws who calls whom: columns from callers to those who are called, as SVG. Text only ever becomes text nodes.
const Graph = (() => {
  const NS = "http://www.w3.org/2000/svg";
  const W = 190, H = 52, GAPX = 150, GAPY = 26, PAD = 24;
  const make = (tag, attrs, ...children) => {
    const e = document.createElementNS(NS, tag);
    for (const [k, v] of Object.entries(attrs)) e.setAttribute(k, v);
    e.append(...children);
    return e;
  };
  const short = (s, n) => s.length > n ? s.slice(0, n - 1) + "…" : s;
  const number = (x) => x >= 100 ? String(Math.round(x)) : x >= 10 ? x.toFixed(1) : x.toFixed(2).replace(/\.?0+$/, "");

  // columns: the longest way from somebody nobody calls; a cycle is cut where it was entered.
  function columns(nodes, edges) {
    const to = new Map(nodes.map((n) => [n.id, []]));
    const called = new Set();
    for (const e of edges) if (e.from !== e.to && to.has(e.from)) { to.get(e.from).push(e.to); called.add(e.to); }
    const at = new Map(), busy = new Set();
    const visit = (id, depth) => {
      if (busy.has(id) || depth > nodes.length || (at.has(id) && at.get(id) >= depth)) return;
      at.set(id, depth);
      busy.add(id);
      for (const next of to.get(id) || []) visit(next, depth + 1);
      busy.delete(id);
    };
    for (const n of nodes) if (!called.has(n.id) && to.get(n.id).length > 0) visit(n.id, 0);
    for (const n of nodes) if (!at.has(n.id) && to.get(n.id).length > 0) visit(n.id, 0);
    for (const n of nodes) if (!at.has(n.id)) at.set(n.id, 1);
    const out = [];
    for (const n of nodes) (out[at.get(n.id)] ||= []).push(n);
    return Array.from(out, (c) => c || []).filter((c) => c.length > 0);
  }

  // place: within its column a box stands near those who call it.
  function place(cols, edges) {
    const at = new Map();
    cols.forEach((col, x) => {
      const want = new Map(col.map((n) => {
        const ys = edges.filter((e) => e.to === n.id && at.has(e.from)).map((e) => at.get(e.from).y);
        return [n.id, ys.length ? ys.reduce((a, b) => a + b, 0) / ys.length : 1e9];
      }));
      col.sort((a, b) => want.get(a.id) - want.get(b.id) || (a.id < b.id ? -1 : 1));
      col.forEach((n, y) => at.set(n.id, { x: PAD + x * (W + GAPX), y: PAD + y * (H + GAPY) }));
    });
    return at;
  }

  function describe(e) {
    const lines = [e.from + " → " + e.to, { mutual_tls: "mutual TLS", plaintext: "plaintext" }[e.security] || "no connection was made"];
    if (e.via) lines.push("through waypoint " + e.via);
    if (e.requests) lines.push(`${e.requests} requests, ${e.refusals} answered 4xx, ${e.errors} 5xx`);
    if (e.connections) lines.push(`${e.connections} connections`);
    if (e.failed) lines.push(`${e.failed} failed (${(e.flags || []).join(", ")})`);
    return lines.join("\n");
  }

  function edge(e, at) {
    const a = at.get(e.from), b = at.get(e.to);
    const forward = b.x > a.x;
    const x1 = forward ? a.x + W : a.x + W / 2, y1 = forward ? a.y + H / 2 : a.y + H;
    const x2 = forward ? b.x : b.x + W / 2, y2 = forward ? b.y + H / 2 : b.y + H;
    const bend = forward ? (x2 - x1) / 2 : 0, sag = forward ? 0 : 60 + Math.abs(y2 - y1) / 4;
    const failing = e.errors > 0 || (e.failed > 0 && e.connections + e.requests === 0);
    const path = make("path", {
      d: `M${x1},${y1} C${x1 + bend},${y1 + sag} ${x2 - bend},${y2 + sag} ${x2 - (forward ? 6 : 0)},${y2 + (forward ? 0 : 6)}`,
      class: `edge ${e.security || "unmade"} ${failing ? "failing" : ""} ${e.rate > 0 ? "" : "idle"}`, "marker-end": "url(#arrow)",
    }, make("title", {}, describe(e)));
    const mx = (x1 + x2) / 2, my = (y1 + y2) / 2 + sag * 0.75;
    const g = make("g", {}, path);
    const label = e.rate > 0 ? number(e.rate) + "/s" : "";
    if (e.via) g.append(make("circle", { cx: mx, cy: my, r: 7, class: "via" }, make("title", {}, "waypoint " + e.via)), make("text", { x: mx, y: my + 4, "text-anchor": "middle", class: "small" }, "W"));
    const notes = [label, e.security === "plaintext" ? "plaintext" : "", e.refusals ? `${e.refusals} refused` : "", e.failed ? `${e.failed} ${(e.flags || []).includes("DENY") ? "denied" : "failed"}` : "", e.errors ? `${e.errors} errors` : ""].filter(Boolean).join(" · ");
    if (notes) g.append(make("text", { x: mx, y: my - 10, "text-anchor": "middle", class: "small" }, notes));
    return g;
  }

  function box(n, p) {
    const down = n.service && n.pods > 0 && n.healthy === 0;
    const about = [n.id, n.service ? `service, ${n.healthy} of ${n.pods} endpoints healthy` : "calls others; no service",
      { all: "in the mesh", some: "only some of its pods are in the mesh", none: "not in the mesh" }[n.mesh] || ""].filter(Boolean).join("\n");
    const g = make("g", { transform: `translate(${p.x},${p.y})` },
      make("title", {}, about),
      make("rect", { width: W, height: H, rx: 8, class: `box ${down ? "down" : n.mesh}` }),
      make("text", { x: 12, y: 22 }, short(n.name, 22)),
      make("text", { x: 12, y: 40, class: "small" }, short(n.namespace || "outside the mesh", 26)));
    if (n.service) g.append(make("text", { x: W - 12, y: 40, "text-anchor": "end", class: "small" }, `${n.healthy}/${n.pods}`));
    if (n.waypoint) g.append(make("text", { x: W - 12, y: 22, "text-anchor": "end", class: "small" }, "W"));
    return g;
  }

  function draw(nodes, edges) {
    const known = new Set(nodes.map((n) => n.id));
    edges = edges.filter((e) => known.has(e.from) && known.has(e.to) && e.from !== e.to);
    const cols = columns(nodes, edges), at = place(cols, edges);
    const width = PAD * 2 + cols.length * (W + GAPX) - GAPX + 20, height = PAD * 2 + Math.max(1, ...cols.map((c) => c.length)) * (H + GAPY) + 40;
    const svg = make("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "who calls whom" },
      make("defs", {}, make("marker", { id: "arrow", viewBox: "0 0 8 8", refX: 6, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" }, make("path", { d: "M0,0 L8,4 L0,8 z" }))));
    for (const e of edges) svg.append(edge(e, at));
    for (const n of nodes) svg.append(box(n, at.get(n.id)));
    return svg;
  }
  return { draw, number };
})();
