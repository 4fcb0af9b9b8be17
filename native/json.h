/* JSON's tokens (RFC 8259), read or skipped. Invariant: no byte behind the record's end is read, and whatever the grammar does not have is refused: NULL. */
#ifndef JSON_H
#define JSON_H

#include "kernel.h"

#include <stdbool.h>

/* Longer numbers are refused: Python does not read an integer of any length. */
enum { NUMBER_BYTES = 300 };

typedef struct {
    const uint8_t *end; /* of the record */
    uint8_t *open;      /* the brackets that are open in what is skipped */
    size_t open_capacity;
    bool pairs;         /* whether half a surrogate pair is refused in what is skipped too */
} reader_t;

/* The byte there, or 0, which no token begins with. */
static inline uint8_t at(const reader_t *reader, const uint8_t *p) { return likely(p < reader->end) ? *p : 0; }

static inline const uint8_t *space(const reader_t *reader, const uint8_t *p) {
    while (p < reader->end && unlikely(*p <= ' ') && (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t')) p++;
    return p;
}

static inline bool plain(uint8_t byte) { return byte >= ' ' && byte != '"' && byte != '\\'; }

/* The first byte that is not simply part of a string, or the record's end. */
static inline const uint8_t *plain_end(const reader_t *reader, const uint8_t *p) {
#if defined(__SSE2__)
    const __m128i quote = _mm_set1_epi8('"'), backslash = _mm_set1_epi8('\\'), control = _mm_set1_epi8(0x1f);
    while (reader->end - p >= 16) {
        __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)p);
        __m128i ends = _mm_or_si128(_mm_cmpeq_epi8(bytes, quote), _mm_cmpeq_epi8(bytes, backslash));
        ends = _mm_or_si128(ends, _mm_cmpeq_epi8(_mm_min_epu8(bytes, control), bytes));
        unsigned found = (unsigned)_mm_movemask_epi8(ends);
        if (likely(found)) return p + __builtin_ctz(found);
        p += 16;
    }
#else
    const uint64_t ones = 0x0101010101010101, highs = 0x8080808080808080;
    while (reader->end - p >= 8) {
        uint64_t bytes;
        memcpy(&bytes, p, 8);
        uint64_t quote = bytes ^ ones * '"', backslash = bytes ^ ones * '\\';
        /* A borrow may mark a byte above one that is marked, never one below. */
        uint64_t ends = ((quote - ones) & ~quote) | ((backslash - ones) & ~backslash) | ((bytes - ones * ' ') & ~bytes);
        if (ends & highs) return p + (__builtin_ctzll(ends & highs) >> 3);
        p += 8;
    }
#endif
    while (p < reader->end && plain(*p)) p++;
    return p;
}

static inline bool literal(const reader_t *reader, const uint8_t *p, const char *word, size_t length) {
    return (size_t)(reader->end - p) >= length && memcmp(p, word, length) == 0;
}

static inline int hex(uint8_t byte) {
    if (byte >= '0' && byte <= '9') return byte - '0';
    byte |= 0x20;
    return byte >= 'a' && byte <= 'f' ? byte - 'a' + 10 : -1;
}

/* The code unit of the four digits there, or -1. */
static inline int32_t code_unit(const reader_t *reader, const uint8_t *p) {
    if (reader->end - p < 4) return -1;
    int32_t unit = 0;
    for (int digit = 0; digit < 4; digit++) {
        int half = hex(p[digit]);
        if (half < 0) return -1;
        unit = unit << 4 | half;
    }
    return unit;
}

static inline uint8_t simple_escape(uint8_t byte) {
    switch (byte) {
    case '"': case '\\': case '/': return byte;
    case 'b': return '\b';
    case 'f': return '\f';
    case 'n': return '\n';
    case 'r': return '\r';
    case 't': return '\t';
    default: return 0;
    }
}

static inline size_t utf8(uint32_t point, uint8_t *out) {
    if (point < 0x80) return out[0] = (uint8_t)point, 1;
    if (point < 0x800) return out[0] = (uint8_t)(0xc0 | point >> 6), out[1] = (uint8_t)(0x80 | (point & 0x3f)), 2;
    size_t at = 0;
    if (point < 0x10000) {
        out[at++] = (uint8_t)(0xe0 | point >> 12);
    } else {
        out[at++] = (uint8_t)(0xf0 | point >> 18);
        out[at++] = (uint8_t)(0x80 | (point >> 12 & 0x3f));
    }
    out[at++] = (uint8_t)(0x80 | (point >> 6 & 0x3f));
    out[at++] = (uint8_t)(0x80 | (point & 0x3f));
    return at;
}

/* Behind the escape whose backslash is there, its text in `out`; NULL where there is none, or half a surrogate pair. */
static inline const uint8_t *unescape(const reader_t *reader, const uint8_t *p, uint8_t *out, size_t *size) {
    uint8_t kind = at(reader, p + 1);
    if (kind != 'u') {
        out[0] = simple_escape(kind);
        *size = 1;
        return out[0] ? p + 2 : NULL;
    }
    int32_t unit = code_unit(reader, p + 2);
    if (unit < 0 || (unit >= 0xdc00 && unit < 0xe000)) return NULL;
    p += 6;
    if (unit >= 0xd800 && unit < 0xdc00) {
        if (at(reader, p) != '\\' || at(reader, p + 1) != 'u') return NULL;
        int32_t low = code_unit(reader, p + 2);
        if (low < 0xdc00 || low >= 0xe000) return NULL;
        unit = 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
        p += 6;
    }
    *size = utf8((uint32_t)unit, out);
    return p;
}

typedef struct {
    uint64_t mantissa; /* all digits, unless `cut` */
    int32_t exponent;  /* of ten */
    bool negative, whole, cut;
} number_t;

static inline bool digit(uint8_t byte) { return (uint8_t)(byte - '0') < 10; }

static inline const uint8_t *exponent(const reader_t *reader, const uint8_t *p, int32_t *value) {
    bool negative = at(reader, p) == '-';
    if (negative || at(reader, p) == '+') p++;
    if (!digit(at(reader, p))) return NULL;
    int32_t sum = 0;
    for (; digit(at(reader, p)); p++)
        if (sum < 100000) sum = sum * 10 + (*p - '0');
    *value = negative ? -sum : sum;
    return p;
}

/* Behind the number there; NULL where the grammar has none. */
static inline const uint8_t *number(const reader_t *reader, const uint8_t *p, number_t *to) {
    const uint8_t *start = p;
    uint64_t mantissa = 0;
    int32_t power = 0;
    to->negative = *p == '-';
    p += to->negative;
    const uint8_t *digits = p;
    if (at(reader, p) == '0') p++;
    else for (; digit(at(reader, p)); p++) mantissa = mantissa * 10 + (uint64_t)(*p - '0');
    int64_t count = p - digits;
    if (!count) return NULL;
    to->whole = true;
    if (at(reader, p) == '.') {
        const uint8_t *fraction = ++p;
        for (; digit(at(reader, p)); p++) mantissa = mantissa * 10 + (uint64_t)(*p - '0');
        if (p == fraction || p - start > NUMBER_BYTES) return NULL;
        power = (int32_t)(fraction - p);
        count += p - fraction;
        to->whole = false;
    }
    if (unlikely((at(reader, p) | 0x20) == 'e')) {
        int32_t more;
        p = exponent(reader, p + 1, &more);
        if (!p) return NULL;
        power += more;
        to->whole = false;
    }
    to->mantissa = mantissa;
    to->exponent = power;
    to->cut = count > 19;
    return p - start <= NUMBER_BYTES ? p : NULL;
}

/* Grammar alone; half a surrogate pair is no harm where nobody reads it, unless the caller says so. */
static inline const uint8_t *skip_string(const reader_t *reader, const uint8_t *p) {
    for (;;) {
        p = plain_end(reader, p);
        uint8_t byte = at(reader, p);
        if (likely(byte == '"')) return p + 1;
        if (byte != '\\') return NULL;
        uint8_t kind = at(reader, p + 1), ignored[4];
        size_t size;
        if (kind == 'u' && reader->pairs && !(p = unescape(reader, p, ignored, &size))) return NULL;
        else if (kind == 'u' && reader->pairs) continue;
        else if (kind == 'u' && code_unit(reader, p + 2) >= 0) p += 6;
        else if (simple_escape(kind)) p += 2;
        else return NULL;
    }
}

static inline const uint8_t *skip_scalar(const reader_t *reader, const uint8_t *p) {
    number_t ignored;
    switch (at(reader, p)) {
    case '"': return skip_string(reader, p + 1);
    case 'n': return literal(reader, p, "null", 4) ? p + 4 : NULL;
    case 't': return literal(reader, p, "true", 4) ? p + 4 : NULL;
    case 'f': return literal(reader, p, "false", 5) ? p + 5 : NULL;
    case '-': case '0': case '1': case '2': case '3': case '4': case '5': case '6': case '7': case '8': case '9':
        return number(reader, p, &ignored);
    default: return NULL;
    }
}

static inline const uint8_t *skip_key(const reader_t *reader, const uint8_t *p) {
    if (at(reader, p) != '"' || !(p = skip_string(reader, p + 1))) return NULL;
    p = space(reader, p);
    return at(reader, p) == ':' ? space(reader, p + 1) : NULL;
}

static inline bool resize(void **at, size_t size) {
    void *moved = realloc(*at, size ? size : 1);
    if (!moved) return false;
    *at = moved;
    return true;
}

static inline bool open_bracket(reader_t *reader, size_t depth, uint8_t bracket) {
    if (unlikely(depth == reader->open_capacity)) {
        void *open = reader->open;
        if (!resize(&open, 2 * depth + 64)) return false;
        reader->open = open;
        reader->open_capacity = 2 * depth + 64;
    }
    reader->open[depth] = bracket;
    return true;
}

/* An object or array that is not declared. Without recursion: it may be nested as deep as it is long. */
static inline const uint8_t *skip_nested(reader_t *reader, const uint8_t *p) {
    size_t depth = 0;
    for (;;) {
        uint8_t byte = at(reader, p);
        if (byte == '{' || byte == '[') {
            if (!open_bracket(reader, depth++, byte)) return NULL;
            p = space(reader, p + 1);
            if (at(reader, p) != byte + 2) {
                if (byte == '{' && !(p = skip_key(reader, p))) return NULL;
                continue;
            }
        } else {
            if (!(p = skip_scalar(reader, p))) return NULL;
            p = space(reader, p);
        }
        while (at(reader, p) != ',') {
            if (at(reader, p) != reader->open[depth - 1] + 2) return NULL;
            p++;
            if (!--depth) return p;
            p = space(reader, p);
        }
        p = space(reader, p + 1);
        if (reader->open[depth - 1] == '{' && !(p = skip_key(reader, p))) return NULL;
    }
}

static inline const uint8_t *skip(reader_t *reader, const uint8_t *p) {
    uint8_t byte = at(reader, p);
    return byte == '{' || byte == '[' ? skip_nested(reader, p) : skip_scalar(reader, p);
}

#endif
