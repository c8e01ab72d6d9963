/** A request as a line for a shell. */

const SAID = ["Content-Type", "Idempotency-Key", "Last-Event-ID"];

/** The same request by curl. Of credentials it says only where they belong. */
export function curlOf({ url, method = "GET", headers, body }) {
  const parts = [`curl -N ${method === "GET" ? "" : `-X ${method} `}${quoted(url.href)}`];
  for (const name of SAID) if (headers[name]) parts.push(`-H ${quoted(`${name}: ${headers[name]}`)}`);
  if (headers.Authorization) parts.push('-H "Authorization: Bearer $SUBAK_KEY"');
  if (body) parts.push(`-d ${quoted(body)}`);
  return parts.join(" \\\n  ");
}

/** A word for a POSIX shell, whatever is in it. */
function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}
