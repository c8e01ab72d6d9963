// Follows a URL with @microsoft/fetch-event-source, which is written for browsers: it gets the few globals it looks for.
//
// usage:  node fetch_event_source.mjs URL
// stdout: one JSON text, when the library takes the stream for over: {events: [{id, event, data}], errors}
globalThis.window = globalThis
globalThis.document = { hidden: false, addEventListener() {}, removeEventListener() {} }
const { fetchEventSource } = await import('@microsoft/fetch-event-source')

const events = []
const errors = []
await fetchEventSource(process.argv[2], {
  onmessage: ({ id, event, data }) => events.push({ id, event, data }),
  onerror: (error) => { errors.push({ code: null, message: String(error) }) }, // nothing returned: it waits as told
})
process.stdout.write(JSON.stringify({ events, errors }))
