// The service behind this page. Addresses are relative, so that it may live below any path.

import { readEvents } from "./events.js";

/** What the service says, or what kept it from saying anything, in words for whoever reads the page. */
export class ServiceError extends Error {
  /** @param {number} [status] of the answer, where there was one */
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

let key = "";

/** The API key that requests bring from now on. It is kept by this module alone, and forgotten with the page. */
export function useKey(given) {
  key = given;
}

/** The family's name, block map and ladder of sizes, as `GET /variants` has them. */
export async function fetchVariants() {
  return (await asked("variants")).json();
}

/** The text of `GET /metrics`. */
export async function fetchMetrics() {
  return (await asked("metrics")).text();
}

/**
 * Ask for an answer and read it as it comes.
 *
 * @param {object} ask the body of `POST /generate`
 * @param {AbortSignal} signal ends it early, with an AbortError
 * @yields {{name: "text" | "done", data: any}} pieces, and at last the whole answer
 * @throws {ServiceError}
 */
export async function* streamAnswer(ask, signal) {
  const headers = { "content-type": "application/json" };
  const response = await asked("generate", { method: "POST", headers, body: JSON.stringify({ ...ask, stream: true }), signal });
  let isDone = false;
  try {
    for await (const event of readEvents(response.body)) {
      if (event.name === "error") throw new ServiceError(event.data.error.message);
      isDone = event.name === "done";
      yield event;
    }
  } catch (error) {
    throw error instanceof TypeError ? new ServiceError("The connection broke before the answer was complete.") : error;
  }
  if (!isDone) throw new ServiceError("The connection ended before the answer was complete.");
}

async function asked(path, options = {}) {
  const headers = { ...options.headers, ...(key && { authorization: `Bearer ${key}` }) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    throw error instanceof TypeError ? new ServiceError("The service does not answer. Is it still running?") : error;
  }
  if (!response.ok) throw new ServiceError(await reason(response), response.status);
  return response;
}

async function reason(response) {
  const wait = response.headers.get("retry-after");
  const again = wait ? ` Try again in ${wait} s.` : "";
  try {
    const { message, field } = (await response.json()).error;
    return `${field ? `${field}: ` : ""}${message}.${again}`;
  } catch {
    return `The service answered with status ${response.status}.${again}`;
  }
}
