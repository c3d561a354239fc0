// The page around `explain`: the form, the address, the picture, the tables.

const at = (id) => document.getElementById(id);
const FLAGS = ["transpose_a", "transpose_b", "adjoint_a", "adjoint_b", "normalize"];

function element(name, attributes = {}, ...children) {
  const svg = ["svg", "rect", "path", "text", "g"].includes(name);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

// The form.

function fieldsOf(name) {
  const door = table.functions[name];
  const equation = door.arguments.find((argument) => argument === "equation" || argument === "contraction");
  return { door, has: (argument) => door.arguments.includes(argument), equation };
}

function setUp() {
  for (const [dialect, caption] of Object.entries({ ...table.dialects, jbdot: "the contraction itself" })) {
    const names = Object.keys(table.functions).filter((name) => `jbdot.${name}`.split(".").at(-2) === dialect);
    const options = names.map((name) => element("option", { value: name }, name));
    at("function").append(element("optgroup", { label: `${dialect}: ${caption}` }, ...options));
  }
  at("preset").append(element("option", { value: "" }, "Choose one, or type below"));
  table.presets.forEach((preset, i) => {
    const shapes = preset.shapes.map((shape) => repr({ kind: "tuple", items: shape }));
    const axes = preset.arguments.axes ? [`axes=${preset.arguments.axes}`] : [];
    at("preset").append(element("option", { value: i }, `${preset.function}: ${[...shapes, ...axes].join(", ")}`));
  });
  at("equations").append(...table.equations.map((value) => element("option", { value })));
  for (const flag of FLAGS) {
    const box = element("input", { type: "checkbox", id: flag });
    at("flags").append(element("label", { for: flag, id: `${flag}-field` }, box, element("code", {}, flag)));
  }
  at("most").textContent = table.ranks;
  const leftOut = Object.entries(table["left out"]).map(([name, why]) => `jbdot.${name} is left out: ${why}.`);
  at("left-out").textContent = leftOut.join(" ");
  at("call").addEventListener("input", (event) => {
    if (event.target.id !== "preset") at("preset").value = "";
    if (at("preset").value) show(table.presets[at("preset").value]);
    else answer();
  });
  at("call").addEventListener("submit", (event) => event.preventDefault());
  window.addEventListener("hashchange", () => show(fromAddress()));
}

function show(call) {
  const { equation } = fieldsOf(call.function);
  at("function").value = call.function;
  at("lhs").value = call.shapes[0].join("x") || "()";
  at("rhs").value = call.shapes[1].join("x") || "()";
  at("axes").value = call.arguments.axes ?? "";
  at("equation").value = call.arguments[equation] ?? table.equations[0];
  for (const flag of FLAGS) at(flag).checked = Boolean(call.arguments[flag]);
  answer();
}

function shapeOf(id) {
  const text = at(id).value.trim();
  if (text === "()" || text === "scalar") return [];
  const sizes = text.replace(/^[([]|,?[)\]]$/g, "").split(/\s*[xX×,\s]\s*/);
  if (sizes.includes("None")) throw new Error(`'${text}' has a size that is not known: put a number for each None`);
  if (!sizes.every((size) => /^\d+$/.test(size))) {
    throw new Error(`'${text}' is no shape: write sizes with x between them, such as 10x12x4x5, or () for a scalar`);
  }
  return sizes.map(BigInt);
}

function typed() {
  const name = at("function").value;
  const { has, equation } = fieldsOf(name);
  const call = { function: name, shapes: [], arguments: {} };
  const read = (id, how) => {
    at(id).removeAttribute("aria-invalid");
    try {
      return how(id);
    } catch (error) {
      at(id).setAttribute("aria-invalid", "true");
      throw error;
    }
  };
  call.shapes = ["lhs", "rhs"].map((id) => read(id, shapeOf));
  const axes = at("axes").value.trim();
  if (has("axes") && axes) {
    read("axes", () => {
      try {
        parsed(axes);
      } catch (error) {
        throw new Error(`axes: ${error.message}. Write 1, or 3,2, or [1,2],[0,1]`);
      }
    });
    call.arguments.axes = axes;
  }
  if (equation) call.arguments[equation] = at("equation").value;
  for (const flag of FLAGS) if (has(flag) && at(flag).checked) call.arguments[flag] = true;
  return call;
}

// The address: #keras.batch_dot&x=10x12&y=10x12&axes=1,1.

function toAddress(call) {
  const parts = [call.function, ...call.shapes.map((shape, side) => `${"xy"[side]}=${shape.join("x") || "()"}`)];
  for (const [name, value] of Object.entries(call.arguments)) {
    const text = encodeURIComponent(name === "axes" ? value.replace(/ /g, "") : value);
    parts.push(value === true ? name : `${name}=${text.replace(/%(2C|5B|5D)/g, decodeURIComponent)}`);
  }
  return `#${parts.join("&")}`;
}

function fromAddress() {
  const [name, ...parts] = location.hash.slice(1).split("&");
  const split = parts.map((part) => part.split(/=(.*)/s));
  const pairs = split.map(([key, text]) => [key, text === undefined || plain(text)]);
  const { x, y, ...rest } = Object.fromEntries(pairs);
  if (!Object.hasOwn(table.functions, name) || typeof x !== "string" || typeof y !== "string") return table.presets[0];
  return { function: name, shapes: [x, y].map((shape) => (shape === "()" ? [] : shape.split("x"))), arguments: rest };
}

function plain(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

// The answer.

function answer() {
  const name = at("function").value;
  const { door, has, equation } = fieldsOf(name);
  ["lhs", "rhs"].forEach((side, i) => (at(`${side}-name`).textContent = door.operands[i]));
  at("axes-field").hidden = !has("axes");
  at("axes").placeholder = "axes" in door.defaults ? repr(door.defaults.axes) : "such as 1, or 1,2";
  at("equation-field").hidden = !equation;
  at("equation-name").textContent = equation ?? "";
  at("flags").hidden = !FLAGS.some(has);
  for (const flag of FLAGS) at(`${flag}-field`).hidden = !has(flag);
  at("problem").textContent = "";
  let call;
  try {
    call = typed();
    history.replaceState(null, "", toAddress(call));
    const found = explain(call);
    at("said").textContent = found.shape ?? found.kind;
    at("answer").replaceChildren(...("error" in found ? refusalOf(found, call) : answerOf(found, call)));
  } catch (error) {
    if (error instanceof Beyond) {
      at("answer").replaceChildren(
        element("p", { class: "made" }, `The table in this page does not hold ${error.message}. jbdot itself answers:`),
        element("pre", {}, command(call)),
      );
    } else {
      at("problem").textContent = `${error.message}.`;
      at("answer").replaceChildren();
    }
  }
}

function answerOf(found, call) {
  const facts = found.facts.map(([name, text]) =>
    element("tr", {}, element("th", { scope: "row" }, name), element("td", { class: "code" }, text)),
  );
  return [
    element("p", { class: "made code" }, found.call),
    element("p", { class: "shape" }, found.shape),
    element("p", { class: "formula code" }, ...coloured(found)),
    ...(found.rows.length ? [element("div", { class: "picture scroll", tabindex: 0 }, drawn(found))] : []),
    element("h2", {}, "Roles"),
    element("div", { class: "scroll" }, rolesOf(found)),
    element("h2", {}, "Facts"),
    element("table", { class: "pairs" }, element("tbody", {}, ...facts)),
    ...elsewhereOf(found, call),
    element("h2", {}, "On your machine"),
    element("p", { class: "made" }, "What runs on a CPU, GPU or TPU, and why, is said by:"),
    element("pre", {}, command(call)),
  ];
}

function refusalOf(found, call) {
  return [
    element("p", { class: "made code" }, found.call),
    element("div", { class: "refusal" }, element("p", {}, element("b", {}, found.kind)), element("p", {}, found.error)),
    ...elsewhereOf(found, call),
  ];
}

function elsewhereOf(found, call) {
  const rows = found.others.map(({ function: name, text, answers }) => {
    const { has } = fieldsOf(name);
    const kept = Object.fromEntries(Object.entries(call.arguments).filter(([argument]) => has(argument)));
    const go = () => {
      at("preset").value = "";
      show({ ...call, function: name, arguments: kept });
      at("function").focus();
    };
    const title = `Explain ${name} for these operands`;
    const button = element("button", { type: "button", class: "code", title, onclick: go }, name);
    const cell = element("td", { class: answers ? "code" : "no" }, text);
    return element("tr", {}, element("th", { scope: "row" }, button), cell);
  });
  const answers = element("table", { class: "pairs" }, element("tbody", {}, ...rows));
  return rows.length ? [element("h2", {}, "The same call elsewhere"), answers] : [];
}

// Colours, by role, free axes by operand.

function roleOf(row) {
  return row[1] === "free" ? `${row[2] ? "lhs" : "rhs"} free` : row[1];
}

function coloured(found) {
  const coloured = found.rows.map((row) => [row[0] === "1" ? "0" : row[0], table.colours[roleOf(row)]]);
  const colours = Object.fromEntries(coloured);
  const chip = (label) =>
    colours[label] ? element("span", { class: "label", style: `background:${colours[label]}` }, label) : label;
  return found.formula
    .split(/(\[[^\]]*\]|sum_\{[^}]*\}|sum_\w+)/)
    .flatMap((part) => (/^(\[|sum_)/.test(part) ? part.split(/(sum_\{?|[[\],}])/).map(chip) : [part]));
}

function rolesOf(found) {
  const head = found.head.map((name, i) => element("th", { scope: "col", class: i > 1 ? "number" : "word" }, name));
  const rows = found.rows.map((row) => {
    const label = element("span", { class: "label", style: `background:${table.colours[roleOf(row)]}` }, row[0]);
    const cells = row.slice(1).map((text, i) => element("td", { class: i ? "number" : "word" }, text));
    return element("tr", {}, element("th", { scope: "row", class: "code" }, label), ...cells);
  });
  const top = element("thead", {}, element("tr", {}, ...head));
  return element("table", { class: "roles" }, top, element("tbody", {}, ...rows));
}

// The picture: operands above, result below, axes as blocks; as jbdot/calls/call_figure.py draws it, in blocks of 60.

const BLOCK = 60;
const STEP = 66;
const GAP = 60;
const LEVEL = 33;

function drawn(found) {
  const names = [...found.head.slice(2, 4).map((name) => name.replace("axis of ", "")), "out"];
  const arrays = names.map((name, side) => arrayOf(name, blocksOf(found.rows, side + 2)));
  const sums = found.rows.filter((row) => row[1] === "contracting");
  const roles = legendOf(found, names);
  const top = 70 + LEVEL * sums.length + 40;
  const low = top + (arrays[2].blocks.length ? 175 : 20);
  const second = arrays[0].width + GAP;
  const width = second + arrays[1].width;
  const starts = [0, second, (width - arrays[2].width) / 2];
  const place = (side, axis) => [starts[side] + arrays[side].first + axis * STEP, side === 2 ? low : top];
  const widest = Math.max(width, arrays[2].width, roles.width) + 24;
  const style = `min-width:${widest * 0.48}px;max-width:${widest}px`;
  const viewBox = [(width - widest) / 2, 0, widest, low + 150].join(" ");
  const svg = element("svg", { viewBox, role: "img", "aria-label": found.formula, style });
  for (const row of found.rows) if (row[0] !== "1") svg.append(...flows(row, place, top, low));
  sums.forEach((row, i) => svg.append(...bracket(row, place, top - 45 - LEVEL * (sums.length - i), top - 30)));
  arrays.forEach(({ title, blocks, width }, side) => {
    svg.append(write(title, starts[side] + width / 2, side === 2 ? low + 105 : 25, 20, { "font-weight": 600 }));
    blocks.forEach((row, axis) => svg.append(...block(row, axis, ...place(side, axis), side === 2)));
  });
  svg.append(...roles.at((width - roles.width) / 2, low + 138));
  return svg;
}

function arrayOf(name, blocks) {
  const shape = repr({ kind: "tuple", items: blocks.map((row) => Number(row[5].replace(/,/g, ""))) });
  const title = blocks.length ? `${name} ${shape}` : `${name}, a scalar`;
  const row = blocks.length * STEP - (STEP - BLOCK);
  const width = Math.max(row, 11.5 * title.length);
  return { title, blocks, width, first: (width - row + BLOCK) / 2 };
}

function blocksOf(rows, column) {
  const array = [];
  for (const row of rows) for (const axis of row[column].split(", ").filter(Boolean)) array[Number(axis)] = row;
  return array;
}

function write(text, x, y, size, more = {}) {
  return element("text", { x, y, "font-size": size, ...more }, text);
}

function block(row, axis, x, y, below) {
  const colour = table.colours[roleOf(row)];
  return [
    element("rect", { x: x - 27, y: y + 3, width: 54, height: 54, rx: 8, fill: colour, stroke: "#000" }),
    write(row[0], x, y + 22, row[0].length < 3 ? 23 : 13, { class: "on", "font-weight": 700 }),
    write(row[5].replace(/,/g, ""), x, y + 44, row[5].length < 6 ? 17 : 11, { class: "on" }),
    write(`axis ${axis}`, x, below ? y + 74 : y - 12, 15, { class: "quiet" }),
  ];
}

function flows(row, place, top, low) {
  const axes = (column) => row[column].split(", ").filter(Boolean).map(Number);
  const paths = [];
  for (const end of axes(4)) {
    for (const side of [0, 1]) {
      for (const start of axes(2 + side)) {
        const [from, to, bend] = [place(side, start)[0], place(2, end)[0], (top + BLOCK + low) / 2];
        const d = `M${from} ${top + BLOCK} C${from} ${bend + 20} ${to} ${bend - 20} ${to} ${low}`;
        const stroke = { stroke: table.colours[roleOf(row)], "stroke-width": 4.5, "stroke-opacity": 0.75 };
        paths.push(element("path", { d, fill: "none", ...stroke }));
      }
    }
  }
  return paths;
}

function bracket(row, place, high, low) {
  const [left, right] = [2, 3].map((column) => place(column - 2, Number(row[column].split(", ")[0]))[0]);
  const colour = table.colours.contracting;
  const text = `sum over ${row[0]}`;
  const width = 20 + 8.6 * text.length;
  const middle = (left + right) / 2;
  return [
    element("path", { d: `M${left} ${low} V${high} H${right} V${low}`, class: "join", stroke: colour }),
    element("rect", { x: middle - width / 2, y: high - 13, width, height: 26, rx: 5, stroke: colour, class: "sum" }),
    write(text, middle, high, 16),
  ];
}

function legendOf(found, names) {
  const words = { "lhs free": `free, of ${names[0]}`, "rhs free": `free, of ${names[1]}`, summed: "summed alone" };
  const there = new Set(found.rows.map(roleOf));
  const entries = Object.keys(table.colours)
    .filter((role) => there.has(role))
    .map((role) => ({ text: words[role] ?? role, fill: table.colours[role] }));
  const long = (text) => 44 + 7.8 * text.length;
  const at = (x, y) =>
    entries.flatMap(({ text, fill }, i) => {
      const start = entries.slice(0, i).reduce((sum, before) => sum + long(before.text), x);
      const box = { x: start, y: y - 7, width: 18, height: 14, rx: 3, fill, stroke: "#000" };
      return [element("rect", box), write(text, start + 25, y, 15, { style: "text-anchor:start" })];
    });
  return { width: entries.reduce((sum, { text }) => sum + long(text), 0), at };
}

window.ready = load(at("table").textContent).then(
  () => {
    setUp();
    show(fromAddress());
  },
  (error) => {
    at("answer").textContent = `This needs a browser of 2023 or later: the table cannot be read (${error.message}).`;
  },
);
