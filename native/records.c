/* JSON records to Arrow columns of the declared fields, in one pass over each record's bytes.

   Invariant: everything is decoded exactly as a correct reader would, or the whole block is refused; no byte outside a record is read, and nothing that
   is written outlives a refusal. What is not declared is held to the grammar (RFC 8259) all the same. Text is UTF-8 by the caller's word. */
#include "columns.h"

#include <float.h>
#include <math.h>

enum { INLINE = 12 }; /* bytes that stand in a view */

static inline void copy_text(uint8_t *to, const uint8_t *from, size_t size) {
#if defined(__SSE2__)
    if (likely(size >= 16 && size <= 128)) {
        for (size_t place = 0; place + 16 < size; place += 16)
            _mm_storeu_si128((__m128i *)(void *)(to + place), _mm_loadu_si128((const __m128i *)(const void *)(from + place)));
        _mm_storeu_si128((__m128i *)(void *)(to + size - 16), _mm_loadu_si128((const __m128i *)(const void *)(from + size - 16)));
        return;
    }
#endif
    memcpy(to, from, size);
}

static inline void inline_view(const reader_t *reader, view_t *view, const uint8_t *text, int32_t length) {
#if defined(__SSE2__)
    if (likely(reader->end - text >= 16)) {
        static const uint8_t ones_then_zeros[32] = {255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255};
        __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)text);
        bytes = _mm_and_si128(bytes, _mm_loadu_si128((const __m128i *)(const void *)(ones_then_zeros + 16 - length)));
        bytes = _mm_or_si128(_mm_slli_si128(bytes, 4), _mm_cvtsi32_si128(length));
        _mm_storeu_si128((__m128i *)(void *)view, bytes);
        return;
    }
#else
    (void)reader;
#endif
    memset(view, 0, sizeof *view);
    view->length = length;
    memcpy(view->as.inlined, text, (size_t)length);
}

/* A view of the last `length` bytes of the column's text, which leave it again where they stand in the view. */
static void view_last(column_t *column, view_t *view, int64_t length) {
    const uint8_t *text = column->text + column->text_bytes - length;
    memset(view, 0, sizeof *view);
    view->length = (int32_t)length;
    if (length <= INLINE) {
        if (length) memcpy(view->as.inlined, text, (size_t)length);
        column->text_bytes -= length;
    } else {
        memcpy(view->as.ref.prefix, text, 4);
        view->as.ref.offset = (int32_t)(column->text_bytes - length);
    }
}

static bool append(column_t *column, const uint8_t *text, size_t size) {
    if (!text_room(column, (int64_t)size)) return false;
    if (size) memcpy(column->text + column->text_bytes, text, size);
    column->text_bytes += (int64_t)size;
    return true;
}

static const uint8_t *escaped_text(const reader_t *reader, column_t *column, view_t *view, const uint8_t *p) {
    int64_t begun = column->text_bytes;
    for (;;) {
        const uint8_t *stop = plain_end(reader, p);
        if (!append(column, p, (size_t)(stop - p))) return NULL;
        p = stop;
        if (at(reader, p) == '"') break;
        uint8_t made[4];
        size_t size;
        if (at(reader, p) != '\\' || !(p = unescape(reader, p, made, &size)) || !append(column, made, size)) return NULL;
    }
    view_last(column, view, column->text_bytes - begun);
    return p + 1;
}

static inline const uint8_t *text(const reader_t *reader, column_t *column, int64_t row, const uint8_t *p) {
    if (*p != '"') return NULL;
    view_t *view = &column->values.views[row];
    const uint8_t *stop = plain_end(reader, ++p);
    uint8_t byte = at(reader, stop);
    if (unlikely(byte != '"')) return byte == '\\' ? escaped_text(reader, column, view, p) : NULL;
    int64_t length = stop - p;
    if (length <= INLINE) {
        inline_view(reader, view, p, (int32_t)length);
        return stop + 1;
    }
    if (unlikely(!text_room(column, length))) return NULL;
    copy_text(column->text + column->text_bytes, p, (size_t)length);
    view->length = (int32_t)length;
    memcpy(view->as.ref.prefix, p, 4);
    view->as.ref.buffer = 0;
    view->as.ref.offset = (int32_t)column->text_bytes;
    column->text_bytes += length;
    return stop + 1;
}

static inline bool begins_number(uint8_t byte) { return byte == '-' || digit(byte); }

static const uint8_t *integer(const reader_t *reader, int64_t *to, const uint8_t *p) {
    number_t found;
    if (!begins_number(*p) || !(p = number(reader, p, &found)) || !found.whole || found.cut) return NULL;
    if (found.mantissa > (uint64_t)INT64_MAX + found.negative) return NULL;
    *to = found.negative ? (int64_t)(0 - found.mantissa) : (int64_t)found.mantissa;
    return p;
}

static const double TENS[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                              1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

/* Exact numbers multiplied or divided once are rounded once (Clinger, "How to read floating point numbers accurately", 1990). */
static bool exact_real(const number_t *found, double *to) {
    if (FLT_EVAL_METHOD != 0 || found->cut || found->mantissa > (uint64_t)1 << 53) return false;
    if (found->exponent < -22 || found->exponent > 22) return false;
    double value = (double)found->mantissa;
    value = found->exponent < 0 ? value / TENS[-found->exponent] : value * TENS[found->exponent];
    *to = found->negative ? -value : value;
    return true;
}

static const uint8_t *real(const reader_t *reader, double *to, const uint8_t *p) {
    number_t found;
    const uint8_t *start = p;
    if (!begins_number(*p) || !(p = number(reader, p, &found))) return NULL;
    if (likely(exact_real(&found, to))) return p;
    char copy[NUMBER_BYTES + 1], *end;
    size_t size = (size_t)(p - start);
    memcpy(copy, start, size);
    copy[size] = 0;
    *to = strtod(copy, &end);
    /* A locale with another decimal point would stop at ours. */
    return end == copy + size && isfinite(*to) ? p : NULL;
}

static const uint8_t *boolean(const reader_t *reader, uint8_t *to, const uint8_t *p) {
    *to = *p == 't';
    if (*to) return literal(reader, p, "true", 4) ? p + 4 : NULL;
    return literal(reader, p, "false", 5) ? p + 5 : NULL;
}

static const uint8_t *value(reader_t *reader, column_t *column, int64_t row, const uint8_t *p);

static const uint8_t *list(reader_t *reader, column_t *column, int64_t row, const uint8_t *p) {
    if (*p != '[') return NULL;
    column_t *items = column->children;
    int32_t next = column->values.offsets[row];
    p = space(reader, p + 1);
    if (at(reader, p) == ']') {
        p++;
    } else {
        for (uint8_t after = ','; after != ']';) {
            if (next == INT32_MAX || !(p = value(reader, items, next++, space(reader, p)))) return NULL;
            p = space(reader, p);
            after = at(reader, p++);
            if (after != ',' && after != ']') return NULL;
        }
    }
    column->values.offsets[row + 1] = next;
    return p;
}

static const uint8_t *object(reader_t *reader, column_t *column, int64_t row, const uint8_t *p) {
    if (at(reader, p) != '{') return NULL;
    p = space(reader, p + 1);
    if (at(reader, p) == '}') return p + 1;
    int32_t before = 0;
    for (;;) {
        if (at(reader, p) != '"') return NULL;
        before = key(reader, &column->keys, (uint32_t)before, p + 1, &p);
        if (before < 0) return NULL;
        p = space(reader, p);
        if (at(reader, p) != ':') return NULL;
        p = space(reader, p + 1);
        int32_t field = column->keys.known[before].field;
        p = field < 0 ? skip(reader, p) : value(reader, &column->children[field], row, p);
        if (!p) return NULL;
        p = space(reader, p);
        uint8_t after = at(reader, p++);
        if (after == '}') return p;
        if (after != ',') return NULL;
        p = space(reader, p);
    }
}

static void no_value(column_t *column, int64_t row) {
    column->valid[row] = 0;
    switch (column->kind) {
    case TEXT: memset(&column->values.views[row], 0, sizeof(view_t)); break;
    case INTEGER: column->values.integers[row] = 0; break;
    case REAL: column->values.reals[row] = 0; break;
    case BOOLEAN: column->values.flags[row] = 0; break;
    case LIST: column->values.offsets[row + 1] = column->values.offsets[row]; break;
    default: break;
    }
}

/* Recursion goes no deeper than the declaration. */
static const uint8_t *value(reader_t *reader, column_t *column, int64_t row, const uint8_t *p) {
    if (unlikely(p >= reader->end) || !take(column, row)) return NULL;
    if (*p == 'n') {
        if (!literal(reader, p, "null", 4)) return NULL;
        no_value(column, row);
        return p + 4;
    }
    column->valid[row] = 1;
    switch (column->kind) {
    case TEXT: return text(reader, column, row, p);
    case INTEGER: return integer(reader, &column->values.integers[row], p);
    case REAL: return real(reader, &column->values.reals[row], p);
    case BOOLEAN: return boolean(reader, &column->values.flags[row], p);
    case LIST: return list(reader, column, row, p);
    default: return object(reader, column, row, p);
    }
}

static bool record(reader_t *reader, column_t *whole, int64_t row, const uint8_t *bytes, int32_t length) {
    reader->end = bytes + length;
    const uint8_t *p = length ? object(reader, whole, row, bytes) : NULL;
    return p && space(reader, p) == reader->end;
}

static bool read_all(column_t *whole, const view_t *views, const uint8_t *const *buffers, int64_t count) {
    reader_t reader = {0};
    bool good = true;
    for (int64_t row = 0; good && row < count; row++)
        good = take(whole, row) && record(&reader, whole, row, view_bytes(&views[row], buffers), views[row].length);
    free(reader.open);
    return good;
}

/* Decodes records (views of Arrow's binary view, none null) to an array for each of the plan's fields. 1; or 0, refused, and the arrays hold nothing. */
KERNEL_API int records_decode(const uint8_t *plan, int64_t plan_bytes, const view_t *views, const uint8_t *const *buffers, int64_t count,
                              struct ArrowArray *arrays) {
    column_t whole = {0};
    bool good = count >= 0 && count <= INT32_MAX && column_declare(&whole, plan, plan_bytes, count) && whole.kind == OBJECT;
    good = good && read_all(&whole, views, buffers, count) && column_finish(&whole, count) && column_hand_over(&whole, count, arrays);
    column_let_go(&whole);
    return good;
}
