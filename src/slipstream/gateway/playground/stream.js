// The events of one streamed chat completion.
export async function* streamChat(body, headers, signal) {
  const answer = await fetch("v1/chat/completions", {
    method: "POST",
    headers,
    signal,
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
  });
  if (!answer.ok) throw new Error(await reason(answer));
  for await (const data of serverSentEvents(answer.body)) {
    if (data === "[DONE]") return;
    const event = JSON.parse(data);
    if (event.error) throw new Error(event.error.message);
    yield event;
  }
  throw new Error("The connection broke before the answer was complete.");
}

async function reason(answer) {
  const body = await answer.json().catch(() => null);
  return body?.error?.message ?? `The gateway answered ${answer.status}.`;
}

async function* serverSentEvents(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        for (const line of block.split("\n")) {
          if (line.startsWith("data: ")) yield line.slice(6);
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // which ends the request in the gateway
  }
}
