/* load: many readers at once, who check all they read, cheap enough not to be the thing measured.
 *
 *   load --port P --path /... --dialect rag|envelope --streams N --count TOKENS [--rate R] [--sources K]
 *        [--at NS] [--ramp S] [--from S] [--to S] [--deadline S] [--loop 1] [--hold S] [--addresses A] [--prompt 1]
 *
 * Opens N streams of `origin` (directly, or through what is measured), the first at CLOCK_MONOTONIC nanosecond `--at`,
 * the last `--ramp` seconds later, over keep-alive connections that are used again when one is free. Every token names
 * its stream, its number and the time it was written (see origin.c), so a stream counts as completed only if each of
 * its tokens came once, in order, and then one `done`; in the envelope dialect the ids must also run 1, 2, 3, ... of
 * one stream. `--from` and `--to` (seconds after `--at`) bound the window whose events and latencies are reported, so
 * that the caller can read the CPU clocks at the same two moments.
 *   --loop 1 ends of streams inside the window start new ones: N is then how many are open at a time.
 *   --prompt 1 asks for the first token at once: origin otherwise spreads the streams' phases by their first tokens.
 *   --hold S asks for idle streams: once each has its one token, says {"holding": N}, keeps them open for S seconds.
 *   --addresses A connects from 127.0.0.1 .. 127.0.0.A in turn, for more streams than one address has ports.
 * Prints one line of JSON at the end. Exit code 0 even when streams were lost: the figures say so.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "chunked.h"
#include "histogram.h"

enum {
    READ_MAX = 65536,  /* bytes of one recv */
    KEEP_MAX = 65536,  /* bytes of an unfinished head or event kept between two reads */
    ID_MAX = 128,      /* bytes of an SSE id (PROTOCOL, "Identity") */
    EPOLL_BATCH = 256,
};

enum phase { FREE, HEAD, BODY }; /* of a response; FREE: none under way */

struct options {
    const char *path, *dialect;
    int port, streams, addresses, sources, loop, prompt;
    double rate, ramp_s, from_s, to_s, deadline_s, hold_s;
    uint64_t count, at_ns;
};

struct totals {
    uint64_t started, completed, tokens, heartbeats, window_events, window_completed, connections;
    uint64_t connect_failures, http_errors, error_events, truncated, misplaced, id_gaps, malformed, last_status;
    struct histogram latency, response, first;
};

/* One connection and the stream it carries at the moment; fd -1: not connected. */
struct conn {
    int fd;
    enum phase phase;
    struct chunked body;
    bool ended, spoiled;    /* the terminal event was read; something that must not be was read */
    uint64_t number, tokens, ids, started_ns;
    char id[ID_MAX];        /* the stream part of the first id */
    char *keep;             /* unfinished head or event */
    size_t keep_len;
};

struct load {
    struct options opt;
    struct totals sum;
    int epoll_fd;
    uint64_t from_ns, to_ns, now_ns;
    struct conn *conns;
    int *free_list, free_len; /* connections without a stream; the last one freed is taken first */
    char *raw, *body;         /* shared: what recv gave, and the events in it */
    uint64_t holding;
};

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void usage(void) {
    fprintf(stderr, "load: --port is needed, --streams and --addresses at least 1, --dialect rag or envelope\n");
    exit(2);
}

static uint64_t clock_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static bool in_window(const struct load *l) { return l->now_ns >= l->from_ns && l->now_ns < l->to_ns; }

static void print_quantiles(const char *name, const struct histogram *h) {
    printf(", \"%s\": {\"p50\": %.1f, \"p95\": %.1f, \"p99\": %.1f, \"max\": %.1f}", name, quantile_us(h, 0.50),
           quantile_us(h, 0.95), quantile_us(h, 0.99), (double)h->max_ns / 1000);
}

/* ---- one stream's end ---- */

static void start(struct load *l);

static void release(struct load *l, struct conn *c, bool disconnect) {
    if (disconnect && c->fd >= 0) {
        close(c->fd);
        c->fd = -1;
    }
    if (c->phase == FREE) return; /* an idle connection that the server closed: it is in the list already */
    c->phase = FREE;
    c->keep_len = 0;
    l->free_list[l->free_len++] = (int)(c - l->conns);
}

static void spoil(struct conn *c, uint64_t *counter) {
    ++*counter;
    c->spoiled = true;
}

static void fail(struct load *l, struct conn *c, uint64_t *counter) {
    ++*counter;
    release(l, c, true);
}

/* The body ended as HTTP wants it: whether the stream is whole is told by its events. */
static void finish(struct load *l, struct conn *c) {
    if (!c->ended) {
        fail(l, c, &l->sum.truncated);
        return;
    }
    if (c->tokens == l->opt.count && !c->spoiled) {
        l->sum.completed++;
        if (in_window(l)) {
            l->sum.window_completed++;
            record(&l->sum.response, l->now_ns - c->started_ns);
        }
    }
    release(l, c, false);
    if (l->opt.loop && l->now_ns < l->to_ns) start(l);
}

/* ---- events ---- */

static uint64_t number_at(const char **at, const char *end) {
    uint64_t n = 0;
    for (; *at < end && **at >= '0' && **at <= '9'; ++*at) n = n * 10 + (uint64_t)(**at - '0');
    return n;
}

static bool starts(const char *at, const char *end, const char *with) {
    size_t len = strlen(with);
    return (size_t)(end - at) >= len && !memcmp(at, with, len);
}

/* The place after `what`, or NULL. */
static const char *after(const char *at, const char *end, const char *what) {
    const char *found = memmem(at, (size_t)(end - at), what, strlen(what));
    return found ? found + strlen(what) : NULL;
}

/* `17.3 t=81234567890123 `: token 3 of stream 17, written at that nanosecond. */
static void read_token(struct load *l, struct conn *c, const char *at, const char *end) {
    uint64_t stream = number_at(&at, end);
    if (at < end) at++;
    uint64_t token = number_at(&at, end);
    if (!starts(at, end, " t=")) {
        spoil(c, &l->sum.malformed);
        return;
    }
    at += 3;
    uint64_t written_ns = number_at(&at, end);
    if (stream != c->number) spoil(c, &l->sum.misplaced);
    else if (token != ++c->tokens) {
        spoil(c, &l->sum.misplaced);
        c->tokens = token; /* so that one hole is one fault */
    }
    if (c->tokens == 1 && in_window(l)) record(&l->sum.first, l->now_ns - c->started_ns);
    l->sum.tokens++;
    if (l->opt.hold_s > 0 && c->tokens == 1) l->holding++;
    if (in_window(l)) record(&l->sum.latency, l->now_ns - written_ns);
}

static void read_terminal(struct load *l, struct conn *c, bool is_error) {
    if (is_error) spoil(c, &l->sum.error_events);
    c->ended = true;
}

/* The RAG backend's frames: one JSON object, told by its keys. */
static bool read_rag(struct load *l, struct conn *c, const char *at, const char *end) {
    if (starts(at, end, "{\"text\": \"")) read_token(l, c, at + 10, end);
    else if (after(at, end, "\"error\": ")) read_terminal(l, c, true);
    else if (starts(at, end, "{\"done\": true")) read_terminal(l, c, false);
    else if (!starts(at, end, "{\"sources\": ")) spoil(c, &l->sum.malformed);
    return true;
}

/* The gateway's envelope; false for what the gateway adds by itself and no upstream sent. */
static bool read_envelope(struct load *l, struct conn *c, const char *at, const char *end) {
    const char *type = after(at, end, "\"type\":\"");
    if (!type) type = end;
    if (starts(type, end, "token\"")) {
        const char *text = after(type, end, "\"data\":\"");
        read_token(l, c, text ? text : end, end);
        return true;
    }
    if (starts(type, end, "metadata\"")) return false;
    if (starts(type, end, "heartbeat\"")) {
        l->sum.heartbeats++;
        return false;
    }
    if (starts(type, end, "done\"")) read_terminal(l, c, !after(type, end, "\"finish_reason\":\"stop\""));
    else if (starts(type, end, "error\"")) read_terminal(l, c, true);
    else if (!starts(type, end, "sources\"")) spoil(c, &l->sum.malformed);
    return true;
}

/* `st_x.9`: the ninth event of the one stream that this answer may carry. */
static void read_id(struct load *l, struct conn *c, const char *at, const char *end) {
    const char *dot = memrchr(at, '.', (size_t)(end - at));
    size_t len = dot ? (size_t)(dot - at) : ID_MAX;
    if (len >= ID_MAX) {
        spoil(c, &l->sum.malformed);
        return;
    }
    if (!c->ids++) {
        memcpy(c->id, at, len);
        c->id[len] = 0;
    }
    dot++;
    uint64_t seq = number_at(&dot, end);
    if (strlen(c->id) == len && !memcmp(c->id, at, len) && seq == c->ids) return;
    spoil(c, &l->sum.id_gaps);
    c->ids = seq;
}

static void read_block(struct load *l, struct conn *c, const char *at, const char *end) {
    const char *data = NULL, *data_end = NULL, *id = NULL, *id_end = NULL;
    while (at < end) {
        const char *line_end = memchr(at, '\n', (size_t)(end - at));
        if (!line_end) line_end = end;
        if (starts(at, line_end, "data: ")) data = at + 6, data_end = line_end;
        else if (starts(at, line_end, "id: ")) id = at + 4, id_end = line_end;
        at = line_end + 1;
    }
    if (c->ended) spoil(c, &l->sum.misplaced); /* the terminal event is the last one */
    if (id) read_id(l, c, id, id_end);
    if (!data) spoil(c, &l->sum.malformed);
    else if (*l->opt.dialect == 'r' ? read_rag(l, c, data, data_end) : read_envelope(l, c, data, data_end))
        l->sum.window_events += in_window(l);
}

/* ---- bytes ---- */

static bool keep(struct load *l, struct conn *c, const char *from, size_t len) {
    if (len > KEEP_MAX) {
        fail(l, c, &l->sum.malformed);
        return false;
    }
    if (len && !c->keep) c->keep = malloc(KEEP_MAX);
    if (len && !c->keep) die("malloc");
    if (len) memmove(c->keep, from, len);
    c->keep_len = len;
    return true;
}

/* True once the head is whole and good; the rest of the bytes is then left in raw. */
static bool read_head(struct load *l, struct conn *c, size_t *raw_len) {
    size_t len = c->keep_len + *raw_len;
    if (c->keep_len) memcpy(l->body, c->keep, c->keep_len);
    memcpy(l->body + c->keep_len, l->raw, *raw_len);
    char *end = memmem(l->body, len, "\r\n\r\n", 4);
    if (!end) {
        keep(l, c, l->body, len);
        return false;
    }
    *end = 0;
    *raw_len = len - (size_t)(end + 4 - l->body);
    memcpy(l->raw, end + 4, *raw_len);
    l->sum.last_status = len > 12 ? strtoull(l->body + 9, NULL, 10) : 0;
    if (l->sum.last_status != 200 || !strcasestr(l->body, "\r\ntransfer-encoding: chunked")) {
        fail(l, c, &l->sum.http_errors);
        return false;
    }
    c->keep_len = 0;
    c->phase = BODY;
    c->body = (struct chunked){0};
    return true;
}

static void on_readable(struct load *l, struct conn *c) {
    ssize_t n = recv(c->fd, l->raw, READ_MAX, 0);
    l->now_ns = clock_ns();
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0 || c->phase == FREE) {
        if (c->phase == FREE) release(l, c, true);
        else fail(l, c, c->phase == HEAD ? &l->sum.connect_failures : &l->sum.truncated);
        return;
    }
    size_t len = (size_t)n;
    if (c->phase == HEAD && !read_head(l, c, &len)) return;
    if (c->keep_len) memcpy(l->body, c->keep, c->keep_len);
    const char *at = l->body, *stop;
    const char *end = dechunk(&c->body, l->raw, l->raw + len, l->body + c->keep_len);
    while ((stop = memmem(at, (size_t)(end - at), "\n\n", 2))) {
        read_block(l, c, at, stop);
        at = stop + 2;
    }
    if (!keep(l, c, at, (size_t)(end - at)) || c->body.phase != CHUNK_COMPLETE) return;
    if (c->keep_len) spoil(c, &l->sum.malformed);
    finish(l, c);
}

/* ---- requests ---- */

static bool connect_to(struct load *l, struct conn *c) {
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) die("socket");
    struct sockaddr_in from = {.sin_family = AF_INET}, to = {.sin_family = AF_INET};
    from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + (uint32_t)(l->sum.connections++ % (uint64_t)l->opt.addresses));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    to.sin_port = htons((uint16_t)l->opt.port);
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    c->fd = fd;
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    /* On loopback a connect is over when it returns: the hand-shake runs in the caller. */
    if (bind(fd, (struct sockaddr *)&from, sizeof from) < 0) return false;
    if (connect(fd, (struct sockaddr *)&to, sizeof to) < 0 && errno != EINPROGRESS) return false;
    return epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, fd, &e) == 0;
}

static void start(struct load *l) {
    struct conn *c = &l->conns[l->free_list[--l->free_len]];
    char request[1024];
    c->phase = HEAD;
    c->ended = c->spoiled = false;
    c->tokens = c->ids = 0;
    c->number = ++l->sum.started;
    c->started_ns = clock_ns();
    int len = snprintf(request, sizeof request,
                       "GET %s?query=bench-r%g-n%" PRIu64 "-s%d-u%" PRIu64 "%s%s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"
                       "Accept: text/event-stream\r\n\r\n",
                       l->opt.path, l->opt.rate, l->opt.count, l->opt.sources, c->number,
                       l->opt.hold_s > 0 ? "-i" : "", l->opt.prompt ? "-p" : "", l->opt.port);
    bool open = c->fd >= 0 || connect_to(l, c);
    if (!open || send(c->fd, request, (size_t)len, MSG_NOSIGNAL) != len) fail(l, c, &l->sum.connect_failures);
}

/* Waits for at most `until_ns` and reads what came. */
static void turn(struct load *l, uint64_t until_ns) {
    struct epoll_event ready[EPOLL_BATCH];
    uint64_t now = clock_ns(), left = until_ns > now ? until_ns - now : 0;
    struct timespec wait = {.tv_sec = (time_t)(left / 1000000000u), .tv_nsec = (long)(left % 1000000000u)};
    int n = epoll_pwait2(l->epoll_fd, ready, EPOLL_BATCH, &wait, NULL);
    if (n < 0 && errno != EINTR) die("epoll_pwait2");
    for (int i = 0; i < n; i++) {
        struct conn *c = ready[i].data.ptr;
        if (c->fd >= 0) on_readable(l, c);
    }
}

static uint64_t seconds_after(uint64_t start_ns, double s) { return start_ns + (uint64_t)(s * 1e9); }

static void run(struct load *l) {
    const struct options *o = &l->opt;
    uint64_t deadline_ns = seconds_after(o->at_ns, o->deadline_s), wanted = (uint64_t)o->streams, begun = 0;
    while (begun < wanted && clock_ns() < deadline_ns) {
        uint64_t due_ns = seconds_after(o->at_ns, o->ramp_s * (double)begun / (double)wanted);
        if (due_ns > clock_ns()) {
            turn(l, due_ns);
            continue;
        }
        start(l);
        begun++;
    }
    if (o->hold_s > 0) {
        while (l->holding < wanted && clock_ns() < deadline_ns) turn(l, deadline_ns);
        printf("{\"holding\": %" PRIu64 "}\n", l->holding);
        fflush(stdout);
        for (uint64_t end_ns = seconds_after(clock_ns(), o->hold_s); clock_ns() < end_ns;) turn(l, end_ns);
        return;
    }
    while (l->free_len < o->streams && clock_ns() < deadline_ns) turn(l, deadline_ns);
    /* Short streams are all over right after the window: whoever reads our CPU clock at its edge must still find us. */
    for (uint64_t end_ns = o->loop ? seconds_after(l->to_ns, 0.5) : 0; clock_ns() < end_ns;) turn(l, end_ns);
}

static void report(const struct load *l) {
    const struct totals *t = &l->sum;
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    printf("{\"started\": %" PRIu64 ", \"completed\": %" PRIu64 ", \"unfinished\": %d, \"tokens\": %" PRIu64,
           t->started, t->completed, l->opt.streams - l->free_len, t->tokens);
    printf(", \"window_s\": %.6f, \"window_events\": %" PRIu64 ", \"window_completed\": %" PRIu64,
           (double)(l->to_ns - l->from_ns) / 1e9, t->window_events, t->window_completed);
    printf(", \"connections\": %" PRIu64 ", \"heartbeats\": %" PRIu64 ", \"last_status\": %" PRIu64, t->connections,
           t->heartbeats, t->last_status);
    printf(", \"faults\": {\"connect_failures\": %" PRIu64 ", \"http_errors\": %" PRIu64 ", \"error_events\": %" PRIu64
           ", \"truncated\": %" PRIu64 ", \"misplaced\": %" PRIu64 ", \"id_gaps\": %" PRIu64,
           t->connect_failures, t->http_errors, t->error_events, t->truncated, t->misplaced, t->id_gaps);
    printf(", \"malformed\": %" PRIu64 "}", t->malformed);
    print_quantiles("latency_us", &t->latency);
    print_quantiles("response_us", &t->response);
    print_quantiles("first_us", &t->first);
    printf(", \"cpu_s\": %.3f}\n", (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
                                       (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6);
}

static void read_options(struct options *o, int argc, char **argv) {
    const struct { const char *name; char kind; void *to; } known[] = {
        {"--port", 'i', &o->port},       {"--path", 's', &o->path},     {"--dialect", 's', &o->dialect},
        {"--streams", 'i', &o->streams}, {"--count", 'u', &o->count},   {"--rate", 'd', &o->rate},
        {"--sources", 'i', &o->sources}, {"--at", 'u', &o->at_ns},      {"--ramp", 'd', &o->ramp_s},
        {"--from", 'd', &o->from_s},     {"--to", 'd', &o->to_s},       {"--deadline", 'd', &o->deadline_s},
        {"--loop", 'i', &o->loop},       {"--hold", 'd', &o->hold_s},   {"--addresses", 'i', &o->addresses},
        {"--prompt", 'i', &o->prompt}};
    size_t n = sizeof known / sizeof *known;
    for (int i = 1; i < argc; i += 2) {
        size_t k = 0;
        while (k < n && strcmp(argv[i], known[k].name)) k++;
        if (k == n || i + 1 == argc) usage();
        if (known[k].kind == 'i') *(int *)known[k].to = atoi(argv[i + 1]);
        if (known[k].kind == 'u') *(uint64_t *)known[k].to = strtoull(argv[i + 1], NULL, 10);
        if (known[k].kind == 'd') *(double *)known[k].to = strtod(argv[i + 1], NULL);
        if (known[k].kind == 's') *(const char **)known[k].to = argv[i + 1];
    }
    bool spoken = !strcmp(o->dialect, "rag") || !strcmp(o->dialect, "envelope");
    if (!o->port || o->streams < 1 || o->addresses < 1 || !spoken) usage();
}

int main(int argc, char **argv) {
    static struct load l = {.opt = {.path = "/bali-zero/chat-stream", .dialect = "rag", .streams = 1, .addresses = 1,
                                    .rate = 50, .count = 100, .to_s = 1e6, .deadline_s = 60, .at_ns = 0}};
    l.opt.at_ns = clock_ns();
    read_options(&l.opt, argc, argv);
    prctl(PR_SET_TIMERSLACK, 1);
    prctl(PR_SET_PDEATHSIG, SIGTERM); /* never outlive the bench that started us */
    l.from_ns = seconds_after(l.opt.at_ns, l.opt.from_s);
    l.to_ns = seconds_after(l.opt.at_ns, l.opt.to_s);
    l.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    l.conns = calloc((size_t)l.opt.streams, sizeof *l.conns);
    l.free_list = calloc((size_t)l.opt.streams, sizeof *l.free_list);
    l.raw = malloc(READ_MAX + KEEP_MAX + 1);
    l.body = malloc(READ_MAX + KEEP_MAX + 1);
    if (!l.conns || !l.free_list || !l.raw || !l.body) die("malloc");
    for (int i = l.opt.streams - 1; i >= 0; i--) {
        l.conns[i].fd = -1;
        l.free_list[l.free_len++] = i;
    }
    run(&l);
    report(&l);
}
