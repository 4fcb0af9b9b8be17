/* The keys of an object that has declared fields. Invariant: a key is compared byte by byte before it is taken for one that is known. */
#ifndef KEYS_H
#define KEYS_H

#include "json.h"

enum { UNDECLARED = 256 }; /* keys without a field that are remembered of an object */

/* A key of an object: which child it is (-1: not declared), and the key that came after it last, which probably comes again. */
typedef struct {
    const uint8_t *text;
    uint32_t length;
    uint32_t mask; /* which bytes of `head` count */
    int32_t field;
    uint32_t next;
    uint8_t head[16]; /* the text's first bytes with the quote that ends it */
} known_t;

typedef struct {
    known_t *known; /* the first is none: what comes after it comes first */
    uint32_t *slots;
    uint32_t count, capacity, slot_mask;
} keys_t;

static inline bool make_keys(keys_t *keys, uint32_t fields) {
    keys->capacity = 1 + fields + UNDECLARED;
    uint32_t slots = 64;
    while (slots < 2 * keys->capacity) slots *= 2;
    keys->slot_mask = slots - 1;
    keys->known = malloc(keys->capacity * sizeof(known_t));
    keys->slots = calloc(slots, sizeof(uint32_t));
    if (!keys->known || !keys->slots) return false;
    /* Longer than any text, so that none is it. */
    keys->known[0] = (known_t){.length = UINT32_MAX, .mask = 0xffff, .field = -1};
    keys->count = 1;
    return true;
}

static inline uint32_t hash(const uint8_t *text, uint32_t length) {
    uint32_t value = 2166136261u;
    for (uint32_t place = 0; place < length; place++) value = (value ^ text[place]) * 16777619u;
    return value ^ value >> 15;
}

static inline uint32_t remember(keys_t *keys, uint32_t *slot, const uint8_t *text, uint32_t length, int32_t field) {
    known_t *known = &keys->known[keys->count];
    *known = (known_t){.text = text, .length = length, .field = field};
    memcpy(known->head, text, length < 16 ? length : 16);
    if (length < 16) known->head[length] = '"';
    known->mask = length < 15 ? (2u << length) - 1 : 0xffff;
    return *slot = keys->count++;
}

/* The number of the key, which is remembered as one that is not declared when it is new; 0 where there is no room. */
static inline uint32_t look_up(keys_t *keys, const uint8_t *text, uint32_t length, int32_t field) {
    uint32_t place = hash(text, length) & keys->slot_mask;
    for (; keys->slots[place]; place = (place + 1) & keys->slot_mask) {
        const known_t *known = &keys->known[keys->slots[place]];
        if (known->length == length && memcmp(known->text, text, length) == 0) return keys->slots[place];
    }
    return keys->count < keys->capacity ? remember(keys, &keys->slots[place], text, length, field) : 0;
}

static inline bool is_key(const reader_t *reader, const known_t *known, const uint8_t *p) {
    size_t length = known->length, left = (size_t)(reader->end - p);
#if defined(__SSE2__)
    if (likely(left >= 16)) {
        __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)p);
        __m128i head = _mm_loadu_si128((const __m128i *)(const void *)known->head);
        uint32_t same = (uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(bytes, head));
        if ((same & known->mask) != known->mask) return false;
        if (likely(length < 16)) return true;
    }
#endif
    return left > length && memcmp(p, known->text, length) == 0 && p[length] == '"';
}

/* The number of the key that begins there, behind its quote; -1 where there is none that can be read. */
static inline int32_t key(const reader_t *reader, keys_t *keys, uint32_t before, const uint8_t *p, const uint8_t **behind) {
    uint32_t found = keys->known[before].next;
    if (likely(is_key(reader, &keys->known[found], p))) {
        *behind = p + keys->known[found].length + 1;
        return (int32_t)found;
    }
    const uint8_t *stop = plain_end(reader, p);
    /* Also where a backslash is: what it stands for might be the name of a field. */
    if (at(reader, stop) != '"') return -1;
    *behind = stop + 1;
    found = look_up(keys, p, (uint32_t)(stop - p), -1);
    keys->known[before].next = found;
    return (int32_t)found;
}

#endif
