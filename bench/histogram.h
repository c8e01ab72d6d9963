/* A log-linear histogram of nanoseconds: 64 buckets an octave, so a quantile is within 1.6 %, up to 18 minutes. */
#ifndef HISTOGRAM_H
#define HISTOGRAM_H
#include <stdint.h>

enum { SUB_BUCKETS = 64, BUCKETS = SUB_BUCKETS * 36 };

struct histogram {
    uint64_t total, max_ns, counts[BUCKETS];
};

static inline void record(struct histogram *h, uint64_t ns) {
    unsigned shift = ns < 2 * SUB_BUCKETS ? 0 : 57u - (unsigned)__builtin_clzll(ns);
    uint64_t bucket = (uint64_t)shift * SUB_BUCKETS + (ns >> shift);
    h->counts[bucket < BUCKETS ? bucket : BUCKETS - 1]++;
    h->total++;
    if (ns > h->max_ns) h->max_ns = ns;
}

/* The middle of the bucket that holds quantile q (0..1), in microseconds; 0 of nothing. */
static inline double quantile_us(const struct histogram *h, double q) {
    uint64_t rank = (uint64_t)(q * (double)h->total), seen = 0;
    for (unsigned i = 0; i < BUCKETS; i++) {
        seen += h->counts[i];
        if (seen <= rank) continue;
        unsigned shift = i < 2 * SUB_BUCKETS ? 0 : i / SUB_BUCKETS - 1;
        return ((double)(i - shift * SUB_BUCKETS) + 0.5) * (double)(UINT64_C(1) << shift) / 1000;
    }
    return (double)h->max_ns / 1000;
}
#endif
