// The world page: what is, what changes, and a way to publish. State comes from the list once per connection
// and from the feed afterwards; drawing happens at most once per animation frame, whatever the event rate.

import {dialog, facts, field, fill, h, pill, table, toast, act, confirmed} from "./dom.js";
import {call, feed, setToken, token} from "./worldapi.js";
import {numericSeries, sparkline} from "./sparkline.js";
import {showConnectors} from "./connectors.js";

const SHOWN = 200;
const STREAM_LINES = 200;
const PER_FRAME = 5;
const LONGEST = 160;
const STALE_MS = 120000;
const byId = (id) => document.getElementById(id);

const entities = new Map();
const changed = new Set();
const lines = [];
let group = "";
let drawing = false;

const groupOf = (id) => {
  for (const mark of [":", "/"]) if (id.includes(mark)) return id.slice(0, id.indexOf(mark) + 1);
  return "";
};
const textOf = (value) => typeof value === "string" ? value : JSON.stringify(value);
const shortOf = (value) => { const text = textOf(value); return text.length > LONGEST ? `${text.slice(0, LONGEST)}…` : text; };

// What happens while the list is on its way is kept and applied to it: the list may be older.
let held = null;

async function load() {
  const mine = held = [];
  try {
    const list = await call("GET", "/api/state/entities");
    if (held !== mine) return;  // a newer connection loads
    entities.clear();
    for (const one of list) entities.set(one.id, {properties: one.properties, at: one.lastUpdated});
  } catch (error) {
    toast(error.message, true);
  }
  if (held !== mine) return;
  held = null;
  mine.forEach(take);
  draw();
}

function take(frame) {
  if (held && frame.type !== "metrics_update") {
    held.push(frame);
    return;
  }
  if (frame.type === "state_update") {
    const one = entities.get(frame.entity_id) ?? {properties: {}, at: frame.timestamp};
    one.properties[frame.property] = frame.value;
    one.at = frame.timestamp;
    entities.set(frame.entity_id, one);
    changed.add(frame.entity_id);
    lines.push(`${frame.timestamp.slice(11, 23)}  ${frame.entity_id}  ${frame.property} = ${shortOf(frame.value)}`);
  } else if (frame.type === "entity_deleted") {
    entities.delete(frame.entity_id);
    lines.push(`${frame.timestamp.slice(11, 23)}  ${frame.entity_id}  deleted`);
  } else if (frame.type === "metrics_update") {
    strip(frame);
    return;
  } else if (frame.type === "lagged") {
    lines.push("— this page was too slow; what it shows is the newest state again —");
  }
  if (lines.length > STREAM_LINES) lines.splice(0, lines.length - STREAM_LINES);
  draw();
}

function strip(frame) {
  const figures = [["publishers", frame.publishers.active], ["events / s", frame.events.rate_per_second.toFixed(1)],
    ["events", frame.events.total], ["entities", frame.entities.total], ["subscribers", frame.websocket.connections]];
  fill(byId("strip"), figures.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, String(value)))));
}

function draw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    drawEntities();
    drawStream();
  });
}

function drawEntities() {
  const wanted = byId("filter").value.trim().toLowerCase();
  const groups = new Map();
  for (const id of entities.keys()) {
    const name = groupOf(id);
    if (name) groups.set(name, (groups.get(name) ?? 0) + 1);
  }
  if (group && !groups.has(group)) group = "";
  drawGroups(groups);
  const fits = [...entities].filter(([id, one]) => id.startsWith(group) &&
    (!wanted || id.toLowerCase().includes(wanted) || JSON.stringify(one.properties).toLowerCase().includes(wanted)));
  fits.sort(([a], [b]) => a < b ? -1 : 1);
  showRows(fits.slice(0, SHOWN), fits.length - SHOWN);
  changed.clear();
}

// Rows stay the same elements while they are shown: a click or a focus must survive whatever happens meanwhile.
const rows = new Map();
const body = h("tbody");
const notes = h("div");
let shown = "";

function rowOf(id) {
  let row = rows.get(id);
  if (!row) {
    const properties = h("div", {class: "properties"});
    const updated = h("td", {"data-label": "Updated"});
    const name = h("button", {type: "button", class: "link", onclick: () => details(id)}, id || "(empty id)");
    row = {properties, updated, of: null, tr: h("tr", {}, h("td", {class: "name", "data-label": "Entity"}, name),
      h("td", {"data-label": "Properties"}, properties), updated)};
    rows.set(id, row);
  }
  return row;
}

function showRows(fits, more) {
  const host = byId("entities");
  if (!body.isConnected) {
    const heads = ["Entity", "Properties", "Updated"].map((title) => h("th", {scope: "col"}, title));
    fill(host, h("div", {class: "scroll"}, h("table", {class: "stack"}, h("thead", {}, h("tr", {}, heads)), body)), notes);
  }
  for (const [id, one] of fits) {
    const row = rowOf(id);
    if (changed.has(id) || row.of !== one) {
      row.of = one;
      fill(row.properties, Object.entries(one.properties).slice(0, 12).map(
        ([name, value]) => h("span", {}, h("b", {}, `${name} `), badge(name, value))));
      fill(row.updated, new Date(one.at).toLocaleTimeString());
      row.tr.classList.remove("changed");
      if (changed.has(id)) requestAnimationFrame(() => row.tr.classList.add("changed"));
    }
    row.tr.classList.toggle("stale", Date.now() - new Date(one.at) > STALE_MS);
  }
  const key = JSON.stringify(fits.map(([id]) => id));
  if (key !== shown) {
    shown = key;
    const kept = new Set(fits.map(([id]) => id));
    for (const [id, row] of rows) if (!kept.has(id)) { row.tr.remove(); rows.delete(id); }
    let place = body.firstElementChild;
    for (const [id] of fits) {
      const {tr} = rowOf(id);
      if (tr === place) place = place.nextElementSibling;
      else body.insertBefore(tr, place);
    }
  }
  body.parentElement.hidden = !fits.length;
  fill(notes, fits.length ? null : h("p", {class: "empty"}, entities.size ? "Nothing fits the filter." : "Nothing yet. Publish the first event below."),
    more > 0 ? h("p", {class: "faint"}, `${more} more; filter to see them.`) : null);
}

function drawGroups(groups) {
  const host = byId("groups");
  const names = ["", ...[...groups.keys()].sort()].slice(0, 24);
  const key = JSON.stringify([names, group]);
  if (host.dataset.drawn === key) return;
  host.dataset.drawn = key;
  fill(host, groups.size < 2 ? [] : names.map((name) => h("button", {type: "button", class: "chip", "aria-pressed": String(name === group),
    onclick: () => { group = name; draw(); }}, name || "all")));
}

const KINDS = {healthy: "good", active: "good", online: "good", ok: "good", warning: "warn", degraded: "warn", critical: "bad", error: "bad", offline: "bad"};
const badge = (name, value) => name === "status" && typeof value === "string" && KINDS[value]
  ? pill(value, KINDS[value]) : shortOf(value);

function drawStream() {
  const host = byId("stream");
  const atEnd = host.scrollTop + host.clientHeight > host.scrollHeight - 40;
  const waiting = lines.splice(0, Math.max(PER_FRAME, lines.length - 50));
  for (const line of waiting) host.append(document.createTextNode(`${line}\n`));
  while (host.childNodes.length > STREAM_LINES) host.firstChild.remove();
  if (atEnd && waiting.length) host.scrollTop = host.scrollHeight;
  if (lines.length) draw();
}

function details(id) {
  dialog(id || "(empty id)", async (form, close) => {
    const now = h("div", {}, "…");
    const past = h("div", {}, "…");
    form.append(now, h("h3", {}, "History (24 hours)"), past, h("p", {class: "actions"},
      h("button", {type: "button", class: "danger", onclick: async (event) => {
        if (!await confirmed(`Delete ${id}?`, "Everybody sees it vanish. Its history stays.", "Delete")) return;
        if (await act(event.target, () => call("DELETE", `/api/state/entities/${encodeURIComponent(id)}`), "deleted")) close();
      }}, "Delete"), h("button", {type: "button", onclick: close}, "Close")));
    try {
      const [one, events] = await Promise.all([
        call("GET", `/api/state/entities/${encodeURIComponent(id)}`),
        call("GET", `/api/events?entity=${encodeURIComponent(id)}&limit=100`)]);
      const series = numericSeries(events);
      fill(now, table([
        ["Property", ([name]) => name, "name"], ["Value", ([, value]) => textOf(value)],
        ["", ([name]) => series.has(name) ? sparkline(name, series.get(name)) : ""],
      ], Object.entries(one.properties), "No property."), facts([["updated", new Date(one.lastUpdated).toLocaleString()]]));
      fill(past, table([
        ["When", (event) => new Date(event.timestamp).toLocaleString()], ["Stream", (event) => event.stream],
        ["Source", (event) => event.source], ["What", (event) => JSON.stringify(event.payload?.properties ?? event.payload)],
      ], events, "No events in the last 24 hours."));
    } catch (error) {
      fill(now, h("p", {class: "bad"}, error.message));
    }
  });
}

function publisher() {
  byId("publish").addEventListener("submit", async (event) => {
    event.preventDefault();
    const form = event.target.elements;
    let properties;
    try {
      properties = JSON.parse(form.properties.value);
    } catch (error) {
      toast(`The properties are not JSON: ${error.message}`, true);
      return;
    }
    await act(event.submitter, () => call("POST", "/api/events", {stream: form.stream.value, source: form.source.value,
      payload: {entity_id: form.entity.value, properties}}), `published to ${form.entity.value}`);
  });
}

const LIMITS = [["rate_limit_enabled", "Rate limit on", "checkbox"], ["rate_limit_per_namespace_per_minute", "Events per namespace and minute", "number"],
  ["body_size_limit_single_bytes", "Bytes of one event", "number"], ["body_size_limit_batch_bytes", "Bytes of a batch", "number"]];

async function limits() {
  const form = byId("config");
  try {
    const config = await call("GET", "/api/admin/config");
    const inputs = LIMITS.map(([key, title, type]) => [key, type, title, type === "checkbox"
      ? h("input", {type, checked: config[key]}) : h("input", {type, min: 0, value: config[key]})]);
    fill(form, inputs.map(([, type, title, input]) => type === "checkbox" ? h("label", {class: "check"}, input, title) : field(title, input)),
      h("p", {class: "faint"}, "Saving needs the admin token (button at the top)."),
      h("p", {class: "actions"}, h("button", {type: "submit"}, "Save")));
    form.onsubmit = async (event) => {
      event.preventDefault();
      const update = Object.fromEntries(inputs.map(([key, type, , input]) => [key, type === "checkbox" ? input.checked : Number(input.value)]));
      if (await act(event.submitter, () => call("PUT", "/api/admin/config", update), "saved")) limits();
    };
  } catch (error) {
    fill(form, h("p", {class: "bad"}, error.message));
  }
}

function tokenButton() {
  byId("token-button").addEventListener("click", () => dialog("Token", (form, close) => {
    const input = h("input", {type: "password", autocomplete: "off", value: token(), autofocus: true});
    form.append(h("p", {}, "A namespace token for publishing with authentication, or the admin token for limits and namespaces. It is kept until this tab closes."),
      field("Token", input), h("p", {class: "actions"}, h("button", {type: "button", onclick: close}, "Cancel"), h("button", {type: "submit", class: "primary"}, "Use it")));
    form.addEventListener("submit", () => { setToken(input.value.trim()); close(); });
  }));
}

byId("filter").addEventListener("input", draw);
publisher();
limits();
tokenButton();
showConnectors(byId("connectors"), byId("add-source"));
feed({
  opened() { byId("link").textContent = "Live"; byId("link").className = "pill good"; load(); },
  frame: take,
  closed() { byId("link").textContent = "Reconnecting…"; byId("link").className = "pill warn"; },
});
