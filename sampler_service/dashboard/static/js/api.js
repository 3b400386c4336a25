// The API. Every failure is an ApiError with the service's own reason and message.

export class ApiError extends Error {
  constructor(status, code, reason, message, field = "") {
    super(message);
    this.field = field; // The path of what is wrong in a write, or empty.
    this.status = status; // 0: the service could not be reached at all.
    this.code = code;
    this.reason = reason;
  }
}

export const getJson = (path, signal) => ask(path, { signal });

const session = "/api/v1/session";
const asJson = { "content-type": "application/json" };
export const readSession = () => ask(session, {});
export const openSession = (token) => ask(session, { method: "POST", headers: asJson, body: JSON.stringify({ token }) });
export const forgetSession = () => ask(session, { method: "DELETE", headers: asJson });

export const putStrategy = (id, body) => ask(paths.strategy(id), { method: "PUT", headers: asJson, body: JSON.stringify(body) });
export const getPresets = () => ask("/api/v1/presets", {});

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: { accept: "application/json", ...options.headers } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "UNAVAILABLE", "UNREACHABLE", "The service does not answer.");
  }
  let body = null;
  try {
    body = await response.json();
  } catch {
    // A proxy's error page; the status below says what is known.
  }
  if (response.ok && body !== null) return body;
  const { code, reason, message, field } = body?.error ?? {};
  if (response.status === 401 && path !== session) document.dispatchEvent(new Event("signedout"));
  throw new ApiError(response.status, code ?? "UNKNOWN", reason ?? "HTTP_ERROR", message ?? `The service answered with status ${response.status}.`, field);
}

function query(parameters) {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== undefined && value !== null && value !== "") search.append(name, value);
  }
  const text = search.toString();
  return text ? `?${text}` : "";
}

const root = "/api/v1/curricula";
const of = (id) => `${root}/${encodeURIComponent(id)}`;

export const paths = {
  curricula: (pageToken, pageSize) => root + query({ page_size: pageSize, page_token: pageToken }),
  curriculum: of,
  summary: (id, bins) => `${of(id)}/summary${query({ bins })}`,
  stream: (id, bins) => `${of(id)}/stream${query({ bins })}`,
  table: (id, name, bins) => `${of(id)}/tables/${name}.csv${query({ bins })}`,
  prompts: (id, parameters) => `${of(id)}/prompts${query(parameters)}`,
  promptsFile: (id, format, parameters) => `${of(id)}/prompts.${format}${query(parameters)}`,
  history: (id, promptId) => `${of(id)}/prompt-history${query({ prompt_id: promptId })}`,
  historyCsv: (id, promptId) => `${of(id)}/prompt-history.csv${query({ prompt_id: promptId, most_visits: 1000 })}`,
  strategy: (id) => `${of(id)}/strategy`,
  page: (id) => `/c/${encodeURIComponent(id)}`,
  promptPage: (id, promptId) => `/c/${encodeURIComponent(id)}/prompt${query({ id: promptId })}`,
  compare: (a, b) => `/compare${query({ a, b })}`,
};
