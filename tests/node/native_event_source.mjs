// Follows a URL with an EventSource, as a page would: it is never told to reconnect, and gives up only by itself.
//
// usage:  node native_event_source.mjs eventsource|undici URL
// stdout: one JSON text, when the EventSource has closed itself: {events: [{id, event, data}], errors}
import { EventSource as FromEventsource } from 'eventsource'
import { EventSource as FromUndici } from 'undici'

const [which, url] = process.argv.slice(2)
const EventSource = { eventsource: FromEventsource, undici: FromUndici }[which]

const events = []
const errors = []
const staysAlive = setInterval(() => {}, 1000) // undici's own timer doesn't keep a process from ending
const source = new EventSource(url)
const keep = ({ lastEventId, type, data }) => events.push({ id: lastEventId, event: type, data })
source.onmessage = keep
source.addEventListener('heartbeat', keep)
source.onerror = ({ code, message }) => {
  errors.push({ code: code ?? null, message: message ?? null })
  if (source.readyState !== EventSource.CLOSED) return
  clearInterval(staysAlive)
  process.stdout.write(JSON.stringify({ events, errors }))
}
