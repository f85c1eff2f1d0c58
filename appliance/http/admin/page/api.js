// The admin API as this page uses it: envelopes in, payloads or readable errors out.

const TOKEN = "fluxbee-token";
const PATIENCE_MS = 35000;
let askToken = () => Promise.resolve(false);

/** Set what is done when the box wants a token: a function that resolves to true when there is a new one. */
export function onToken(ask) { askToken = ask; }
export function setToken(token) { sessionStorage.setItem(TOKEN, token); }

function headers(body) {
  const result = {Accept: "application/json"};
  const token = sessionStorage.getItem(TOKEN);
  if (token) result.Authorization = `Bearer ${token}`;
  if (body !== undefined) result["Content-Type"] = "application/json";
  return result;
}

async function send(method, path, body, again = true) {
  const options = {method, headers: headers(body), signal: AbortSignal.timeout(PATIENCE_MS)};
  if (body !== undefined) options.body = JSON.stringify(body);
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    throw new Error(error.name === "TimeoutError" ? "the box did not answer in time" : "the box cannot be reached");
  }
  if (response.status === 401 && again && await askToken()) return send(method, path, body, false);
  return response;
}

/** The payload of an envelope. An error envelope becomes an Error with its code in `code`. */
export async function call(method, path, body) {
  const response = await send(method, path, body);
  let answer;
  try {
    answer = await response.json();
  } catch {
    throw new Error(`HTTP ${response.status} without JSON from ${path}`);
  }
  if (answer.status === "ok" || answer.status === "sync_pending") return answer.payload ?? answer;
  const detail = typeof answer.error_detail === "string" ? answer.error_detail : answer.error?.message ?? "";
  const error = new Error([answer.error_code ?? `HTTP ${response.status}`, detail].filter(Boolean).join(": "));
  error.code = answer.error_code;
  throw error;
}

export const get = (path) => call("GET", path);

/** What /health says: {well, reasons}; reasons and, behind them, what else somebody should see. */
export async function health() {
  const response = await send("GET", "/health");
  const answer = await response.json().catch(() => ({}));
  const reasons = answer.reasons ?? (response.ok ? [] : [`HTTP ${response.status}`]);
  return {well: response.ok, reasons: [...reasons, ...(answer.notices ?? [])]};
}

/** Follow a stream of server-sent events until `signal` aborts; calls take(data, event) for each. */
export async function follow(path, take, signal) {
  const response = await fetch(path, {headers: {...headers(), Accept: "text/event-stream"}, signal});
  if (!response.ok) throw new Error(`HTTP ${response.status} from ${path}`);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const {value, done} = await reader.read();
    if (done) return;
    const parts = (rest + value).split(/\r?\n\r?\n/);
    rest = parts.pop();
    for (const part of parts) {
      let event = "message";
      const data = [];
      for (const line of part.split(/\r?\n/)) {
        if (line.startsWith("event:")) event = line.slice(6).trim();
        else if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
      }
      if (data.length) take(data.join("\n"), event);
    }
  }
}

export const segment = encodeURIComponent;
