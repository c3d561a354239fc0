"use strict";
// Answers calls from the table: walks its trees, and fills sizes in. What the dialects do stands in the table alone,
// which explainer.py makes by asking the library; this formats it as the library does.

let table; // as explainer.py's `table` describes it
const PLACE = /\{((?:[\dxy*+]*[xy]\d+[\dxy*+]*)|(?:axes\d*(?::kind)?)|lhs|rhs|normalize|(?:transpose|adjoint)_[ab])\}/g;

async function load(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  table = await new Response(stream).json();
}

// Python's values: an int, a tuple or a list as { kind, items }, null for None.

function parsed(text) {
  const tokens = text.match(/-?\d+|None|[[\](),]|\S/g) ?? [];
  const several = (kind, end) => {
    const items = [];
    let comma = false;
    while (tokens.length && tokens[0] !== end) {
      items.push(one());
      comma = tokens[0] === ",";
      if (comma) tokens.shift();
      else if (tokens.length && tokens[0] !== end) throw new Error("a comma is missing");
    }
    if (end !== undefined && tokens.shift() !== end) throw new Error(`'${end}' is missing`);
    return kind === "tuple" && items.length === 1 && !comma ? items[0] : { kind, items };
  };
  const one = () => {
    const token = tokens.shift();
    if (token === "(") return several("tuple", ")");
    if (token === "[") return several("list", "]");
    if (token === "None") return null;
    if (token === undefined) throw new Error("an int is missing");
    if (!/^-?\d+$/.test(token)) throw new Error(`'${token}' is no int`);
    return Number(token);
  };
  return several("tuple");
}

function repr(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value === "string") return value.includes("'") ? JSON.stringify(value) : `'${value}'`;
  if (typeof value === "number") return String(value);
  const items = value.items.map(repr).join(", ");
  if (value.kind === "list") return `[${items}]`;
  return value.items.length === 1 ? `(${items},)` : `(${items})`;
}

// A form is what is left of axes without their ints; these are found again by name: axes, axes0, axes01.

function form(value, name, values) {
  if (value === null) return "None";
  values[name] = value;
  if (typeof value === "number") return "i";
  return `(${value.items.map((item, i) => form(item, name + i, values)).join(",")})`;
}

function outside(form, values, ranks) {
  const tried = table.tried[form];
  return Object.entries(values).find(([name, value]) => {
    if (typeof value !== "number") return false;
    const [from, to] = tried[ranks[Math.min(Number(name[4] ?? 0), 1)]];
    return value < from || value >= to;
  });
}

// Numbers.

const amount = (expression, sizes) =>
  expression
    .split("+")
    .map((term) => term.split("*").reduce((product, factor) => product * (sizes[factor] ?? BigInt(factor)), 1n))
    .reduce((sum, term) => sum + term);

const grouped = (digits) => digits.replace(/\B(?=(\d{3})+(?!\d))/g, ",");

function general(number) {
  // Python's format(number, ".3g"), which rounds a tie to even.
  if (number === 0) return "0";
  const [mantissa, power] = number.toExponential(60).split("e");
  const digits = mantissa.replace(".", "");
  const rest = digits.slice(3).replace(/0+$/, "");
  let kept = Number(digits.slice(0, 3));
  if (rest > "5" || (rest === "5" && kept % 2)) kept += 1;
  const exponent = Number(power) + (kept === 1000);
  const text = String(kept === 1000 ? 100 : kept);
  const trimmed = (whole, part) => (part.replace(/0+$/, "") ? `${whole}.${part.replace(/0+$/, "")}` : whole);
  if (exponent < -4 || exponent >= 3) {
    const sign = exponent < 0 ? "-" : "+";
    return `${trimmed(text[0], text.slice(1))}e${sign}${String(Math.abs(exponent)).padStart(2, "0")}`;
  }
  if (exponent < 0) return trimmed("0", "0".repeat(-exponent - 1) + text);
  return trimmed(text.slice(0, exponent + 1), text.slice(exponent + 1));
}

function fill(text, known, write = String) {
  return text.replace(PLACE, (_, name) => {
    if (name.endsWith(":kind")) return known.values[name.slice(0, -5)].kind ?? "int";
    if (name in known.values) return repr(known.values[name]);
    return known.names[name] ?? write(String(amount(name, known.sizes)));
  });
}

function fact([name, text], known) {
  if (name === "FLOPs per byte") {
    const [flops, moved] = fill(text, known).match(/\d+/g).map(Number);
    return [name, /^\(/.test(text) ? general(flops / Math.max(moved, 1)) : text];
  }
  return [name, fill(text, known, name === "FLOPs" || name === "bytes" ? grouped : String)];
}

// Trees.

function walk(number, known) {
  for (;;) {
    const node = table.nodes[number];
    const [kind, what, to] = node;
    if (kind === "=") {
      const [one, other] = [what, to].map((size) => amount(String(size), known.sizes));
      number = node[one === other ? 3 : 4];
    } else if (kind === "==") number = node[known.values[what] === to ? 3 : 4];
    else if (kind === "<") number = node[known.values[what] < to ? 3 : 4];
    else if (kind === "#") number = node[3 + to.indexOf(known.values[what])];
    else return node;
  }
}

class Beyond extends Error {}

function planned(name, shapes, given) {
  const door = table.functions[name];
  const values = { ...door.defaults, ...given };
  const ranks = shapes.map((shape) => shape.length);
  let tree = "";
  if ("axes" in values) {
    const inner = {};
    tree = form(values.axes, "axes", inner);
    if (!(tree in table.tried)) throw new Beyond(`axes of the form ${repr(values.axes)}`);
    const found = Math.max(...ranks) < door.trees[tree].length && outside(tree, inner, ranks);
    if (found) throw new Beyond(`an axis ${found[1]} in axes=${repr(values.axes)}`);
    Object.assign(values, inner);
  } else {
    const equation = values.equation ?? values.contraction;
    if (equation !== undefined) tree = equation;
    if (!(tree in door.trees)) throw new Beyond(`the equation ${repr(equation)}`);
  }
  const number = door.trees[tree][ranks[0]]?.[ranks[1]];
  if (number === undefined) throw new Beyond(`a rank above ${door.trees[tree].length - 1}`);
  const sizes = {};
  shapes.forEach((shape, side) => shape.forEach((size, axis) => (sizes["xy"[side] + axis] = size)));
  const names = { lhs: door.operands[0], rhs: door.operands[1] };
  const known = { sizes, values, names };
  return { leaf: walk(number, known), known };
}

const refusal = (leaf, known) => fill(leaf[2] + leaf[3], known);

function others(name, shapes, given) {
  const asked = Object.keys(given).join(",");
  return table.functions[name].others[asked].map((door) => {
    const { leaf, known } = planned(door, shapes, given);
    if (leaf[0] === "refusal") return { function: door, text: `refuses: ${refusal(leaf, known)}` };
    return { function: door, text: fill(leaf[3], known), answers: true };
  });
}

// A call is { function, shapes: [[10, 4], [10, 5]], arguments: { axes: "(1, 1)", transpose_a: true } }, its axes being
// text as in Python. The answer has the words of `jbdot.explain`, or of the error that it raises.

function explain(call) {
  const door = table.functions[call.function];
  const shapes = call.shapes.map((shape) => shape.map(BigInt));
  const given = {};
  for (const name of door.arguments) {
    if (!(name in call.arguments)) continue;
    const value = name === "axes" ? parsed(call.arguments.axes) : call.arguments[name];
    if (!(name in door.defaults) || repr(value) !== repr(door.defaults[name])) given[name] = value;
  }
  const missing = door.arguments.find((name) => !(name in door.defaults) && !(name in given));
  if (missing) throw new Error(`${call.function} needs ${missing}`);
  const operands = shapes.map((shape, side) => `${door.operands[side]} ${table.dtype}[${shape.join(",")}]`);
  const written = Object.entries(given).map(([name, value]) => `${name}=${repr(value)}`);
  const text = [...operands, ...written].join(", ");
  const { leaf, known } = planned(call.function, shapes, given);
  const elsewhere = others(call.function, shapes, given);
  const answer = { call: `${call.function}(${text})`, others: elsewhere };
  if (leaf[0] === "refusal") {
    const gives = elsewhere.filter((other) => other.answers).slice(0, 4);
    const cure = gives.map((other) => `${other.function} gives ${other.text}`).join(", ");
    const told = `${call.function}: ${fill(leaf[2], known)}; ${text}${fill(leaf[3], known)}`;
    const built = "axes" in given && door.built?.[form(given.axes, "axes", {})];
    const error = built ? fill(built, known) : told + (cure && ` To the same call ${cure}.`);
    return { ...answer, kind: leaf[1], error };
  }
  const [, formula, rows, shape, facts] = leaf;
  return {
    ...answer,
    shape: fill(shape, known),
    formula: fill(formula, known),
    head: ["label", "role", ...Object.values(known.names).map((name) => `axis of ${name}`), "axis of out", "size"],
    rows: rows.map((row) => row.map((cell) => fill(cell, known, grouped))),
    facts: facts.map((pair) => fact(pair, known)),
  };
}

// What to type where the table ends, and for what it leaves out.

function command(call) {
  const [dialect, name] = call.function.includes(".") ? call.function.split(".") : ["", call.function];
  const shapes = call.shapes.map((shape) => shape.join("x") || "scalar");
  const { axes, equation, contraction, ...flags } = call.arguments;
  if (table.functions[call.function].built) {
    const [x, y] = call.shapes.map((shape) => repr({ kind: "tuple", items: shape.map(Number) }));
    const layer = [axes, ...Object.keys(flags).map((flag) => `${flag}=True`)].join(", ");
    return `python -c "import jbdot; print(jbdot.explain(jbdot.${call.function}(${layer}), [${x}, ${y}]))"`;
  }
  const words = [`jbdot explain ${name} ${shapes.join(" ")}`];
  if (axes !== undefined) words.push(`--axes='${axes}'`);
  if (equation ?? contraction) words.push(`--equation='${equation ?? contraction}'`);
  for (const flag of Object.keys(flags)) words.push(`--${flag.replace("_", "-")}`);
  if (dialect) words.push(`--dialect ${dialect}`);
  return words.join(" ");
}
