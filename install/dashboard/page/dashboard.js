"use strict";
// Shows the pictures that /events sends. Everything from the mesh becomes text nodes, never markup.
(() => {
  const el = (tag, attrs = {}, ...children) => {
    const e = document.createElement(tag);
    for (const [k, v] of Object.entries(attrs)) if (v !== undefined && v !== null && v !== false) e.setAttribute(k, v);
    e.append(...children.flat().filter((c) => c !== undefined && c !== null && c !== ""));
    return e;
  };
  const main = document.getElementById("main"), tabs = document.getElementById("tabs"), state = document.getElementById("state");
  let picture = null, filter = "";
  const table = (head, rows, none) => rows.length === 0 ? el("div", { class: "none" }, none) :
    el("table", {}, el("thead", {}, el("tr", {}, head.map((h) => el("th", {}, h)))), el("tbody", {}, rows.map((r) => el("tr", {}, r.map((c) => c instanceof Node && c.nodeName === "TD" ? c : el("td", {}, c))))));
  const word = (cls, text) => el("span", { class: cls }, text);
  const card = (n, text, cls) => el("div", { class: "card " + (cls || "") }, el("b", {}, String(n)), text);
  const wanted = (...texts) => filter === "" || texts.some((t) => (t || "").toLowerCase().includes(filter));
  const left = (c) => {
    const hours = (new Date(c.ends) - new Date(picture.time)) / 36e5;
    return !c.ends ? "none" : hours < 0 ? "expired" : hours < 48 ? `${Math.round(hours)} h` : `${Math.round(hours / 24)} d`;
  };
  const troubled = (p) => !p.ready || p.sync === "NACKED" || p.sync === "not connected";
  const expiring = (c) => c.left < 0.1;

  const views = {
    Mesh() {
      const p = picture, pods = p.pods, inside = pods.filter((x) => x.state === "in").length, owed = pods.filter((x) => x.state !== "out").length;
      const nodes = p.nodes.filter((n) => wanted(n.id)), ids = new Set(nodes.map((n) => n.id));
      const plain = p.edges.filter((e) => e.security === "plaintext" && e.to !== "/outside").length, bad = p.parts.filter(troubled).length, refused = p.refused.filter((r) => r.severity === "refused").length;
      return [
        el("div", { class: "cards" },
          card(bad === 0 ? "well" : bad, bad === 0 ? `${p.parts.length} parts of the mesh` : "parts in trouble", bad ? "bad" : "good"),
          card(`${inside}/${owed}`, "pods captured", inside < owed ? "bad" : "good"),
          card(p.services.length, "services"),
          card(p.waypoints.filter((w) => w.programmed).length + "/" + p.waypoints.length, "waypoints and gateways ready", p.waypoints.some((w) => !w.programmed) ? "bad" : ""),
          card(plain, plain === 1 ? "plaintext relation" : "plaintext relations", plain ? "warn" : "good"),
          card(refused, "refused documents", refused ? "bad" : "good")),
        nodes.length === 0 ? el("div", { class: "none" }, "No service is known yet.") : el("div", { class: "graph" }, Graph.draw(nodes, p.edges.filter((e) => ids.has(e.from) && ids.has(e.to)))),
        el("p", { class: "legend" }, "Solid lines are mutual TLS, dashed ones plaintext, red ones fail; W is a waypoint. Dashed boxes are not in the mesh. Faint lines were quiet since the last look. Point at something for numbers."),
      ];
    },
    Services() {
      return [table(["Namespace", "Service", "Address", "Waypoint", "Endpoints", "In the mesh"],
        picture.services.filter((s) => wanted(s.namespace, s.name, s.hostname, s.waypoint)).map((s) => [s.namespace, s.name, s.addresses.join(", "), s.waypoint || word("dim", "none"),
          word(s.endpoints > 0 && s.healthy === 0 ? "bad" : s.healthy < s.endpoints ? "warn" : "", `${s.healthy}/${s.endpoints}`), word(s.captured < s.endpoints ? "warn" : "good", `${s.captured}/${s.endpoints}`)]), "No service is known.")];
    },
    Waypoints() {
      return [table(["Namespace", "Name", "Class", "For", "State", "Instances", "Problems"],
        picture.waypoints.filter((w) => wanted(w.namespace, w.name)).map((w) => [w.namespace, w.name, w.class, w.traffic, word(w.programmed ? "good" : "bad", w.programmed ? "ready" : w.reason || "not ready"),
          `${w.ready}/${w.instances}`, w.problems ? word("bad", String(w.problems)) : "0"]), "There is no waypoint. Make one with: ambitctl waypoint apply -n NAMESPACE --enroll-namespace --wait")];
    },
    Pods() {
      const cls = { in: "good", joining: "bad", leaving: "warn", out: "dim" };
      return [table(["Namespace", "Pod", "Node", "Mesh", "Why"], picture.pods.filter((p) => wanted(p.namespace, p.name, p.node, p.state)).map((p) => [p.namespace, p.name, p.node, word(cls[p.state], p.state), p.why]), "No agent has told of pods.")];
    },
    Configuration() {
      return [table(["", "Object", "What is wrong"], picture.refused.filter((r) => wanted(r.object, r.problem, r.code)).map((r) => [word(r.severity === "refused" ? "bad" : "warn", r.severity),
        el("td", {}, r.object, r.field ? el("div", { class: "dim" }, r.field) : "", r.code ? el("div", { class: "dim" }, r.code) : ""),
        el("td", {}, r.problem, r.fix ? el("div", { class: "fix" }, "Fix: " + r.fix) : "", r.kept ? el("div", { class: "fix" }, "The earlier version stays in force.") : "")]), "Everything is in force as it was written.")];
    },
    Certificates() {
      return [table(["Identity", "State", "Ends", "Left", "Nodes"], picture.certificates.filter((c) => wanted(c.identity)).map((c) => [c.identity, word(c.state === "Available" ? "good" : "bad", c.root ? "root" : c.state),
        c.ends ? c.ends.replace("T", " ").replace(/Z$/, " UTC") : "", word(expiring(c) ? "bad" : "", left(c)), (c.nodes || []).join(", ")]), "No proxy holds a certificate.")];
    },
    Parts() {
      return [table(["Part", "Name", "Node", "State", "Configuration", "Restarts", "Version"], picture.parts.filter((p) => wanted(p.kind, p.name, p.node)).map((p) => [p.kind, p.name, p.node || "", word(p.ready ? "good" : "bad", p.ready ? "ready" : p.trouble || "not ready"),
        p.sync ? word(p.sync === "SYNCED" ? "good" : p.sync === "STALE" ? "warn" : "bad", p.sync) : "", String(p.restarts), p.version || ""]), "No part of a mesh runs here."),
      picture.missing.length === 0 ? "" : [el("h2", {}, "Could not be asked"), el("ul", {}, picture.missing.map((m) => el("li", { class: "bad" }, m)))]];
    },
  };
  const badges = {
    Configuration: () => [picture.refused.length, picture.refused.some((r) => r.severity === "refused") ? "bad" : "warn"],
    Certificates: () => [picture.certificates.filter(expiring).length, "bad"],
    Parts: () => [picture.parts.filter(troubled).length + picture.missing.length, "bad"],
    Pods: () => [picture.pods.filter((p) => p.state === "joining").length, "bad"],
    Waypoints: () => [picture.waypoints.filter((w) => !w.programmed || w.problems > 0).length, "bad"],
  };
  const chosen = () => { const name = decodeURIComponent(location.hash.slice(1)); return Object.hasOwn(views, name) ? name : "Mesh"; };

  const search = el("input", { type: "search", placeholder: "only what contains …", "aria-label": "filter" });
  search.addEventListener("input", () => { filter = search.value.trim().toLowerCase(); show(); });
  const content = el("div");
  main.append(search, content);

  function show() {
    if (!picture) return;
    const name = chosen();
    tabs.replaceChildren(...Object.keys(views).map((v) => {
      const [n, cls] = badges[v] ? badges[v]() : [0, ""];
      const b = el("button", { role: "tab", "aria-selected": String(v === name), type: "button" }, v, n > 0 ? el("span", { class: "n " + cls }, String(n)) : "");
      b.addEventListener("click", () => { location.hash = encodeURIComponent(v); });
      return b;
    }));
    content.replaceChildren(...views[name]().flat().filter((c) => c !== ""));
  }
  addEventListener("hashchange", show);

  const events = new EventSource("/events");
  events.onmessage = (m) => {
    picture = JSON.parse(m.data);
    state.textContent = "as of " + new Date(picture.time).toLocaleTimeString();
    state.className = "dim";
    show();
  };
  events.onerror = () => { state.textContent = "ambitctl dashboard has ended, or does not answer"; state.className = "bad"; };
})();
