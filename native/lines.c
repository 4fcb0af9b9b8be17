/* Rows to NDJSON: see native/lines.py. The room for the lines is the caller's. */
#include "arrow.h"
#include "kernel.h"

#include <math.h>
#include <stdio.h>

enum { TEXT, TEXTS, INT32, INT64, BOOLEAN, STAMP, REAL };

enum { LABEL = 64, ROOM = 64 }; /* What a value may take beside its text; also how far a copy may write behind its end. */

typedef struct {
    int32_t kind;
    int32_t label_length;
    uint8_t label[LABEL]; /* comma, name in quotes, colon */
    const uint8_t *valid; /* NULL: all are */
    int64_t offset;       /* of `valid` and `values`, in rows */
    const void *values;
    const uint8_t *const *buffers; /* of texts */
    /* Of the elements of lists. */
    const uint8_t *inner_valid;
    int64_t inner_offset;
    const view_t *inner;
} column_t;

/* An element of a list; `bytes` is NULL for null. */
typedef struct {
    const uint8_t *bytes;
    int64_t length;
} item_t;

/* A frame's columns that have a value, of which the first `first` are the heads'. */
typedef struct {
    struct ArrowSchema schema;
    struct ArrowArray frame;
    int in_order; /* whether the elements of lists are to be */
    item_t *items;
    int64_t item_room;
    int32_t count;
    int32_t first;
    column_t columns[];
} lines_t;

static inline int there(const uint8_t *valid, int64_t at) { return valid == NULL || bit(valid, at); }

static inline uint8_t *put(uint8_t *out, const char *from, int64_t length) {
    memcpy(out, from, (size_t)length);
    return out + length;
}

/* What stands for a byte that JSON escapes. */
static const char ESCAPES['\\' + 1][8] = {
    "\\u0000", "\\u0001", "\\u0002", "\\u0003", "\\u0004", "\\u0005", "\\u0006", "\\u0007",
    "\\b", "\\t", "\\n", "\\u000b", "\\f", "\\r", "\\u000e", "\\u000f",
    "\\u0010", "\\u0011", "\\u0012", "\\u0013", "\\u0014", "\\u0015", "\\u0016", "\\u0017",
    "\\u0018", "\\u0019", "\\u001a", "\\u001b", "\\u001c", "\\u001d", "\\u001e", "\\u001f",
    ['"'] = "\\\"", ['\\'] = "\\\\",
};

static inline uint8_t *escape(uint8_t *out, uint8_t byte) {
    memcpy(out, ESCAPES[byte], 8);
    return out + (ESCAPES[byte][1] == 'u' ? 6 : 2);
}

/* Which of sixteen bytes are escaped, the first of them in the lowest bit. */
static inline unsigned marks(const uint8_t *bytes) {
#if defined(__SSE2__)
    __m128i some = _mm_loadu_si128((const __m128i *)bytes);
    __m128i found = _mm_cmpeq_epi8(_mm_min_epu8(some, _mm_set1_epi8(31)), some);
    found = _mm_or_si128(found, _mm_cmpeq_epi8(some, _mm_set1_epi8('"')));
    return (unsigned)_mm_movemask_epi8(_mm_or_si128(found, _mm_cmpeq_epi8(some, _mm_set1_epi8('\\'))));
#else
    unsigned found = 0;
    for (int at = 0; at < 16; at++) {
        found |= (unsigned)(bytes[at] < 32 || bytes[at] == '"' || bytes[at] == '\\') << at;
    }
    return found;
#endif
}

/* Fewer than sixteen bytes, with what there is behind them, without reading there. */
static inline void gather(uint8_t *some, const uint8_t *from, int64_t length) {
    if (length >= 8) {
        memcpy(some, from, 8);
        memcpy(some + length - 8, from + length - 8, 8);
    } else if (length >= 4) {
        memcpy(some, from, 4);
        memcpy(some + length - 4, from + length - 4, 4);
    } else if (length) {
        some[0] = from[0];
        some[length / 2] = from[length / 2];
        some[length - 1] = from[length - 1];
    }
}

/* Sixteen bytes, behind which sixteen more may be read, some of them escaped. */
static inline uint8_t *with_escapes(uint8_t *out, const uint8_t *from, unsigned found) {
    int64_t done = 0;
    for (; found; found &= found - 1) {
        int64_t plain = __builtin_ctz(found);
        out = escape(out + plain - done, from[plain]);
        done = plain + 1;
        memcpy(out, from + done, 16);
    }
    return out + 16 - done;
}

/* A text in quotes. There is room for six bytes for each of its own, and for ROOM more. */
static inline uint8_t *text(uint8_t *out, const uint8_t *from, int64_t length) {
    *out++ = '"';
    for (; length >= 32; from += 16, length -= 16) {
        unsigned found = marks(from);
        memcpy(out, from, 16);
        out = likely(!found) ? out + 16 : with_escapes(out, from, found);
    }
    while (length > 0) {
        uint8_t some[32];
        int64_t taken = length < 16 ? length : 16;
        if (length < 16) {
            gather(some, from, length);
        } else {
            memcpy(some, from, 16);
        }
        unsigned found = marks(some) & (0xffffu >> (16 - taken));
        memcpy(out, some, 16);
        out = likely(!found) ? out + taken : with_escapes(out, some, found) - 16 + taken;
        from += taken;
        length -= taken;
    }
    *out++ = '"';
    return out;
}

static uint8_t *natural(uint8_t *out, uint64_t value) {
    uint8_t digits[20];
    int at = 20;
    do {
        digits[--at] = (uint8_t)('0' + value % 10);
        value /= 10;
    } while (value);
    memcpy(out, digits + at, (size_t)(20 - at));
    return out + 20 - at;
}

static uint8_t *integer(uint8_t *out, int64_t value) {
    if (value < 0) {
        *out++ = '-';
        return natural(out, 0 - (uint64_t)value);
    }
    return natural(out, (uint64_t)value);
}

static uint8_t *two(uint8_t *out, int64_t value) {
    out[0] = (uint8_t)('0' + value / 10);
    out[1] = (uint8_t)('0' + value % 10);
    return out + 2;
}

/* Microseconds since 1970 as "2024-02-29T23:59:59.000000Z"; NULL when the year has not four digits. */
static uint8_t *stamp(uint8_t *out, int64_t micros) {
    if (micros < -62135596800000000 || micros > 253402300799999999) {
        return NULL;
    }
    const int64_t a_day = 86400000000;
    int64_t days = micros / a_day, rest = micros % a_day;
    if (rest < 0) {
        rest += a_day;
        days--;
    }
    /* Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms": civil_from_days, for days from 0000-03-01 on. */
    int64_t shifted = days + 719468, era = shifted / 146097, of_era = shifted % 146097;
    int64_t year_of_era = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    int64_t of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    int64_t shifted_month = (5 * of_year + 2) / 153, day = of_year - (153 * shifted_month + 2) / 5 + 1;
    int64_t month = shifted_month < 10 ? shifted_month + 3 : shifted_month - 9;
    int64_t year = year_of_era + era * 400 + (month <= 2);
    *out++ = '"';
    out = two(two(out, year / 100), year % 100);
    *out++ = '-';
    out = two(out, month);
    *out++ = '-';
    out = two(out, day);
    *out++ = 'T';
    int64_t seconds = rest / 1000000, fraction = rest % 1000000;
    out = two(out, seconds / 3600);
    *out++ = ':';
    out = two(out, seconds / 60 % 60);
    *out++ = ':';
    out = two(out, seconds % 60);
    *out++ = '.';
    out = two(two(two(out, fraction / 10000), fraction / 100 % 100), fraction % 100);
    return put(out, "Z\"", 2);
}

/* Powers of ten that are doubles as well as 64-bit integers. */
static const double POWERS[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,
                                1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19};
enum { LAST_POWER = 19 };

/*
 * A real with the fewest digits that give it again; NULL for minus zero, those of more than 15 digits, very large and very small ones, and what JSON has not.
 * A number of at most 15 digits over such a power is what the division gives (both are doubles, and it rounds correctly), and no other
 * such decimal gives the same double: so one that is found by division has the fewest digits, once it ends in no zero.
 */
static uint8_t *real(uint8_t *out, double value) {
    if (value == 0) {
        return signbit(value) ? NULL : put(out, "0.0", 3);
    }
    if (signbit(value)) {
        *out++ = '-';
        value = -value;
    }
    if (!(value >= 1e-5 && value < 1e15)) {
        return NULL;
    }
    int scale = 0;
    uint64_t digits = 0, power = 1;
    for (;; scale++, power *= 10) {
        if (scale > LAST_POWER || value * POWERS[scale] >= 1e15) {
            return NULL;
        }
        double scaled = value * POWERS[scale];
        digits = (uint64_t)(scaled + 0.5);
        if ((double)digits / POWERS[scale] == value) {
            break;
        }
    }
    if (scale == 0) {
        return put(natural(out, digits), ".0", 2);
    }
    out = natural(out, digits / power);
    *out++ = '.';
    uint64_t behind = digits % power;
    for (int at = scale - 1; at >= 0; at--) {
        out[at] = (uint8_t)('0' + behind % 10);
        behind /= 10;
    }
    return out + scale;
}

/* The most that the texts of a list can take. */
static int64_t list_room(const column_t *column, int64_t begin, int64_t end) {
    int64_t room = ROOM;
    for (int64_t at = begin; at < end; at++) {
        room += 6 * (int64_t)column->inner[column->inner_offset + at].length + ROOM;
    }
    return room;
}

static inline uint8_t *element(uint8_t *out, item_t item) {
    return item.bytes ? text(out, item.bytes, item.length) : put(out, "null", 4);
}

static inline item_t item_at(const column_t *column, int64_t at) {
    const view_t *view = &column->inner[column->inner_offset + at];
    int given = there(column->inner_valid, column->inner_offset + at);
    return given ? (item_t){view_bytes(view, column->buffers), view->length} : (item_t){NULL, 0};
}

/* By their bytes, as the libraries order texts; nulls come first. */
static int compare(const void *one, const void *other) {
    const item_t *left = one, *right = other;
    if (left->bytes == NULL || right->bytes == NULL) {
        return (left->bytes != NULL) - (right->bytes != NULL);
    }
    int64_t both = left->length < right->length ? left->length : right->length;
    int said = memcmp(left->bytes, right->bytes, (size_t)both);
    return said ? said : (left->length > right->length) - (left->length < right->length);
}

/* The elements of a list in order; NULL when there is no memory. Nearly all lists are short, or in order as they come. */
static const item_t *in_order(lines_t *lines, const column_t *column, int64_t begin, int64_t end) {
    int64_t count = end - begin;
    if (count > lines->item_room) {
        item_t *more = realloc(lines->items, (size_t)(2 * count) * sizeof *more);
        if (more == NULL) {
            return NULL;
        }
        lines->items = more;
        lines->item_room = 2 * count;
    }
    int falls = 0;
    for (int64_t at = 0; at < count; at++) {
        lines->items[at] = item_at(column, begin + at);
        falls |= at && compare(&lines->items[at - 1], &lines->items[at]) > 0;
    }
    if (falls) {
        qsort(lines->items, (size_t)count, sizeof *lines->items, compare);
    }
    return lines->items;
}

/* NULL when there is no memory. */
static uint8_t *list(uint8_t *out, lines_t *lines, const column_t *column, int64_t begin, int64_t end) {
    int sorts = lines->in_order && end - begin > 1;
    const item_t *items = sorts ? in_order(lines, column, begin, end) : NULL;
    if (sorts && items == NULL) {
        return NULL;
    }
    *out++ = '[';
    for (int64_t at = begin; at < end; at++) {
        if (at > begin) {
            *out++ = ',';
        }
        out = element(out, sorts ? items[at - begin] : item_at(column, at));
    }
    *out++ = ']';
    return out;
}

static int kind_of(const char *format) {
    static const struct {
        const char *format;
        int kind;
    } known[] = {{"vu", TEXT}, {"i", INT32}, {"l", INT64}, {"b", BOOLEAN}, {"g", REAL}, {"tsu:", STAMP}, {"tsu:UTC", STAMP}, {"+L", TEXTS}};
    for (size_t at = 0; at < sizeof known / sizeof *known; at++) {
        if (strcmp(format, known[at].format) == 0) {
            return known[at].kind;
        }
    }
    return -1;
}

/* Fills in a column; 0 when it is of a type that is for the libraries. */
static int describe(column_t *column, const struct ArrowSchema *schema, const struct ArrowArray *array) {
    column->kind = schema->dictionary ? -1 : kind_of(schema->format);
    if (column->kind < 0) {
        return 0; /* before it is read: a column of another type may have fewer buffers */
    }
    /* Its own room, so that it is copied by the sixteen bytes. */
    column->label_length = snprintf((char *)column->label, LABEL, ",\"%s\":", schema->name);
    if (column->label_length >= LABEL) {
        return 0;
    }
    column->valid = array->buffers[0];
    column->offset = array->offset;
    column->values = array->buffers[1];
    if (column->kind == TEXT) {
        column->buffers = (const uint8_t *const *)array->buffers + 2;
    } else if (column->kind == TEXTS) {
        const struct ArrowArray *inner = array->children[0];
        if (kind_of(schema->children[0]->format) != TEXT) {
            return 0;
        }
        column->inner_valid = inner->buffers[0];
        column->inner_offset = inner->offset;
        column->inner = inner->buffers[1];
        column->buffers = (const uint8_t *const *)inner->buffers + 2;
    }
    return 1;
}

KERNEL_API void lines_close(lines_t *lines) {
    if (lines->frame.release) {
        lines->frame.release(&lines->frame);
    }
    if (lines->schema.release) {
        lines->schema.release(&lines->schema);
    }
    free(lines->items);
    free(lines);
}

/*
 * Takes the one frame of a stream, the first `first` of whose columns are the heads'; `in_order`: the elements of lists are to be. Close what it gives.
 * NULL when there is no frame, when a column is of a type that is for the libraries, or when there is no memory.
 */
KERNEL_API lines_t *lines_open(struct ArrowArrayStream *stream, int32_t first, int32_t in_order) {
    struct ArrowSchema schema = {0};
    if (stream->get_schema(stream, &schema)) {
        return NULL;
    }
    lines_t *lines = calloc(1, sizeof *lines + (size_t)schema.n_children * sizeof *lines->columns);
    if (lines == NULL) {
        schema.release(&schema);
        return NULL;
    }
    lines->schema = schema;
    lines->in_order = in_order;
    struct ArrowArray more = {0};
    if (stream->get_next(stream, &lines->frame) || lines->frame.release == NULL || stream->get_next(stream, &more)) {
        lines_close(lines);
        return NULL;
    }
    /* What the libraries give of a frame begins with its first row, and has no row that is null as a whole. */
    int of_types = more.release == NULL && lines->frame.offset == 0 && lines->frame.buffers[0] == NULL;
    if (more.release) {
        more.release(&more);
    }
    for (int32_t at = 0; of_types && at < schema.n_children; at++) {
        const struct ArrowArray *array = lines->frame.children[at];
        if (array->null_count == array->length) {
            continue;
        }
        of_types = describe(&lines->columns[lines->count++], schema.children[at], array);
        lines->first += at < first;
    }
    if (!of_types) {
        lines_close(lines);
        return NULL;
    }
    return lines;
}

/* Bytes of the lines, were nothing escaped. */
KERNEL_API int64_t lines_size(const lines_t *lines) {
    int64_t rows = lines->frame.length, size = 3 * rows;
    for (const column_t *column = lines->columns; column < lines->columns + lines->count; column++) {
        for (int64_t row = column->offset; row < column->offset + rows; row++) {
            if (!there(column->valid, row)) {
                continue;
            }
            size += column->label_length;
            if (column->kind == TEXT) {
                size += ((const view_t *)column->values)[row].length + 2;
            } else if (column->kind == TEXTS) {
                const int64_t *ends = (const int64_t *)column->values;
                size += 2;
                for (int64_t at = ends[row]; at < ends[row + 1]; at++) {
                    size += column->inner[column->inner_offset + at].length + 5;
                }
            } else {
                size += 30;
            }
        }
    }
    return size;
}

/* A value; NULL when it is for the libraries. There is room. */
static inline uint8_t *scalar(uint8_t *out, const column_t *column, int64_t here) {
    switch (column->kind) {
    case INT32:
        return integer(out, ((const int32_t *)column->values)[here]);
    case INT64:
        return integer(out, ((const int64_t *)column->values)[here]);
    case BOOLEAN:
        return bit((const uint8_t *)column->values, here) ? put(out, "true", 4) : put(out, "false", 5);
    case STAMP:
        return stamp(out, ((const int64_t *)column->values)[here]);
    default:
        return real(out, ((const double *)column->values)[here]);
    }
}

enum { DONE, MORE_ROOM, FOR_THE_LIBRARIES };

/*
 * The rows as lines, `*used` of the `room` bytes at `out`; `ends` and `heads` as in native/lines.py. MORE_ROOM: it might be too little.
 */
KERNEL_API int32_t lines_write(lines_t *lines, uint8_t *out, int64_t room, int64_t *ends, int64_t *heads, int64_t *used) {
    uint8_t *at = out;
    const uint8_t *stop = out + room;
    ends[0] = 0;
    for (int64_t row = 0; row < lines->frame.length; row++) {
        const uint8_t *begin = at;
        if (stop - at < ROOM) {
            return MORE_ROOM;
        }
        *at++ = '{';
        for (int32_t number = 0; number < lines->count; number++) {
            const column_t *column = &lines->columns[number];
            int64_t here = row + column->offset;
            if (number == lines->first) {
                heads[row] = at - begin + 1;
            }
            if (!there(column->valid, here)) {
                continue;
            }
            if (stop - at < LABEL + ROOM) {
                return MORE_ROOM;
            }
            int begins = !number;
            memcpy(at, column->label + begins, LABEL - 1);
            at += column->label_length - begins;
            if (column->kind == TEXT) {
                const view_t *view = (const view_t *)column->values + here;
                if (stop - at < 6 * (int64_t)view->length + ROOM) {
                    return MORE_ROOM;
                }
                at = text(at, view_bytes(view, column->buffers), view->length);
            } else if (column->kind == TEXTS) {
                const int64_t *bounds = (const int64_t *)column->values + here;
                if (stop - at < list_room(column, bounds[0], bounds[1])) {
                    return MORE_ROOM;
                }
                at = list(at, lines, column, bounds[0], bounds[1]);
            } else {
                at = scalar(at, column, here);
            }
            if (at == NULL) {
                return FOR_THE_LIBRARIES;
            }
        }
        if (lines->first == lines->count) {
            heads[row] = at - begin;
        }
        at = put(at, "}\n", 2);
        ends[row + 1] = *used = at - out;
    }
    return DONE;
}
