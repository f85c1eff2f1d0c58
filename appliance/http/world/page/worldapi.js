// The world's HTTP API as this page uses it: JSON in, answers or readable errors out.

const TOKEN = "flux-token";
const PATIENCE_MS = 30000;

export const token = () => sessionStorage.getItem(TOKEN) ?? "";
export function setToken(text) {
  if (text) sessionStorage.setItem(TOKEN, text);
  else sessionStorage.removeItem(TOKEN);
}

/** One request; the decoded answer, or an Error that says what the box said. */
export async function call(method, path, body) {
  const headers = {Accept: "application/json"};
  if (token()) headers.Authorization = `Bearer ${token()}`;
  const options = {method, headers, signal: AbortSignal.timeout(PATIENCE_MS)};
  if (body !== undefined) {
    headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    throw new Error(error.name === "TimeoutError" ? "the box did not answer in time" : "the box cannot be reached");
  }
  const text = await response.text();
  let answer = null;
  try {
    answer = text ? JSON.parse(text) : null;
  } catch {
    throw new Error(`HTTP ${response.status} without JSON from ${path}`);
  }
  if (!response.ok) throw new Error(answer?.error ?? `HTTP ${response.status}`);
  return answer;
}

const RETRY_MS = 3000;

/** Keep a socket to the feed: opened(), frame(object), closed(); it comes back by itself. */
export function feed({opened, frame, closed}) {
  const address = new URL("/api/ws", location.href);
  address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  const socket = new WebSocket(address);
  socket.addEventListener("open", () => {
    socket.send(JSON.stringify({type: "subscribe", entity_id: "*"}));
    opened();
  });
  socket.addEventListener("message", (event) => {
    for (const line of String(event.data).split("\n")) if (line) frame(JSON.parse(line));
  });
  socket.addEventListener("close", () => {
    closed();
    setTimeout(() => feed({opened, frame, closed}), RETRY_MS);
  });
}
