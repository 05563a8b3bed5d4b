// Server-sent events of one response, as they come.

/**
 * @param {ReadableStream<Uint8Array>} body
 * @yields {{name: string, data: any}} data is parsed as JSON
 */
export async function* readEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let unread = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      unread += value;
      for (let end = unread.indexOf("\n\n"); end >= 0; end = unread.indexOf("\n\n")) {
        yield parsed(unread.slice(0, end));
        unread = unread.slice(end + 2);
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parsed(block) {
  const fields = new Map(block.split("\n").map((line) => [line.slice(0, line.indexOf(": ")), line.slice(line.indexOf(": ") + 2)]));
  return { name: fields.get("event"), data: JSON.parse(fields.get("data")) };
}
