// What the page shows of the gateway's Prometheus text.
const LINE = /^(\w+)\{([^}]*)\}\s+(\S+)/;

export function serverFigures(text) {
  const values = new Map();
  for (const line of text.split("\n")) {
    const match = LINE.exec(line);
    if (match?.[1].startsWith("nv_trt_llm_")) {
      const kind = /(?:request_type|kv_cache_block_type)="(\w+)"/.exec(match[2])?.[1];
      if (kind) values.set(`${match[1]} ${kind}`, (values.get(`${match[1]} ${kind}`) ?? 0) + Number(match[3]));
    }
  }
  const request = (kind) => values.get(`nv_trt_llm_request_metrics ${kind}`);
  const block = (kind) => values.get(`nv_trt_llm_kv_cache_block_metrics ${kind}`);
  if (request("waiting") === undefined) return null;
  const most = block("max") ?? 0;
  return {
    running: request("scheduled") ?? 0,
    waiting: request("waiting"),
    kvFraction: most > 0 ? (block("used") ?? 0) / most : 0, // of all models and servers together
  };
}
