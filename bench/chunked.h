/* HTTP/1.1 chunked bodies (RFC 9112, 7.1), incrementally; without extensions and trailers: nobody here sends any. */
#ifndef CHUNKED_H
#define CHUNKED_H
#include <stdbool.h>
#include <string.h>

enum chunk_phase { CHUNK_SIZE, CHUNK_DATA, CHUNK_DATA_END, CHUNK_LAST_END, CHUNK_COMPLETE };

/* All zero: before the first chunk. */
struct chunked {
    enum chunk_phase phase;
    bool size_seen; /* a digit of the size was read */
    size_t left;    /* bytes of this chunk still to come */
};

static inline size_t hex_digit(char d) { return (size_t)(d <= '9' ? d - '0' : (d | 32) - 'a' + 10); }

/* Takes the framing off `at..end`; what it framed goes to `to`, which has room for all. Returns the new end of that. */
static inline char *dechunk(struct chunked *c, const char *at, const char *end, char *to) {
    while (at < end && c->phase != CHUNK_COMPLETE) {
        if (c->phase == CHUNK_DATA) {
            size_t n = (size_t)(end - at) < c->left ? (size_t)(end - at) : c->left;
            memcpy(to, at, n);
            to += n, at += n;
            if (!(c->left -= n)) c->phase = CHUNK_DATA_END;
            continue;
        }
        char d = *at++;
        if (d == '\r') continue;
        if (c->phase == CHUNK_SIZE && d != '\n') {
            c->left = (c->size_seen ? c->left * 16 : 0) + hex_digit(d);
            c->size_seen = true;
        } else if (c->phase == CHUNK_SIZE) {
            c->phase = c->left ? CHUNK_DATA : CHUNK_LAST_END;
        } else {
            c->phase = c->phase == CHUNK_DATA_END ? CHUNK_SIZE : CHUNK_COMPLETE;
            c->size_seen = false;
        }
    }
    return to;
}
#endif
