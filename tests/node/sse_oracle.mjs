// Parses event streams with two parsers that are not ours, for tests/property/test_sse_oracle.py.
//
// stdin:  [[chunk, ...], ...]: one list of base64 chunks a stream
// stdout: [{parser: {...}, undici: {...}}, ...], the same order
import { createRequire } from 'node:module'
import { text } from 'node:stream/consumers'

const require = createRequire(import.meta.url)
const { createParser } = require('eventsource-parser')
const { EventSourceStream } = require('undici/lib/web/eventsource/eventsource-stream.js')

// Reconnection times have no largest value in JavaScript; ours has this one (MAX_RETRY_MS).
const bounded = (ms) => (ms === undefined ? null : Math.min(ms, Number.MAX_SAFE_INTEGER))

// eventsource-parser takes text, so its bytes go through the platform's decoder, as its own README does it.
function readWithEventsourceParser(chunks) {
  const events = []
  let retry
  const parser = createParser({
    onEvent: ({ event, data, id }) => events.push({ event: event ?? 'message', data, id: id ?? null }),
    onRetry: (ms) => { retry = ms },
  })
  const decoder = new TextDecoder()
  for (const chunk of chunks) parser.feed(decoder.decode(chunk, { stream: true }))
  return { events, retry: bounded(retry) }
}

async function readWithUndici(chunks) {
  const events = []
  const state = { lastEventId: '', reconnectionTime: undefined }
  const stream = new EventSourceStream({
    eventSourceSettings: state,
    push: (item) => item && events.push({ event: item.type, data: item.options.data, id: item.options.lastEventId }),
  })
  await new Promise((resolve, reject) => {
    stream.on('finish', resolve).on('error', reject)
    for (const chunk of chunks) stream.write(chunk)
    stream.end()
  })
  return { events, retry: bounded(state.reconnectionTime), lastEventId: state.lastEventId }
}

const answers = []
for (const stream of JSON.parse(await text(process.stdin))) {
  const chunks = stream.map((chunk) => Buffer.from(chunk, 'base64'))
  answers.push({ parser: readWithEventsourceParser(chunks), undici: await readWithUndici(chunks) })
}
process.stdout.write(JSON.stringify(answers))
