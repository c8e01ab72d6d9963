/* origin: the RAG backend's dialect (docs/PROTOCOL.md, "Upstream dialects"), cheap enough not to be the thing measured.
 *
 *   origin [--port P] [--rate R] [--count N] [--sources K] [--idle]
 *
 * One thread, one epoll, HTTP/1.1 with keep-alive. It prints `listening PORT` once it takes connections (port 0: a free
 * one) and answers
 *   GET /bali-zero/chat-stream?query=...   a chunked event stream: N tokens, K sources if K > 0, one `done`
 *   GET /health                            {"status": "healthy"}
 * R is tokens per second and stream; 0 is flat out, as fast as the peer takes them. --idle sends one token and then
 * nothing until the peer closes. A query such as `bench-r50-n500-s2-u17` sets rate, count and sources for its request;
 * `-i` is idle; `-p` sends the first token at once; `-u17` is the number of the stream, which every token repeats: "17.3 t=81234567890123 " is token 3 of
 * stream 17, written at that CLOCK_MONOTONIC nanosecond. So a reader on the same machine can prove that nothing was
 * lost, doubled, reordered or mixed up, and how long each token took.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
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
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    HEAD_MAX = 16384,   /* bytes of one request head; more closes the connection */
    OUT_MAX = 16384,    /* bytes one connection may have unsent */
    EVENT_MAX = 384,    /* bytes of one framed event, sources aside */
    SOURCE_MAX = 160,   /* bytes of one source */
    SOURCES_MAX = 50,   /* so that one sources event fits in OUT_MAX with room to spare */
    EPOLL_BATCH = 256,
};

struct plan {
    double rate;      /* tokens per second; 0: flat out */
    uint64_t count;   /* tokens */
    unsigned sources; /* entries of the sources event; 0: no such event */
    uint64_t number;  /* the stream's, repeated in every token */
    bool idle;        /* one token, then silence */
    bool prompt;      /* the first token at once, instead of spread over an interval */
};

struct conn {
    int fd;
    bool streaming;        /* an answer is under way */
    bool close_after;      /* the request said Connection: close */
    bool wants_write;      /* EPOLLOUT is armed */
    struct plan plan;
    uint64_t sent;         /* tokens written or queued so far */
    uint64_t sequence;     /* sequenceNumber of the last event */
    uint64_t started_ns, first_due_ns, due_ns;
    size_t heap_at;        /* 1-based place in the heap; 0: not in it */
    size_t in_len, out_off, out_len;
    char in[HEAD_MAX];
    char out[OUT_MAX];
};

struct origin {
    int epoll_fd, listen_fd;
    struct plan defaults;
    uint64_t opened;       /* answers so far: spreads their phases */
    struct conn **heap;    /* paced connections by due_ns, 1-based */
    size_t heap_len, heap_cap;
    struct conn **dead;    /* closed in this turn of the loop, freed at its end: epoll may still name them */
    size_t dead_len, dead_cap;
};

static void die(const char *what) {
    perror(what);
    exit(1);
}

static uint64_t now_ns(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void push(struct conn ***list, size_t *len, size_t *cap, struct conn *c) {
    if (*len + 1 >= *cap) {
        *cap = *cap ? *cap * 2 : 1024;
        *list = realloc(*list, *cap * sizeof **list);
        if (!*list) die("realloc");
    }
    (*list)[(*len)++] = c;
}

/* ---- the heap: who is due next ---- */

static void heap_put(struct origin *o, size_t at, struct conn *c) {
    o->heap[at] = c;
    c->heap_at = at;
}

static void heap_settle(struct origin *o, size_t at) {
    struct conn *c = o->heap[at];
    for (; at > 1 && o->heap[at / 2]->due_ns > c->due_ns; at /= 2) heap_put(o, at, o->heap[at / 2]);
    for (size_t child; (child = at * 2) <= o->heap_len; at = child) {
        if (child < o->heap_len && o->heap[child + 1]->due_ns < o->heap[child]->due_ns) child++;
        if (o->heap[child]->due_ns >= c->due_ns) break;
        heap_put(o, at, o->heap[child]);
    }
    heap_put(o, at, c);
}

static void heap_remove(struct origin *o, struct conn *c) {
    if (!c->heap_at) return;
    size_t at = c->heap_at;
    struct conn *last = o->heap[o->heap_len--];
    c->heap_at = 0;
    if (last == c) return;
    o->heap[at] = last;
    heap_settle(o, at);
}

static void schedule(struct origin *o, struct conn *c, uint64_t due_ns) {
    c->due_ns = due_ns;
    if (!c->heap_at) {
        size_t len = o->heap_len + 1; /* slot 0 is unused */
        push(&o->heap, &len, &o->heap_cap, c);
        o->heap_len = len - 1;
        c->heap_at = o->heap_len;
    }
    heap_settle(o, c->heap_at);
}

/* ---- sockets ---- */

static void drop(struct origin *o, struct conn *c) {
    if (c->fd < 0) return;
    heap_remove(o, c);
    close(c->fd); /* leaves the epoll set with it */
    c->fd = -1;
    push(&o->dead, &o->dead_len, &o->dead_cap, c);
}

static void arm(struct origin *o, struct conn *c, bool wants_write) {
    if (c->wants_write == wants_write) return;
    struct epoll_event e = {.events = EPOLLIN | (wants_write ? EPOLLOUT : 0u), .data.ptr = c};
    if (epoll_ctl(o->epoll_fd, EPOLL_CTL_MOD, c->fd, &e) < 0) die("epoll_ctl");
    c->wants_write = wants_write;
}

/* Sends what is queued; false if the connection is gone. What the socket refuses waits for EPOLLOUT. */
static bool flush_out(struct origin *o, struct conn *c) {
    while (c->out_off < c->out_len) {
        ssize_t n = send(c->fd, c->out + c->out_off, c->out_len - c->out_off, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno == EAGAIN) {
            arm(o, c, true);
            return true;
        }
        if (n < 0) {
            drop(o, c);
            return false;
        }
        c->out_off += (size_t)n;
    }
    c->out_off = c->out_len = 0;
    return true;
}

/* ---- the answer ---- */

/* Queues one HTTP chunk that holds one event block. */
static void put_event(struct conn *c, const char *json, size_t len) {
    c->out_len += (size_t)snprintf(c->out + c->out_len, OUT_MAX - c->out_len, "%zx\r\ndata: %.*s\n\n\r\n", len + 8,
                                   (int)len, json);
}

static void put_token(struct conn *c, uint64_t mono_ns, uint64_t wall_us) {
    char json[EVENT_MAX];
    c->sent++;
    c->sequence++;
    int len = snprintf(json, sizeof json,
                       "{\"text\": \"%" PRIu64 ".%" PRIu64 " t=%" PRIu64 " \", \"sequenceNumber\": %" PRIu64
                       ", \"timestamp\": %" PRIu64 ".%06" PRIu64 "}",
                       c->plan.number, c->sent, mono_ns, c->sequence, wall_us / 1000000, wall_us % 1000000);
    put_event(c, json, (size_t)len);
}

static void put_sources(struct conn *c) {
    char json[SOURCES_MAX * SOURCE_MAX + 64];
    size_t len = (size_t)snprintf(json, sizeof json, "{\"sources\": [");
    for (unsigned i = 0; i < c->plan.sources; i++)
        len += (size_t)snprintf(json + len, sizeof json - len,
                                "%s{\"source\": \"page-%u.md\", \"snippet\": \"Passage %u.\", \"similarity\": 0.5}",
                                i ? ", " : "", i + 1, i + 1);
    len += (size_t)snprintf(json + len, sizeof json - len, "]}");
    c->sequence++;
    put_event(c, json, len);
}

static void put_done(struct conn *c) {
    char json[EVENT_MAX];
    c->sequence++;
    double duration_s = (double)(now_ns(CLOCK_MONOTONIC) - c->started_ns) / 1e9;
    int len = snprintf(json, sizeof json, "{\"done\": true, \"sequenceNumber\": %" PRIu64 ", \"streamDuration\": %.3f}",
                       c->sequence, duration_s);
    put_event(c, json, (size_t)len);
    c->out_len += (size_t)snprintf(c->out + c->out_len, OUT_MAX - c->out_len, "0\r\n\r\n");
    c->streaming = false;
}

static bool has_room(const struct conn *c) {
    return OUT_MAX - c->out_len >= EVENT_MAX + (size_t)c->plan.sources * SOURCE_MAX + EVENT_MAX;
}

/* Queues the next token; after the last one also sources and done, so that an answer ends at once. */
static void put_next(struct conn *c, uint64_t mono_ns, uint64_t wall_us) {
    put_token(c, mono_ns, wall_us);
    if (c->sent < c->plan.count) return;
    if (c->plan.sources) put_sources(c);
    put_done(c);
}

static void serve_next(struct origin *o, struct conn *c);

/* What follows a write: the next request of a finished answer, or the socket's next readiness. */
static void after_write(struct origin *o, struct conn *c) {
    if (c->streaming || c->out_len) return;
    if (c->close_after) {
        drop(o, c);
        return;
    }
    arm(o, c, false);
    serve_next(o, c);
}

/* Flat out: one buffer full of events per readiness, so that epoll shares the CPU fairly among the streams. */
static void write_flat(struct origin *o, struct conn *c) {
    uint64_t mono_ns = now_ns(CLOCK_MONOTONIC), wall_us = now_ns(CLOCK_REALTIME) / 1000;
    while (c->streaming && has_room(c)) put_next(c, mono_ns, wall_us);
    if (flush_out(o, c)) after_write(o, c);
}

/* Paced: every due token goes out in a write of its own, as a model's tokens do. The schedule is absolute, so a late
 * token makes no later one late. */
static void write_due(struct origin *o, struct conn *c, uint64_t mono_ns) {
    while (c->streaming && !c->out_len && c->due_ns <= mono_ns) {
        put_next(c, now_ns(CLOCK_MONOTONIC), now_ns(CLOCK_REALTIME) / 1000);
        if (!flush_out(o, c)) return;
        if (c->plan.idle) {
            heap_remove(o, c);
            return;
        }
        c->due_ns = c->first_due_ns + (uint64_t)((double)c->sent * 1e9 / c->plan.rate);
    }
    if (c->streaming && !c->out_len) schedule(o, c, c->due_ns);
    else heap_remove(o, c); /* finished, or blocked: EPOLLOUT calls again */
    after_write(o, c);
}

static void start_answer(struct origin *o, struct conn *c) {
    static const char head[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
                               "Transfer-Encoding: chunked\r\n\r\n";
    memcpy(c->out, head, sizeof head - 1);
    c->out_len = sizeof head - 1;
    c->streaming = true;
    c->sent = c->sequence = 0;
    c->started_ns = now_ns(CLOCK_MONOTONIC);
    if (c->plan.rate <= 0 && !c->plan.idle) {
        arm(o, c, true);
        write_flat(o, c);
        return;
    }
    /* The golden ratio spreads any number of phases evenly over one interval. */
    double turn = (double)o->opened++ * 0.6180339887498949;
    double interval_ns = c->plan.idle || c->plan.prompt ? 0 : 1e9 / c->plan.rate;
    c->first_due_ns = c->due_ns = c->started_ns + (uint64_t)((turn - (double)(uint64_t)turn) * interval_ns);
    if (!flush_out(o, c)) return;
    schedule(o, c, c->due_ns);
}

/* ---- the request ---- */

/* Reads `-r50-n500-s2-u17-i` off the query parameter's value; anything else in it is left alone. */
static void read_plan(const char *line, struct plan *plan) {
    const char *at = strstr(line, "query=bench");
    if (!at) return;
    for (at += strlen("query=bench"); *at == '-'; at += strcspn(at, "- &")) {
        const char key = *++at;
        if (key == 'r') plan->rate = strtod(at + 1, NULL);
        if (key == 'n') plan->count = strtoull(at + 1, NULL, 10);
        if (key == 's') plan->sources = (unsigned)strtoul(at + 1, NULL, 10);
        if (key == 'u') plan->number = strtoull(at + 1, NULL, 10);
        if (key == 'i') plan->idle = true;
        if (key == 'p') plan->prompt = true;
    }
}

/* An idle answer has a second token that never comes; the others have at least one. */
static void bound_plan(struct plan *plan) {
    if (plan->idle) plan->count = UINT64_MAX;
    if (!plan->count) plan->count = 1;
    if (plan->sources > SOURCES_MAX) plan->sources = SOURCES_MAX;
}

static void answer_plain(struct origin *o, struct conn *c, const char *status, const char *body) {
    static const char form[] = "HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s";
    c->out_len = (size_t)snprintf(c->out, OUT_MAX, form, status, strlen(body), body);
    if (flush_out(o, c)) after_write(o, c);
}

/* Serves one request if its head is whole and no answer is under way. */
static void serve_next(struct origin *o, struct conn *c) {
    if (c->fd < 0 || c->streaming || c->out_len) return;
    char *end = memmem(c->in, c->in_len, "\r\n\r\n", 4);
    if (!end) {
        if (c->in_len >= HEAD_MAX - 1) drop(o, c);
        return;
    }
    char head[HEAD_MAX];
    size_t head_len = (size_t)(end - c->in);
    memcpy(head, c->in, head_len);
    head[head_len] = 0;
    c->in_len -= head_len + 4;
    memmove(c->in, end + 4, c->in_len);
    c->close_after = strcasestr(head, "\r\nconnection: close") != NULL;
    head[strcspn(head, "\r\n")] = 0;
    if (!strncmp(head, "GET /bali-zero/chat-stream", 26)) {
        c->plan = o->defaults;
        read_plan(head, &c->plan);
        bound_plan(&c->plan);
        start_answer(o, c);
    } else if (!strncmp(head, "GET /health ", 12)) {
        answer_plain(o, c, "200 OK", "{\"status\": \"healthy\"}");
    } else {
        answer_plain(o, c, "404 Not Found", "{\"error\": \"not found\"}");
    }
}

static void read_in(struct origin *o, struct conn *c) {
    ssize_t n = recv(c->fd, c->in + c->in_len, HEAD_MAX - 1 - c->in_len, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) { /* closed by the peer, or a request head out of bounds */
        drop(o, c);
        return;
    }
    c->in_len += (size_t)n;
    serve_next(o, c);
}

static void write_ready(struct origin *o, struct conn *c) {
    if (!flush_out(o, c) || c->out_len) return;
    if (!c->streaming) {
        after_write(o, c);
        return;
    }
    if (c->plan.rate <= 0 && !c->plan.idle) {
        write_flat(o, c);
        return;
    }
    arm(o, c, false);
    if (!c->plan.idle || !c->sent) schedule(o, c, c->due_ns);
}

static void accept_all(struct origin *o) {
    for (;;) {
        int fd = accept4(o->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) return;
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        struct conn *c = calloc(1, sizeof *c);
        if (!c) die("calloc");
        c->fd = fd;
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
        if (epoll_ctl(o->epoll_fd, EPOLL_CTL_ADD, fd, &e) < 0) die("epoll_ctl");
    }
}

static void run(struct origin *o) {
    struct epoll_event ready[EPOLL_BATCH];
    for (;;) {
        struct timespec wait = {0}, *timeout = NULL;
        if (o->heap_len) {
            uint64_t now = now_ns(CLOCK_MONOTONIC), due = o->heap[1]->due_ns, left = due > now ? due - now : 0;
            wait.tv_sec = (time_t)(left / 1000000000u);
            wait.tv_nsec = (long)(left % 1000000000u);
            timeout = &wait;
        }
        int n = epoll_pwait2(o->epoll_fd, ready, EPOLL_BATCH, timeout, NULL);
        if (n < 0 && errno != EINTR) die("epoll_pwait2");
        for (int i = 0; i < n; i++) {
            struct conn *c = ready[i].data.ptr;
            if (!c) {
                accept_all(o);
                continue;
            }
            if (c->fd >= 0 && ready[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP)) read_in(o, c);
            if (c->fd >= 0 && ready[i].events & EPOLLOUT) write_ready(o, c);
        }
        uint64_t now = now_ns(CLOCK_MONOTONIC);
        while (o->heap_len && o->heap[1]->due_ns <= now) write_due(o, o->heap[1], now);
        while (o->dead_len) free(o->dead[--o->dead_len]);
    }
}

static int listen_on(int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&a, sizeof a) < 0) die("bind");
    if (listen(fd, 4096) < 0) die("listen");
    if (getsockname(fd, (struct sockaddr *)&a, &len) < 0) die("getsockname");
    printf("listening %d\n", ntohs(a.sin_port));
    fflush(stdout);
    return fd;
}

int main(int argc, char **argv) {
    static const struct option options[] = {{"port", 1, 0, 'p'}, {"rate", 1, 0, 'r'}, {"count", 1, 0, 'n'},
                                            {"sources", 1, 0, 's'}, {"idle", 0, 0, 'i'}, {0, 0, 0, 0}};
    struct origin o = {.defaults = {.rate = 50, .count = 100}};
    int port = 0;
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c == 'p') port = atoi(optarg);
        else if (c == 'r') o.defaults.rate = strtod(optarg, NULL);
        else if (c == 'n') o.defaults.count = strtoull(optarg, NULL, 10);
        else if (c == 's') o.defaults.sources = (unsigned)strtoul(optarg, NULL, 10);
        else if (c == 'i') o.defaults.idle = true;
        else return 2;
    }
    prctl(PR_SET_TIMERSLACK, 1);         /* the default slack of 50 us would bunch the streams */
    prctl(PR_SET_PDEATHSIG, SIGTERM);    /* never outlive the bench that started us */
    o.heap_cap = 1024;
    o.heap = calloc(o.heap_cap, sizeof *o.heap);
    o.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    o.listen_fd = listen_on(port);
    struct epoll_event e = {.events = EPOLLIN};
    if (!o.heap || epoll_ctl(o.epoll_fd, EPOLL_CTL_ADD, o.listen_fd, &e) < 0) die("epoll_ctl");
    run(&o);
}
