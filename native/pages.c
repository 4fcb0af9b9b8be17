/* A page's body to the places of its records: see native/pages.py.

   Invariant: a page is split only where all of it is JSON, and every record stands in the body from its first byte to its last; anything else is refused. */
#include "json.h"

enum { DEEPEST = 64 }; /* Brackets that may be open: what is nested deeper is for the library, which has a limit of its own. */

enum { REFUSED = -1 };

typedef struct {
    const uint8_t *text; /* NULL: not looked for */
    int64_t length;
} name_t;

typedef struct {
    reader_t reader;
    const uint8_t *body;
    int32_t *starts;  /* of each record, in the body */
    int32_t *offsets; /* of each record and of the end, were they one behind the other */
    int64_t room, count, bytes;
} page_t;

static inline const uint8_t *item(page_t *page, const uint8_t *p) {
    p = skip(&page->reader, p);
    return page->reader.open_capacity > DEEPEST ? NULL : p;
}

static const uint8_t *records(page_t *page, const uint8_t *p) {
    reader_t *reader = &page->reader;
    if (at(reader, p) != '[') return NULL;
    p = space(reader, p + 1);
    if (at(reader, p) == ']') return p + 1;
    for (uint8_t after = ','; after != ']'; page->count++) {
        const uint8_t *start = p = space(reader, p);
        if (!(p = item(page, p))) return NULL;
        page->bytes += p - start;
        if (likely(page->count < page->room)) {
            page->starts[page->count] = (int32_t)(start - page->body);
            page->offsets[page->count + 1] = (int32_t)page->bytes;
        }
        p = space(reader, p);
        after = at(reader, p++);
        if (after != ',' && after != ']') return NULL;
    }
    return p;
}

static inline bool is(const name_t *name, const uint8_t *text, int64_t length) {
    return name->text && name->length == length && memcmp(name->text, text, (size_t)length) == 0;
}

/* The object around the records; where the total stands goes to `span`. */
static const uint8_t *envelope(page_t *page, const uint8_t *p, const name_t *key, const name_t *total, int32_t *span) {
    reader_t *reader = &page->reader;
    bool found = false;
    if (at(reader, p) != '{') return NULL;
    p = space(reader, p + 1);
    for (uint8_t after = ','; after != '}';) {
        p = space(reader, p);
        if (at(reader, p) != '"') return NULL;
        const uint8_t *name = ++p;
        p = plain_end(reader, p);
        if (at(reader, p) != '"') return NULL; /* an escape may spell any key */
        int64_t length = p - name;
        p = space(reader, p + 1);
        if (at(reader, p) != ':') return NULL;
        p = space(reader, p + 1);
        const uint8_t *value = p;
        if (is(key, name, length)) {
            if (found || !(p = records(page, p))) return NULL;
            found = true;
        } else {
            if (!(p = item(page, p))) return NULL;
            if (is(total, name, length)) {
                if (span[1]) return NULL;
                span[0] = (int32_t)(value - page->body);
                span[1] = (int32_t)(p - page->body);
            }
        }
        p = space(reader, p);
        after = at(reader, p++);
        if (after != ',' && after != '}') return NULL;
    }
    return found ? p : NULL;
}

/* How many records there are, of which the first `room` are written (of `offsets` one more); or REFUSED. Without a key the body is the array.
   `span`, two zeros: where the total begins and ends. */
KERNEL_API int64_t pages_split(const uint8_t *body, int64_t size, const uint8_t *key, int64_t key_bytes, const uint8_t *total, int64_t total_bytes,
                               int32_t *starts, int32_t *offsets, int64_t room, int32_t *span) {
    if (size < 0 || size > INT32_MAX) return REFUSED;
    page_t page = {.reader = {.end = body + size, .pairs = true}, .body = body, .starts = starts, .offsets = offsets, .room = room};
    const name_t named = {key, key_bytes}, counted = {total, total_bytes};
    offsets[0] = 0;
    const uint8_t *p = space(&page.reader, body);
    p = key ? envelope(&page, p, &named, &counted, span) : records(&page, p);
    bool whole = p && space(&page.reader, p) == page.reader.end;
    free(page.reader.open);
    return whole ? page.count : REFUSED;
}

/* Writes records one behind the other to where there is room for them, and where each ends, when the first begins at `first`. */
KERNEL_API void pages_join(const uint8_t *body, const int32_t *starts, const int32_t *offsets, int64_t count, uint8_t *to, int32_t *ends, int32_t first) {
    for (int64_t record = 0; record < count; record++) {
        int32_t length = offsets[record + 1] - offsets[record];
        memcpy(to, body + starts[record], (size_t)length);
        to += length;
        ends[record] = first += length;
    }
}
