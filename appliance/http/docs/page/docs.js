// Shows /openapi.json. Text of the document only ever becomes a text node.
"use strict";

const node = (name, attributes = {}, ...content) => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...content.filter((one) => one !== null && one !== undefined));
  return made;
};

const resolved = (schema, all) => {
  const name = schema?.$ref?.split("/").pop();
  return name ? all[name] : schema;
};

function kind(schema, all) {
  if (schema?.$ref) return schema.$ref.split("/").pop();
  if (schema?.anyOf) return schema.anyOf.map((one) => kind(one, all)).join(" | ");
  if (schema?.enum) return schema.enum.map((one) => JSON.stringify(one)).join(" | ");
  if (schema?.type === "array") return `${kind(schema.items, all)}[]`;
  return Array.isArray(schema?.type) ? schema.type.join(" | ") : schema?.type ?? "any";
}

function fields(schema, all) {
  const shape = resolved(schema, all);
  const rows = Object.entries(shape?.properties ?? {}).map(([name, one]) => node("tr", {},
    node("td", {}, node("code", {}, name), (shape.required ?? []).includes(name) ? " *" : ""),
    node("td", {class: "faint"}, kind(one, all))));
  return rows.length ? node("table", {}, ...rows) : node("p", {class: "faint"}, "a JSON object");
}

function operation(path, method, one, all) {
  const box = node("details", {},
    node("summary", {}, node("span", {class: "method"}, method.toUpperCase()), node("code", {}, path),
      node("span", {class: "faint"}, ` ${one.summary ?? ""}`)));
  const action = one["x-fluxbee-action"];
  if (action) box.append(node("p", {}, "Action ", node("code", {}, action)));
  if (one.parameters?.length) {
    box.append(node("h3", {}, "Parameters"), node("table", {}, ...one.parameters.map((given) => node("tr", {},
      node("td", {}, node("code", {}, given.name), given.required ? " *" : ""),
      node("td", {class: "faint"}, `${given.in}, ${kind(given.schema, all)}`)))));
  }
  const body = one.requestBody?.content?.["application/json"]?.schema;
  if (body) box.append(node("h3", {}, one.requestBody.required ? "Body *" : "Body"), fields(body, all));
  box.append(node("h3", {}, "Answers"), node("table", {}, ...Object.entries(one.responses).map(([status, answer]) =>
    node("tr", {}, node("td", {}, node("code", {}, status)), node("td", {}, answer.description ?? "")))));
  const good = one.responses["200"]?.content?.["application/json"]?.schema;
  if (good) box.append(fields(good, all));
  const data = body ? ` -d '{}'` : "";
  box.append(node("pre", {}, `curl -X ${method.toUpperCase()} '${location.origin}${path}'${data}`));
  box.dataset.words = `${path} ${action ?? ""} ${one.summary ?? ""}`.toLowerCase();
  return box;
}

async function start() {
  const api = await (await fetch("/openapi.json")).json();
  const all = api.components.schemas;
  const groups = new Map();
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, one] of Object.entries(methods)) {
      const tag = one.tags?.[0] ?? "other";
      if (!groups.has(tag)) groups.set(tag, []);
      groups.get(tag).push(operation(path, method, one, all));
    }
  }
  const host = document.getElementById("paths");
  for (const [tag, boxes] of [...groups].sort()) host.append(node("section", {}, node("h2", {}, tag), ...boxes));
  document.getElementById("about").textContent = `${api.info.title} ${api.info.version}. ${api.info.description}`;
  document.getElementById("filter").addEventListener("input", (event) => {
    const word = event.target.value.trim().toLowerCase();
    for (const box of host.querySelectorAll("details")) box.hidden = !box.dataset.words.includes(word);
    for (const group of host.children) group.hidden = !group.querySelector("details:not([hidden])");
  });
}

start().catch((error) => { document.getElementById("about").textContent = `The document cannot be read: ${error.message}`; });
