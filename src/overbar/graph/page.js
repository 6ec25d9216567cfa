"use strict";
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const root = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);

  // ------------------------------------------------------------------ making elements; text is always text

  function el(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "onclick") made.addEventListener("click", value);
      else if (value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...children.filter((child) => child !== undefined && child !== ""));
    return made;
  }

  function drawn(tag, attributes) {
    const made = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  }

  // ------------------------------------------------------------------ items: nodes, and groups of them

  // A level is a list of items that are laid out together: a picture, or what a group holds of it. An item is
  // a node (it has a box) or a group; it opens if it holds levels. A group's nodes are of its own picture,
  // what a node holds is a picture of its own.
  const items = [];

  function makeItem(name, kind, box, level, position) {
    const item = { name, kind, box, level, position, levels: [], open: true, index: items.length };
    items.push(item);
    level.items.push(item);
    return item;
  }

  function makePicture(picture, holder, name) {
    const top = { name, holder, items: [], picture };
    const groups = new Map();
    picture.items = new Map();
    picture.top = top;
    picture.boxes.forEach((box, position) => {
      let level = top;
      let path = "";
      for (const group of box.groups || []) {
        path += "\n" + group;
        if (!groups.has(path)) {
          const made = makeItem(group, "group", null, level, position);
          made.levels.push({ name: "", holder: made, items: [], picture });
          groups.set(path, made);
        }
        const item = groups.get(path);
        item.position = position; // a group stands where its last node does
        level = item.levels[0];
      }
      const item = makeItem(box.name, box.kind, box, level, position);
      picture.items.set(box.id, item);
      for (const [part, inner] of box.inner || []) {
        item.levels.push(makePicture(inner, item, part));
        item.open = false;
      }
    });
    picture.edges = (picture.edges || []).map((edge) => ({
      ...edge, from: picture.items.get(edge.source), to: picture.items.get(edge.target),
    }));
    return top;
  }

  // The item that is seen in the place of this one: the outermost that is closed, or itself.
  function seen(item) {
    let found = item;
    for (let holder = item.level.holder; holder; holder = holder.level.holder) {
      if (!holder.open) found = holder;
    }
    return found;
  }

  // ------------------------------------------------------------------ the steps

  // Forward: a node after what it holds. Backward: before. A closed group is one step, where its last node is.
  function walk(picture, backward, found = []) {
    const order = backward ? [...picture.boxes].reverse() : picture.boxes;
    for (const box of order) {
      const item = picture.items.get(box.id);
      const shown = seen(item);
      if (shown !== item) {
        if (shown.box === null && shown.position === item.position) found.push(shown);
        continue;
      }
      const inside = item.open && item.box.inner ? item.levels.map((level) => level.picture) : [];
      if (!backward) inside.forEach((inner) => walk(inner, false, found));
      if (!backward || box.gets_bar) found.push(item);
      if (backward) [...inside].reverse().forEach((inner) => walk(inner, true, found));
    }
    return found;
  }

  function hasBars(item) {
    return item.box ? item.box.gets_bar : item.levels.some((level) => level.items.some(hasBars));
  }

  function allSteps() {
    const forward = walk(root, false).map((item) => ({ pass: "forward", item }));
    const backward = walk(root, true).filter(hasBars).map((item) => ({ pass: "backward", item }));
    for (const pass of [forward, backward]) {
      pass.forEach((step, i) => Object.assign(step, { number: i + 1, of: pass.length }));
    }
    return [...forward, ...backward];
  }

  // ------------------------------------------------------------------ the layered layout

  // Items stand in layers, each below its parents; the browser lays out each layer as a line that wraps. Edges
  // that pass a layer hold a place in it, so that they go between the nodes; lines are ordered by the mean
  // place of their neighbours.
  function layers(level, width) {
    const units = [...level.items].sort((a, b) => a.position - b.position);
    const inLevel = (item) => {
      let found = item;
      while (found && found.level !== level) {
        found = found.level.holder && found.level.picture === level.picture ? found.level.holder : null;
      }
      return found;
    };
    const rank = new Map(units.map((unit) => [unit, 0]));
    const joined = new Map();
    const crossing = new Map(); // what comes into a group from outside, or leaves it
    for (const edge of level.picture.edges) {
      const [from, to] = [inLevel(edge.from), inLevel(edge.to)];
      if (from && to && from.position < to.position) joined.set(`${from.index}>${to.index}`, { from, to });
      else if (to && !from) crossing.set(`${edge.from.index}>${to.index}`, { to });
      else if (from && !to) crossing.set(`${from.index}>${edge.to.index}`, { from });
    }
    const edges = [...joined.values()].sort((a, b) => a.to.position - b.to.position);
    for (const { from, to } of edges) rank.set(to, Math.max(rank.get(to), rank.get(from) + 1));
    // What has no parents stands right above its first use.
    const fed = new Set(edges.map((edge) => edge.to));
    for (const unit of units) {
      const uses = edges.filter((edge) => edge.from === unit).map((edge) => rank.get(edge.to));
      if (!fed.has(unit) && uses.length) rank.set(unit, Math.min(...uses) - 1);
    }
    // What is too wide for one line stands in several, so that edges find their way between them too.
    const room = roomFor(width);
    const rows = [];
    const rowOf = new Map();
    const near = new Map();
    const place = (entry, row) => { rows[row].push(entry); near.set(entry, [[], []]); };
    const ranked = new Map();
    for (const unit of units) ranked.set(rank.get(unit), [...(ranked.get(rank.get(unit)) || []), unit]);
    for (const same of [...ranked.keys()].sort((a, b) => a - b).map((key) => ranked.get(key))) {
      const per = Math.ceil(same.length / Math.ceil(same.length / room));
      same.forEach((unit, i) => {
        if (i % per === 0) rows.push([]);
        rowOf.set(unit, rows.length - 1);
        place(unit, rows.length - 1);
      });
    }
    const spans = edges.map(({ from, to }) => [rowOf.get(from), rowOf.get(to)]);
    const places = spans.reduce((sum, [top, bottom]) => sum + bottom - top - 1, 0);
    const straight = places > 3000 || crossing.size * rows.length > 3000; // in a very large graph
    const pass = (key, start, top, bottom, end) => {
      const chain = start ? [start] : [];
      for (let row = top; !straight && row < bottom; row++) {
        const passing = { passes: `${level.index}:${key}` };
        place(passing, row);
        chain.push(passing);
      }
      if (end) chain.push(end);
      for (let k = 1; k < chain.length; k++) {
        near.get(chain[k - 1])[1].push(chain[k]);
        near.get(chain[k])[0].push(chain[k - 1]);
      }
    };
    edges.forEach(({ from, to }, i) => pass(`${from.index}>${to.index}`, from, spans[i][0] + 1, spans[i][1], to));
    for (const [key, { from, to }] of crossing) {
      if (to) pass(key, null, 0, rowOf.get(to), to);
      else pass(key, from, rowOf.get(from) + 1, rows.length, null);
    }
    const at = new Map();
    const note = (row) => row.forEach((entry, i) => at.set(entry, (i + 0.5) / row.length));
    rows.forEach(note);
    for (let sweep = 0; sweep < 6; sweep++) {
      const down = sweep % 2 === 0;
      for (const row of down ? rows : [...rows].reverse()) {
        const wish = new Map(row.map((entry) => {
          const others = near.get(entry)[down ? 0 : 1];
          return [entry, others.length
            ? others.reduce((sum, other) => sum + at.get(other), 0) / others.length : at.get(entry)];
        }));
        row.sort((a, b) => wish.get(a) - wish.get(b));
        note(row);
      }
    }
    return rows;
  }

  // ------------------------------------------------------------------ the picture

  const chips = new Map(); // what stands for an item on the page, if it is seen
  const passing = new Map(); // the places that long edges hold
  let lines = [];

  // How many nodes stand side by side; the widths are those of a usual node in page.css.
  const roomFor = (width) => Math.max(1, Math.floor(width / (window.innerWidth <= 480 ? 112 : 180)));
  const INSET = 22; // of a frame

  function levelElement(level, width) {
    level.index = levelElement.count = (levelElement.count || 0) + 1;
    const made = el("div", { class: "level" });
    if (level.name && level.holder.levels.length > 1) made.append(el("p", { class: "part" }, level.name));
    for (const row of layers(level, width)) {
      const alone = row.filter((entry) => !entry.passes).length === 1;
      const line = el("div", { class: alone ? "layer alone" : "layer" });
      for (const entry of row) {
        if (entry.passes) {
          const place = el("i", { class: "passing" });
          if (!passing.has(entry.passes)) passing.set(entry.passes, []);
          passing.get(entry.passes).push(place);
          line.append(place);
        } else line.append(itemElement(entry, width - INSET));
      }
      made.append(line);
    }
    return made;
  }

  function itemElement(item, width) {
    const opener = item.levels.length ? openerElement(item) : undefined;
    if (!item.box) {
      if (!item.open) {
        chips.set(item, opener);
        return opener;
      }
      return el("div", { class: "frame", role: "group", "aria-label": item.name },
        opener, levelElement(item.levels[0], width));
    }
    const chip = chipElement(item);
    if (!opener) return chip;
    return el("div", { class: item.open ? "frame" : "holder", role: "group", "aria-label": item.name },
      opener, ...(item.open ? item.levels.map((level) => levelElement(level, width)) : []), chip);
  }

  function openerElement(item) {
    const inside = item.box ? item.levels.map((level) => level.name).join(", ") : item.name;
    const count = item.open || item.box ? "" : ` (${countBoxes(item)} nodes)`;
    return el("button", {
      type: "button", class: "opener", "aria-expanded": String(item.open), "data-item": item.index,
      title: `${item.open ? "Close" : "Open"} ${inside}`, onclick: () => toggle(item),
    }, `${item.open ? "▾" : "▸"} ${inside}${count}`);
  }

  function countBoxes(item) {
    return item.box ? 1 : item.levels[0].items.reduce((sum, inner) => sum + countBoxes(inner), 0);
  }

  function chipElement(item) {
    const { box } = item;
    const lit = [el("b", {}, box.name)];
    if (["rule", "loop", "branch", "call"].includes(box.kind)) lit.push(el("span", { class: "kind" }, box.kind));
    const chip = el("button", {
      type: "button", class: `chip ${box.kind}`, "data-item": item.index, title: box.forward,
      onclick: () => show(item),
    }, el("span", { class: "head" }, el("span", { class: "mark", "aria-hidden": "true" }), ...lit));
    if (box.kind === "fold") {
      chip.append(el("span", {}, box.forward));
    } else {
      chip.append(el("span", { class: "value" }, brief(box.values, box.type)));
      if (box.gets_bar) {
        chip.append(el("span", { class: "bar" }, `${box.bar_name} `, brief(box.bars, "")), meter(box.bars));
      }
    }
    chips.set(item, chip);
    return chip;
  }

  // A value in a few letters: a number, or the shape and the norm.
  function brief(arrays, type) {
    const shown = (arrays || []).map((a) => a.number || (a.norm ? `${shape(a.type)} ‖${a.norm}‖` : a.type));
    return shown.length > 1 ? `(${shown.length} results)` : shown[0] || shape(type);
  }

  const shape = (type) => (type || "").replace(/^[^[]*/, "");

  // ------------------------------------------------------------------ bars as colour and length

  let [smallest, largest] = [Infinity, 0];

  function noteSizes(picture) {
    for (const box of picture.boxes) {
      for (const { size } of box.bars || []) {
        if (size) [smallest, largest] = [Math.min(smallest, size), Math.max(largest, size)];
      }
      for (const [, inner] of box.inner || []) noteSizes(inner);
    }
  }

  // By powers of ten, from the smallest bar in the graph (but at most eight below the largest) to the largest.
  function strength(size) {
    if (!size) return 0;
    const top = Math.log10(largest);
    const span = Math.min(Math.max(top - Math.log10(smallest), 1), 8);
    return Math.min(1, Math.max(0.12, 1 - (0.88 * (top - Math.log10(size))) / span));
  }

  function meter(arrays) {
    const [first] = arrays || [];
    const made = el("i", { class: "meter", "aria-hidden": "true" });
    const strange = first && /nan|inf/.test(first.number || first.norm);
    if (first && arrays.length === 1 && (first.size || strange)) {
      const fill = el("i", { class: strange ? "nan" : first.sign > 0 ? "plus" : first.sign < 0 ? "minus" : "norm" });
      fill.style.width = strange ? "100%" : `${(100 * strength(first.size)).toFixed(0)}%`;
      made.append(fill);
    }
    return made;
  }

  // ------------------------------------------------------------------ edges

  function draw() {
    const graph = $("graph");
    graph.querySelector("svg")?.remove();
    const origin = graph.getBoundingClientRect();
    const [dx, dy] = [graph.scrollLeft - origin.left, graph.scrollTop - origin.top];
    const svg = drawn("svg", {
      class: "edges", width: graph.scrollWidth, height: graph.scrollHeight, "aria-hidden": "true",
    });
    const boxOf = (element) => {
      const r = element.getBoundingClientRect();
      return { x: r.left + r.width / 2 + dx, top: r.top + dy, bottom: r.bottom + dy, width: r.width };
    };
    const step = steps[at];
    const numbers = new Map(messages(step).map((edge, i) => [edge, i + 1]));
    const many = new Map();
    const over = [];
    for (const line of lines) {
      const key = `${line.from.index}>${line.to.index}`;
      const nth = many.get(key) || 0;
      many.set(key, nth + 1);
      const aside = 24 * (nth - (line.together - 1) / 2);
      const [a, b] = [boxOf(chips.get(line.from)), boxOf(entrance(line.to))];
      // Edges that arrive side by side do not arrive in one point.
      const spread = (box, k, n) => (n > 1 ? (k / (n - 1) - 0.5) * Math.min(box.width * 0.6, 16 * n) : 0);
      const points = [[a.x + spread(a, line.out, line.outs) + aside / 4, a.bottom]];
      for (const place of line.places) {
        const p = boxOf(place);
        points.push([p.x + aside, p.top], [p.x + aside, p.bottom]);
      }
      points.push([b.x + spread(b, line.in, line.ins) + aside / 4, b.top - 2]);
      if (points.length === 2 && aside) {
        points.splice(1, 0, [(points[0][0] + points[1][0]) / 2 + aside, (a.bottom + b.top) / 2]);
      }
      const active = line.edges.filter((edge) => isActive(edge, step));
      const sent = line.edges.some((edge) => edge.flows && reached("backward", edge.to));
      const state = active.length ? "active" : sent ? "sent" : "";
      const still = line.edges.some((edge) => edge.flows) ? "" : "still";
      svg.append(drawn("path", { d: curve(points), class: `line ${state} ${still}` }));
      const up = step.pass === "backward" && (active.length || sent); // messages go from child to parent
      const [x, y] = up ? points[0] : points[points.length - 1];
      const tip = up ? `M${x - 5},${y + 8} L${x + 5},${y + 8} L${x},${y} Z` : `M${x - 5},${y - 7} L${x + 5},${y - 7} L${x},${y + 1} Z`;
      svg.append(drawn("path", { d: tip, class: `tip ${state}` }));
      const number = line.edges.map((edge) => numbers.get(edge)).filter(Boolean).join(", ");
      if (number) {
        const [p, q] = [points[0], points[1]];
        over.push(badge(number, (p[0] + q[0]) / 2, (p[1] + q[1]) / 2));
      }
    }
    svg.append(...over);
    graph.prepend(svg);
  }

  // Edges arrive at a node that opens from above what it holds.
  function entrance(item) {
    const chip = chips.get(item);
    return item.box && item.levels.length ? chip.parentElement : chip;
  }

  function badge(text, x, y) {
    const made = drawn("g", { class: "badge", transform: `translate(${x.toFixed(1)},${y.toFixed(1)})` });
    const width = Math.max(18, 8 * text.length + 8);
    made.append(drawn("rect", { x: -width / 2, y: -9, width, height: 18, rx: 9 }));
    const label = drawn("text", { y: 4.5 });
    label.textContent = text;
    made.append(label);
    return made;
  }

  function curve([[x, y], ...rest]) {
    let path = `M${x.toFixed(1)},${y.toFixed(1)}`;
    for (const [nx, ny] of rest) {
      const bend = Math.max(Math.abs(ny - y) / 2, 1) * (ny < y ? -1 : 1);
      path += `C${x.toFixed(1)},${(y + bend).toFixed(1)} ${nx.toFixed(1)},${(ny - bend).toFixed(1)} ${nx.toFixed(1)},${ny.toFixed(1)}`;
      [x, y] = [nx, ny];
    }
    return path;
  }

  // One line for each use; of those that end at closed groups one.
  function makeLines() {
    const found = new Map();
    const collect = (picture) => {
      for (const edge of picture.edges) {
        const [from, to] = [seen(edge.from), seen(edge.to)];
        if (from !== to && chips.has(from) && chips.has(to)) {
          const merged = !from.box || !to.box;
          const key = merged ? `${from.index}>${to.index}` : found.size;
          if (!found.has(key)) found.set(key, { from, to, edges: [], places: placesOf(edge) });
          found.get(key).edges.push(edge);
        }
      }
      for (const item of picture.items.values()) {
        if (item.open && item.box.inner) item.levels.forEach((level) => collect(level.picture));
      }
    };
    collect(root);
    lines = [...found.values()];
    const x = (item) => chips.get(item).getBoundingClientRect().left;
    for (const [end, other, k, n] of [["from", "to", "out", "outs"], ["to", "from", "in", "ins"]]) {
      const bundles = new Map();
      for (const line of lines) bundles.set(line[end], [...(bundles.get(line[end]) || []), line]);
      for (const bundle of bundles.values()) {
        bundle.sort((a, b) => x(a[other]) - x(b[other]));
        bundle.forEach((line, i) => Object.assign(line, { [k]: i, [n]: bundle.length }));
      }
    }
    const pairs = new Map();
    for (const line of lines) {
      const key = `${line.from.index}>${line.to.index}`;
      pairs.set(key, (pairs.get(key) || 0) + 1);
    }
    for (const line of lines) line.together = pairs.get(`${line.from.index}>${line.to.index}`);
  }

  // The places that the edge holds: on its way out of groups, in the level that has both its ends, and into groups.
  function placesOf(edge) {
    const chain = (item) => {
      const found = [];
      for (let up = item; up; up = up.level.holder) found.push(up);
      return found;
    };
    const [up, down] = [chain(edge.from), chain(edge.to)];
    const held = (level, from, to) => passing.get(`${level.index}:${from.index}>${to.index}`) || [];
    for (const [i, a] of up.entries()) {
      const j = down.findIndex((b) => a.level === b.level);
      if (j < 0) continue;
      return [
        ...up.slice(0, i).flatMap((from) => held(from.level, from, edge.to)),
        ...held(a.level, a, down[j]),
        ...down.slice(0, j).reverse().flatMap((to) => held(to.level, edge.from, to)),
      ];
    }
    return [];
  }

  // ------------------------------------------------------------------ what a step shows

  let steps = [];
  let at = 0;
  let reachedBy = { forward: new Map(), backward: new Map() };

  const reached = (pass, item) => (reachedBy[pass].get(seen(item)) ?? Infinity) <= at;

  // What arrives at the step's node: its arguments forward, its children's messages backward.
  function isActive(edge, step) {
    const [from, to] = [seen(edge.from), seen(edge.to)];
    if (from === to) return false;
    return step.pass === "forward" ? to === step.item : from === step.item && edge.flows;
  }

  function edgesOf(step) {
    const pictures = step.item.level.picture;
    return pictures.edges.filter((edge) => isActive(edge, step));
  }

  function messages(step) {
    return step.pass === "backward" ? edgesOf(step) : [];
  }

  function arrays(list, type) {
    if (!list || !list.length) return [el("p", { class: "type" }, type || "no value")];
    return list.map(arrayElement);
  }

  function arrayElement(a) {
    if (a.number) return el("p", { class: "number" }, a.number, el("small", {}, ` ${a.type}`));
    const facts = [a.type];
    if (a.norm) facts.push(`norm ${a.norm}`);
    if (a.least) facts.push(`from ${a.least} to ${a.most}`);
    if (a.note) facts.push(a.note);
    const made = el("figure", {});
    if (a.rows) made.append(tableElement(a));
    else if (a.cells) made.append(mapElement(a));
    made.append(el("figcaption", {}, facts.join("; ")));
    return made;
  }

  function tableElement(a) {
    const single = a.rows.length === 1 && !/,/.test(shape(a.type));
    const body = el("tbody", {});
    let longest = 0;
    a.rows.forEach((row, i) => {
      const line = el("tr", {});
      if (!single) line.append(el("th", { scope: "row" }, String(i)));
      row.forEach((text, j) => {
        const cell = el("td", { "data-at": single ? j : `${i},${j}` }, text);
        const size = a.cells[i][j];
        const fill = el("i", { class: size === null ? "nan" : size < 0 ? "minus" : "plus", "aria-hidden": "true" });
        fill.style.width = `${Math.min(100, size === null ? 100 : Math.abs(size) * 100)}%`;
        cell.append(fill);
        line.append(cell);
        longest = Math.max(longest, text.length + (single ? 5 : 0));
      });
      body.append(line);
    });
    return el("table", { class: single ? "entries single" : "entries", style: `--letters:${longest}` }, body);
  }

  function mapElement(a) {
    const [rows, columns] = [a.cells.length, a.cells[0].length];
    const svg = drawn("svg", {
      class: "map", viewBox: `0 0 ${columns * 10} ${rows * 10}`, role: "img",
      "aria-label": `Map of ${a.type}, norm ${a.norm}`, style: `max-width:${columns * 14}px`,
    });
    let [hatch, crosses] = ["", ""];
    a.cells.forEach((row, i) => row.forEach((size, j) => {
      const [x, y] = [j * 10, i * 10];
      if (size === null || Math.abs(size) > 1) crosses += `M${x + 2},${y + 2}l6,6m0,-6l-6,6`;
      if (size === null || size === 0) return;
      const cell = drawn("rect", { x, y, width: 10, height: 10, class: size < 0 ? "minus" : "plus" });
      cell.setAttribute("fill-opacity", (0.08 + 0.92 * Math.min(1, Math.abs(size))).toFixed(2));
      svg.append(cell);
      if (size < 0) hatch += `M${x + 1},${y + 9}l8,-8`;
    }));
    svg.append(drawn("path", { d: hatch || "M0,0", class: "hatch" }), drawn("path", { d: crosses || "M0,0", class: "cross" }));
    svg.append(drawn("rect", { x: 0, y: 0, width: columns * 10, height: rows * 10, class: "rim" }));
    return svg;
  }

  function equation(left, right) {
    return el("p", { class: "equation" }, right ? `${left} = ${right}` : left);
  }

  function heading(step) {
    const name = step.pass === "backward" && step.item.box?.bar_name ? step.item.box.bar_name : step.item.name;
    const kind = step.item.kind === "operation" ? "" : step.item.kind;
    const title = el("h2", {}, el("b", {}, name), el("span", { class: "kind" }, kind));
    const where = step.item.box?.where;
    return [title, el("p", { class: "pass" }, `${passName(step)}${where ? `; ${where}` : ""}`)];
  }

  const passName = (step) => `${step.pass === "forward" ? "Forward" : "Backward"}, ${step.number} of ${step.of}`;

  function part(title, ...content) {
    return el("div", { class: "piece" }, el("h3", {}, title), ...content);
  }

  function forwardPieces(step) {
    const { box, level } = step.item;
    const found = [equation(box.name, box.made)];
    const into = level.picture.edges.filter((edge) => edge.to === step.item);
    if (into.length && box.kind !== "fold") {
      const list = el("ul", { class: "arguments" });
      for (const edge of into) {
        const from = edge.from.box;
        list.append(el("li", {}, from.kind === "fold" ? `${edge.uses} from the fold`
          : `${from.name} = ${brief(from.values, from.type)}`));
      }
      found.push(part(into.length > 1 ? "Its arguments" : "Its argument", list));
    }
    if (box.kind === "fold") found.push(el("p", {}, root.notes?.join(" ") || ""));
    else found.push(part("Its value", ...arrays(box.values, box.type)));
    if (box.levels || step.item.levels.length) found.push(insideNote(step.item));
    return found;
  }

  function insideNote(item) {
    const names = item.levels.map((level) => level.name).join(", ");
    return el("p", { class: "hint" }, `It holds ${names}: ${item.open ? "open" : "closed"} in the picture (▸).`);
  }

  function backwardPieces(step) {
    const { box, level } = step.item;
    if (box.kind === "fold") return [el("p", {}, `Messages pass through ${box.forward} nodes.`)];
    const found = [equation(box.bar_name, box.equation)];
    const arriving = level.picture.edges.filter((edge) => edge.from === step.item && edge.flows);
    const list = el("ol", { class: "messages" });
    for (const given of box.given || []) {
      list.append(el("li", { class: "given" }, el("span", {}, "given, the pass starts here"), arrayElement(given)));
    }
    arriving.forEach((edge, i) => {
      const uses = edge.uses > 1 ? `${edge.uses} messages from the fold, summed` : `from ${edge.to.name}`;
      list.append(el("li", {}, el("span", {}, el("b", { class: "count" }, String(i + 1)), ` ${uses}`,
        edge.message ? el("code", {}, edge.message) : ""), ...arrays(edge.value ? [edge.value] : [], box.type)));
    });
    const count = arriving.length + (box.given?.length || 0);
    found.push(part(count === 1 ? "The message that arrives" : `The ${count} messages that arrive`,
      count ? list : el("p", {}, "None: nothing depends on it.")));
    found.push(part(count > 1 ? `Their sum, ${box.bar_name}` : `Its bar, ${box.bar_name}`, ...arrays(box.bars, box.type)));
    const sends = level.picture.edges.filter((edge) => edge.to === step.item && edge.flows);
    if (sends.length) {
      const sent = el("ul", { class: "arguments" });
      for (const edge of sends) {
        const text = [`to ${edge.from.name}: `, edge.message || "", edge.value && edge.message ? " = " : "",
          edge.value ? brief([edge.value], "") : ""];
        sent.append(el("li", {}, text.join("")));
      }
      found.push(part(sends.length > 1 ? "What it sends its parents" : "What it sends its parent", sent));
    }
    if (step.item.levels.length) found.push(insideNote(step.item));
    return found;
  }

  function groupPieces(step) {
    const list = el("ul", { class: "arguments" });
    const collect = (level) => level.items.forEach((item) => {
      if (!item.box) item.levels.forEach(collect);
      else if (step.pass === "forward") list.append(el("li", {}, item.box.forward));
      else if (item.box.gets_bar) list.append(el("li", {}, item.box.backward));
    });
    step.item.levels.forEach(collect);
    const found = [el("p", { class: "hint" }, `A called function, ${step.item.name}, closed: open it (▸) to step through its nodes.`)];
    const arriving = messages(step);
    if (arriving.length) {
      const from = el("ol", { class: "messages" });
      arriving.forEach((edge, i) => from.append(el("li", {}, el("span", {}, el("b", { class: "count" }, String(i + 1)),
        ` from ${edge.to.name} to ${edge.from.name}`, edge.message ? el("code", {}, edge.message) : ""),
      ...arrays(edge.value ? [edge.value] : [], ""))));
      found.push(part("The messages that arrive from outside", from));
    }
    found.push(part(step.pass === "forward" ? "Its nodes" : "The bars of its nodes", list));
    return found;
  }

  function sentence(step) {
    const { box } = step.item;
    if (!box) return `${passName(step)}: ${step.item.name}, closed`;
    return `${passName(step)}: ${(step.pass === "forward" ? box.forward : box.backward) || box.name}`;
  }

  // ------------------------------------------------------------------ from step to step

  function update(speak = true) {
    const step = steps[at];
    for (const [item, chip] of chips) {
      const here = item === step.item;
      chip.classList.toggle("valued", reached("forward", item));
      chip.classList.toggle("barred", reached("backward", item));
      chip.classList.toggle("here", here);
      const mark = chip.querySelector(".mark");
      if (mark) mark.textContent = here ? (step.pass === "forward" ? "▼" : "▲") : "";
      if (here) chip.setAttribute("aria-current", "step");
      else chip.removeAttribute("aria-current");
    }
    const pieces = !step.item.box ? groupPieces : step.pass === "forward" ? forwardPieces : backwardPieces;
    $("detail").replaceChildren(...heading(step), ...pieces(step));
    $("detail").className = step.pass;
    $("progress").textContent = passName(step);
    $("slider").max = steps.length;
    $("slider").value = at + 1;
    $("slider").setAttribute("aria-valuetext", sentence(step));
    for (const id of ["first", "back"]) $(id).setAttribute("aria-disabled", String(at === 0));
    for (const id of ["next", "last"]) $(id).setAttribute("aria-disabled", String(at === steps.length - 1));
    for (const row of $("rows").children) row.classList.toggle("here", items[row.dataset.item] === step.item);
    if (speak) $("status").textContent = sentence(step);
    draw();
    inSight(chips.get(step.item));
  }

  // Scrolls the picture, never the page.
  function inSight(chip) {
    if (!chip) return;
    const graph = $("graph");
    const [outer, inner] = [graph.getBoundingClientRect(), chip.getBoundingClientRect()];
    if (inner.top < outer.top + 24 || inner.bottom > outer.bottom - 24) {
      graph.scrollTop += inner.top - outer.top - (outer.height - inner.height) / 2;
    }
  }

  let builtFor = 0;

  function resized() {
    if (roomFor($("graph").clientWidth) === builtFor) return draw();
    rebuild();
    update(false);
  }

  function rebuild() {
    chips.clear();
    passing.clear();
    $("graph").replaceChildren(levelElement(root.top, $("graph").clientWidth - 16));
    builtFor = roomFor($("graph").clientWidth);
    makeLines();
    steps = allSteps();
    reachedBy = { forward: new Map(), backward: new Map() };
    steps.forEach((step, i) => reachedBy[step.pass].set(step.item, i));
  }

  function toggle(item) {
    const { pass, item: was } = steps[at];
    item.open = !item.open;
    rebuild();
    stay(pass, was);
    update();
    document.querySelector(`.opener[data-item="${item.index}"]`)?.focus({ preventScroll: true });
  }

  // The step of an item, or of what is seen in its place, or the first step of what it holds.
  function stay(pass, item) {
    const shown = seen(item);
    let found = steps.findIndex((step) => step.pass === pass && step.item === shown);
    if (found < 0) found = steps.findIndex((step) => step.pass === pass && holds(shown, step.item));
    if (found < 0) found = steps.findIndex((step) => step.item === shown);
    at = Math.max(found, 0);
  }

  function holds(item, inner) {
    for (let up = inner.level.holder; up; up = up.level.holder) if (up === item) return true;
    return false;
  }

  function show(item) {
    pause();
    stay(steps[at].pass, item);
    update();
  }

  function go(to) {
    at = Math.min(Math.max(to, 0), steps.length - 1);
    update();
  }

  let timer = null;

  function pause() {
    clearInterval(timer);
    timer = null;
    $("play").textContent = "Play";
    $("play").setAttribute("aria-pressed", "false");
  }

  function play() {
    if (timer) return pause();
    if (at === steps.length - 1) go(0);
    $("play").textContent = "Pause";
    $("play").setAttribute("aria-pressed", "true");
    timer = setInterval(() => (at < steps.length - 1 ? go(at + 1) : pause()), 1400);
  }

  const by = (change) => () => { pause(); go(change()); };
  const moves = {
    first: by(() => 0), back: by(() => at - 1), next: by(() => at + 1), last: by(() => steps.length - 1),
  };

  function columns() {
    const add = (picture, depth) => {
      let open = [];
      for (const box of picture.boxes) {
        const groups = box.groups || [];
        groups.forEach((name, i) => {
          if (open[i] !== name || open.length < i + 1) {
            $("rows").append(el("tr", { class: "group" }, el("th", { colspan: 3 }, `${"  ".repeat(depth + i)}▾ ${name}`)));
            open = groups.slice(0, i + 1);
          }
        });
        open = groups;
        const item = picture.items.get(box.id);
        $("rows").append(el("tr", { "data-item": item.index },
          el("th", { scope: "row" }, "  ".repeat(depth + groups.length),
            el("button", { type: "button", class: "name", onclick: () => show(item) }, box.name)),
          el("td", {}, box.forward), el("td", { class: "backward" }, box.backward || "")));
        for (const [name, inner] of box.inner || []) {
          $("rows").append(el("tr", { class: "group" },
            el("th", { colspan: 3 }, `${"  ".repeat(depth + groups.length + 1)}▾ ${name}`)));
          add(inner, depth + groups.length + 2);
        }
      }
    };
    add(root, 0);
  }

  // What is not drawn, and why: of this picture and of those in its nodes, each sentence once.
  function notesOf(picture, found = new Set()) {
    for (const note of picture.notes || []) found.add(note);
    for (const box of picture.boxes) for (const [, inner] of box.inner || []) notesOf(inner, found);
    return found;
  }

  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const keys = { ArrowRight: "next", ArrowLeft: "back", Home: "first", End: "last" };
    const button = event.target.closest?.("button");
    if (event.target === $("slider") && event.key !== " ") return;
    if (keys[event.key]) moves[keys[event.key]]();
    else if (event.key === " " && !button) play();
    else return;
    event.preventDefault();
  });

  $("theme").addEventListener("click", () => {
    const order = ["auto", "dark", "light"];
    const next = order[(order.indexOf(document.documentElement.dataset.theme || "auto") + 1) % 3];
    document.documentElement.dataset.theme = next;
    $("theme").textContent = `Theme: ${next}`;
  });

  makePicture(root, null, "");
  noteSizes(root);
  $("notes").append(...[...notesOf(root)].map((note) => el("p", { class: "note" }, note)));
  columns();
  rebuild();
  for (const [id, move] of Object.entries(moves)) $(id).addEventListener("click", move);
  $("play").addEventListener("click", play);
  $("slider").addEventListener("input", () => { pause(); go(Number($("slider").value) - 1); });
  update(false);
  new ResizeObserver(resized).observe($("graph"));
})();
