// Small tools for building the page. Text from the box only ever becomes a text node: nothing here reads HTML.

/** An element: h("td", {class: "number", onclick: f}, "text", child, ...). null and false children are left out. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(3).filter((one) => one !== null && one !== undefined && one !== false));
  return element;
}

/** Replace what an element holds. */
export function fill(element, ...children) {
  element.replaceChildren(...children.flat(3).filter((one) => one !== null && one !== undefined && one !== false));
}

/** A table that turns into a list on small screens. columns: [title, (row) => cell, class?]. */
export function table(columns, rows, empty) {
  if (!rows.length) return h("p", {class: "empty"}, empty);
  return h("div", {class: "scroll"}, h("table", {class: "stack"},
    h("thead", {}, h("tr", {}, columns.map(([title, , kind]) => h("th", {scope: "col", class: kind}, title)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, columns.map(([title, cell, kind]) =>
      h("td", {class: kind, "data-label": title || null}, cell(row) ?? "")))))));
}

/** Name and value pairs; pairs without a value are left out. */
export function facts(pairs) {
  return h("dl", {}, pairs.filter(([, value]) => value !== null && value !== undefined && value !== "").map(
    ([name, value]) => [h("dt", {}, name), h("dd", {}, value instanceof Node ? value : String(value))]));
}

export const pill = (text, kind) => h("span", {class: `pill ${kind}`}, text);

const GOOD = new Set(["RUNNING", "running", "configured", "HEALTHY", "ready", "ok", "active", "alive", "connected"]);
const WARN = new Set(["STARTING", "STOPPING", "DEGRADED", "starting", "waiting", "stopping", "pending", "sync_pending", "BACKOFF"]);
const BAD = new Set(["FAILED", "PARKED", "ERROR", "error", "parked", "stale", "rollback"]);

/** A word for a state, in the colour that it deserves. */
export function state(word) {
  if (!word) return "";
  return pill(word, GOOD.has(word) ? "good" : WARN.has(word) ? "warn" : BAD.has(word) ? "bad" : "faint");
}

/** 3 d 4 h, 12 min, 5 s. */
export function span(seconds) {
  if (seconds === null || seconds === undefined || Number.isNaN(seconds)) return "";
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor(whole % 3600 / 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor(whole % 86400 / 3600)} h`;
}

/** A stored time as this browser's local time. */
export function when(value) {
  if (!value) return "";
  const date = new Date(value);
  return Number.isNaN(date.getTime()) ? String(value) : date.toLocaleString();
}

/** Say something for a moment; errors stay longer. */
export function toast(text, bad = false) {
  const host = document.getElementById("toasts");
  if (host.showPopover) {  // shown anew it is above every dialog
    host.popover = "manual";
    if (host.matches(":popover-open")) host.hidePopover();
    host.showPopover();
  }
  const one = h("div", {class: bad ? "toast bad" : "toast"}, text);
  host.append(one);
  setTimeout(() => one.remove(), bad ? 9000 : 3500);
}

/** Run an action of a button: it is disabled meanwhile, and a failure is told. */
export async function act(button, work, done) {
  button.disabled = true;
  try {
    const result = await work();
    if (done) toast(done);
    return result;
  } catch (error) {
    toast(error.message, true);
    return undefined;
  } finally {
    button.disabled = false;
  }
}

/** A dialog with a form. build(form, close) fills it; it is removed when it closes. */
export function dialog(title, build) {
  const heading = h("h2", {}, title);
  const form = h("form", {onsubmit: (event) => event.preventDefault()});
  const box = h("dialog", {"aria-label": title}, heading, form);
  const close = () => box.close();
  box.addEventListener("close", () => box.remove());
  build(form, close);
  document.body.append(box);
  box.showModal();
  return box;
}

/** Ask before something that cannot be undone; resolves to true or false. */
export function confirmed(title, text, word) {
  return new Promise((resolve) => {
    const box = dialog(title, (form, close) => {
      const yes = h("button", {type: "button", class: "danger", onclick: () => { resolve(true); close(); }}, word);
      form.append(h("p", {}, text), h("p", {class: "actions"},
        h("button", {type: "button", onclick: close, autofocus: true}, "Cancel"), yes));
    });
    box.addEventListener("close", () => resolve(false));
  });
}

export const field = (label, control) => h("label", {}, label, control);
